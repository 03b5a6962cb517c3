//! Exact fractions: what a quantity or an amount is before its one rounding.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use num_bigint::{BigInt, BigUint, Sign};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The most bits either number of a fraction can have.
///
/// A byte-second total of 38 digits and 18 places, divided by a GB-month and multiplied by a price of 12 places, takes about
/// 330 bits; what goes beyond twice that is no usage of anyone.
pub const FRACTION_BITS_MAX: u64 = 640;

/// An exact fraction in lowest terms with a positive denominator.
///
/// Fractions and not decimals, because a GB-month divides by the seconds of a month: 1/31 has no finite decimal, and 28
/// digits of one would be a second, hidden rounding. Each operation is checked: a result beyond [`FRACTION_BITS_MAX`] is
/// `None`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Fraction {
    numerator: BigInt,
    denominator: BigUint,
}

/// The text is no exact number.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not an exact number: expected digits such as 12, -0.5 or 1/31")]
pub struct NotAFraction;

impl Fraction {
    /// Nothing.
    pub fn zero() -> Self {
        Self::whole(0)
    }

    /// `numerator / denominator`; `None` when the denominator is zero or the fraction does not fit.
    pub fn new(numerator: impl Into<BigInt>, denominator: impl Into<BigInt>) -> Option<Self> {
        let (mut numerator, denominator) = (numerator.into(), denominator.into());
        let (sign, mut denominator) = denominator.into_parts();
        match sign {
            Sign::NoSign => return None,
            Sign::Minus => numerator = -numerator,
            Sign::Plus => {}
        }
        let divisor = greatest_common_divisor(numerator.magnitude().clone(), denominator.clone());
        if divisor != BigUint::from(1_u8) {
            numerator /= BigInt::from(divisor.clone());
            denominator /= divisor;
        }
        let fits = numerator.bits() <= FRACTION_BITS_MAX && denominator.bits() <= FRACTION_BITS_MAX;
        fits.then_some(Self { numerator, denominator })
    }

    /// A whole number.
    pub fn whole(number: i128) -> Self {
        Self { numerator: BigInt::from(number), denominator: BigUint::from(1_u8) }
    }

    /// The exact value of a decimal.
    pub fn from_decimal(decimal: Decimal) -> Self {
        let denominator = BigInt::from(10_u8).pow(decimal.scale());
        Self::new(decimal.mantissa(), denominator).expect("a decimal is 96 bits over at most 10^28")
    }

    /// Reads a decimal of any length, such as PostgreSQL writes a `numeric`, or a fraction such as `1/31`.
    pub fn parse(text: &str) -> Result<Self, NotAFraction> {
        let whole = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            // The bits of a number that is refused are not worth reading.
            let is_readable = digits.len() as u64 <= FRACTION_BITS_MAX;
            if is_number && is_readable { BigInt::from_str(text).map_err(|_| NotAFraction) } else { Err(NotAFraction) }
        };
        if let Some((above, below)) = text.split_once('/') {
            return Self::new(whole(above)?, whole(below)?).ok_or(NotAFraction);
        }
        let Some((before, places)) = text.split_once('.') else {
            return Self::new(whole(text)?, 1).ok_or(NotAFraction);
        };
        if !places.bytes().all(|byte| byte.is_ascii_digit()) || FRACTION_BITS_MAX < places.len() as u64 {
            return Err(NotAFraction);
        }
        let power = u32::try_from(places.len()).map_err(|_| NotAFraction)?;
        Self::new(whole(&format!("{before}{places}"))?, BigInt::from(10_u8).pow(power)).ok_or(NotAFraction)
    }

    /// The sum.
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let (left, right) = (BigInt::from(self.denominator.clone()), BigInt::from(other.denominator.clone()));
        Self::new(&self.numerator * &right + &other.numerator * &left, left * right)
    }

    /// The difference.
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        self.checked_add(&Self { numerator: -other.numerator.clone(), denominator: other.denominator.clone() })
    }

    /// The product.
    pub fn checked_mul(&self, other: &Self) -> Option<Self> {
        Self::new(&self.numerator * &other.numerator, BigInt::from(&self.denominator * &other.denominator))
    }

    /// The quotient; `None` also for a division by zero.
    pub fn checked_div(&self, other: &Self) -> Option<Self> {
        Self::new(
            &self.numerator * BigInt::from(other.denominator.clone()),
            BigInt::from(self.denominator.clone()) * &other.numerator,
        )
    }

    /// The upper number, in lowest terms.
    pub fn numerator(&self) -> &BigInt {
        &self.numerator
    }

    /// The lower number, in lowest terms; always positive.
    pub fn denominator(&self) -> &BigUint {
        &self.denominator
    }

    /// Whether this is exactly nothing.
    pub fn is_zero(&self) -> bool {
        self.numerator.sign() == Sign::NoSign
    }

    /// Whether this is below nothing.
    pub fn is_negative(&self) -> bool {
        self.numerator.sign() == Sign::Minus
    }

    /// The greatest whole number that is not above this, and the part of one that is left: `0 <= rest < 1`, as the numerator
    /// over [`Fraction::denominator`].
    pub fn floor(&self) -> (BigInt, BigUint) {
        let magnitude = self.numerator.magnitude();
        let (quotient, rest) = (magnitude / &self.denominator, magnitude % &self.denominator);
        if !self.is_negative() || rest == BigUint::ZERO {
            (BigInt::from_biguint(self.numerator.sign(), quotient), rest)
        } else {
            (-BigInt::from(quotient) - 1, &self.denominator - rest)
        }
    }

    /// The smallest whole number that is not below this.
    pub fn ceiling(&self) -> Self {
        let (below, rest) = self.floor();
        let number = if rest == BigUint::ZERO { below } else { below + 1 };
        Self { numerator: number, denominator: BigUint::from(1_u8) }
    }

    /// The decimal digits up to `places_max` behind the point, cut off and never rounded up; for people to read, never to
    /// calculate with.
    pub fn to_decimal_text(&self, places_max: usize) -> String {
        let magnitude = self.numerator.magnitude();
        let whole = magnitude / &self.denominator;
        let mut rest = magnitude % &self.denominator;
        let mut places = String::new();
        while rest != BigUint::ZERO && places.len() < places_max {
            rest *= 10_u8;
            places.push_str(&(&rest / &self.denominator).to_string());
            rest %= &self.denominator;
        }
        let places = places.trim_end_matches('0');
        let is_nothing = whole == BigUint::ZERO && places.is_empty();
        let sign = if self.is_negative() && !is_nothing { "-" } else { "" };
        if places.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{places}") }
    }
}

impl Ord for Fraction {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = &self.numerator * BigInt::from(other.denominator.clone());
        left.cmp(&(&other.numerator * BigInt::from(self.denominator.clone())))
    }
}

impl PartialOrd for Fraction {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denominator == BigUint::from(1_u8) {
            write!(f, "{}", self.numerator)
        } else {
            write!(f, "{}/{}", self.numerator, self.denominator)
        }
    }
}

impl fmt::Debug for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fraction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn greatest_common_divisor(mut a: BigUint, mut b: BigUint) -> BigUint {
    while b != BigUint::ZERO {
        let rest = &a % &b;
        a = std::mem::replace(&mut b, rest);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fraction(numerator: i128, denominator: i128) -> Fraction {
        Fraction::new(numerator, denominator).unwrap()
    }

    #[test]
    fn equal_values_are_equal_fractions_with_the_sign_above() {
        assert_eq!(fraction(2, 4), fraction(1, 2));
        assert_eq!(fraction(3, -6), fraction(-1, 2));
        assert_eq!(fraction(0, 5), Fraction::zero());
        assert_eq!(Fraction::new(1, 0), None);
        assert_eq!(Fraction::from_decimal("0.00000015".parse().unwrap()), fraction(3, 20_000_000));
    }

    #[test]
    fn what_does_not_fit_is_none_and_never_wraps() {
        let two_to = |power: u32| Fraction::new(BigInt::from(2_u8).pow(power), 1);
        let bits = u32::try_from(FRACTION_BITS_MAX).unwrap();
        assert_eq!(two_to(bits), None);
        let huge = two_to(bits - 1).unwrap();
        assert_eq!(huge.checked_mul(&Fraction::whole(2)), None);
        assert_eq!(huge.checked_add(&huge), None);
        assert_eq!(fraction(1, 3).checked_mul(&huge).unwrap().checked_div(&huge), Some(fraction(1, 3)), "it cancels");
        assert_eq!(fraction(1, 3).checked_div(&Fraction::zero()), None);
    }

    #[test]
    fn decimals_of_any_length_are_read_exactly() {
        for (text, value) in [
            ("12", fraction(12, 1)),
            ("-0.5", fraction(-1, 2)),
            ("0.000000000000000001", fraction(1, 10_i128.pow(18))),
            ("1/31", fraction(1, 31)),
            ("-2/4", fraction(-1, 2)),
            ("100.", fraction(100, 1)),
        ] {
            assert_eq!(Fraction::parse(text), Ok(value), "{text}");
        }
        let long = "123456789012345678901234567890.123456789012345678";
        assert_eq!(Fraction::parse(long).unwrap().to_decimal_text(18), long);
        for bad in
            ["", "-", ".", "1.2.3", "1e5", "NaN", "Infinity", "+1", "1/0", "1/", "0x1", "1,000", &"9".repeat(700)]
        {
            assert_eq!(Fraction::parse(bad), Err(NotAFraction), "{bad}");
        }
    }

    #[test]
    fn the_readable_form_is_cut_off_and_carries_no_needless_zero() {
        for (value, text) in [
            (fraction(100, 1), "100"),
            (fraction(5, 2), "2.5"),
            (fraction(17, 31), "0.548387096774"),
            (fraction(-1, 8), "-0.125"),
            (fraction(-1, i128::MAX), "0"),
            (fraction(i128::MAX - 1, i128::MAX), "0.999999999999"),
            (Fraction::zero(), "0"),
        ] {
            assert_eq!(value.to_decimal_text(12), text);
        }
    }

    proptest! {
        #[test]
        fn floor_and_ceiling_enclose_the_value(numerator in -10_000_i128..10_000, denominator in 1_i128..100) {
            let value = fraction(numerator, denominator);
            let (floor, rest) = value.floor();
            prop_assert_eq!(floor, BigInt::from(numerator.div_euclid(denominator)));
            prop_assert!(&rest < value.denominator());
            prop_assert_eq!(value.ceiling(), Fraction::whole(-(-numerator).div_euclid(denominator)));
        }

        #[test]
        fn arithmetic_agrees_with_whole_numbers_over_one_denominator(a in -1000_i128..1000, b in -1000_i128..1000, n in 1_i128..50) {
            let (left, right) = (fraction(a, n), fraction(b, n));
            prop_assert_eq!(left.checked_add(&right).unwrap(), fraction(a + b, n));
            prop_assert_eq!(left.checked_sub(&right).unwrap(), fraction(a - b, n));
            prop_assert_eq!(left.checked_mul(&right).unwrap(), fraction(a * b, n * n));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
            prop_assert_eq!(Fraction::parse(&left.to_string()).unwrap(), left);
        }
    }
}
