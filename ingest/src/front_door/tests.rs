use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::inflate::{INFLATE_RATIO_MAX, INFLATED_BYTES_FREE};
use crate::{ObjectRead, Reason, Rules, Timestamp, Verdict, read_object};

/// What a delivery carries: a record, or further deliveries.
#[derive(Clone, Debug)]
enum Carried {
    /// An event, told from others by its number.
    Event(u16),
    NotRecognized,
    BadAccount(u16),
    Delivery(Wrapping, Vec<Carried>),
}

#[derive(Clone, Copy, Debug)]
enum Wrapping {
    Array,
    Queue,
    Topic,
    Logs,
    /// Several records in the data of one, as lines.
    Kinesis {
        gzip: bool,
    },
    Firehose {
        gzip: bool,
    },
}

/// What must be found: events by number, dead letters by reason, deliveries with nothing in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    events: BTreeMap<String, u64>,
    dead_letters: BTreeMap<Reason, u64>,
    empty: u64,
}

fn event(number: u16) -> Value {
    json!({
        "eventName": "X", "eventTime": "2026-10-01T12:00:00Z", "recipientAccountId": "111111111111",
        "eventID": format!("00000000-0000-4000-8000-{number:012}"),
    })
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

fn encoded(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn base64(content: &str, is_gzip: bool) -> String {
    if is_gzip { encoded(&gzip(content.as_bytes())) } else { encoded(content.as_bytes()) }
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

/// Wraps as AWS does, and says what is in it.
fn wrap(carried: &Carried, found: &mut Found) -> Value {
    let (wrapping, inside) = match carried {
        Carried::Event(number) => {
            *found.events.entry(format!("{number:012}")).or_default() += 1;
            return event(*number);
        }
        Carried::NotRecognized => {
            *found.dead_letters.entry(Reason::NotRecognized).or_default() += 1;
            return json!({ "hello": "world" });
        }
        Carried::BadAccount(number) => {
            *found.dead_letters.entry(Reason::AccountMalformed).or_default() += 1;
            let mut event = event(*number);
            event["recipientAccountId"] = json!("1111");
            return event;
        }
        Carried::Delivery(wrapping, inside) => (wrapping, inside),
    };
    found.empty += u64::from(inside.is_empty());
    let inside: Vec<Value> = inside.iter().map(|carried| wrap(carried, found)).collect();
    let each = |form: fn(String) -> Value| -> Vec<Value> { inside.iter().map(|one| form(one.to_string())).collect() };
    match wrapping {
        Wrapping::Array => json!({ "findings": inside }),
        Wrapping::Queue => json!({ "Findings": each(|text| json!({ "eventSource": "aws:sqs", "body": text })) }),
        Wrapping::Topic => {
            json!({ "Findings": each(|text| json!({ "EventSource": "aws:sns", "Sns": { "Message": text } })) })
        }
        Wrapping::Logs => {
            let messages = each(|text| json!({ "id": "1", "message": text }));
            let sent = json!({ "messageType": "DATA_MESSAGE", "logEvents": messages }).to_string();
            json!({ "awslogs": { "data": base64(&sent, true) } })
        }
        Wrapping::Kinesis { gzip } => json!({ "kinesis": { "data": base64(&lines(&inside), *gzip) } }),
        Wrapping::Firehose { gzip } => {
            let record = |one: &Value| json!({ "recordId": "1", "data": base64(&one.to_string(), *gzip) });
            json!({ "deliveryStreamArn": "a", "records": inside.iter().map(record).collect::<Vec<_>>() })
        }
    }
}

fn carried() -> impl Strategy<Value = Carried> {
    let leaf = prop_oneof![
        6 => (0_u16..20).prop_map(Carried::Event),
        1 => Just(Carried::NotRecognized),
        1 => (0_u16..20).prop_map(Carried::BadAccount),
    ];
    let wrapping = prop_oneof![
        Just(Wrapping::Array),
        Just(Wrapping::Queue),
        Just(Wrapping::Topic),
        Just(Wrapping::Logs),
        any::<bool>().prop_map(|gzip| Wrapping::Kinesis { gzip }),
        any::<bool>().prop_map(|gzip| Wrapping::Firehose { gzip }),
    ];
    // Three deliveries in each other come to at most eight layers.
    leaf.prop_recursive(3, 40, 5, move |inner| {
        (wrapping.clone(), prop::collection::vec(inner, 0..5))
            .prop_map(|(wrapping, inside)| Carried::Delivery(wrapping, inside))
    })
}

fn read(content: &[u8], mut each: impl FnMut(&Verdict<'_>, &[u8])) -> ObjectRead {
    let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
    let read = read_object("delivery", content, Rules::at(now), |judged| {
        each(&judged.verdict, judged.bytes);
        Ok::<_, Infallible>(())
    });
    read.unwrap()
}

proptest! {
    #[test]
    fn whatever_wraps_records_each_is_found_once_and_poison_touches_no_other(
        outermost in prop::collection::vec(carried(), 0..6),
    ) {
        let mut expected = Found::default();
        let delivery: Vec<Value> = outermost.iter().map(|carried| wrap(carried, &mut expected)).collect();
        let mut found = Found::default();
        let delivery = json!({ "Records": delivery }).to_string();
        let read = read(delivery.as_bytes(), |verdict, bytes| match verdict {
            Verdict::Usage(_) => {
                let event: Value = serde_json::from_slice(bytes).unwrap();
                let number = event["eventID"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
                *found.events.entry(number).or_default() += 1;
            }
            Verdict::DeadLetter(reason) => *found.dead_letters.entry(*reason).or_default() += 1,
            Verdict::NotCounted(crate::NotCounted::EmptyDelivery) => found.empty += 1,
            other => panic!("{other:?}"),
        });
        prop_assert_eq!(&found, &expected, "{}", delivery);
        let all = found.events.values().sum::<u64>() + found.dead_letters.values().sum::<u64>() + found.empty;
        prop_assert_eq!(read.read, all);
    }
}

#[test]
fn a_bomb_in_any_layer_is_one_dead_letter_and_its_neighbours_count() {
    // 100 MB of blanks, twice compressed.
    let blanks = gzip(&vec![b' '; 100 << 20]);
    let inner = json!({ "kinesis": { "data": encoded(&blanks) } }).to_string();
    for bomb in [
        json!({ "awslogs": { "data": encoded(&blanks) } }),
        json!({ "recordId": "1", "data": encoded(&blanks) }),
        json!({ "eventSource": "aws:sqs", "body": json!({ "kinesis": { "data": encoded(&blanks) } }).to_string() }),
        json!({ "awslogs": { "data": encoded(&gzip(inner.as_bytes())) } }),
    ] {
        let delivery = json!([event(1), bomb, event(2)]).to_string();
        let (mut usage, mut kept) = (0, Vec::new());
        let found = read(delivery.as_bytes(), |verdict, bytes| match verdict {
            Verdict::Usage(_) => usage += 1,
            _ => kept.push(bytes.len()),
        });
        assert_eq!((usage, found.dead_letters), (2, [(Reason::GzipBomb, 1)].into()));
        // What is kept is what carries it, not what it inflates to.
        assert!(kept[0] < 1 << 20, "{kept:?}");
    }
}

#[test]
fn many_bombs_in_one_delivery_share_what_it_may_inflate_to() {
    // Each of them alone stays below the limit.
    let one = gzip(&vec![b' '; 30 << 20]);
    let record = json!({ "data": encoded(&one) });
    let bombs = json!({ "requestId": "1", "records": vec![record; 12] }).to_string();
    let allowed = INFLATED_BYTES_FREE.max(bombs.len() as u64 * INFLATE_RATIO_MAX);
    let fit = allowed / (30 << 20);
    assert!((1..12).contains(&fit), "{fit}");
    let found = read(format!("[{},{bombs},{}]", event(1), event(2)).as_bytes(), |_, _| {});
    assert_eq!(found.dead_letters, [(Reason::GzipBomb, 12 - fit)].into());
    assert_eq!(found.read, 2 + 12);
}

#[test]
fn layers_without_end_and_elements_without_number_are_followed_only_so_far() {
    let mut wrapped = event(1).to_string();
    for _ in 0..12 {
        wrapped = json!({ "Sns": { "Message": wrapped } }).to_string();
    }
    let found = read(format!("[{},{wrapped},{}]", event(2), event(3)).as_bytes(), |_, _| {});
    assert_eq!((found.read, found.dead_letters), (3, [(Reason::WrappedTooDeep, 1)].into()));

    let brackets = format!("[{}1{}]", "[".repeat(50_000), "]".repeat(50_000));
    let found = read(format!("{}\n{brackets}\n{}\n", event(2), event(3)).as_bytes(), |_, _| {});
    assert_eq!((found.read, found.dead_letters), (3, [(Reason::NestedTooDeep, 1)].into()));

    const ELEMENTS: u64 = 400_000;
    let nothing = json!({ "Findings": [] }).to_string();
    let many = format!("[{}{}]", event(2), format!(",{nothing}").repeat(ELEMENTS as usize));
    let found = read(many.as_bytes(), |_, _| {});
    assert_eq!((found.read, found.not_counted.values().sum::<u64>()), (ELEMENTS + 1, ELEMENTS));
}
