//! `POST /v1/admin/rate-cards`: loads a rate card, as `securebase rate-cards load` does, with the operator's role that owns the
//! table. Billing checks and stores it; the idempotency key, the card and its audit event are one transaction.

use aggregator::meters::MeterBook;
use aggregator::usage_rows::DatabaseError;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use billing::{CardSource, CatalogueError, LoadError, RateCardError, Retroactive, load_files};
use serde::Serialize;
use serde_json::{Map, json};
use utoipa::ToSchema;

use crate::caller::Operator;
use crate::edge::now;
use crate::idempotency::Repeatable;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::tenant::TenantError;
use crate::write::{Begun, Write};

const NAME_CHARS_MAX: usize = 200;
/// What a card is stored as having come from, where the request names nothing.
const NAME_DEFAULT: &str = "rate-card.toml";

/// What became of a rate card.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRateCardLoaded {
    /// Such as `rate card standard version 2`.
    card: String,
    /// `loaded`, or `unchanged` when exactly this card was stored.
    outcome: &'static str,
}

/// Loads a rate card from its TOML text, or from the JSON form of an invoice's snapshot; exactly the same card again changes
/// nothing. A broken card is refused with every rule it breaks, each with its line or row, under `faults`.
#[utoipa::path(post, path = "/v1/admin/rate-cards", operation_id = "admin_load_rate_card", tag = "operators", security(("key" = ["admin"])),
    params(
        ("name" = Option<String>, Query, description = "What the card came from, kept with it; `rate-card.toml` without", min_length = 1, max_length = 200),
        ("retroactive" = Option<bool>, Query, description = "`true`: prices of days that are invoiced may change; those invoices are then to be credited and issued again"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, the write is not done again", min_length = 1, max_length = 255),
    ),
    request_body(description = "The card: `application/toml`, as rate-cards/README.md says, or the same members as `application/json`",
        content((String = "application/toml"), (Object = "application/json"))),
    responses(
        (status = 201, description = "It was loaded", body = AdminRateCardLoaded),
        (status = 200, description = "Exactly this card is stored", body = AdminRateCardLoaded),
    ))]
pub(crate) async fn load(
    operator: Operator,
    parameters: Parameters,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.only(&["name", "retroactive"])?;
    let name = parameters.read("name", |text| {
        let is_name = (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if is_name { Ok(text.to_owned()) } else { Err("expected 1 to 200 characters".to_owned()) }
    })?;
    let retroactive = parameters.read("retroactive", |text| match text {
        "true" => Ok(Retroactive::Allowed),
        "false" => Ok(Retroactive::Refused),
        _ => Err("expected true or false".to_owned()),
    })?;
    let body = body.map_err(|_| Problem::of_status(StatusCode::BAD_REQUEST))?;
    let asked = uri.path_and_query().map_or(uri.path(), |all| all.as_str());
    let repeatable = Repeatable::read(&headers, Method::POST.as_str(), asked, &body)?;
    let source = read(&headers, &body, &name.unwrap_or_else(|| NAME_DEFAULT.to_owned()))?;
    let meters = MeterBook::new(operator.pool.clone()).read().await.map_err(|error| away(&error))?;
    let now = now();
    let mut write = match Write::begin_as_operator(&operator.pool, repeatable, now).await? {
        Begun::Done(answer) => return Ok(answer.into_response()),
        Begun::New(write) => write,
    };
    let retroactive = retroactive.unwrap_or(Retroactive::Refused);
    let actor = operator.caller.actor();
    let loaded = load_files(write.connection(), &[source], &meters, retroactive, &actor, now).await.map_err(refused)?;
    let loaded = loaded.into_iter().next().ok_or_else(Problem::internal)?;
    let (status, outcome) = if loaded.is_new { (StatusCode::CREATED, "loaded") } else { (StatusCode::OK, "unchanged") };
    let answer = AdminRateCardLoaded { card: loaded.card, outcome };
    write.finish(status, &answer, &answer).await
}

fn read(headers: &HeaderMap, body: &[u8], name: &str) -> Result<CardSource, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let text = || std::str::from_utf8(body).map_err(|_| Problem::invalid("the body is not UTF-8"));
    match media_type.as_str() {
        "application/toml" => Ok(CardSource { name: name.to_owned(), text: text()?.to_owned() }),
        "application/json" => CardSource::from_json(name, text()?).map_err(|error| broken(&error)),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "The body is neither TOML nor JSON",
            "send the card with the header `Content-Type: application/toml`, or its JSON form with `application/json`",
        )),
    }
}

fn refused(error: LoadError) -> Problem {
    match error {
        LoadError::Rules(error) => broken(&error),
        LoadError::Invoiced { .. } => Problem::conflict(error.to_string()),
        LoadError::Database(error) | LoadError::Catalogue(CatalogueError::Database(error)) => {
            TenantError::from(error).into()
        }
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "a rate card cannot be loaded");
            Problem::internal()
        }
    }
}

fn broken(error: &RateCardError) -> Problem {
    let faults: Vec<_> = error.0.iter().map(|fault| json!({ "row": fault.row, "rule": fault.rule })).collect();
    let mut problem = Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "rate-card-refused",
        "The rate card breaks rules",
        "nothing was loaded; correct what `faults` names and send the card again",
    );
    problem.members = Some(Box::new(Map::from_iter([("faults".to_owned(), faults.into())])));
    problem
}

fn away(error: &DatabaseError) -> Problem {
    tracing::warn!(error = error as &dyn std::error::Error, "the meters cannot be read");
    Problem::unavailable("the database does not answer in time; send the same request again later")
}
