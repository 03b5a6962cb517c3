//! Notices that name S3 objects: what each entry of a delivery says.
//!
//! The same fact arrives in many wrappings: straight from S3 (`Records` with `s3`), by SNS (`Message`), by SQS (`body`), by
//! EventBridge (`Object Created`), and one inside another (S3 to SNS to SQS). The front door opens those; here is what is
//! inside. Nothing here fetches an object.
//!
//! Source: Amazon S3 User Guide, "Event message structure" and "EventBridge event message structure".

use std::fmt;

use serde_json::{Map, Value};

use crate::{NotCounted, Reason};

/// An object that a notice says was created.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key, as the object is named (not URL-encoded).
    pub key: String,
    /// Which version of it, in a bucket that has versions.
    pub version_id: Option<String>,
    /// Its entity tag when the notice was made, without quotes.
    pub etag: Option<String>,
    /// Orders the notices of one key: the longer, then the greater in hexadecimal, is the later. No part of an identity.
    pub sequencer: Option<String>,
    /// Its size in bytes when the notice was made.
    pub size: Option<u64>,
}

impl NamedObject {
    /// The object of this name, as [`NamedObject::name`] writes it, in whatever version it has now; `None` for other names.
    pub fn of_name(name: &str) -> Option<Self> {
        let (bucket, key) = name.strip_prefix("s3://")?.split_once('/')?;
        let is_name = is_bucket(bucket) && is_key(key);
        is_name.then(|| Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version_id: None,
            etag: None,
            sequencer: None,
            size: None,
        })
    }

    /// The name under which its manifests and dead letters stand: `s3://BUCKET/KEY`.
    pub fn name(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

/// Writes the bucket and the key, and the version where there is one.
impl fmt::Display for NamedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        match &self.version_id {
            Some(version) => write!(f, " version {version}"),
            None => Ok(()),
        }
    }
}

/// What one entry of a delivery says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// An object is there to be read.
    Object(NamedObject),
    /// Understood, and there is nothing to read.
    NotCounted(NotCounted),
    /// No notice can be read from it.
    DeadLetter(Reason),
}

/// Judges a record of an S3 notice: an element of its `Records`.
pub(crate) fn judge_s3_record(record: &[u8]) -> Entry {
    match serde_json::from_slice(record) {
        Ok(Value::Object(record)) => s3_record(&record),
        _ => Entry::DeadLetter(Reason::NoticeMalformed),
    }
}

/// Judges an EventBridge event of S3.
pub(crate) fn judge_event(envelope: &[u8]) -> Entry {
    match serde_json::from_slice(envelope) {
        Ok(Value::Object(envelope)) => event_bridge(&envelope),
        _ => Entry::DeadLetter(Reason::NoticeMalformed),
    }
}

fn s3_record(record: &Map<String, Value>) -> Entry {
    let text = |name: &str| record.get(name).and_then(Value::as_str);
    // "You should ... verify that the major version is the one you expect": 2 since 2014.
    match text("eventVersion").map(|version| version.split('.').next()) {
        Some(Some("2")) => {}
        Some(_) => return Entry::DeadLetter(Reason::NoticeVersion),
        None => return Entry::DeadLetter(Reason::NoticeMalformed),
    }
    let Some(name) = text("eventName") else { return Entry::DeadLetter(Reason::NoticeMalformed) };
    let name = name.strip_prefix("s3:").unwrap_or(name);
    if name == "TestEvent" {
        return Entry::NotCounted(NotCounted::S3TestEvent);
    }
    if !name.starts_with("ObjectCreated:") {
        return Entry::NotCounted(NotCounted::S3OtherNotice);
    }
    let Some(s3) = record.get("s3") else { return Entry::DeadLetter(Reason::NoticeMalformed) };
    let object = &s3["object"];
    let key = object["key"].as_str().and_then(decode_key);
    named(s3["bucket"]["name"].as_str(), key, object, ["versionId", "eTag"])
}

fn event_bridge(envelope: &Map<String, Value>) -> Entry {
    if envelope.get("detail-type").and_then(Value::as_str) != Some("Object Created") {
        return Entry::NotCounted(NotCounted::S3OtherNotice);
    }
    let Some(detail) = envelope.get("detail") else { return Entry::DeadLetter(Reason::NoticeMalformed) };
    // Absent in most; where it is, its major version is 1.
    if let Some(version) = detail.get("event-version")
        && version.as_str().and_then(|version| version.split('.').next()) != Some("1")
    {
        return Entry::DeadLetter(Reason::NoticeVersion);
    }
    let object = &detail["object"];
    // By EventBridge the key is not URL-encoded: a plus is a plus.
    let key = object["key"].as_str().map(str::to_owned);
    named(detail["bucket"]["name"].as_str(), key, object, ["version-id", "etag"])
}

fn named(bucket: Option<&str>, key: Option<String>, object: &Value, [version_id, etag]: [&str; 2]) -> Entry {
    let (Some(bucket), Some(key)) = (bucket.filter(|name| is_bucket(name)), key.filter(|key| is_key(key))) else {
        return Entry::DeadLetter(Reason::NoticeMalformed);
    };
    let text = |name: &str| object[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    Entry::Object(NamedObject {
        bucket: bucket.to_owned(),
        key,
        version_id: text(version_id),
        etag: text(etag).map(|etag| etag.trim_matches('"').to_owned()),
        sequencer: text("sequencer"),
        size: object["size"].as_u64(),
    })
}

/// Letters, digits, dots, hyphens and (in old ones) underscores: nothing that could leave a folder or a URL's path.
fn is_bucket(name: &str) -> bool {
    (3..=255).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// A key has 1 to 1,024 bytes (Amazon S3 User Guide, "Naming Amazon S3 objects").
fn is_key(key: &str) -> bool {
    (1..=1_024).contains(&key.len())
}

/// Undoes the encoding of keys in notices (`application/x-www-form-urlencoded`): `+` is a space, `%XX` a byte of UTF-8.
fn decode_key(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[path = "notice/tests.rs"]
mod tests;
