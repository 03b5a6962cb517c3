//! The line that brings a month up to its minimum commitment.

use crate::money::{AmountError, Money};
use crate::proration;
use crate::quantity::Quantity;
use crate::rate_card::{Commitment, Selector};
use crate::rating::fees::{pricing, unit_price};
use crate::rating::{Line, LineKind, RatingError, failed};
use crate::terms::{Stretch, Terms};

const ITEM: &str = "commitment";

/// What the stretch's lines lack to its commitment, which is prorated by day; none where they reach it.
///
/// Lines count as they are charged, phases taken off. The whole of what is missing is one line, so that it is in the subtotal
/// and under the discount like everything else.
pub(super) fn line(
    terms: &Terms,
    index: usize,
    stretch: &Stretch,
    lines: &[Line],
) -> Result<Option<Line>, RatingError> {
    match stretch.card.commitment() {
        None => Ok(None),
        Some(commitment) => missing(terms, index, stretch, commitment, lines).map_err(failed(ITEM)),
    }
}

fn missing(
    terms: &Terms,
    index: usize,
    stretch: &Stretch,
    commitment: &Commitment,
    lines: &[Line],
) -> Result<Option<Line>, AmountError> {
    let counts =
        |line: &&Line| line.stretch == index && commitment.counts.iter().any(|selector| selects(selector, line));
    let counted = Money::sum(lines.iter().filter(counts).map(|line| line.amount), terms.currency)?;
    let (days, in_month) = (stretch.days, terms.month.days());
    let offsets = terms.month.days_before(days.start())..terms.month.days_before(days.end());
    let committed = proration::part(&commitment.amount.exact_minor(), terms.currency, offsets, in_month)?;
    if !committed.exceeds(counted)? {
        return Ok(None);
    }
    let amount = committed.checked_sub(counted)?;
    let price = unit_price(amount).ok_or(AmountError::OutOfRange)?;
    let quantity = Quantity::whole(1);
    let description = format!("{} from {counted} to {committed}", commitment.description);
    Ok(Some(Line {
        kind: LineKind::TrueUp,
        item: ITEM.to_owned(),
        description,
        days,
        stretch: index,
        pricing: pricing(
            price,
            &quantity.exact(),
            Quantity::days(days.count(), in_month).exact(),
            None,
            amount.exact_minor(),
        )?,
        quantity,
        unit: "period".to_owned(),
        windows: None,
        tax_category: commitment.tax_category.clone(),
        exact_minor: amount.exact_minor(),
        amount,
    }))
}

fn selects(selector: &Selector, line: &Line) -> bool {
    match line.kind {
        LineKind::Usage => line.meter().is_some_and(|meter| selector.selects_usage(meter)),
        LineKind::BaseFee | LineKind::RecurringFee | LineKind::OneOffFee => selector.selects_fee(&line.item),
        LineKind::TrueUp | LineKind::Prepayment => false,
    }
}
