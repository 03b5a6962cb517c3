//! `/v1/admin/dead-letters`: records that were set aside, and the word of an operator that one is no usage.

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ingest::dead_letter::{DeadLetterError, DeadLetterHead, DeadLetters, Dismissal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::admin::{BAD_CURSOR, LIMIT_DEFAULT, LIMIT_MAX};
use crate::audit;
use crate::body::Body;
use crate::caller::Operator;
use crate::edge::now;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::TenantError;

const REASON_CHARS_MAX: usize = 2_000;
const ID_CHARS: usize = 32;

/// A record that was set aside.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminDeadLetter {
    id: String,
    reason: &'static str,
    /// What to do about it.
    advice: &'static str,
    /// Where it came from.
    object: String,
    /// Where it, or the delivery that carried it, begins in the object.
    offset: u64,
    /// Its number among the records that came out of what begins there.
    number: u32,
    /// Its first bytes, as text.
    excerpt: String,
    length: u64,
    seen_at: String,
    /// When a replay put it right, or it was dismissed.
    resolved_at: Option<String>,
    dismissed_by: Option<String>,
    dismissed_because: Option<String>,
}

impl From<DeadLetterHead> for AdminDeadLetter {
    fn from(head: DeadLetterHead) -> Self {
        let (dismissed_by, dismissed_because) = head.dismissed.map(|word| (word.by, word.because)).unzip();
        Self {
            id: head.id,
            reason: head.reason.as_str(),
            advice: head.reason.advice(),
            object: head.object,
            offset: head.offset,
            number: head.number,
            excerpt: String::from_utf8_lossy(&head.excerpt).into_owned(),
            length: head.length,
            seen_at: head.seen_at.to_string(),
            resolved_at: head.resolved_at.map(|at| at.to_string()),
            dismissed_by,
            dismissed_because,
        }
    }
}

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminDeadLetters {
    dead_letters: Vec<AdminDeadLetter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A record that was set aside, whole as far as it was kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminDeadLetterRecord {
    #[serde(flatten)]
    head: AdminDeadLetter,
    /// Whether all of it was kept; otherwise a replay reads the object again.
    is_whole: bool,
    /// Whose usage it may be; null: anybody's.
    accounts: Option<Vec<String>>,
    /// The first and the last event time that it may have; null: any.
    first_at: Option<String>,
    last_at: Option<String>,
    /// Its bytes as they came, in base64.
    record: String,
}

/// The body of `POST /v1/admin/dead-letters/{id}/dismiss`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminDismissal {
    /// Why it is no usage; audited, and in the evidence.
    #[schema(min_length = 1, max_length = 2000)]
    because: String,
}

fn letters(state: &ApiState) -> Result<&DeadLetters, Problem> {
    let none = || Problem::not_found("this server does not see dead letters; ask the operator's own");
    state.operations.as_ref().map(|operations| &operations.dead_letters).ok_or_else(none)
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "dead letters cannot be read");
        match error {
            DeadLetterError::Store(_) => Self::unavailable("the table of dead letters is away; ask again later"),
            DeadLetterError::Item(_) => Self::internal(),
        }
    }
}

/// The dead letters, by id: the open ones, or all.
#[utoipa::path(get, path = "/v1/admin/dead-letters", operation_id = "admin_list_dead_letters", tag = "operators", security(("key" = ["admin"])),
    params(
        ("state" = Option<String>, Query, description = "`open` (the default) or `all`", pattern = "^(open|all)$"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of dead letters", body = AdminDeadLetters)))]
pub(crate) async fn list(
    _operator: Operator,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<AdminDeadLetters>, Problem> {
    parameters.only(&["state", "limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)? as usize;
    let all = parameters.read("state", |text| match text {
        "open" => Ok(false),
        "all" => Ok(true),
        _ => Err("expected open or all".to_owned()),
    })?;
    let after =
        parameters.read("cursor", |text| if is_id(text) { Ok(text.to_owned()) } else { Err(BAD_CURSOR.to_owned()) })?;
    let mut heads = letters(&state)?.heads().await?;
    heads.retain(|head| (all == Some(true) || head.is_open()) && after.as_ref().is_none_or(|after| after < &head.id));
    heads.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let has_more = heads.len() > limit;
    heads.truncate(limit);
    let next_cursor = heads.last().filter(|_| has_more).map(|last| last.id.clone());
    Ok(Json(AdminDeadLetters { dead_letters: heads.into_iter().map(AdminDeadLetter::from).collect(), next_cursor }))
}

fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// One dead letter with the record itself.
#[utoipa::path(get, path = "/v1/admin/dead-letters/{id}", operation_id = "admin_get_dead_letter", tag = "operators", security(("key" = ["admin"])),
    params(("id" = String, Path, description = "Its id, 32 hexadecimal digits")),
    responses((status = 200, description = "The dead letter and its record", body = AdminDeadLetterRecord)))]
pub(crate) async fn find(
    _operator: Operator,
    State(state): State<ApiState>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Json<AdminDeadLetterRecord>, Problem> {
    parameters.only(&[])?;
    let letters = letters(&state)?;
    let none = || Problem::not_found("there is no such dead letter; `/v1/admin/dead-letters` lists them");
    if !is_id(&id) {
        return Err(none());
    }
    let head = letters.heads().await?.into_iter().find(|head| head.id == id).ok_or_else(none)?;
    let letter = letters.load(&id).await?.ok_or_else(none)?;
    let accounts = head.scope.accounts.as_ref();
    Ok(Json(AdminDeadLetterRecord {
        is_whole: head.is_whole,
        accounts: accounts.map(|accounts| accounts.iter().map(|account| account.as_str().to_owned()).collect()),
        first_at: head.scope.times.map(|(first, _)| first.to_string()),
        last_at: head.scope.times.map(|(_, last)| last.to_string()),
        head: head.into(),
        record: STANDARD.encode(&letter.bytes),
    }))
}

/// Takes an open dead letter out of what holds up a close: it is no usage. Audited first; said again with the same reason, it
/// changes nothing.
#[utoipa::path(post, path = "/v1/admin/dead-letters/{id}/dismiss", operation_id = "admin_dismiss_dead_letter", tag = "operators",
    security(("key" = ["admin"])), params(("id" = String, Path, description = "Its id, 32 hexadecimal digits")),
    request_body = AdminDismissal,
    responses((status = 200, description = "The dead letter as it is now", body = AdminDeadLetter)))]
pub(crate) async fn dismiss(
    operator: Operator,
    State(state): State<ApiState>,
    Path(id): Path<String>,
    parameters: Parameters,
    body: Body,
) -> Result<Json<AdminDeadLetter>, Problem> {
    parameters.only(&[])?;
    let asked: AdminDismissal = body.read()?;
    let because = asked.because;
    if because.trim().is_empty() || because.chars().count() > REASON_CHARS_MAX || because.contains('\0') {
        return Err(Problem::invalid("`because` must say why, in at most 2000 characters"));
    }
    let letters = letters(&state)?;
    let find = async || Ok::<_, Problem>(letters.heads().await?.into_iter().find(|head| head.id == id));
    let none = || Problem::not_found("there is no such dead letter; `/v1/admin/dead-letters` lists them");
    let head = find().await?.ok_or_else(none)?;
    if !head.is_open() {
        if head.dismissed.as_ref().is_some_and(|word| word.because == because) {
            return Ok(Json(head.into()));
        }
        return Err(Problem::conflict("it was put right or dismissed before"));
    }
    // Before the letter is marked: a word that nobody recorded must not take usage out of a close.
    let details = json!({
        "because": because, "reason": head.reason.as_str(), "object": head.object, "offset": head.offset.to_string(),
    });
    sqlx::query(audit::RECORD)
        .bind(None::<&str>)
        .bind(operator.caller.actor())
        .bind("dead_letter.dismissed")
        .bind(&head.id)
        .bind(details.to_string())
        .persistent(false)
        .execute(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    let dismissal = Dismissal { by: operator.caller.actor(), because };
    letters.dismiss(&head.id, &dismissal, now()).await.map_err(DeadLetterError::from)?;
    Ok(Json(find().await?.ok_or_else(none)?.into()))
}
