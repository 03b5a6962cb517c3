//! The lines of usage.

use crate::days::Days;
use crate::money::{AmountError, Money};
use crate::quantity::{Aggregation, Quantity};
use crate::rate_card::MeterPrice;
use crate::rating::{Line, LineKind, Pricing, RatingError, failed, minor_per_major, reduced};
use crate::terms::{Reduction, Stretch, Terms};
use crate::usage::{Measured, Usage};

/// The lines of one meter in a stretch; none where no window reported anything.
pub(super) fn lines(
    terms: &Terms,
    index: usize,
    stretch: &Stretch,
    price: &MeterPrice,
    usage: &Usage,
) -> Result<Vec<Line>, RatingError> {
    let mut lines = Vec::new();
    for (days, reduction) in terms.reductions_of_usage(&stretch.card, price.meter, stretch.days) {
        if let Some(measured) = usage.of(price.meter, days)? {
            let line = line(terms, index, price, days, reduction, measured);
            lines.push(line.map_err(failed(price.meter.as_str()))?);
        }
    }
    Ok(lines)
}

fn line(
    terms: &Terms,
    index: usize,
    price: &MeterPrice,
    days: Days,
    reduction: Option<Reduction>,
    measured: Measured,
) -> Result<Line, AmountError> {
    let out_of_range = || AmountError::OutOfRange;
    let raw = match price.aggregation {
        Aggregation::Sum | Aggregation::TimeWeighted => measured.total,
        Aggregation::Peak => measured.peak,
    };
    let divisor =
        price.aggregation.divisor(price.raw_unit, price.raw_units_per_unit, terms.month).ok_or_else(out_of_range)?;
    let quantity = Quantity::new(raw, divisor).ok_or_else(out_of_range)?;
    let charge = price.charge(&quantity.exact()).ok_or_else(out_of_range)?;
    let in_month = Quantity::days(days.count(), terms.month.days());
    let is_part = days != terms.month.all_days();
    let part_of_month = if price.is_for_the_month() { in_month.exact() } else { crate::fraction::Fraction::whole(1) };
    let list_minor = charge
        .exact
        .checked_mul(&minor_per_major(terms.currency))
        .and_then(|minor| minor.checked_mul(&part_of_month))
        .ok_or_else(out_of_range)?;
    let exact_minor = reduced(&list_minor, reduction.as_ref()).ok_or_else(out_of_range)?;
    let description = match (is_part, price.is_for_the_month()) {
        (true, true) => format!("{}, {} of {} days", price.words(), days.count(), terms.month.days()),
        // A contract that begins or ends within the month needs no words: nothing was used before or after it.
        (true, false) if Ok(days) != terms.days() => format!("{}, {days}", price.words()),
        _ => price.words().to_owned(),
    };
    Ok(Line {
        kind: LineKind::Usage,
        item: price.meter.as_str().to_owned(),
        description,
        days,
        stretch: index,
        quantity,
        unit: price.unit.clone(),
        pricing: Pricing {
            model: price.model.as_str().to_owned(),
            aggregation: Some(price.aggregation),
            steps: charge.steps,
            marginal: charge.marginal,
            part_of_month,
            reduction,
            list_minor,
        },
        windows: Some(measured.windows),
        tax_category: price.tax_category.clone(),
        amount: Money::round_half_even(&exact_minor, terms.currency)?,
        exact_minor,
    })
}
