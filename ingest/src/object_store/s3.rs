//! Objects in S3.

use std::io::{self, Read};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use super::{ObjectStore, OpenError, Opened};
use crate::Timestamp;
use crate::aws::AwsError;
use crate::notice::NamedObject;

/// Metadata under which CloudTrail keeps a digest file's signature (CloudTrail User Guide, "Digest file structure").
const SIGNATURE: &str = "signature";

/// Objects in S3.
#[derive(Clone, Debug)]
pub struct S3Objects {
    client: Client,
}

impl S3Objects {
    /// Objects that this client may read. It needs `s3:GetObject`, and `s3:GetObjectVersion` where buckets have versions.
    /// With `s3:ListBucket` a missing object can be told from a denied one.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl ObjectStore for S3Objects {
    type Body = S3Body;

    async fn open(&self, object: &NamedObject) -> Result<Opened<S3Body>, OpenError> {
        // A version never changes; otherwise the entity tag tells whether it is still the object that was named.
        let unchanged = if object.version_id.is_none() { object.etag.clone() } else { None };
        let answer = self
            .client
            .get_object()
            .bucket(&object.bucket)
            .key(&object.key)
            .set_version_id(object.version_id.clone())
            .set_if_match(unchanged.map(|etag| format!("\"{etag}\"")))
            .send()
            .await
            .map_err(|error| meaning(error, object))?;
        let signature = answer.metadata().and_then(|metadata| metadata.get(SIGNATURE)).cloned();
        let written_at = answer.last_modified().map(|at| at.as_nanos() / 1_000);
        let written_at = written_at.and_then(|micros| Timestamp::from_micros(i64::try_from(micros).ok()?));
        let body = S3Body { stream: answer.body, ahead: Bytes::new(), runtime: Handle::current() };
        Ok(Opened { body, signature, written_at })
    }
}

/// Codes: Amazon S3 API reference, "List of error codes".
fn meaning(error: SdkError<GetObjectError, aws_sdk_s3::config::http::HttpResponse>, object: &NamedObject) -> OpenError {
    let service = error.as_service_error();
    let status = error.raw_response().map(|response| response.status().as_u16());
    match (service.and_then(ProvideErrorMetadata::code).unwrap_or_default(), status) {
        // A delete marker in place of the object answers with 405 or 404 and no body.
        ("NoSuchKey" | "NoSuchVersion" | "NoSuchBucket" | "MethodNotAllowed", _) => OpenError::Missing,
        ("AccessDenied" | "AllAccessDisabled", _) => OpenError::Denied,
        ("InvalidObjectState", _) => OpenError::Archived,
        ("PreconditionFailed", _) => OpenError::Changed,
        // A version id of another form than the service's.
        ("InvalidArgument", _) if object.version_id.is_some() => OpenError::Missing,
        ("", Some(404 | 405)) => OpenError::Missing,
        ("", Some(412)) => OpenError::Changed,
        ("", Some(403)) => OpenError::Denied,
        _ => OpenError::Service(AwsError::new("GetObject", error)),
    }
}

/// An object's bytes on their way. Each read waits for the network, so it belongs on a thread that may block
/// (`spawn_blocking` or one of its own); on a runtime's own thread it panics.
#[derive(Debug)]
pub struct S3Body {
    stream: ByteStream,
    ahead: Bytes,
    runtime: Handle,
}

impl Read for S3Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ahead.has_remaining() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(Ok(bytes)) => self.ahead = bytes,
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
        let count = self.ahead.len().min(buffer.len());
        self.ahead.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
