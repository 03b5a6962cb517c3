//! `GET /v1/audit-events`: a customer's own trail.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use crate::caller::{ReadAudit, Tenant};
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::{TenantError, TenantTransaction};

const LIMIT_MAX: u32 = 1_000;
const LIMIT_DEFAULT: u32 = 100;
const WORD_BYTES_MAX: usize = 200;

/// Newest first, by number in the chain. Null: no such filter.
pub(crate) const LIST: &str = "select sequence, occurred_at, recorded_by, actor, action, subject, details::text, \
     encode(previous_hash, 'hex'), encode(hash, 'hex') from audit_events \
     where customer_id = (select current_tenant()) and ($1::bigint is null or sequence < $1) \
     and ($2::timestamptz is null or occurred_at >= $2) and ($3::timestamptz is null or occurred_at < $3) \
     and ($4::text is null or actor = $4) and ($5::text is null or action = $5) and ($6::text is null or subject = $6) \
     order by sequence desc limit $7";

/// An event as it is written: with its hashes, so that the chain can be computed again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditEvent {
    sequence: i64,
    occurred_at: String,
    recorded_by: String,
    actor: String,
    action: String,
    subject: String,
    #[schema(value_type = Object)]
    details: Value,
    previous_hash: String,
    hash: String,
}

/// The answer, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditList {
    events: Vec<AuditEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What is asked for.
#[derive(Debug)]
struct Filter {
    before: Option<i64>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    actor: Option<String>,
    action: Option<String>,
    subject: Option<String>,
    limit: u32,
    is_export: bool,
}

impl Filter {
    fn read(parameters: &Parameters) -> Result<Self, Problem> {
        parameters.only(&["from", "to", "actor", "action", "subject", "limit", "cursor", "format"])?;
        let instant = |text: &str| {
            Timestamp::parse_rfc3339(text).map_err(|_| "expected an instant such as 2026-10-01T00:00:00Z".to_owned())
        };
        let word = |text: &str| {
            let fits = !text.is_empty() && text.len() <= WORD_BYTES_MAX && !text.contains('\0');
            if fits { Ok(text.to_owned()) } else { Err(format!("expected 1 to {WORD_BYTES_MAX} bytes")) }
        };
        Ok(Self {
            before: parameters.read("cursor", |text| {
                let number = text.parse::<i64>().ok().filter(|number| *number > 0);
                number.ok_or_else(|| "expected the `next_cursor` of an earlier answer".to_owned())
            })?,
            from: parameters.read("from", instant)?,
            to: parameters.read("to", instant)?,
            actor: parameters.read("actor", word)?,
            action: parameters.read("action", word)?,
            subject: parameters.read("subject", word)?,
            limit: parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?,
            is_export: parameters
                .read("format", |text| match text {
                    "json" => Ok(false),
                    "jsonl" => Ok(true),
                    _ => Err("expected json or jsonl".to_owned()),
                })?
                .unwrap_or(false),
        })
    }
}

/// A page of the trail; with `format=jsonl` one event a line, and the next cursor in the header `x-next-cursor`.
#[utoipa::path(get, path = "/v1/audit-events", operation_id = "list_audit_events", tag = "audit", security(("key" = ["read:audit"])),
    params(
        ("from" = Option<String>, Query, description = "Events at or after this instant, RFC 3339", format = DateTime),
        ("to" = Option<String>, Query, description = "Events before this instant, RFC 3339", format = DateTime),
        ("actor" = Option<String>, Query, description = "Who did it", min_length = 1, max_length = 200),
        ("action" = Option<String>, Query, description = "What was done", min_length = 1, max_length = 200),
        ("subject" = Option<String>, Query, description = "What it was done to", min_length = 1, max_length = 200),
        ("format" = Option<String>, Query, description = "`json`, or `jsonl` for one event a line"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of events", content((AuditList = "application/json"), (String = "application/jsonl")))))]
pub(crate) async fn list(
    tenant: Tenant<ReadAudit>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let filter = Filter::read(&parameters)?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let mut events = read(&mut transaction, &filter).await.map_err(TenantError::from)?;
    // The events of a billing run are seen before the disk has them.
    billing::wait_for_disk(&mut transaction).await.map_err(TenantError::from)?;
    transaction.end().await?;
    let has_more = events.len() > filter.limit as usize;
    events.truncate(filter.limit as usize);
    let next_cursor = events.last().filter(|_| has_more).map(|event| event.sequence.to_string());
    if !filter.is_export {
        return Ok(Json(AuditList { events, next_cursor }).into_response());
    }
    let mut body = String::new();
    for event in &events {
        body.push_str(&serde_json::to_string(event).expect("an event is made of strings and numbers"));
        body.push('\n');
    }
    let mut response = ([(header::CONTENT_TYPE, "application/jsonl")], body).into_response();
    if let Some(cursor) = next_cursor {
        response.headers_mut().insert("x-next-cursor", cursor.parse().expect("digits are a header's value"));
    }
    Ok(response)
}

async fn read(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<AuditEvent>, sqlx::Error> {
    sqlx::query(LIST)
        .bind(filter.before)
        .bind(filter.from.map(DateTime::<Utc>::from))
        .bind(filter.to.map(DateTime::<Utc>::from))
        .bind(&filter.actor)
        .bind(&filter.action)
        .bind(&filter.subject)
        .bind(i64::from(filter.limit) + 1)
        .persistent(false)
        .try_map(|row: PgRow| {
            let details: String = row.try_get(6)?;
            Ok(AuditEvent {
                sequence: row.try_get(0)?,
                occurred_at: Timestamp::from(row.try_get::<DateTime<Utc>, _>(1)?).to_string(),
                recorded_by: row.try_get(2)?,
                actor: row.try_get(3)?,
                action: row.try_get(4)?,
                subject: row.try_get(5)?,
                details: serde_json::from_str(&details).map_err(|error| sqlx::Error::Decode(error.into()))?,
                previous_hash: row.try_get(7)?,
                hash: row.try_get(8)?,
            })
        })
        .fetch_all(connection)
        .await
}
