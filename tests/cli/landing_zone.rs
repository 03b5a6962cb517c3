//! A month of a landing zone in every form it is delivered, read by the program: the generator's known answer, exactly.

use std::collections::BTreeMap;
use std::path::Path;

use benches::landing_zone::{self, Answer, DECLARED_FILE, LandingZone};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::support::Site;

type Rows = BTreeMap<(String, String), String>;

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The usage of a meter by account and hour, also behind the days that were asked for: accounts end when they do.
fn counted(site: &Site, meter: &str, answer: &Answer) -> Rows {
    let to = "2024-04-01T00:00:00Z";
    let words = ["usage", "--all", "--meter", meter, "--group-by", "account,hour", "--from", &answer.from, "--to", to];
    let shown = site.json(words);
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_else(|| panic!("{row}")).to_owned();
    let rows = shown["rows"].as_array().unwrap().iter();
    rows.map(|row| ((text(row, "account"), text(row, "hour")), text(row, "quantity"))).collect()
}

fn expected(answer: &Answer, meter: &str) -> Rows {
    let of_meter = answer.usage.iter().filter(|(key, _)| key.meter == meter);
    let hour =
        |hour: i64| DateTime::<Utc>::from_timestamp(hour * 3_600, 0).unwrap().format("%Y-%m-%dT%H:%M:%SZ").to_string();
    of_meter.map(|(key, quantity)| ((key.account.clone(), hour(key.hour)), quantity.to_string())).collect()
}

/// Every meter equals the answer, hour by hour.
fn check(site: &Site, answer: &Answer) {
    for (meter, total) in answer.totals() {
        let (found, right) = (counted(site, meter, answer), expected(answer, meter));
        let differing = |rows: &Rows, others: &Rows| {
            let other = rows.iter().filter(|(key, quantity)| others.get(*key) != Some(*quantity));
            other.take(5).map(|(key, quantity)| (key.clone(), quantity.clone())).collect::<Vec<_>>()
        };
        assert!(
            found == right,
            "{meter}, {total} in all: found {:?}, expected {:?}",
            differing(&found, &right),
            differing(&right, &found)
        );
    }
}

fn replay(site: &Site, month: &Path, what: &[&str]) -> Value {
    let path = |name: &str| month.join(name).to_str().unwrap().to_owned();
    let mut words = vec!["replay".to_owned(), "--sources".to_owned(), path(DECLARED_FILE)];
    words.extend(["--objects".to_owned(), month.to_str().unwrap().to_owned()]);
    words.extend(what.iter().map(|name| path(name)));
    site.json(words)
}

fn sum(counts: &Value) -> BTreeMap<String, u64> {
    let counts = counts.as_object().into_iter().flatten();
    counts.map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect()
}

/// A few days of two small customers, or the month that `make landing-zone` asks for: `CUSTOMERS,EVENTS,DAYS,SEED`.
fn zone() -> LandingZone {
    let from = instant("2024-02-01T00:00:00Z");
    if let Ok(asked) = std::env::var("SECUREBASE_LANDING_ZONE") {
        let numbers: Vec<u64> = asked.split(',').map(|number| number.parse().unwrap()).collect();
        let [customers, events, days, seed] = numbers[..] else { panic!("CUSTOMERS,EVENTS,DAYS,SEED: {asked}") };
        let usual = LandingZone::new(seed, customers.try_into().unwrap(), from, days.try_into().unwrap());
        return LandingZone { events, faults: true, ..usual };
    }
    LandingZone {
        accounts_each: 1,
        events: 600,
        findings_each: 5,
        evaluations_each: 30,
        regions: 1,
        faults: true,
        ..LandingZone::new(11, 2, from, 6)
    }
}

#[test]
fn a_month_in_every_form_comes_to_its_known_answer_and_again_to_nothing_new() {
    let site = Site::new();
    let month = site.path("month");
    let zone = zone();
    let answer = landing_zone::write(&month, &zone).unwrap();
    let folders = [
        landing_zone::NOTICES_FOLDER,
        landing_zone::EVENTS_FOLDER,
        landing_zone::SAMPLES_FOLDER,
        landing_zone::EXPORT_FOLDER,
    ];
    // Most of the objects by the notices that name them.
    let balance = replay(&site, &month, &folders);
    let mut dead_letters = sum(&balance["dead_letters"]);
    for (reason, count) in sum(&balance["beside"]["dead_letters"]) {
        *dead_letters.entry(reason).or_default() += count;
    }
    let mut expected = answer.dead_letters.clone();
    // The export that is cut off: no record, but its end.
    *expected.entry("gzip_truncated".to_owned()).or_default() += 1;
    assert_eq!(dead_letters, expected, "{balance}");
    check(&site, &answer);

    // The bucket itself beside its notices, and everything once more: nothing is new.
    let again = replay(&site, &month, &[&[landing_zone::TRAIL_BUCKET], &folders[..]].concat());
    assert_eq!((&again["counted"], &again["beside"]["counted"]), (&json!(0), &json!(0)), "{again}");
    check(&site, &answer);

    // What digest files name is there, all of it.
    let shown = site.json(["digests"]);
    let sources = shown["sources"].as_array().unwrap();
    let number = |name: &str| sources.iter().map(|source| source[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((number("digests"), number("backfills")), (answer.digests, answer.backfills));
    for source in sources {
        assert_eq!((&source["missing"], &source["altered"], &source["not_seen"]), (&json!([]), &json!([]), &json!([])));
    }
}
