//! `/v1/api-keys`: a customer's own keys.

use aggregator::directory::CustomerId;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use ingest::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{KeyActor, KeyError, KeyRecord, MintedSecret, NewKey, OVERLAP_SECS_MAX};
use crate::auth::{Caller, HashingError, HashingPool, KeyId, KeyToken, Scopes};
use crate::body::Body;
use crate::caller::{Tenant, WriteKeys};
use crate::edge::{now, random_bytes};
use crate::idempotency::Repeatable;
use crate::isolation::{Foreign, report_foreign};
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::{TenantError, TenantTransaction};
use crate::write::{Begun, Write};

const LIMIT_MAX: u32 = 100;
const LIMIT_DEFAULT: u32 = 50;

/// A day, when a rotation names no overlap.
const OVERLAP_SECS_DEFAULT: i64 = 24 * 3_600;

/// A key as it is written.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyDocument {
    key_id: String,
    name: String,
    scopes: Vec<String>,
    created_at: String,
    created_by: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    rotated_to: Option<String>,
    last_used_at: Option<String>,
    /// The whole key, in the one answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl KeyDocument {
    pub(crate) fn of(record: &KeyRecord, token: Option<&KeyToken>) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            key_id: record.key_id.to_string(),
            name: record.name.clone(),
            scopes: record.scopes.names(),
            created_at: record.created_at.to_string(),
            created_by: record.created_by.clone(),
            expires_at: text(record.expires_at),
            revoked_at: text(record.revoked_at),
            rotated_to: record.rotated_to.as_ref().map(KeyId::to_string),
            last_used_at: text(record.last_used_at),
            key: token.map(KeyToken::reveal),
        }
    }
}

/// The answer of `GET /v1/api-keys`, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyList {
    keys: Vec<KeyDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl KeyList {
    pub(crate) fn of(records: &[KeyRecord], next_cursor: Option<String>) -> Self {
        Self { keys: records.iter().map(|record| KeyDocument::of(record, None)).collect(), next_cursor }
    }
}

/// The body of `POST /v1/api-keys`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewKey)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    /// What it is for.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// A part of the maker's own: `read:usage` (alias `read:metrics`), `read:invoices`, `read:audit`, `write:keys`, `write:config`.
    #[schema(min_items = 1)]
    scopes: Vec<String>,
    /// From here on the key is refused; never without.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// The body of `POST /v1/api-keys/{key}/rotate`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Rotation)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    /// How long the key goes on beside its successor; a day without.
    #[schema(minimum = 0, maximum = 604800)]
    #[serde(default)]
    overlap_seconds: Option<i64>,
}

/// The customer's keys, newest first; never a secret.
#[utoipa::path(get, path = "/v1/api-keys", operation_id = "list_api_keys", tag = "keys", security(("key" = ["write:keys"])),
    params(("limit" = Option<u32>, Query, description = "At most so many in the answer; 50 without", minimum = 1, maximum = 100), ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before")), responses((status = 200, description = "A page of keys", body = KeyList)))]
pub(crate) async fn list(
    tenant: Tenant<WriteKeys>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<KeyList>, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let after = parameters.read("cursor", read_cursor)?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let mut records = super::list(&mut transaction, Some(&tenant.customer), after, limit + 1).await?;
    transaction.end().await?;
    let has_more = records.len() > limit as usize;
    records.truncate(limit as usize);
    let next_cursor = records.last().filter(|_| has_more).map(write_cursor);
    Ok(Json(KeyList::of(&records, next_cursor)))
}

pub(crate) fn write_cursor(record: &KeyRecord) -> String {
    format!("{}-{}", record.created_at.micros(), record.key_id)
}

pub(crate) fn read_cursor(text: &str) -> Result<(Timestamp, KeyId), String> {
    let parts = text
        .split_once('-')
        .and_then(|(micros, id)| Some((Timestamp::from_micros(micros.parse().ok()?)?, KeyId::parse(id).ok()?)));
    parts.ok_or_else(|| "expected the `next_cursor` of an earlier answer".to_owned())
}

/// Makes a key and shows it, this once.
#[utoipa::path(post, path = "/v1/api-keys", operation_id = "create_api_key", tag = "keys", security(("key" = ["write:keys"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, the write is not done again", min_length = 1, max_length = 255)), request_body = Create,
    responses((status = 201, description = "The key; its text is in `key`", body = KeyDocument)))]
pub(crate) async fn create(
    tenant: Tenant<WriteKeys>,
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let asked: Create = body.read()?;
    let repeatable = Repeatable::read(&headers, Method::POST.as_str(), uri.path(), &body.0)?;
    let new = NewKey {
        customer: Some(tenant.customer.clone()),
        name: asked.name,
        scopes: Scopes::parse(asked.scopes.iter().map(String::as_str)).map_err(|error| invalid(&error))?,
        expires_at: match asked.expires_at {
            Some(text) => Some(Timestamp::parse_rfc3339(&text).map_err(|_| {
                Problem::invalid("`expires_at` must be an instant such as 2027-01-01T00:00:00Z, or null")
            })?),
            None => None,
        },
    };
    let now = now();
    // Before the transaction: hashing takes 50 ms, and nobody waits for it with a connection in hand.
    let minted = mint(state.authenticator.hashing(), Some(&tenant.customer)).await?;
    let mut write = match Write::begin(&state, &tenant.customer, repeatable, now).await? {
        Begun::Done(answer) => return Ok(answer.into_response()),
        Begun::New(write) => write,
    };
    let record = super::create(write.connection(), &new, &minted, &actor(&tenant.caller), now).await?;
    let (shown, kept) = (KeyDocument::of(&record, Some(&minted.token)), KeyDocument::of(&record, None));
    write.finish(StatusCode::CREATED, &shown, &kept).await
}

/// Refuses a key and its sessions from the next request on; again changes nothing.
#[utoipa::path(delete, path = "/v1/api-keys/{key}", operation_id = "revoke_api_key", tag = "keys", security(("key" = ["write:keys"])),
    params(("key" = String, Path, description = "The key's id, 16 letters and digits"), ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, the write is not done again", min_length = 1, max_length = 255)), responses((status = 200, description = "The key as it is now", body = KeyDocument)))]
pub(crate) async fn revoke(
    tenant: Tenant<WriteKeys>,
    State(state): State<ApiState>,
    Path(key): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key_id = read_id(&key)?;
    let repeatable = Repeatable::read(&headers, Method::DELETE.as_str(), uri.path(), &[])?;
    let now = now();
    let mut write = match Write::begin(&state, &tenant.customer, repeatable, now).await? {
        Begun::Done(answer) => return Ok(answer.into_response()),
        Begun::New(write) => write,
    };
    let revoked = super::revoke(write.connection(), Some(&tenant.customer), &key_id, &actor(&tenant.caller), now).await;
    let record = found(revoked, &state, &tenant.customer, &key_id).await?;
    let document = KeyDocument::of(&record, None);
    write.finish(StatusCode::OK, &document, &document).await
}

/// Makes a successor with the same name, scopes and end, and shows it, this once.
#[utoipa::path(post, path = "/v1/api-keys/{key}/rotate", operation_id = "rotate_api_key", tag = "keys",
    security(("key" = ["write:keys"])), params(("key" = String, Path, description = "The key's id, 16 letters and digits"), ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, the write is not done again", min_length = 1, max_length = 255)), request_body = Option<Rotate>,
    responses((status = 201, description = "The successor; its text is in `key`", body = KeyDocument)))]
pub(crate) async fn rotate(
    tenant: Tenant<WriteKeys>,
    State(state): State<ApiState>,
    Path(key): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key_id = read_id(&key)?;
    let asked: Rotate = body.read()?;
    let overlap = asked.overlap_seconds.unwrap_or(OVERLAP_SECS_DEFAULT);
    if !(0..=OVERLAP_SECS_MAX).contains(&overlap) {
        return Err(Problem::invalid(&format!("`overlap_seconds` lies between 0 and {OVERLAP_SECS_MAX}")));
    }
    let repeatable = Repeatable::read(&headers, Method::POST.as_str(), uri.path(), &body.0)?;
    let now = now();
    let minted = mint(state.authenticator.hashing(), Some(&tenant.customer)).await?;
    let mut write = match Write::begin(&state, &tenant.customer, repeatable, now).await? {
        Begun::Done(answer) => return Ok(answer.into_response()),
        Begun::New(write) => write,
    };
    let actor = actor(&tenant.caller);
    let rotated =
        super::rotate(write.connection(), Some(&tenant.customer), &key_id, &minted, overlap, &actor, now).await;
    let record = found(rotated, &state, &tenant.customer, &key_id).await?;
    let (shown, kept) = (KeyDocument::of(&record, Some(&minted.token)), KeyDocument::of(&record, None));
    write.finish(StatusCode::CREATED, &shown, &kept).await
}

/// A new key's random part and its hash.
pub(crate) async fn mint(hashing: &HashingPool, customer: Option<&CustomerId>) -> Result<MintedSecret, HashingError> {
    let token = KeyToken::mint(customer.cloned(), random_bytes(), random_bytes());
    let hash = hashing.hash(token.secret.digest(), random_bytes()).await?;
    Ok(MintedSecret { token, hash })
}

fn actor(caller: &Caller) -> KeyActor {
    KeyActor { name: caller.actor(), scopes: Some(caller.scopes) }
}

/// Whatever is no key id names no key.
pub(crate) fn read_id(text: &str) -> Result<KeyId, Problem> {
    KeyId::parse(text).map_err(|_| no_such_key())
}

fn no_such_key() -> Problem {
    Problem::not_found("you have no key of this id; `/v1/api-keys` lists yours")
}

async fn found(
    outcome: Result<KeyRecord, KeyError>,
    state: &ApiState,
    customer: &CustomerId,
    key_id: &KeyId,
) -> Result<KeyRecord, Problem> {
    if matches!(outcome, Err(KeyError::NotFound)) {
        report_foreign(state, customer, Foreign::Key(key_id)).await;
    }
    Ok(outcome?)
}

fn invalid(error: &impl std::fmt::Display) -> Problem {
    Problem::invalid(&error.to_string())
}

impl From<HashingError> for Problem {
    fn from(error: HashingError) -> Self {
        match error {
            HashingError::Busy => {
                Self::unavailable("too many keys are being checked at the moment; send the same request again")
            }
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "a secret cannot be hashed");
                Self::internal()
            }
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::BadName | KeyError::NoScopes | KeyError::Admin | KeyError::ExpiresBeforeNow => invalid(&error),
            KeyError::TooMany | KeyError::NotInForce => {
                Self::new(StatusCode::CONFLICT, "conflict", "The state of the resource forbids this", error.to_string())
            }
            KeyError::BeyondTheMaker => Self::not_allowed("a key that has every scope it gives"),
            KeyError::NotFound => no_such_key(),
            KeyError::NoCustomer => Self::invalid("there is no such customer"),
            KeyError::Malformed(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a key cannot be written or read");
                Self::internal()
            }
            KeyError::Database(error) => TenantError::from(error).into(),
        }
    }
}
