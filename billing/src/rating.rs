//! From usage to lines.

use ingest::{Meter, Timestamp};
use rust_decimal::Decimal;
use thiserror::Error;

use crate::fraction::Fraction;
use crate::money::{AmountError, Money};
use crate::period::Month;
use crate::proration;
use crate::quantity::{Quantity, Usage};
use crate::rate_card::RateCard;

/// What a line charges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// The tier's fee for the month, or for the part of it under contract.
    BaseFee,
    /// The usage of one meter.
    Usage,
}

impl LineKind {
    /// The name used in SQL and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BaseFee => "base_fee",
            Self::Usage => "usage",
        }
    }
}

/// One line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What the line charges for.
    pub kind: LineKind,
    /// The meter of a usage line.
    pub meter: Option<Meter>,
    /// The line in words.
    pub description: String,
    /// How much.
    pub quantity: Quantity,
    /// Of what.
    pub unit: String,
    /// What one costs, in whole currency.
    pub unit_price: Decimal,
    /// Quantity times price in minor units, before rounding.
    pub exact_minor: Fraction,
    /// What is charged.
    pub amount: Money,
}

/// Usage cannot be rated. Stop for this customer: the figures are wrong, and trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RatingError {
    /// A line's amount does not fit.
    #[error("line {line}: {source}")]
    Line {
        /// The line's meter or kind.
        line: &'static str,
        /// What is wrong with the amount.
        source: AmountError,
    },
}

/// The lines of a month in their fixed order: the base fee, then the priced meters that reported usage, in the order of
/// [`Meter::PRICED`]. A pure function of the card, the month, the contract and the sums per meter.
///
/// A contract that starts within the month pays the fee from the day of its start on; the unit is the day.
pub fn rate(card: &RateCard, month: Month, contract_start: Timestamp, usage: &Usage) -> Result<Vec<Line>, RatingError> {
    let mut lines = vec![base_fee(card, month, contract_start)?];
    for meter in Meter::PRICED {
        if let Some(raw) = usage.of(meter) {
            lines.extend(usage_line(card, month, meter, raw)?);
        }
    }
    Ok(lines)
}

fn base_fee(card: &RateCard, month: Month, contract_start: Timestamp) -> Result<Line, RatingError> {
    let failed = |source| RatingError::Line { line: LineKind::BaseFee.as_str(), source };
    let fee = card.base_fee();
    let (start, days) = (month.days_before(contract_start), month.days());
    let amount = proration::part(fee, start..days, days).map_err(failed)?;
    let quantity = Quantity::new(i128::from(days - start), i128::from(days)).expect("a month has days");
    let exact_minor = fee.exact_minor().checked_mul(quantity.exact()).ok_or(AmountError::OutOfRange).map_err(failed)?;
    let description = if start == 0 {
        format!("Base fee, {} tier", card.tier())
    } else {
        format!("Base fee, {} tier, {} of {days} days", card.tier(), days - start)
    };
    Ok(Line {
        kind: LineKind::BaseFee,
        meter: None,
        description,
        quantity,
        unit: "month".to_owned(),
        unit_price: Decimal::new(fee.minor(), fee.currency().minor_digits()),
        exact_minor,
        amount,
    })
}

/// `None` where the card does not price the meter.
fn usage_line(card: &RateCard, month: Month, meter: Meter, raw: i128) -> Result<Option<Line>, RatingError> {
    let failed = |source| RatingError::Line { line: meter.as_str(), source };
    let Some(price) = card.price(meter) else { return Ok(None) };
    let quantity = Quantity::of_usage(meter, raw, price.raw_units_per_unit, month)
        .ok_or(AmountError::OutOfRange)
        .map_err(failed)?;
    let minor_per_major = Fraction::whole(i128::from(card.currency().minor_per_major()));
    let exact_minor = Fraction::from_decimal(price.unit_price.decimal())
        .checked_mul(minor_per_major)
        .and_then(|price_minor| price_minor.checked_mul(quantity.exact()))
        .ok_or(AmountError::OutOfRange)
        .map_err(failed)?;
    let amount = Money::round_half_even(exact_minor, card.currency()).map_err(failed)?;
    Ok(Some(Line {
        kind: LineKind::Usage,
        meter: Some(meter),
        description: describe(meter).to_owned(),
        quantity,
        unit: price.unit.clone(),
        unit_price: price.unit_price.decimal(),
        exact_minor,
        amount,
    }))
}

/// The meter's name for people.
pub fn describe(meter: Meter) -> &'static str {
    match meter {
        Meter::LogStorageGb => "Log storage",
        Meter::NatGatewayBytes => "NAT gateway traffic",
        Meter::CloudTrailEvents => "CloudTrail events",
        Meter::ConfigRuleEvaluations => "Config rule evaluations",
        Meter::GuardDutyFindings => "GuardDuty findings",
        // A meter that gets its words later shows its name until then.
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rate_card::tests::card;
    use crate::tier::Tier;

    fn october() -> Month {
        Month::parse("2026-10").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    fn usage(rows: &[(Meter, i128)]) -> Usage {
        let mut usage = Usage::default();
        for (meter, raw) in rows {
            usage.add(*meter, *raw).unwrap();
        }
        usage
    }

    fn check(tier: Tier, meter: Meter, raw: i128, minor: i64) {
        let lines = rate(&card(tier), october(), at("2026-01-01T00:00:00Z"), &usage(&[(meter, raw)])).unwrap();
        assert_eq!((lines.len(), lines[1].meter, lines[1].amount.minor()), (2, Some(meter), minor), "{raw} of {meter}");
    }

    #[test]
    fn half_a_cent_of_a_line_rounds_to_the_even_cent() {
        for (evaluations, minor) in [(0, 0), (5, 0), (6, 1), (15, 2), (25, 2), (35, 4), (5_000, 500)] {
            check(Tier::Standard, Meter::ConfigRuleEvaluations, evaluations, minor);
        }
        // 25,000 events cost exactly half a cent and 75,000 one and a half.
        for (events, minor) in [(24_999, 0), (25_000, 0), (25_001, 1), (75_000, 2)] {
            check(Tier::Standard, Meter::CloudTrailEvents, events, minor);
        }
    }

    #[test]
    fn each_tier_pays_its_own_price() {
        let gib = 1_i128 << 30;
        for (tier, minors) in [
            (Tier::Standard, [300, 4_500, 20, 500, 100]),
            (Tier::Fintech, [250, 4_000, 15, 400, 80]),
            (Tier::Healthcare, [250, 4_000, 15, 400, 80]),
            (Tier::GovFederal, [200, 3_500, 10, 300, 60]),
        ] {
            let raws = [100 * gib * 2_678_400, 1_000 * gib, 1_000_000, 5_000, 20];
            for ((meter, raw), minor) in Meter::PRICED.into_iter().zip(raws).zip(minors) {
                check(tier, meter, raw, minor);
            }
        }
    }

    #[test]
    fn a_meter_that_reported_nothing_has_no_line_and_one_that_reported_zero_has() {
        let rated = |usage| rate(&card(Tier::Standard), october(), at("2026-01-01T00:00:00Z"), &usage).unwrap();
        assert_eq!(rated(usage(&[])).len(), 1);
        assert_eq!(rated(usage(&[(Meter::CloudTrailEvents, 0)]))[1].amount.minor(), 0);
    }

    #[test]
    fn a_contract_pays_from_the_day_it_starts() {
        for (start, raw, minor, description) in [
            ("2026-01-01T00:00:00Z", 31, 200_000, "Base fee, standard tier"),
            ("2026-10-01T00:00:00Z", 31, 200_000, "Base fee, standard tier"),
            ("2026-10-15T00:00:00Z", 17, 109_677, "Base fee, standard tier, 17 of 31 days"),
            ("2026-10-15T13:00:00Z", 17, 109_677, "Base fee, standard tier, 17 of 31 days"),
            ("2026-10-31T23:00:00Z", 1, 6_452, "Base fee, standard tier, 1 of 31 days"),
        ] {
            let line = &rate(&card(Tier::Standard), october(), at(start), &Usage::default()).unwrap()[0];
            assert_eq!(
                (line.quantity.raw(), line.amount.minor(), line.description.as_str()),
                (raw, minor, description),
                "{start}"
            );
        }
    }

    #[test]
    fn usage_beyond_any_amount_is_an_error_that_names_its_line() {
        let error = rate(
            &card(Tier::Standard),
            october(),
            at("2026-01-01T00:00:00Z"),
            &usage(&[(Meter::GuardDutyFindings, i128::MAX)]),
        );
        assert_eq!(error, Err(RatingError::Line { line: "guardduty_findings", source: AmountError::OutOfRange }));
    }

    proptest! {
        #[test]
        fn more_usage_never_costs_less(
            tier in proptest::sample::select(Tier::ALL.to_vec()),
            meter in proptest::sample::select(Meter::PRICED.to_vec()),
            raw in 0_i128..1_000_000_000_000_000_000_000,
            more in 0_i128..1_000_000_000_000,
        ) {
            let amount = |raw| {
                rate(&card(tier), october(), at("2026-01-01T00:00:00Z"), &usage(&[(meter, raw)])).map(|lines| lines[1].amount.minor())
            };
            match (amount(raw), amount(raw + more)) {
                (Ok(less), Ok(more)) => prop_assert!(less <= more),
                (Err(_), more) => prop_assert!(more.is_err(), "what is out of range stays out of range"),
                (Ok(_), Err(_)) => {}
            }
        }

        #[test]
        fn the_order_in_which_usage_arrives_changes_no_line(
            rows in proptest::collection::vec((proptest::sample::select(Meter::PRICED.to_vec()), 0_i128..1_000_000_000_000), 0..20),
            seed in proptest::num::usize::ANY,
        ) {
            let mut turned = rows.clone();
            turned.reverse();
            let middle = seed % turned.len().max(1);
            turned.rotate_left(middle);
            let rated = |rows: &[_]| rate(&card(Tier::Fintech), october(), at("2026-01-01T00:00:00Z"), &usage(rows)).unwrap();
            prop_assert_eq!(rated(&rows), rated(&turned));
        }
    }
}
