//! Which logs a database's usage rows were rolled up from.
//!
//! Cursors and totals mean nothing without their logs. So the logs have a name, made with them, and a database is bound to the
//! logs it was first used with: with any others its cursors would pass over usage that was never rolled up.

use std::fmt;

use ingest::Timestamp;
use ingest::aws::AwsError;
use sqlx::PgPool;
use sqlx::types::chrono::{DateTime, Utc};
use thiserror::Error;

use crate::usage_rows::DatabaseError;

/// The name of one set of logs. Random, made at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentId([u8; 16]);

impl DeploymentId {
    /// The name with these random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// Writes 32 lower-case hexadecimal digits.
impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Why logs could not be asked for their name.
#[derive(Debug, Error)]
pub enum DeploymentError {
    /// The store failed. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
    /// Stop: something else wrote where the name stands.
    #[error("the table of commit logs has an item `deployment` that is not ours")]
    NotOurs,
}

/// Why a database is not used with these logs.
#[derive(Debug, Error)]
pub enum BindError {
    /// Stop: its rows are of other logs.
    #[error(
        "the database belongs to other counters ({bound}, these are {ours}): \
         use the home or tables it was made with, or an empty database"
    )]
    OtherLogs {
        /// The logs it is bound to.
        bound: String,
        /// The logs at hand.
        ours: DeploymentId,
    },
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

const BIND: &str =
    "insert into deployment (deployment_id, bound_at) values ($1, $2) on conflict (singleton) do nothing";
const BOUND: &str = "select deployment_id from deployment";

/// The statements of this module, for the test that prepares them as `securebase_aggregator`.
pub const STATEMENTS: [&str; 2] = [BIND, BOUND];

/// Binds a database to these logs, if it is bound to none; refuses it if it is bound to others.
pub async fn bind(pool: &PgPool, ours: DeploymentId, now: Timestamp) -> Result<(), BindError> {
    let now = DateTime::<Utc>::from(now);
    let inserted = sqlx::query(BIND).bind(ours.to_string()).bind(now).execute(pool).await;
    inserted.map_err(DatabaseError::from)?;
    let bound: String = sqlx::query_scalar(BOUND).fetch_one(pool).await.map_err(DatabaseError::from)?;
    if bound == ours.to_string() { Ok(()) } else { Err(BindError::OtherLogs { bound, ours }) }
}
