//! Prices in force for a period.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use ingest::Meter;
use rust_decimal::Decimal;
use thiserror::Error;

use crate::money::{Currency, Money, Share};
use crate::period::Month;
use crate::tier::Tier;

/// The price of one unit, in whole currency: 0.0000002 dollars for one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitPrice(Decimal);

impl UnitPrice {
    /// Places behind the point that a price can have.
    pub const PLACES_MAX: u32 = 12;
    /// A price is below this.
    pub const LIMIT: Decimal = Decimal::from_parts(1_000_000_000, 0, 0, false, 0);

    fn new(price: Decimal) -> Option<Self> {
        let normal = price.normalize();
        (Decimal::ZERO <= normal && normal < Self::LIMIT && normal.scale() <= Self::PLACES_MAX).then_some(Self(normal))
    }

    /// The price in whole currency, without needless zeros.
    pub fn decimal(self) -> Decimal {
        self.0
    }
}

/// What a meter costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// The unit's name on the invoice: `GB-month`.
    pub unit: String,
    /// How many counts, bytes, or bytes stored for the whole month make one unit.
    pub raw_units_per_unit: i64,
    /// The price of one unit.
    pub unit_price: UnitPrice,
}

/// The prices of one tier, valid from a day on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateCard {
    id: i64,
    tier: Tier,
    version: i32,
    valid_from: NaiveDate,
    valid_to: Option<NaiveDate>,
    base_fee: Money,
    discount_threshold: Money,
    discount_rate: Share,
    prices: BTreeMap<Meter, Price>,
}

/// A rate card as it is stored, unchecked.
#[derive(Clone, Debug)]
pub struct RateCardRow {
    /// The stored row's number.
    pub rate_card_id: i64,
    /// A tier's name.
    pub tier: String,
    /// The card's version within its tier.
    pub version: i32,
    /// The first day the card is in force.
    pub valid_from: NaiveDate,
    /// The first day it no longer is.
    pub valid_to: Option<NaiveDate>,
    /// A code of ISO 4217.
    pub currency: String,
    /// The fee of a whole month, in minor units.
    pub base_fee_minor: i64,
    /// The subtotal that must be exceeded for the volume discount, in minor units.
    pub discount_threshold_minor: i64,
    /// The volume discount's share of the subtotal.
    pub discount_rate: Decimal,
}

/// A price as it is stored, unchecked.
#[derive(Clone, Debug)]
pub struct PriceRow {
    /// A meter's name.
    pub meter: String,
    /// The unit's name.
    pub unit: String,
    /// How many raw units make one unit.
    pub raw_units_per_unit: Decimal,
    /// The price of one unit.
    pub unit_price: Decimal,
}

/// A stored rate card breaks a rule. Stop for its customers until the card is corrected.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{row}: {rule}")]
pub struct RateCardError {
    /// The row that breaks the rule.
    pub row: String,
    /// The rule, in words.
    pub rule: String,
}

impl RateCard {
    /// Checks a stored rate card; an error names the row and the rule it breaks.
    pub fn check(card: RateCardRow, prices: Vec<PriceRow>) -> Result<Self, RateCardError> {
        let name = format!("rate card {} version {}", card.tier, card.version);
        let broken = |rule: String| RateCardError { row: name.clone(), rule };
        let tier = Tier::parse(&card.tier).map_err(|error| broken(error.to_string()))?;
        let currency = Currency::parse(&card.currency).map_err(|error| broken(error.to_string()))?;
        if card.valid_to.is_some_and(|end| end <= card.valid_from) {
            return Err(broken("the last day of validity lies before the first".to_owned()));
        }
        if card.base_fee_minor < 0 {
            return Err(broken("the base fee is negative".to_owned()));
        }
        if card.discount_threshold_minor < 0 {
            return Err(broken("the threshold of the volume discount is negative".to_owned()));
        }
        let discount_rate =
            Share::new(card.discount_rate).map_err(|error| broken(format!("volume discount: {error}")))?;

        let mut checked = BTreeMap::new();
        for price in prices {
            let row = format!("{name}, price of {}", price.meter);
            let broken = |rule: &str| RateCardError { row: row.clone(), rule: rule.to_owned() };
            let meter = Meter::parse(&price.meter).map_err(|error| broken(&error.to_string()))?;
            let raw_units_per_unit = i64::try_from(price.raw_units_per_unit)
                .ok()
                .filter(|raw| *raw > 0 && price.raw_units_per_unit.is_integer())
                .ok_or_else(|| broken("the raw units of one unit are no positive whole number"))?;
            let unit_price = UnitPrice::new(price.unit_price)
                .ok_or_else(|| broken("a unit price is 0 or more, below 1,000,000,000, with at most 12 places"))?;
            if price.unit.is_empty() {
                return Err(broken("the unit has no name"));
            }
            let price = Price { unit: price.unit, raw_units_per_unit, unit_price };
            if checked.insert(meter, price).is_some() {
                return Err(broken("the meter has two prices"));
            }
        }
        if let Some(missing) = Meter::PRICED.into_iter().find(|meter| !checked.contains_key(meter)) {
            return Err(broken(format!("the price of {missing} is missing")));
        }
        Ok(Self {
            id: card.rate_card_id,
            tier,
            version: card.version,
            valid_from: card.valid_from,
            valid_to: card.valid_to,
            base_fee: Money::from_minor(card.base_fee_minor, currency),
            discount_threshold: Money::from_minor(card.discount_threshold_minor, currency),
            discount_rate,
            prices: checked,
        })
    }

    /// The stored row's number.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The tier these prices are for.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The card's version within its tier.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// The currency of every price.
    pub fn currency(&self) -> Currency {
        self.base_fee.currency()
    }

    /// The fee of a whole month.
    pub fn base_fee(&self) -> Money {
        self.base_fee
    }

    /// The subtotal that must be exceeded for the volume discount.
    pub fn discount_threshold(&self) -> Money {
        self.discount_threshold
    }

    /// The volume discount's share of the subtotal.
    pub fn discount_rate(&self) -> Share {
        self.discount_rate
    }

    /// What a meter costs; `None` where it is not charged.
    pub fn price(&self, meter: Meter) -> Option<&Price> {
        self.prices.get(&meter)
    }

    /// Whether the card is in force on every day of the month.
    pub fn covers(&self, month: Month) -> bool {
        self.valid_from <= month.first_day() && self.valid_to.is_none_or(|end| month.end_day() <= end)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The seeded prices of a tier: log storage, NAT, CloudTrail, Config, GuardDuty.
    fn seeded(tier: Tier) -> (i64, [&'static str; 5]) {
        match tier {
            Tier::Standard => (200_000, ["0.03", "0.045", "0.0000002", "0.001", "0.05"]),
            Tier::Fintech => (800_000, ["0.025", "0.040", "0.00000015", "0.0008", "0.04"]),
            Tier::Healthcare => (1_500_000, ["0.025", "0.040", "0.00000015", "0.0008", "0.04"]),
            Tier::GovFederal => (2_500_000, ["0.020", "0.035", "0.0000001", "0.0006", "0.03"]),
        }
    }

    fn rows(tier: Tier) -> (RateCardRow, Vec<PriceRow>) {
        let (base_fee_minor, prices) = seeded(tier);
        let card = RateCardRow {
            rate_card_id: 1,
            tier: tier.as_str().to_owned(),
            version: 1,
            valid_from: NaiveDate::from_ymd_opt(2020, 1, 1).unwrap(),
            valid_to: None,
            currency: "USD".to_owned(),
            base_fee_minor,
            discount_threshold_minor: 500_000,
            discount_rate: "0.05".parse().unwrap(),
        };
        let units = ["GB-month", "GiB", "event", "evaluation", "finding"];
        let prices = Meter::PRICED.into_iter().zip(prices).zip(units).map(|((meter, price), unit)| PriceRow {
            meter: meter.as_str().to_owned(),
            unit: unit.to_owned(),
            raw_units_per_unit: Decimal::from(if unit.starts_with('G') { 1 << 30 } else { 1 }),
            unit_price: price.parse().unwrap(),
        });
        (card, prices.collect())
    }

    pub(crate) fn card(tier: Tier) -> RateCard {
        let (card, prices) = rows(tier);
        RateCard::check(card, prices).unwrap()
    }

    #[test]
    fn a_broken_rule_is_named_with_its_row() {
        type Break = fn(&mut RateCardRow, &mut Vec<PriceRow>);
        let cases: [(Break, &str); 11] = [
            (|card, _| card.tier = "gold".into(), "unknown tier \"gold\""),
            (|card, _| card.currency = "XXX".into(), "unknown currency \"XXX\""),
            (|card, _| card.valid_to = Some(card.valid_from), "the last day of validity lies before the first"),
            (|card, _| card.base_fee_minor = -1, "the base fee is negative"),
            (|card, _| card.discount_threshold_minor = -1, "the threshold of the volume discount is negative"),
            (|card, _| card.discount_rate = Decimal::TWO, "volume discount: 2 is not a rate"),
            (|_, prices| drop(prices.pop()), "version 1: the price of guardduty_findings is missing"),
            (|_, prices| prices.push(prices[0].clone()), "price of log_storage_gb: the meter has two prices"),
            (|_, prices| prices[1].meter = "vpn".into(), "price of vpn: unknown meter"),
            (
                |_, prices| prices[2].unit_price = Decimal::NEGATIVE_ONE,
                "price of cloudtrail_events: a unit price is 0 or",
            ),
            (
                |_, prices| prices[3].raw_units_per_unit = "0.5".parse().unwrap(),
                "the raw units of one unit are no positive",
            ),
        ];
        for (break_it, expected) in cases {
            let (mut card, mut prices) = rows(Tier::Standard);
            break_it(&mut card, &mut prices);
            let error = RateCard::check(card, prices).unwrap_err().to_string();
            assert!(error.starts_with("rate card ") && error.contains(expected), "{error} lacks {expected}");
        }
    }

    #[test]
    fn a_card_covers_a_month_only_when_it_is_in_force_on_every_day() {
        let (mut row, prices) = rows(Tier::Standard);
        row.valid_from = NaiveDate::from_ymd_opt(2026, 10, 1).unwrap();
        row.valid_to = NaiveDate::from_ymd_opt(2026, 12, 1);
        let card = RateCard::check(row, prices).unwrap();
        for (month, covered) in [("2026-09", false), ("2026-10", true), ("2026-11", true), ("2026-12", false)] {
            assert_eq!(card.covers(Month::parse(month).unwrap()), covered, "{month}");
        }
    }
}
