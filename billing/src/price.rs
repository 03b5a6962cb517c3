//! What a quantity costs: one file a price model, each a pure function from an exact quantity to an exact charge.
//!
//! A model never rounds and knows no currency, time or customer: quantities are priced units, amounts whole currency, both
//! exact. Rounding, proration, phases and minor units are `rating`'s.

pub(crate) mod allowance;
pub(crate) mod flat;
pub(crate) mod graduated;
pub(crate) mod package;
pub(crate) mod per_unit;
pub(crate) mod tiers;
pub(crate) mod volume;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fraction::Fraction;
use crate::price::tiers::{PriceTier, TierFault};

/// A price in whole currency: 0.0000002 dollars for one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitPrice(Decimal);

impl UnitPrice {
    /// Nothing.
    pub const FREE: Self = Self(Decimal::ZERO);
    /// Places behind the point that a price can have.
    pub const PLACES_MAX: u32 = 12;
    /// A price is below this.
    pub const LIMIT: Decimal = Decimal::from_parts(1_000_000_000, 0, 0, false, 0);

    /// A price from 0 to below [`UnitPrice::LIMIT`], with at most [`UnitPrice::PLACES_MAX`] places.
    pub fn new(price: Decimal) -> Option<Self> {
        let normal = price.normalize();
        (Decimal::ZERO <= normal && normal < Self::LIMIT && normal.scale() <= Self::PLACES_MAX).then_some(Self(normal))
    }

    /// The price in whole currency, without needless zeros.
    pub fn decimal(self) -> Decimal {
        self.0
    }

    pub(crate) fn exact(self) -> Fraction {
        Fraction::from_decimal(self.0)
    }
}

impl Serialize for UnitPrice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UnitPrice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let price = Decimal::from_str_exact(&text).ok().and_then(Self::new);
        price.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no price")))
    }
}

/// How a quantity becomes an amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PriceModel {
    /// One amount for a month in which the meter was used at all.
    Flat {
        /// The amount.
        amount: UnitPrice,
    },
    /// The same price for every unit.
    PerUnit {
        /// The price of one unit.
        price: UnitPrice,
    },
    /// Each unit at the price of the tier it lies in.
    Graduated {
        /// The tiers, without gaps, from 0 on.
        tiers: Vec<PriceTier>,
    },
    /// All units at the price of the tier the last one lies in.
    Volume {
        /// The tiers, without gaps, from 0 on.
        tiers: Vec<PriceTier>,
    },
    /// Packages of units; one begun counts whole.
    Package {
        /// Units in a package.
        size: Decimal,
        /// The price of a package.
        price: UnitPrice,
    },
}

/// Units charged at one price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where these units begin, counted from 0.
    pub from: Fraction,
    /// How many units.
    pub units: Fraction,
    /// What `per` of them cost, in whole currency.
    pub price: UnitPrice,
    /// How many units cost that: 1, or the size of a package.
    pub per: Fraction,
    /// What the tier costs once reached, in whole currency.
    pub flat: UnitPrice,
    /// What these units cost, exactly, in whole currency.
    pub exact: Fraction,
}

/// What further usage costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marginal {
    /// What the next `per` units cost, in whole currency.
    pub price: UnitPrice,
    /// How many units cost that: 1, or the size of a package.
    pub per: Fraction,
}

/// What a quantity costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The prices used, in the order of the units; their amounts sum to the charge.
    pub steps: Vec<Step>,
    /// The charge, exactly, in whole currency.
    pub exact: Fraction,
    /// What further usage costs.
    pub marginal: Marginal,
}

impl Charge {
    fn of(steps: Vec<Step>, marginal: Marginal) -> Option<Self> {
        let exact = steps.iter().try_fold(Fraction::zero(), |sum, step| sum.checked_add(&step.exact))?;
        Some(Self { steps, exact, marginal })
    }
}

impl Step {
    /// `None` when the amount does not fit.
    fn new(from: Fraction, units: Fraction, price: UnitPrice, flat: UnitPrice) -> Option<Self> {
        let exact = units.checked_mul(&price.exact())?.checked_add(&flat.exact())?;
        Some(Self { from, units, price, per: Fraction::whole(1), flat, exact })
    }
}

impl PriceModel {
    /// The name used in rate cards and documents.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Flat { .. } => "flat",
            Self::PerUnit { .. } => "per_unit",
            Self::Graduated { .. } => "graduated",
            Self::Volume { .. } => "volume",
            Self::Package { .. } => "package",
        }
    }

    /// What a quantity, which is not negative, costs; `None` when that does not fit.
    pub fn charge(&self, units: &Fraction) -> Option<Charge> {
        match self {
            Self::Flat { amount } => flat::charge(*amount, units),
            Self::PerUnit { price } => per_unit::charge(*price, units),
            Self::Graduated { tiers } => graduated::charge(tiers, units),
            Self::Volume { tiers } => volume::charge(tiers, units),
            Self::Package { size, price } => package::charge(*size, *price, units),
        }
    }

    /// The rule that the model's own figures break.
    pub(crate) fn fault(&self) -> Option<TierFault> {
        match self {
            Self::Graduated { tiers } | Self::Volume { tiers } => tiers::fault(tiers),
            Self::Package { size, .. } if *size <= Decimal::ZERO => {
                Some(TierFault { tier: None, rule: "a package has more than 0 units".to_owned() })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn price(text: &str) -> UnitPrice {
        UnitPrice::new(text.parse().unwrap()).unwrap()
    }

    pub(crate) fn units(text: &str) -> Fraction {
        Fraction::parse(text).unwrap()
    }

    /// Tiers from their upper ends and prices; the last end is open.
    pub(crate) fn tiers(rows: &[(&str, &str, &str)]) -> Vec<PriceTier> {
        let mut from = Decimal::ZERO;
        rows.iter()
            .map(|(up_to, unit_price, flat)| {
                let up_to: Option<Decimal> = up_to.parse().ok();
                let tier = PriceTier { from, up_to, price: price(unit_price), flat: price(flat) };
                from = up_to.unwrap_or(from);
                tier
            })
            .collect()
    }

    /// Checks a charge in the words of a reader: `amount`, `marginal` per how many, and each step as `units at price`.
    pub(crate) fn check(model: &PriceModel, quantity: &str, amount: &str, marginal: &str, steps: &[&str]) {
        let charge = model.charge(&units(quantity)).unwrap();
        let written: Vec<String> = charge
            .steps
            .iter()
            .map(|step| {
                let flat = if step.flat == UnitPrice::FREE { String::new() } else { format!(" + {}", step.flat.0) };
                let per = if step.per == Fraction::whole(1) {
                    String::new()
                } else {
                    format!(" per {}", step.per.to_decimal_text(18))
                };
                format!("{} at {}{per}{flat}", step.units, step.price.0)
            })
            .collect();
        let per = if charge.marginal.per == Fraction::whole(1) {
            String::new()
        } else {
            format!(" per {}", charge.marginal.per.to_decimal_text(18))
        };
        assert_eq!(
            (charge.exact.to_string(), format!("{}{per}", charge.marginal.price.0), written),
            (units(amount).to_string(), marginal.to_owned(), steps.iter().map(|step| (*step).to_owned()).collect()),
            "{quantity} units"
        );
    }

    /// More units never cost less, where the model's prices do not fall as a whole.
    pub(crate) fn never_falls(model: &PriceModel, less: i64, more: i64) {
        let amount = |tenths: i64| model.charge(&Fraction::new(tenths, 10).unwrap()).unwrap().exact;
        assert!(amount(less) <= amount(less + more), "{less} and {more} tenths of a unit");
    }
}
