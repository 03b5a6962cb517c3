//! Slices of a log that cannot be trusted, and records of the stream that nobody could read: set aside, and counted once what
//! was wrong is put right, each event once however often it comes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::ops::Range;

use aggregator::acknowledgement::Acknowledgements;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kinesis::primitives::Blob;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ingest::dead_letter::{DeadLetter, DeadLetters};
use ingest::kinesis::partition_key;
use ingest::{Reason, Rules, Run, RunId, SliceId, Timestamp, read_object, stream_format};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::aws::config;
use crate::events::{ACCOUNT, object};
use crate::support::{Serving, Site, block_on, until};

/// The name of the stream, and what the tables' names begin with.
pub(crate) const NAME: &str = "securebase";
const MONTH: &str = "2024-03";

/// The letters as a list has them.
pub(crate) fn letters(site: &Site, options: &[&str]) -> Vec<Value> {
    let answer = site.json([["dead-letters", "list"].as_slice(), options].concat());
    answer["dead_letters"].as_array().unwrap().clone()
}

fn outcome(replayed: &Value) -> [&Value; 5] {
    ["resolved", "still_open", "read", "counted", "duplicates"].map(|name| &replayed[name])
}

/// The exit code of a close, and what is missing by it.
fn close(site: &Site) -> (i32, String) {
    let ran = site.run(["close", "--period", MONTH, "--json"]);
    let closed: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    (ran.code.unwrap(), closed["closes"][0]["missing"].to_string())
}

/// Where a served home answers.
fn endpoint(site: &Site, service: &str) -> String {
    let text = fs::read(site.home().join("endpoints.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()[service].as_str().unwrap().to_owned()
}

/// The tables of a served home.
pub(crate) fn dynamodb(site: &Site) -> Client {
    Client::new(&config(&endpoint(site, "dynamodb")))
}

/// Puts a record on the stream of a served home.
fn put(site: &Site, key: &str, body: &[u8]) {
    let kinesis = aws_sdk_kinesis::Client::new(&config(&endpoint(site, "kinesis")));
    let put = kinesis.put_record().stream_name(NAME).partition_key(key).data(Blob::new(body));
    block_on(put.send()).unwrap();
}

/// The first entry of every log of counts.
fn first_entries(client: &Client) -> Vec<HashMap<String, AttributeValue>> {
    let page = block_on(client.scan().table_name(format!("{NAME}-commit-log")).consistent_read(true).send()).unwrap();
    assert!(page.last_evaluated_key.is_none());
    let is_first = |item: &HashMap<_, AttributeValue>| {
        item["version"].as_n().unwrap() == "1" && item["partition"].as_s().unwrap().contains("2024-03-05T")
    };
    page.items.unwrap().into_iter().filter(is_first).collect()
}

/// What is kept of a letter.
fn kept(site: &Site, id: &str) -> Vec<u8> {
    let ran = site.run(["dead-letters", "export", id]);
    let exported: Value = serde_json::from_str(ran.succeeded().out.lines().last().unwrap()).unwrap();
    STANDARD.decode(exported["record"].as_str().unwrap()).unwrap()
}

/// A served home with the account's owner.
pub(crate) fn served() -> (Site, Serving) {
    let site = Site::new();
    site.add_customer("acme", "standard");
    site.register(ACCOUNT, "acme", "2024-01-01T00:00:00Z");
    let serving = site.serve();
    (site, serving)
}

#[test]
fn slices_of_a_log_with_a_gap_count_once_when_it_is_filled_however_often_they_come() {
    let (site, serving) = served();
    for (name, numbers) in [("a.json", 0..40), ("b.json", 40..60)] {
        site.json(["replay", &site.write(&format!("logs/{name}"), &object(numbers))]);
    }
    let client = dynamodb(&site);
    let lost = first_entries(&client);
    let [lost] = lost.as_slice() else { panic!("{lost:?}") };
    let delete = client.delete_item().table_name(format!("{NAME}-commit-log"));
    let key = |name: &str| Some((name.to_owned(), lost[name].clone()));
    let delete = delete.set_key(Some([key("partition"), key("version")].into_iter().flatten().collect()));
    block_on(delete.send()).unwrap();
    // Whoever starts now reads the log from its beginning.
    serving.end_by(Signal::SIGTERM).succeeded();
    let _serving = site.serve();

    // Half of it is known: the log that would say so cannot be trusted.
    let log = site.write("logs/c.json", &object(30..100));
    let parked = site.json(["replay", &log]);
    assert_eq!((&parked["read"], &parked["counted"]), (&json!(70), &json!(0)), "{parked}");
    assert_eq!(parked["dead_letters"], json!({ "partition_untrusted": 70 }), "{parked}");
    let open = letters(&site, &[]);
    let [letter] = open.as_slice() else { panic!("{open:?}") };
    let (id, name) = (letter["id"].as_str().unwrap(), letter["object"].as_str().unwrap());
    let slice = SliceId::of_letter_name(name).unwrap();
    assert_eq!(letter["reason"], "partition_untrusted");
    let (code, missing) = close(&site);
    assert_eq!(code, 3, "{missing}");
    assert!(missing.contains("cannot be trusted") && missing.contains(id), "{missing}");

    // Nothing is put right: the same letter stays open, and no other does.
    for _ in 0..2 {
        let again = site.json(["dead-letters", "replay", id]);
        assert_eq!(outcome(&again), [&json!(0), &json!(1), &json!(70), &json!(0), &json!(0)], "{again}");
        assert_eq!(again["still_open_by_reason"], json!({ "partition_untrusted": 1 }));
        assert_eq!(letters(&site, &[]), open);
    }
    assert_eq!(site.counted(), 60);

    let client = dynamodb(&site);
    let filled = client.put_item().table_name(format!("{NAME}-commit-log")).set_item(Some(lost.clone()));
    block_on(filled.send()).unwrap();
    let body = kept(&site, id);
    let fixed = site.json(["dead-letters", "replay", id]);
    assert_eq!(outcome(&fixed), [&json!(1), &json!(0), &json!(70), &json!(40), &json!(30)], "{fixed}");
    assert_eq!(site.counted(), 100);
    assert!(letters(&site, &[]).is_empty());
    assert!(site.run(["dead-letters", "replay", id]).refusal().contains("no open dead letter"));
    // The record that was on the stream comes once more, as it was.
    let [original] = stream_format::decode(&body).unwrap().try_into().unwrap();
    assert_eq!(original.id, slice);
    put(&site, &partition_key(original.bucket), &body);
    let acknowledgements = Acknowledgements::new(client, format!("{NAME}-acknowledgements"), || 0);
    until("the slice is acknowledged as counted", || {
        block_on(acknowledgements.of_run(slice.run)).unwrap().slices[&slice.number].parked == 0
    });
    assert_eq!(site.counted(), 100);
    assert!(letters(&site, &[]).is_empty(), "nothing is set aside again");

    // The month closes, and its evidence names what the slice was read from.
    assert_eq!(close(&site), (0, "[]".to_owned()));
    let evidence = site.path("evidence").to_str().unwrap().to_owned();
    site.run(["evidence", "export", "--period", MONTH, "--customer", "acme", "--out", &evidence]).succeeded();
    let text = fs::read_to_string(&evidence).unwrap();
    assert!(text.contains("/c.json") && !text.contains(r#""name":"slice:"#), "{text}");
    let letter = text.lines().find(|line| line.contains(id)).unwrap();
    assert!(letter.contains("/c.json") && letter.contains(r#""state":"resolved""#), "{letter}");
    let logs = site.path("logs").to_str().unwrap().to_owned();
    site.run(["verify", "--evidence", &evidence, &logs]).succeeded();
}

#[test]
fn a_record_of_the_stream_counts_once_when_it_can_be_read() {
    let (site, _serving) = served();
    site.json(["replay", &site.write("a.json", &object(0..10))]);
    // What nobody can read stays set aside.
    put(&site, "07", b"no slice");
    until("it is set aside", || letters(&site, &[]).len() == 1);
    let again = site.json(["dead-letters", "replay"]);
    assert_eq!(outcome(&again), [&json!(0), &json!(1), &json!(0), &json!(0), &json!(0)], "{again}");
    assert_eq!(again["still_open_by_reason"], json!({ "slice_malformed": 1 }));

    // What an older program could not read, and this one can: slices of events of which half are known.
    let letter = DeadLetter {
        object: format!("stream:{NAME}/shardId-000000000000/49"),
        offset: 0,
        number: 0,
        reason: Reason::SliceMalformed,
        bytes: record_of_the_stream(5..15),
        is_whole: true,
        seen_at: Timestamp::parse_rfc3339("2026-11-22T08:00:00Z").unwrap(),
        resolved_at: None,
    };
    let id = letter.id();
    let store = DeadLetters::new(dynamodb(&site), format!("{NAME}-dead-letters"), || 0);
    block_on(store.put(std::slice::from_ref(&letter))).unwrap();
    let fixed = site.json(["dead-letters", "replay", &id]);
    assert_eq!(outcome(&fixed), [&json!(1), &json!(0), &json!(10), &json!(5), &json!(5)], "{fixed}");
    assert!(site.run(["dead-letters", "replay", &id]).refusal().contains("no open dead letter"));
    assert_eq!((site.counted(), letters(&site, &[]).len()), (15, 1));
    // Set aside by whoever reads the stream again, it is the letter that is resolved.
    block_on(store.put(&[letter])).unwrap();
    assert_eq!((site.counted(), letters(&site, &[]).len()), (15, 1));
}

/// Events as a reading of them puts them on the stream.
fn record_of_the_stream(numbers: Range<u32>) -> Vec<u8> {
    let now = Timestamp::parse_rfc3339("2026-11-22T08:00:00Z").unwrap();
    let mut run = Run::new(RunId::from_bytes([7; 16]), "b.json".to_owned(), None, now);
    let log = object(numbers);
    let found =
        read_object("b.json", log.as_slice(), Rules::at(now), |judged| run.take(judged, |_| Ok::<_, Infallible>(None)));
    stream_format::encode(&run.end(found.unwrap()).slices)
}
