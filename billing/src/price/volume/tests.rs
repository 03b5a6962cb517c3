use proptest::prelude::*;

use crate::fraction::Fraction;
use crate::price::PriceModel;
use crate::price::testing::{check, never_falls, tiers};

#[test]
fn all_units_cost_what_the_last_one_costs() {
    let volume =
        PriceModel::Volume { tiers: tiers(&[("100", "1.00", "0"), ("1000", "0.50", "10"), ("", "0.10", "0")]) };
    check(&volume, "0", "0", "1", &["0 at 1"]);
    check(&volume, "100", "100", "1", &["100 at 1"]);
    // A falling price makes the 101st unit cheaper than none: that is what volume pricing means.
    check(&volume, "101", "60.5", "0.5", &["101 at 0.5 + 10"]);
    check(&volume, "100.5", "60.25", "0.5", &["201/2 at 0.5 + 10"]);
    check(&volume, "1000", "510", "0.5", &["1000 at 0.5 + 10"]);
    check(&volume, "1001", "100.1", "0.1", &["1001 at 0.1"]);
}

proptest! {
    /// Where prices do not fall from tier to tier, amounts do not either.
    #[test]
    fn more_never_costs_less_at_prices_that_never_fall(less in 0_i64..20_000, more in 0_i64..20_000) {
        let rising = tiers(&[("100", "0.10", "0"), ("1000", "0.50", "0"), ("", "0.50", "3")]);
        never_falls(&PriceModel::Volume { tiers: rising }, less, more);
    }

    #[test]
    fn exactly_one_tier_holds_the_last_unit(tenths in 0_i64..20_000) {
        let rows = tiers(&[("100", "1.00", "0"), ("1000", "0.50", "0"), ("", "0.10", "0")]);
        let units = Fraction::new(tenths, 10).unwrap();
        prop_assert_eq!(rows.iter().filter(|tier| tier.holds_last_of(&units)).count(), 1);
        prop_assert_eq!(rows.iter().filter(|tier| tier.holds_next_of(&units)).count(), 1);
    }
}
