//! The facts of one resource around those that change.

use std::ops::Range;

use chrono::{DateTime, Utc};
use ingest::{AccountId, FactKey, Hour, Meter, Timestamp, UsageFact};
use sqlx::{FromRow, PgConnection};

use super::FactError;
use super::statements::LOAD_SERIES;
use super::stored::FactRow;

/// Names a resource's facts of one meter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SeriesKey {
    pub(super) meter: Meter,
    pub(super) account: AccountId,
    pub(super) resource: String,
}

impl SeriesKey {
    pub(super) fn of(key: &FactKey<'_>) -> Self {
        Self { meter: key.meter, account: key.account, resource: key.resource.clone().into_owned() }
    }
}

/// What stands of a resource around some times.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// The whole hours that facts at those times can bear on, through the facts next to them.
    pub(super) hours: Range<Hour>,
    /// Whether a fact follows the last of those times.
    pub(super) is_followed: bool,
    /// Everything in force that bears on these hours, in order of time.
    pub(super) facts: Vec<UsageFact<'static>>,
}

#[derive(FromRow)]
struct SeriesRow {
    position: i32,
    from_hour: DateTime<Utc>,
    to_hour: DateTime<Utc>,
    is_followed: bool,
    #[sqlx(flatten)]
    fact: FactRow,
}

/// Loads resources, each around a first and a last time; in the order asked.
pub(super) async fn load(
    asked: &[(&SeriesKey, Timestamp, Timestamp)],
    connection: &mut PgConnection,
) -> Result<Vec<Loaded>, FactError> {
    let positions: Vec<i32> = (0..).take(asked.len()).collect();
    let rows: Vec<SeriesRow> = sqlx::query_as(LOAD_SERIES)
        .bind(positions)
        .bind(asked.iter().map(|(series, _, _)| series.account.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|(series, _, _)| series.meter.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|(series, _, _)| series.resource.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, first, _)| DateTime::from(*first)).collect::<Vec<DateTime<Utc>>>())
        .bind(asked.iter().map(|(_, _, last)| DateTime::from(*last)).collect::<Vec<DateTime<Utc>>>())
        .fetch_all(connection)
        .await?;
    let mut loaded: Vec<Loaded> = Vec::with_capacity(asked.len());
    for SeriesRow { position, from_hour, to_hour, is_followed, fact } in rows {
        if loaded.len() == usize::try_from(position).expect("positions count from zero") {
            let hours = Timestamp::from(from_hour).hour()..Timestamp::from(to_hour).hour();
            loaded.push(Loaded { hours, is_followed, facts: Vec::new() });
        }
        loaded.last_mut().expect("one was just pushed").facts.extend(fact.fact()?);
    }
    assert_eq!(loaded.len(), asked.len(), "a left join has a row for everything asked");
    Ok(loaded)
}
