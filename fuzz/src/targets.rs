//! Every reader of outside bytes, with what must hold whatever it is given: it comes to an end, and what it says is sound.
//!
//! Compiled into the fuzzer, and into an ordinary test that replays the seeds.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::acknowledgement::{self, Acknowledgement, Unswept};
use aggregator::close::identities;
use aggregator::dynamodb_log::{entry_of_item, item_of_entry};
use aggregator::entry::CommitId;
use aggregator::fold::Tally;
use aggregator::memory_log::MemoryLog;
use aggregator::partition::Partition;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use billing::RateCard;
use futures::FutureExt as _;
use ingest::dead_letter::{DeadLetter, items_of_letter, letter_of_items};
use ingest::digest::{Digest, TrailSource};
use ingest::dynamodb::Item;
use ingest::expectations::{digests_of_items, items_of_digest};
use ingest::manifest::{item_of_manifest, manifest_of_item};
use ingest::notice::NamedObject;
use ingest::{
    AccountId, Beside, Declarations, Delivered, Meter, Meters, Packer, Rules, RunId, SliceId, Timestamp, Verdict,
    read_object, sample, stream_format,
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
    target("acknowledgements", &["fuzz/corpus/acknowledgements"], acknowledgements),
    target("markers", &["fuzz/corpus/markers"], markers),
    target("manifest", &["fuzz/corpus/manifest"], manifest),
    target("dead-letter", &["fuzz/corpus/dead-letter"], dead_letter),
    target("expectations", &["fuzz/corpus/expectations"], expectations),
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
    let Ok(value) = serde_json::from_slice(input) else { return };
    let Some(item) = item(&value) else { return };
    let Ok(entry) = entry_of_item(&item) else { return };
    let partition = Partition::parse("07/2026-10-01T13").expect("a partition");
    let again = entry_of_item(&item_of_entry(&partition, &entry));
    assert!(again.as_ref().ok() == Some(&entry), "an entry does not survive the table: {entry:?}, {again:?}");
}

/// Acknowledgements of one run, as a list of items.
fn acknowledgements(input: &[u8]) {
    let Some(items) = items(input) else { return };
    let run = RunId::from_bytes([1; 16]);
    let Ok(found) = acknowledgement::collect(run, &items) else { return };
    let said: Vec<_> = found.slices.values().cloned().collect();
    for bytes_max in [1, acknowledgement::ITEM_BYTES_MAX] {
        let written = acknowledgement::items(CommitId([2; 16]), &said, bytes_max);
        let again = acknowledgement::collect(run, &written).expect("what is written can be read");
        assert!(again.slices == found.slices, "acknowledgements do not survive the table: {found:?}, {again:?}");
    }
}

/// What a sweep has to look at, as a list of items.
fn markers(input: &[u8]) {
    let Some(items) = items(input) else { return };
    let Ok(found) = Unswept::of_markers(&items) else { return };
    let said = Acknowledgement {
        slice: SliceId { run: RunId::from_bytes([1; 16]), number: 0 },
        tally: Tally::default(),
        parked: 0,
        units: 0,
        through: found.partitions.clone().into_iter().collect(),
    };
    for bytes_max in [1, acknowledgement::ITEM_BYTES_MAX] {
        let written = acknowledgement::markers(CommitId([2; 16]), std::slice::from_ref(&said), bytes_max);
        let again = Unswept::of_markers(&written).expect("what is written can be read");
        assert!(again.partitions == found.partitions, "markers do not survive the table: {found:?}, {again:?}");
    }
}

fn manifest(input: &[u8]) {
    let Ok(value) = serde_json::from_slice(input) else { return };
    let Some(Ok(manifest)) = item(&value).map(|item| manifest_of_item(&item)) else { return };
    assert!(manifest.usage_events() <= manifest.read);
    let again = manifest_of_item(&item_of_manifest(&manifest));
    assert!(again.as_ref().ok() == Some(&manifest), "a manifest does not survive the table: {manifest:?}, {again:?}");
}

/// One dead letter, as a list of its parts.
fn dead_letter(input: &[u8]) {
    let Some(Ok(Some(letter))) = items(input).map(|items| letter_of_items(&items)) else { return };
    let letter = DeadLetter { resolved_at: None, ..letter };
    let (head, rest) = items_of_letter(&letter);
    let again = letter_of_items(&[vec![head], rest].concat());
    assert!(again.as_ref().ok() == Some(&Some(letter)), "a dead letter does not survive the table: {again:?}");
}

/// The digests of one source, as a list of items.
fn expectations(input: &[u8]) {
    let account = AccountId::parse("111122223333").expect("12 digits");
    let source = TrailSource { account, region: "us-east-1".to_owned(), trail: "trail".to_owned() };
    let Some(Ok(digests)) = items(input).map(|items| digests_of_items(&source, &items)) else { return };
    for digest in digests {
        let written: Vec<Item> = items_of_digest(&digest).into_iter().map(|(_, item)| item).collect();
        let again = digests_of_items(&source, &written);
        assert!(again.as_ref().ok() == Some(&vec![digest]), "a digest does not survive the table: {again:?}");
    }
}

/// A list of items, written as DynamoDB writes JSON.
fn items(input: &[u8]) -> Option<Vec<Item>> {
    let Ok(Value::Array(items)) = serde_json::from_slice(input) else { return None };
    items.iter().map(item).collect()
}

fn item(value: &Value) -> Option<Item> {
    value.as_object()?.iter().map(|(name, value)| Some((name.clone(), attribute(value)?))).collect()
}

fn attribute(value: &Value) -> Option<AttributeValue> {
    let (kind, value) = value.as_object()?.iter().next()?;
    Some(match (kind.as_str(), value) {
        ("S", Value::String(text)) => AttributeValue::S(text.clone()),
        ("N", Value::String(digits)) => AttributeValue::N(digits.clone()),
        ("B", Value::String(base64)) => AttributeValue::B(Blob::new(STANDARD.decode(base64).ok()?)),
        ("BOOL", Value::Bool(value)) => AttributeValue::Bool(*value),
        ("NS", Value::Array(all)) => {
            AttributeValue::Ns(all.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>()?)
        }
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
