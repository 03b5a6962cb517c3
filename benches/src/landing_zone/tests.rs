use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::*;

fn zone() -> LandingZone {
    let from = DateTime::parse_from_rfc3339("2026-10-01T00:00:00Z").unwrap().to_utc();
    LandingZone {
        events: 2_000,
        findings_each: 6,
        evaluations_each: 40,
        faults: true,
        ..LandingZone::new(5, 2, from, 14)
    }
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn text(content: &[u8]) -> String {
    let mut text = String::new();
    if content.starts_with(&[0x1f, 0x8b]) {
        MultiGzDecoder::new(content).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(content.to_vec()).unwrap();
    }
    text
}

fn lines(content: &[u8]) -> Vec<Value> {
    text(content).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

type Usage = BTreeMap<(String, String), u128>;

/// What the answer says of a meter, by account and hour as text.
fn answered(answer: &Answer, meter: &str) -> Usage {
    let of_meter = answer.usage.iter().filter(|(key, _)| key.meter == meter);
    of_meter
        .map(|(key, quantity)| {
            ((key.account.clone(), crate::cloudtrail::instant(key.hour * 3600)[..13].to_owned()), *quantity)
        })
        .collect()
}

fn hour_of(value: &Value) -> String {
    value.as_str().unwrap()[..13].to_owned()
}

#[test]
fn the_same_landing_zone_is_the_same_byte_for_byte_and_another_seed_differs() {
    let zone = || LandingZone { days: 2, ..zone() };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let answer = write(folders[0].path(), &zone()).unwrap();
    assert_eq!(write(folders[1].path(), &zone()).unwrap(), answer);
    assert_eq!(files(folders[0].path()), files(folders[1].path()));
    let other = write(folders[2].path(), &LandingZone { seed: 6, ..zone() }).unwrap();
    assert_ne!(other.usage, answer.usage);
    assert_eq!(write(folders[0].path(), &zone()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let odd = LandingZone { from: zone().from + chrono::TimeDelta::hours(1), ..zone() };
    assert_eq!(write(folders[0].path(), &odd).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_answer_is_what_a_naive_look_at_the_files_gives() {
    let folder = tempfile::tempdir().unwrap();
    let answer = write(folder.path(), &zone()).unwrap();
    let files = files(folder.path());
    let file = |name: &str| &files[Path::new(name)];

    // Findings: by account and id, whatever the form and however often.
    let mut findings = BTreeMap::new();
    let mut deliveries = 0;
    let api: Value = serde_json::from_str(&text(file("events/guardduty/get-findings.json"))).unwrap();
    let envelopes = lines(file("events/guardduty/eventbridge.jsonl"));
    let exported = lines(file("events/guardduty/export.jsonl.gz"));
    let forms = envelopes
        .iter()
        .map(|envelope| &envelope["detail"])
        .chain(&exported)
        .chain(api["Findings"].as_array().unwrap());
    for finding in forms {
        let either = |a: &str, b: &str| if finding[a].is_null() { finding[b].clone() } else { finding[a].clone() };
        let key = (either("accountId", "AccountId"), either("id", "Id").to_string());
        let created = hour_of(&either("createdAt", "CreatedAt"));
        let known = findings.insert(key.1, (key.0.as_str().unwrap().to_owned(), created.clone()));
        assert!(known.is_none_or(|(_, hour)| hour == created), "a finding was made once");
        deliveries += 1;
    }
    let mut usage = Usage::new();
    findings.values().for_each(|place| *usage.entry(place.clone()).or_default() += 1);
    assert_eq!(usage, answered(&answer, "guardduty_findings"));
    assert_eq!(findings.len(), 2 * 2 * 6);
    assert!(findings.len() * 3 < deliveries, "{deliveries} deliveries");

    // Evaluations: by rule, resource and time.
    let mut evaluations = BTreeMap::new();
    for invocation in lines(file("events/config/rule-invocations.jsonl.gz")) {
        let invoking: Value = serde_json::from_str(invocation["invokingEvent"].as_str().unwrap()).unwrap();
        let account = invocation["accountId"].as_str().unwrap().to_owned();
        let at = hour_of(&invoking["notificationCreationTime"]);
        evaluations.insert(invoking["configurationItem"]["resourceId"].to_string(), (account, at));
    }
    let mut usage = Usage::new();
    evaluations.into_values().for_each(|place| *usage.entry(place).or_default() += 1);
    assert_eq!(usage, answered(&answer, "config_rule_evaluations"));

    // Samples: the highest revision of each resource and time.
    let mut samples = BTreeMap::<(String, String, String, String), (u64, u128)>::new();
    let mut read = 0;
    for (name, content) in files.iter().filter(|(name, _)| name.starts_with("samples")) {
        let events: Vec<Value> = serde_json::from_slice(content).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        for event in events {
            read += 1;
            let part = |value: &Value| value.as_str().unwrap().to_owned();
            let key =
                (part(&event["type"]), part(&event["subject"]), part(&event["data"]["resource"]), part(&event["time"]));
            let told = (event["data"]["revision"].as_u64().unwrap(), part(&event["data"]["value"]).parse().unwrap());
            let known = samples.entry(key).or_insert(told);
            *known = told.max(*known);
        }
    }
    assert_eq!(read, answer.records["samples"]);
    let mut usage = Usage::new();
    for ((meter, account, _, time), (_, bytes)) in &samples {
        if meter == "nat_gateway_bytes" {
            *usage.entry((account.clone(), time[..13].to_owned())).or_default() += bytes;
        }
    }
    assert_eq!(usage, answered(&answer, "nat_gateway_bytes"));
    let stored = answered(&answer, "log_storage_gb");
    assert_eq!(stored.len(), 2 * 2 * 14 * 24, "every hour of every account has storage");
    let first = zone().account(0);
    let of_hour = |day: u32| stored[&(first.clone(), format!("2026-10-{day:02}T05"))];
    assert!(of_hour(12) < of_hour(9), "one bucket is silent for days");

    // The export: the second edition whole, and nothing of the others.
    let exports: Vec<_> = files.iter().filter(|(name, _)| name.starts_with("focus")).collect();
    assert_eq!(exports.len(), 3);
    let mut usage = Usage::new();
    for row in csv::Reader::from_reader(&text(exports[1].1).as_bytes()[3..]).deserialize() {
        let row: BTreeMap<String, String> = row.unwrap();
        if row["ConsumedUnit"] == "GB" {
            let (units, decimals) = row["ConsumedQuantity"].split_once('.').unwrap();
            let scaled: u128 = format!("{units}{decimals}").parse().unwrap();
            let bytes = scaled * (1 << 30) / 1_000_000_000_000_000;
            let place = (row["SubAccountId"].clone(), row["ChargePeriodStart"][..13].replace(' ', "T"));
            *usage.entry(place).or_default() += bytes;
        }
    }
    assert_eq!(usage, answered(&answer, "data_transfer_bytes"));

    // Notices name everything in the bucket of logs once.
    let mut keys = BTreeSet::new();
    let mut notices = 0;
    for (_, content) in files.iter().filter(|(name, _)| name.starts_with("notices")) {
        let batch: Value = serde_json::from_slice(content).unwrap();
        for message in batch["Records"].as_array().unwrap() {
            let body: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
            let inner: Value =
                body["Message"].as_str().map_or(body.clone(), |text| serde_json::from_str(text).unwrap());
            let of_s3 = inner["Records"][0]["s3"]["object"]["key"].as_str();
            keys.insert(of_s3.or(inner["detail"]["object"]["key"].as_str()).unwrap().to_owned());
            notices += 1;
        }
    }
    let in_bucket: BTreeSet<String> = files
        .keys()
        .filter_map(|name| name.strip_prefix(TRAIL_BUCKET).ok())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    assert_eq!(keys, in_bucket);
    assert_eq!((notices, in_bucket.len() as u64), (answer.records["notices"], answer.log_objects + answer.digests));
    assert_eq!(answer.customers.iter().map(|customer| customer.accounts.len()).sum::<usize>(), 4);
    assert_eq!(answer.accounts.len(), 6);
}
