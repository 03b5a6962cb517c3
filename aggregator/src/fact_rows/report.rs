//! What is known of facts, and what is missing.

use chrono::{DateTime, Utc};
use ingest::{AccountId, Aggregation, Meter, Timestamp};

use super::statements::{COUNT_FACTS, LIST_GAPS, LIST_QUIET};
use super::{FactError, FactRows, StoredError};

/// How many facts there are, and exports, and gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FactsReport {
    /// Facts that stand, in force or not.
    pub facts: u64,
    /// Exports of which a generation is in force.
    pub exports_in_force: u64,
    /// Generations that are later than what is in force and not complete.
    pub exports_incomplete: u64,
    /// Gaps between samples.
    pub gaps: u64,
}

/// A stretch of which nothing is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Whose.
    pub account: AccountId,
    /// What was measured.
    pub meter: Meter,
    /// Of what.
    pub resource: String,
    /// Until when it is known.
    pub from: Timestamp,
    /// From when on it is known again; `None` while no sample comes.
    pub until: Option<Timestamp>,
}

impl FactRows {
    /// How much there is.
    pub async fn report(&self) -> Result<FactsReport, FactError> {
        let (facts, in_force, incomplete, gaps): (i64, i64, i64, i64) =
            sqlx::query_as(COUNT_FACTS).fetch_one(&self.pool).await?;
        Ok(FactsReport {
            facts: facts.cast_unsigned(),
            exports_in_force: in_force.cast_unsigned(),
            exports_incomplete: incomplete.cast_unsigned(),
            gaps: gaps.cast_unsigned(),
        })
    }

    /// Stretches between samples that lie too far apart; and resources whose last sample is farther back than samples may lie
    /// apart, unless it was 0.
    pub async fn missing(&self, now: Timestamp) -> Result<Vec<Missing>, FactError> {
        type Row = (String, String, String, DateTime<Utc>, Option<DateTime<Utc>>);
        let mut connection = self.pool.acquire().await?;
        let meters = crate::meters::read(&mut connection).await?;
        let over_time = meters.iter().filter(|one| one.aggregation == Aggregation::TimeWeighted);
        let (names, gaps): (Vec<&str>, Vec<i64>) =
            over_time.map(|one| (one.meter.as_str(), i64::from(one.gap_seconds_max.unwrap_or_default()))).unzip();
        let mut rows: Vec<Row> = sqlx::query_as(LIST_GAPS).fetch_all(&mut *connection).await?;
        let quiet: Vec<Row> = sqlx::query_as(LIST_QUIET)
            .bind(names)
            .bind(gaps)
            .bind(DateTime::<Utc>::from(now))
            .fetch_all(&mut *connection)
            .await?;
        rows.extend(quiet);
        let missing = rows.into_iter().map(|(account, meter, resource, from, until)| {
            let broken = |column| FactError::from(StoredError { account: account.clone(), column });
            Ok(Missing {
                account: AccountId::parse(&account).map_err(|_| broken("account_id"))?,
                meter: Meter::parse_stored(&meter).map_err(|_| broken("meter"))?,
                resource,
                from: from.into(),
                until: until.map(Timestamp::from),
            })
        });
        missing.collect()
    }
}
