//! `/v1/admin/operations`, and the routes that ask for one: closes, billing runs and replays of dead letters.
//!
//! Asking writes the operation, its audit event and the answer of its idempotency key in one transaction, and answers 202 with its
//! `Location`. A host that gives [`Operations`](crate::Operations) carries it out. The same request, while it waits or is under way,
//! is the same operation.

use std::time::Duration;

use aggregator::directory::CustomerId;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

use crate::admin::{BAD_CURSOR, LIMIT_DEFAULT, LIMIT_MAX};
use crate::audit;
use crate::body::Body;
use crate::caller::Operator;
use crate::edge::now;
use crate::idempotency::Repeatable;
use crate::operation::{CloseRequest, Operation, ReplayRequest, Requested, RunRequest};
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::{ApiState, Operations};
use crate::tenant::TenantError;
use crate::write::{Begun, Write};

/// Operations that may wait at once.
const WAITING_MAX: i64 = 100;
/// The longest that an answer waits for an operation's end.
const WAIT_SECS_MAX: u64 = 5;
const POLL: Duration = Duration::from_millis(50);
/// Looks for an operation that another request adds, or another server ends, at the same moment.
const TRIES_MAX: usize = 10;

/// Adds an operation, unless the same one waits.
pub(crate) const ADD: &str = "insert into operations (kind, request, request_sha256, requested_by, requested_at) \
     values ($1, $2::text::jsonb, $3, $4, $5) \
     on conflict (kind, request_sha256) where finished_at is null do nothing returning operation_id";

pub(crate) const FIND_WAITING: &str = "select operation_id from operations \
     where kind = $1 and request_sha256 = $2 and finished_at is null";

pub(crate) const COUNT_WAITING: &str = "select count(*) from operations where finished_at is null";

pub(crate) const CUSTOMER_EXISTS: &str = "select exists (select from customers where customer_id = $1)";

pub(crate) const FIND: &str = "select operation_id, kind, request::text, status, requested_by, requested_at, attempts, \
     started_at, finished_at, result::text, problem::text from operations where operation_id = $1";

/// Operations before one, newest first.
pub(crate) const LIST: &str = "select operation_id, kind, request::text, status, requested_by, requested_at, attempts, \
     started_at, finished_at, result::text, problem::text from operations \
     where ($1::bigint is null or operation_id < $1) and ($2::text is null or status = $2) \
     order by operation_id desc limit $3";

/// Something that an operator asked for, and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminOperation {
    id: i64,
    /// `close`, `run` or `replay`.
    kind: String,
    /// What exactly, as it was asked for.
    #[schema(value_type = Object)]
    request: Value,
    /// `queued`, `under_way`, `done` or `failed`.
    status: String,
    requested_by: String,
    requested_at: String,
    /// How often it was begun; more than once where a server was cut off.
    attempts: i32,
    started_at: Option<String>,
    finished_at: Option<String>,
    /// What it came to, once it is done.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// Why it failed, as a problem document: 409 where somebody has to act, 503 where it may be asked for again.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
}

/// A page of operations.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminOperationList {
    operations: Vec<AdminOperation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl AdminOperation {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let instant = |at: DateTime<Utc>| Timestamp::from(at).to_string();
        let document = |text: String| serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()));
        Ok(Self {
            id: row.try_get(0)?,
            kind: row.try_get(1)?,
            request: document(row.try_get(2)?)?,
            status: row.try_get(3)?,
            requested_by: row.try_get(4)?,
            requested_at: instant(row.try_get(5)?),
            attempts: row.try_get(6)?,
            started_at: row.try_get::<Option<_>, _>(7)?.map(instant),
            finished_at: row.try_get::<Option<_>, _>(8)?.map(instant),
            result: row.try_get::<Option<String>, _>(9)?.map(document).transpose()?,
            problem: row.try_get::<Option<String>, _>(10)?.map(document).transpose()?,
        })
    }

    async fn find(connection: &mut PgConnection, id: i64) -> Result<Option<Self>, Problem> {
        let found = sqlx::query(FIND).bind(id).persistent(false).try_map(|row: PgRow| Self::of(&row));
        Ok(found.fetch_optional(connection).await.map_err(TenantError::from)?)
    }

    fn location(&self) -> HeaderValue {
        HeaderValue::from_str(&format!("/v1/admin/operations/{}", self.id)).expect("a number is visible ASCII")
    }

    /// 202 with where to look: it goes on, or nobody waits for its end.
    fn accepted(self) -> Response {
        (StatusCode::ACCEPTED, [(header::LOCATION, self.location())], Json(self)).into_response()
    }

    /// What it came to: 200, or the problem that it failed with.
    fn ended(self) -> Result<Response, Problem> {
        let Some(problem) = self.problem else {
            return Ok((StatusCode::OK, [(header::LOCATION, self.location())], Json(self)).into_response());
        };
        let detail = problem["detail"].as_str().unwrap_or_default();
        let is_refusal = problem["status"] == StatusCode::CONFLICT.as_u16();
        let mut answer =
            if is_refusal { Problem::operation_refused(detail) } else { Problem::operation_failed(detail) };
        let mut members = Map::from_iter([("operation".to_owned(), self.id.into())]);
        if let Value::Object(all) = problem {
            members
                .extend(all.into_iter().filter(|(name, _)| !["type", "title", "status", "detail"].contains(&&**name)));
        }
        answer.members = Some(Box::new(members));
        Err(answer)
    }
}

fn operations(state: &ApiState) -> Result<&Operations, Problem> {
    let none = || Problem::not_found("this server carries out no operations; ask the operator's own");
    state.operations.as_ref().ok_or_else(none)
}

/// How long the caller waits for the end: `Prefer: wait=N` (RFC 7240), in seconds.
fn wait_of(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let mut seconds = preferences.flat_map(|value| value.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("wait") { value.trim().parse::<u64>().ok() } else { None }
    });
    Duration::from_secs(seconds.next().unwrap_or_default().min(WAIT_SECS_MAX))
}

/// Asks for an operation, and waits for its end as long as the caller wants to.
async fn ask(
    operator: &Operator,
    state: &ApiState,
    (uri, headers, body): (&Uri, &HeaderMap, &Body),
    request: &impl Requested,
) -> Result<Response, Problem> {
    let operation = request.operation()?;
    let operations = operations(state)?;
    let repeatable = Repeatable::read(headers, Method::POST.as_str(), uri.path(), &body.0)?;
    let wait = wait_of(headers);
    let id = match Write::begin_as_operator(&operator.pool, repeatable, now()).await? {
        Begun::Done(answer) => {
            let before: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            before["id"].as_i64().ok_or_else(Problem::internal)?
        }
        Begun::New(mut write) => {
            check(write.connection(), operations, &operation).await?;
            let added = add(write.connection(), request, &operator.caller.actor()).await?;
            let id = added.id;
            // The same answer later is the same operation, as it is by then.
            write.finish(StatusCode::ACCEPTED, &added, &added).await?;
            operations.queue.wake();
            id
        }
    };
    let found = watched(&operator.pool, id, wait).await?.ok_or_else(Problem::internal)?;
    if found.finished_at.is_some() && !wait.is_zero() { found.ended() } else { Ok(found.accepted()) }
}

/// An operation as it is once it has ended, or once nobody waits for that any more.
async fn watched(pool: &PgPool, id: i64, wait: Duration) -> Result<Option<AdminOperation>, Problem> {
    let since = Instant::now();
    loop {
        // Not kept while it waits: others need connections, too.
        let mut connection = pool.acquire().await.map_err(TenantError::from)?;
        let found = AdminOperation::find(&mut connection, id).await?;
        drop(connection);
        if found.as_ref().is_none_or(|operation| operation.finished_at.is_some()) || wait <= since.elapsed() {
            return Ok(found);
        }
        sleep(POLL).await;
    }
}

/// What can be said at once of why this cannot be done.
async fn check(connection: &mut PgConnection, operations: &Operations, operation: &Operation) -> Result<(), Problem> {
    let (period, customer) = match operation {
        Operation::Close { period, customer, .. } | Operation::Run { period, customer, .. } => (period, customer),
        Operation::Replay { dead_letter } => {
            let heads = operations.dead_letters.heads().await?;
            let none = || Problem::not_found("there is no such dead letter; `/v1/admin/dead-letters` lists them");
            let head = heads.into_iter().find(|head| head.id == *dead_letter).ok_or_else(none)?;
            return if head.is_open() {
                Ok(())
            } else {
                Err(Problem::conflict("it was put right or dismissed before"))
            };
        }
    };
    if now() < period.end() {
        return Err(Problem::conflict(format!("{period} is not over; ask again from {} on", period.end())));
    }
    let Some(customer) = customer else { return Ok(()) };
    let exists: bool = sqlx::query_scalar(CUSTOMER_EXISTS)
        .bind(customer.as_str())
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(TenantError::from)?;
    if exists { Ok(()) } else { Err(unknown(customer)) }
}

fn unknown(customer: &CustomerId) -> Problem {
    Problem::invalid(&format!("customer {customer} does not exist"))
}

/// Adds the operation and its audit event, or finds the same one where it waits or is under way.
async fn add<R: Requested>(connection: &mut PgConnection, request: &R, actor: &str) -> Result<AdminOperation, Problem> {
    let text = serde_json::to_string(request).expect("a request is made of texts and numbers");
    let mut hash = Sha256::new();
    hash.update(R::KIND);
    hash.update([0]);
    hash.update(&text);
    let sha256 = hash.finalize().to_vec();
    for _ in 0..TRIES_MAX {
        let waiting: i64 = sqlx::query_scalar(COUNT_WAITING)
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(TenantError::from)?;
        let same: Option<i64> = sqlx::query_scalar(FIND_WAITING)
            .bind(R::KIND)
            .bind(&sha256)
            .persistent(false)
            .fetch_optional(&mut *connection)
            .await
            .map_err(TenantError::from)?;
        if let Some(id) = same {
            if let Some(found) = AdminOperation::find(connection, id).await? {
                return Ok(found);
            }
            continue;
        }
        if WAITING_MAX <= waiting {
            let detail = format!("{WAITING_MAX} operations wait already; ask again when some of them are done");
            return Err(Problem::unavailable(detail));
        }
        let added: Option<i64> = sqlx::query_scalar(ADD)
            .bind(R::KIND)
            .bind(&text)
            .bind(&sha256)
            .bind(actor)
            .bind(DateTime::<Utc>::from(now()))
            .persistent(false)
            .fetch_optional(&mut *connection)
            .await
            .map_err(TenantError::from)?;
        let Some(id) = added else { continue };
        let request: Value = serde_json::from_str(&text).expect("it was written as JSON");
        let details = json!({ "kind": R::KIND, "request": request });
        audit::record(connection, None, actor, "operation.requested", &id.to_string(), details)
            .await
            .map_err(TenantError::from)?;
        return AdminOperation::find(connection, id).await?.ok_or_else(Problem::internal);
    }
    Err(Problem::unavailable("the same operation is being asked for by others; ask again"))
}

/// Closes a month as `securebase close` does: says what is missing, or fixes a cut with its totals and evidence. What is
/// missing is a 409 problem: in the operation, and as the answer with `Prefer: wait`.
#[utoipa::path(post, path = "/v1/admin/closes", operation_id = "admin_close", tag = "operators", security(("key" = ["admin"])),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, it is the same operation", min_length = 1, max_length = 255),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer with what it came to, if that is known within N seconds, at most 5"),
    ),
    request_body = CloseRequest,
    responses(
        (status = 202, description = "It will be carried out; `Location` says where to look", body = AdminOperation),
        (status = 200, description = "It was carried out while the caller waited", body = AdminOperation),
    ))]
pub(crate) async fn close(
    operator: Operator,
    State(state): State<ApiState>,
    parameters: Parameters,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let request: CloseRequest = body.read()?;
    ask(&operator, &state, (&uri, &headers, &body), &request).await
}

/// Begins a billing run, or takes up the one of everyone that was interrupted, as `securebase invoice run` does.
#[utoipa::path(post, path = "/v1/admin/runs", operation_id = "admin_start_run", tag = "operators", security(("key" = ["admin"])),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, it is the same operation", min_length = 1, max_length = 255),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer with what it came to, if that is known within N seconds, at most 5"),
    ),
    request_body = RunRequest,
    responses(
        (status = 202, description = "It will be carried out; `Location` says where to look", body = AdminOperation),
        (status = 200, description = "It was carried out while the caller waited", body = AdminOperation),
    ))]
pub(crate) async fn run(
    operator: Operator,
    State(state): State<ApiState>,
    parameters: Parameters,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let request: RunRequest = body.read()?;
    ask(&operator, &state, (&uri, &headers, &body), &request).await
}

/// Reads a dead letter again by the rules and meters of now, as `securebase dead-letters replay` does: what it holds is counted
/// once, and it is put right. One that is still wrong stays open, which is a 409 problem.
#[utoipa::path(post, path = "/v1/admin/dead-letters/{id}/replay", operation_id = "admin_replay_dead_letter", tag = "operators", security(("key" = ["admin"])),
    params(
        ("id" = String, Path, description = "Its id, 32 hexadecimal digits"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, it is the same operation", min_length = 1, max_length = 255),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer with what it came to, if that is known within N seconds, at most 5"),
    ),
    responses(
        (status = 202, description = "It will be carried out; `Location` says where to look", body = AdminOperation),
        (status = 200, description = "It was carried out while the caller waited", body = AdminOperation),
    ))]
pub(crate) async fn replay(
    operator: Operator,
    State(state): State<ApiState>,
    Path(id): Path<String>,
    parameters: Parameters,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    if !body.read::<Map<String, Value>>()?.is_empty() {
        return Err(Problem::invalid("a replay takes no members; send no body"));
    }
    ask(&operator, &state, (&uri, &headers, &body), &ReplayRequest::new(&id)).await
}

/// The operations, newest first.
#[utoipa::path(get, path = "/v1/admin/operations", operation_id = "admin_list_operations", tag = "operators", security(("key" = ["admin"])),
    params(
        ("status" = Option<String>, Query, description = "Only those that are `queued`, `under_way`, `done` or `failed`", pattern = "^(queued|under_way|done|failed)$"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of operations", body = AdminOperationList)))]
pub(crate) async fn list(operator: Operator, parameters: Parameters) -> Result<Json<AdminOperationList>, Problem> {
    parameters.only(&["status", "limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let status = parameters.read("status", |text| match text {
        "queued" | "under_way" | "done" | "failed" => Ok(text.to_owned()),
        _ => Err("expected queued, under_way, done or failed".to_owned()),
    })?;
    let before = parameters.read("cursor", |text| text.parse::<i64>().map_err(|_| BAD_CURSOR.to_owned()))?;
    let mut operations = sqlx::query(LIST)
        .bind(before)
        .bind(status)
        .bind(i64::from(limit) + 1)
        .persistent(false)
        .try_map(|row: PgRow| AdminOperation::of(&row))
        .fetch_all(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    let has_more = (limit as usize) < operations.len();
    operations.truncate(limit as usize);
    let next_cursor = operations.last().filter(|_| has_more).map(|last| last.id.to_string());
    Ok(Json(AdminOperationList { operations, next_cursor }))
}

/// How far an operation is, and what it came to.
#[utoipa::path(get, path = "/v1/admin/operations/{operation}", operation_id = "admin_get_operation", tag = "operators", security(("key" = ["admin"])),
    params(
        ("operation" = String, Path, description = "Its id"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer once it has ended, or after N seconds, at most 5"),
    ),
    responses((status = 200, description = "The operation", body = AdminOperation)))]
pub(crate) async fn find(
    operator: Operator,
    Path(operation): Path<String>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Json<AdminOperation>, Problem> {
    parameters.only(&[])?;
    let none = || Problem::not_found("there is no such operation; `/v1/admin/operations` lists them");
    let id: i64 = operation.parse().map_err(|_| none())?;
    Ok(Json(watched(&operator.pool, id, wait_of(&headers)).await?.ok_or_else(none)?))
}
