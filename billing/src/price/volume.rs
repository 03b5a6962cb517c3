//! All units at the price of the tier the last one lies in.

use crate::fraction::Fraction;
use crate::price::tiers::PriceTier;
use crate::price::{Charge, Marginal, Step, UnitPrice};

pub(crate) fn charge(tiers: &[PriceTier], units: &Fraction) -> Option<Charge> {
    let tier = tiers.iter().find(|tier| tier.holds_last_of(units))?;
    let flat = if units.is_zero() { UnitPrice::FREE } else { tier.flat };
    let step = Step::new(Fraction::zero(), units.clone(), tier.price, flat)?;
    Charge::of(vec![step], Marginal { price: tier.price, per: Fraction::whole(1) })
}

#[cfg(test)]
mod tests;
