//! The lines of fees.

use crate::days::Days;
use crate::fraction::Fraction;
use crate::money::{AmountError, Money};
use crate::price::{Marginal, Step, UnitPrice};
use crate::proration;
use crate::quantity::Quantity;
use crate::rate_card::{Fee, FeeKind};
use crate::rating::{Line, LineKind, Pricing, RatingError, failed, reduced};
use crate::terms::{Reduction, Stretch, Terms};

/// The lines of a stretch's fees, in the order of the card.
pub(super) fn lines(terms: &Terms, index: usize, stretch: &Stretch) -> Result<Vec<Line>, RatingError> {
    let mut lines = Vec::new();
    for fee in stretch.card.fees() {
        let days = match fee.kind {
            FeeKind::Base | FeeKind::Recurring => Some(stretch.days),
            FeeKind::OnceAtStart => one_day(stretch, terms.contract_start),
            FeeKind::OnceOn(day) => one_day(stretch, day),
        };
        let Some(days) = days else { continue };
        for (days, reduction) in terms.reductions_of_fee(&stretch.card, fee, days) {
            lines.push(line(terms, index, fee, days, reduction).map_err(failed(&fee.id))?);
        }
    }
    Ok(lines)
}

/// The day, if the stretch has it.
fn one_day(stretch: &Stretch, day: chrono::NaiveDate) -> Option<Days> {
    stretch.days.meet(Days::new(day, day.succ_opt()?)?)
}

fn line(terms: &Terms, index: usize, fee: &Fee, days: Days, reduction: Option<Reduction>) -> Result<Line, AmountError> {
    let whole = fee.amount.exact_minor();
    let reduced_fee = reduced(&whole, reduction.as_ref()).ok_or(AmountError::OutOfRange)?;
    let in_month = terms.month.days();
    let (quantity, part, amount) = if fee.kind.is_monthly() {
        let offsets = terms.month.days_before(days.start())..terms.month.days_before(days.end());
        let quantity = Quantity::days(days.count(), in_month);
        let part = quantity.exact();
        (quantity, part, proration::part(&reduced_fee, fee.amount.currency(), offsets, in_month)?)
    } else {
        (Quantity::whole(1), Fraction::whole(1), Money::round_half_even(&reduced_fee, fee.amount.currency())?)
    };
    let words = if fee.kind.is_monthly() && days != terms.month.all_days() {
        format!("{}, {} of {in_month} days", fee.description, days.count())
    } else {
        fee.description.clone()
    };
    let (kind, unit) = match fee.kind {
        FeeKind::Base => (LineKind::BaseFee, "month"),
        FeeKind::Recurring => (LineKind::RecurringFee, "month"),
        FeeKind::OnceAtStart | FeeKind::OnceOn(_) => (LineKind::OneOffFee, "once"),
    };
    let price = unit_price(fee.amount).ok_or(AmountError::OutOfRange)?;
    let list_minor = whole.checked_mul(&part).ok_or(AmountError::OutOfRange)?;
    Ok(Line {
        kind,
        item: fee.id.clone(),
        description: words,
        days,
        stretch: index,
        pricing: pricing(price, &quantity.exact(), part.clone(), reduction, list_minor)?,
        quantity,
        unit: unit.to_owned(),
        windows: None,
        tax_category: fee.tax_category.clone(),
        exact_minor: reduced_fee.checked_mul(&part).ok_or(AmountError::OutOfRange)?,
        amount,
    })
}

/// An amount as a price; `None` of one that is no price because it is too high.
pub(crate) fn unit_price(amount: Money) -> Option<UnitPrice> {
    UnitPrice::new(rust_decimal::Decimal::new(amount.minor(), amount.currency().minor_digits()))
}

/// What a fee costs by the quantity.
pub(super) fn pricing(
    price: UnitPrice,
    units: &Fraction,
    part_of_month: Fraction,
    reduction: Option<Reduction>,
    list_minor: Fraction,
) -> Result<Pricing, AmountError> {
    let exact = units.checked_mul(&price.exact()).ok_or(AmountError::OutOfRange)?;
    let one = Fraction::whole(1);
    let step =
        Step { from: Fraction::zero(), units: units.clone(), price, per: one.clone(), flat: UnitPrice::FREE, exact };
    Ok(Pricing {
        model: "fee".to_owned(),
        aggregation: None,
        steps: vec![step],
        marginal: Marginal { price, per: one },
        part_of_month,
        reduction,
        list_minor,
    })
}
