//! Usage samples in HTTP requests to the function's URL, or through an HTTP API. Whoever asks was let in by AWS (IAM).

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ingest::Timestamp;
use ingest::intake::SampleIntake;
use ingest::sample::{RefusedRequest, SampleRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::deadline::Deadline;
use crate::metric;

/// When a sender may try again, in seconds.
const RETRY_AFTER_SECS: u64 = 5;

/// Payload format 2.0: a function's URL, and HTTP APIs.
///
/// Source: AWS Lambda Developer Guide, "Invoking Lambda function URLs", request and response payloads.
#[derive(Debug, Deserialize)]
pub(super) struct SampleEvent<'a> {
    #[serde(rename = "requestContext")]
    context: Context,
    /// Names in lower case; values of one name joined by commas.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default, borrow)]
    body: Option<Cow<'a, str>>,
    #[serde(default, rename = "isBase64Encoded")]
    is_base64: bool,
}

#[derive(Debug, Deserialize)]
struct Context {
    http: Http,
    authorizer: Option<Authorizer>,
}

#[derive(Debug, Deserialize)]
struct Http {
    method: String,
}

#[derive(Debug, Deserialize)]
struct Authorizer {
    iam: Option<Iam>,
}

#[derive(Debug, Deserialize)]
struct Iam {
    #[serde(rename = "userArn")]
    user: Option<String>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpAnswer {
    #[serde(rename = "statusCode")]
    status: u16,
    headers: BTreeMap<&'static str, String>,
    body: String,
    #[serde(rename = "isBase64Encoded")]
    is_base64: bool,
}

/// Takes samples in, or says what is wrong with them.
pub(super) async fn answer(
    samples: &SampleIntake,
    event: &SampleEvent<'_>,
    request_id: &str,
    now: Timestamp,
    deadline: Deadline,
) -> HttpAnswer {
    let problem = |status, kind, title, detail: &str| HttpAnswer::problem(status, kind, title, detail, request_id);
    // A URL that was opened to everybody by mistake takes nothing from anybody.
    let Some(iam) = event.context.authorizer.as_ref().and_then(|authorizer| authorizer.iam.as_ref()) else {
        let detail =
            "sign the request (AWS Signature Version 4); the URL or route needs the authorization type AWS_IAM";
        return problem(403, "not-allowed", "Nobody is known to have asked", detail);
    };
    if event.context.http.method != "POST" {
        let detail = "send samples by POST";
        let answer = problem(405, "method-not-allowed", "The method is not allowed", detail);
        return answer.with_header("allow", "POST".to_owned());
    }
    let body = event.body.as_deref().unwrap_or_default();
    let body = if event.is_base64 { STANDARD.decode(body) } else { Ok(body.as_bytes().to_vec()) };
    let Ok(body) = body else {
        return problem(400, "invalid-body", "The body is wrong", "the body is said to be base64 and is not");
    };
    let attributes = event.headers.iter().filter_map(|(name, value)| Some((name.strip_prefix("ce-")?, value.as_str())));
    let attributes: Vec<(&str, &str)> = attributes.collect();
    let content_type = event.headers.get("content-type").map(String::as_str);
    let batch = match (SampleRequest { content_type, attributes: &attributes, body: &body }).read() {
        Ok(batch) => batch,
        Err(refused) => {
            let kind = match &refused {
                RefusedRequest::MediaType => "unsupported-media-type",
                RefusedRequest::TooMany(_) | RefusedRequest::TooLarge(_) => "too-large",
                _ => "invalid-body",
            };
            return problem(refused.status(), kind, "The request brings no CloudEvents", &refused.to_string());
        }
    };
    let taken = match deadline.keep(samples.take(&batch)).await {
        Ok(Ok(taken)) => taken,
        Ok(Err(error)) if !error.is_passing() => {
            tracing::error!(error = &error as &dyn std::error::Error, "samples cannot be taken in");
            let detail = "this is a fault of the server; report the request id to the operator";
            return problem(500, "internal", "The server failed", detail);
        }
        failed => {
            tracing::warn!(?failed, "samples cannot be taken in at the moment");
            let detail = "nothing was lost; send the same request again";
            let answer = problem(503, "unavailable", "The service is not available", detail);
            return answer.with_header("retry-after", RETRY_AFTER_SECS.to_string());
        }
    };
    let receipt = taken.receipt(&batch);
    let figures = [("Samples", receipt.read), ("DeadLetters", receipt.events.len() as u64)];
    metric::emit("ingest", &figures, now);
    tracing::info!(user = iam.user, read = receipt.read, refused = receipt.events.len(), "samples");
    let is_whole = receipt.events.is_empty();
    let receipt = serde_json::to_value(&receipt).expect("counts and texts are JSON");
    if is_whole {
        return HttpAnswer::new(202, "application/json", &receipt);
    }
    let detail = "the samples under events were set aside and can be replayed; the others are taken";
    let mut document = document(422, "samples-refused", "Some samples are wrong", detail, request_id);
    document.as_object_mut().expect("it is an object").extend(receipt.as_object().cloned().unwrap_or_default());
    HttpAnswer::new(422, "application/problem+json", &document)
}

/// A problem document (RFC 9457).
fn document(status: u16, kind: &str, title: &str, detail: &str, request_id: &str) -> Value {
    json!({
        "type": format!("urn:securebase:problem:{kind}"),
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    })
}

impl HttpAnswer {
    fn new(status: u16, content_type: &str, body: &Value) -> Self {
        let headers = [("content-type", content_type.to_owned()), ("cache-control", "no-store".to_owned())].into();
        Self { status, headers, body: body.to_string(), is_base64: false }
    }

    fn problem(status: u16, kind: &str, title: &str, detail: &str, request_id: &str) -> Self {
        Self::new(status, "application/problem+json", &document(status, kind, title, detail, request_id))
    }

    fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.insert(name, value);
        self
    }
}
