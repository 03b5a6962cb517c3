//! CloudTrail events, and what every form of record shares: accounts, times, dimensions, identities.

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

const DIMENSION_BYTES_MAX: usize = 64;

pub(crate) fn starts(value: Option<&Json>, prefix: &str) -> bool {
    value.and_then(Json::text).is_some_and(|text| text.starts_with(prefix))
}

/// What tells events from other records, and what decides about them.
const DECIDING: [&str; 9] = [
    "eventID",
    "eventTime",
    "eventName",
    "eventType",
    "eventSource",
    "EventSource",
    "eventCategory",
    "awsRegion",
    "recipientAccountId",
];

/// Whether something that would decide is a string and no text, or a key beside it is: nobody knows what it says.
pub(crate) fn is_undecidable(members: &[(Option<String>, Json)]) -> bool {
    let is_broken = |of: &[(Option<String>, Json)], deciding: &[&str]| {
        of.iter().any(|(key, value)| match key.as_deref() {
            None => true,
            Some(key) => deciding.contains(&key) && value.is_no_text(),
        })
    };
    let is_user = |(key, value): &(Option<String>, Json)| match (key.as_deref(), value) {
        (Some("userIdentity"), Json::Object(user)) => is_broken(user, &["accountId"]),
        (Some("userIdentity"), user) => user.is_no_text(),
        _ => false,
    };
    is_broken(members, &DECIDING) || members.iter().any(is_user)
}

pub(crate) fn is_event(record: &Json) -> bool {
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

/// The unit that an event is, and when it happened. The envelope's account is asked before the object's name.
pub(crate) fn event(
    record: &Json,
    envelope_account: Option<&Json>,
    object_account: Option<&str>,
    now: i64,
) -> Result<(Unit, i64), &'static str> {
    let account = event_account(record, envelope_account, object_account)?;
    let event_time = event_time(record.get("eventTime"), now)?;
    let identity = match record.get("eventID").and_then(Json::text).and_then(uuid) {
        Some(identity) => identity,
        None => {
            let canonical = record.canonical().ok_or("broken_json")?;
            first_16(&Sha256::digest(canonical))
        }
    };
    let unit = Unit {
        meter: "cloudtrail_events".to_owned(),
        account,
        hour: hour(event_time),
        identity,
        region: dimension(record.get("awsRegion"))?,
        category: dimension(record.get("eventCategory"))?,
    };
    Ok((unit, event_time))
}

/// When it happened: UTC where nothing else is said, and at most an hour ahead.
pub(crate) fn event_time(time: Option<&Json>, now: i64) -> Result<i64, &'static str> {
    let event_time = match time {
        None | Some(Json::Null) => return Err("event_time_missing"),
        Some(time) => time.text().and_then(instant).ok_or("event_time_malformed")?,
    };
    if now + HOUR < event_time { Err("event_time_in_future") } else { Ok(event_time) }
}

/// The first 16 bytes of SHA-256 over parts, each behind its length (8 bytes, big endian).
pub(crate) fn identity_of(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    first_16(&hash.finalize())
}

pub(crate) fn first_16(hash: &[u8]) -> [u8; 16] {
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
pub(crate) fn account_of_object(name: &str) -> Option<&str> {
    let file = name.rsplit('/').next()?;
    let (account, rest) = file.split_once('_')?;
    let is_log = rest.starts_with("CloudTrail_") || rest.starts_with("CloudTrail-Insight_");
    (is_log && is_account(account)).then_some(account)
}

/// Missing, null or an empty text.
pub(crate) fn says_nothing(value: Option<&Json>) -> bool {
    match value {
        None | Some(Json::Null) => true,
        Some(value) => value.text() == Some(""),
    }
}

/// A text that is not empty.
pub(crate) fn said(value: Option<&Json>) -> Option<&str> {
    value.and_then(Json::text).filter(|text| !text.is_empty())
}

/// The account that a field names.
pub(crate) fn account_of(given: Option<&Json>) -> Result<String, &'static str> {
    if says_nothing(given) {
        return Err("account_missing");
    }
    match given {
        Some(Json::Text(Some(account))) if is_account(account) => Ok(account.clone()),
        _ => Err("account_malformed"),
    }
}

fn event_account(
    record: &Json,
    envelope_account: Option<&Json>,
    object_account: Option<&str>,
) -> Result<String, &'static str> {
    let recipient = record.get("recipientAccountId");
    if !says_nothing(recipient) {
        return account_of(recipient);
    }
    if !says_nothing(envelope_account) {
        return account_of(envelope_account);
    }
    match object_account {
        Some(account) => Ok(account.to_owned()),
        None => account_of(record.at(&["userIdentity", "accountId"])),
    }
}

/// A dimension's value: `none` where there is none.
pub(crate) fn dimension(value: Option<&Json>) -> Result<String, &'static str> {
    match value {
        Some(Json::Text(Some(value))) if !value.is_empty() => {
            if is_dimension(value) {
                Ok(value.clone())
            } else {
                Err("dimension_malformed")
            }
        }
        _ => Ok("none".to_owned()),
    }
}

/// Whether a text that is not empty can be a dimension's value.
pub(crate) fn is_dimension(value: &str) -> bool {
    value.len() <= DIMENSION_BYTES_MAX && !value.chars().any(char::is_control)
}
