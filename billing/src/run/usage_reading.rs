//! What a customer used in a month: from the closed totals of a cut, or, for previews and drafts, from the rows of now.

use chrono::{DateTime, NaiveDate, Utc};
use ingest::{Meter, Timestamp};
use sqlx::PgConnection;

use super::BillingError;
use crate::days::Days;
use crate::fraction::Fraction;
use crate::period::Month;
use crate::quantity::SECONDS_PER_WINDOW;
use crate::statements::{PREVIEWERS, Statement};
use crate::usage::{Usage, UsagePart, Windows};

#[derive(sqlx::FromRow)]
struct Row(String, NaiveDate, String, String, i64, DateTime<Utc>, DateTime<Utc>);

/// The usage of a close, the only usage that is ever invoiced.
pub(super) async fn closed(connection: &mut PgConnection, close_id: i64) -> Result<Usage, BillingError> {
    let rows = sqlx::query_as(CLOSED_TOTALS).bind(close_id).fetch_all(connection).await?;
    summed(rows)
}

/// The usage that has arrived by now, from one statement and so from one moment.
pub(super) async fn so_far(
    connection: &mut PgConnection,
    period: Month,
    customer_id: &str,
) -> Result<Usage, BillingError> {
    let rows = sqlx::query_as(USAGE_ROWS)
        .bind(customer_id)
        .bind(DateTime::<Utc>::from(period.start()))
        .bind(DateTime::<Utc>::from(period.end()))
        .fetch_all(connection)
        .await?;
    summed(rows)
}

fn summed(rows: Vec<Row>) -> Result<Usage, BillingError> {
    let mut usage = Usage::default();
    for Row(meter, day, total, peak, count, first, last) in rows {
        let known = (Meter::parse_stored(&meter), Fraction::parse(&total), Fraction::parse(&peak));
        let (Ok(known), Ok(exact), Ok(peak)) = known else {
            return Err(BillingError::UnreadableUsage { meter, total });
        };
        let days = day.succ_opt().and_then(|next| Days::new(day, next));
        let days = days.ok_or(BillingError::OutOfCalendar(Timestamp::from(first)))?;
        let end = Timestamp::from(last).saturating_add_secs(SECONDS_PER_WINDOW);
        let windows = Windows::new(first.into(), end, u64::try_from(count).unwrap_or_default());
        usage.add(UsagePart { meter: known, days, total: exact, peak, windows })?;
    }
    Ok(usage)
}

/// By meter and day: the sum, the highest window over all accounts and regions, and the windows. Totals as text, because a sum
/// can have more digits than a decimal of 96 bits.
macro_rules! by_meter_and_day {
    ($from:literal) => {
        concat!(
            "
    select meter, (window_start at time zone 'utc')::date as day, sum(total)::text, max(total)::text, count(*),
        min(window_start), max(window_start)
    from (
        select meter, window_start, sum(total) as total
        ",
            $from,
            "
        group by meter, window_start
    ) as windows
    group by meter, day
    order by meter, day"
        )
    };
}

const CLOSED_TOTALS: &str = by_meter_and_day!("from closed_totals where close_id = $1::bigint");

const USAGE_ROWS: &str = by_meter_and_day!(
    "from usage_rows
        where customer_id = $1::text and window_start >= $2::timestamptz and window_start < $3::timestamptz"
);

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "closed totals", sql: CLOSED_TOTALS, roles: PREVIEWERS },
    Statement { name: "usage so far", sql: USAGE_ROWS, roles: PREVIEWERS },
];
