use proptest::prelude::*;
use rust_decimal::Decimal;

use super::charge;
use crate::fraction::Fraction;
use crate::price::PriceModel;
use crate::price::testing::{price, tiers, units};

fn check(model: &PriceModel, quantity: &str, amount: &str, marginal: &str, steps: &[(&str, &str, &str)]) {
    let found = charge(Decimal::ONE_HUNDRED, model, &units(quantity)).unwrap();
    let written: Vec<(String, String, String)> = found
        .steps
        .iter()
        .map(|step| (step.from.to_string(), step.units.to_string(), step.price.decimal().to_string()))
        .collect();
    let expected: Vec<(String, String, String)> =
        steps.iter().map(|(from, units, price)| ((*from).into(), (*units).into(), (*price).into())).collect();
    assert_eq!(
        (found.exact, found.marginal.price.decimal().to_string().as_str(), written),
        (units(amount), marginal, expected),
        "{quantity}"
    );
}

#[test]
fn only_what_goes_beyond_the_allowance_is_charged() {
    let model = PriceModel::PerUnit { price: price("0.5") };
    check(&model, "0", "0", "0", &[("0", "0", "0")]);
    check(&model, "99", "0", "0", &[("0", "99", "0")]);
    // All of the allowance is used: the next unit costs.
    check(&model, "100", "0", "0.5", &[("0", "100", "0")]);
    check(&model, "101.5", "0.75", "0.5", &[("0", "100", "0"), ("100", "3/2", "0.5")]);
}

#[test]
fn tiers_and_packages_begin_behind_the_allowance() {
    let graduated = PriceModel::Graduated { tiers: tiers(&[("10", "1", "0"), ("", "0.1", "0")]) };
    check(&graduated, "115", "10.5", "0.1", &[("0", "100", "0"), ("100", "10", "1"), ("110", "5", "0.1")]);
    let package = PriceModel::Package { size: Decimal::TEN, price: price("2") };
    check(&package, "111", "4", "2", &[("0", "100", "0"), ("100", "11", "2")]);
    // A flat amount is for the overage: within the allowance there is none.
    let flat = PriceModel::Flat { amount: price("7") };
    check(&flat, "100", "0", "7", &[("0", "100", "0")]);
    check(&flat, "101", "7", "0", &[("0", "100", "0"), ("100", "1", "0")]);
}

proptest! {
    #[test]
    fn more_never_costs_less_and_never_more_than_without_allowance(less in 0_i64..3_000, more in 0_i64..3_000) {
        let model = PriceModel::PerUnit { price: price("0.045") };
        let amount = |tenths: i64| charge(Decimal::ONE_HUNDRED, &model, &Fraction::new(tenths, 10).unwrap()).unwrap().exact;
        prop_assert!(amount(less) <= amount(less + more));
        prop_assert!(amount(less) <= model.charge(&Fraction::new(less, 10).unwrap()).unwrap().exact);
    }
}
