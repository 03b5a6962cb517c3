//! Whose usage a dead letter may be, and of which time: which closes it holds up.

use std::collections::BTreeSet;

use serde_json::Value;

use super::DeadLetter;
use crate::{
    AccountId, Aggregation, FactValue, Meters, Reason, Slice, Timestamp, UsageFact, cloudtrail, stream_format,
};

/// How long before it is delivered under its name a log object's events may have happened, in seconds. CloudTrail
/// delivers within minutes; a day holds up a close too many rather than one too few.
const DELIVERED_AFTER_SECONDS_MAX: i64 = 24 * 3_600;

/// What can be told of a dead letter without understanding it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The accounts it may belong to; `None`: anybody's.
    pub accounts: Option<BTreeSet<AccountId>>,
    /// The first and the last instant its usage may be of; `None`: any time.
    pub times: Option<(Timestamp, Timestamp)>,
}

impl Scope {
    /// What the record itself says; where it says nothing, what its object's name says.
    pub fn of(letter: &DeadLetter) -> Self {
        let (own, lasts) = if letter.object.starts_with("slice:") {
            (of_slices(&letter.bytes), false)
        } else if letter.is_whole {
            of_record(&letter.bytes)
        } else {
            (Self::default(), false)
        };
        let object = of_object_name(&letter.object);
        let mut times = own.times.or(object.times);
        if (lasts || is_of_facts_that_last(letter.reason))
            && let Some((_, last)) = &mut times
        {
            *last = Timestamp::MAX;
        }
        Self { accounts: own.accounts.or(object.accounts), times }
    }

    /// Whether it may be usage of one of these accounts between two instants, the second excluded.
    pub fn may_concern(&self, is_theirs: impl Fn(&AccountId) -> bool, from: Timestamp, until: Timestamp) -> bool {
        let in_time = self.times.is_none_or(|(first, last)| first < until && from <= last);
        in_time && self.accounts.as_ref().is_none_or(|accounts| accounts.iter().any(is_theirs))
    }
}

fn of_slices(bytes: &[u8]) -> Scope {
    let Ok(slices) = stream_format::decode(bytes) else { return Scope::default() };
    let groups = slices.iter().flat_map(Slice::groups);
    let counts = groups.map(|group| (group.counter.account, group.first, group.last));
    let facts = slices.iter().flat_map(Slice::facts).map(|part| &part.fact);
    if facts.clone().any(|fact| matches!(fact.value, FactValue::ExportEnd { .. })) {
        // It gives force to rows of any account and time.
        return Scope::default();
    }
    let facts = facts.map(|fact| (fact.key.account, fact.key.time, last_of(fact)));
    let all: Vec<_> = counts.chain(facts).collect();
    let times = all.iter().map(|(_, first, _)| *first).min().zip(all.iter().map(|(_, _, last)| *last).max());
    let accounts: BTreeSet<AccountId> = all.into_iter().map(|(account, _, _)| account).collect();
    Scope { accounts: (!accounts.is_empty()).then_some(accounts), times }
}

/// The last instant a fact says something of: an amount the hour it begins in, anything else until it is told otherwise.
fn last_of(fact: &UsageFact<'_>) -> Timestamp {
    match fact.value {
        FactValue::Amount(_) => fact.end.unwrap_or(fact.key.time),
        _ => Timestamp::MAX,
    }
}

/// Where accounts and times stand in the events we know, and in the envelopes around them.
const ACCOUNTS: [&[&str]; 6] = [
    &["recipientAccountId"],
    &["detail", "recipientAccountId"],
    &["detail", "accountId"],
    &["account"],
    &["accountId"],
    &["AwsAccountId"],
];
const TIMES: [&[&str]; 8] = [
    &["eventTime"],
    &["detail", "eventTime"],
    &["detail", "createdAt"],
    &["detail", "CreatedAt"],
    &["createdAt"],
    &["CreatedAt"],
    &["service", "eventFirstSeen"],
    &["time"],
];

/// Whether what is set aside for this reason says what holds until it is told otherwise.
fn is_of_facts_that_last(reason: Reason) -> bool {
    matches!(reason, Reason::LifeCycleMalformed | Reason::ListMalformed | Reason::ListTimeMissing)
}

/// Whether a record says, or may say, what holds until it is told otherwise: an event of an organization that changes it, or
/// a sample of anything but amounts.
fn lasts(record: &Value) -> bool {
    let of_organization = |event: &Value| {
        event.get("eventSource").and_then(Value::as_str) == Some("organizations.amazonaws.com")
            && event.get("readOnly") != Some(&Value::Bool(true))
    };
    let is_amount = |sample: &Value| {
        let meter = sample.get("type").and_then(Value::as_str);
        let built_in = Meters::built_in();
        let definition = meter.and_then(|meter| built_in.find(meter));
        definition.is_some_and(|definition| definition.aggregation == Aggregation::Sum)
    };
    let is_sample = record.get("specversion").is_some() && record.get("data").is_some();
    let events = [Some(record), record.get("detail")];
    events.into_iter().flatten().any(of_organization) || (is_sample && !is_amount(record))
}

/// The first account that is one, as the event comes before its envelope; and every time, as which of them counts is not
/// known. And whether what it says lasts.
fn of_record(bytes: &[u8]) -> (Scope, bool) {
    let Ok(record) = serde_json::from_slice::<Value>(bytes) else { return (Scope::default(), false) };
    let text = |path: &&[&str]| {
        path.iter().try_fold(&record, |value, name| value.get(name)).and_then(Value::as_str).map(str::to_owned)
    };
    let account = ACCOUNTS.iter().filter_map(text).find_map(|text| AccountId::parse(&text).ok());
    let times = TIMES.iter().filter_map(text).filter_map(|text| Timestamp::parse_declared_utc(&text).ok());
    let times: Vec<Timestamp> = times.collect();
    let scope = Scope {
        accounts: account.map(|account| [account].into()),
        times: times.iter().min().copied().zip(times.iter().max().copied()),
    };
    (scope, lasts(&record))
}

/// `<account>_CloudTrail_<region>_<YYYYMMDDTHHmmZ>_<unique>.json.gz`: the time is the delivery's.
fn of_object_name(name: &str) -> Scope {
    let file = name.rsplit('/').next().unwrap_or_default();
    let accounts = cloudtrail::account_in_object_name(name).map(|account| [account].into());
    let times = file.split('_').find_map(delivered_at).map(|delivered| {
        let first = delivered.saturating_add_secs(-DELIVERED_AFTER_SECONDS_MAX);
        // The name has whole minutes.
        (first, delivered.saturating_add_secs(60))
    });
    Scope { accounts, times }
}

/// Reads `20261001T1240Z`.
fn delivered_at(part: &str) -> Option<Timestamp> {
    let is_stamp = part.len() == 14 && part.is_ascii() && part.as_bytes()[8] == b'T' && part.ends_with('Z');
    let text = |range| part.get(range).unwrap_or_default();
    let written = || format!("{}-{}-{}T{}:{}:00Z", text(0..4), text(4..6), text(6..8), text(9..11), text(11..13));
    is_stamp.then(|| Timestamp::parse_rfc3339(&written()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Bucket, CounterKey, Dimensions, FactKey, Hour, Identity, Meter, Quantity, Reason, RunId, SliceFact, SliceGroup,
        SliceId,
    };

    const NAMED: &str =
        "s3://b/AWSLogs/111122223333/x/111122223333_CloudTrail_eu-west-1_20261101T0005Z_Ab3dEf6hIj9kLm2n.json.gz";

    fn letter(object: &str, bytes: &[u8], is_whole: bool) -> DeadLetter {
        DeadLetter {
            object: object.to_owned(),
            offset: 0,
            number: 0,
            reason: Reason::BrokenJson,
            bytes: bytes.to_vec(),
            is_whole,
            seen_at: at("2026-11-22T08:00:00Z"),
            resolved_at: None,
        }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[track_caller]
    fn check(letter: &DeadLetter, account: Option<&str>, times: Option<(&str, &str)>) {
        let scope = Scope::of(letter);
        let expected = account.map(|account| [AccountId::parse(account).unwrap()].into());
        assert_eq!(scope.accounts, expected, "{letter:?}");
        assert_eq!(scope.times, times.map(|(first, last)| (at(first), at(last))), "{letter:?}");
    }

    #[test]
    fn a_record_speaks_for_itself_and_its_object_for_the_rest() {
        let of_name = Some(("2026-10-31T00:05:00Z", "2026-11-01T00:06:00Z"));
        let own_time = r#"{"recipientAccountId":"12","eventTime":"2026-10-07T01:02:03Z"}"#;
        let own = Some(("2026-10-07T01:02:03Z", "2026-10-07T01:02:03Z"));
        check(&letter("log.json", own_time.as_bytes(), true), None, own);
        check(&letter(NAMED, own_time.as_bytes(), true), Some("111122223333"), own);
        let own_account = r#"{"recipientAccountId":"000000000012","eventTime":"soon"}"#;
        check(&letter("log.json", own_account.as_bytes(), true), Some("000000000012"), None);
        check(&letter(NAMED, own_account.as_bytes(), true), Some("000000000012"), of_name);
        check(&letter(NAMED, own_account.as_bytes(), false), Some("111122223333"), of_name);
        check(&letter("log.json", b"{", true), None, None);
        check(&letter("a_20261301T0005Z_b", b"", true), None, None);
    }

    #[test]
    fn an_envelope_and_its_event_may_be_of_two_months() {
        let finding = r#"{"detail-type":"GuardDuty Finding","account":"000000000012","time":"2026-11-01T00:01:00Z",
            "detail":{"accountId":"000000000013","createdAt":"2026-10-31T23:58:00Z"}}"#;
        let times = Some(("2026-10-31T23:58:00Z", "2026-11-01T00:01:00Z"));
        check(&letter("event", finding.as_bytes(), true), Some("000000000013"), times);
    }

    #[test]
    fn what_lasts_until_it_is_told_otherwise_bears_on_every_month_behind_it() {
        let on_the_30th = "2026-09-30T23:50:00Z";
        let ends = |record: &str, reason: Reason| {
            let letter = DeadLetter { reason, ..letter("log.json", record.as_bytes(), true) };
            let (first, last) = Scope::of(&letter).times.unwrap();
            assert_eq!(first, at(on_the_30th), "{record}");
            last
        };
        let event = |source: &str, name: &str, more: &str| {
            format!(
                r#"{{"eventTime":"{on_the_30th}","eventSource":"{source}.amazonaws.com","eventName":"{name}","awsRegion":1{more}}}"#
            )
        };
        let created = event("organizations", "CreateAccountResult", "");
        let detail = format!(r#"{{"detail-type":"AWS Service Event via CloudTrail","detail":{created}}}"#);
        let listed = format!(r#"{{"Id":"1","time":"{on_the_30th}"}}"#);
        let sample = |meter: &str| {
            format!(
                r#"{{"specversion":"1.0","type":"{meter}","time":"{on_the_30th}","data":{{"resource":"r","value":true}}}}"#
            )
        };
        for (record, reason, lasts) in [
            (&created, Reason::DimensionMalformed, true),
            (&created, Reason::LifeCycleMalformed, true),
            (&detail, Reason::AccountMissing, true),
            (&listed, Reason::ListMalformed, true),
            (&sample("log_storage_gb"), Reason::SampleMalformed, true),
            (&sample("nobody_defined_it"), Reason::MeterUnknown, true),
            (&sample("nat_gateway_bytes"), Reason::SampleMalformed, false),
            (&event("organizations", "DescribeAccount", r#","readOnly":true"#), Reason::DimensionMalformed, false),
            (&event("s3", "CreateBucket", ""), Reason::DimensionMalformed, false),
        ] {
            let expected = if lasts { Timestamp::MAX } else { at(on_the_30th) };
            assert_eq!(ends(record, reason), expected, "{record}");
        }
        let october = (at("2026-10-01T00:00:00Z"), at("2026-11-01T00:00:00Z"));
        let scope = Scope::of(&letter("log.json", created.as_bytes(), true));
        assert!(scope.may_concern(|_| true, october.0, october.1));
    }

    #[test]
    fn a_parked_slice_knows_all_its_accounts_and_its_hour() {
        let account = |id: &str| AccountId::parse(id).unwrap();
        let hour = Hour::parse_key("2026-10-31T23").unwrap();
        let group = |id| SliceGroup {
            counter: CounterKey {
                meter: Meter::CloudTrailEvents,
                account: account(id),
                dimensions: Dimensions { region: "r".into(), category: "c".into() },
            },
            identities: vec![Identity::from_bytes([1; 16])],
            first: hour.start(),
            last: hour.start().saturating_add_secs(7),
        };
        let bucket: Bucket = account("000000000012").bucket();
        let other = (13..).map(|n| format!("{n:012}")).find(|id| account(id).bucket() == bucket).unwrap();
        let id = SliceId { run: RunId::from_bytes([1; 16]), number: 0 };
        let slice = Slice::of_counts(id, bucket, hour, vec![group("000000000012"), group(&other)]);
        let scope = Scope::of(&letter("slice:0101/0", &stream_format::encode(&[slice]), true));
        assert_eq!(scope.accounts, Some([account("000000000012"), account(&other)].into()));
        assert_eq!(scope.times, Some((hour.start(), hour.start().saturating_add_secs(7))));

        let fact = |value| UsageFact {
            key: FactKey {
                meter: Meter::DataTransferBytes,
                account: account("000000000012"),
                resource: "r".into(),
                time: hour.start(),
                export: matches!(value, FactValue::ExportEnd { .. })
                    .then(|| crate::ExportGeneration { scope: "e".into(), number: 0 }),
            },
            revision: 0,
            dimensions: Dimensions { region: "r".into(), category: "c".into() },
            end: Some(hour.start().saturating_add_secs(60)),
            value,
        };
        let of = |value| {
            let facts = vec![SliceFact { fact: fact(value), is_primary: true }];
            let slice = Slice::of_facts(id, bucket, hour.day(), facts);
            Scope::of(&letter("slice:0101/0", &stream_format::encode(&[slice]), true))
        };
        let amount = of(FactValue::Amount(Quantity::ZERO));
        assert_eq!(amount.times, Some((hour.start(), hour.start().saturating_add_secs(60))));
        assert_eq!(amount.accounts, Some([account("000000000012")].into()));
        assert_eq!(of(FactValue::Live).times, Some((hour.start(), Timestamp::MAX)), "it lasts");
        assert_eq!(of(FactValue::ExportEnd { facts: 1 }), Scope::default(), "it may concern anybody");
    }

    #[test]
    fn what_is_not_known_concerns_everybody_and_every_time() {
        let (from, until) = (at("2026-10-01T00:00:00Z"), at("2026-11-01T00:00:00Z"));
        let concerns =
            |scope: &Scope, theirs: &str| scope.may_concern(|account| account.as_str() == theirs, from, until);
        assert!(concerns(&Scope::default(), "000000000012"));
        let accounts = Some([AccountId::parse("000000000012").unwrap()].into());
        let theirs = Scope { accounts, times: None };
        assert!(concerns(&theirs, "000000000012") && !concerns(&theirs, "000000000013"));
        for (first, last, is_in) in [
            ("2026-09-30T23:00:00Z", "2026-09-30T23:59:59Z", false),
            ("2026-09-30T23:00:00Z", "2026-10-01T00:00:00Z", true),
            ("2026-10-31T23:59:59Z", "2026-12-01T00:00:00Z", true),
            ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z", false),
        ] {
            let scope = Scope { accounts: None, times: Some((at(first), at(last))) };
            assert_eq!(concerns(&scope, "000000000012"), is_in, "{first}");
        }
    }
}
