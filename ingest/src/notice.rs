//! Notices that name S3 objects: what each entry of a delivery says.
//!
//! The same fact arrives in many wrappings: straight from S3 (`Records` with `s3`), by SNS (`Message`), by SQS (`body`), by
//! EventBridge (`Object Created`), and one inside another (S3 to SNS to SQS). Nothing here fetches an object.
//!
//! Sources: Amazon S3 User Guide, "Event message structure" and "EventBridge event message structure"; Amazon SNS
//! Developer Guide, "Parsing message formats"; AWS Lambda Developer Guide, "Using Lambda with Amazon SQS".

use std::fmt;

use serde_json::{Map, Value};

use crate::{NotCounted, Reason};

/// How deep wrappings may nest: S3 in SNS in SQS in one more is four.
const WRAPPINGS_MAX: u32 = 4;

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
pub enum Entry {
    /// An object is there to be read.
    Object(NamedObject),
    /// Understood, and there is nothing to read.
    NotCounted(NotCounted),
    /// No notice can be read from it.
    DeadLetter(Reason),
    /// What a wrapping held is no notice: an event for other readers.
    Other,
}

/// One entry with the JSON (or other text) it was read from, innermost wrapping removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRead {
    /// What it says.
    pub entry: Entry,
    /// Its own text: what a dead letter keeps and a replay reads again.
    pub text: String,
}

/// The entries of one JSON value that was delivered: one record of a wrapping, or a whole notice.
///
/// `None` if it is neither a notice nor a wrapping of SNS or SQS. An empty list is a wrapping around nothing.
pub fn entries(delivered: &[u8]) -> Option<Vec<EntryRead>> {
    let value: Value = serde_json::from_slice(delivered).ok()?;
    let mut found = Vec::new();
    unwrap(value, 0, &mut found).then_some(found)
}

/// Follows a value through its wrappings. Whether it was a notice or a wrapping at all.
fn unwrap(value: Value, depth: u32, found: &mut Vec<EntryRead>) -> bool {
    let Value::Object(members) = &value else { return false };
    if depth == 0 && members.get("Records").is_some_and(Value::is_array) {
        return unwrap_records(value, depth, found);
    }
    let form = Form::of(members);
    let inner = match form {
        Form::Unknown => return false,
        Form::S3 => return add(found, s3_record(members), &value),
        Form::EventBridge => return add(found, event_bridge(members), &value),
        Form::TestEvent => return add(found, Entry::NotCounted(NotCounted::S3TestEvent), &value),
        Form::Confirmation => return add(found, Entry::NotCounted(NotCounted::SnsConfirmation), &value),
        Form::SnsRecord => members.get("Sns").and_then(|sns| sns.get("Message")),
        Form::SnsEnvelope => members.get("Message"),
        Form::SqsRecord => members.get("body"),
    };
    match inner.and_then(Value::as_str) {
        Some(text) if depth < WRAPPINGS_MAX => unwrap_text(text, depth + 1, found),
        _ => drop(add(found, Entry::DeadLetter(Reason::NoticeMalformed), &value)),
    }
    true
}

/// What stands as text inside a wrapping: JSON of a notice, or something else.
fn unwrap_text(text: &str, depth: u32, found: &mut Vec<EntryRead>) {
    let entry = match serde_json::from_str::<Value>(text) {
        Err(_) => Entry::DeadLetter(Reason::BrokenJson),
        Ok(value) => {
            let is_wrapping = value.get("Records").is_some_and(Value::is_array);
            let known = if is_wrapping { unwrap_records(value, depth, found) } else { unwrap(value, depth, found) };
            if known {
                return;
            }
            Entry::Other
        }
    };
    found.push(EntryRead { entry, text: text.to_owned() });
}

fn unwrap_records(mut wrapping: Value, depth: u32, found: &mut Vec<EntryRead>) -> bool {
    let Some(Value::Array(records)) = wrapping.get_mut("Records").map(Value::take) else { return false };
    for record in records {
        let text = record.to_string();
        if !unwrap(record, depth, found) {
            found.push(EntryRead { entry: Entry::Other, text });
        }
    }
    true
}

fn add(found: &mut Vec<EntryRead>, entry: Entry, value: &Value) -> bool {
    found.push(EntryRead { entry, text: value.to_string() });
    true
}

/// The forms that are told apart, each by what it always has.
enum Form {
    S3,
    EventBridge,
    TestEvent,
    Confirmation,
    SnsRecord,
    SnsEnvelope,
    SqsRecord,
    Unknown,
}

impl Form {
    fn of(members: &Map<String, Value>) -> Self {
        let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default();
        match (text("eventSource"), text("EventSource"), text("source"), text("Type")) {
            ("aws:s3", ..) => Self::S3,
            ("aws:sqs", ..) => Self::SqsRecord,
            (_, "aws:sns", ..) => Self::SnsRecord,
            (_, _, "aws.s3", _) if members.contains_key("detail-type") => Self::EventBridge,
            (.., "Notification") if members.contains_key("TopicArn") => Self::SnsEnvelope,
            (.., "SubscriptionConfirmation" | "UnsubscribeConfirmation") => Self::Confirmation,
            _ if text("Event") == "s3:TestEvent" => Self::TestEvent,
            _ => Self::Unknown,
        }
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
