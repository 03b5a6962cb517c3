//! `GET /v1/usage/stream`: the running month's totals as they change, as Server-Sent Events, or by long polling for
//! gateways that cannot stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use crate::auth::{AuthenticationError, AuthorizerContext};
use crate::caller::{ReadUsage, Tenant};
use crate::edge::now;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::watchers::{Seen, TooManyWatch, WATCHING_MAX};

/// A stream ends after this; its client comes back with the last id it has.
pub const STREAM_SECS_MAX: u64 = 900;

/// The key is looked at again this often, and a comment says how fresh the stream is.
pub const STREAM_CHECK_SECS: u64 = 10;

/// A long poll waits for a change at most so long.
pub const POLL_SECS_MAX: u64 = 8;

const _: () = assert!(POLL_SECS_MAX * 1_000 < crate::edge::REQUEST_MS_MAX, "a poll answers before its request ends");

/// The totals of the running month at one time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LiveTotals {
    /// Sent back as `since`, or by itself as `Last-Event-ID`, it asks for what came later.
    id: String,
    month: String,
    #[schema(value_type = Option<Object>)]
    metrics: Value,
    /// The totals were these at this time.
    checked_at: String,
    complete_through: Option<String>,
}

impl LiveTotals {
    fn of(seen: &Seen) -> Self {
        Self {
            id: id_of(seen),
            month: seen.month.clone(),
            metrics: seen.metrics.clone(),
            checked_at: seen.checked_at.to_string(),
            complete_through: seen.complete_through.clone(),
        }
    }
}

/// Month and version: with a new month everything is new.
fn id_of(seen: &Seen) -> String {
    format!("{}.{}", seen.month, seen.version)
}

/// The running month's totals as they change: Server-Sent Events for who accepts `text/event-stream`, else one answer as soon as there
/// is news, or after 8 seconds.
#[utoipa::path(get, path = "/v1/usage/stream", operation_id = "watch_usage", tag = "usage", security(("key" = ["read:usage"])),
    params(
        ("since" = Option<String>, Query, description = "`id` of the last answer or event", pattern = "^[0-9.-]{1,40}$"),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers send it when a stream is opened again"),
    ),
    responses((status = 200, description = "Totals, or a stream of them", content((LiveTotals = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn watch(
    tenant: Tenant<ReadUsage>,
    State(state): State<ApiState>,
    headers: HeaderMap,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["since"])?;
    let since = parameters.read("since", read_id)?;
    let streams = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream")));
    let seen = state.watchers.watch(&tenant.customer).map_err(|TooManyWatch| {
        let detail = format!("at most {WATCHING_MAX} streams and polls of a customer are open at once; close one");
        Problem::too_many("too-many-streams", &detail, STREAM_CHECK_SECS)
    })?;
    if !streams {
        return poll(seen, since).await;
    }
    // What EventSource sends by itself when it reconnects.
    let last_event = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let known = since.or(last_event);
    let follower = Follower {
        context: AuthorizerContext::of(&tenant.caller),
        state,
        seen,
        known,
        ends_at: Instant::now() + Duration::from_secs(STREAM_SECS_MAX),
        next_check: Instant::now() + Duration::from_secs(STREAM_CHECK_SECS),
    };
    let events = stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|event| (Ok::<Event, Infallible>(event), follower))
    });
    Ok(Sse::new(events).into_response())
}

fn read_id(text: &str) -> Result<String, String> {
    let fits = text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'.');
    if fits && !text.is_empty() {
        Ok(text.to_owned())
    } else {
        Err("expected the `id` of an earlier answer".to_owned())
    }
}

/// Answers at once when there is news, else when there is, or with the same after a while.
async fn poll(mut seen: watch::Receiver<Option<Seen>>, since: Option<String>) -> Result<Response, Problem> {
    let is_news = |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| since.as_ref() != Some(&id_of(seen)));
    let deadline = Instant::now() + Duration::from_secs(POLL_SECS_MAX);
    // Out of time, what was seen last is the answer.
    let _ = timeout_at(deadline, seen.wait_for(is_news)).await;
    let news = seen.borrow().clone();
    let Some(seen) = news else {
        return Err(Problem::unavailable("the database does not answer in time; ask again later"));
    };
    Ok(Json(LiveTotals::of(&seen)).into_response())
}

/// One open stream.
struct Follower {
    context: AuthorizerContext,
    state: ApiState,
    seen: watch::Receiver<Option<Seen>>,
    known: Option<String>,
    ends_at: Instant,
    next_check: Instant,
}

impl Follower {
    /// The next event, or the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.ends_at <= Instant::now() {
                return None;
            }
            if let Some(seen) = self.news() {
                let totals = LiveTotals::of(&seen);
                self.known = Some(totals.id.clone());
                let data = serde_json::to_string(&totals).expect("totals are made of strings");
                return Some(Event::default().event("usage").id(totals.id).data(data));
            }
            match timeout_at(self.next_check.min(self.ends_at), self.seen.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => {
                    self.next_check = Instant::now() + Duration::from_secs(STREAM_CHECK_SECS);
                    // A revoked or expired key ends its streams as well.
                    let caller = self.state.authenticator.recheck(&self.context, now()).await;
                    if matches!(caller, Err(AuthenticationError::NotAuthenticated)) {
                        return None;
                    }
                    let checked_at = self.seen.borrow().as_ref().map(|seen| seen.checked_at.to_string());
                    return Some(Event::default().comment(json!({ "checked_at": checked_at }).to_string()));
                }
            }
        }
    }

    fn news(&mut self) -> Option<Seen> {
        let seen = self.seen.borrow_and_update().clone()?;
        (self.known.as_ref() != Some(&id_of(&seen))).then_some(seen)
    }
}
