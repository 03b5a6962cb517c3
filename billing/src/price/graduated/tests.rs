use proptest::prelude::*;

use crate::fraction::Fraction;
use crate::price::PriceModel;
use crate::price::testing::{check, never_falls, tiers, units};

fn graduated() -> PriceModel {
    PriceModel::Graduated { tiers: tiers(&[("100", "1.00", "0"), ("1000", "0.50", "10"), ("", "0.10", "0")]) }
}

#[test]
fn each_unit_costs_what_its_tier_costs() {
    check(&graduated(), "0", "0", "1", &["0 at 1"]);
    check(&graduated(), "99.5", "99.5", "1", &["199/2 at 1"]);
    // The hundredth unit lies in the first tier; the next one will not.
    check(&graduated(), "100", "100", "0.5", &["100 at 1"]);
    check(&graduated(), "101", "110.5", "0.5", &["100 at 1", "1 at 0.5 + 10"]);
    check(&graduated(), "1000", "560", "0.1", &["100 at 1", "900 at 0.5 + 10"]);
    check(&graduated(), "1001", "560.1", "0.1", &["100 at 1", "900 at 0.5 + 10", "1 at 0.1"]);
}

#[test]
fn a_single_tier_is_a_price_per_unit() {
    let single = PriceModel::Graduated { tiers: tiers(&[("", "0.045", "0")]) };
    check(&single, "1000", "45", "0.045", &["1000 at 0.045"]);
}

proptest! {
    #[test]
    fn more_never_costs_less(less in 0_i64..20_000, more in 0_i64..20_000) {
        never_falls(&graduated(), less, more);
    }

    /// The naive way: one unit after the other.
    #[test]
    fn the_charge_is_the_sum_over_single_units(count in 0_u32..1_500) {
        let mut naive = Fraction::zero();
        for unit in 0..count {
            let cost = match unit {
                0..100 => "1",
                // The first unit of the second tier also pays for reaching it.
                100 => "10.5",
                101..1000 => "0.5",
                _ => "0.1",
            };
            naive = naive.checked_add(&units(cost)).unwrap();
        }
        let charge = graduated().charge(&Fraction::whole(count.into())).unwrap();
        prop_assert_eq!(charge.exact, naive);
        let used = charge.steps.iter().try_fold(Fraction::zero(), |sum, step| sum.checked_add(&step.units)).unwrap();
        prop_assert_eq!(used, Fraction::whole(count.into()), "the tiers used sum to the quantity");
    }
}
