//! Exact fractions: what a quantity or an amount is before its one rounding.

use std::fmt;

use rust_decimal::Decimal;

/// An exact fraction in lowest terms with a positive denominator.
///
/// Fractions of `i128` and not decimals, because a GB-month divides by the seconds of a month: 1/31 has no finite decimal, and
/// 28 digits of one would be a second, hidden rounding. Each operation is checked: a result that does not fit is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fraction {
    numerator: i128,
    denominator: i128,
}

impl Fraction {
    /// Nothing.
    pub const ZERO: Self = Self { numerator: 0, denominator: 1 };

    /// `numerator / denominator`; `None` when the denominator is zero or the fraction does not fit.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let divisor = greatest_common_divisor(numerator.unsigned_abs(), denominator.unsigned_abs());
        let divisor = i128::try_from(divisor).ok()?;
        let sign = if denominator < 0 { -1 } else { 1 };
        Some(Self {
            numerator: (numerator / divisor).checked_mul(sign)?,
            denominator: (denominator / divisor).checked_mul(sign)?,
        })
    }

    /// A whole number.
    pub fn whole(number: i128) -> Self {
        Self { numerator: number, denominator: 1 }
    }

    /// The exact value of a decimal.
    pub fn from_decimal(decimal: Decimal) -> Self {
        let denominator = 10_i128.pow(decimal.scale());
        Self::new(decimal.mantissa(), denominator).expect("a decimal is 96 bits over at most 10^28")
    }

    /// The product; common factors are cancelled first, so only a product that truly does not fit is `None`.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let left = Self::new(self.numerator, other.denominator)?;
        let right = Self::new(other.numerator, self.denominator)?;
        Self::new(left.numerator.checked_mul(right.numerator)?, left.denominator.checked_mul(right.denominator)?)
    }

    /// The upper number, in lowest terms.
    pub fn numerator(self) -> i128 {
        self.numerator
    }

    /// The lower number, in lowest terms; always positive.
    pub fn denominator(self) -> i128 {
        self.denominator
    }

    /// The decimal digits up to `places_max` behind the point, cut off and never rounded up; for people to read, never to
    /// calculate with.
    pub fn to_decimal_text(self, places_max: usize) -> String {
        let whole = (self.numerator / self.denominator).unsigned_abs();
        let denominator = self.denominator.unsigned_abs();
        let mut rest = self.numerator.unsigned_abs() % denominator;
        let mut places = String::new();
        while rest != 0 && places.len() < places_max {
            // One digit by ten additions: ten times the rest might not fit where the denominator is nearly 2^127.
            let mut digit = 0_u8;
            let mut next = 0_u128;
            for _ in 0..10 {
                next += rest;
                if denominator <= next {
                    next -= denominator;
                    digit += 1;
                }
            }
            places.push(char::from(b'0' + digit));
            rest = next;
        }
        let places = places.trim_end_matches('0');
        let sign = if self.numerator < 0 && (whole != 0 || !places.is_empty()) { "-" } else { "" };
        if places.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{places}") }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denominator == 1 {
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

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fraction(numerator: i128, denominator: i128) -> Fraction {
        Fraction::new(numerator, denominator).unwrap()
    }

    #[test]
    fn equal_values_are_equal_fractions_with_the_sign_above() {
        assert_eq!(fraction(2, 4), fraction(1, 2));
        assert_eq!(fraction(3, -6), fraction(-1, 2));
        assert_eq!(fraction(0, 5), Fraction::ZERO);
        assert_eq!(Fraction::new(1, 0), None);
        assert_eq!(Fraction::from_decimal("0.00000015".parse().unwrap()), fraction(3, 20_000_000));
    }

    #[test]
    fn a_product_that_does_not_fit_is_none_and_one_that_cancels_fits() {
        let huge = Fraction::whole(i128::MAX);
        assert_eq!(huge.checked_mul(Fraction::whole(2)), None);
        assert_eq!(huge.checked_mul(fraction(1, i128::MAX)), Some(Fraction::whole(1)));
        assert_eq!(huge.checked_mul(fraction(2, i128::MAX)), Some(Fraction::whole(2)));
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
            (Fraction::ZERO, "0"),
        ] {
            assert_eq!(value.to_decimal_text(12), text);
        }
    }
}
