//! Splitting an amount into parts that sum to it.

use num_bigint::BigUint;

use crate::fraction::Fraction;
use crate::money::{AmountError, Money};

/// Splits an amount in proportion to weights, by largest remainder: each part is first cut off to whole minor units, and what is
/// left over goes, one unit each, to the parts that lost most; of equals the first.
///
/// The parts always sum to the amount. Where all weights are nothing there is nothing in proportion to which to split: all of
/// it goes to the first part. Weights must not be negative, and the amount neither.
pub(crate) fn allocate(amount: Money, weights: &[Money]) -> Result<Vec<Money>, AmountError> {
    debug_assert!(!amount.is_negative() && weights.iter().all(|weight| !weight.is_negative()), "nothing negative");
    let currency = amount.currency();
    let sum = Money::sum(weights.iter().copied(), currency)?;
    if sum.is_zero() {
        let parts = (0..weights.len()).map(|index| if index == 0 { amount } else { Money::zero(currency) });
        return Ok(parts.collect());
    }
    let mut parts = Vec::with_capacity(weights.len());
    let mut lost: Vec<(Fraction, usize)> = Vec::with_capacity(weights.len());
    let mut left = amount.minor();
    for (index, weight) in weights.iter().enumerate() {
        let exact = Fraction::new(i128::from(amount.minor()) * i128::from(weight.minor()), sum.minor())
            .ok_or(AmountError::OutOfRange)?;
        let (floor, rest) = exact.floor();
        let minor = i64::try_from(floor).map_err(|_| AmountError::OutOfRange)?;
        left -= minor;
        parts.push(Money::from_minor(minor, currency));
        if rest != BigUint::ZERO {
            lost.push((Fraction::new(rest, exact.denominator().clone()).ok_or(AmountError::OutOfRange)?, index));
        }
    }
    lost.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, index) in lost.iter().take(usize::try_from(left).map_err(|_| AmountError::OutOfRange)?) {
        parts[*index] = parts[*index].checked_add(Money::from_minor(1, currency))?;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::currency::Currency;

    fn split(amount: i64, weights: &[i64]) -> Vec<i64> {
        let usd = |minor: &i64| Money::from_minor(*minor, Currency::Usd);
        let weights: Vec<Money> = weights.iter().map(usd).collect();
        allocate(usd(&amount), &weights).unwrap().into_iter().map(Money::minor).collect()
    }

    #[test]
    fn what_is_left_over_goes_to_the_largest_remainders_and_of_equals_to_the_first() {
        for (amount, weights, parts) in [
            (100, &[1, 1, 1][..], &[34, 33, 33][..]),
            (10, &[3, 3, 1], &[4, 4, 2]),
            (41_060, &[800_000, 20_000, 1_200], &[40_000, 1_000, 60]),
            (1, &[1, 2, 3], &[0, 0, 1]),
            (0, &[1, 2], &[0, 0]),
            (5, &[0, 0], &[5, 0]),
            (5, &[0, 7], &[0, 5]),
            (5, &[], &[]),
        ] {
            assert_eq!(split(amount, weights), parts, "{amount} over {weights:?}");
        }
    }

    proptest! {
        #[test]
        fn parts_sum_to_the_whole_and_lie_within_one_unit_of_their_share(
            amount in 0_i64..1_000_000_000_000,
            weights in proptest::collection::vec(0_i64..1_000_000_000, 1..12),
        ) {
            let parts = split(amount, &weights);
            prop_assert_eq!(parts.iter().sum::<i64>(), amount);
            let sum: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
            if sum != 0 {
                for (part, weight) in parts.iter().zip(&weights) {
                    let difference = i128::from(*part) * sum - i128::from(amount) * i128::from(*weight);
                    prop_assert!(difference.abs() < sum);
                }
            }
        }
    }
}
