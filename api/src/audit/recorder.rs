//! Authenticated calls, written to the audit trail behind the answers: at most a second later, many at a time.
//!
//! A call that cannot be taken on is not answered: the queue is bounded, and while PostgreSQL is away it fills up.

use std::collections::BTreeMap;
use std::time::Duration;

use aggregator::directory::CustomerId;
use chrono::{DateTime, SecondsFormat, Utc};
use ingest::Timestamp;
use serde_json::{Value, json};
use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::auth::KeyId;
use crate::tenant::{TenantError, TenantMac};

/// How long a call waits for its place in the trail.
const BEHIND_MS_MAX: u64 = 500;

/// Calls written at once.
const BATCH_CALLS_MAX: usize = 2_000;

/// Calls that wait to be written; then callers wait.
const QUEUE_CALLS_MAX: usize = 10_000;

/// Between two tries while PostgreSQL is away.
const RETRY_MS: u64 = 500;

/// What the end of the server waits for.
const CLOSE_MS_MAX: u64 = 5_000;

/// A call that waited longer than this is recorded at the time of writing; what it says still names its own time.
const OLD_SECS: i64 = 1_800;

/// Longer paths are cut in the trail.
const PATH_CHARS_MAX: usize = 500;

/// The calls of many customers, each customer with its proof.
pub(crate) const RECORD_CALLS: &str = "select record_audit_calls($1, $2, $3::jsonb[])";

/// One call of an operator.
pub(crate) const RECORD_OPERATOR_CALL: &str = "select record_audit_call(null, $1::timestamptz, $2, $3, $4, $5::jsonb)";

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
    /// The status of the answer.
    pub status: u16,
    /// The request's id.
    pub request_id: String,
    /// Where the caller is.
    pub address: String,
    /// When the answer was ready.
    pub at: Timestamp,
}

impl Call {
    /// The event, as `record_audit_calls` reads it.
    fn event(&self, now: Timestamp) -> Value {
        let is_old = self.at.saturating_add_secs(OLD_SECS) < now;
        let rfc3339 = |at: Timestamp| DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Micros, true);
        json!({
            "at": rfc3339(if is_old { now } else { self.at }),
            "actor": format!("key:{}", self.key_id),
            "action": format!("request.{}", self.method.to_ascii_lowercase()),
            "subject": self.path.chars().take(PATH_CHARS_MAX).collect::<String>(),
            "key_id": self.key_id.as_str(),
            "details": {
                "status": self.status,
                "request_id": self.request_id,
                "address": self.address,
                "session": self.session,
                "answered_at": rfc3339(self.at),
            },
        })
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
        tokio::spawn(Writer { pool, operator_pool, mac_key, now }.run(calls));
        Self { queue }
    }

    /// Takes a call on; waits while the queue is full.
    pub async fn record(&self, call: Call) -> Result<(), RecordError> {
        self.queue.send(Message::Call(Box::new(call))).await.map_err(|_| RecordError::Closed)
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
            self.write_until_written(&batch).await;
            batch.clear();
            for done in flushes.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    async fn write_until_written(&self, batch: &[Call]) {
        loop {
            match self.write(batch).await {
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
                    let event = batch[0].event((self.now)());
                    let customer = batch[0].customer.as_ref().map(CustomerId::as_str);
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

    /// All calls in one transaction for customers, and one for operators.
    async fn write(&self, batch: &[Call]) -> Result<(), TenantError> {
        let now = (self.now)();
        let mut of_customers = BTreeMap::<&CustomerId, Vec<Value>>::new();
        let mut of_operators = Vec::new();
        for call in batch {
            match &call.customer {
                Some(customer) => of_customers.entry(customer).or_default().push(call.event(now)),
                None => of_operators.push(call.event(now)),
            }
        }
        if !of_customers.is_empty() {
            let customers: Vec<&str> = of_customers.keys().map(|customer| customer.as_str()).collect();
            let macs: Vec<Vec<u8>> = of_customers.keys().map(|customer| self.mac_key.sign(customer).to_vec()).collect();
            let events: Vec<String> =
                of_customers.into_values().map(|events| Value::Array(events).to_string()).collect();
            let mut transaction = self.pool.begin().await?;
            sqlx::query(RECORD_CALLS)
                .bind(customers)
                .bind(macs)
                .bind(events)
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
        }
        let Some(operator_pool) = &self.operator_pool else { return Ok(()) };
        if !of_operators.is_empty() {
            let mut transaction = operator_pool.begin().await?;
            for event in of_operators {
                let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                sqlx::query(RECORD_OPERATOR_CALL)
                    .bind(text("at"))
                    .bind(text("actor"))
                    .bind(text("action"))
                    .bind(text("subject"))
                    .bind(event["details"].to_string())
                    .persistent(false)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
        }
        Ok(())
    }
}
