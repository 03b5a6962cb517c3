//! What a transaction changes in totals and gaps: the evaluation as it is minus the evaluation as it was.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use ingest::{AccountId, Aggregation, Hour, MeterDefinition, Quantity, Timestamp, UsageFact};
use sqlx::{FromRow, PgConnection};

use super::FactError;
use super::series::{Loaded, SeriesKey};
use super::statements::{ADD_GAPS, APPLY_CHANGE, REMOVE_GAPS};
use crate::facts::{Evaluated, EvaluationError, Gap, HourlyKey, evaluate};
use crate::usage_rows::{CustomerMonth, lock_accounts, recompute};

/// Differences, to be written together.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Accounts that facts are about, with or without usage.
    accounts: BTreeSet<AccountId>,
    /// By how much a total, and the number of its parts, changes.
    rows: BTreeMap<HourlyKey, (Quantity, i64)>,
    gaps_removed: BTreeSet<(SeriesKey, Gap)>,
    gaps_added: BTreeSet<(SeriesKey, Gap)>,
}

impl Change {
    /// These accounts are known from now on.
    pub(super) fn sees(&mut self, accounts: impl Iterator<Item = AccountId>) {
        self.accounts.extend(accounts);
    }

    /// Adds what fresh facts change in their resource.
    pub(super) fn add_series<'a>(
        &mut self,
        series: &SeriesKey,
        definition: &MeterDefinition,
        loaded: Loaded,
        fresh: impl Iterator<Item = &'a UsageFact<'static>>,
        through: Hour,
    ) -> Result<(), EvaluationError> {
        let Loaded { mut hours, is_followed, facts: before } = loaded;
        let mut after = before.clone();
        for fact in fresh {
            match after.iter_mut().find(|standing| standing.key == fact.key) {
                Some(standing) => *standing = fact.clone(),
                None => after.push(fact.clone()),
            }
        }
        after.sort_by_key(|fact| fact.key.time);
        if !is_followed {
            // The last word on the resource bears on everything until its own end, or until now.
            let ends = before.iter().chain(&after).filter_map(|fact| fact.end).max().map(ceiling);
            let now = (definition.aggregation == Aggregation::Interval).then_some(through);
            hours.end = hours.end.max(ends.unwrap_or(hours.end)).max(now.unwrap_or(hours.end));
        }
        let was = evaluate(definition, &before, hours.clone(), through)?;
        let is = evaluate(definition, &after, hours, through)?;
        self.add_difference(series, was, is)
    }

    /// Adds the difference between two evaluations of a resource.
    pub(super) fn add_difference(
        &mut self,
        series: &SeriesKey,
        was: Evaluated,
        is: Evaluated,
    ) -> Result<(), EvaluationError> {
        let minus = was
            .hours
            .into_iter()
            .map(|(place, part)| (place, Quantity::ZERO.checked_sub(part.value), -part.parts.cast_signed()));
        let plus = is.hours.into_iter().map(|(place, part)| (place, Some(part.value), part.parts.cast_signed()));
        for ((window, dimensions), value, parts) in minus.chain(plus) {
            let key = HourlyKey { account: series.account, meter: series.meter, window, dimensions };
            let (total, number) = self.rows.entry(key).or_insert((Quantity::ZERO, 0));
            let sum = value.and_then(|value| total.checked_add(value));
            *total = sum.ok_or_else(|| EvaluationError::OutOfRange {
                meter: series.meter.as_str(),
                account: series.account.to_string(),
                resource: series.resource.clone(),
                hour: window,
            })?;
            *number += parts;
        }
        let (was, is): (BTreeSet<Gap>, BTreeSet<Gap>) = (was.gaps.into_iter().collect(), is.gaps.into_iter().collect());
        self.gaps_removed.extend(was.difference(&is).map(|gap| (series.clone(), *gap)));
        self.gaps_added.extend(is.difference(&was).map(|gap| (series.clone(), *gap)));
        Ok(())
    }

    /// Writes everything: accounts, rows, monthly totals, gaps.
    pub(super) async fn write(
        mut self,
        partition: &str,
        sequence: i64,
        now: Timestamp,
        connection: &mut PgConnection,
    ) -> Result<(), FactError> {
        self.rows.retain(|_, change| *change != (Quantity::ZERO, 0));
        self.accounts.extend(self.rows.keys().map(|key| key.account));
        lock_accounts(&self.accounts, now, connection).await?;
        let now = DateTime::<Utc>::from(now);
        if !self.rows.is_empty() {
            let months = self.write_rows(partition, sequence, now, connection).await?;
            recompute(&months, now, connection).await?;
        }
        self.write_gaps(connection).await
    }

    async fn write_rows(
        &self,
        partition: &str,
        sequence: i64,
        now: DateTime<Utc>,
        connection: &mut PgConnection,
    ) -> Result<BTreeSet<CustomerMonth>, FactError> {
        let column = |read: &dyn Fn(&HourlyKey) -> String| self.rows.keys().map(read).collect::<Vec<_>>();
        let windows: Vec<DateTime<Utc>> = self.rows.keys().map(|key| key.window.start().into()).collect();
        let rows: Vec<Applied> = sqlx::query_as(APPLY_CHANGE)
            .bind(column(&|key| key.account.to_string()))
            .bind(column(&|key| key.meter.to_string()))
            .bind(column(&|key| key.dimensions.region.clone().into_owned()))
            .bind(column(&|key| key.dimensions.category.clone().into_owned()))
            .bind(windows)
            .bind(self.rows.values().map(|(total, _)| total.to_string()).collect::<Vec<_>>())
            .bind(self.rows.values().map(|(_, parts)| *parts).collect::<Vec<_>>())
            .bind(partition)
            .bind(sequence)
            .bind(now)
            .fetch_all(connection)
            .await?;
        Applied::months(rows)
    }

    async fn write_gaps(&self, connection: &mut PgConnection) -> Result<(), FactError> {
        for (statement, gaps) in [(REMOVE_GAPS, &self.gaps_removed), (ADD_GAPS, &self.gaps_added)] {
            if gaps.is_empty() {
                continue;
            }
            sqlx::query(statement)
                .bind(gaps.iter().map(|(series, _)| series.account.as_str()).collect::<Vec<_>>())
                .bind(gaps.iter().map(|(series, _)| series.meter.as_str()).collect::<Vec<_>>())
                .bind(gaps.iter().map(|(series, _)| series.resource.as_str()).collect::<Vec<_>>())
                .bind(gaps.iter().map(|(_, gap)| gap.from.into()).collect::<Vec<DateTime<Utc>>>())
                .bind(gaps.iter().map(|(_, gap)| gap.until.into()).collect::<Vec<DateTime<Utc>>>())
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
}

/// What a statement that applies changes returns: a row that does not hold what is to be taken from it, or a month whose
/// recomputed figures may have changed.
#[derive(FromRow)]
pub(super) struct Applied {
    problem: Option<String>,
    customer_id: Option<String>,
    month: Option<NaiveDate>,
}

impl Applied {
    /// The months, unless there is a problem: then nothing may be committed.
    pub(super) fn months(rows: Vec<Self>) -> Result<BTreeSet<CustomerMonth>, FactError> {
        let mut months = BTreeSet::new();
        for row in rows {
            if let Some(row) = row.problem {
                return Err(FactError::Corrupt { row });
            }
            months.extend(row.customer_id.zip(row.month));
        }
        Ok(months)
    }
}

/// The first hour that begins at this instant or later.
fn ceiling(instant: Timestamp) -> Hour {
    let hour = instant.hour();
    if hour.start() == instant { hour } else { hour.start().saturating_add_secs(3_600).hour() }
}
