//! From lines to a total: the declared order of the arithmetic, in one place.

use ingest::{Meter, Timestamp};
use thiserror::Error;

use crate::money::{AmountError, Money, Share};
use crate::period::Month;
use crate::quantity::Usage;
use crate::rate_card::RateCard;
use crate::rating::{self, Line, RatingError};

/// The amounts below the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The sum of the lines.
    pub subtotal: Money,
    /// The volume discount, as a positive amount.
    pub discount: Money,
    /// What is taxed.
    pub net: Money,
    /// The tax on the net amount.
    pub tax: Money,
    /// What is to be paid.
    pub total: Money,
}

/// The subtotal that must be exceeded, and the share of it that is then taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeDiscount {
    /// A subtotal of exactly this much has no discount.
    pub threshold: Money,
    /// The share of the whole subtotal.
    pub rate: Share,
}

impl Totals {
    /// Adds up the lines, in the order that holds for every invoice:
    ///
    /// lines → subtotal → volume discount → net → tax → total.
    ///
    /// Steps that are to come have their places in it and nowhere else: the commitment true-up before the subtotal, coupons
    /// between discount and net, prepaid credit after the total.
    pub fn of(lines: &[Money], discount: VolumeDiscount, tax_rate: Share) -> Result<Self, AmountError> {
        let zero = Money::zero(discount.threshold.currency());
        // Here: the commitment true-up.
        let subtotal = lines.iter().try_fold(zero, |sum, line| sum.checked_add(*line))?;
        let exceeded = subtotal.exceeds(discount.threshold)?;
        let discount = if exceeded { subtotal.share(discount.rate)? } else { zero };
        // Here: coupons, percent then fixed, never below zero.
        let net = subtotal.checked_sub(discount)?;
        let tax = net.share(tax_rate)?;
        let total = net.checked_add(tax)?;
        // Here: prepaid credit, which never lowers tax, and what is due after it.
        Ok(Self { subtotal, discount, net, tax, total })
    }
}

/// An invoice before it is issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The billed month.
    pub month: Month,
    /// The lines in their order.
    pub lines: Vec<Line>,
    /// What follows from the lines.
    pub totals: Totals,
    /// The condition under which the discount was taken or not.
    pub volume_discount: VolumeDiscount,
    /// The customer's tax rate.
    pub tax_rate: Share,
    /// Priced meters that no window reported: nothing was charged for them, which does not mean that nothing was used.
    pub meters_without_usage: Vec<Meter>,
}

/// An invoice cannot be drafted. Stop for this customer: the figures are wrong, and trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DraftError {
    /// A line cannot be formed.
    #[error(transparent)]
    Rating(#[from] RatingError),
    /// An amount below the lines cannot be formed.
    #[error("total: {0}")]
    Total(#[from] AmountError),
}

/// Drafts the invoice of a month: rates the usage and adds it up. A pure function; the same figures give the same draft.
pub fn draft(
    card: &RateCard,
    month: Month,
    contract_start: Timestamp,
    usage: &Usage,
    tax_rate: Share,
) -> Result<Draft, DraftError> {
    let lines = rating::rate(card, month, contract_start, usage)?;
    let amounts: Vec<Money> = lines.iter().map(|line| line.amount).collect();
    let volume_discount = VolumeDiscount { threshold: card.discount_threshold(), rate: card.discount_rate() };
    let totals = Totals::of(&amounts, volume_discount, tax_rate)?;
    let meters_without_usage =
        Meter::PRICED.into_iter().filter(|meter| card.price(*meter).is_some() && usage.of(*meter).is_none()).collect();
    Ok(Draft { month, lines, totals, volume_discount, tax_rate, meters_without_usage })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Currency;
    use crate::rate_card::tests::card;
    use crate::tier::Tier;

    fn usd(minor: i64) -> Money {
        Money::from_minor(minor, Currency::Usd)
    }

    fn five_percent_over_5000() -> VolumeDiscount {
        VolumeDiscount { threshold: usd(500_000), rate: Share::new("0.05".parse().unwrap()).unwrap() }
    }

    fn tax(rate: &str) -> Share {
        Share::new(rate.parse().unwrap()).unwrap()
    }

    fn contract() -> Timestamp {
        Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").unwrap()
    }

    /// `[subtotal, discount, net, tax, total]` as printed.
    fn printed(totals: Totals) -> [String; 5] {
        [totals.subtotal, totals.discount, totals.net, totals.tax, totals.total].map(|amount| amount.to_string())
    }

    #[test]
    fn a_standard_customer_with_every_meter_owes_2218_54() {
        let gib = 1_i128 << 30;
        let mut usage = Usage::default();
        for (meter, raw) in [
            (Meter::LogStorageGb, 100 * gib * 2_678_400),
            (Meter::NatGatewayBytes, 1_000 * gib),
            (Meter::CloudTrailEvents, 1_000_000),
            (Meter::ConfigRuleEvaluations, 5_000),
            (Meter::GuardDutyFindings, 20),
        ] {
            usage.add(meter, raw).unwrap();
        }
        let month = Month::parse("2026-10").unwrap();
        let draft = draft(&card(Tier::Standard), month, contract(), &usage, tax("0.08")).unwrap();
        let lines: Vec<String> = draft.lines.iter().map(|line| line.amount.to_string()).collect();
        assert_eq!(lines, ["2,000.00", "3.00", "45.00", "0.20", "5.00", "1.00"]);
        assert_eq!(printed(draft.totals), ["2,054.20", "0.00", "2,054.20", "164.34", "2,218.54"]);
        assert!(draft.meters_without_usage.is_empty());
    }

    #[test]
    fn a_fintech_customer_with_212_00_of_usage_owes_8425_51() {
        // 5,300 GiB of NAT traffic at 0.040 are 212.00.
        let mut usage = Usage::default();
        usage.add(Meter::NatGatewayBytes, 5_300 << 30).unwrap();
        let month = Month::parse("2026-10").unwrap();
        let draft = draft(&card(Tier::Fintech), month, contract(), &usage, tax("0.08")).unwrap();
        assert_eq!(printed(draft.totals), ["8,212.00", "410.60", "7,801.40", "624.11", "8,425.51"]);
        assert_eq!(draft.meters_without_usage.len(), 4);
    }

    #[test]
    fn the_volume_discount_begins_above_5000_00_and_rounds_half_even() {
        for (subtotal, rest) in [
            (500_000, ["5,000.00", "0.00", "5,000.00", "400.00", "5,400.00"]),
            (500_001, ["5,000.01", "250.00", "4,750.01", "380.00", "5,130.01"]),
            (500_010, ["5,000.10", "250.00", "4,750.10", "380.01", "5,130.11"]),
            (500_030, ["5,000.30", "250.02", "4,750.28", "380.02", "5,130.30"]),
        ] {
            assert_eq!(printed(Totals::of(&[usd(subtotal)], five_percent_over_5000(), tax("0.08")).unwrap()), rest);
        }
    }

    #[test]
    fn the_customers_own_rate_is_taxed() {
        for (rate, tax_minor) in [("0", 0), ("0.0825", 825), ("0.190000", 1_900), ("1", 10_000)] {
            let totals = Totals::of(&[usd(10_000)], five_percent_over_5000(), tax(rate)).unwrap();
            assert_eq!((totals.tax, totals.total), (usd(tax_minor), usd(10_000 + tax_minor)), "{rate}");
        }
    }

    #[test]
    fn lines_of_another_currency_or_beyond_the_range_have_no_total() {
        let of = |lines: &[Money]| Totals::of(lines, five_percent_over_5000(), tax("0.08"));
        let yen = Money::from_minor(1, Currency::Jpy);
        assert_eq!(of(&[usd(1), yen]), Err(AmountError::CurrencyMismatch(Currency::Usd, Currency::Jpy)));
        assert_eq!(of(&[usd(i64::MAX), usd(1)]), Err(AmountError::OutOfRange));
        assert_eq!(of(&[usd(i64::MAX)]).unwrap_err(), AmountError::OutOfRange, "tax on top does not fit");
    }

    proptest! {
        #[test]
        fn every_amount_follows_from_the_lines_in_any_order(
            mut lines in proptest::collection::vec(0_i64..10_000_000_000, 0..10),
            rate in 0_i64..=1_000_000,
        ) {
            let tax_rate = Share::new(rust_decimal::Decimal::new(rate, 6)).unwrap();
            let total = |lines: &[i64]| {
                let lines: Vec<Money> = lines.iter().map(|minor| usd(*minor)).collect();
                Totals::of(&lines, five_percent_over_5000(), tax_rate).unwrap()
            };
            let totals = total(&lines);
            prop_assert_eq!(totals.subtotal.minor(), lines.iter().sum::<i64>());
            prop_assert_eq!(totals.net.minor(), totals.subtotal.minor() - totals.discount.minor());
            prop_assert_eq!(totals.total.minor(), totals.net.minor() + totals.tax.minor());
            prop_assert_eq!(totals.discount.minor() == 0, totals.subtotal.minor() <= 500_000);
            lines.reverse();
            prop_assert_eq!(total(&lines), totals);
        }
    }
}
