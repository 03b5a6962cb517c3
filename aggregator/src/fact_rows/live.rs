//! What is live goes on: hours that are over are counted without anyone saying anything.

use chrono::{DateTime, Utc};
use ingest::{Aggregation, Bucket, Hour, Timestamp};

use super::change::Change;
use super::series::SeriesKey;
use super::statements::{BUCKETS_BEHIND, LOAD_LIVE, MOVE_THROUGH};
use super::stored::FactRow;
use super::{FactError, FactRows, lock_bucket};
use crate::facts::{Evaluated, evaluate};

/// Hours counted in one transaction: what went on while nobody looked can be years.
const HOURS_TOGETHER_MAX: i64 = 31 * 24;

impl FactRows {
    /// Counts what is live in every bucket up to the hour of `now`, which is not over. Saying it again changes nothing.
    pub async fn go_on(&self, now: Timestamp) -> Result<(), FactError> {
        let over = DateTime::<Utc>::from(now.hour().start());
        let behind: Vec<i16> = sqlx::query_scalar(BUCKETS_BEHIND).bind(over).fetch_all(&self.pool).await?;
        for number in behind {
            let bucket = Bucket::new(number.cast_unsigned()).expect("a constraint: a bucket is below 32");
            while !self.go_on_in(bucket, now).await? {}
        }
        Ok(())
    }

    /// Some hours further in one bucket; says whether it is as far as it can be.
    async fn go_on_in(&self, bucket: Bucket, now: Timestamp) -> Result<bool, FactError> {
        let mut transaction = self.pool.begin().await?;
        let locked = lock_bucket(bucket, now, &mut transaction).await?;
        let (from, over) = (locked.through, now.hour());
        if over <= from {
            return Ok(true);
        }
        let farthest = Hour::from_number(from.number() + HOURS_TOGETHER_MAX).unwrap_or(over);
        let to = over.min(farthest);
        let meters = crate::meters::read(&mut transaction).await?;
        let rows: Vec<FactRow> =
            sqlx::query_as(LOAD_LIVE).bind(bucket.number().cast_signed()).fetch_all(&mut *transaction).await?;
        let mut facts = Vec::with_capacity(rows.len());
        for row in rows {
            facts.extend(row.fact()?);
        }
        let mut change = Change::default();
        for series in facts.chunk_by(|a, b| SeriesKey::of(&a.key) == SeriesKey::of(&b.key)) {
            let key = SeriesKey::of(&series[0].key);
            let Some(definition) = meters.get(key.meter) else { continue };
            assert_eq!(definition.aggregation, Aggregation::Interval, "only intervals have transitions");
            // Nothing of these hours was counted before: they were not over.
            let is = evaluate(definition, series, from..to, to)
                .map_err(|source| FactError::Evaluation { partition: locked.rows_partition(), source })?;
            change
                .add_difference(&key, Evaluated::default(), is)
                .map_err(|source| FactError::Evaluation { partition: locked.rows_partition(), source })?;
        }
        change.write(&locked.rows_partition(), locked.sequence, now, &mut transaction).await?;
        sqlx::query(MOVE_THROUGH)
            .bind(bucket.number().cast_signed())
            .bind(DateTime::<Utc>::from(to.start()))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(to == over)
    }
}
