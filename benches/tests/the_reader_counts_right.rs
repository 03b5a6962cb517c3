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
