//! Authenticated calls, written to the audit trail behind the answers: at most a second later, many at a time.
//!
//! A call that cannot be taken on is not answered: the queue is bounded, and while PostgreSQL is away it fills up.

use std::collections::BTreeMap;
use std::time::Duration;

use aggregator::directory::CustomerId;
use chrono::{DateTime, SecondsFormat, Utc};
use ingest::Timestamp;
use moka::sync::Cache;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};
use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::auth::KeyId;
use crate::edge::REQUEST_MS_MAX;
use crate::lease::Lease;
use crate::tenant::{DATABASE_WAIT_MS_MAX, TenantError, TenantMac};

/// How long a call waits for its place in the trail. Longer, and a batch of a busy server keeps a processor so long that the
/// slowest answers show it.
const BEHIND_MS_MAX: u64 = 100;

/// Calls written at once.
const BATCH_CALLS_MAX: usize = 2_000;

/// Calls that wait to be written; then callers wait.
const QUEUE_CALLS_MAX: usize = 10_000;

/// Between two tries while PostgreSQL is away.
const RETRY_MS: u64 = 500;

/// What the end of the server waits for.
const CLOSE_MS_MAX: u64 = 5_000;

/// For the statement that records: PostgreSQL gives up on it a little before, also while it waits for a chain's lock.
const STATEMENT_MS_MAX: u64 = REQUEST_MS_MAX + 1_000;

/// The status of a call whose caller went before its answer was ready; no answer has it.
pub(crate) const CALLER_GONE: u16 = 499;

/// A call that waited longer than this is recorded at the time of writing; what it says still names its own time.
const OLD_SECS: i64 = 1_800;

/// How fine the time of a key's last use is, and for how many keys it is kept in mind.
const NOTED_FOR: Duration = Duration::from_secs(60);
const NOTED_MAX: u64 = 100_000;

/// Longer paths are cut in the trail.
const PATH_CHARS_MAX: usize = 500;

/// The calls of many customers, each customer with its proof.
///
/// Answers with the transaction's id, by which its end is found out when nobody saw it.
pub(crate) const RECORD_CALLS: &str = "select pg_current_xact_id()::text from record_audit_calls($1, $2, $3::jsonb[])";

/// One call of an operator.
pub(crate) const RECORD_OPERATOR_CALL: &str = "select record_audit_call(null, $1::timestamptz, $2, $3, $4, $5::jsonb)";

/// The id of the running transaction.
pub(crate) const TRANSACTION: &str = "select pg_current_xact_id()::text";

/// How a transaction ended; null for one of long ago.
pub(crate) const ENDED: &str = "select pg_xact_status($1::text::xid8)";

/// One authenticated call and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whose; `None` for an operator's.
    pub customer: Option<CustomerId>,
    /// The key that was shown, or that the session stands for.
    pub key_id: KeyId,
    /// The session, if one was shown.
    pub session: Option<String>,
    /// `get`, `post`, ...
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The status of the answer; 499 if the caller went before it was ready.
    pub status: u16,
    /// The request's id.
    pub request_id: String,
    /// Where the caller is.
    pub address: String,
    /// When the answer was ready, or the caller gone.
    pub at: Timestamp,
}

impl Call {
    /// The event, as `record_audit_calls` reads it; it names the key when its last use is to be noted.
    fn event(&self, now: Timestamp, notes_use: bool) -> Value {
        let is_old = self.at.saturating_add_secs(OLD_SECS) < now;
        let rfc3339 = |at: Timestamp| DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut event = json!({
            "at": rfc3339(if is_old { now } else { self.at }),
            "actor": format!("key:{}", self.key_id),
            "action": format!("request.{}", self.method.to_ascii_lowercase()),
            "subject": self.path.chars().take(PATH_CHARS_MAX).collect::<String>(),
            "details": {
                "status": self.status,
                "request_id": self.request_id,
                "address": self.address,
                "session": self.session,
                "answered_at": rfc3339(self.at),
            },
        });
        if self.status == CALLER_GONE {
            event["details"]["outcome"] = json!("the caller was gone before the answer was ready");
        }
        if notes_use {
            event["key_id"] = json!(self.key_id.as_str());
        }
        event
    }
}

/// Why a call was not recorded: its answer must not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The recorder has ended. Stop.
    #[error("the audit trail is closed")]
    Closed,
    /// The call could not be written. Retry.
    #[error("the audit trail cannot be written")]
    NotWritten,
}

/// Why a batch is not known to be written.
#[derive(Debug, Error)]
enum WriteError {
    /// PostgreSQL failed; retry when it was away.
    #[error(transparent)]
    Database(#[from] TenantError),
    /// No answer in bounded time: the server may be gone without a word. Retry, over another connection.
    #[error("postgresql did not answer in time")]
    Silent,
    /// The transaction before is still ending on the server. Retry.
    #[error("the transaction before has not ended yet")]
    Ending,
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl WriteError {
    /// A right or a tenant's MAC was refused.
    fn is_refused(&self) -> bool {
        matches!(self, Self::Database(TenantError::Refused(_)))
    }

    fn is_away(&self) -> bool {
        match self {
            Self::Database(error) => error.is_away(),
            Self::Silent | Self::Ending => true,
        }
    }
}

/// Waits for PostgreSQL, and not for ever.
async fn answered<T>(ms_max: u64, answering: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, WriteError> {
    match timeout(Duration::from_millis(ms_max), answering).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(WriteError::Silent),
    }
}

#[derive(Debug)]
enum Message {
    Call(Box<Call>),
    /// Everything before this is written, or the sender is dropped.
    Flush(oneshot::Sender<()>),
}

/// Takes calls on and writes them.
#[derive(Clone, Debug)]
pub struct AuditRecorder {
    queue: mpsc::Sender<Message>,
}

/// Writes what is taken on. Its pools are `securebase_app`'s and, if operators are served, `securebase_operator`'s.
#[derive(Debug)]
struct Writer {
    pool: PgPool,
    operator_pool: Option<PgPool>,
    mac_key: TenantMac,
    now: fn() -> Timestamp,
    /// Keys whose last use was written less than a minute ago; one that is forgotten is written again.
    noted: Cache<KeyId, ()>,
}

impl AuditRecorder {
    /// Begins to write, as a task of this runtime that ends when the last recorder is dropped.
    pub(crate) fn start(
        pool: PgPool,
        operator_pool: Option<PgPool>,
        mac_key: TenantMac,
        now: fn() -> Timestamp,
    ) -> Self {
        let (queue, calls) = mpsc::channel(QUEUE_CALLS_MAX);
        let noted = Cache::builder().max_capacity(NOTED_MAX).time_to_live(NOTED_FOR).build();
        tokio::spawn(Writer { pool, operator_pool, mac_key, now, noted }.run(calls));
        Self { queue }
    }

    /// Takes a call on; waits while the queue is full.
    pub async fn record(&self, call: Call) -> Result<(), RecordError> {
        self.queue.send(Message::Call(Box::new(call))).await.map_err(|_| RecordError::Closed)
    }

    /// Takes a call on whose caller nobody can make wait: fails while the queue is full.
    pub(crate) fn record_at_once(&self, call: Call) -> Result<(), RecordError> {
        self.queue.try_send(Message::Call(Box::new(call))).map_err(|error| match error {
            TrySendError::Full(_) => RecordError::NotWritten,
            TrySendError::Closed(_) => RecordError::Closed,
        })
    }

    /// Returns when everything taken on so far is written. For hosts that freeze between answers, such as Lambda, and for
    /// the end of a server.
    pub async fn flush(&self) -> Result<(), RecordError> {
        let (done, written) = oneshot::channel();
        self.queue.send(Message::Flush(done)).await.map_err(|_| RecordError::Closed)?;
        tokio::time::timeout(Duration::from_millis(CLOSE_MS_MAX), written)
            .await
            .map_err(|_| RecordError::NotWritten)?
            .map_err(|_| RecordError::NotWritten)
    }
}

impl Writer {
    async fn run(self, mut calls: mpsc::Receiver<Message>) {
        let mut batch = Vec::new();
        let mut flushes = Vec::new();
        while let Some(first) = calls.recv().await {
            let deadline = tokio::time::Instant::now() + Duration::from_millis(BEHIND_MS_MAX);
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Call(call) => batch.push(*call),
                    Message::Flush(done) => flushes.push(done),
                }
                if batch.len() >= BATCH_CALLS_MAX || !flushes.is_empty() {
                    break;
                }
                next = tokio::time::timeout_at(deadline, calls.recv()).await.ok().flatten();
            }
            // Two transactions of two roles: when one of them fails, the other is not done again.
            let (of_customers, of_operators): (Vec<Call>, Vec<Call>) =
                batch.drain(..).partition(|call: &Call| call.customer.is_some());
            for calls in [of_customers, of_operators] {
                if !calls.is_empty() {
                    self.write_until_written(&calls).await;
                }
            }
            for done in flushes.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    /// The calls are of customers alone, or of operators alone.
    async fn write_until_written(&self, batch: &[Call]) {
        let mut unseen = None;
        loop {
            match self.write(batch, &mut unseen).await {
                Ok(()) => return,
                Err(error) if error.is_away() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        calls = batch.len(),
                        "the audit trail waits"
                    );
                    tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                }
                Err(error) if batch.len() == 1 => {
                    // It would stand in the way of all others for ever. The log keeps what the trail could not.
                    let event = batch[0].event((self.now)(), false);
                    let customer = batch[0].customer.as_ref().map(CustomerId::as_str);
                    if error.is_refused() {
                        tracing::error!(
                            alarm = "isolation",
                            error = &error as &dyn std::error::Error,
                            customer,
                            "postgresql refused to record a call"
                        );
                    }
                    tracing::error!(
                        alarm = "audit",
                        error = &error as &dyn std::error::Error,
                        customer,
                        %event,
                        "a call cannot be recorded"
                    );
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "recording calls one by one");
                    for call in batch {
                        Box::pin(self.write_until_written(std::slice::from_ref(call))).await;
                    }
                    return;
                }
            }
        }
    }

    /// All calls in one transaction, once: `unseen` names the transaction of the try before, if its end was not seen.
    async fn write(&self, batch: &[Call], unseen: &mut Option<String>) -> Result<(), WriteError> {
        let is_customers = batch.iter().any(|call| call.customer.is_some());
        let pool = if is_customers { &self.pool } else { self.operator_pool.as_ref().unwrap_or(&self.pool) };
        let mut lease = answered(DATABASE_WAIT_MS_MAX, Lease::of(pool)).await?;
        let written = self.write_over(&mut lease, batch, unseen).await;
        if matches!(written, Err(WriteError::Silent)) {
            lease.abandon();
        }
        written
    }

    /// Each step in bounded time. Before its commit is sent a transaction that was given up cannot be done any more; after
    /// that `unseen` names it.
    async fn write_over(
        &self,
        connection: &mut PgConnection,
        batch: &[Call],
        unseen: &mut Option<String>,
    ) -> Result<(), WriteError> {
        if let Some(before) = unseen.as_deref() {
            match end_of(connection, before).await? {
                End::Committed => return Ok(()),
                End::Ending => return Err(WriteError::Ending),
                End::RolledBack => *unseen = None,
            }
        }
        let mut transaction = answered(DATABASE_WAIT_MS_MAX, connection.begin()).await?;
        let recording = async {
            if batch.iter().any(|call| call.customer.is_some()) {
                self.record_customers(batch, &mut transaction).await
            } else {
                self.record_operators(batch, &mut transaction).await
            }
        };
        *unseen = Some(answered(STATEMENT_MS_MAX, recording).await?);
        answered(DATABASE_WAIT_MS_MAX, transaction.commit()).await?;
        for call in batch.iter().filter(|call| call.customer.is_some()) {
            self.noted.insert(call.key_id.clone(), ());
        }
        Ok(())
    }

    async fn record_customers(&self, batch: &[Call], connection: &mut PgConnection) -> Result<String, sqlx::Error> {
        let now = (self.now)();
        let mut of_customers = BTreeMap::<&CustomerId, Vec<Value>>::new();
        for call in batch {
            if let Some(customer) = &call.customer {
                let notes_use = !self.noted.contains_key(&call.key_id);
                of_customers.entry(customer).or_default().push(call.event(now, notes_use));
            }
        }
        let customers: Vec<&str> = of_customers.keys().map(|customer| customer.as_str()).collect();
        let macs: Vec<Vec<u8>> = of_customers.keys().map(|customer| self.mac_key.sign(customer).to_vec()).collect();
        let events: Vec<String> = of_customers.into_values().map(|events| Value::Array(events).to_string()).collect();
        let recording = sqlx::query_scalar(RECORD_CALLS).bind(customers).bind(macs).bind(events);
        recording.persistent(false).fetch_one(connection).await
    }

    async fn record_operators(&self, batch: &[Call], connection: &mut PgConnection) -> Result<String, sqlx::Error> {
        let now = (self.now)();
        for call in batch {
            let event = call.event(now, false);
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            sqlx::query(RECORD_OPERATOR_CALL)
                .bind(text("at"))
                .bind(text("actor"))
                .bind(text("action"))
                .bind(text("subject"))
                .bind(event["details"].to_string())
                .persistent(false)
                .execute(&mut *connection)
                .await?;
        }
        sqlx::query_scalar(TRANSACTION).persistent(false).fetch_one(connection).await
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Committed,
    RolledBack,
    /// Not yet: a server can go on with the commit of a connection that is gone.
    Ending,
}

/// Asks PostgreSQL how a transaction ended whose commit got no answer (manual section 9.28.13, `pg_xact_status`).
async fn end_of(connection: &mut PgConnection, transaction: &str) -> Result<End, WriteError> {
    let asking = sqlx::query_scalar(ENDED).bind(transaction).persistent(false).fetch_one(connection);
    let Ok(asked) = timeout(Duration::from_millis(DATABASE_WAIT_MS_MAX), asking).await else {
        return Err(WriteError::Silent);
    };
    match asked {
        Ok(Some(status)) => Ok(match String::as_str(&status) {
            "committed" => End::Committed,
            "in progress" => End::Ending,
            _ => End::RolledBack,
        }),
        // So long ago that PostgreSQL has forgotten: twice in the trail is better than not at all.
        Ok(None) => Ok(End::RolledBack),
        // 22023: an id of the future, for a server that crashed before it wrote that id down.
        Err(error) if error.as_database_error().is_some_and(|cause| cause.code().as_deref() == Some("22023")) => {
            Ok(End::RolledBack)
        }
        Err(error) => Err(error.into()),
    }
}
