//! One customer's month as it stands, and what it comes to if it goes on like this.

use aggregator::directory::CustomerId;
use chrono::{DateTime, NaiveTime, Utc};
use ingest::Timestamp;
use sqlx::PgConnection;

use super::bill::Billing;
use super::{BillingError, Previewed, RunError, catalog, preview_customer, previewing};
use crate::days::Days;
use crate::document::Party;
use crate::fraction::Fraction;
use crate::period::Month;
use crate::usage::Usage;

const HOUR_MICROS: i64 = 3_600_000_000;

/// A month of a customer that goes on or is over.
#[derive(Debug)]
pub struct MonthPreview {
    /// What it comes to with the usage that has arrived, or what was issued for it.
    pub so_far: Previewed,
    /// What it comes to if usage goes on as it has; none of a month that was issued, is not under contract, or of which no
    /// hour has passed.
    pub projection: Option<Projection>,
}

/// The total of a month that goes on as it began: the usage so far, times all hours under contract, over those that have
/// passed, rounded down to whole raw units for each meter and day; priced, discounted and taxed like an invoice. Fees are not
/// scaled, as they are those of the month already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// What there would be to pay, a decimal in whole currency.
    pub total: String,
    /// Whole hours under contract that have passed.
    pub hours_passed: i64,
    /// All hours of the month under contract.
    pub hours: i64,
}

/// What a customer's month comes to so far, and would come to; on a connection as [`preview_customer`] takes it. Writes nothing.
pub async fn preview_month(
    connection: &mut PgConnection,
    customer: &CustomerId,
    period: Month,
    seller: &Party,
    now: Timestamp,
) -> Result<MonthPreview, RunError> {
    let so_far = preview_customer(connection, customer, period, seller).await?;
    let Previewed::Document(_) = &so_far else { return Ok(MonthPreview { so_far, projection: None }) };
    let catalog = catalog(connection, period).await?;
    match project(connection, &previewing(period, seller, &catalog), customer, now).await {
        Ok(projection) => Ok(MonthPreview { so_far, projection }),
        Err(error) => match error.into_passing() {
            Ok(error) => Err(error.into()),
            Err(error) => Ok(MonthPreview { so_far: Previewed::Failed(error), projection: None }),
        },
    }
}

async fn project(
    connection: &mut PgConnection,
    billing: &Billing<'_>,
    customer: &CustomerId,
    now: Timestamp,
) -> Result<Option<Projection>, BillingError> {
    let goes_on = |days: Days, usage: Usage| usage.scaled(&factor(days, now)?);
    let Some((days, snapshot, _)) = billing.preview_with(connection, customer.as_str(), goes_on).await? else {
        return Ok(None);
    };
    let (hours_passed, hours) = hours(days, now);
    Ok(Some(Projection { total: snapshot.invoice.settlement.payable.to_decimal_text(), hours_passed, hours }))
}

/// Hours under contract that have passed by now, and all of them.
fn hours(days: Days, now: Timestamp) -> (i64, i64) {
    let micros = |day: chrono::NaiveDate| DateTime::<Utc>::from_naive_utc_and_offset(day.and_time(NaiveTime::MIN), Utc);
    let start = micros(days.start()).timestamp_micros();
    let all = i64::from(days.count()) * 24;
    (((now.micros() - start).div_euclid(HOUR_MICROS)).clamp(0, all), all)
}

/// How many times the usage so far all of it will be; `None` before the first hour has passed.
fn factor(days: Days, now: Timestamp) -> Option<Fraction> {
    let (passed, all) = hours(days, now);
    if passed == 0 { None } else { Fraction::new(all, passed) }
}

#[cfg(test)]
mod tests {
    use ingest::Meter;

    use super::*;
    use crate::usage::tests::in_month;

    #[test]
    fn a_month_that_goes_on_is_scaled_by_the_hours_under_contract() {
        let october = Month::parse("2026-10").unwrap().all_days();
        let from_the_16th = october.meet_open("2026-10-16".parse().unwrap(), None).unwrap();
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        for (days, now, expected) in [
            (october, "2026-10-01T00:59:59Z", None),
            (october, "2026-10-01T01:00:00Z", Some((744, 1))),
            (october, "2026-10-16T12:30:00Z", Some((744, 372))),
            (october, "2026-10-31T23:59:59Z", Some((744, 743))),
            (october, "2026-11-22T00:00:00Z", Some((1, 1))),
            (from_the_16th, "2026-10-10T00:00:00Z", None),
            (from_the_16th, "2026-10-24T00:00:00Z", Some((2, 1))),
        ] {
            let expected = expected.map(|(all, passed)| Fraction::new(all, passed).unwrap());
            assert_eq!(factor(days, at(now)), expected, "{now}");
        }
    }

    #[test]
    fn scaled_usage_is_whole_units_of_every_day() {
        let meter = Meter::CloudTrailEvents;
        let usage = in_month("2026-10", &[(meter, 100)]);
        let days = Month::parse("2026-10").unwrap().all_days();
        let total = |times: Fraction| usage.scaled(&times).unwrap().of(meter, days).unwrap().unwrap().total;
        assert_eq!(total(Fraction::whole(1)), Fraction::whole(100));
        assert_eq!(total(Fraction::new(7, 3).unwrap()), Fraction::whole(233));
    }
}
