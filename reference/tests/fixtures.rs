//! The rules of counting, file by file: the fixtures say what each comes to.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, also in a helper")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use reference::{Number, Recount, time};
use serde_json::{Map, Value, json};

fn fixtures(folder: &str) -> (std::path::PathBuf, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(folder);
    let expected = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    (folder, expected)
}

/// A recount in the words of the fixtures: of meters that are live for as long as nobody says otherwise, no row.
fn said(recount: &Recount, with_meter: bool) -> Value {
    let counts = |counts: &BTreeMap<&'static str, u64>| -> Map<String, Value> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect()
    };
    let mut rows = BTreeMap::<_, Number>::new();
    for ((line, _, category), count) in recount.totals_by_dimensions() {
        *rows.entry((line.meter, line.account, line.hour, category)).or_default() += &Number::whole(count);
    }
    let lives = ["accounts", "organizational_units", "service_control_policies"];
    let (from, until) = (0, time::instant("2027-01-01T00:00:00Z").unwrap());
    for (line, total) in recount.fact_totals(from, until) {
        if !lives.contains(&line.meter.as_str()) {
            *rows.entry((line.meter, line.account, line.hour, "none".to_owned())).or_default() += &total;
        }
    }
    let rows = rows.iter().map(|((meter, account, hour, category), quantity)| {
        let mut row = json!({
            "account": account, "hour": format!("{hour}:00:00Z"), "category": category, "quantity": quantity.to_string(),
        });
        if with_meter {
            row["meter"] = json!(meter);
        }
        row
    });
    json!({
        "read": recount.read,
        "counted": recount.read
            - recount.duplicates
            - recount.not_counted.values().chain(recount.dead_letters.values()).sum::<u64>(),
        "duplicates": recount.duplicates,
        "not_counted": counts(&recount.not_counted),
        "dead_letters": counts(&recount.dead_letters),
        "rows": rows.collect::<Vec<_>>(),
    })
}

fn expected(expected: &Value) -> Value {
    let mut expected = expected.clone();
    expected.as_object_mut().unwrap().remove("files");
    expected
}

#[test]
fn every_fixture_comes_to_what_it_says_it_comes_to() {
    for (name, with_meter) in [("cloudtrail", false), ("events", true), ("objects", true)] {
        let (folder, all_expected) = fixtures(name);
        let now = time::instant(all_expected["now"].as_str().unwrap()).unwrap();
        let (mut all, mut backwards) = (Recount::default(), Recount::default());
        let files = all_expected["files"].as_object().unwrap();
        for (name, of_file) in files {
            let stored = fs::read(folder.join(name)).unwrap();
            let mut recount = Recount::default();
            recount.add_object(name, &stored, now);
            assert_eq!(said(&recount, with_meter), expected(of_file), "{name}");
            all.add_object(name, &stored, now);
        }
        for name in files.keys().rev() {
            backwards.add_object(name, &fs::read(folder.join(name)).unwrap(), now);
        }
        assert_eq!(all.objects, files.len() as u64);
        for recount in [all, backwards] {
            assert_eq!(said(&recount, with_meter), expected(&all_expected["all"]), "all of {name}");
        }
    }
}
