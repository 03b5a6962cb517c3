//! Prices in force for a period: checked rate cards, as data.
//!
//! A card comes from a TOML file (`file`), is checked rule by rule (`check`) and against its neighbours (`set`), and is kept in
//! the database (`stored`). What is checked once is trusted afterwards: nothing here can be built around the rules.

pub(crate) mod check;
pub(crate) mod file;
pub(crate) mod loading;
pub(crate) mod rows;
pub(crate) mod set;

use std::fmt;

use chrono::{Months, NaiveDate};
use ingest::{Meter, Meters, RawUnit};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::currency::Currency;
use crate::days::Days;
use crate::money::Money;
use crate::price::{Charge, PriceModel, allowance};
use crate::quantity::Aggregation;
use crate::rate_card::file::CardFile;
use crate::share::Share;
use crate::tier::Tier;

/// The tax category of what names none.
pub const STANDARD_TAX_CATEGORY: &str = "standard";

/// The prices of a tier, or of one customer's contract in it, in force from a day on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CardFile", into = "CardFile")]
pub struct RateCard {
    pub(crate) tier: Tier,
    pub(crate) customer: Option<String>,
    pub(crate) version: i32,
    pub(crate) currency: Currency,
    pub(crate) valid_from: NaiveDate,
    pub(crate) valid_to: Option<NaiveDate>,
    pub(crate) order: Order,
    pub(crate) fees: Vec<Fee>,
    pub(crate) prices: Vec<MeterPrice>,
    pub(crate) commitment: Option<Commitment>,
    pub(crate) volume_discount: Option<VolumeDiscount>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) annual_prepayment: Option<AnnualPrepayment>,
}

/// A fee that does not depend on usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fee {
    /// Its name within the card.
    pub id: String,
    /// When it is charged.
    pub kind: FeeKind,
    /// Its words on the invoice.
    pub description: String,
    /// The fee of a whole month, or the whole one-off fee.
    pub amount: Money,
    /// Which tax rate holds for it.
    pub tax_category: String,
}

/// When a fee is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeeKind {
    /// Each month, for the tier; prorated by day.
    Base,
    /// Each month, beside the base fee; prorated by day.
    Recurring,
    /// Once, whole, on the first day of the contract.
    OnceAtStart,
    /// Once, whole, on this day.
    OnceOn(NaiveDate),
}

/// What a meter costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterPrice {
    /// What is counted.
    pub meter: Meter,
    /// The words on the invoice; the meter's own without.
    pub description: Option<String>,
    /// The unit's name on the invoice: `GB-month`.
    pub unit: String,
    /// How many counts, bytes, or bytes stored for the whole month make one unit.
    pub raw_units_per_unit: i64,
    /// What the meter's usage rows are in.
    pub raw_unit: RawUnit,
    /// How windows become a quantity.
    pub aggregation: Aggregation,
    /// Units that cost nothing.
    pub included: Decimal,
    /// What the others cost.
    pub model: PriceModel,
    /// Which tax rate holds for it.
    pub tax_category: String,
}

/// The least that a month's lines come to; what is missing is charged as one more line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// For a whole month; prorated by day.
    pub amount: Money,
    /// Which lines count towards it.
    pub counts: Vec<Selector>,
    /// The words on the invoice.
    pub description: String,
    /// Which tax rate holds for what is missing.
    pub tax_category: String,
}

/// The subtotal that must be exceeded, and the share of it that is then taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeDiscount {
    /// A subtotal of exactly this much has no discount.
    pub threshold: Money,
    /// The share of the whole subtotal.
    pub rate: Share,
}

/// A time in which lines cost less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its words on the invoice.
    pub description: String,
    /// The share that is taken off.
    pub off: Share,
    /// Off which lines.
    pub applies_to: Vec<Selector>,
    /// When.
    pub span: Span,
}

/// When a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// So many calendar months from the first day of the contract on.
    FirstMonths(u32),
    /// On these days, whenever the contract began.
    Days(Days),
}

/// Paying a fee for twelve months at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnualPrepayment {
    /// Which fee.
    pub fee: String,
    /// The share that is taken off.
    pub off: Share,
}

/// Some of an invoice's lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Selector {
    /// All fees.
    Fees,
    /// The usage of all meters.
    Usage,
    /// One fee by its name, or one meter's usage.
    Item(String),
}

/// What is taken off between subtotal and net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deduction {
    /// A share of what is left, when that exceeds the threshold.
    VolumeDiscount,
    /// Shares of what is left, one after the other.
    PercentCoupons,
    /// Amounts, at most what is left.
    FixedCoupons,
}

/// The order of the arithmetic, declared on a card and shown on its invoices.
///
/// Lines, true-up and subtotal always come first; net, tax, total, adjustments, prepaid credit and the amount due last, because
/// credit must never lower tax. A card declares in which order discount and coupons are taken off between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub(crate) deductions: [Deduction; 3],
}

impl Default for Order {
    fn default() -> Self {
        Self { deductions: [Deduction::VolumeDiscount, Deduction::PercentCoupons, Deduction::FixedCoupons] }
    }
}

impl Order {
    pub(crate) const FIRST: [&'static str; 3] = ["lines", "commitment true-up", "subtotal"];
    pub(crate) const LAST: [&'static str; 6] = ["net", "tax", "total", "adjustments", "prepaid credit", "due"];

    /// The steps by their names.
    pub fn names(self) -> Vec<&'static str> {
        let deductions = self.deductions.map(Deduction::as_str);
        Self::FIRST.into_iter().chain(deductions).chain(Self::LAST).collect()
    }
}

impl Deduction {
    pub(crate) const ALL: [Self; 3] = [Self::VolumeDiscount, Self::PercentCoupons, Self::FixedCoupons];

    /// The name used in rate cards and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VolumeDiscount => "volume discount",
            Self::PercentCoupons => "percent coupons",
            Self::FixedCoupons => "fixed coupons",
        }
    }
}

impl FeeKind {
    /// Whether it is charged for each day of the month.
    pub fn is_monthly(self) -> bool {
        matches!(self, Self::Base | Self::Recurring)
    }
}

impl MeterPrice {
    /// What a quantity of units costs.
    pub(crate) fn charge(&self, units: &crate::fraction::Fraction) -> Option<Charge> {
        allowance::charge(self.included, &self.model, units)
    }

    /// Whether the charge is for the whole month, so that part of a month costs part of it: a peak is a level, and a flat amount
    /// a fee. Other usage lies in its windows and is never prorated.
    pub(crate) fn is_for_the_month(&self) -> bool {
        self.aggregation == Aggregation::Peak || matches!(self.model, PriceModel::Flat { .. })
    }

    /// The words on the invoice.
    pub fn words(&self) -> &str {
        self.description.as_deref().unwrap_or_else(|| crate::rating::describe(self.meter))
    }
}

impl Phase {
    /// Its days for a contract that began on this day: from, and up to.
    pub(crate) fn bounds(&self, contract_start: NaiveDate) -> (NaiveDate, Option<NaiveDate>) {
        match self.span {
            Span::FirstMonths(months) => (contract_start, contract_start.checked_add_months(Months::new(months))),
            Span::Days(days) => (days.start(), Some(days.end())),
        }
    }
}

impl Selector {
    /// Whether a fee of this name is among them.
    pub fn selects_fee(&self, id: &str) -> bool {
        match self {
            Self::Fees => true,
            Self::Usage => false,
            Self::Item(item) => item == id,
        }
    }

    /// Whether the usage of this meter is among them.
    pub fn selects_usage(&self, meter: Meter) -> bool {
        match self {
            Self::Fees => false,
            Self::Usage => true,
            Self::Item(item) => item == meter.as_str(),
        }
    }
}

impl From<String> for Selector {
    fn from(name: String) -> Self {
        match name.as_str() {
            "fees" => Self::Fees,
            "usage" => Self::Usage,
            _ => Self::Item(name),
        }
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        match selector {
            Selector::Fees => "fees".to_owned(),
            Selector::Usage => "usage".to_owned(),
            Selector::Item(item) => item,
        }
    }
}

impl RateCard {
    /// The tier these prices are for.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Whose contract it is; `None` for the prices of the tier.
    pub fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }

    /// The card's version within its tier or contract.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// The currency of every price.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// The first day the card is in force.
    pub fn valid_from(&self) -> NaiveDate {
        self.valid_from
    }

    /// The first day it no longer is; `None` until a successor begins.
    pub fn valid_to(&self) -> Option<NaiveDate> {
        self.valid_to
    }

    /// The declared order of the arithmetic.
    pub fn order(&self) -> Order {
        self.order
    }

    /// The fees, in the order of their lines.
    pub fn fees(&self) -> &[Fee] {
        &self.fees
    }

    /// The prices, in the order of their lines.
    pub fn prices(&self) -> &[MeterPrice] {
        &self.prices
    }

    /// The least that a month's lines come to.
    pub fn commitment(&self) -> Option<&Commitment> {
        self.commitment.as_ref()
    }

    /// The volume discount.
    pub fn volume_discount(&self) -> Option<VolumeDiscount> {
        self.volume_discount
    }

    /// The promotional phases that everyone on this card has.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// What paying for a year at once saves.
    pub fn annual_prepayment(&self) -> Option<&AnnualPrepayment> {
        self.annual_prepayment.as_ref()
    }

    /// What a meter costs; `None` where it is not charged.
    pub fn price(&self, meter: Meter) -> Option<&MeterPrice> {
        self.prices.iter().find(|price| price.meter == meter)
    }

    /// The sum of the base fees of a whole month.
    pub fn base_fee(&self) -> Money {
        let fees = self.fees.iter().filter(|fee| fee.kind == FeeKind::Base).map(|fee| fee.amount);
        Money::sum(fees, self.currency).expect("checked when it was made")
    }

    /// Whether the card is in force on this day, as far as it says itself.
    pub fn covers(&self, day: NaiveDate) -> bool {
        self.valid_from <= day && self.valid_to.is_none_or(|end| day < end)
    }
}

/// Names the card: `rate card standard version 2`, `rate card fintech of acme version 1`.
impl fmt::Display for RateCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate card {}", self.tier)?;
        if let Some(customer) = &self.customer {
            write!(f, " of {customer}")?;
        }
        write!(f, " version {}", self.version)
    }
}

/// The cards that every database has from the beginning, by file name: the four tiers.
pub const SEEDED_CARDS: [(&str, &str); 4] = [
    ("standard.toml", include_str!("../../rate-cards/standard.toml")),
    ("fintech.toml", include_str!("../../rate-cards/fintech.toml")),
    ("healthcare.toml", include_str!("../../rate-cards/healthcare.toml")),
    ("gov-federal.toml", include_str!("../../rate-cards/gov-federal.toml")),
];

/// The seeded card of a tier.
pub fn seeded(tier: Tier) -> RateCard {
    let cards = SEEDED_CARDS
        .iter()
        .map(|(name, text)| RateCard::parse(text, name, &Meters::built_in()).expect("tests read every seeded card"));
    cards.into_iter().find(|card| card.tier() == tier).expect("every tier is seeded")
}

/// A rule that a rate card breaks. Stop until the card is corrected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{source_name}: {row}: {rule}")]
pub struct RateCardFault {
    /// The file, or the stored card.
    pub source_name: String,
    /// The row that breaks the rule: `price of nat_gateway_bytes, tier 2`.
    pub row: String,
    /// The rule, in words.
    pub rule: String,
}

/// A rate card breaks rules, all of which are listed. Stop until it is corrected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct RateCardError(pub Vec<RateCardFault>);
