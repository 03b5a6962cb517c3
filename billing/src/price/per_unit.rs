//! The same price for every unit.

use crate::fraction::Fraction;
use crate::price::{Charge, Marginal, Step, UnitPrice};

pub(crate) fn charge(price: UnitPrice, units: &Fraction) -> Option<Charge> {
    let step = Step::new(Fraction::zero(), units.clone(), price, UnitPrice::FREE)?;
    Charge::of(vec![step], Marginal { price, per: Fraction::whole(1) })
}

#[cfg(test)]
mod tests;
