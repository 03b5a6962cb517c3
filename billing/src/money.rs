//! Amounts: whole minor units of one currency, and the one place where an exact amount becomes one.

use std::fmt;

use num_bigint::{BigInt, BigUint};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::currency::Currency;
use crate::fraction::Fraction;
use crate::share::Share;

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
    pub fn round_half_even(exact_minor: &Fraction, currency: Currency) -> Result<Self, AmountError> {
        let (below, rest) = exact_minor.floor();
        let missing = exact_minor.denominator() - &rest;
        let up = match rest.cmp(&missing) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => below.magnitude() % 2_u8 != BigUint::ZERO,
            std::cmp::Ordering::Greater => true,
        };
        let minor = below + BigInt::from(u8::from(up));
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
        let exact = self.exact_minor().checked_mul(&share.exact()).ok_or(AmountError::OutOfRange)?;
        Self::round_half_even(&exact, self.currency)
    }

    /// The amount with the other sign.
    pub fn checked_neg(self) -> Result<Self, AmountError> {
        Ok(Self { minor: self.minor.checked_neg().ok_or(AmountError::OutOfRange)?, ..self })
    }

    /// The smaller of two amounts.
    pub fn at_most(self, other: Self) -> Result<Self, AmountError> {
        Ok(if self.exceeds(other)? { other } else { self })
    }

    /// Whether this is exactly nothing.
    pub fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// Whether this is below nothing.
    pub fn is_negative(self) -> bool {
        self.minor < 0
    }

    /// The sum of amounts; nothing where there are none.
    pub fn sum(amounts: impl IntoIterator<Item = Self>, currency: Currency) -> Result<Self, AmountError> {
        amounts.into_iter().try_fold(Self::zero(currency), Self::checked_add)
    }

    /// Reads an amount in whole currency: `2000.00`, `5` or `-0.01`, with no more places than the currency has.
    pub fn parse(text: &str, currency: Currency) -> Option<Self> {
        let exact = Fraction::parse(text).ok()?;
        let minor = exact.checked_mul(&Fraction::whole(i128::from(currency.minor_per_major())))?;
        let (whole, rest) = minor.floor();
        let minor = i64::try_from(whole).ok()?;
        (rest == BigUint::ZERO).then_some(Self { minor, currency })
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

/// The amount with its currency: `2218.54 USD`.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{} {}", self.to_decimal_text(), self.currency))
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        let (amount, code) =
            text.split_once(' ').ok_or_else(|| D::Error::custom("expected an amount such as `2218.54 USD`"))?;
        let currency = Currency::parse(code).map_err(D::Error::custom)?;
        Self::parse(amount, currency).ok_or_else(|| D::Error::custom(format!("{text:?} is no amount")))
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
            assert_eq!(Money::round_half_even(&exact, Currency::Usd), Ok(usd(minor)), "{exact}");
        }
    }

    #[test]
    fn an_amount_out_of_range_is_an_error_and_never_wraps() {
        let most = i128::from(i64::MAX);
        assert_eq!(Money::round_half_even(&Fraction::whole(most), Currency::Usd), Ok(usd(i64::MAX)));
        for exact in
            [Fraction::whole(most + 1), Fraction::new(2 * most + 1, 2_i128).unwrap(), Fraction::whole(i128::MIN)]
        {
            assert_eq!(Money::round_half_even(&exact, Currency::Usd), Err(AmountError::OutOfRange), "{exact}");
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
    fn an_amount_is_read_with_no_more_places_than_its_currency_has() {
        for (text, minor) in [("2000.00", 200_000), ("5", 500), ("0.1", 10), ("-0.01", -1), ("1.500", 150)] {
            assert_eq!(Money::parse(text, Currency::Usd), Some(usd(minor)), "{text}");
        }
        for bad in ["0.001", "", "1,000.00", "1e3", "92233720368547758.08"] {
            assert_eq!(Money::parse(bad, Currency::Usd), None, "{bad}");
        }
        assert_eq!(Money::parse("1.5", Currency::Jpy), None);
        let written = serde_json::to_string(&usd(221_854)).unwrap();
        assert_eq!(written, "\"2218.54 USD\"");
        assert_eq!(serde_json::from_str::<Money>(&written).unwrap(), usd(221_854));
    }

    proptest! {
        #[test]
        fn rounding_moves_an_amount_by_at_most_half_a_minor_unit(numerator in -1_000_000_i128..1_000_000, denominator in 1_i128..1000) {
            let exact = Fraction::new(numerator, denominator).unwrap();
            let rounded = i128::from(Money::round_half_even(&exact, Currency::Usd).unwrap().minor());
            prop_assert!(2 * (rounded * denominator - numerator).abs() <= denominator);
        }
    }
}
