//! The documents of corrections: an adjustment on the invoice that carries it, and a credit note.

use crate::correction::Correction;
use crate::document::{
    AdjustmentDocument, CorrectedDocument, Head, InvoiceDocument, LineDocument, TaxDocument, UsageSource, instant_text,
};
use crate::money::Money;

/// The kind of a credit note's document.
const CREDIT_NOTE: &str = "credit_note";

impl AdjustmentDocument {
    pub(super) fn of(correction: &Correction) -> Self {
        let totals = &correction.totals;
        Self {
            corrects: correction.invoice.clone(),
            period: correction.period.into(),
            cause: correction.cause.clone(),
            lines: lines(correction),
            subtotal: totals.subtotal.to_decimal_text(),
            volume_discount: totals.volume_discount.to_decimal_text(),
            coupons: totals.coupons.to_decimal_text(),
            net: totals.net.to_decimal_text(),
            tax: totals.tax.to_decimal_text(),
            total: totals.total.to_decimal_text(),
        }
    }
}

impl InvoiceDocument {
    /// The document of a credit note: the changes of the invoice it corrects, so amounts in the customer's favour are negative,
    /// and a discount that grows is positive.
    pub fn of_credit_note(correction: &Correction, customer: &str, head: Head) -> Self {
        let totals = &correction.totals;
        let currency = totals.total.currency();
        let zero = Money::zero(currency).to_decimal_text();
        Self {
            id: head.id,
            number: head.number,
            kind: CREDIT_NOTE.to_owned(),
            revision: head.revision,
            status: head.status,
            customer: customer.to_owned(),
            period: correction.period.into(),
            tax_point: correction.period.last().to_string(),
            issued_at: head.issued_at.map(instant_text),
            due_at: head.due_at.map(instant_text),
            paid_at: head.paid_at.map(instant_text),
            corrects: Some(CorrectedDocument { number: correction.invoice.clone(), reason: correction.cause.clone() }),
            seller: head.seller,
            buyer: head.buyer,
            rates: Vec::new(),
            order: Vec::new(),
            currency: currency.as_str().to_owned(),
            lines: lines(correction),
            subtotal: totals.subtotal.to_decimal_text(),
            deductions: Vec::new(),
            volume_discount: totals.volume_discount.to_decimal_text(),
            coupons: totals.coupons.to_decimal_text(),
            net: totals.net.to_decimal_text(),
            taxes: correction.taxes.iter().map(TaxDocument::of).collect(),
            tax: totals.tax.to_decimal_text(),
            tax_rate: None,
            total: totals.total.to_decimal_text(),
            adjustments: Vec::new(),
            payable: totals.total.to_decimal_text(),
            prepaid_credit: zero.clone(),
            due: zero,
            usage_source: UsageSource::of(head.source_class, &[]),
            evidence: head.evidence,
            notes: head.notes,
        }
    }

    /// Whether this is a credit note.
    pub fn is_credit_note(&self) -> bool {
        self.kind == CREDIT_NOTE
    }
}

fn lines(correction: &Correction) -> Vec<LineDocument> {
    (1..).zip(&correction.lines).map(|(position, line)| LineDocument::of_correction(position, line)).collect()
}
