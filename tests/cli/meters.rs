//! Meters that are data, and organizations in the directory, as an operator meets them.

use serde_json::{Value, json};

use crate::events::{ACCOUNT, object_of};
use crate::support::Site;

const FILE: &str = r#"
[[meter]]
name = "queue_depth"
aggregation = "max"
description = "messages waiting"

[[meter]]
name = "cache_bytes"
aggregation = "time_weighted"
gap_seconds_max = 7200
"#;

#[test]
fn sample_meters_are_defined_once_and_listed_beside_those_that_are_code() {
    let site = Site::new();
    let file = site.write("meters.toml", FILE.as_bytes());
    let outcomes = |answer: &Value| -> Vec<String> {
        let meters = answer["meters"].as_array().unwrap();
        meters.iter().map(|one| format!("{} {}", one["meter"], one["outcome"]).replace('"', "")).collect()
    };
    assert_eq!(outcomes(&site.json(["meters", "define", &file])), ["queue_depth defined", "cache_bytes defined"]);
    assert_eq!(outcomes(&site.json(["meters", "define", &file])), ["queue_depth unchanged", "cache_bytes unchanged"]);
    let listed = site.json(["meters", "list"]);
    let listed = listed["meters"].as_array().unwrap();
    assert_eq!(listed.len(), ingest::Meter::BUILT_IN.len() + 2);
    let queue = listed.iter().find(|one| one["meter"] == "queue_depth").unwrap();
    assert_eq!(
        *queue,
        json!({
            "meter": "queue_depth", "aggregation": "max", "raw_unit": "each", "gap_seconds_max": null, "priced": false,
            "description": "messages waiting",
        })
    );
    let ran = site.run(["meters", "list"]);
    assert!(
        ran.succeeded().out.lines().any(|line| line.starts_with("cache_bytes") && line.contains("7200 s")),
        "{ran:?}"
    );
    assert_eq!(site.json(["meters", "missing"]), json!({ "missing": [] }));

    for (changed, says) in [
        (FILE.replace("\"max\"", "\"sum\""), "defined already, as max"),
        (FILE.replace("queue_depth", "accounts"), "a built-in meter has this name"),
        (FILE.replace("queue_depth", "Queue"), "lower-case letters"),
        (FILE.replace("\"max\"", "\"average\""), "none of sum, max, time_weighted"),
        (FILE.replace("gap_seconds_max = 7200", ""), "needs the longest gap"),
        (FILE.replace("description", "unit"), "unit"),
        ("[[meter]]".to_owned(), "name"),
    ] {
        let file = site.write("changed.toml", changed.as_bytes());
        let ran = site.run(["meters", "define", &file]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(says), "{says}: {ran:?}");
    }
    assert!(site.run(["meters", "define", "nowhere.toml"]).refusal().contains("cannot read nowhere.toml"));
}

#[test]
fn unknown_accounts_are_visible_until_they_are_registered() {
    let site = Site::new();
    let log = site.write("log.json", &object_of(ACCOUNT, 0..10, "2024-03-05T10:00:00Z"));
    site.json(["replay", &log]);
    let unknown = site.json(["accounts", "list", "--unknown"]);
    let [one] = unknown["accounts"].as_array().unwrap().as_slice() else { panic!("{unknown}") };
    assert_eq!(
        (&one["account"], &one["first_hour"], &one["usage_rows"], &one["organization"]),
        (&json!(ACCOUNT), &json!("2024-03-05T10:00:00Z"), &json!(1), &Value::Null)
    );
    let ran = site.run(["accounts", "list", "--unknown"]);
    assert!(ran.succeeded().out.contains("accounts register"), "it says what to do: {ran:?}");
    site.add_customer("acme", "fintech");
    site.register(ACCOUNT, "acme", "2024-01-01T00:00:00Z");
    assert_eq!(site.json(["accounts", "list", "--unknown"]), json!({ "accounts": [] }));
    let status = site.json(["status"]);
    assert_eq!(
        status["account_limits"],
        json!([{ "customer": "acme", "accounts_used": 1, "accounts_allowed": 20, "exceeded": false }])
    );

    let register = ["accounts", "register-organization", "o-exampleorgid", "--customer", "acme", "--from"];
    let registered = site.json([register.as_slice(), &["2024-01-01T00:00:00Z"]].concat());
    assert_eq!((&registered["outcome"], &registered["accounts_changed"]), (&json!("registered"), &json!(0)));
    let organizations = site.json(["accounts", "organizations"]);
    assert_eq!(organizations["organizations"][0]["ownership"][0]["customer"], "acme");
    let early = [register.as_slice(), &["2023-01-01T00:00:00Z"]].concat();
    assert!(site.run(early).refusal().contains("contract starts"));
    let wrong =
        ["accounts", "register-organization", "123456789012", "--customer", "acme", "--from", "2024-01-01T00:00:00Z"];
    assert!(site.run(wrong).refusal().contains("o- and 10 to 32"));
}
