//! One amount for a month in which the meter was used at all, however much.

use crate::fraction::Fraction;
use crate::price::{Charge, Marginal, Step, UnitPrice};

pub(crate) fn charge(amount: UnitPrice, units: &Fraction) -> Option<Charge> {
    let is_used = !units.is_zero();
    let flat = if is_used { amount } else { UnitPrice::FREE };
    let step = Step::new(Fraction::zero(), units.clone(), UnitPrice::FREE, flat)?;
    // The first unit costs the amount, every further one nothing.
    let price = if is_used { UnitPrice::FREE } else { amount };
    Charge::of(vec![step], Marginal { price, per: Fraction::whole(1) })
}

#[cfg(test)]
mod tests;
