//! An invoice as people and programs read it: the one model behind JSON, the API and the printed table.
//!
//! Money is decimal text with all minor digits, quantities and rates are decimal text, instants are RFC 3339 in UTC.

use ingest::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::fraction::Fraction;
use crate::invoice::Draft;
use crate::money::Currency;
use crate::rate_card::RateCard;
use crate::rating::Line;

/// Places behind the point a quantity shows; its exact value stands beside it.
const QUANTITY_PLACES_MAX: usize = 12;

/// A seller or a buyer as named on the invoice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The name.
    pub name: String,
    /// The address, in lines.
    pub address: String,
    /// The tax number, or nothing.
    pub tax_id: String,
}

/// How far the usage behind an invoice is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceClass {
    /// Nothing says what should have arrived.
    BestEffort,
}

impl SourceClass {
    /// The name used in SQL and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "best effort",
        }
    }

    /// The sentence on the invoice.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::BestEffort => {
                "The usage comes from best-effort sources: it is what had arrived when this invoice was made, and no close \
                 proves that nothing was missing."
            }
        }
    }
}

/// The order of the arithmetic, as shown on the invoice.
pub const ORDER: [&str; 6] = ["lines", "subtotal", "volume discount", "net", "tax", "total"];

/// An invoice, issued or only previewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceDocument {
    /// The stored invoice's id; none in a preview.
    pub id: Option<String>,
    /// The number; none in a preview.
    pub number: Option<String>,
    /// `monthly`.
    pub kind: String,
    /// Counts the invoices of one kind and period, from 1.
    pub revision: i32,
    /// `draft` in a preview, else `issued`, `paid` or `overdue`.
    pub status: String,
    /// The customer's id.
    pub customer: String,
    /// What is billed.
    pub period: PeriodDocument,
    /// When it was issued.
    pub issued_at: Option<String>,
    /// The last second in which it is paid in time.
    pub due_at: Option<String>,
    /// When it was paid.
    pub paid_at: Option<String>,
    /// Who bills, as of the issue.
    pub seller: Party,
    /// Who is billed, as of the issue.
    pub buyer: Party,
    /// The rates, as of the issue.
    pub rates: Rates,
    /// The code of ISO 4217 of every amount.
    pub currency: String,
    /// What is charged.
    pub lines: Vec<LineDocument>,
    /// The sum of the lines.
    pub subtotal: String,
    /// What is taken off the subtotal.
    pub volume_discount: String,
    /// What is taxed.
    pub net: String,
    /// The tax on the net amount.
    pub tax: String,
    /// The tax rate: `0.08`.
    pub tax_rate: String,
    /// What is to be paid.
    pub total: String,
    /// How far the usage is proven.
    pub usage_source: UsageSource,
}

/// The billed month, half-open in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeriodDocument {
    /// The first day.
    pub start: String,
    /// The first day no longer billed.
    pub end: String,
}

/// The prices an invoice was rated with, kept with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// The tier.
    pub tier: String,
    /// The version of the tier's rate card.
    pub rate_card_version: i32,
    /// The fee of a whole month.
    pub base_fee: String,
    /// The subtotal that must be exceeded for the volume discount.
    pub volume_discount_threshold: String,
    /// The volume discount's share of the subtotal.
    pub volume_discount_rate: String,
    /// The order of the arithmetic.
    pub order: Vec<String>,
    /// The unit prices.
    pub prices: Vec<PriceDocument>,
}

/// A unit price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceDocument {
    /// What is counted.
    pub meter: String,
    /// The unit.
    pub unit: String,
    /// Counts, bytes, or bytes stored for the whole month, of which that many make one unit.
    pub raw_units_per_unit: String,
    /// The price of one unit.
    pub unit_price: String,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineDocument {
    /// The place in the invoice, from 1.
    pub position: i32,
    /// `base_fee` or `usage`.
    pub kind: String,
    /// What is counted, on a usage line.
    pub meter: Option<String>,
    /// The line in words.
    pub description: String,
    /// The quantity; cut off after 12 places where it does not end before.
    pub quantity: String,
    /// The exact quantity's dividend: what was counted, in raw units.
    pub quantity_raw: String,
    /// The exact quantity's divisor: how many raw units make one unit.
    pub quantity_raw_per_unit: String,
    /// The unit.
    pub unit: String,
    /// The price of one unit.
    pub unit_price: String,
    /// The exact amount before rounding, in minor units: a whole number or a fraction `a/b`.
    pub exact_minor: String,
    /// What is charged.
    pub amount: String,
}

/// How far the usage is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageSource {
    /// `best effort`.
    pub class: String,
    /// The same in a sentence.
    pub sentence: String,
    /// Priced meters that reported nothing in the period; nothing was charged for them.
    pub meters_without_usage: Vec<String>,
}

/// An invoice in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceSummary {
    /// The stored invoice's id.
    pub id: String,
    /// The number.
    pub number: String,
    /// `monthly`.
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
    /// What is to be paid.
    pub total: String,
    /// When it was issued.
    pub issued_at: String,
    /// The last second in which it is paid in time.
    pub due_at: String,
}

impl Rates {
    /// The prices of a rate card.
    pub fn of(card: &RateCard) -> Self {
        let price = |meter: ingest::Meter| {
            card.price(meter).map(|price| PriceDocument {
                meter: meter.as_str().to_owned(),
                unit: price.unit.clone(),
                raw_units_per_unit: price.raw_units_per_unit.to_string(),
                unit_price: price_text(price.unit_price.decimal(), card.currency()),
            })
        };
        Self {
            tier: card.tier().as_str().to_owned(),
            rate_card_version: card.version(),
            base_fee: card.base_fee().to_decimal_text(),
            volume_discount_threshold: card.discount_threshold().to_decimal_text(),
            volume_discount_rate: card.discount_rate().decimal().to_string(),
            order: ORDER.map(str::to_owned).to_vec(),
            prices: ingest::Meter::PRICED.into_iter().filter_map(price).collect(),
        }
    }
}

impl LineDocument {
    /// A line at its place, from 1.
    pub fn of(position: i32, line: &Line) -> Self {
        Self {
            position,
            kind: line.kind.as_str().to_owned(),
            meter: line.meter.map(|meter| meter.as_str().to_owned()),
            description: line.description.clone(),
            quantity: quantity_text(line.quantity.exact()),
            quantity_raw: line.quantity.raw().to_string(),
            quantity_raw_per_unit: line.quantity.raw_per_unit().to_string(),
            unit: line.unit.clone(),
            unit_price: price_text(line.unit_price, line.amount.currency()),
            exact_minor: line.exact_minor.to_string(),
            amount: line.amount.to_decimal_text(),
        }
    }
}

/// A quantity for reading.
pub(crate) fn quantity_text(exact: Fraction) -> String {
    exact.to_decimal_text(QUANTITY_PLACES_MAX)
}

impl UsageSource {
    /// The class, its sentence, and the meters that reported nothing.
    pub(crate) fn of(class: SourceClass, meters_without_usage: Vec<String>) -> Self {
        Self { class: class.as_str().to_owned(), sentence: class.sentence().to_owned(), meters_without_usage }
    }
}

impl InvoiceDocument {
    /// What an invoice would say if it were issued now: no number, no dates.
    pub fn preview(draft: &Draft, card: &RateCard, customer: &str, seller: Party, buyer: Party) -> Self {
        let lines = (1..).zip(&draft.lines).map(|(position, line)| LineDocument::of(position, line)).collect();
        let without_usage = draft.meters_without_usage.iter().map(|meter| meter.as_str().to_owned()).collect();
        Self {
            id: None,
            number: None,
            kind: MONTHLY.to_owned(),
            revision: FIRST_REVISION,
            status: "draft".to_owned(),
            customer: customer.to_owned(),
            period: PeriodDocument {
                start: draft.month.first_day().to_string(),
                end: draft.month.end_day().to_string(),
            },
            issued_at: None,
            due_at: None,
            paid_at: None,
            seller,
            buyer,
            rates: Rates::of(card),
            currency: card.currency().as_str().to_owned(),
            lines,
            subtotal: draft.totals.subtotal.to_decimal_text(),
            volume_discount: draft.totals.discount.to_decimal_text(),
            net: draft.totals.net.to_decimal_text(),
            tax: draft.totals.tax.to_decimal_text(),
            tax_rate: draft.tax_rate.decimal().to_string(),
            total: draft.totals.total.to_decimal_text(),
            usage_source: UsageSource::of(SourceClass::BestEffort, without_usage),
        }
    }
}

/// The kind of the invoice of a month.
pub(crate) const MONTHLY: &str = "monthly";

/// The revision of the first invoice of a kind and period.
pub(crate) const FIRST_REVISION: i32 = 1;

/// An instant as documents write it.
pub(crate) fn instant_text(instant: chrono::DateTime<chrono::Utc>) -> String {
    Timestamp::from(instant).to_string()
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
