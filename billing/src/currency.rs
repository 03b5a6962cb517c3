//! The currencies an invoice can be in.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A currency an invoice can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Currency {
    /// United States dollar.
    Usd,
    /// Euro.
    Eur,
    /// Pound sterling.
    Gbp,
    /// Swiss franc.
    Chf,
    /// Japanese yen, which has no minor unit.
    Jpy,
}

/// No supported currency has this code.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown currency {0:?}: expected one of USD, EUR, GBP, CHF, JPY")]
pub struct UnknownCurrency(String);

impl Currency {
    /// Every currency.
    pub const ALL: [Self; 5] = [Self::Usd, Self::Eur, Self::Gbp, Self::Chf, Self::Jpy];

    /// The code of ISO 4217.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usd => "USD",
            Self::Eur => "EUR",
            Self::Gbp => "GBP",
            Self::Chf => "CHF",
            Self::Jpy => "JPY",
        }
    }

    /// Reads a code of ISO 4217.
    pub fn parse(code: &str) -> Result<Self, UnknownCurrency> {
        Self::ALL.into_iter().find(|known| known.as_str() == code).ok_or_else(|| UnknownCurrency(code.to_owned()))
    }

    /// Digits behind the point, by ISO 4217.
    pub fn minor_digits(self) -> u32 {
        match self {
            Self::Usd | Self::Eur | Self::Gbp | Self::Chf => 2,
            Self::Jpy => 0,
        }
    }

    /// How many minor units make one of the currency: 100 cents to the dollar.
    pub fn minor_per_major(self) -> i64 {
        10_i64.pow(self.minor_digits())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
