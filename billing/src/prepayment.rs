//! Paying a fee for twelve months at once, on an invoice of its own.

use chrono::{Months, NaiveDate};
use thiserror::Error;

use crate::days::Days;
use crate::fraction::Fraction;
use crate::invoice::{DraftError, Invoice, InvoiceKind, Sums};
use crate::money::{AmountError, Money};
use crate::price::{Marginal, Step};
use crate::quantity::Quantity;
use crate::rate_card::{Order, RateCard};
use crate::rating::{Line, LineKind, Pricing};
use crate::tax::TaxRate;
use crate::terms::{PrepaidFee, Reduction};

const MONTHS: u32 = 12;

/// An annual prepayment cannot be drafted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PrepaymentError {
    /// Stop: the card has none.
    #[error("{0} has no annual prepayment")]
    NotOffered(String),
    /// Stop: the year ends beyond the calendar.
    #[error("no year begins on {0}")]
    OutOfCalendar(NaiveDate),
    /// Stop: the amounts cannot be formed.
    #[error(transparent)]
    Draft(#[from] DraftError),
}

/// The invoice for twelve months of a card's fee from a day on, in advance, and what it then covers.
///
/// The card's discount for prepaying is taken off the line. A prepayment has no volume discount and takes no coupons: those are a
/// month's. Its tax point, and so its tax rates, are those of its first day, because it is billed before the supply.
pub fn annual_prepayment(
    card: &RateCard,
    customer: &str,
    from: NaiveDate,
    taxes: &[TaxRate],
) -> Result<(Invoice, PrepaidFee), PrepaymentError> {
    let annual = card.annual_prepayment().ok_or_else(|| PrepaymentError::NotOffered(card.to_string()))?;
    let fee = card.fees().iter().find(|fee| fee.id == annual.fee);
    let fee = fee.ok_or_else(|| PrepaymentError::NotOffered(card.to_string()))?;
    let end = from.checked_add_months(Months::new(MONTHS));
    let days = end.and_then(|end| Days::new(from, end)).ok_or(PrepaymentError::OutOfCalendar(from))?;

    let out_of_range = || DraftError::Total(AmountError::OutOfRange);
    let quantity = Quantity::whole(MONTHS);
    let list_minor = fee.amount.exact_minor().checked_mul(&quantity.exact()).ok_or_else(out_of_range)?;
    let exact_minor = list_minor.checked_mul(&annual.off.rest().exact()).ok_or_else(out_of_range)?;
    let price = crate::rating::unit_price(fee.amount).ok_or_else(out_of_range)?;
    let step = Step {
        from: Fraction::zero(),
        units: quantity.exact(),
        price,
        per: Fraction::whole(1),
        flat: crate::price::UnitPrice::FREE,
        exact: quantity.exact().checked_mul(&price.exact()).ok_or_else(out_of_range)?,
    };
    let line = Line {
        kind: LineKind::Prepayment,
        item: fee.id.clone(),
        description: format!("{}, 12 months in advance", fee.description),
        days,
        stretch: 0,
        quantity,
        unit: "month".to_owned(),
        pricing: Pricing {
            model: "fee".to_owned(),
            aggregation: None,
            steps: vec![step],
            marginal: Marginal { price, per: Fraction::whole(1) },
            part_of_month: Fraction::whole(1),
            reduction: Some(Reduction { name: "Annual prepayment".to_owned(), off: annual.off }),
            list_minor,
        },
        windows: None,
        tax_category: fee.tax_category.clone(),
        amount: Money::round_half_even(&exact_minor, card.currency()).map_err(DraftError::Total)?,
        exact_minor,
    };
    let sums =
        Sums { period: days, lines: vec![line], currency: card.currency(), order: Order::default(), discount: None };
    let mut invoice = sums.invoice(InvoiceKind::Prepayment, customer, &[], taxes)?;
    invoice.tax_point = days.start();
    let covers = PrepaidFee { fee: fee.id.clone(), tier: card.tier(), days, invoice: String::new() };
    Ok((invoice, covers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::tests::{card, day, share};
    use crate::tier::Tier;

    fn prepaid(tier: Tier, from: &str) -> (Invoice, PrepaidFee) {
        annual_prepayment(&card(tier), "anna", day(from), &[TaxRate::of_customer(share("0.08"))]).unwrap()
    }

    #[test]
    fn a_year_in_advance_costs_fifteen_percent_less() {
        let (invoice, covers) = prepaid(Tier::Standard, "2027-01-01");
        let totals = invoice.totals;
        let printed = [totals.subtotal, totals.net, totals.tax, totals.total].map(|amount| amount.to_string());
        assert_eq!(printed, ["20,400.00", "20,400.00", "1,632.00", "22,032.00"]);
        assert_eq!(totals.volume_discount.minor(), 0, "a prepayment has its own discount");
        assert_eq!((invoice.kind, invoice.period.to_string()), (InvoiceKind::Prepayment, covers.days.to_string()));
        assert_eq!(covers.days.to_string(), "2027-01-01 to 2027-12-31");
        assert_eq!(invoice.tax_point, day("2027-01-01"));
    }

    #[test]
    fn a_year_from_a_leap_day_ends_with_february() {
        assert_eq!(prepaid(Tier::Standard, "2028-02-29").1.days.to_string(), "2028-02-29 to 2029-02-27");
    }
}
