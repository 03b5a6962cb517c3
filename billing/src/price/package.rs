//! Packages of units; one begun counts whole.

use rust_decimal::Decimal;

use crate::fraction::Fraction;
use crate::price::{Charge, Marginal, Step, UnitPrice};

pub(crate) fn charge(size: Decimal, price: UnitPrice, units: &Fraction) -> Option<Charge> {
    let size = Fraction::from_decimal(size);
    let packages = units.checked_div(&size)?.ceiling();
    let exact = packages.checked_mul(&price.exact())?;
    let step =
        Step { from: Fraction::zero(), units: units.clone(), price, per: size.clone(), flat: UnitPrice::FREE, exact };
    Charge::of(vec![step], Marginal { price, per: size })
}

#[cfg(test)]
mod tests;
