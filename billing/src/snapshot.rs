//! What is kept of the world at the moment of issue: enough to show the invoice for ever, and to count its period again.

use serde::{Deserialize, Serialize};

use crate::correction::Correction;
use crate::document::{Evidence, Party};
use crate::invoice::Invoice;
use crate::terms::{PrepaidFee, Terms};

/// Of an invoice.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Who bills.
    pub(crate) seller: Party,
    /// Who is billed.
    pub(crate) buyer: Party,
    /// What it was rated by; none of a kind that has no month's.
    pub(crate) terms: Option<Terms>,
    /// Every figure.
    pub(crate) invoice: Invoice,
    /// The close it was rated from; none of a kind without usage.
    pub(crate) evidence: Option<Evidence>,
    /// What a prepayment covers; its invoice's number stands in the row.
    pub(crate) covers: Option<PrepaidFee>,
}

/// Of a credit note.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CreditSnapshot {
    /// Who credits: as on the invoice.
    pub(crate) seller: Party,
    /// Who is credited: as on the invoice.
    pub(crate) buyer: Party,
    /// What is taken back, as a change: amounts in the customer's favour are negative.
    pub(crate) correction: Correction,
    /// The newer close; none where nothing was counted again.
    pub(crate) evidence: Option<Evidence>,
    /// How far the usage it goes by is proven: `proven`, `reconciled` or `best effort`.
    pub(crate) source_class: String,
}
