//! Amounts: whole minor units of one currency, and the one place where an exact amount becomes one.

use std::fmt;

use rust_decimal::Decimal;
use thiserror::Error;

use crate::fraction::Fraction;

/// A currency an invoice can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// An amount: whole minor units of one currency.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// An amount cannot be formed. Stop: the figures behind it are wrong, and trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AmountError {
    /// The amount has more than 64 bits of minor units, or an exact fraction on the way does not fit.
    #[error("an amount is out of range")]
    OutOfRange,
    /// Amounts of two currencies cannot meet.
    #[error("amounts in {0} and {1} cannot be put together")]
    CurrencyMismatch(Currency, Currency),
}

impl Money {
    /// So many minor units.
    pub fn from_minor(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Nothing.
    pub fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// Rounds an exact number of minor units half-even. The one place where an amount is rounded.
    pub fn round_half_even(exact_minor: Fraction, currency: Currency) -> Result<Self, AmountError> {
        let (numerator, denominator) = (exact_minor.numerator(), exact_minor.denominator());
        let below = numerator.div_euclid(denominator);
        let rest = numerator.rem_euclid(denominator);
        // The rest is compared with what is missing to the next whole: twice the rest might not fit.
        let missing = denominator - rest;
        let up = match rest.cmp(&missing) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => below.rem_euclid(2) == 1,
            std::cmp::Ordering::Greater => true,
        };
        let minor = below + i128::from(up);
        Ok(Self { minor: i64::try_from(minor).map_err(|_| AmountError::OutOfRange)?, currency })
    }

    /// The minor units.
    pub fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    pub fn currency(self) -> Currency {
        self.currency
    }

    /// The minor units as an exact fraction.
    pub fn exact_minor(self) -> Fraction {
        Fraction::whole(i128::from(self.minor))
    }

    /// The sum.
    pub fn checked_add(self, other: Self) -> Result<Self, AmountError> {
        self.meet(other)?;
        let minor = self.minor.checked_add(other.minor).ok_or(AmountError::OutOfRange)?;
        Ok(Self { minor, ..self })
    }

    /// The difference.
    pub fn checked_sub(self, other: Self) -> Result<Self, AmountError> {
        self.meet(other)?;
        let minor = self.minor.checked_sub(other.minor).ok_or(AmountError::OutOfRange)?;
        Ok(Self { minor, ..self })
    }

    /// This share of the amount, rounded half-even.
    pub fn share(self, share: Share) -> Result<Self, AmountError> {
        let exact = self.exact_minor().checked_mul(share.exact()).ok_or(AmountError::OutOfRange)?;
        Self::round_half_even(exact, self.currency)
    }

    /// Whether this is more than the other amount.
    pub fn exceeds(self, other: Self) -> Result<bool, AmountError> {
        self.meet(other)?;
        Ok(other.minor < self.minor)
    }

    fn meet(self, other: Self) -> Result<(), AmountError> {
        if self.currency == other.currency {
            Ok(())
        } else {
            Err(AmountError::CurrencyMismatch(self.currency, other.currency))
        }
    }

    /// The amount as a decimal with all minor digits, for machines: `2218.54`.
    pub fn to_decimal_text(self) -> String {
        let per_major = self.currency.minor_per_major().unsigned_abs();
        let sign = if self.minor < 0 { "-" } else { "" };
        let (major, minor) = (self.minor.unsigned_abs() / per_major, self.minor.unsigned_abs() % per_major);
        match self.currency.minor_digits() as usize {
            0 => format!("{sign}{major}"),
            digits => format!("{sign}{major}.{minor:0digits$}"),
        }
    }
}

/// The amount for people: `2,218.54`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&group_thousands(&self.to_decimal_text()))
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {}", self.currency)
    }
}

/// Sets a comma between the thousands of a decimal number's whole part: `1234567.5` becomes `1,234,567.5`.
pub(crate) fn group_thousands(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let (whole, places) = digits.find('.').map_or((digits, ""), |point| digits.split_at(point));
    let mut grouped = String::with_capacity(number.len() + whole.len() / 3);
    grouped.push_str(sign);
    for (position, digit) in whole.chars().enumerate() {
        if position != 0 && (whole.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped.push_str(places);
    grouped
}

/// A share of an amount between nothing and the whole: a tax or discount rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(Decimal);

/// The number is no share of a whole.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0} is not a rate: expected 0 to 1 with at most 6 places")]
pub struct NotAShare(Decimal);

impl Share {
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

    /// The rate for people: `8 %`.
    pub fn to_percent_text(self) -> String {
        format!("{} %", (self.0 * Decimal::ONE_HUNDRED).normalize())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usd(minor: i64) -> Money {
        Money::from_minor(minor, Currency::Usd)
    }

    #[test]
    fn half_a_cent_rounds_to_the_even_cent() {
        for (numerator, denominator, minor) in [
            (1, 2, 0),
            (3, 2, 2),
            (5, 2, 2),
            (-1, 2, 0),
            (-3, 2, -2),
            (-5, 2, -2),
            (1, 3, 0),
            (2, 3, 1),
            (-2, 3, -1),
            (49, 100, 0),
            (51, 100, 1),
            (7, 1, 7),
        ] {
            let exact = Fraction::new(numerator, denominator).unwrap();
            assert_eq!(Money::round_half_even(exact, Currency::Usd), Ok(usd(minor)), "{exact}");
        }
    }

    #[test]
    fn an_amount_out_of_range_is_an_error_and_never_wraps() {
        let most = i128::from(i64::MAX);
        assert_eq!(Money::round_half_even(Fraction::whole(most), Currency::Usd), Ok(usd(i64::MAX)));
        for exact in [Fraction::whole(most + 1), Fraction::new(2 * most + 1, 2).unwrap(), Fraction::whole(i128::MIN)] {
            assert_eq!(Money::round_half_even(exact, Currency::Usd), Err(AmountError::OutOfRange), "{exact}");
        }
        assert_eq!(usd(i64::MAX).checked_add(usd(1)), Err(AmountError::OutOfRange));
        assert_eq!(usd(i64::MIN).checked_sub(usd(1)), Err(AmountError::OutOfRange));
    }

    #[test]
    fn amounts_of_two_currencies_never_meet() {
        let yen = Money::from_minor(100, Currency::Jpy);
        let mismatch = AmountError::CurrencyMismatch(Currency::Usd, Currency::Jpy);
        assert_eq!(usd(1).checked_add(yen), Err(mismatch));
        assert!(usd(1).checked_sub(yen).is_err());
        assert!(usd(1).exceeds(yen).is_err());
    }

    #[test]
    fn an_amount_is_written_with_all_its_minor_digits() {
        for (minor, machine, person) in [
            (221_854, "2218.54", "2,218.54"),
            (5, "0.05", "0.05"),
            (-26_999, "-269.99", "-269.99"),
            (100_000_000, "1000000.00", "1,000,000.00"),
            (i64::MIN, "-92233720368547758.08", "-92,233,720,368,547,758.08"),
        ] {
            assert_eq!((usd(minor).to_decimal_text().as_str(), usd(minor).to_string().as_str()), (machine, person));
        }
        assert_eq!(Money::from_minor(123_456, Currency::Jpy).to_string(), "123,456");
    }

    #[test]
    fn a_rate_lies_between_nothing_and_the_whole() {
        for (text, percent) in [("0.08", "8 %"), ("0.0825", "8.25 %"), ("0", "0 %"), ("1.000000", "100 %")] {
            assert_eq!(Share::new(text.parse().unwrap()).unwrap().to_percent_text(), percent);
        }
        for text in ["-0.01", "1.01", "0.0000001"] {
            assert!(Share::new(text.parse().unwrap()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn rounding_moves_an_amount_by_at_most_half_a_minor_unit(numerator in -1_000_000_i128..1_000_000, denominator in 1_i128..1000) {
            let exact = Fraction::new(numerator, denominator).unwrap();
            let rounded = i128::from(Money::round_half_even(exact, Currency::Usd).unwrap().minor());
            prop_assert!(2 * (rounded * denominator - numerator).abs() <= denominator);
        }
    }
}
