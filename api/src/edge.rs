//! What holds for every request, before and after its route.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use chrono::Utc;
use ingest::{Timestamp, sample};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::audit::{CALLER_GONE, Call};
use crate::caller::{CallerSlot, address_of};
use crate::problem::Problem;
use crate::rate::REQUESTS_PER_MINUTE;
use crate::samples;
use crate::state::ApiState;

/// From a request's last header byte to its answer, at most.
pub const REQUEST_MS_MAX: u64 = 10_000;

/// The largest body that is let in, but for batches of samples ([`ingest::sample::BODY_BYTES_MAX`]).
pub const BODY_BYTES_MAX: u64 = 16 * 1024;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Security headers of every answer (OWASP REST Security Cheat Sheet, "Security Headers").
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Names the request, bounds it in time and size, writes its problem, records it, adds the headers, and logs one line.
///
/// The id is made here and never taken from the caller. The line holds the route's pattern and nothing that a caller wrote:
/// no path, query string, header or body.
pub(crate) async fn edge(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let request_id = Uuid::new_v4().to_string();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let address = address_of(request.extensions());
    // The pattern and not the path: there are few patterns, and no ids in them.
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
    let caller = CallerSlot::default();
    request.extensions_mut().insert(caller.clone());
    let started_at = Instant::now();
    let mut unanswered = Unanswered {
        state: state.clone(),
        caller: caller.clone(),
        method: method.clone(),
        path,
        route,
        request_id: request_id.clone(),
        address,
        started_at,
        is_answered: false,
    };

    let body_bytes_max = if unanswered.path == samples::PATH { sample::BODY_BYTES_MAX as u64 } else { BODY_BYTES_MAX };
    let answer = if body_is_too_large(&request, body_bytes_max) {
        None
    } else {
        // Whatever is logged on the way names the request.
        let answering = next.run(request).instrument(tracing::error_span!("request", %request_id));
        timeout(Duration::from_millis(REQUEST_MS_MAX), answering).await.map_or_else(
            |_| Some(Err(Problem::unavailable("the answer took too long; ask for less, or again later"))),
            |response| Some(Ok(response)),
        )
    };
    let mut response = match answer {
        Some(Ok(response)) => with_problem(response, &request_id),
        Some(Err(problem)) => problem.write(&request_id),
        None => {
            let detail = format!("send a body of at most {body_bytes_max} bytes with its length, or none");
            let title = "The request is too large";
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", title, detail).write(&request_id)
        }
    };

    if let Some(call) = unanswered.call(response.status().as_u16()) {
        // What is not recorded is not answered.
        let recorded = timeout(Duration::from_millis(REQUEST_MS_MAX), state.recorder.record(call)).await;
        if !matches!(recorded, Ok(Ok(()))) {
            tracing::error!(alarm = "audit", %request_id, "a call could not be recorded");
            response = unrecorded().write(&request_id);
        }
    }
    unanswered.is_answered = true;

    add_security_headers(&mut response);
    let headers = response.headers_mut();
    if let Some(left) = caller.left() {
        // draft-ietf-httpapi-ratelimit-headers: what holds, and what is left.
        let policy = format!("\"customer\";q={REQUESTS_PER_MINUTE};w=60");
        let state = format!("\"customer\";r={};t={}", left.remaining, left.full_in_secs);
        headers.insert(RATELIMIT_POLICY, HeaderValue::from_str(&policy).expect("digits and quotes are visible"));
        headers.insert(RATELIMIT, HeaderValue::from_str(&state).expect("digits and quotes are visible"));
    }
    headers.insert(X_REQUEST_ID, HeaderValue::from_str(&request_id).expect("a UUID is visible ASCII"));
    let elapsed = started_at.elapsed();
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    state.telemetry.answered(&unanswered.route, known_method(&method), response.status().as_u16(), micros);
    tracing::info!(
        %request_id,
        method = known_method(&method),
        route = unanswered.route,
        status = response.status().as_u16(),
        elapsed_ms = micros / 1_000,
        "answered"
    );
    response
}

/// A call until its answer is ready and recorded. Dropped before, its caller has hung up: the server ends the work then,
/// wherever it is, and the call is recorded all the same.
struct Unanswered {
    state: ApiState,
    caller: CallerSlot,
    method: Method,
    path: String,
    route: String,
    request_id: String,
    address: Option<IpAddr>,
    started_at: Instant,
    is_answered: bool,
}

impl Unanswered {
    /// What is recorded; nothing if nobody was let in.
    fn call(&self, status: u16) -> Option<Call> {
        self.caller.get().map(|caller| Call {
            customer: caller.customer.clone(),
            key_id: caller.key_id.clone(),
            session: caller.session.clone(),
            method: self.method.to_string(),
            path: without_secrets(&self.path),
            status,
            request_id: self.request_id.clone(),
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
            at: now(),
        })
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let request_id = &self.request_id;
        if let Some(call) = self.call(CALLER_GONE)
            && let Err(error) = self.state.recorder.record_at_once(call)
        {
            tracing::error!(alarm = "audit", %request_id, %error, "a call could not be recorded, and its caller is gone");
        }
        let micros = u64::try_from(self.started_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let method = known_method(&self.method);
        self.state.telemetry.answered(&self.route, method, CALLER_GONE, micros);
        let elapsed_ms = micros / 1_000;
        tracing::info!(%request_id, method, route = self.route, status = CALLER_GONE, elapsed_ms, "caller gone");
    }
}

/// What takes the place of an answer whose call is not in the audit trail, for hosts that flush the recorder themselves.
pub fn not_recorded(answer: &Response) -> Response {
    let request_id = answer.headers().get(X_REQUEST_ID).cloned();
    let text = request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
    let mut written = unrecorded().write(text);
    add_security_headers(&mut written);
    if let Some(request_id) = request_id {
        written.headers_mut().insert(X_REQUEST_ID, request_id);
    }
    written
}

fn unrecorded() -> Problem {
    Problem::unavailable("the call cannot be recorded at the moment; send it again later")
}

fn add_security_headers(response: &mut Response) {
    for (name, value) in HEADERS {
        // A page names its own policy.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// A path for the audit trail, which keeps it for years: its parts that are no id of ours may be a key in the wrong place.
fn without_secrets(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // A UUID has 36 characters, a key's id 16, a customer's at most 63; a secret alone has 43 of both cases.
    let is_short = |part: &str| part.len() <= 40 || (part.len() <= 64 && part.bytes().all(is_plain));
    let parts: Vec<&str> = path.split('/').map(|part| if is_short(part) { part } else { "[long]" }).collect();
    parts.join("/")
}

/// A method as a label: callers can make up others without end.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Writes the problem of a failed route; an error that some other layer made without one gets one.
fn with_problem(response: Response, request_id: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let problem = response.extensions().get::<Problem>().cloned().unwrap_or_else(|| Problem::of_status(status));
    let mut written = problem.write(request_id);
    if let Some(allow) = response.headers().get(header::ALLOW) {
        written.headers_mut().insert(header::ALLOW, allow.clone());
    }
    written
}

/// A declared length above the limit, or an undeclared one.
fn body_is_too_large(request: &Request, bytes_max: u64) -> bool {
    let headers = request.headers();
    let declared =
        headers.get(header::CONTENT_LENGTH).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    match declared {
        Some(length) => length.is_none_or(|bytes: u64| bytes > bytes_max),
        None => headers.contains_key(header::TRANSFER_ENCODING),
    }
}

/// The API's one reading of the clock, for ranges that begin or end now.
#[expect(clippy::disallowed_methods, reason = "the edge reads the clock; what is behind it is told the time")]
pub(crate) fn now() -> Timestamp {
    Utc::now().into()
}

/// The API's one throw of dice, for secrets: from the operating system.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_whose_call_is_not_recorded_makes_way_for_a_503_of_the_same_request() {
        let mut answer = Response::new(axum::body::Body::from("a secret"));
        answer.headers_mut().insert(X_REQUEST_ID, HeaderValue::from_static("575d8ade-3a49-4cc4-bbff-af68c7e6739e"));
        let instead = not_recorded(&answer);
        assert_eq!(instead.status(), StatusCode::SERVICE_UNAVAILABLE);
        for name in [header::RETRY_AFTER, header::X_FRAME_OPTIONS, header::CACHE_CONTROL] {
            assert!(instead.headers().contains_key(&name), "{name}");
        }
        assert_eq!(instead.headers().get(X_REQUEST_ID), answer.headers().get(X_REQUEST_ID));
    }

    #[test]
    fn a_path_in_the_trail_holds_ids_and_no_keys() {
        let key = format!("sk_live_ab_{}", "A1".repeat(30));
        let customer = "a-".repeat(31);
        for (path, shown) in [
            ("/v1/api-keys/0123456789abcdEF/rotate", "/v1/api-keys/0123456789abcdEF/rotate"),
            ("/v1/invoices/575d8ade-3a49-4cc4-bbff-af68c7e6739e", "/v1/invoices/575d8ade-3a49-4cc4-bbff-af68c7e6739e"),
            ("/", "/"),
            (&format!("/v1/customers/{customer}"), &format!("/v1/customers/{customer}")),
            (&format!("/v1/api-keys/{key}/rotate"), "/v1/api-keys/[long]/rotate"),
            (&format!("/v1/{}", &key[key.len() - 43..]), "/v1/[long]"),
            (&format!("/{}.{}", "eyJhbGciOiJIUzI1NiJ9", "x".repeat(80)), "/[long]"),
        ] {
            assert_eq!(without_secrets(path), shown, "{path}");
        }
    }
}
