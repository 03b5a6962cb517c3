//! What every request needs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aggregator::directory::AccountDirectory;
use aggregator::receipts::Sources;
use axum::http::HeaderValue;
use ingest::dead_letter::DeadLetters;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool};
use tokio::time::{Instant, timeout};

use crate::audit::AuditRecorder;
use crate::auth::{Authenticator, HashingPool, Sessions, SigningKeys, Verified};
use crate::caller::Identity;
use crate::edge::{REQUEST_MS_MAX, now};
use crate::operation_worker::OperationQueue;
use crate::rate::{CustomerRates, SharedBuckets};
use crate::samples::SampleDoor;
use crate::telemetry::Telemetry;
use crate::tenant::{DATABASE_WAIT_MS_MAX, Statements, TenantMac};
use crate::watchers::Watchers;

/// Connections to PostgreSQL that one API process holds at most.
const CONNECTIONS_MAX: u32 = 16;

/// A connection that lay idle for longer is asked whether it lives before it is used.
const UNTESTED_IDLE_MAX: Duration = Duration::from_secs(1);

/// How long it may take to answer that.
const TEST_MAX: Duration = Duration::from_secs(1);

/// What operators' routes change, beside what their own role may.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Customers and their accounts, as `securebase_aggregator`.
    pub directory: AccountDirectory,
    /// What the sources of customers' meters promise, as `securebase_aggregator`.
    pub sources: Sources,
    /// Records that were set aside.
    pub dead_letters: DeadLetters,
    /// Who gives it runs an [`OperationWorker`](crate::OperationWorker) with it: closes, billing runs and replays are carried out.
    pub queue: OperationQueue,
}

/// What the API is made of.
#[derive(Clone, Debug)]
pub struct ApiParts {
    /// Connections as the role `securebase_app`.
    pub pool: PgPool,
    /// Connections as the role `securebase_operator`; without them there are no routes for operators.
    pub operator_pool: Option<PgPool>,
    /// Without them operators look at customers, accounts, closes and runs, and change keys alone.
    pub operations: Option<Operations>,
    /// Who bills, as previews of invoices name it.
    pub seller: billing::Party,
    /// How statements on `pool` are sent.
    pub statements: Statements,
    /// Vouches for the tenant of each transaction.
    pub mac_key: TenantMac,
    /// The keys that sign sessions.
    pub signing_keys: SigningKeys,
    /// Where the servers of a deployment share accepted secrets and customers' buckets of requests: a client and the table's
    /// name. Without it each server has its own, and says nothing of DynamoDB when asked whether it is ready.
    pub shared_table: Option<(aws_sdk_dynamodb::Client, String)>,
    /// Whether no other process serves these customers: its own buckets are theirs then, and the table is not asked for them.
    pub serves_alone: bool,
    /// Threads for bcrypt: the processors of this machine.
    pub hashing_threads: usize,
    /// Who lets callers in.
    pub identity: Identity,
    /// Origins whose scripts may ask, such as `https://portal.example.com`; none by default.
    pub cors_origins: Vec<HeaderValue>,
}

/// The shared state of the router. Cheap to clone; prints no secret.
#[derive(Clone, Debug)]
pub struct ApiState {
    pub(crate) pool: PgPool,
    pub(crate) operator_pool: Option<PgPool>,
    pub(crate) operations: Option<Operations>,
    pub(crate) seller: billing::Party,
    pub(crate) statements: Statements,
    pub(crate) mac_key: TenantMac,
    pub(crate) authenticator: Authenticator,
    pub(crate) recorder: AuditRecorder,
    pub(crate) identity: Identity,
    pub(crate) watchers: Watchers,
    pub(crate) rates: CustomerRates,
    /// What readiness asks.
    pub(crate) shared_table: Option<(aws_sdk_dynamodb::Client, String)>,
    pub(crate) telemetry: Telemetry,
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) samples: Option<SampleDoor>,
}

impl ApiState {
    /// Puts the parts together and begins to record calls, as a task of this runtime.
    pub fn new(parts: ApiParts) -> Self {
        let ApiParts {
            pool,
            operator_pool,
            operations,
            seller,
            statements,
            mac_key,
            signing_keys,
            shared_table,
            serves_alone,
            hashing_threads,
            identity,
            cors_origins,
        } = parts;
        let verified = Verified::new(mac_key.derive("authentication cache"));
        let telemetry = Telemetry::default();
        let (verified, buckets) = match shared_table.clone() {
            Some((client, table)) => {
                let key = mac_key.derive("request buckets");
                let buckets = SharedBuckets::new(client.clone(), table.clone(), key, telemetry.clone(), now);
                (verified.with_table(client, table), Some(buckets).filter(|_| !serves_alone))
            }
            None => (verified, None),
        };
        let hashing = HashingPool::new(hashing_threads);
        let authenticator =
            Authenticator::new(pool.clone(), statements, hashing, verified, Sessions::new(signing_keys));
        let recorder = AuditRecorder::start(pool.clone(), operator_pool.clone(), mac_key.clone(), now);
        let watchers = Watchers::new(pool.clone(), mac_key.clone(), statements);
        Self {
            pool,
            operator_pool,
            operations,
            seller,
            statements,
            mac_key,
            authenticator,
            recorder,
            identity,
            watchers,
            rates: CustomerRates::new(buckets),
            shared_table,
            telemetry,
            cors_origins,
            samples: None,
        }
    }

    /// Takes usage samples in by this door; without one there is no such route.
    pub fn with_samples(self, door: SampleDoor) -> Self {
        Self { samples: Some(door), ..self }
    }

    /// Lets requests wait so long for the shared bucket of their customer, instead of [`LEASE_WAIT_MS_MAX`].
    ///
    /// [`LEASE_WAIT_MS_MAX`]: crate::LEASE_WAIT_MS_MAX
    pub fn with_lease_wait(self, wait: Duration) -> Self {
        Self { rates: self.rates.with_wait(wait), ..self }
    }

    /// Checks keys and sessions; for an authorizer, and to replace signing keys.
    pub fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// What the server measures.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Writes calls to the audit trail; a host that freezes between answers flushes it before each.
    pub fn recorder(&self) -> &AuditRecorder {
        &self.recorder
    }
}

/// A pool with the limits the API counts on; it connects when first used, so the API starts while PostgreSQL is away.
///
/// The caller's options name the server, database and role `securebase_app`.
pub fn pool(options: PgConnectOptions) -> PgPool {
    // PostgreSQL gives up on a statement when the request that asked for it is over.
    let options =
        options.application_name("securebase-api").options([("statement_timeout", REQUEST_MS_MAX.to_string())]);
    let distrusted = Arc::new(Mutex::new(None));
    PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(Duration::from_millis(DATABASE_WAIT_MS_MAX))
        .idle_timeout(Duration::from_secs(300))
        // A connection that was used a moment ago is not asked whether it lives: under load that would be a round trip a
        // request. If the server went in that moment, the request fails as it would have a moment later.
        .test_before_acquire(false)
        .before_acquire(move |connection, used| {
            let distrusted = Arc::clone(&distrusted);
            Box::pin(async move {
                let opened_at = Instant::now().checked_sub(used.age);
                let since = *distrusted.lock().unwrap_or_else(PoisonError::into_inner);
                if opened_at < since {
                    return Err(silent());
                }
                if used.idle_for < UNTESTED_IDLE_MAX {
                    return Ok(true);
                }
                let Ok(answered) = timeout(TEST_MAX, connection.ping()).await else {
                    // Those of its age went the same way: one by one they would cost every caller a wait.
                    *distrusted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    return Err(silent());
                };
                Ok(answered.is_ok())
            })
        })
        .connect_lazy_with(options)
}

/// sqlx closes a connection without a last word on it when testing it fails.
fn silent() -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server of an idle connection does not answer").into()
}
