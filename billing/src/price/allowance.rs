//! An included allowance: the first units cost nothing, only the overage is charged by the price model.

use rust_decimal::Decimal;

use crate::fraction::Fraction;
use crate::price::{Charge, Marginal, PriceModel, Step, UnitPrice};

/// What a quantity costs of which the first `included` units are free. The model's own tiers and packages begin behind them.
pub(crate) fn charge(included: Decimal, model: &PriceModel, units: &Fraction) -> Option<Charge> {
    if included.is_zero() {
        return model.charge(units);
    }
    let allowance = Fraction::from_decimal(included);
    let free = allowance.clone().min(units.clone());
    let overage = units.checked_sub(&free)?;
    let mut steps = vec![Step::new(Fraction::zero(), free, UnitPrice::FREE, UnitPrice::FREE)?];
    let charged = model.charge(&overage)?;
    if !overage.is_zero() {
        for step in charged.steps {
            steps.push(Step { from: step.from.checked_add(&allowance)?, ..step });
        }
    }
    let marginal = if *units < allowance {
        Marginal { price: UnitPrice::FREE, per: Fraction::whole(1) }
    } else {
        charged.marginal
    };
    Charge::of(steps, marginal)
}

#[cfg(test)]
mod tests;
