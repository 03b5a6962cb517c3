//! What a record on the stream looks like: a CloudEvents 1.0 JSON batch of slices.
//!
//! One element is one slice (`docs/stream-format.md` has an example). The identities of a counter are one base64 column of
//! 16 bytes each, which needs no compression to stay near 22 bytes an event and which any JSON parser reads.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{AccountId, Bucket, CounterKey, Dimensions, Identity, Meter, RunId, Slice, SliceGroup, SliceId, Timestamp};

/// The CloudEvents `type` of a slice; another layout gets another number.
pub const SLICE_TYPE: &str = "com.securebase.usage.slice.v1";

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
    #[serde(borrow)]
    groups: Vec<GroupPayload<'a>>,
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
    let groups = slice
        .groups
        .iter()
        .map(|group| GroupPayload {
            meter: group.counter.meter.as_str().into(),
            account: group.counter.account.as_str().into(),
            region: (&*group.counter.dimensions.region).into(),
            category: (&*group.counter.dimensions.category).into(),
            first: group.first.to_string().into(),
            last: group.last.to_string().into(),
            identities: STANDARD
                .encode(group.identities.iter().flat_map(|id| *id.as_bytes()).collect::<Vec<u8>>())
                .into(),
        })
        .collect();
    Envelope {
        specversion: "1.0".into(),
        r#type: SLICE_TYPE.into(),
        source: "/securebase/ingest".into(),
        id: format!("{}/{}", slice.id.run, slice.id.number).into(),
        subject: format!("{:02}/{}", slice.bucket.number(), slice.hour).into(),
        datacontenttype: "application/json".into(),
        data: SlicePayload { bucket: slice.bucket.number(), window: slice.hour.start().to_string().into(), groups },
    }
}

fn slice(envelope: Envelope<'_>) -> Result<Slice, FormatError> {
    let field = |field| FormatError::Field { field };
    if envelope.specversion != "1.0" || envelope.r#type != SLICE_TYPE {
        return Err(field("type"));
    }
    let (run, number) = envelope.id.split_once('/').ok_or(field("id"))?;
    let id = SliceId { run: RunId::parse(run).ok_or(field("id"))?, number: number.parse().map_err(|_| field("id"))? };
    let bucket = Bucket::new(envelope.data.bucket).ok_or(field("bucket"))?;
    let window = Timestamp::parse_rfc3339(&envelope.data.window).map_err(|_| field("window"))?;
    let hour = window.hour();
    if hour.start() != window {
        return Err(field("window"));
    }
    let groups = envelope.data.groups.into_iter().map(|group| slice_group(group, bucket)).collect::<Result<_, _>>()?;
    Ok(Slice { id, bucket, hour, groups })
}

fn slice_group(group: GroupPayload<'_>, bucket: Bucket) -> Result<SliceGroup, FormatError> {
    let field = |field| FormatError::Field { field };
    let dimension = |value: Cow<'_, str>, name| {
        if Dimensions::is_value(&value) { Ok(Cow::Owned(value.into_owned())) } else { Err(field(name)) }
    };
    let account = AccountId::parse(&group.account).map_err(|_| field("account"))?;
    if account.bucket() != bucket {
        return Err(field("bucket"));
    }
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
    use crate::{Packer, UsageEvent};

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
}
