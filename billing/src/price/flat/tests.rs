use proptest::prelude::*;

use crate::price::PriceModel;
use crate::price::testing::{check, never_falls, price};

fn flat(amount: &str) -> PriceModel {
    PriceModel::Flat { amount: price(amount) }
}

#[test]
fn any_usage_costs_the_amount_and_none_costs_nothing() {
    check(&flat("49.90"), "0", "0", "49.9", &["0 at 0"]);
    check(&flat("49.90"), "1/31", "49.9", "0", &["1/31 at 0 + 49.9"]);
    check(&flat("49.90"), "1000000", "49.9", "0", &["1000000 at 0 + 49.9"]);
}

proptest! {
    #[test]
    fn more_never_costs_less(less in 0_i64..1_000_000, more in 0_i64..1_000_000) {
        never_falls(&flat("49.90"), less, more);
    }
}
