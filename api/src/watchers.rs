//! Who waits for a customer's totals to change: one look at the database for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aggregator::directory::CustomerId;
use chrono::{DateTime, Datelike, Utc};
use ingest::Timestamp;
use serde_json::Value;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::edge::{REQUEST_MS_MAX, now};
use crate::metrics;
use crate::tenant::{Statements, TenantError, TenantMac, TenantTransaction};

/// Between two looks. With the roll-up's own delay this is how far behind a stream is.
pub(crate) const LOOK_MS: u64 = 500;

/// Streams and long polls of one customer in one process.
pub(crate) const WATCHING_MAX: usize = 10;

/// A customer's running month as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Moves with every change: microseconds of the last one. 0 when nothing was counted in the month.
    pub(crate) version: i64,
    /// `2026-11`.
    pub(crate) month: String,
    /// The totals as decimal strings; null when nothing was counted.
    pub(crate) metrics: Value,
    /// Up to when nothing more is expected.
    pub(crate) complete_through: Option<String>,
    /// When the database was last asked: what is shown was true then.
    pub(crate) checked_at: Timestamp,
}

type Watched = HashMap<CustomerId, watch::Sender<Option<Seen>>>;

/// The looks that are going on.
#[derive(Clone, Debug)]
pub(crate) struct Watchers {
    pool: PgPool,
    mac_key: TenantMac,
    statements: Statements,
    watched: Arc<Mutex<Watched>>,
}

/// Too many of this customer watch already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyWatch;

impl Watchers {
    pub(crate) fn new(pool: PgPool, mac_key: TenantMac, statements: Statements) -> Self {
        Self { pool, mac_key, statements, watched: Arc::default() }
    }

    /// Watches a customer for as long as the receiver lives. It holds nothing before the first look.
    pub(crate) fn watch(&self, customer: &CustomerId) -> Result<watch::Receiver<Option<Seen>>, TooManyWatch> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(customer) {
            if sender.receiver_count() >= WATCHING_MAX {
                return Err(TooManyWatch);
            }
            return Ok(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(None);
        watched.insert(customer.clone(), sender.clone());
        tokio::spawn(self.clone().look(customer.clone(), sender));
        Ok(receiver)
    }

    async fn look(self, customer: CustomerId, sender: watch::Sender<Option<Seen>>) {
        loop {
            // No request bounds it: a look that nobody answers would be the last.
            let seen = timeout(Duration::from_millis(REQUEST_MS_MAX), self.see(&customer)).await;
            match seen.unwrap_or(Err(TenantError::TimedOut)) {
                Ok(seen) => {
                    sender.send_replace(Some(seen));
                }
                // What was seen stays, with its time.
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "a stream is behind"),
            }
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock, so that nobody comes meanwhile.
            if sender.receiver_count() == 0 {
                watched.remove(&customer);
                return;
            }
        }
    }

    async fn see(&self, customer: &CustomerId) -> Result<Seen, TenantError> {
        let checked_at = now();
        let month = DateTime::<Utc>::from(checked_at).date_naive().with_day(1).expect("every month has a first day");
        let mut transaction = TenantTransaction::begin(&self.pool, &self.mac_key, customer).await?;
        let read = metrics::totals(&mut transaction, customer, month, month, self.statements).await?;
        let metrics::Totals { of_months, complete_through } = read;
        transaction.let_go();
        let (version, metrics) = of_months
            .into_iter()
            .next()
            .map_or((0, Value::Null), |found| (Timestamp::from(found.updated_at).micros(), found.metrics));
        Ok(Seen { version, month: month.format("%Y-%m").to_string(), metrics, complete_through, checked_at })
    }
}
