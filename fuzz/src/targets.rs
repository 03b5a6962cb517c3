//! Every reader of outside bytes, with what must hold whatever it is given: it comes to an end, and what it says is sound.
//!
//! Compiled into the fuzzer, and into an ordinary test that replays the seeds.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::close::identities;
use aggregator::dynamodb_log::{entry_of_item, item_of_entry};
use aggregator::memory_log::MemoryLog;
use aggregator::partition::Partition;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use billing::RateCard;
use futures::FutureExt as _;
use ingest::digest::Digest;
use ingest::notice::NamedObject;
use ingest::{
    Beside, Declarations, Delivered, Meter, Meters, Packer, Rules, RunId, Timestamp, Verdict, read_object, sample,
    stream_format,
};
use reference::Recount;
use serde_json::Value;

#[path = "../../src/verify/evidence_file.rs"]
#[expect(dead_code, reason = "the program asks an evidence file more than whether it can be read")]
mod evidence_file;

/// A reader.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Folders of its seeds, from the root of the project.
    #[allow(dead_code, reason = "the fuzzer is given its folders on the command line")]
    pub(crate) seeds: &'static [&'static str],
    pub(crate) read: fn(&[u8]),
}

const fn target(name: &'static str, seeds: &'static [&'static str], read: fn(&[u8])) -> Target {
    Target { name, seeds, read }
}

pub(crate) const TARGETS: &[Target] = &[
    target("cloudtrail", &["fixtures/cloudtrail"], |input| {
        object("111122223333_CloudTrail_us-east-1_20261001T1240Z_Ab3d.json.gz", input)
    }),
    target("deliveries", &["fixtures/events"], |input| object("events.jsonl", input)),
    target("objects", &["fixtures/objects"], |input| object("20261102T010000Z-objects.json", input)),
    target("focus", &["fixtures/objects"], focus),
    target("digest", &["fixtures/objects"], |input| drop(Digest::parse(input))),
    target("sample", &["fixtures/objects"], |input| drop(sample::fact(input, &Meters::built_in(), now()))),
    target("object-name", &["fuzz/corpus/object-name"], object_name),
    target("stream", &["fuzz/corpus/stream"], stream),
    target("entry", &["fuzz/corpus/entry"], entry),
    target("evidence", &["fuzz/corpus/evidence"], evidence),
    target("rate-card", &["rate-cards", "fuzz/corpus/rate-card"], |input| {
        with_text(input, |text| {
            drop(RateCard::parse(text, "fuzz", Some(&Meters::built_in())));
        })
    }),
    target("declarations", &["fuzz/corpus/declarations"], |input| {
        with_text(input, |text| drop(Declarations::parse(text)))
    }),
    target("recount", &["fixtures/cloudtrail"], recount),
];

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-02T12:00:00Z").expect("an instant")
}

fn with_text(input: &[u8], read: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(input) {
        read(text);
    }
}

/// What a reading comes to: everything it packs, and how often each verdict was given.
fn read(name: &str, input: &[u8]) -> (Vec<ingest::Slice>, BTreeMap<&'static str, u64>) {
    let declared = Declarations::default();
    let meters = Meters::built_in();
    let rules = Rules { now: now(), declared: &declared, meters: &meters };
    let (mut packer, mut slices) = (Packer::new(RunId::from_bytes([7; 16])), Vec::new());
    let mut said = BTreeMap::<&'static str, u64>::new();
    let found = read_object(Delivered::from(name), input, rules, |judged| {
        assert!(judged.bytes.len() <= 5 << 20, "what is kept is bounded");
        let kind = match judged.verdict {
            Verdict::Usage(event) => {
                packer.add(event, &mut slices);
                "usage"
            }
            Verdict::Facts(statement) => {
                packer.add_statement(*statement, &mut slices);
                "usage"
            }
            Verdict::NotCounted(_) => "not counted",
            Verdict::DeadLetter(_) => "dead letter",
        };
        *said.entry(kind).or_default() += 1;
        for beside in judged.beside {
            match beside {
                Beside::Usage(event) => packer.add_beside(event, &mut slices),
                Beside::Fact(fact) => packer.add_fact_beside(*fact, &mut slices),
                Beside::DeadLetter(_) | Beside::Object(_) | Beside::Digest(_) => {}
            }
        }
        Ok::<(), std::convert::Infallible>(())
    })
    .expect("bytes in memory can be read");
    slices.extend(packer.flush());
    let of = |kind| said.get(kind).copied().unwrap_or_default();
    assert_eq!(found.read, said.values().sum::<u64>(), "each record has one verdict");
    assert_eq!(found.not_counted.values().sum::<u64>(), of("not counted"));
    assert_eq!(found.dead_letters.values().sum::<u64>(), of("dead letter"));
    (slices, said)
}

/// The front door: read twice it says the same, the balance holds, and what it packs survives the stream.
fn object(name: &str, input: &[u8]) {
    let (slices, said) = read(name, input);
    let again = read(name, input);
    assert!((&slices, &said) == (&again.0, &again.1), "a second reading says something else");
    for slice in &slices {
        let sent = stream_format::encode(std::slice::from_ref(slice));
        let received = stream_format::decode(&sent).expect("what is written can be read");
        assert!(received.as_slice() == std::slice::from_ref(slice), "a slice does not survive the stream");
    }
}

/// As an export, whatever its header was.
fn focus(input: &[u8]) {
    const HEADER: &[u8] = b"BilledCost,BillingAccountId,BillingPeriodEnd,BillingPeriodStart,ChargeCategory,ChargeClass,\
        ChargeDescription,ChargePeriodEnd,ChargePeriodStart,ConsumedQuantity,ConsumedUnit,ProviderName,RegionId,ResourceId,\
        ServiceName,SkuId,SubAccountId,Tags,x_UsageType\n";
    let rows = input.iter().position(|byte| *byte == b'\n').map_or(input, |end| &input[end + 1..]);
    object("20261102T010000Z-focus.csv", &[HEADER, rows].concat());
    object("focus.csv", input);
}

fn object_name(input: &[u8]) {
    with_text(input, |text| {
        if let Some(object) = NamedObject::of_name(text) {
            assert_eq!(NamedObject::of_name(&object.name()), Some(object), "a name names one object");
        }
        if let Ok(partition) = Partition::parse(text) {
            assert_eq!(partition.to_string(), text, "a log has one name");
        }
    });
}

fn stream(input: &[u8]) {
    if let Ok(slices) = stream_format::decode(input) {
        let again = stream_format::decode(&stream_format::encode(&slices)).expect("what is written can be read");
        assert!(again == slices, "slices do not survive the stream");
    }
}

/// An entry's item, written as DynamoDB writes JSON.
fn entry(input: &[u8]) {
    let Ok(Value::Object(members)) = serde_json::from_slice(input) else { return };
    let Some(item) = members.iter().map(|(name, value)| Some((name.clone(), attribute(value)?))).collect() else {
        return;
    };
    let Ok(entry) = entry_of_item(&item) else { return };
    let partition = Partition::parse("07/2026-10-01T13").expect("a partition");
    let again = entry_of_item(&item_of_entry(&partition, &entry));
    assert!(again.as_ref().ok() == Some(&entry), "an entry does not survive the table: {entry:?}, {again:?}");
}

fn attribute(value: &Value) -> Option<AttributeValue> {
    let (kind, value) = value.as_object()?.iter().next()?;
    Some(match (kind.as_str(), value) {
        ("S", Value::String(text)) => AttributeValue::S(text.clone()),
        ("N", Value::String(digits)) => AttributeValue::N(digits.clone()),
        ("B", Value::String(base64)) => AttributeValue::B(Blob::new(STANDARD.decode(base64).ok()?)),
        ("L", Value::Array(list)) => AttributeValue::L(list.iter().map(attribute).collect::<Option<_>>()?),
        ("M", Value::Object(members)) => AttributeValue::M(
            members.iter().map(|(name, value)| Some((name.clone(), attribute(value)?))).collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}

/// An evidence file, as the customer's recount reads it and as the program reads it again.
fn evidence(input: &[u8]) {
    drop(evidence_file::EvidenceFile::parse(input));
    let log = MemoryLog::default();
    drop(identities(&log, input, &Meters::built_in()).now_or_never().expect("logs in memory never wait"));
}

/// The naive recount and the product: the same events, whole objects of CloudTrail that are JSON throughout, but for strings that
/// are not UTF-8. What is saved of damaged ones may differ: the product looks for the next record in more ways.
fn recount(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if serde_json::Deserializer::from_str(&text).into_iter::<Value>().any(|value| value.is_err()) {
        return;
    }
    const NAME: &str = "111122223333_CloudTrail_us-east-1_20261001T1240Z_Ab3d.json.gz";
    let mut naive = Recount::default();
    naive.add_object(NAME, input, now().micros());
    let (slices, _) = read(NAME, input);
    let mut counted = BTreeMap::<(String, String), BTreeSet<[u8; 16]>>::new();
    for group in
        slices.iter().flat_map(ingest::Slice::groups).filter(|group| group.counter.meter == Meter::CloudTrailEvents)
    {
        let place = (group.counter.account.to_string(), group.first.hour().to_string());
        counted.entry(place).or_default().extend(group.identities.iter().map(|identity| *identity.as_bytes()));
    }
    let totals = naive.totals().into_iter().filter(|(line, _)| line.meter == "cloudtrail_events");
    let totals: BTreeMap<(String, String), u64> =
        totals.map(|(line, total)| ((line.account, line.hour), total)).collect();
    let counted = counted.into_iter().map(|(place, identities)| (place, identities.len() as u64)).collect();
    assert_eq!(totals, counted, "the recount and the product differ");
}
