//! What a record counts as, by the rules of counting and nothing else.

use sha2::{Digest, Sha256};

use crate::json::Json;
use crate::time::{HOUR, hour, instant};

/// One unit of a count meter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    /// The meter's name.
    pub meter: String,
    /// 12 digits.
    pub account: String,
    /// The UTC hour it happened in, as `2026-10-01T13`.
    pub hour: String,
    /// What makes a second copy a duplicate within its meter, account and hour.
    pub identity: [u8; 16],
    /// `none` where it has none.
    pub region: String,
    /// `none` where it has none.
    pub category: String,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It counts, unless it is a duplicate.
    Counts(Unit),
    /// Understood, and by rule not usage; the kind.
    NotCounted(&'static str),
    /// Set aside; the reason.
    DeadLetter(&'static str),
}

const NESTING_MAX: usize = 100;
const DIMENSION_BYTES_MAX: usize = 64;

/// What a record of an object of this name is. `now` in microseconds since 1970.
pub fn judge(record: &Json, object_name: &str, now: i64) -> Outcome {
    if NESTING_MAX < record.nesting() {
        return Outcome::DeadLetter("nested_too_deep");
    }
    let Json::Object(members) = record else { return Outcome::DeadLetter("not_recognized") };
    if members.iter().any(|(key, _)| key.is_none()) {
        return Outcome::DeadLetter("broken_json");
    }
    if record.get("digestStartTime").is_some() && record.get("logFiles").is_some() {
        return Outcome::NotCounted("cloudtrail_digest");
    }
    if record.get("Event").and_then(Json::text) == Some("s3:TestEvent") {
        return Outcome::NotCounted("s3_test_event");
    }
    // A notice of a new object: what the object holds counts.
    if starts(record.get("eventSource"), "aws:s3") && record.get("s3").is_some() {
        return Outcome::NotCounted("object_notice");
    }
    if !is_event(record) {
        return Outcome::DeadLetter("not_recognized");
    }
    match unit(record, object_name, now) {
        Ok(unit) => Outcome::Counts(unit),
        Err(reason) => Outcome::DeadLetter(reason),
    }
}

fn starts(value: Option<&Json>, prefix: &str) -> bool {
    value.and_then(Json::text).is_some_and(|text| text.starts_with(prefix))
}

fn is_event(record: &Json) -> bool {
    // S3, SQS, SNS and Kinesis deliveries have event names too; an EventBridge envelope has its event inside.
    if starts(record.get("eventSource"), "aws:")
        || starts(record.get("EventSource"), "aws:")
        || record.get("detail-type").is_some()
    {
        return false;
    }
    matches!(record.get("eventName"), Some(Json::Text(_)))
        || starts(record.get("eventType"), "Aws")
        || record.get("eventCategory").and_then(Json::text) == Some("Insight")
}

fn unit(record: &Json, object_name: &str, now: i64) -> Result<Unit, &'static str> {
    let account = account(record, object_name)?;
    let event_time = match record.get("eventTime") {
        None | Some(Json::Null) => return Err("event_time_missing"),
        Some(Json::Text(None)) => return Err("broken_json"),
        Some(time) => time.text().and_then(instant).ok_or("event_time_malformed")?,
    };
    if now + HOUR < event_time {
        return Err("event_time_in_future");
    }
    let identity = match record.get("eventID").and_then(Json::text).and_then(uuid) {
        Some(identity) => identity,
        None => {
            let canonical = record.canonical().ok_or("broken_json")?;
            first_16(&Sha256::digest(canonical))
        }
    };
    Ok(Unit {
        meter: "cloudtrail_events".to_owned(),
        account,
        hour: hour(event_time),
        identity,
        region: dimension(record, "awsRegion")?,
        category: dimension(record, "eventCategory")?,
    })
}

fn first_16(hash: &[u8]) -> [u8; 16] {
    std::array::from_fn(|position| hash[position])
}

/// The bytes of a UUID with its four hyphens, in any case.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let hyphens = [8, 13, 18, 23];
    let has_form = text.len() == 36
        && text.bytes().enumerate().all(
            |(at, byte)| {
                if hyphens.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
            },
        );
    if !has_form {
        return None;
    }
    let bytes = hex::decode(text.replace('-', "").to_ascii_lowercase()).ok()?;
    bytes.try_into().ok()
}

pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The account in a delivered log object's file name.
fn account_of_object(name: &str) -> Option<&str> {
    let file = name.rsplit('/').next()?;
    let (account, rest) = file.split_once('_')?;
    let is_log = rest.starts_with("CloudTrail_") || rest.starts_with("CloudTrail-Insight_");
    (is_log && is_account(account)).then_some(account)
}

fn account(record: &Json, object_name: &str) -> Result<String, &'static str> {
    let is_absent = |value: Option<&Json>| match value {
        None | Some(Json::Null) => true,
        Some(value) => value.text() == Some(""),
    };
    let given = record.get("recipientAccountId");
    let given = if !is_absent(given) {
        given
    } else if let Some(account) = account_of_object(object_name) {
        return Ok(account.to_owned());
    } else {
        record.get("userIdentity").and_then(|user| user.get("accountId"))
    };
    if is_absent(given) {
        return Err("account_missing");
    }
    match given {
        Some(Json::Text(None)) => Err("broken_json"),
        Some(Json::Text(Some(account))) if is_account(account) => Ok(account.clone()),
        _ => Err("account_malformed"),
    }
}

fn dimension(record: &Json, name: &str) -> Result<String, &'static str> {
    match record.get(name) {
        Some(Json::Text(None)) => Err("broken_json"),
        Some(Json::Text(Some(value))) if !value.is_empty() => {
            if DIMENSION_BYTES_MAX < value.len() || value.chars().any(char::is_control) {
                Err("dimension_malformed")
            } else {
                Ok(value.clone())
            }
        }
        _ => Ok("none".to_owned()),
    }
}
