//! Charging part of a month's fee by exact fraction.

use std::ops::Range;

use crate::currency::Currency;
use crate::fraction::Fraction;
use crate::money::{AmountError, Money};

/// The part of a month's fee for some of the month's days: `round(fee x end / n) - round(fee x start / n)`.
///
/// `days` counts from 0 at the month's first day and is half-open; the fee is exact and in minor units. Taking the difference
/// of two rounded running sums, and not rounding the part itself, makes the parts of any division of the month add up to the
/// rounded fee.
pub fn part(
    fee_minor: &Fraction,
    currency: Currency,
    days: Range<u32>,
    days_in_month: u32,
) -> Result<Money, AmountError> {
    let up_to = |day: u32| {
        let share = Fraction::new(day, days_in_month).ok_or(AmountError::OutOfRange)?;
        let exact = fee_minor.checked_mul(&share).ok_or(AmountError::OutOfRange)?;
        Money::round_half_even(&exact, currency)
    };
    up_to(days.end)?.checked_sub(up_to(days.start)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minor(fee: &Fraction, days: Range<u32>, days_in_month: u32) -> i64 {
        part(fee, Currency::Usd, days, days_in_month).unwrap().minor()
    }

    #[test]
    fn a_part_of_the_fee_is_the_difference_of_two_running_sums() {
        for (fee, days, of, expected) in [
            (200_000, 0..31, 31, 200_000),
            (200_000, 14..31, 31, 109_677),
            (200_000, 0..14, 31, 90_323),
            (200_000, 30..31, 31, 6_452),
            (200_000, 31..31, 31, 0),
            (200_000, 0..14, 28, 100_000),
        ] {
            assert_eq!(minor(&Fraction::whole(fee), days.clone(), of), expected, "{days:?} of {of}");
        }
    }

    proptest! {
        #[test]
        fn the_parts_of_a_month_sum_to_its_rounded_fee(
            above in 0_i64..10_000_000_000,
            below in 1_i64..5,
            days_in_month in 28_u32..=31,
            cuts in proptest::collection::vec(0_u32..=31, 0..8),
        ) {
            let fee = Fraction::new(above, below).unwrap();
            let mut cuts: Vec<u32> = cuts.into_iter().map(|cut| cut.min(days_in_month)).collect();
            cuts.extend([0, days_in_month]);
            cuts.sort_unstable();
            let mut sum = 0;
            for pair in cuts.windows(2) {
                let minor = minor(&fee, pair[0]..pair[1], days_in_month);
                prop_assert!(0 <= minor, "no part is negative");
                sum += minor;
            }
            prop_assert_eq!(sum, Money::round_half_even(&fee, Currency::Usd).unwrap().minor());
        }
    }
}
