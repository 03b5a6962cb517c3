//! The reader of log objects against answers that were known before it read: the fixtures and generated objects.

#![expect(clippy::unwrap_used, reason = "a failed read fails the test, also in a helper")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use benches::cloudtrail::{Answer, Plan, Row};
use ingest::{Rules, Timestamp, Verdict, read_object};
use serde::Deserialize;

/// One file's part of `fixtures/cloudtrail/expected.json`.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
struct Outcome {
    read: u64,
    counted: u64,
    duplicates: u64,
    not_counted: BTreeMap<String, u64>,
    dead_letters: BTreeMap<String, u64>,
    rows: BTreeSet<Quantity>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Quantity {
    account: String,
    hour: String,
    category: String,
    quantity: String,
}

#[derive(Deserialize)]
struct Expected {
    now: String,
    files: BTreeMap<String, Outcome>,
}

fn fixtures() -> (PathBuf, Expected) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cloudtrail");
    let expected = fs::read(folder.join("expected.json")).unwrap();
    (folder, serde_json::from_slice(&expected).unwrap())
}

/// Reads an object and dedupes as the rules say: per account, identity and hour; the first copy sets the category.
fn outcome(name: &str, stored: impl Read, now: Timestamp) -> Outcome {
    let mut seen = BTreeSet::new();
    let mut rows: BTreeMap<_, u64> = BTreeMap::new();
    let mut duplicates = 0;
    let found = read_object(name, stored, Rules::at(now), |judged| {
        if let Verdict::Usage(event) = &judged.verdict {
            let (account, hour) = (event.account.to_string(), event.event_time.hour());
            if seen.insert((account.clone(), format!("{:?}", event.identity), hour)) {
                let category = event.dimensions.category.to_string();
                *rows.entry((account, format!("{hour}:00:00Z"), category)).or_default() += 1;
            } else {
                duplicates += 1;
            }
        }
        Ok::<(), Infallible>(())
    })
    .unwrap();
    let rows = rows.into_iter().map(|((account, hour, category), n)| Quantity {
        account,
        hour,
        category,
        quantity: n.to_string(),
    });
    Outcome {
        read: found.read,
        counted: seen.len().try_into().unwrap(),
        duplicates,
        not_counted: found.not_counted.iter().map(|(kind, n)| (kind.to_string(), *n)).collect(),
        dead_letters: found.dead_letters.iter().map(|(reason, n)| (reason.to_string(), *n)).collect(),
        rows: rows.collect(),
    }
}

/// A store that gives three bytes at a time: no boundary of a read may change what is read.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(3);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn every_fixture_gives_what_is_expected_however_its_bytes_arrive() {
    let (folder, expected) = fixtures();
    let now = Timestamp::parse_rfc3339(&expected.now).unwrap();
    let mut wrong = Vec::new();
    for (name, outcome_expected) in &expected.files {
        let stored = fs::read(folder.join(name)).unwrap();
        for got in [outcome(name, stored.as_slice(), now), outcome(name, Trickle(&stored), now)] {
            if got != *outcome_expected {
                wrong.push(format!("{name}:\n  expected {outcome_expected:?}\n  got      {got:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(expected.files.len() > 90, "the fixtures are there");
}

#[test]
fn generated_objects_give_the_generators_own_answer() {
    let from = chrono::DateTime::from_timestamp(1_790_812_800, 0).unwrap();
    let plan = Plan { duplicates_percent: 5, late_percent: 5, ..Plan::new(11, 10_000, 7, from, 48) };
    let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
    let mut answer = Answer::default();
    let mut seen = BTreeSet::new();
    let mut rows: BTreeMap<_, u64> = BTreeMap::new();
    let mut duplicates = 0;
    for k in 0..plan.file_count() {
        let mut text = String::new();
        plan.write_records(k, &mut text, &mut answer);
        let found = read_object(&plan.log_object(k).key, text.as_bytes(), Rules::at(now), |judged| {
            let Verdict::Usage(event) = &judged.verdict else { panic!("{:?}", judged.verdict) };
            let (account, hour) = (event.account.to_string(), event.event_time.hour());
            if seen.insert((account.clone(), format!("{:?}", event.identity))) {
                let dimensions = (event.dimensions.region.to_string(), event.dimensions.category.to_string());
                *rows.entry((account, hour.number(), dimensions)).or_default() += 1;
            } else {
                duplicates += 1;
            }
            Ok::<(), Infallible>(())
        });
        found.unwrap();
    }
    let named = |(row, n): (&Row, &u64)| {
        ((row.account.clone(), row.hour, (row.region.to_owned(), row.category.to_owned())), *n)
    };
    assert_eq!(rows, answer.rows.iter().map(named).collect());
    assert_eq!((duplicates, answer.duplicates), (500, 500));
}

/// What the naive recount makes of an object, in the same words.
fn recounted(name: &str, stored: &[u8], now: Timestamp) -> Outcome {
    let mut recount = reference::Recount::default();
    recount.add_object(name, stored, now.micros());
    let said = |all: &BTreeMap<&'static str, u64>| all.iter().map(|(word, n)| ((*word).to_owned(), *n)).collect();
    let mut rows = BTreeMap::<(String, String), u64>::new();
    for (line, total) in recount.totals() {
        *rows.entry((line.account, line.hour)).or_default() += total;
    }
    Outcome {
        read: recount.read,
        counted: recount.counted(),
        duplicates: recount.duplicates,
        not_counted: said(&recount.not_counted),
        dead_letters: said(&recount.dead_letters),
        // All meters together, without categories, of which the recount keeps none.
        rows: rows
            .into_iter()
            .map(|((account, hour), total)| Quantity {
                account,
                hour: format!("{hour}:00:00Z"),
                category: String::new(),
                quantity: total.to_string(),
            })
            .collect(),
    }
}

/// Every string of a record in turn, key or value, with something in it that is no text.
fn spoilt(record: &str, with: &[u8]) -> Vec<Vec<u8>> {
    let ends = record.match_indices('"').map(|(at, _)| at).skip(1).step_by(2);
    ends.map(|end| [&record.as_bytes()[..end], with, &record.as_bytes()[end..]].concat()).collect()
}

#[test]
fn what_is_no_text_is_judged_by_the_reader_as_by_the_naive_recount() {
    const NAME: &str = "111122223333_CloudTrail_us-east-1_20261001T1240Z_Ab3d.json";
    let now = Timestamp::parse_rfc3339("2026-10-01T13:00:00Z").unwrap();
    let id = "49dfd327-5991-4a6e-9e1c-0123456789ab";
    let event = |id: &str, source: &str, name: &str, more: &str| {
        format!(
            r#"{{"eventID":"{id}","eventTime":"2026-10-01T12:34:56Z","eventName":"{name}","eventSource":"{source}","eventType":"AwsApiCall","awsRegion":"eu-west-1","eventCategory":"Management","recipientAccountId":"111122223333","userIdentity":{{"accountId":"111122223333","arn":"a"}},"userAgent":"aws-cli","requestParameters":{{"x":["y"]}}{more}}}"#
        )
    };
    let finding = r#"{"accountId":"111122223333","id":"f","createdAt":"2026-10-01T12:00:00Z","arn":"arn:aws:guardduty:eu-central-1:1:detector/d/finding/f","title":"t"}"#;
    let records = [
        event(id, "s3.amazonaws.com", "ListBuckets", ""),
        event("no-uuid", "s3.amazonaws.com", "ListBuckets", ""),
        event(id, "organizations.amazonaws.com", "CloseAccount", ""),
        event(id, "s3.amazonaws.com", "ListBuckets", r#","Records":"none""#),
        format!(r#"{{"detail-type":"GuardDuty Finding","source":"aws.guardduty","detail":{finding}}}"#),
        format!(
            r#"{{"detail-type":"AWS API Call via CloudTrail","source":"aws.s3","account":"111122223333","detail":{}}}"#,
            event(id, "s3.amazonaws.com", "ListBuckets", "")
        ),
        finding.to_owned(),
        r#"{"digestStartTime":"a","logFiles":["b"]}"#.to_owned(),
        r#""text""#.to_owned(),
    ];
    let mut counted = 0;
    for record in &records {
        for with in [&b"\xff"[..], b"\xc3", b"\\ud800"] {
            for spoilt in spoilt(record, with) {
                // Beside one that is whole, which must not suffer.
                let whole = event("59dfd327-5991-4a6e-9e1c-0123456789ab", "s3.amazonaws.com", "ListBuckets", "");
                let object = [b"{\"Records\":[", &spoilt[..], b",", whole.as_bytes(), b"]}"].concat();
                let mut found = outcome(NAME, object.as_slice(), now);
                let rows = std::mem::take(&mut found.rows);
                let mut by_hour = BTreeMap::<(String, String), u64>::new();
                for row in rows {
                    *by_hour.entry((row.account, row.hour)).or_default() += row.quantity.parse::<u64>().unwrap();
                }
                found.rows = by_hour
                    .into_iter()
                    .map(|((account, hour), n)| Quantity {
                        account,
                        hour,
                        category: String::new(),
                        quantity: n.to_string(),
                    })
                    .collect();
                assert_eq!(found, recounted(NAME, &object, now), "{}", String::from_utf8_lossy(&object));
                assert!((2, 1) <= (found.read, found.counted), "nothing is lost: {found:?}");
                counted += u64::from(found.counted == 2);
            }
        }
    }
    assert!(10 < counted, "what does not decide does no harm: {counted}");
}
