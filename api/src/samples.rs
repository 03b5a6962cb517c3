//! `/v1/samples`: usage samples, handed to ingest's intake by whoever hosts the API. Nothing of them is written here.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ingest::intake::{IntakeError, SamplesTaken};
use ingest::sample::{RefusedRequest, SampleBatch, SampleRequest};

use crate::auth::Scope;
use crate::caller::Anyone;
use crate::problem::Problem;
use crate::state::ApiState;

/// The one path whose bodies may be as large as a batch of samples.
pub(crate) const PATH: &str = "/v1/samples";

/// A batch on its way.
pub type Taking = Pin<Box<dyn Future<Output = Result<SamplesTaken, IntakeError>> + Send>>;

/// Where samples go: ingest's intake, as the host has it.
#[derive(Clone)]
pub struct SampleDoor(Arc<dyn Fn(Arc<SampleBatch>) -> Taking + Send + Sync>);

impl SampleDoor {
    /// A door to an intake. What it has taken must be safe: the sender is told so, and forgets it.
    pub fn new(take: impl Fn(Arc<SampleBatch>) -> Taking + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }
}

impl fmt::Debug for SampleDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SampleDoor")
    }
}

/// Usage samples in CloudEvents 1.0: one, a batch, or one in binary mode.
#[utoipa::path(post, path = "/v1/samples", operation_id = "take_samples", tag = "operators", security(("key" = ["admin"])),
    request_body(description = "CloudEvents 1.0 as JSON, at most 1000 and 1 MiB: `application/cloudevents+json`, `application/cloudevents-batch+json`, or the binary mode (`ce-` headers and JSON)",
        content((Vec<crate::schemas::CloudEventSchema> = "application/cloudevents-batch+json"), (crate::schemas::CloudEventSchema = "application/cloudevents+json"), (Object = "application/json"))),
    responses(
        (status = 202, description = "All of them are taken: `read`, `usage`, `not_counted` and `dead_letters`", body = Object),
    ))]
pub(crate) async fn take(
    Anyone(caller): Anyone,
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    // Usage of every account: for operators' collectors, never for a customer.
    if caller.customer.is_some() || !caller.scopes.allows(Scope::Admin) {
        return Err(Problem::not_allowed("an operator's key"));
    }
    let door = state.samples.as_ref().ok_or_else(|| {
        Problem::not_found("this server takes no samples; send them to the function or server that your operator names")
    })?;
    let body = body.map_err(|_| Problem::of_status(StatusCode::BAD_REQUEST))?;
    let batch = Arc::new(read(&headers, &body)?);
    let taken = (door.0)(batch.clone()).await.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "samples cannot be taken in");
        if error.is_passing() {
            return Problem::unavailable("the samples cannot be taken at the moment; send the same request again");
        }
        Problem::internal()
    })?;
    let receipt = taken.receipt(&batch);
    if receipt.events.is_empty() {
        return Ok((StatusCode::ACCEPTED, Json(receipt)).into_response());
    }
    let mut problem = Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "samples-refused",
        "Some samples are wrong",
        "the samples under `events` were set aside and can be replayed; the others are taken",
    );
    if let Ok(serde_json::Value::Object(members)) = serde_json::to_value(&receipt) {
        problem.members = Some(Box::new(members));
    }
    Err(problem)
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<SampleBatch, Problem> {
    let text = |value: &'_ axum::http::HeaderValue| String::from_utf8(value.as_bytes().to_vec()).ok();
    let mut attributes = Vec::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix("ce-") {
            let value = text(value).ok_or_else(|| Problem::invalid("a `ce-` header is not UTF-8"))?;
            attributes.push((name, value));
        }
    }
    let attributes: Vec<(&str, &str)> = attributes.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    (SampleRequest { content_type, attributes: &attributes, body }).read().map_err(|refused| {
        let title = "The request brings no CloudEvents";
        let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let kind = match &refused {
            RefusedRequest::MediaType => "unsupported-media-type",
            RefusedRequest::TooMany(_) | RefusedRequest::TooLarge(_) => "too-large",
            _ => "invalid-body",
        };
        Problem::new(status, kind, title, refused.to_string())
    })
}
