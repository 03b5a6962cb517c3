//! Transactions that see one customer only.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use aggregator::directory::CustomerId;
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use crate::key::{Key, KeyTooShort};
use crate::lease::Lease;

/// How the statements of customers' requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statements {
    /// Prepared once a connection, under a name: PostgreSQL parses and plans them once. Not behind a pooler that gives each
    /// transaction another connection and knows no names, as PgBouncer before 1.21 does.
    Prepared,
    /// Parsed and planned each time: whole behind any pooler.
    Unnamed,
}

impl Statements {
    /// What sqlx calls it.
    pub(crate) fn are_kept(self) -> bool {
        self == Self::Prepared
    }
}

/// How long a request waits for a connection and its tenant before PostgreSQL counts as away.
pub const DATABASE_WAIT_MS_MAX: u64 = 3_000;

/// Opens every transaction of a customer. Repeatable read: the statements of one answer see one state.
pub(crate) const BEGIN: &str = "begin isolation level repeatable read read only";

/// Opens the transactions of a customer that write. Read committed: chains and keys are locked as they are, not as they
/// were when the transaction began.
pub(crate) const BEGIN_WRITING: &str = "begin isolation level read committed read write";

const COMMIT: &str = "commit";

const ROLLBACK: &str = "rollback";

/// Only [`TenantTransaction::end`] and the drop take the connection out.
const NOT_ENDED: &str = "a transaction that somebody holds has not ended";

/// The first statement of every transaction of a customer, sent with its `begin`: one round trip, and whole for a pooler
/// that changes connections between transactions. An id is a slug by its type, and needs no quoting.
pub(crate) fn set_tenant(customer: &CustomerId, mac: &[u8; 32]) -> String {
    format!("select set_tenant('{customer}', '\\x{}')", hex::encode(mac))
}

/// The key that vouches for a tenant; PostgreSQL holds the same key where no room's role can read it. It never prints.
#[derive(Clone, Debug)]
pub struct TenantMac(Key);

impl TenantMac {
    /// Takes the key given to `migrations::set_tenant_key`, at least 32 bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, KeyTooShort> {
        Key::new(bytes).map(Self)
    }

    /// A key for another purpose. The purpose is words with a space, which no customer's id is.
    pub(crate) fn derive(&self, purpose: &str) -> Key {
        debug_assert!(purpose.contains(' '), "a purpose cannot be mistaken for a customer");
        Key::new(self.0.sign(purpose)).expect("a MAC has 32 bytes")
    }

    /// HMAC-SHA256 of the customer's id, as `current_tenant()` checks it.
    pub(crate) fn sign(&self, customer: &CustomerId) -> [u8; 32] {
        self.0.sign(customer.as_str())
    }
}

/// Why a transaction could not begin, or a query in it not end. All but [`TenantError::Refused`] are worth a retry.
#[derive(Debug, Error)]
pub enum TenantError {
    /// No connection in time. Retry.
    #[error("postgresql gave no connection within {DATABASE_WAIT_MS_MAX} ms")]
    TimedOut,
    /// PostgreSQL refused a right or a tenant's MAC. Stop: the key, the role or the schema is not the API's.
    #[error("postgresql refused the tenant or a right (SQLSTATE 42501)")]
    Refused(#[source] sqlx::Error),
    /// Another failure of PostgreSQL. Retry when [`TenantError::is_away`], else stop.
    #[error("postgresql failed")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for TenantError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut => Self::TimedOut,
            sqlx::Error::Database(cause) if cause.code().as_deref() == Some("42501") => Self::Refused(error),
            _ => Self::Database(error),
        }
    }
}

impl TenantError {
    /// PostgreSQL cannot be reached, is starting, stopping or full, or a statement ran out of time: the same request
    /// may succeed later.
    pub fn is_away(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Refused(_) => false,
            Self::Database(error) => match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Protocol(_)
                | sqlx::Error::WorkerCrashed => true,
                // Connection exceptions, bad credentials, missing database, no resources, operator's intervention
                // (statement timeout, shutdown, start-up).
                sqlx::Error::Database(cause) => cause
                    .code()
                    .is_some_and(|code| ["08", "28", "3D", "53", "57"].iter().any(|class| code.starts_with(class))),
                _ => false,
            },
        }
    }
}

/// A transaction in which PostgreSQL shows one customer's rows only.
///
/// The tenant is local to the transaction: no setting survives it, so a pooler may hand the connection to anyone next.
/// The transaction is begun and ended here and not by sqlx, which can neither send the tenant along nor, when naming it
/// fails, end what it began; nothing within may begin another.
#[derive(Debug)]
pub struct TenantTransaction {
    /// `None` once it has ended.
    connection: Option<Lease>,
    /// What ends it behind whoever drops it.
    dropped: &'static str,
}

impl TenantTransaction {
    /// Begins to read, and names the customer before anything else runs.
    pub async fn begin(pool: &PgPool, key: &TenantMac, customer: &CustomerId) -> Result<Self, TenantError> {
        Self::begin_with(BEGIN, pool, key, customer).await
    }

    /// Begins to write. Nothing is written before [`TenantTransaction::end`].
    pub async fn begin_writing(pool: &PgPool, key: &TenantMac, customer: &CustomerId) -> Result<Self, TenantError> {
        Self::begin_with(BEGIN_WRITING, pool, key, customer).await
    }

    async fn begin_with(
        begin: &'static str,
        pool: &PgPool,
        key: &TenantMac,
        customer: &CustomerId,
    ) -> Result<Self, TenantError> {
        let sql = AssertSqlSafe(format!("{begin}; {}", set_tenant(customer, &key.sign(customer))));
        let until = Instant::now() + Duration::from_millis(DATABASE_WAIT_MS_MAX);
        let lease = timeout_at(until, Lease::of(pool)).await.map_err(|_| TenantError::TimedOut)??;
        // Named as begun before it is: if the statement fails halfway, the drop rolls back.
        let mut transaction = Self { connection: Some(lease), dropped: ROLLBACK };
        let Ok(begun) = timeout_at(until, transaction.execute(sqlx::raw_sql(sql))).await else {
            // It waits for no lock: there is nobody to wait for.
            if let Some(lease) = transaction.connection.take() {
                lease.abandon();
            }
            return Err(TenantError::TimedOut);
        };
        begun?;
        Ok(transaction)
    }

    /// Commits the transaction. Dropped instead, it is rolled back before anyone else gets the connection.
    ///
    /// A commit also waits for the disk where something that was read asks for it, such as an invoice that a run has just
    /// issued: until then nothing of it may be shown.
    pub async fn end(mut self) -> Result<(), TenantError> {
        self.execute(COMMIT).await?;
        self.connection = None;
        Ok(())
    }

    /// Ends a transaction that only read, behind the answer. For what may be shown whether or not it is on the disk yet: usage
    /// comes from logs that outlive PostgreSQL.
    pub(crate) fn let_go(mut self) {
        self.dropped = COMMIT;
    }
}

impl Drop for TenantTransaction {
    fn drop(&mut self) {
        if let Some(lease) = self.connection.take() {
            lease.end_with(self.dropped);
        }
    }
}

impl Deref for TenantTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(NOT_ENDED)
    }
}

impl DerefMut for TenantTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(NOT_ENDED)
    }
}
