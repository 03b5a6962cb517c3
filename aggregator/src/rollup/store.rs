//! The port to where usage rows are kept.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;

use ingest::{Bucket, Timestamp};

use crate::fact_rows::{FactAdvance, FactError, FactsAdvanced};
use crate::usage_rows::{Advance, AdvanceError, AdvanceOutcome, DatabaseError, UsageRows};

/// Usage rows with their cursors, and the facts that stand. Each call that writes is one transaction: all of it or nothing.
pub trait RollUpStore: Sync {
    /// Where the cursors of these partitions stand; 0 for a partition never rolled up.
    fn cursors(
        &self,
        partitions: &[String],
    ) -> impl Future<Output = Result<HashMap<String, u64>, DatabaseError>> + Send;

    /// Moves the cursors that stand where the caller says, with their rows; the others are stale and write nothing.
    fn advance(
        &self,
        batch: &[Advance],
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<AdvanceOutcome>, AdvanceError>> + Send;

    /// The same with the facts that partitions of one bucket state.
    fn advance_facts(
        &self,
        bucket: Bucket,
        batch: &[FactAdvance],
        now: Timestamp,
    ) -> impl Future<Output = Result<FactsAdvanced, FactError>> + Send;

    /// Counts what is live, up to the hour of `now`.
    fn go_on(&self, now: Timestamp) -> impl Future<Output = Result<(), FactError>> + Send;

    /// Exports of which a later generation is complete than the one in force.
    fn exports_complete(&self) -> impl Future<Output = Result<BTreeSet<String>, FactError>> + Send;

    /// Puts the latest complete generation of an export in force; says whether that changed anything.
    fn put_in_force(&self, export: &str, now: Timestamp) -> impl Future<Output = Result<bool, FactError>> + Send;
}

impl RollUpStore for UsageRows {
    async fn cursors(&self, partitions: &[String]) -> Result<HashMap<String, u64>, DatabaseError> {
        self.cursors(partitions).await
    }

    async fn advance(&self, batch: &[Advance], now: Timestamp) -> Result<Vec<AdvanceOutcome>, AdvanceError> {
        self.advance(batch, now).await
    }

    async fn advance_facts(
        &self,
        bucket: Bucket,
        batch: &[FactAdvance],
        now: Timestamp,
    ) -> Result<FactsAdvanced, FactError> {
        self.fact_rows().advance(bucket, batch, now).await
    }

    async fn go_on(&self, now: Timestamp) -> Result<(), FactError> {
        self.fact_rows().go_on(now).await
    }

    async fn exports_complete(&self) -> Result<BTreeSet<String>, FactError> {
        self.fact_rows().exports_complete().await
    }

    async fn put_in_force(&self, export: &str, now: Timestamp) -> Result<bool, FactError> {
        self.fact_rows().put_in_force(export, now).await
    }
}
