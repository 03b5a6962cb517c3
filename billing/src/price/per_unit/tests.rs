use num_bigint::BigInt;
use proptest::prelude::*;

use crate::fraction::Fraction;
use crate::price::PriceModel;
use crate::price::testing::{check, never_falls, price};

fn per_unit(unit_price: &str) -> PriceModel {
    PriceModel::PerUnit { price: price(unit_price) }
}

#[test]
fn every_unit_and_every_part_of_one_costs_the_price() {
    check(&per_unit("0.0000002"), "1000000", "0.2", "0.0000002", &["1000000 at 0.0000002"]);
    check(&per_unit("0.03"), "17/31", "51/3100", "0.03", &["17/31 at 0.03"]);
    check(&per_unit("0.03"), "0", "0", "0.03", &["0 at 0.03"]);
    check(&per_unit("0"), "5", "0", "0", &["5 at 0"]);
}

#[test]
fn a_charge_that_does_not_fit_is_none() {
    let beyond = Fraction::new(BigInt::from(2).pow(639), 1).unwrap();
    assert_eq!(per_unit("999999999").charge(&beyond), None);
}

proptest! {
    #[test]
    fn more_never_costs_less(less in 0_i64..1_000_000, more in 0_i64..1_000_000) {
        never_falls(&per_unit("0.045"), less, more);
    }

    #[test]
    fn the_charge_is_price_times_quantity(units in 0_i64..1_000_000_000, price_minor in 0_i64..1_000_000) {
        let unit_price = rust_decimal::Decimal::new(price_minor, 9);
        let charge = per_unit(&unit_price.to_string()).charge(&Fraction::whole(units.into())).unwrap();
        let naive = i128::from(units) * i128::from(price_minor);
        prop_assert_eq!(charge.exact, Fraction::new(naive, 1_000_000_000).unwrap());
    }
}
