//! The document of an invoice.

use chrono::{DateTime, Utc};

use crate::document::{
    AdjustmentDocument, DeductionDocument, Evidence, FIRST_REVISION, InvoiceDocument, LineDocument, Party,
    RatesDocument, SourceClass, TaxDocument, UsageSource, instant_text,
};
use crate::invoice::{Invoice, InvoiceKind, Taken, TaxLine};
use crate::money::Money;
use crate::terms::Terms;

/// What an invoice says beside its figures: who, when, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The stored invoice's id.
    pub id: Option<String>,
    /// The number.
    pub number: Option<String>,
    /// Counts the invoices of one kind and period, from 1.
    pub revision: i32,
    /// `draft`, `issued`, `paid`, `overdue` or `cancelled`.
    pub status: String,
    /// When it was issued.
    pub issued_at: Option<DateTime<Utc>>,
    /// The last second in which it is paid in time.
    pub due_at: Option<DateTime<Utc>>,
    /// When it was paid.
    pub paid_at: Option<DateTime<Utc>>,
    /// Who bills.
    pub seller: Party,
    /// Who is billed.
    pub buyer: Party,
    /// How far the usage is proven.
    pub source_class: SourceClass,
    /// What it is proven by.
    pub evidence: Option<Evidence>,
    /// Further sentences that must stand on the invoice.
    pub notes: Vec<String>,
}

impl Head {
    /// Of a preview: no number, no dates.
    pub fn preview(seller: Party, buyer: Party) -> Self {
        Self {
            id: None,
            number: None,
            revision: FIRST_REVISION,
            status: "draft".to_owned(),
            issued_at: None,
            due_at: None,
            paid_at: None,
            seller,
            buyer,
            source_class: SourceClass::BestEffort,
            evidence: None,
            notes: Vec::new(),
        }
    }
}

impl InvoiceDocument {
    /// The document of an invoice. `terms` are those it was drafted from; `None` of a kind that has no month's.
    pub fn of(invoice: &Invoice, terms: Option<&Terms>, head: Head) -> Self {
        let lines = (1..).zip(&invoice.lines).enumerate();
        let line = |(index, (position, line))| {
            LineDocument::of(position, line, invoice.line_nets.get::<usize>(index).copied())
        };
        let rates = terms.into_iter().flat_map(|terms| &terms.stretches);
        let totals = &invoice.totals;
        let exemption = |tax: &TaxLine| {
            let reason = tax.rate.exemption.as_ref()?;
            let of = tax.rate.category.as_ref().map(|category| format!(" on {category}")).unwrap_or_default();
            Some(format!("No tax is charged{of}: {reason}."))
        };
        let mut notes: Vec<String> = invoice.taxes.iter().filter_map(exemption).collect();
        notes.extend(head.notes);
        Self {
            id: head.id,
            number: head.number,
            kind: invoice.kind.as_str().to_owned(),
            revision: head.revision,
            status: head.status,
            customer: invoice.customer.clone(),
            period: invoice.period.into(),
            tax_point: invoice.tax_point.to_string(),
            issued_at: head.issued_at.map(instant_text),
            due_at: head.due_at.map(instant_text),
            paid_at: head.paid_at.map(instant_text),
            corrects: None,
            seller: head.seller,
            buyer: head.buyer,
            rates: rates
                .map(|stretch| RatesDocument { days: stretch.days.into(), card: stretch.card.clone() })
                .collect(),
            order: invoice.order.clone(),
            currency: invoice.currency.as_str().to_owned(),
            lines: lines.map(line).collect(),
            subtotal: totals.subtotal.to_decimal_text(),
            deductions: invoice.taken.iter().map(DeductionDocument::of).collect(),
            volume_discount: totals.volume_discount.to_decimal_text(),
            coupons: totals.coupons.to_decimal_text(),
            net: totals.net.to_decimal_text(),
            taxes: invoice.taxes.iter().map(TaxDocument::of).collect(),
            tax: totals.tax.to_decimal_text(),
            tax_rate: invoice.tax_rate().map(|rate| rate.decimal().to_string()),
            total: totals.total.to_decimal_text(),
            adjustments: invoice.settlement.adjustments.iter().map(AdjustmentDocument::of).collect(),
            payable: invoice.settlement.payable.to_decimal_text(),
            prepaid_credit: invoice.settlement.credit.to_decimal_text(),
            due: invoice.settlement.due.to_decimal_text(),
            usage_source: match invoice.kind {
                InvoiceKind::Prepayment => UsageSource::none(head.source_class),
                _ => UsageSource::of(head.source_class, &invoice.meters_without_usage),
            },
            evidence: head.evidence,
            notes,
        }
    }
}

impl DeductionDocument {
    fn of(taken: &Taken) -> Self {
        Self {
            kind: taken.deduction.clone(),
            code: taken.code.clone(),
            description: taken.description.clone(),
            basis: taken.basis.to_decimal_text(),
            rate: taken.rate.map(|rate| rate.decimal().to_string()),
            amount: taken.amount.to_decimal_text(),
        }
    }
}

impl TaxDocument {
    pub(super) fn of(tax: &TaxLine) -> Self {
        Self {
            name: tax.rate.name.clone(),
            jurisdiction: tax.rate.jurisdiction.clone(),
            category: tax.rate.category.clone(),
            rate: tax.rate.rate.decimal().to_string(),
            exemption: tax.rate.exemption.clone(),
            basis: Money::to_decimal_text(tax.basis),
            amount: Money::to_decimal_text(tax.amount),
        }
    }
}
