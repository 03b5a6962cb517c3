//! The formats that were considered, each from events to records and back.

use std::borrow::Cow;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use ingest::kinesis::{StreamRecord, pack, partition_key};
use ingest::{AccountId, Bucket, Dimensions, Identity, Meter, Slice, Timestamp, UsageEvent, stream_format};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::kpl;

/// Where a record of text is closed; the product's own target.
const RECORD_BYTES_TARGET: usize = 256 << 10;
/// Where a record is closed that is compressed afterwards: it becomes about as large as the others.
const RECORD_BYTES_TARGET_BEFORE_GZIP: usize = 1 << 20;
/// No event is longer in any of the forms here.
const EVENT_BYTES_MAX: usize = 1 << 10;

/// One way to put usage events on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// What the product does: a CloudEvents batch of slices.
    Slices,
    /// A CloudEvents batch with one element an event, gzipped.
    EventsGzip,
    /// The same as text.
    Events,
    /// The Kinesis Producer Library's aggregation format, one user record of compact JSON an event.
    Aggregated,
    /// The product's records, gzipped.
    SlicesGzip,
}

/// What is put on the stream together, in the two forms that candidates begin with.
pub(crate) struct Put {
    /// Packed by the product.
    pub(crate) slices: Vec<Slice>,
    /// In order of reading within their bucket.
    pub(crate) events: Vec<(Bucket, Vec<UsageEvent<'static>>)>,
}

/// What a candidate makes records of.
pub(crate) enum Input<'a> {
    Slices(Vec<Slice>),
    Events(&'a [(Bucket, Vec<UsageEvent<'static>>)]),
}

/// What a candidate reads from a record.
pub(crate) enum Decoded<'a> {
    Slices(Vec<Slice>),
    Events(Vec<UsageEvent<'a>>),
}

impl Candidate {
    pub(crate) const ALL: [Self; 5] =
        [Self::Slices, Self::EventsGzip, Self::Events, Self::Aggregated, Self::SlicesGzip];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Slices => "(a) CloudEvents batch of slices",
            Self::EventsGzip => "(b) CloudEvents batch of events, gzip",
            Self::Events => "(c) CloudEvents batch of events",
            Self::Aggregated => "(d) KPL aggregation of JSON events",
            Self::SlicesGzip => "(e) as (a), gzip",
        }
    }

    pub(crate) fn input(self, put: &Put) -> Input<'_> {
        match self {
            Self::Slices | Self::SlicesGzip => Input::Slices(put.slices.clone()),
            Self::Events | Self::EventsGzip | Self::Aggregated => Input::Events(&put.events),
        }
    }

    /// Records as they would be put, each of one bucket.
    pub(crate) fn encode(self, input: Input<'_>, level: Compression) -> Vec<StreamRecord> {
        let (records, is_compressed) = match (self, input) {
            (Self::Slices, Input::Slices(slices)) => (pack(slices), false),
            (Self::SlicesGzip, Input::Slices(slices)) => (pack(slices), true),
            (Self::Events, Input::Events(buckets)) => (batches(buckets, RECORD_BYTES_TARGET), false),
            (Self::EventsGzip, Input::Events(buckets)) => (batches(buckets, RECORD_BYTES_TARGET_BEFORE_GZIP), true),
            (Self::Aggregated, Input::Events(buckets)) => (aggregates(buckets), false),
            _ => unreachable!("a candidate is given its own input"),
        };
        if !is_compressed {
            return records;
        }
        records
            .into_iter()
            .map(|StreamRecord { bucket, body }| StreamRecord { bucket, body: gzip(&body, level) })
            .collect()
    }

    /// What is in a record that [`Candidate::encode`] made; `text` holds what was compressed.
    pub(crate) fn decode<'a>(self, record: &'a [u8], text: &'a mut Vec<u8>) -> Decoded<'a> {
        let slices = |record: &[u8]| Decoded::Slices(stream_format::decode(record).expect("a record of slices"));
        match self {
            Self::Slices => slices(record),
            Self::SlicesGzip => slices(gunzip(record, text)),
            Self::Events => batch_events(record),
            Self::EventsGzip => batch_events(gunzip(record, text)),
            Self::Aggregated => {
                let user_records = kpl::user_records(record).expect("an aggregated record");
                Decoded::Events(user_records.into_iter().map(compact_event).collect())
            }
        }
    }
}

/// An event as a CloudEvent with the fewest attributes that say what is counted.
#[derive(Serialize, Deserialize)]
struct Element<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    subject: &'a str,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    data: ElementDimensions<'a>,
}

#[derive(Serialize, Deserialize)]
struct ElementDimensions<'a> {
    #[serde(borrow)]
    region: Cow<'a, str>,
    #[serde(borrow)]
    category: Cow<'a, str>,
}

/// An event without an envelope.
#[derive(Serialize, Deserialize)]
struct Compact<'a> {
    id: &'a str,
    meter: &'a str,
    account: &'a str,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    region: Cow<'a, str>,
    #[serde(borrow)]
    category: Cow<'a, str>,
}

fn batches(buckets: &[(Bucket, Vec<UsageEvent<'_>>)], target: usize) -> Vec<StreamRecord> {
    let mut records = Vec::new();
    let mut id = [0; Hyphenated::LENGTH];
    for (bucket, events) in buckets {
        let mut body = Vec::new();
        for event in events {
            if target < body.len() + EVENT_BYTES_MAX {
                body.push(b']');
                records.push(StreamRecord { bucket: *bucket, body: std::mem::take(&mut body) });
            }
            body.push(if body.is_empty() { b'[' } else { b',' });
            let element = Element {
                specversion: "1.0",
                id: event_id(event.identity, &mut id),
                source: "/securebase/ingest",
                r#type: event.meter.as_str(),
                subject: event.account.as_str(),
                time: event.event_time.to_string().into(),
                data: ElementDimensions {
                    region: (&*event.dimensions.region).into(),
                    category: (&*event.dimensions.category).into(),
                },
            };
            serde_json::to_writer(&mut body, &element).expect("strings always serialize");
        }
        body.push(b']');
        records.push(StreamRecord { bucket: *bucket, body });
    }
    records
}

fn batch_events(text: &[u8]) -> Decoded<'_> {
    let elements: Vec<Element<'_>> = serde_json::from_slice(text).expect("a batch of events");
    let events = elements.into_iter().map(|element| {
        let Element { id, r#type, subject, time, data, .. } = element;
        event(id, r#type, subject, &time, data.region, data.category)
    });
    Decoded::Events(events.collect())
}

fn aggregates(buckets: &[(Bucket, Vec<UsageEvent<'_>>)]) -> Vec<StreamRecord> {
    let mut records = Vec::new();
    let mut text = Vec::new();
    let mut id = [0; Hyphenated::LENGTH];
    for (bucket, events) in buckets {
        let key = partition_key(*bucket);
        let mut aggregate = kpl::Aggregate::new(&key);
        for event in events {
            if RECORD_BYTES_TARGET < aggregate.len() + EVENT_BYTES_MAX {
                let full = std::mem::replace(&mut aggregate, kpl::Aggregate::new(&key));
                records.push(StreamRecord { bucket: *bucket, body: full.finish() });
            }
            text.clear();
            let compact = Compact {
                id: event_id(event.identity, &mut id),
                meter: event.meter.as_str(),
                account: event.account.as_str(),
                time: event.event_time.to_string().into(),
                region: (&*event.dimensions.region).into(),
                category: (&*event.dimensions.category).into(),
            };
            serde_json::to_writer(&mut text, &compact).expect("strings always serialize");
            aggregate.push(&text);
        }
        records.push(StreamRecord { bucket: *bucket, body: aggregate.finish() });
    }
    records
}

fn compact_event(text: &[u8]) -> UsageEvent<'_> {
    let Compact { id, meter, account, time, region, category } = serde_json::from_slice(text).expect("a compact event");
    event(id, meter, account, &time, region, category)
}

/// The event id that has this identity.
fn event_id(identity: Identity, text: &mut [u8; Hyphenated::LENGTH]) -> &str {
    Uuid::from_bytes(*identity.as_bytes()).hyphenated().encode_lower(text)
}

fn event<'a>(
    id: &str,
    meter: &str,
    account: &str,
    time: &str,
    region: Cow<'a, str>,
    category: Cow<'a, str>,
) -> UsageEvent<'a> {
    UsageEvent {
        meter: Meter::parse(meter).expect("a meter"),
        account: AccountId::parse(account).expect("an account"),
        identity: Identity::of_event_id(id).expect("an event id"),
        event_time: Timestamp::parse_rfc3339(time).expect("an instant"),
        dimensions: Dimensions { region, category },
    }
}

fn gzip(text: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(text).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

fn gunzip<'a>(record: &[u8], text: &'a mut Vec<u8>) -> &'a [u8] {
    text.clear();
    GzDecoder::new(record).read_to_end(text).expect("a gzip record");
    text
}
