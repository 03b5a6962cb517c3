//! What a record on the stream looks like: a CloudEvents 1.0 JSON batch of slices.
//!
//! One element is one slice, of counts or of facts (`docs/stream-format.md` has examples). The identities of a counter are
//! one base64 column of 16 bytes each, which needs no compression to stay near 22 bytes an event and which any JSON parser
//! reads. Facts are written out, grouped by what they have in common.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    AccountId, Bucket, CounterKey, Day, Dimensions, ExportGeneration, FactKey, FactValue, Identity, Meter, Quantity,
    RunId, Slice, SliceContent, SliceFact, SliceGroup, SliceId, Timestamp, UsageFact,
};

/// The CloudEvents `type` of a slice of counts; another layout gets another number.
pub const SLICE_TYPE: &str = "com.securebase.usage.slice.v1";
/// The CloudEvents `type` of a slice of facts; another layout gets another number.
pub const FACTS_TYPE: &str = "com.securebase.usage.facts.v1";

/// A stream record is not in the documented format: it is set aside whole.
#[derive(Debug, Error)]
pub enum FormatError {
    /// Not the JSON that is expected.
    #[error("not a CloudEvents batch of slices: {0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value that no slice has.
    #[error("slice field {field} has a value outside its range")]
    Field {
        /// The field's name.
        field: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    specversion: Cow<'a, str>,
    r#type: Cow<'a, str>,
    source: Cow<'a, str>,
    id: Cow<'a, str>,
    subject: Cow<'a, str>,
    datacontenttype: Cow<'a, str>,
    #[serde(borrow)]
    data: SlicePayload<'a>,
}

#[derive(Serialize, Deserialize)]
struct SlicePayload<'a> {
    bucket: u16,
    window: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupPayload<'a>>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    facts: Option<Vec<FactGroupPayload<'a>>>,
}

#[derive(Serialize, Deserialize)]
struct GroupPayload<'a> {
    meter: Cow<'a, str>,
    account: Cow<'a, str>,
    region: Cow<'a, str>,
    category: Cow<'a, str>,
    first: Cow<'a, str>,
    last: Cow<'a, str>,
    identities: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct FactGroupPayload<'a> {
    meter: Cow<'a, str>,
    account: Cow<'a, str>,
    resource: Cow<'a, str>,
    region: Cow<'a, str>,
    category: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    export: Option<Cow<'a, str>>,
    #[serde(borrow)]
    facts: Vec<FactPayload<'a>>,
}

#[derive(Serialize, Deserialize)]
struct FactPayload<'a> {
    time: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<Cow<'a, str>>,
    revision: u64,
    kind: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    /// Left out where true, as nearly everywhere.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    primary: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(primary: &bool) -> bool {
    *primary
}

/// Writes slices as one CloudEvents JSON batch.
pub fn encode(slices: &[Slice]) -> Vec<u8> {
    let batch: Vec<Envelope<'_>> = slices.iter().map(envelope).collect();
    serde_json::to_vec(&batch).expect("strings and numbers always serialize")
}

/// Reads what [`encode`] wrote.
pub fn decode(record: &[u8]) -> Result<Vec<Slice>, FormatError> {
    let batch: Vec<Envelope<'_>> = serde_json::from_slice(record)?;
    batch.into_iter().map(slice).collect()
}

fn envelope(slice: &Slice) -> Envelope<'_> {
    let (r#type, window, groups, facts) = match &slice.content {
        SliceContent::Counts { hour, groups } => {
            let groups = groups.iter().map(group_payload).collect();
            (SLICE_TYPE, hour.start().to_string(), Some(groups), None)
        }
        SliceContent::Facts { day, facts } => {
            let groups = facts.chunk_by(|a, b| is_of_one_group(&a.fact, &b.fact));
            (FACTS_TYPE, day.to_string(), None, Some(groups.map(fact_group_payload).collect()))
        }
    };
    Envelope {
        specversion: "1.0".into(),
        r#type: r#type.into(),
        source: "/securebase/ingest".into(),
        id: format!("{}/{}", slice.id.run, slice.id.number).into(),
        subject: format!("{:02}/{}", slice.bucket.number(), slice.window()).into(),
        datacontenttype: "application/json".into(),
        data: SlicePayload { bucket: slice.bucket.number(), window: window.into(), groups, facts },
    }
}

fn group_payload(group: &SliceGroup) -> GroupPayload<'_> {
    GroupPayload {
        meter: group.counter.meter.as_str().into(),
        account: group.counter.account.as_str().into(),
        region: (&*group.counter.dimensions.region).into(),
        category: (&*group.counter.dimensions.category).into(),
        first: group.first.to_string().into(),
        last: group.last.to_string().into(),
        identities: STANDARD.encode(group.identities.iter().flat_map(|id| *id.as_bytes()).collect::<Vec<u8>>()).into(),
    }
}

fn is_of_one_group(a: &UsageFact<'_>, b: &UsageFact<'_>) -> bool {
    let scope = |fact: &UsageFact<'_>| fact.key.export.as_ref().map(|export| export.scope.clone().into_owned());
    (a.key.meter, a.key.account, &a.key.resource, &a.dimensions)
        == (b.key.meter, b.key.account, &b.key.resource, &b.dimensions)
        && scope(a) == scope(b)
}

fn fact_group_payload(facts: &[SliceFact]) -> FactGroupPayload<'_> {
    let UsageFact { key, dimensions, .. } = &facts[0].fact;
    FactGroupPayload {
        meter: key.meter.as_str().into(),
        account: key.account.as_str().into(),
        resource: (&*key.resource).into(),
        region: (&*dimensions.region).into(),
        category: (&*dimensions.category).into(),
        export: key.export.as_ref().map(|export| (&*export.scope).into()),
        facts: facts.iter().map(fact_payload).collect(),
    }
}

fn fact_payload(SliceFact { fact, is_primary }: &SliceFact) -> FactPayload<'_> {
    FactPayload {
        time: fact.key.time.to_string().into(),
        end: fact.end.map(|end| end.to_string().into()),
        revision: fact.revision,
        kind: fact.value.kind().into(),
        value: fact.value.number().map(|number| number.to_string().into()),
        primary: *is_primary,
    }
}

fn slice(envelope: Envelope<'_>) -> Result<Slice, FormatError> {
    let field = |field| FormatError::Field { field };
    if envelope.specversion != "1.0" || (envelope.r#type != SLICE_TYPE && envelope.r#type != FACTS_TYPE) {
        return Err(field("type"));
    }
    let (run, number) = envelope.id.split_once('/').ok_or(field("id"))?;
    let id = SliceId { run: RunId::parse(run).ok_or(field("id"))?, number: number.parse().map_err(|_| field("id"))? };
    let bucket = Bucket::new(envelope.data.bucket).ok_or(field("bucket"))?;
    let SlicePayload { window, groups, facts, .. } = envelope.data;
    if envelope.r#type == FACTS_TYPE {
        let day = Day::parse_key(&window).map_err(|_| field("window"))?;
        let groups = facts.ok_or(field("facts"))?;
        let mut facts = Vec::new();
        for group in groups {
            read_facts(group, bucket, day, &mut facts)?;
        }
        return Ok(Slice::of_facts(id, bucket, day, facts));
    }
    let window = Timestamp::parse_rfc3339(&window).map_err(|_| field("window"))?;
    let hour = window.hour();
    if hour.start() != window {
        return Err(field("window"));
    }
    let groups = groups.ok_or(field("groups"))?;
    let groups = groups.into_iter().map(|group| slice_group(group, bucket)).collect::<Result<_, _>>()?;
    Ok(Slice::of_counts(id, bucket, hour, groups))
}

fn dimension(value: Cow<'_, str>, name: &'static str) -> Result<Cow<'static, str>, FormatError> {
    if Dimensions::is_value(&value) {
        Ok(Cow::Owned(value.into_owned()))
    } else {
        Err(FormatError::Field { field: name })
    }
}

/// The account of a group, which must be of the slice's bucket.
fn account(digits: &str, bucket: Bucket) -> Result<AccountId, FormatError> {
    let field = |field| FormatError::Field { field };
    let account = AccountId::parse(digits).map_err(|_| field("account"))?;
    if account.bucket() == bucket { Ok(account) } else { Err(field("bucket")) }
}

fn read_facts(
    group: FactGroupPayload<'_>,
    bucket: Bucket,
    day: Day,
    facts: &mut Vec<SliceFact>,
) -> Result<(), FormatError> {
    let field = |field| FormatError::Field { field };
    let meter = Meter::parse_stored(&group.meter).map_err(|_| field("meter"))?;
    let account = account(&group.account, bucket)?;
    let dimensions =
        Dimensions { region: dimension(group.region, "region")?, category: dimension(group.category, "category")? };
    let (resource, export) = (group.resource.into_owned(), group.export.map(Cow::into_owned));
    if group.facts.is_empty() {
        return Err(field("facts"));
    }
    for payload in group.facts {
        let time = Timestamp::parse_rfc3339(&payload.time).map_err(|_| field("time"))?;
        let end = payload.end.map(|end| Timestamp::parse_rfc3339(&end)).transpose().map_err(|_| field("end"))?;
        let number = payload.value.map(|number| number.parse::<Quantity>()).transpose().map_err(|_| field("value"))?;
        let export =
            export.clone().map(|scope| ExportGeneration { scope: Cow::Owned(scope), number: payload.revision });
        let fact = UsageFact {
            key: FactKey { meter, account, resource: Cow::Owned(resource.clone()), time, export },
            revision: payload.revision,
            dimensions: dimensions.clone(),
            end,
            value: FactValue::read(&payload.kind, number).ok_or(field("value"))?,
        };
        if fact.day() != day {
            return Err(field("window"));
        }
        fact.check_form().map_err(|_| field("facts"))?;
        facts.push(SliceFact { fact, is_primary: payload.primary });
    }
    Ok(())
}

fn slice_group(group: GroupPayload<'_>, bucket: Bucket) -> Result<SliceGroup, FormatError> {
    let field = |field| FormatError::Field { field };
    let account = account(&group.account, bucket)?;
    let bytes = STANDARD.decode(&*group.identities).map_err(|_| field("identities"))?;
    let (identities, rest) = bytes.as_chunks::<{ Identity::BYTES }>();
    if identities.is_empty() || !rest.is_empty() {
        return Err(field("identities"));
    }
    Ok(SliceGroup {
        counter: CounterKey {
            meter: Meter::parse(&group.meter).map_err(|_| field("meter"))?,
            account,
            dimensions: Dimensions {
                region: dimension(group.region, "region")?,
                category: dimension(group.category, "category")?,
            },
        },
        identities: identities.iter().copied().map(Identity::from_bytes).collect(),
        first: Timestamp::parse_rfc3339(&group.first).map_err(|_| field("first"))?,
        last: Timestamp::parse_rfc3339(&group.last).map_err(|_| field("last"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Packer, Statement, UsageEvent};

    fn slices() -> Vec<Slice> {
        let mut packer = Packer::new(RunId::from_bytes([0xab; 16]));
        let mut full = Vec::new();
        for n in 0..100_u8 {
            packer.add(
                UsageEvent {
                    meter: Meter::CloudTrailEvents,
                    account: AccountId::parse("123837392027").unwrap(),
                    identity: Identity::from_bytes([n; 16]),
                    event_time: Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap().saturating_add_secs(n.into()),
                    dimensions: Dimensions { region: "eu-\"west\"-1".into(), category: "Daten é".into() },
                },
                &mut full,
            );
        }
        full.extend(packer.flush());
        full
    }

    #[test]
    fn a_slice_survives_the_stream() {
        let slices = slices();
        let record = encode(&slices);
        assert_eq!(decode(&record).unwrap(), slices);
        assert!(record.len() < 100 * 22 + 700, "{} bytes for 100 events", record.len());
    }

    #[test]
    fn a_record_in_another_form_is_refused_by_the_field_that_differs() {
        let record = String::from_utf8(encode(&slices())).unwrap();
        for (from, to, field) in [
            ("slice.v1", "slice.v2", "type"),
            ("/0\"", "/x\"", "id"),
            ("\"bucket\":16", "\"bucket\":17", "bucket"),
            ("\"bucket\":16", "\"bucket\":99", "bucket"),
            ("T12:00:00Z\",\"groups", "T12:30:00Z\",\"groups", "window"),
            ("cloudtrail_events", "unknown_events", "meter"),
            ("\"account\":\"1", "\"account\":\"x", "account"),
            ("\"identities\":\"AAAA", "\"identities\":\"AAA", "identities"),
        ] {
            assert!(record.contains(from), "{from} in {record}");
            match decode(record.replace(from, to).as_bytes()) {
                Err(FormatError::Field { field: found }) => assert_eq!(found, field),
                other => panic!("{from} -> {to}: {other:?}"),
            }
        }
        for other in ["", "{}", "[1]", "[{}]"] {
            assert!(matches!(decode(other.as_bytes()), Err(FormatError::Json(_))), "{other}");
        }
    }

    fn fact_slices() -> Vec<Slice> {
        let mut packer = Packer::new(RunId::from_bytes([0xab; 16]));
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        let fact = |meter, resource: &str, time, end: Option<&str>, generation: Option<u64>, value| UsageFact {
            key: FactKey {
                meter,
                account: AccountId::parse("123837392027").unwrap(),
                resource: Cow::Owned(resource.to_owned()),
                time: at(time),
                export: generation.map(|number| ExportGeneration { scope: "focus/\"2026-10\"".into(), number }),
            },
            revision: generation.unwrap_or(3),
            dimensions: Dimensions { region: "eu-west-1".into(), category: "none".into() },
            end: end.map(at),
            value,
        };
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        let (start, end) = ("2026-10-01T12:00:00Z", Some("2026-10-01T13:00:00Z"));
        let mut full = Vec::new();
        for record in [
            Statement::of_facts(
                fact(Meter::NatGatewayBytes, "nat-1", start, end, None, FactValue::Amount(quantity("-0.5"))),
                [fact(Meter::NatGatewayBytes, "nat-1", "2026-10-01T12:30:00.000001Z", None, None, {
                    FactValue::Amount(quantity("0.000000000000000001"))
                })],
            ),
            Statement::of_facts(fact(Meter::Accounts, "123837392027", start, None, None, FactValue::Live), []),
            Statement::of_facts(
                fact(Meter::LogStorageGb, "b", start, None, None, FactValue::Level(quantity("1e9"))),
                [],
            ),
            Statement::of_facts(
                fact(Meter::DataTransferBytes, "row", start, None, Some(9), FactValue::Amount(quantity("7"))),
                [fact(Meter::ExportGenerations, "focus", start, None, Some(9), FactValue::ExportEnd { facts: 1 })],
            ),
        ] {
            packer.add_statement(record, &mut full);
        }
        full.extend(packer.flush());
        full
    }

    #[test]
    fn facts_survive_the_stream_beside_counts() {
        let slices: Vec<Slice> = fact_slices().into_iter().chain(slices()).collect();
        let kinds: Vec<_> = slices.iter().map(|slice| (slice.window().to_string(), slice.events())).collect();
        assert_eq!(kinds, [("2026-10-01".to_owned(), 4), ("2026-10-01T12".to_owned(), 100)]);
        assert_eq!(decode(&encode(&slices)).unwrap(), slices);
    }

    #[test]
    fn facts_in_another_form_are_refused_by_the_field_that_differs() {
        let record = String::from_utf8(encode(&fact_slices())).unwrap();
        for (from, to, field) in [
            ("facts.v1", "facts.v2", "type"),
            ("facts.v1", "slice.v1", "window"),
            ("\"window\":\"2026-10-01\"", "\"window\":\"2026-10-02\"", "window"),
            ("\"window\":\"2026-10-01\"", "\"window\":\"2026-10-01T12:00:00Z\"", "window"),
            ("\"meter\":\"accounts\"", "\"meter\":\"Accounts\"", "meter"),
            ("\"account\":\"123837392027\"", "\"account\":\"000000000001\"", "bucket"),
            ("\"kind\":\"live\"", "\"kind\":\"alive\"", "value"),
            ("\"kind\":\"live\"", "\"kind\":\"live\",\"value\":\"1\"", "value"),
            ("\"value\":\"-0.5\"", "\"value\":\"half\"", "value"),
            ("\"end\":\"2026-10-01T13:00:00Z\"", "\"end\":\"2026-10-01T12:00:00Z\"", "facts"),
            ("\"resource\":\"nat-1\"", "\"resource\":\"\"", "facts"),
            ("\"revision\":3", "\"revision\":9223372036854775808", "facts"),
        ] {
            assert!(record.contains(from), "{from} in {record}");
            match decode(record.replace(from, to).as_bytes()) {
                Err(FormatError::Field { field: found }) => assert_eq!(found, field, "{from} -> {to}"),
                other => panic!("{from} -> {to}: {other:?}"),
            }
        }
    }
}
