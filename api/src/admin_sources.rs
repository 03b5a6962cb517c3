//! `POST /v1/admin/receipts`: declares what the source of a customer's meter promises, as `securebase receipts declare` does.
//!
//! The aggregator writes, as its own role and with its audit event. Saying the same again changes nothing, so this takes no
//! idempotency key.

use aggregator::directory::CustomerId;
use aggregator::receipts::{DeclareError, Source, SourceClass, Sources};
use axum::Json;
use axum::extract::State;
use ingest::Meter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admin_directory::whole_hour;
use crate::body::Body;
use crate::caller::Operator;
use crate::edge::now;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;

const LATENESS_SECONDS_DEFAULT: u32 = 3_600;
/// What the column holds.
const LATENESS_SECONDS_MAX: u32 = i32::MAX.unsigned_abs();
const LANES_MAX: usize = 1_000;
const LANE_CHARS_MAX: usize = 300;

/// The body of `POST /v1/admin/receipts`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminNewSource {
    customer: String,
    /// `cloudtrail_events` without.
    #[serde(default)]
    meter: Option<String>,
    /// `proven`, `reconciled` or `best-effort`.
    class: String,
    /// What delivers: 2 to 63 lower-case letters, digits and underscores; `cloudtrail_digests` without.
    #[serde(default)]
    kind: Option<String>,
    /// From which hour on it is expected to say everything.
    #[schema(format = DateTime)]
    since: String,
    /// How much later than an event its record may be delivered; 3600 without.
    #[serde(default)]
    #[schema(maximum = 2147483647)]
    lateness_seconds: Option<u32>,
    /// The one trail that must be whole, where several deliver.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 300)]
    trail: Option<String>,
    /// `REGION/TRAIL` that every account has, besides those it is seen to have.
    #[serde(default)]
    #[schema(max_items = 1000)]
    lanes: Vec<String>,
}

/// What declaring a source did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminSourceDeclared {
    customer: String,
    meter: String,
    /// `declared`, or `unchanged` when it was declared just so.
    outcome: &'static str,
}

fn sources(state: &ApiState) -> Result<&Sources, Problem> {
    let none = || Problem::not_found("this server declares no sources; ask the operator's own");
    state.operations.as_ref().map(|operations| &operations.sources).ok_or_else(none)
}

fn read(asked: AdminNewSource) -> Result<Source, Problem> {
    let meter = asked.meter.as_deref().unwrap_or("cloudtrail_events");
    let is_word =
        |text: &String| (1..=LANE_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    let lateness_seconds = asked.lateness_seconds.unwrap_or(LATENESS_SECONDS_DEFAULT);
    if LATENESS_SECONDS_MAX < lateness_seconds {
        return Err(Problem::invalid("`lateness_seconds` must be at most 2147483647"));
    }
    if !asked.trail.iter().all(is_word) || !asked.lanes.iter().all(is_word) || LANES_MAX < asked.lanes.len() {
        return Err(Problem::invalid("`trail` and `lanes` must be at most 1000 texts of 1 to 300 characters"));
    }
    Ok(Source {
        customer: CustomerId::parse(&asked.customer).map_err(|error| Problem::invalid(&error.to_string()))?,
        meter: Meter::parse_stored(meter).map_err(|_| Problem::invalid("`meter` names no meter"))?,
        kind: asked.kind.unwrap_or_else(|| "cloudtrail_digests".to_owned()),
        class: SourceClass::parse(&asked.class)
            .ok_or_else(|| Problem::invalid("`class` must be `proven`, `reconciled` or `best-effort`"))?,
        lateness_seconds,
        since: whole_hour(&asked.since, "since")?,
        trail: asked.trail,
        lanes: asked.lanes,
    })
}

/// Declares the source of a customer's meter, in place of the one declared before; saying the same again changes nothing.
#[utoipa::path(post, path = "/v1/admin/receipts", operation_id = "admin_declare_source", tag = "operators", security(("key" = ["admin"])),
    request_body = AdminNewSource,
    responses((status = 200, description = "What it changed", body = AdminSourceDeclared)))]
pub(crate) async fn declare(
    operator: Operator,
    State(state): State<ApiState>,
    parameters: Parameters,
    body: Body,
) -> Result<Json<AdminSourceDeclared>, Problem> {
    parameters.only(&[])?;
    let source = read(body.read()?)?;
    let is_new = sources(&state)?.declare(&source, &operator.caller.actor(), now()).await.map_err(|error| {
        if let DeclareError::Database(error) = error {
            tracing::error!(error = &error as &dyn std::error::Error, "a source cannot be declared");
            return Problem::unavailable("sources cannot be declared at the moment; send the same request again later");
        }
        Problem::invalid(&error.to_string())
    })?;
    Ok(Json(AdminSourceDeclared {
        customer: source.customer.to_string(),
        meter: source.meter.to_string(),
        outcome: if is_new { "declared" } else { "unchanged" },
    }))
}
