//! S3 in this process, its objects in a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::error_handling::HandleError;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::S3ServiceBuilder;
use s3s::{HttpError, S3Result};
use s3s_fs::FileSystem;
use thiserror::Error;

use crate::loopback::{self, Serving};

/// How the embedded S3 differs from one that gives everything to everybody.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// Where the objects are: `DIRECTORY/BUCKET/KEY`. Without one they are in a temporary folder and end with the server.
    pub directory: Option<PathBuf>,
    /// Objects whose path `/BUCKET/KEY` begins like this are denied, as a bucket policy would. For tests of refusals.
    pub denied: Vec<String>,
}

/// An S3 that answers the AWS protocol on loopback, with path-style addresses. It takes any region, and any credentials
/// whose secret is their own access key, such as `local` and `local`.
///
/// A bucket made with object lock refuses to change, replace or delete what was locked, for as long as the server runs. It
/// has no versions, and no limits. Files put into its directory by others are objects like any.
#[derive(Debug)]
pub struct S3 {
    endpoint: String,
    serving: Serving,
    locks: Arc<Mutex<Locks>>,
    /// Removes the objects when the server is gone.
    _temporary: Option<tempfile::TempDir>,
}

/// How an object is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `COMPLIANCE` or `GOVERNANCE`.
    pub mode: String,
    /// The end, as it was asked for: RFC 3339.
    pub until: String,
}

/// What is locked, by path.
#[derive(Debug, Default)]
struct Locks {
    /// `/BUCKET` of those with object lock.
    buckets: BTreeSet<String>,
    /// `/BUCKET/KEY`.
    objects: BTreeMap<String, Retention>,
}

/// S3 did not start; nothing is left running. Each is a stop.
#[derive(Debug, Error)]
pub enum S3Error {
    /// No port of 127.0.0.1 could be bound.
    #[error("cannot listen on 127.0.0.1: {0}")]
    Listen(#[source] io::Error),
    /// The folder cannot hold objects.
    #[error("cannot keep objects in {}: {reason}; check that it is a writable folder", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl S3 {
    /// Starts an S3 on a free port.
    pub async fn start(options: S3Options) -> Result<Self, S3Error> {
        let (directory, temporary) = match options.directory {
            Some(directory) => (directory, None),
            None => {
                let folder = tempfile::tempdir().map_err(|error| refuse(&std::env::temp_dir(), &error))?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let objects = FileSystem::new(&directory).map_err(|error| refuse(&directory, &error))?;
        let mut service = S3ServiceBuilder::new(objects);
        service.set_auth(SecretIsAccessKey);
        let service = HandleError::new(service.build(), failed);
        let locks = Arc::<Mutex<Locks>>::default();
        let app = Router::new()
            .fallback_service(service)
            .layer(middleware::from_fn_with_state(Arc::clone(&locks), object_lock))
            .layer(middleware::from_fn_with_state(Arc::new(options.denied), conditions));
        let (listener, endpoint) = loopback::listen().await.map_err(S3Error::Listen)?;
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
                tracing::error!(%error, "the embedded S3 ended");
            }
        });
        Ok(Self { endpoint, serving, locks, _temporary: temporary })
    }

    /// Where it answers: `http://127.0.0.1:PORT`. Clients must be set to path-style addresses.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How an object is locked, if it is.
    pub fn retention(&self, bucket: &str, key: &str) -> Option<Retention> {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.objects.get(&format!("/{bucket}/{key}")).cloned()
    }

    /// Finishes the requests under way, for a few seconds at most.
    pub async fn shutdown(self) {
        self.serving.shutdown().await;
    }
}

fn refuse(path: &Path, reason: &dyn std::fmt::Debug) -> S3Error {
    S3Error::Folder { path: path.to_owned(), reason: format!("{reason:?}") }
}

async fn failed(error: HttpError) -> StatusCode {
    tracing::error!(?error, "the embedded S3 failed");
    StatusCode::INTERNAL_SERVER_ERROR
}

/// What the folder does not know by itself: denied objects, and `If-Match` on reading.
async fn conditions(State(denied): State<Arc<Vec<String>>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if denied.iter().any(|prefix| path.starts_with(prefix)) {
        return refused(StatusCode::FORBIDDEN, "AccessDenied");
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let wanted = request.headers().get(header::IF_MATCH).filter(|_| is_read).cloned();
    let response = next.run(request).await;
    let changed = wanted.is_some_and(|wanted| {
        response.headers().get(header::ETAG).is_some_and(|etag| {
            let bare = |value: &[u8]| String::from_utf8_lossy(value).trim_matches('"').to_owned();
            bare(etag.as_bytes()) != bare(wanted.as_bytes())
        })
    });
    if changed { refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed") } else { response }
}

/// Object lock, which the folder does not know.
///
/// Source: Amazon S3 User Guide, "Locking objects with Object Lock"; API reference, PutObject: a request with retention needs
/// a bucket with object lock, both headers, and a checksum of its body.
async fn object_lock(State(locks): State<Arc<Mutex<Locks>>>, request: Request, next: Next) -> Response {
    let wish = match locks.lock().unwrap_or_else(PoisonError::into_inner).judge(&request) {
        Ok(wish) => wish,
        Err((status, code)) => return refused(status, code),
    };
    let response = next.run(request).await;
    if response.status().is_success() {
        let mut locks = locks.lock().unwrap_or_else(PoisonError::into_inner);
        match wish {
            Wish::Nothing => {}
            Wish::LockBucket(path) => {
                locks.buckets.insert(path);
            }
            Wish::LockObject(path, retention) => {
                locks.objects.insert(path, retention);
            }
        }
    }
    response
}

/// What a request locks once it has been done.
enum Wish {
    Nothing,
    LockBucket(String),
    LockObject(String, Retention),
}

impl Locks {
    fn judge(&self, request: &Request) -> Result<Wish, (StatusCode, &'static str)> {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let query = request.uri().query().unwrap_or_default();
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let is = |method: &Method| request.method() == method;
        let is_bucket = path.matches('/').count() == 1;
        let holds_locked = self.objects.keys().any(|object| object.starts_with(&format!("{path}/")));
        // Deleting many at once names them in the body: nothing of a bucket with locked objects goes that way.
        let deletes_many = is(&Method::POST) && query.split('&').any(|part| part.trim_end_matches('=') == "delete");
        let deletes_bucket = is_bucket && is(&Method::DELETE);
        // An object that may only be made where none stands is refused further in, with the right answer.
        let is_conditional = is(&Method::PUT) && headers.contains_key(header::IF_NONE_MATCH);
        let writes = [Method::PUT, Method::POST, Method::DELETE].contains(request.method());
        let changes_locked = writes && self.objects.contains_key(&path) && !is_conditional;
        if changes_locked || ((deletes_many || deletes_bucket) && holds_locked) {
            return Err((StatusCode::FORBIDDEN, "AccessDenied"));
        }
        let is_enabled = text("x-amz-bucket-object-lock-enabled").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        if is_bucket && is(&Method::PUT) && is_enabled {
            return Ok(Wish::LockBucket(path));
        }
        match (text("x-amz-object-lock-mode"), text("x-amz-object-lock-retain-until-date")) {
            (None, None) => Ok(Wish::Nothing),
            (Some(mode), Some(until)) => {
                let bucket = path.split('/').nth(1).unwrap_or_default();
                let is_mode = ["COMPLIANCE", "GOVERNANCE"].contains(&mode.as_str());
                let is_summed = headers.keys().map(header::HeaderName::as_str).any(|name| {
                    ["content-md5", "x-amz-sdk-checksum-algorithm"].contains(&name)
                        || name.starts_with("x-amz-checksum-")
                });
                if self.buckets.contains(&format!("/{bucket}")) && is_mode && is_summed {
                    Ok(Wish::LockObject(path, Retention { mode, until }))
                } else {
                    Err((StatusCode::BAD_REQUEST, "InvalidRequest"))
                }
            }
            _ => Err((StatusCode::BAD_REQUEST, "InvalidRequest")),
        }
    }
}

/// Error answers: Amazon S3 API reference, "Error responses".
fn refused(status: StatusCode, code: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>refused by the embedded S3</Message></Error>"
    );
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

/// Whoever signs with its own access key is let in.
struct SecretIsAccessKey;

impl S3Auth for SecretIsAccessKey {
    fn get_secret_key<'a, 'b, 'c>(
        &'a self,
        access_key: &'b str,
    ) -> Pin<Box<dyn Future<Output = S3Result<SecretKey>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        let secret = SecretKey::from(access_key);
        Box::pin(std::future::ready(Ok(secret)))
    }
}
