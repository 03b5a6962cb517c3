//! Records that were set aside: listed with a reason, counted once when what was wrong is put right.

use serde_json::{Value, json};

use crate::events::{TIME, gzip, object, record};
use crate::support::Site;

fn letters(site: &Site, options: &[&str]) -> Vec<Value> {
    let answer = site.json([["dead-letters", "list"].as_slice(), options].concat());
    answer["dead_letters"].as_array().unwrap().clone()
}

fn outcome(replayed: &Value) -> [&Value; 5] {
    ["resolved", "still_open", "read", "counted", "duplicates"].map(|name| &replayed[name])
}

#[test]
fn a_truncated_object_counts_the_rest_once_when_it_is_there_whole() {
    for (name, whole) in [("log.json", object(0..100)), ("log.json.gz", gzip(&object(0..100)))] {
        let site = Site::new();
        let log = site.write(name, &whole[..whole.len() / 2]);
        let first = site.json(["replay", &log]);
        let before = first["counted"].as_u64().unwrap();
        assert!(0 < before && before < 100, "{first}");
        let open = letters(&site, &[]);
        assert_eq!(open.len(), 1, "{open:?}");
        let letter = &open[0];
        assert!(letter["object"].as_str().unwrap().ends_with(name), "{letter}");
        assert!(letter["advice"].as_str().unwrap().contains("replay"), "{letter}");
        assert_eq!((&letter["resolved_at"], &letter["is_whole"]), (&Value::Null, &json!(false)));

        // Still truncated: nothing changes.
        let again = site.json(["dead-letters", "replay"]);
        assert_eq!(outcome(&again), [&json!(0), &json!(1), &json!(0), &json!(0), &json!(0)]);
        let reason = letter["reason"].as_str().unwrap();
        assert_eq!(again["still_open_by_reason"], json!({ reason: 1 }));

        site.write(name, &whole);
        let id = letter["id"].as_str().unwrap();
        let fixed = site.json(["dead-letters", "replay", id]);
        assert_eq!(outcome(&fixed), [&json!(1), &json!(0), &json!(100), &json!(100 - before), &json!(before)]);
        assert_eq!(site.counted(), 100);
        assert!(letters(&site, &[]).is_empty());
        assert!(letters(&site, &["--all"])[0]["resolved_at"].is_string());
        let nothing = site.json(["dead-letters", "replay"]);
        assert_eq!(outcome(&nothing), [&json!(0), &json!(0), &json!(0), &json!(0), &json!(0)]);
        assert!(site.run(["dead-letters", "replay", id]).refusal().contains("no open dead letter"));
        assert_eq!(site.counted(), 100);
    }
}

#[test]
fn what_is_still_wrong_stays_open_however_often_it_is_looked_at() {
    let site = Site::new();
    let log = site.write("log.json", json!({ "Records": [record("12", 1, TIME)] }).to_string().as_bytes());
    for _ in 0..2 {
        assert_eq!(site.json(["replay", &log])["dead_letters"], json!({ "account_malformed": 1 }));
        assert_eq!(outcome(&site.json(["dead-letters", "replay"]))[..2], [&json!(0), &json!(1)]);
    }
    let open = letters(&site, &[]);
    assert_eq!(open.len(), 1, "the same record is the same letter: {open:?}");
    assert!(open[0]["record"].as_str().unwrap().contains("\"recipientAccountId\":\"12\""));
    let ran = site.run(["dead-letters", "list"]);
    let [id, advice] = ["id", "advice"].map(|name| open[0][name].as_str().unwrap());
    assert!(ran.succeeded().out.contains(id) && ran.out.contains(advice), "{ran:?}");
    let ran = site.run(["dead-letters", "replay"]);
    assert!(ran.succeeded().out.contains("1 still set aside: account_malformed"), "{ran:?}");
    assert_eq!(site.counted(), 0);
    assert_eq!(site.json(["status"])["dead_letters_open"], 1);
}
