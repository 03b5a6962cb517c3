//! The rules of counting, file by file: the fixtures say what each comes to.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, also in a helper")]

use std::fs;
use std::path::Path;

use reference::{Recount, time};
use serde_json::{Map, Value, json};

fn fixtures() -> (std::path::PathBuf, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cloudtrail");
    let expected = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    (folder, expected)
}

/// A recount in the words of the fixtures.
fn said(recount: &Recount) -> Value {
    let counts = |counts: &std::collections::BTreeMap<&'static str, u64>| -> Map<String, Value> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect()
    };
    let mut by_category = std::collections::BTreeMap::new();
    for ((line, _, category), count) in recount.totals_by_dimensions() {
        *by_category.entry((line.account, line.hour, category)).or_insert(0) += count;
    }
    let rows = by_category.iter().map(|((account, hour, category), count)| {
        json!({ "account": account, "hour": format!("{hour}:00:00Z"), "category": category, "quantity": count.to_string() })
    });
    json!({
        "read": recount.read,
        "counted": recount.counted(),
        "duplicates": recount.duplicates,
        "not_counted": counts(&recount.not_counted),
        "dead_letters": counts(&recount.dead_letters),
        "rows": rows.collect::<Vec<_>>(),
    })
}

fn without_files(mut expected: Value) -> Value {
    expected.as_object_mut().unwrap().remove("files");
    expected
}

#[test]
fn every_fixture_comes_to_what_it_says_it_comes_to() {
    let (folder, expected) = fixtures();
    let now = time::instant(expected["now"].as_str().unwrap()).unwrap();
    let mut all = Recount::default();
    let files = expected["files"].as_object().unwrap();
    for (name, expected) in files {
        let stored = fs::read(folder.join(name)).unwrap();
        let mut recount = Recount::default();
        recount.add_object(name, &stored, now);
        assert_eq!(said(&recount), without_files(expected.clone()), "{name}");
        all.add_object(name, &stored, now);
    }
    assert_eq!(all.objects, files.len() as u64);
    assert_eq!(said(&all), without_files(expected["all"].clone()));
}
