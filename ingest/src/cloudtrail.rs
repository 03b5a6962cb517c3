//! CloudTrail records: which are events, and what each counts as.
//!
//! Field meanings: AWS CloudTrail User Guide, "CloudTrail record contents" (`eventTime` is in UTC, `recipientAccountId` is
//! the account the event was delivered for, `eventCategory` is absent before version 1.07).

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::json::Scalar;
use crate::rules::{account_of, dimension, event_time};
use crate::{AccountId, Dimensions, Identity, Meter, NotCanonical, Reason, Timestamp, UsageEvent};

/// One JSON value as far as CloudTrail goes.
#[derive(Debug)]
pub(crate) enum Reading<'a> {
    /// An event, or why it cannot be counted.
    Event(Result<Event<'a>, Reason>),
    /// A digest file.
    Digest,
    /// JSON, and nothing of CloudTrail's.
    Other,
    /// No JSON.
    Broken,
}

/// A CloudTrail event that can be counted.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) usage: UsageEvent<'a>,
    pub(crate) consequence: Consequence,
}

/// What an event may say beside being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    None,
    /// AWS Organizations logged it.
    LifeCycle,
    /// AWS Config logged a `PutEvaluations` call.
    Evaluations,
}

/// Where an event's account may stand that has no `recipientAccountId`, before `userIdentity`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fallback<'a> {
    /// The account of its EventBridge envelope.
    pub(crate) envelope: Scalar<'a>,
    /// The account in the log object's name.
    pub(crate) object: Option<AccountId>,
}

/// Reads one JSON value. `now` is the reader's clock. Duplicate keys: the last counts.
pub(crate) fn read<'a>(record: &'a [u8], fallback: &Fallback<'_>, now: Timestamp) -> Reading<'a> {
    let mut deserializer = serde_json::Deserializer::from_slice(record);
    let fields = match deserializer.deserialize_any(FieldsVisitor) {
        Ok(fields) if deserializer.end().is_ok() => fields,
        _ => return Reading::Broken,
    };
    match fields {
        Some(fields) if fields.is_digest() => Reading::Digest,
        Some(fields) if fields.is_event() => Reading::Event(event(record, fields, fallback, now)),
        _ => Reading::Other,
    }
}

/// The account in a delivered object's file name: `<12 digits>_CloudTrail_...` or `<12 digits>_CloudTrail-Insight_...`.
///
/// Source: AWS CloudTrail User Guide, "CloudTrail log file name format".
pub fn account_in_object_name(name: &str) -> Option<AccountId> {
    let file = name.rsplit('/').next()?;
    let (account, rest) = file.split_once('_')?;
    let cloudtrail = rest.strip_prefix("CloudTrail")?;
    if cloudtrail.starts_with('_') || cloudtrail.starts_with("-Insight_") {
        AccountId::parse(account).ok()
    } else {
        None
    }
}

fn event<'a>(
    record: &'a [u8],
    fields: Fields<'a>,
    fallback: &Fallback<'_>,
    now: Timestamp,
) -> Result<Event<'a>, Reason> {
    let account = account(&fields, fallback)?;
    let event_time = event_time(&fields.event_time, now)?;
    let by_id = match &fields.event_id {
        Scalar::Text(id) => Identity::of_event_id(id),
        Scalar::Absent | Scalar::Other => None,
    };
    let identity = match by_id {
        Some(identity) => identity,
        None => Identity::of_content(record).map_err(|error| match error {
            NotCanonical::NotJson(_) => Reason::BrokenJson,
            NotCanonical::TooDeep => Reason::NestedTooDeep,
        })?,
    };
    let consequence = fields.consequence();
    let dimensions = Dimensions { region: dimension(fields.aws_region)?, category: dimension(fields.event_category)? };
    let usage = UsageEvent { meter: Meter::CloudTrailEvents, account, identity, event_time, dimensions };
    Ok(Event { usage, consequence })
}

fn account(fields: &Fields<'_>, fallback: &Fallback<'_>) -> Result<AccountId, Reason> {
    for given in [&fields.recipient_account_id, &fallback.envelope] {
        if !given.says_nothing() {
            return account_of(given);
        }
    }
    match fallback.object {
        Some(account) => Ok(account),
        None => account_of(&fields.user_account_id),
    }
}

/// The fields that decide; the rest of an event is passed over.
#[derive(Default)]
struct Fields<'a> {
    event_id: Scalar<'a>,
    event_time: Scalar<'a>,
    event_name: Scalar<'a>,
    event_type: Scalar<'a>,
    event_source: Scalar<'a>,
    event_category: Scalar<'a>,
    aws_region: Scalar<'a>,
    recipient_account_id: Scalar<'a>,
    user_account_id: Scalar<'a>,
    /// `detail-type`: an EventBridge envelope, whose `detail` would be the event.
    in_envelope: bool,
    has_digest_start: bool,
    has_log_files: bool,
}

impl Fields<'_> {
    fn is_digest(&self) -> bool {
        self.has_digest_start && self.has_log_files
    }

    fn is_event(&self) -> bool {
        // S3, SQS, SNS and Kinesis deliveries have event names too; their source is `aws:s3` and so on.
        let is_delivery = matches!(&self.event_source, Scalar::Text(source) if source.starts_with("aws:"));
        let is_named = matches!(&self.event_name, Scalar::Text(_));
        let is_typed = matches!(&self.event_type, Scalar::Text(kind) if kind.starts_with("Aws"));
        let is_insight = matches!(&self.event_category, Scalar::Text(category) if category == "Insight");
        !is_delivery && !self.in_envelope && (is_named || is_typed || is_insight)
    }

    fn consequence(&self) -> Consequence {
        if self.event_source.is("organizations.amazonaws.com") {
            Consequence::LifeCycle
        } else if self.event_source.is("config.amazonaws.com") && self.event_name.is("PutEvaluations") {
            Consequence::Evaluations
        } else {
            Consequence::None
        }
    }
}

/// Names one struct and visitor for the keys an object may have, so that keys are compared without allocating.
macro_rules! keys {
    ($name:ident { $($variant:ident = $key:literal,)+ }) => {
        enum $name { $($variant,)+ Ignored }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct KeyVisitor;
                impl Visitor<'_> for KeyVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a key")
                    }
                    fn visit_str<E>(self, key: &str) -> Result<$name, E> {
                        Ok(match key { $($key => $name::$variant,)+ _ => $name::Ignored })
                    }
                }
                deserializer.deserialize_identifier(KeyVisitor)
            }
        }
    };
}

keys!(EventKey {
    EventId = "eventID",
    EventTime = "eventTime",
    EventName = "eventName",
    EventType = "eventType",
    EventSource = "eventSource",
    SnsEventSource = "EventSource",
    EventCategory = "eventCategory",
    AwsRegion = "awsRegion",
    RecipientAccountId = "recipientAccountId",
    UserIdentity = "userIdentity",
    DetailType = "detail-type",
    DigestStartTime = "digestStartTime",
    LogFiles = "logFiles",
});

keys!(UserIdentityKey { AccountId = "accountId", });

/// Reads the deciding fields of an object; `None` for a JSON value that is no object.
struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Option<Fields<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<EventKey>()? {
            match key {
                EventKey::EventId => fields.event_id = map.next_value()?,
                EventKey::EventTime => fields.event_time = map.next_value()?,
                EventKey::EventName => fields.event_name = map.next_value()?,
                EventKey::EventType => fields.event_type = map.next_value()?,
                EventKey::EventSource | EventKey::SnsEventSource => fields.event_source = map.next_value()?,
                EventKey::EventCategory => fields.event_category = map.next_value()?,
                EventKey::AwsRegion => fields.aws_region = map.next_value()?,
                EventKey::RecipientAccountId => fields.recipient_account_id = map.next_value()?,
                EventKey::UserIdentity => fields.user_account_id = map.next_value::<UserIdentity<'_>>()?.0,
                EventKey::DetailType => {
                    map.next_value::<IgnoredAny>()?;
                    fields.in_envelope = true;
                }
                EventKey::DigestStartTime => {
                    map.next_value::<IgnoredAny>()?;
                    fields.has_digest_start = true;
                }
                EventKey::LogFiles => {
                    map.next_value::<IgnoredAny>()?;
                    fields.has_log_files = true;
                }
                EventKey::Ignored => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Some(fields))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// `userIdentity.accountId`, whatever else stands in `userIdentity`; some events have a string or null there.
struct UserIdentity<'a>(Scalar<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for UserIdentity<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UserIdentityVisitor;
        impl<'de> Visitor<'de> for UserIdentityVisitor {
            type Value = UserIdentity<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a userIdentity")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut account = Scalar::Absent;
                while let Some(key) = map.next_key::<UserIdentityKey>()? {
                    match key {
                        UserIdentityKey::AccountId => account = map.next_value()?,
                        UserIdentityKey::Ignored => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(UserIdentity(account))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(UserIdentity(Scalar::Absent))
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(UserIdentity(Scalar::Absent))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(UserIdentity(Scalar::Absent))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(UserIdentity(Scalar::Absent))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(UserIdentity(Scalar::Absent))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(UserIdentity(Scalar::Absent))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(UserIdentity(Scalar::Absent))
            }
        }
        deserializer.deserialize_any(UserIdentityVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "49dfd327-5991-4a6e-9e1c-0123456789ab";

    fn now() -> Timestamp {
        Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap()
    }

    fn read_with(record: &str, object: Option<AccountId>) -> Reading<'_> {
        read(record.as_bytes(), &Fallback { envelope: Scalar::Absent, object }, now())
    }

    #[track_caller]
    fn usage(record: &str) -> UsageEvent<'_> {
        match read_with(record, None) {
            Reading::Event(Ok(event)) => event.usage,
            other => panic!("{other:?} for {record}"),
        }
    }

    #[track_caller]
    fn check_dead(record: &str, reason: Reason) {
        match read_with(record, None) {
            Reading::Event(Err(found)) => assert_eq!(found, reason, "{record}"),
            other => panic!("{other:?} for {record}"),
        }
    }

    #[test]
    fn an_event_counts_for_its_recipient_at_its_time_in_its_region_and_category() {
        let record = format!(
            r#"{{"eventVersion":"1.08","userIdentity":{{"accountId":"999999999999"}},"eventTime":"2026-10-01T11:59:59Z",
            "eventName":"GetObject","awsRegion":"eu-west-1","eventID":"{UUID}","recipientAccountId":"000000000012","eventCategory":"Data"}}"#
        );
        let event = usage(&record);
        assert_eq!(event.account.as_str(), "000000000012");
        assert_eq!(event.event_time.hour().to_string(), "2026-10-01T11");
        assert_eq!((&*event.dimensions.region, &*event.dimensions.category), ("eu-west-1", "Data"));
        assert_eq!(event.identity, Identity::of_event_id(UUID).unwrap());
    }

    #[test]
    fn the_account_falls_back_to_the_object_name_then_to_the_user() {
        let record =
            r#"{"eventName":"X","eventTime":"2026-10-01T11:00:00Z","userIdentity":{"accountId":"111111111111"}}"#;
        assert_eq!(usage(record).account.as_str(), "111111111111");
        let named = account_in_object_name("AWSLogs/2/222222222222_CloudTrail_us-east-1_20261001T1105Z_abc.json.gz");
        let Reading::Event(Ok(event)) = read_with(record, named) else { panic!("not counted") };
        assert_eq!(event.usage.account.as_str(), "222222222222");
        for (envelope, expected) in [
            (Scalar::Text("333333333333".into()), Ok("333333333333")),
            (Scalar::Text("".into()), Ok("222222222222")),
            (Scalar::Text("3333".into()), Err(Reason::AccountMalformed)),
            (Scalar::Other, Err(Reason::AccountMalformed)),
        ] {
            let fallback = Fallback { envelope, object: named };
            let Reading::Event(event) = read(record.as_bytes(), &fallback, now()) else { panic!("no event") };
            assert_eq!(event.map(|event| event.usage.account.to_string()), expected.map(str::to_owned));
        }
        assert_eq!(account_in_object_name("222222222222_CloudTrail-Digest_us-east-1.json.gz"), None);
        assert_eq!(account_in_object_name("22222222222_CloudTrail_us-east-1.json.gz"), None);
    }

    #[test]
    fn what_cannot_be_placed_is_set_aside_with_its_reason() {
        check_dead(r#"{"eventName":"X","eventTime":"2026-10-01T11:00:00Z"}"#, Reason::AccountMissing);
        for account in [r#""12345""#, "123456789012", r#""recipientAccountId""#, "{}", "[]", "true"] {
            check_dead(
                &format!(r#"{{"eventName":"X","eventTime":"2026-10-01T11:00:00Z","recipientAccountId":{account}}}"#),
                Reason::AccountMalformed,
            );
        }
        for (time, reason) in [
            ("null", Reason::EventTimeMissing),
            ("1790856000", Reason::EventTimeMalformed),
            (r#""eventTime""#, Reason::EventTimeMalformed),
            (r#""2026-10-01T13:00:00.000001Z""#, Reason::EventTimeInFuture),
        ] {
            check_dead(
                &format!(r#"{{"eventName":"X","recipientAccountId":"111111111111","eventTime":{time}}}"#),
                reason,
            );
        }
        for region in ["x".repeat(65), "a\\u0000b".to_owned()] {
            check_dead(
                &format!(
                    r#"{{"eventName":"X","recipientAccountId":"111111111111","eventTime":"2026-10-01T11:00:00Z","awsRegion":"{region}"}}"#
                ),
                Reason::DimensionMalformed,
            );
        }
    }

    #[test]
    fn exactly_one_hour_ahead_still_counts() {
        usage(r#"{"eventName":"X","recipientAccountId":"111111111111","eventTime":"2026-10-01T13:00:00Z"}"#);
    }

    #[test]
    fn other_json_is_not_recognized_and_broken_json_is_named() {
        for other in [
            "{}",
            "[]",
            "1",
            "null",
            "\"text\"",
            r#"{"eventSource":"aws:s3","eventName":"ObjectCreated:Put"}"#,
            r#"{"EventSource":"aws:sns","eventName":"x"}"#,
            r#"{"detail-type":"AWS API Call via CloudTrail","eventName":"x"}"#,
        ] {
            assert!(matches!(read_with(other, None), Reading::Other), "{other}");
        }
        for broken in ["{", r#"{"eventName":}"#, r#"{"a":1} x"#, "{'a':1}", r#"{"eventName":"X",}"#] {
            assert!(matches!(read_with(broken, None), Reading::Broken), "{broken}");
        }
    }

    #[test]
    fn the_last_of_duplicate_keys_counts_and_escaped_keys_are_keys() {
        let record = r#"{"eventName":"X","eventTime":"bad","recipientAccountId":"bad","eventTime":"2026-10-01T11:00:00Z",
            "recipient\u0041ccountId":"111111111111","eventID":"eventID"}"#;
        let event = usage(record);
        assert_eq!(event.account.as_str(), "111111111111");
        assert_eq!(event.identity, Identity::of_content(record.as_bytes()).unwrap());
    }

    #[test]
    fn an_event_without_an_id_that_nests_too_deep_is_set_aside() {
        let (open, close) = ("[".repeat(50_000), "]".repeat(50_000));
        let record = format!(
            r#"{{"eventName":"X","recipientAccountId":"111111111111","eventTime":"2026-10-01T11:00:00Z","a":{open}{close}}}"#
        );
        check_dead(&record, Reason::NestedTooDeep);
    }

    #[test]
    fn odd_shapes_beside_the_deciding_fields_do_not_matter() {
        for user in [r#""text""#, "null", "[]", "7", "false", r#"{"accountId":["x"]}"#] {
            let record = format!(
                r#"{{"eventName":"X","userIdentity":{user},"recipientAccountId":"111111111111","eventTime":"2026-10-01 11:00:00.5","requestParameters":"text"}}"#
            );
            assert_eq!(usage(&record).dimensions.category, Dimensions::NONE);
        }
    }

    #[test]
    fn an_insight_event_and_a_digest_are_told_apart() {
        let insight =
            r#"{"eventCategory":"Insight","eventTime":"2026-10-01T11:00:00Z","recipientAccountId":"111111111111"}"#;
        assert_eq!(usage(insight).dimensions.category, "Insight");
        let digest = r#"{"awsAccountId":"1","digestStartTime":"2026-10-01T11:00:00Z","logFiles":[]}"#;
        assert!(matches!(read_with(digest, None), Reading::Digest));
    }
}
