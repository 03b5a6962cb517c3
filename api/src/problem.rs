//! Errors as problem documents (RFC 9457).
//!
//! A route answers with a [`Problem`]; the edge, which alone knows the request's id, writes it out. So every error of
//! every route has one form.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::tenant::TenantError;

/// Seconds after which a client may try again when PostgreSQL was away.
const RETRY_AFTER_SECS: u64 = 5;

/// What went wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// The stable name of the kind; the last part of `type`.
    pub(crate) kind: &'static str,
    pub(crate) title: &'static str,
    /// One sentence for the caller: what to change, or when to come back. Never a secret, never an internal error.
    pub(crate) detail: String,
    /// The query parameter at fault.
    pub(crate) parameter: Option<String>,
    /// When the same request may succeed.
    pub(crate) retry_after_secs: Option<u64>,
    /// What this kind of problem says beside.
    pub(crate) members: Option<Box<Map<String, Value>>>,
}

/// A problem as it is written.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    request_id: &'a str,
    #[serde(flatten)]
    members: Option<&'a Map<String, Value>>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), parameter: None, retry_after_secs: None, members: None }
    }

    /// 400: a query parameter that is unknown, repeated, missing or unreadable.
    pub(crate) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        let title = "A query parameter is wrong";
        let problem = Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", title, detail);
        Self { parameter: Some(shortened(name)), ..problem }
    }

    /// 401: no key that we made.
    pub(crate) fn not_authenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "not-authenticated",
            "A valid key is needed",
            "send your key in the header `Authorization: Bearer <key>`; the operator hands out keys",
        )
    }

    /// 403: a key that may not do this; `needed` completes "this needs ...".
    pub(crate) fn not_allowed(needed: &str) -> Self {
        let detail = format!("this needs {needed}");
        Self::new(StatusCode::FORBIDDEN, "not-allowed", "The key may not do this", detail)
    }

    /// 400: a body, or a part of it, that can be read and makes no sense.
    pub(crate) fn invalid(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-body", "The body is wrong", detail)
    }

    /// 429: too often.
    pub(crate) fn too_many(kind: &'static str, detail: &str, retry_after_secs: u64) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, kind, "Too many requests", detail);
        Self { retry_after_secs: Some(retry_after_secs), ..problem }
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such resource", detail)
    }

    /// 409: as things stand, this cannot be done.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "The state of the resource forbids this", detail)
    }

    /// 409: an operation was looked at, and cannot be done as things stand.
    pub(crate) fn operation_refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "operation-refused", "The operation cannot be done as things stand", detail)
    }

    /// 503: an operation was begun and did not come to its end.
    pub(crate) fn operation_failed(detail: impl Into<String>) -> Self {
        let problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "operation-failed",
            "The operation did not come to its end",
            detail,
        );
        Self { retry_after_secs: Some(RETRY_AFTER_SECS), ..problem }
    }

    /// 500: a fault of ours.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The server failed",
            "this is a fault of the server; report the request id to the operator",
        )
    }

    /// 503: PostgreSQL away, or the answer took too long.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        let title = "The service is not available";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", title, detail);
        Self { retry_after_secs: Some(RETRY_AFTER_SECS), ..problem }
    }

    /// For a response that some other layer made without a problem.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::not_found("no resource has this path; see the list of paths in the manual"),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                status,
                "method-not-allowed",
                "The method is not allowed",
                "this resource answers the methods named in the header `Allow`",
            ),
            status if status.is_client_error() => Self::new(
                status,
                "bad-request",
                status.canonical_reason().unwrap_or("The request is wrong"),
                "the request cannot be read; check its path, headers and size",
            ),
            _ => Self::internal(),
        }
    }

    /// The whole response, with the request's id in it.
    pub(crate) fn write(&self, request_id: &str) -> Response {
        let document = Document {
            r#type: format!("urn:securebase:problem:{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            parameter: self.parameter.as_deref(),
            request_id,
            members: self.members.as_deref(),
        };
        let body = serde_json::to_vec(&document).expect("a problem is made of JSON");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"securebase\""));
        }
        if let Some(seconds) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A name of the caller's, fit to be repeated to it.
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<TenantError> for Problem {
    fn from(error: TenantError) -> Self {
        Self::from(&error)
    }
}

impl From<&TenantError> for Problem {
    fn from(error: &TenantError) -> Self {
        if error.is_away() {
            tracing::warn!(error = error as &dyn std::error::Error, "postgresql is away");
            return Self::unavailable(
                "the database does not answer in time; send the same request again later, or ask for less",
            );
        }
        match error {
            TenantError::Refused(_) => {
                tracing::error!(alarm = "isolation", error = error as &dyn std::error::Error, "postgresql refused");
            }
            _ => tracing::error!(error = error as &dyn std::error::Error, "a query failed"),
        }
        Self::internal()
    }
}
