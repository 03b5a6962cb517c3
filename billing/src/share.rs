//! Shares of an amount: tax, discount and coupon rates.

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::fraction::Fraction;

/// A share of an amount between nothing and the whole: a tax or discount rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(Decimal);

/// The number is no share of a whole.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0} is not a rate: expected 0 to 1 with at most 6 places")]
pub struct NotAShare(Decimal);

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self(Decimal::ONE);
    /// Places behind the point that a rate can have.
    pub const PLACES_MAX: u32 = 6;

    /// A rate from 0 to 1 with at most [`Share::PLACES_MAX`] places.
    pub fn new(rate: Decimal) -> Result<Self, NotAShare> {
        let normal = rate.normalize();
        if (Decimal::ZERO..=Decimal::ONE).contains(&normal) && normal.scale() <= Self::PLACES_MAX {
            Ok(Self(normal))
        } else {
            Err(NotAShare(rate))
        }
    }

    /// The rate as a fraction.
    pub fn exact(self) -> Fraction {
        Fraction::from_decimal(self.0)
    }

    /// The rate as a decimal: `0.08`.
    pub fn decimal(self) -> Decimal {
        self.0
    }

    /// What is left of the whole.
    pub fn rest(self) -> Self {
        Self((Decimal::ONE - self.0).normalize())
    }

    /// Whether nothing is taken.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// The rate for people: `8 %`.
    pub fn to_percent_text(self) -> String {
        format!("{} %", (self.0 * Decimal::ONE_HUNDRED).normalize())
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let rate = text.parse().map_err(serde::de::Error::custom)?;
        Self::new(rate).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lies_between_nothing_and_the_whole() {
        for (text, percent) in [("0.08", "8 %"), ("0.0825", "8.25 %"), ("0", "0 %"), ("1.000000", "100 %")] {
            assert_eq!(Share::new(text.parse().unwrap()).unwrap().to_percent_text(), percent);
        }
        for text in ["-0.01", "1.01", "0.0000001"] {
            assert!(Share::new(text.parse().unwrap()).is_err(), "{text}");
        }
    }
}
