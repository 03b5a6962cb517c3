//! Kinesis in this process, in memory.

use std::io;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use ferrokinesis::sequence::{resolve_shard_id, shard_ix_to_hex};
use ferrokinesis::store::{Store, StoreOptions};
use thiserror::Error;
use tokio::sync::RwLock;

use crate::loopback::{self, Serving};

/// A PutRecords request holds at most 10 MiB of records; Base64 and JSON need the rest.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Open shards over all streams; the server's own default of 10 is below what tests use.
const SHARDS_MAX: u32 = 1_000;
/// How long creating, deleting or resharding a stream takes.
const STREAM_CHANGE_MS: u64 = 1;
/// How often records past the stream's retention period are dropped; the server's own default is never.
const RETENTION_CHECK_SECONDS: u64 = 60;
/// How many records one step of [`Kinesis::forget_through`] takes.
const FORGET_RECORDS_MAX: usize = 500;

/// How the embedded Kinesis differs from one without limits.
#[derive(Clone, Debug, Default)]
pub struct KinesisOptions {
    /// Refuse what goes beyond 1 MiB or 1,000 records per second and shard, as the service does. For tests of throttling.
    pub enforce_limits: bool,
}

/// A Kinesis that answers the AWS protocol on loopback. It takes any credentials and any region.
///
/// Its records live in memory alone and end with it. They are kept for the stream's retention period, 24 hours at
/// least, unless [`Kinesis::forget_through`] drops them sooner.
#[derive(Debug)]
pub struct Kinesis {
    endpoint: String,
    records: Records,
    serving: Serving,
}

/// Kinesis did not start; nothing is left running. A stop.
#[derive(Debug, Error)]
#[error("cannot listen on 127.0.0.1: {0}")]
pub struct KinesisError(#[source] io::Error);

#[derive(Clone)]
struct Records(Store);

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Kinesis {
    /// Starts a Kinesis without streams on a free port.
    pub async fn start(options: KinesisOptions) -> Result<Self, KinesisError> {
        let (listener, endpoint) = loopback::listen().await.map_err(KinesisError)?;
        let (app, store) = ferrokinesis::create_app(StoreOptions {
            create_stream_ms: STREAM_CHANGE_MS,
            delete_stream_ms: STREAM_CHANGE_MS,
            update_stream_ms: STREAM_CHANGE_MS,
            shard_limit: SHARDS_MAX,
            retention_check_interval_secs: RETENTION_CHECK_SECONDS,
            enforce_limits: options.enforce_limits,
            ..StoreOptions::default()
        });
        let app = app
            .layer(middleware::from_fn_with_state(Arc::new(RwLock::new(())), keep_order))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        // Small answers leave at once: without this a client's delayed acknowledgement costs 40 ms.
        let listener = listener.tap_io(|connection| {
            let _ = connection.set_nodelay(true);
        });
        let serving = Serving::spawn(|stopped| async move {
            let stopped = async move {
                // A dropped sender stops the server like a sent signal.
                let _ = stopped.await;
            };
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the embedded Kinesis ended");
            }
        });
        Ok(Self { endpoint, records: Records(store), serving })
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Frees the memory of a shard's records up to and including this sequence number; says how many there were.
    ///
    /// For the process that has consumed them: no reader sees them again. An unknown stream or shard holds none.
    pub async fn forget_through(&self, stream: &str, shard_id: &str, sequence_number: &str) -> usize {
        let Ok((_, shard)) = resolve_shard_id(shard_id) else { return 0 };
        let shard = shard_ix_to_hex(shard);
        // Keys sort like their sequence numbers, which all have the same number of digits; `~` sorts after digits.
        let (first, end) = (format!("{shard}/"), format!("{shard}/{sequence_number}~"));
        let mut forgotten = 0;
        loop {
            let records = self.records.0.get_records_range_limited(stream, &first, &end, FORGET_RECORDS_MAX).await;
            let keys: Vec<String> = records.into_iter().map(|(key, _)| key).collect();
            if keys.is_empty() {
                return forgotten;
            }
            self.records.0.delete_record_keys(stream, &keys).await;
            forgotten += keys.len();
        }
    }

    /// Finishes the requests under way, for a few seconds at most, and forgets every record.
    pub async fn shutdown(self) {
        self.serving.shutdown().await;
    }
}

/// Lets no reader pass a record that is numbered but not yet stored.
///
/// The server numbers the records of a put before it stores them, and concurrent puts may store out of order: a reader
/// that came in between would go on behind the missing ones and never see them. So a read waits for the puts under way.
async fn keep_order(State(puts): State<Arc<RwLock<()>>>, request: Request, next: Next) -> Response {
    let operation = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    match operation.rsplit('.').next() {
        Some("PutRecord" | "PutRecords") => {
            // The body is taken in before the lock, so that a slow sender holds up no reader.
            let (parts, body) = request.into_parts();
            let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
                return StatusCode::PAYLOAD_TOO_LARGE.into_response();
            };
            let request = Request::from_parts(parts, Body::from(body));
            let _put = puts.read().await;
            next.run(request).await
        }
        Some("GetRecords") => {
            let _no_put = puts.write().await;
            next.run(request).await
        }
        _ => next.run(request).await,
    }
}
