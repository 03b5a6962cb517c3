//! The archive as a bucket with object lock: nobody changes or deletes an object before its time, not even the account's
//! root (compliance mode).

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::ObjectLockMode;
use ingest::Timestamp;
use ingest::aws::AwsError;

use super::archive::{Archive, ArchiveError};

/// How long objects are locked: the longest retention that is promised (gov-federal).
pub const LOCKED_YEARS: i64 = 10;

const YEAR_SECS: i64 = 366 * 24 * 3_600;

/// A bucket, and what all names begin with.
#[derive(Clone, Debug)]
pub struct S3Archive {
    client: Client,
    bucket: String,
    prefix: String,
    locked: Option<DateTime>,
}

impl S3Archive {
    /// Objects written are locked for [`LOCKED_YEARS`] from `now` on. The bucket must have object lock.
    pub fn new(client: Client, bucket: String, prefix: &str, now: Timestamp) -> Self {
        let until = now.saturating_add_secs(LOCKED_YEARS * YEAR_SECS);
        Self {
            locked: Some(DateTime::from_secs(until.micros().div_euclid(1_000_000))),
            ..Self::unlocked(client, bucket, prefix)
        }
    }

    /// For a bucket without object lock, which keeps nothing from its owner.
    pub fn unlocked(client: Client, bucket: String, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { client, bucket, prefix, locked: None }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Archive for S3Archive {
    async fn put_once(&self, name: &str, bytes: Vec<u8>) -> Result<bool, ArchiveError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(name))
            // RFC 9110 section 13.1.2: only where nothing stands.
            .if_none_match("*")
            .set_object_lock_mode(self.locked.map(|_| ObjectLockMode::Compliance))
            .set_object_lock_retain_until_date(self.locked)
            .body(ByteStream::from(bytes))
            .send()
            .await;
        match put {
            Ok(_) => Ok(true),
            // 412: it is there. 409: another writer is at it, and its object is this one.
            Err(error) if error.raw_response().is_some_and(|raw| [409, 412].contains(&raw.status().as_u16())) => {
                Ok(false)
            }
            Err(error) => Err(ArchiveError::at(name, AwsError::new("PutObject", error))),
        }
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, ArchiveError> {
        let mut names = Vec::new();
        let mut token = None;
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(self.key(prefix))
                .set_continuation_token(token)
                .send()
                .await
                .map_err(|error| ArchiveError::at(prefix, AwsError::new("ListObjectsV2", error)))?;
            let found = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&self.prefix));
            names.extend(found.map(str::to_owned));
            token = page.next_continuation_token;
            if token.is_none() {
                names.sort();
                return Ok(names);
            }
        }
    }

    async fn get(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let got = self.client.get_object().bucket(&self.bucket).key(self.key(name)).send().await;
        let body = got.map_err(|error| ArchiveError::at(name, AwsError::new("GetObject", error)))?.body;
        Ok(body.collect().await.map_err(|error| ArchiveError::at(name, error))?.into_bytes().to_vec())
    }
}
