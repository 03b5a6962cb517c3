//! An invoice or credit note as people and programs read it: the one model behind text, PDF, HTML, JSON, CSV and the API.
//!
//! Money is decimal text with all minor digits, quantities and rates are decimal text, instants are RFC 3339 in UTC. Nothing is
//! added up here, and nothing may be added up behind it: what a reader shows stands in the document.

mod lines;
mod of_correction;
mod of_invoice;
mod source;

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

pub use self::lines::{LineDocument, ReductionDocument, StepDocument, WindowsDocument};
pub use self::of_invoice::Head;
pub use self::source::{Evidence, SourceClass, UsageSource};
use crate::currency::Currency;
use crate::days::Days;
use crate::fraction::Fraction;
use crate::rate_card::RateCard;

/// Places behind the point a quantity shows; its exact value stands beside it.
const QUANTITY_PLACES_MAX: usize = 12;

/// A seller or a buyer as named on the invoice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Party {
    /// The name.
    pub name: String,
    /// The address, in lines.
    pub address: String,
    /// The tax number, or nothing.
    pub tax_id: String,
}

/// An invoice, issued or only previewed, or a credit note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct InvoiceDocument {
    /// The stored invoice's id; none in a preview.
    pub id: Option<String>,
    /// The number; none in a preview.
    pub number: Option<String>,
    /// `monthly`, `final`, `prepayment`, `adjustment` or `credit_note`.
    pub kind: String,
    /// Counts the invoices of one kind and period, from 1.
    pub revision: i32,
    /// `draft` in a preview, else `issued`, `paid` or `overdue`.
    pub status: String,
    /// The customer's id.
    pub customer: String,
    /// What is billed.
    pub period: PeriodDocument,
    /// When the supply counts as made, by tax law: a day.
    pub tax_point: String,
    /// When it was issued.
    pub issued_at: Option<String>,
    /// The last second in which it is paid in time.
    pub due_at: Option<String>,
    /// When it was paid.
    pub paid_at: Option<String>,
    /// What a credit note corrects.
    pub corrects: Option<CorrectedDocument>,
    /// Who bills, as of the issue.
    pub seller: Party,
    /// Who is billed, as of the issue.
    pub buyer: Party,
    /// The rate cards, as of the issue, each with the days it held for.
    pub rates: Vec<RatesDocument>,
    /// The order of the arithmetic.
    pub order: Vec<String>,
    /// The code of ISO 4217 of every amount.
    pub currency: String,
    /// What is charged; on a credit note, what changes.
    pub lines: Vec<LineDocument>,
    /// The sum of the lines.
    pub subtotal: String,
    /// Discounts and coupons, in the order in which they are taken off.
    pub deductions: Vec<DeductionDocument>,
    /// What volume discounts take off altogether.
    pub volume_discount: String,
    /// What coupons take off altogether.
    pub coupons: String,
    /// What is taxed.
    pub net: String,
    /// The tax box: the taxes by rate.
    pub taxes: Vec<TaxDocument>,
    /// The sum of the taxes.
    pub tax: String,
    /// The tax rate, where there is only one: `0.08`.
    pub tax_rate: Option<String>,
    /// Net and tax.
    pub total: String,
    /// Late usage of earlier periods that this invoice carries beside its total.
    pub adjustments: Vec<AdjustmentDocument>,
    /// The total with the adjustments.
    pub payable: String,
    /// What is paid from prepaid credit.
    pub prepaid_credit: String,
    /// What is left to pay; on a credit note nothing.
    pub due: String,
    /// How far the usage is proven.
    pub usage_source: UsageSource,
    /// What the usage is proven by; none where nothing was closed.
    pub evidence: Option<Evidence>,
    /// Sentences that must stand on the invoice: terms of payment, reasons for no tax.
    pub notes: Vec<String>,
}

/// Some days, half-open in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PeriodDocument {
    /// The first day.
    pub start: String,
    /// The first day no longer among them.
    pub end: String,
}

/// A rate card and the days it held for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RatesDocument {
    /// The days.
    pub days: PeriodDocument,
    /// The card, in the form of a rate card file.
    #[cfg_attr(feature = "schema", schema(value_type = Object))]
    pub card: RateCard,
}

/// What a credit note corrects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CorrectedDocument {
    /// The number of the invoice.
    pub number: String,
    /// Why.
    pub reason: String,
}

/// A discount or coupon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DeductionDocument {
    /// `volume discount`, `percent coupons` or `fixed coupons`.
    pub kind: String,
    /// The coupon's code.
    pub code: Option<String>,
    /// The deduction in words.
    pub description: String,
    /// What was left when its turn came.
    pub basis: String,
    /// The share of it that is taken off: `0.05`.
    pub rate: Option<String>,
    /// What is taken off, as a positive amount.
    pub amount: String,
}

/// The tax of what has the same rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TaxDocument {
    /// The tax's name: `MWST`.
    pub name: String,
    /// Where: `CH`; empty where the rate is the customer's own.
    pub jurisdiction: String,
    /// For what, where the rate is not the general one.
    pub category: Option<String>,
    /// The rate: `0.081`.
    pub rate: String,
    /// Why there is none.
    pub exemption: Option<String>,
    /// What of the net it is on.
    pub basis: String,
    /// The tax.
    pub amount: String,
}

/// Late usage of an earlier period that an invoice carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AdjustmentDocument {
    /// The number of the invoice of that period.
    pub corrects: String,
    /// The period.
    pub period: PeriodDocument,
    /// Why.
    pub cause: String,
    /// The lines that change.
    pub lines: Vec<LineDocument>,
    /// By how much the sum of the lines changes.
    pub subtotal: String,
    /// By how much the volume discount changes; positive where it grows.
    pub volume_discount: String,
    /// By how much the coupons change; positive where they take off more.
    pub coupons: String,
    /// By how much the net changes.
    pub net: String,
    /// By how much the tax changes.
    pub tax: String,
    /// By how much the total changes.
    pub total: String,
}

/// An invoice in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceSummary {
    /// The stored invoice's id.
    pub id: String,
    /// The number.
    pub number: String,
    /// What it is for: `monthly`.
    pub kind: String,
    /// Counts the invoices of one kind and period, from 1.
    pub revision: i32,
    /// `issued`, `paid` or `overdue`.
    pub status: String,
    /// The customer's id.
    pub customer: String,
    /// What is billed.
    pub period: PeriodDocument,
    /// The code of ISO 4217.
    pub currency: String,
    /// Its own total.
    pub total: String,
    /// What is to be paid: the total with the late usage of other periods that it carries.
    pub payable: String,
    /// When it was issued.
    pub issued_at: String,
    /// The last second in which it is paid in time.
    pub due_at: String,
}

impl From<Days> for PeriodDocument {
    fn from(days: Days) -> Self {
        Self { start: days.start().to_string(), end: days.end().to_string() }
    }
}

/// The revision of the first invoice of a kind and period.
pub(crate) const FIRST_REVISION: i32 = 1;

/// An instant as documents write it.
pub(crate) fn instant_text(instant: DateTime<Utc>) -> String {
    Timestamp::from(instant).to_string()
}

/// A quantity for reading.
pub(crate) fn quantity_text(exact: &Fraction) -> String {
    exact.to_decimal_text(QUANTITY_PLACES_MAX)
}

/// A price with at least the currency's places: `2000.00`, `0.0000002`.
pub(crate) fn price_text(price: Decimal, currency: Currency) -> String {
    let mut price = price.normalize();
    if price.scale() < currency.minor_digits() {
        price.rescale(currency.minor_digits());
    }
    price.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_has_at_least_the_places_of_its_currency() {
        for (price, text) in
            [("2000", "2000.00"), ("0.030000", "0.03"), ("0.000000150000", "0.00000015"), ("0", "0.00")]
        {
            assert_eq!(price_text(price.parse().unwrap(), Currency::Usd), text);
        }
    }
}
