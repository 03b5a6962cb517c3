//! S3 in this process, its objects in a folder.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

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
/// It has no versions, and no limits. Files put into its directory by others are objects like any.
#[derive(Debug)]
pub struct S3 {
    endpoint: String,
    serving: Serving,
    /// Removes the objects when the server is gone.
    _temporary: Option<tempfile::TempDir>,
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
        let app = Router::new()
            .fallback_service(service)
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
        Ok(Self { endpoint, serving, _temporary: temporary })
    }

    /// Where it answers: `http://127.0.0.1:PORT`. Clients must be set to path-style addresses.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
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
