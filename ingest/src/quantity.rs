//! Exact decimal quantities. No binary floating point comes near them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An exact number with at most [`Quantity::FRACTION_DIGITS_MAX`] decimals; equal numbers are equal however they were written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantity {
    mantissa: i128,
    /// Decimals of the mantissa; none of its last digits is a needless zero.
    scale: u8,
}

/// The text is no exact quantity.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAQuantity {
    /// It is not a decimal number.
    #[error("not a decimal number")]
    NotANumber,
    /// It has more decimals than are kept; it is never rounded.
    #[error("more than 18 decimals")]
    TooPrecise,
    /// It is too large.
    #[error("more than 18 digits before the point")]
    TooLarge,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { mantissa: 0, scale: 0 };
    /// Most decimals. FOCUS exports have up to 15.
    pub const FRACTION_DIGITS_MAX: u8 = 18;
    /// Most digits before the point of what a source may say: 10^18 bytes are an exabyte.
    pub const INTEGER_DIGITS_MAX: i32 = 18;
    /// Longest text that is looked at; no number a source writes is longer.
    const TEXT_BYTES_MAX: usize = 64;

    /// `mantissa` / 10^`scale`; `None` when more decimals than [`Self::FRACTION_DIGITS_MAX`] are needed.
    pub fn new(mantissa: i128, scale: u8) -> Option<Self> {
        let (mut mantissa, mut scale) = (mantissa, scale);
        while 0 < scale && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        (scale <= Self::FRACTION_DIGITS_MAX).then_some(Self { mantissa, scale })
    }

    /// A whole number.
    pub fn whole(number: i128) -> Self {
        Self { mantissa: number, scale: 0 }
    }

    /// The number as `mantissa` / 10^`scale`, with the fewest decimals.
    pub fn parts(self) -> (i128, u8) {
        (self.mantissa, self.scale)
    }

    /// Decimals it has.
    pub fn fraction_digits(self) -> u8 {
        self.scale
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.mantissa < 0
    }

    /// The sum; `None` when it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        Self::new(self.at(scale)?.checked_add(other.at(scale)?)?, scale)
    }

    /// The difference; `None` when it does not fit.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self { mantissa: other.mantissa.checked_neg()?, scale: other.scale })
    }

    /// The product with a whole number; `None` when it does not fit.
    pub fn checked_mul(self, factor: i128) -> Option<Self> {
        Self::new(self.mantissa.checked_mul(factor)?, self.scale)
    }

    /// The product with so many microseconds, in seconds; `None` when it does not fit or needs more decimals.
    pub fn checked_mul_micros(self, micros: i64) -> Option<Self> {
        Self::new(self.mantissa.checked_mul(micros.into())?, self.scale + 6)
    }

    /// The mantissa at this scale, which is not below its own.
    fn at(self, scale: u8) -> Option<i128> {
        self.mantissa.checked_mul(10_i128.checked_pow(u32::from(scale - self.scale))?)
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let whole = |number: &Self| {
            let unit = 10_i128.pow(number.scale.into());
            (number.mantissa.div_euclid(unit), number.mantissa.rem_euclid(unit), number.scale)
        };
        let ((a, a_rest, a_scale), (b, b_rest, b_scale)) = (whole(self), whole(other));
        // Both rests are below one, so neither grows beyond 10^18.
        let scale = a_scale.max(b_scale);
        let at = |rest: i128, of: u8| rest * 10_i128.pow(u32::from(scale - of));
        a.cmp(&b).then_with(|| at(a_rest, a_scale).cmp(&at(b_rest, b_scale)))
    }
}

/// Reads a decimal number, with an exponent or without, as JSON and CSV have it. Nothing is rounded and nothing trimmed.
impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        use NotAQuantity::{NotANumber, TooLarge, TooPrecise};
        if Self::TEXT_BYTES_MAX < text.len() {
            return Err(if text.bytes().all(|byte| byte.is_ascii_digit()) { TooLarge } else { NotANumber });
        }
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, read_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if integer.len() + fraction.len() == 0 || !is_digits(integer) || !is_digits(fraction) {
            return Err(NotANumber);
        }
        let all = format!("{integer}{fraction}");
        let significant = all.trim_start_matches('0');
        let trimmed = significant.trim_end_matches('0');
        if trimmed.is_empty() {
            return Ok(Self::ZERO);
        }
        // The number is `trimmed` times ten to the power of:
        let length = |text: &str| i32::try_from(text.len()).expect("checked: the text is short");
        let power = exponent - length(fraction) + length(significant) - length(trimmed);
        if i32::from(Self::FRACTION_DIGITS_MAX) < -power {
            return Err(TooPrecise);
        }
        if Self::INTEGER_DIGITS_MAX < length(trimmed) + power {
            return Err(TooLarge);
        }
        // At most 18 digits before and 18 behind the point: 36 digits fit.
        let mut mantissa: i128 = trimmed.parse().map_err(|_| TooLarge)?;
        if 0 < power {
            mantissa *= 10_i128.pow(power.unsigned_abs());
        }
        let scale = u8::try_from((-power).max(0)).map_err(|_| TooPrecise)?;
        Self::new(if is_negative { -mantissa } else { mantissa }, scale).ok_or(TooPrecise)
    }
}

fn read_exponent(text: &str) -> Result<i32, NotAQuantity> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || 4 < digits.len() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotAQuantity::NotANumber);
    }
    text.parse().map_err(|_| NotAQuantity::NotANumber)
}

/// Writes the plain decimal form with the fewest digits, such as `-0.5` or `120`.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs().to_string();
        let scale = usize::from(self.scale);
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (integer, fraction) = digits.split_at(digits.len() - scale);
        write!(f, "{sign}{integer}.{fraction}")
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, NotAQuantity> {
        text.parse::<Quantity>().map(|quantity| quantity.to_string())
    }

    #[test]
    fn a_number_is_read_exactly_or_refused() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("0E-15", "0"),
            ("0e-9999", "0"),
            ("007", "7"),
            ("1.50", "1.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0.000847710500000", "-0.0008477105"),
            ("3486.031944444400000", "3486.0319444444"),
            ("9.5367e-07", "0.00000095367"),
            ("1.5E3", "1500"),
            ("12e+2", "1200"),
            ("999999999999999999.999999999999999999", "999999999999999999.999999999999999999"),
            ("0.000000000000000001", "0.000000000000000001"),
            ("0.0000000000000000010", "0.000000000000000001"),
            ("100000000000000000e0", "100000000000000000"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, why) in [
            ("", NotAQuantity::NotANumber),
            (".", NotAQuantity::NotANumber),
            ("-", NotAQuantity::NotANumber),
            ("NULL", NotAQuantity::NotANumber),
            ("NaN", NotAQuantity::NotANumber),
            ("1,5", NotAQuantity::NotANumber),
            (" 1", NotAQuantity::NotANumber),
            ("1 ", NotAQuantity::NotANumber),
            ("1e", NotAQuantity::NotANumber),
            ("1e+-2", NotAQuantity::NotANumber),
            ("0x10", NotAQuantity::NotANumber),
            ("1e99999", NotAQuantity::NotANumber),
            ("１", NotAQuantity::NotANumber),
            ("0.0000000000000000001", NotAQuantity::TooPrecise),
            ("1e-9999", NotAQuantity::TooPrecise),
            ("1000000000000000000", NotAQuantity::TooLarge),
            ("1e18", NotAQuantity::TooLarge),
            ("1e9999", NotAQuantity::TooLarge),
        ] {
            assert_eq!(read(text), Err(why), "{text}");
        }
    }

    #[test]
    fn arithmetic_is_exact_or_does_not_happen() {
        let of = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(of("0.1").checked_add(of("0.2")), Some(of("0.3")));
        assert_eq!(of("0.3").checked_sub(of("0.3")), Some(Quantity::ZERO));
        assert_eq!(of("1073741824").checked_mul_micros(3_600_000_000), Some(of("3865470566400")));
        assert_eq!(of("0.5").checked_mul_micros(1), Some(of("0.0000005")));
        assert_eq!(of("0.0000000000001").checked_mul_micros(1), None, "more than 18 decimals");
        assert_eq!(Quantity::whole(i128::MAX).checked_add(Quantity::whole(1)), None);
        assert_eq!(Quantity::whole(i128::MAX).checked_add(of("0.1")), None);
        assert!(of("-0.5") < of("-0.25") && of("1.10") < of("1.2") && Quantity::whole(i128::MAX) > of("0.1"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_order_is_that_of_the_numbers(
            a in -10_i128.pow(30)..10_i128.pow(30), b in -10_i128.pow(30)..10_i128.pow(30), scales in (12_u8..=18, 12_u8..=18),
        ) {
            let (x, y) = (Quantity::new(a, scales.0).unwrap(), Quantity::new(b, scales.1).unwrap());
            prop_assert_eq!(x.to_string().parse::<Quantity>().unwrap(), x);
            let (a, b) = (a * 10_i128.pow(u32::from(18 - scales.0)), b * 10_i128.pow(u32::from(18 - scales.1)));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.checked_add(y).unwrap(), Quantity::new(a + b, 18).unwrap());
        }
    }
}
