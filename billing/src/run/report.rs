//! What a run did.

use std::collections::BTreeMap;

use aggregator::directory::CustomerId;

use crate::currency::Currency;
use crate::money::Money;
use crate::period::Month;

/// What a run did, customer by customer in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// The run's number.
    pub run_id: i64,
    /// The month.
    pub period: Month,
    /// What happened to each customer that was billed so far, by this process or another one of the same run.
    pub results: Vec<CustomerResult>,
    /// Whether nobody waits any more.
    pub is_finished: bool,
}

/// What a run did for one customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerResult {
    /// Who.
    pub customer: CustomerId,
    /// What.
    pub outcome: Outcome,
    /// How many credit notes for late usage the run issued to the customer.
    pub credit_notes: i32,
    /// What they took back, in minor units of the customer's currency.
    pub credited_minor: i64,
}

/// An invoice that a run issued or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BilledInvoice {
    /// Its id.
    pub id: String,
    /// Its number; none of a draft.
    pub number: Option<String>,
    /// Its own total, without adjustments it carries and before prepaid credit.
    pub total: Money,
}

/// What a run did for one customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This run issued the invoice.
    Issued(BilledInvoice),
    /// The invoice was issued before, and stays.
    AlreadyIssued(BilledInvoice),
    /// A draft waits for the close of the period, or for the end of the grace.
    Waiting {
        /// For what.
        reason: String,
        /// The draft.
        draft: BilledInvoice,
    },
    /// The grace has ended without a close: the draft stays, and somebody has to look.
    Unproven {
        /// What is missing.
        reason: String,
        /// The draft.
        draft: BilledInvoice,
    },
    /// No day of the month is under contract; there is nothing to bill.
    NotUnderContract,
    /// The draft of the period was discarded; it is billed again only when that is asked for.
    Voided,
    /// The invoice of the period was credited whole and not reissued.
    Credited,
    /// Nothing was written for this customer.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// The name used in SQL, JSON and on the command line.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Issued(_) => "issued",
            Self::AlreadyIssued(_) => "already_issued",
            Self::Waiting { .. } => "waiting",
            Self::Unproven { .. } => "unproven",
            Self::NotUnderContract => "not_under_contract",
            Self::Voided => "voided",
            Self::Credited => "credited",
            Self::Failed { .. } => "failed",
        }
    }

    /// The invoice or draft.
    pub fn billed(&self) -> Option<&BilledInvoice> {
        match self {
            Self::Issued(invoice) | Self::AlreadyIssued(invoice) => Some(invoice),
            Self::Waiting { draft, .. } | Self::Unproven { draft, .. } => Some(draft),
            _ => None,
        }
    }

    /// Why nothing was issued.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Waiting { reason, .. } | Self::Unproven { reason, .. } | Self::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    /// Whether somebody has to look.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Unproven { .. })
    }

    /// Reads a row back; `None` where it is none of ours.
    pub(super) fn of_row(name: &str, reason: Option<String>, invoice: Option<BilledInvoice>) -> Option<Self> {
        Some(match name {
            "issued" => Self::Issued(invoice?),
            "already_issued" => Self::AlreadyIssued(invoice?),
            "waiting" => Self::Waiting { reason: reason?, draft: invoice? },
            "unproven" => Self::Unproven { reason: reason?, draft: invoice? },
            "not_under_contract" => Self::NotUnderContract,
            "voided" => Self::Voided,
            "credited" => Self::Credited,
            "failed" => Self::Failed { reason: reason? },
            _ => return None,
        })
    }
}

impl RunReport {
    /// How many customers failed, or are unproven after the grace.
    pub fn failures(&self) -> usize {
        self.results.iter().filter(|result| result.outcome.is_trouble()).count()
    }

    /// How many invoices this run issued.
    pub fn issued(&self) -> usize {
        self.results.iter().filter(|result| matches!(result.outcome, Outcome::Issued(_))).count()
    }

    /// How many customers had each outcome, by its name.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for result in &self.results {
            *counts.entry(result.outcome.as_str()).or_default() += 1;
        }
        counts
    }

    /// The totals of the invoices that this run issued, by currency.
    pub fn totals(&self) -> Vec<Money> {
        let mut sums = BTreeMap::<Currency, i64>::new();
        for result in &self.results {
            if let Outcome::Issued(invoice) = &result.outcome {
                let sum = sums.entry(invoice.total.currency()).or_default();
                *sum = sum.saturating_add(invoice.total.minor());
            }
        }
        sums.into_iter().map(|(currency, minor)| Money::from_minor(minor, currency)).collect()
    }

    /// How many credit notes for late usage the run issued.
    pub fn credit_notes(&self) -> i64 {
        self.results.iter().map(|result| i64::from(result.credit_notes)).sum()
    }
}
