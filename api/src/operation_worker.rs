//! Carries operations out: one at a time over all servers, in the order in which they were asked for.
//!
//! Whose turn it is decides a lock of PostgreSQL's, held by the transaction that will write down how the operation ended. A
//! worker that dies loses it at once, and another begins the operation again. One whose connection is cut lost it as well: it
//! lets go of the work, and could not say that it is done.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::audit;
use crate::edge::now;
use crate::operation::{OperationFailure, OperationTask, stored};
use crate::problem::Problem;
use crate::tenant::BEGIN_WRITING;

/// How often a worker looks for what another server was asked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a worker looks whether the turn is still its own.
const HELD_EVERY: Duration = Duration::from_secs(5);
/// How long PostgreSQL may take to answer a worker, locks included.
const ANSWER_SECS_MAX: u64 = 10;
/// The longest that an operation may take: one that hangs must not hold up the others for ever.
const OPERATION_SECS_MAX: u64 = 3_600;
/// How often an operation is begun. One that was cut off so often may be what cuts servers off.
const ATTEMPTS_MAX: i32 = 5;
/// Who ends operations, in the audit trail.
const ACTOR: &str = "system";

pub(crate) const ANY_WAITS: &str = "select exists (select from operations where finished_at is null)";

pub(crate) const TAKE_TURN: &str = "select pg_try_advisory_xact_lock(hashtext('operations'))";

pub(crate) const NEXT: &str = "select operation_id, kind, request::text, requested_by, attempts from operations \
     where finished_at is null order by operation_id limit 1";

pub(crate) const START: &str = "update operations set status = 'under_way', attempts = attempts + 1, \
     started_at = coalesce(started_at, $2) where operation_id = $1 and finished_at is null";

pub(crate) const STILL_HELD: &str = "select 1";

pub(crate) const FINISH: &str = "update operations set status = $2, finished_at = greatest($3, started_at), \
     result = $4::text::jsonb, problem = $5::text::jsonb where operation_id = $1 and finished_at is null";

/// Where a server's routes tell its own worker that there is something to do. Workers of other servers find it by themselves.
#[derive(Clone, Debug, Default)]
pub struct OperationQueue(Arc<Notify>);

impl OperationQueue {
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }
}

/// Carries operations out, with what its host can do.
#[derive(Clone, Debug)]
pub struct OperationWorker {
    pool: PgPool,
    queue: OperationQueue,
}

/// An operation that waits.
#[derive(Debug, sqlx::FromRow)]
struct Waiting {
    operation_id: i64,
    kind: String,
    request: String,
    requested_by: String,
    attempts: i32,
}

impl OperationWorker {
    /// The pool is of `securebase_operator`, and of two connections at least: one holds the turn.
    pub fn new(pool: PgPool, queue: OperationQueue) -> Self {
        Self { pool, queue }
    }

    /// Works until it is dropped. What it was at is then begun again by another worker, or by the next start of this one.
    ///
    /// `carry_out` may be called again for an operation that it has done, when nobody could write down that it has: it must do
    /// nothing twice. What it answers is shown to operators.
    pub async fn run<W>(self, carry_out: impl Fn(OperationTask) -> W)
    where
        W: Future<Output = Result<Value, OperationFailure>>,
    {
        loop {
            match self.turn(&carry_out).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "operations wait for the database");
                    sleep(LOOK_EVERY).await;
                    continue;
                }
            }
            tokio::select! {
                () = self.queue.0.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Carries out the operation that waits longest; returns whether there was one, and it was this worker's turn.
    async fn turn<W>(&self, carry_out: impl Fn(OperationTask) -> W) -> Result<bool, sqlx::Error>
    where
        W: Future<Output = Result<Value, OperationFailure>>,
    {
        let Some((mut turn, waiting)) = answered(self.take_turn()).await? else { return Ok(false) };
        let outcome = attempt(&mut turn, &waiting, carry_out).await?;
        answered(finish(turn, &waiting, outcome)).await?;
        Ok(true)
    }

    /// The operation that waits longest, and the transaction that holds the turn; nothing if there is none, or another's turn.
    async fn take_turn(&self) -> Result<Option<(Transaction<'static, Postgres>, Waiting)>, sqlx::Error> {
        let any_waits: bool = sqlx::query_scalar(ANY_WAITS).persistent(false).fetch_one(&self.pool).await?;
        if !any_waits {
            return Ok(None);
        }
        let mut turn = self.pool.begin_with(BEGIN_WRITING).await?;
        let is_ours: bool = sqlx::query_scalar(TAKE_TURN).persistent(false).fetch_one(&mut *turn).await?;
        if !is_ours {
            return Ok(None);
        }
        let next: Option<Waiting> = sqlx::query_as(NEXT).persistent(false).fetch_optional(&mut *turn).await?;
        let Some(waiting) = next else { return Ok(None) };
        // By another connection, because this one commits at the end: others shall see that it is under way.
        sqlx::query(START)
            .bind(waiting.operation_id)
            .bind(DateTime::<Utc>::from(now()))
            .persistent(false)
            .execute(&self.pool)
            .await?;
        Ok(Some((turn, waiting)))
    }
}

/// Waits for PostgreSQL, and not for ever: a server that is gone without a word answers nothing.
async fn answered<T>(asking: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(Duration::from_secs(ANSWER_SECS_MAX), asking).await.map_err(|_| sqlx::Error::PoolTimedOut)?
}

/// Does the work, for as long as the turn is held.
async fn attempt<W>(
    turn: &mut PgConnection,
    waiting: &Waiting,
    carry_out: impl Fn(OperationTask) -> W,
) -> Result<Result<Value, OperationFailure>, sqlx::Error>
where
    W: Future<Output = Result<Value, OperationFailure>>,
{
    let Waiting { operation_id, kind, request, requested_by, attempts } = waiting;
    if ATTEMPTS_MAX <= *attempts {
        let detail =
            format!("given up: each of {attempts} tries was cut off; see why in the servers' logs, then ask again");
        return Ok(Err(OperationFailure::failed(detail)));
    }
    let Some(operation) = stored(kind, request) else {
        return Ok(Err(OperationFailure::refused("this version of the program does not know such an operation")));
    };
    let task = OperationTask { operation_id: *operation_id, requested_by: requested_by.clone(), operation };
    let work = timeout(Duration::from_secs(OPERATION_SECS_MAX), carry_out(task));
    let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
    loop {
        tokio::select! {
            outcome = &mut work => return Ok(match outcome {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(OperationFailure::failed("it took longer than an hour; ask again, and it goes on")),
                Err(_) => Err(OperationFailure::failed("a bug in this program ended it; the server's log has the report")),
            }),
            () = sleep(HELD_EVERY) => {}
        }
        answered(sqlx::query(STILL_HELD).persistent(false).execute(&mut *turn)).await?;
    }
}

/// Writes down how it ended, with its audit event, and gives the turn back.
async fn finish(
    mut turn: Transaction<'_, Postgres>,
    waiting: &Waiting,
    outcome: Result<Value, OperationFailure>,
) -> Result<(), sqlx::Error> {
    let (status, result, problem) = match outcome {
        Ok(result) => ("done", Some(result), None),
        Err(failure) => ("failed", None, Some(document(&failure.problem()))),
    };
    let finished = sqlx::query(FINISH)
        .bind(waiting.operation_id)
        .bind(status)
        .bind(DateTime::<Utc>::from(now()))
        .bind(result.as_ref().map(storable))
        .bind(problem.as_ref().map(storable))
        .persistent(false)
        .execute(&mut *turn)
        .await?;
    if finished.rows_affected() == 1 {
        let details = json!({
            "kind": waiting.kind,
            "status": status,
            "attempts": (waiting.attempts + 1).to_string(),
            "detail": problem.as_ref().map(|problem| problem["detail"].clone()),
        });
        let subject = waiting.operation_id.to_string();
        let details = serde_json::from_str(&storable(&details)).unwrap_or_default();
        audit::record(&mut turn, None, ACTOR, "operation.finished", &subject, details).await?;
    }
    turn.commit().await
}

/// The text of a document that PostgreSQL can store: any character but U+0000.
fn storable(document: &Value) -> String {
    document.to_string().replace("\\u0000", "\\ufffd")
}

/// A problem as operations keep it: without the id of a request.
fn document(problem: &Problem) -> Value {
    let mut document = json!({
        "type": format!("urn:securebase:problem:{}", problem.kind),
        "title": problem.title,
        "status": problem.status.as_u16(),
        "detail": problem.detail,
    });
    if let (Some(document), Some(members)) = (document.as_object_mut(), &problem.members) {
        document.extend((**members).clone());
    }
    document
}
