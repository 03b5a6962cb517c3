use proptest::prelude::*;
use rust_decimal::Decimal;

use crate::fraction::Fraction;
use crate::price::PriceModel;
use crate::price::testing::{check, never_falls, price};

fn package(size: &str, package_price: &str) -> PriceModel {
    PriceModel::Package { size: size.parse().unwrap(), price: price(package_price) }
}

#[test]
fn a_package_that_was_begun_counts_whole() {
    let model = package("1000", "5.00");
    check(&model, "0", "0", "5 per 1000", &["0 at 5 per 1000"]);
    check(&model, "1", "5", "5 per 1000", &["1 at 5 per 1000"]);
    check(&model, "1000", "5", "5 per 1000", &["1000 at 5 per 1000"]);
    check(
        &model,
        "1000.000000000000000001",
        "10",
        "5 per 1000",
        &["1000000000000000000001/1000000000000000000 at 5 per 1000"],
    );
    check(&package("0.5", "1"), "1.2", "3", "1 per 0.5", &["6/5 at 1 per 0.5"]);
}

#[test]
fn a_package_without_units_is_no_package() {
    for size in ["0", "-1"] {
        let fault = package(size, "1").fault().unwrap();
        assert_eq!((fault.tier, fault.rule.as_str()), (None, "a package has more than 0 units"));
    }
    assert_eq!(package("1", "1").fault(), None);
}

proptest! {
    #[test]
    fn more_never_costs_less(less in 0_i64..1_000_000, more in 0_i64..1_000_000) {
        never_falls(&package("1000", "5.00"), less, more);
    }

    #[test]
    fn whole_packages_are_charged(units in 0_i64..1_000_000, size in 1_i64..5_000) {
        let model = PriceModel::Package { size: Decimal::from(size), price: price("1") };
        let naive = units / size + i64::from(units % size != 0);
        prop_assert_eq!(model.charge(&Fraction::whole(units.into())).unwrap().exact, Fraction::whole(naive.into()));
    }
}
