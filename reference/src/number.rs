//! Exact numbers: a whole number of 10^-18, as large as need be.

use std::fmt;
use std::ops::{AddAssign, Mul};

use num_bigint::BigInt;

/// Most decimals that are kept.
const DECIMALS_MAX: i64 = 18;
const TEXT_BYTES_MAX: usize = 64;

/// An exact decimal number.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(BigInt);

impl Number {
    /// Reads a decimal number as a source may write it, with or without an exponent; `None` for anything else, or more than 18
    /// digits on either side.
    pub fn read(text: &str) -> Option<Self> {
        if TEXT_BYTES_MAX < text.len() {
            return None;
        }
        let largest = Self(BigInt::from(10).pow(36));
        Self::read_sum(text).filter(|number| -largest.0.clone() < number.0 && *number < largest)
    }

    /// Reads a decimal number however large, as sums of what sources write may be; of at most 18 decimals.
    pub fn read_sum(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let unsigned = mantissa.strip_prefix(['+', '-']).unwrap_or(mantissa);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Some(Self::default());
        }
        let significant = digits.trim_end_matches('0');
        // The number is `significant` times 10 to this.
        let power =
            exponent - i64::try_from(fraction.len()).ok()? + i64::try_from(digits.len() - significant.len()).ok()?;
        let zeros = "0".repeat(usize::try_from(power + DECIMALS_MAX).ok()?);
        let sign = if mantissa.starts_with('-') { "-" } else { "" };
        format!("{sign}{significant}{zeros}").parse().ok().map(Self)
    }

    /// A whole number.
    pub fn whole(number: u64) -> Self {
        Self(BigInt::from(number) * one())
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        *self < Self::default()
    }

    /// How many decimals it has.
    pub fn decimals(&self) -> usize {
        let text = self.to_string();
        text.split_once('.').map_or(0, |(_, fraction)| fraction.len())
    }

    /// The product with so many microseconds, in seconds. Exact for a number of at most 12 decimals.
    #[must_use]
    pub fn for_micros(&self, micros: i64) -> Self {
        Self(&self.0 * BigInt::from(micros) / BigInt::from(1_000_000))
    }
}

fn one() -> BigInt {
    BigInt::from(10_u64.pow(18))
}

fn exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_short = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = digits.parse().ok().filter(|_| is_short)?;
    Some(if text.starts_with('-') { -number } else { number })
}

impl AddAssign<&Self> for Number {
    fn add_assign(&mut self, other: &Self) {
        self.0 += &other.0;
    }
}

impl Mul<u64> for Number {
    type Output = Self;

    fn mul(self, factor: u64) -> Self {
        Self(self.0 * BigInt::from(factor))
    }
}

impl fmt::Display for Number {
    /// As it is written by hand: no exponent, no needless zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let unsigned = digits.strip_prefix('-').unwrap_or(&digits);
        let padded = format!("{unsigned:0>19}");
        let (whole, fraction) = padded.split_at(padded.len() - 18);
        let fraction = fraction.trim_end_matches('0');
        let sign = if digits.starts_with('-') { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_exactly_or_not_at_all() {
        for (text, written) in [
            ("0", "0"),
            ("-0.00", "0"),
            ("0E-15", "0"),
            ("1.50", "1.5"),
            ("+.5", "0.5"),
            ("5.", "5"),
            ("-12e2", "-1200"),
            ("1.000e1", "10"),
            ("999999999999999999.999999999999999999", "999999999999999999.999999999999999999"),
            ("0.000000000000000001", "0.000000000000000001"),
            ("00000000000000000000000001", "1"),
        ] {
            assert_eq!(Number::read(text).map(|number| number.to_string()).as_deref(), Some(written), "{text}");
        }
        for bad in ["", ".", "-", "1e", "1e+", "1,5", " 1", "1e12345", "0.0000000000000000001", "1e18", "NaN", "0x1"] {
            assert_eq!(Number::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_sum_may_be_larger_than_what_a_source_writes() {
        let sum = "1234567890123456789012.000000000000000001";
        assert_eq!(Number::read(sum), None);
        assert_eq!(Number::read_sum(sum).unwrap().to_string(), sum);
        assert_eq!(Number::read_sum("1/3"), None);
    }

    #[test]
    fn sums_and_products_lose_nothing() {
        let mut sum = Number::read("0.1").unwrap() * 3;
        sum += &Number::read("-0.3").unwrap();
        assert!(sum.is_zero());
        assert_eq!(Number::read("0.000000000001").unwrap().for_micros(1).to_string(), "0.000000000000000001");
        assert_eq!(
            Number::whole(u64::MAX).for_micros(i64::MAX).to_string(),
            "170141183460469231704017187605319.778305"
        );
        assert_eq!(Number::read("1.25").unwrap().decimals(), 2);
    }
}
