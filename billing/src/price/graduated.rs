//! Each unit at the price of the tier it lies in.

use crate::fraction::Fraction;
use crate::price::tiers::PriceTier;
use crate::price::{Charge, Marginal, Step, UnitPrice};

pub(crate) fn charge(tiers: &[PriceTier], units: &Fraction) -> Option<Charge> {
    let mut steps = Vec::new();
    for tier in tiers {
        let (begin, end) = (tier.begin(), tier.end());
        // The first tier stands also for nothing used, so that a line always says its price; it is not reached then.
        let is_reached = begin < *units;
        if !is_reached && !tier.from.is_zero() {
            break;
        }
        let last = end.map_or_else(|| units.clone(), |end| end.min(units.clone()));
        let flat = if is_reached { tier.flat } else { UnitPrice::FREE };
        steps.push(Step::new(begin.clone(), last.checked_sub(&begin)?, tier.price, flat)?);
    }
    let next = tiers.iter().find(|tier| tier.holds_next_of(units))?;
    Charge::of(steps, Marginal { price: next.price, per: Fraction::whole(1) })
}

#[cfg(test)]
mod tests;
