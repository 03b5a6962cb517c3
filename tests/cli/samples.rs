//! Usage samples over HTTP, to the real server, until they are usage.

use serde_json::{Value, json};

use crate::events::ACCOUNT;
use crate::support::{Serving, Site, until};

const PATH: &str = "/v1/samples";
const ONE: &str = "application/cloudevents+json";
const MANY: &str = "application/cloudevents-batch+json";

fn sample(id: u32, value: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id.to_string(), "source": "/collectors/nat", "type": "nat_gateway_bytes",
        "subject": ACCOUNT, "time": format!("2024-03-05T10:{id:02}:00Z"),
        "data": { "resource": "nat-1", "value": value, "unit": "bytes" },
    })
}

fn quantity(site: &Site, meter: &str) -> String {
    let from_to = ["--from", "2024-03-01T00:00:00Z", "--to", "2024-04-01T00:00:00Z"];
    let words = [["usage", "--all", "--meter", meter, "--group-by", "account"].as_slice(), &from_to].concat();
    site.json(words)["rows"][0]["quantity"].as_str().unwrap_or("0").to_owned()
}

fn operator(site: &Site) -> String {
    let made = site.json(["keys", "create", "--admin", "--name", "collector"]);
    made["key"].as_str().unwrap().to_owned()
}

fn receipt(read: u64) -> Value {
    json!({ "read": read, "usage": read, "not_counted": {}, "dead_letters": {} })
}

fn post(serving: &Serving, key: &str, media_type: &str, body: &Value) -> (u16, Value) {
    serving.post(PATH, Some(key), &[("Content-Type", media_type)], &body.to_string())
}

#[test]
fn samples_count_once_whichever_mode_they_come_in_and_a_later_revision_replaces_them() {
    let site = Site::new();
    let serving = site.serve();
    let key = operator(&site);
    assert_eq!(post(&serving, &key, ONE, &sample(1, "100")), (202, receipt(1)));
    assert_eq!(
        post(&serving, &key, MANY, &json!([sample(1, "100"), sample(2, "0.5"), sample(3, "7")])),
        (202, receipt(3))
    );
    assert_eq!(post(&serving, &key, MANY, &json!([])), (202, receipt(0)));
    let binary = [
        ("Content-Type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "4"),
        ("ce-source", "/collectors/nat"),
        ("ce-type", "nat_gateway_bytes"),
        ("ce-subject", ACCOUNT),
        ("ce-time", "2024-03-05T10:04:00Z"),
    ];
    let body = r#"{"resource":"nat-1","value":1000,"unit":"bytes"}"#;
    assert_eq!(serving.post(PATH, Some(&key), &binary, body), (202, receipt(1)));
    until("usage rows hold all four", || quantity(&site, "nat_gateway_bytes") == "1107.5");

    let mut corrected = sample(3, "8");
    corrected["data"]["revision"] = json!(1);
    assert_eq!(post(&serving, &key, ONE, &corrected).0, 202);
    until("the correction holds", || quantity(&site, "nat_gateway_bytes") == "1108.5");
    // The first told again, after its correction: nothing changes.
    assert_eq!(post(&serving, &key, ONE, &sample(3, "7")).0, 202);
    assert_eq!(quantity(&site, "nat_gateway_bytes"), "1108.5");

    // A batch larger than any other body that the API takes.
    let many: Vec<Value> = (0..200)
        .map(|n| {
            let mut sample = sample(5, "1");
            sample["data"]["resource"] = json!(format!("nat-{n:03}-{}", "x".repeat(200)));
            sample
        })
        .collect();
    assert_eq!(post(&serving, &key, MANY, &json!(many)), (202, receipt(200)));
    // What was answered is counted: killed right now, nothing is lost.
    drop(serving);
    assert_eq!(quantity(&site, "nat_gateway_bytes"), "1308.5");
}

#[test]
fn broken_samples_are_named_kept_and_replayable_and_leave_their_neighbours_alone() {
    let site = Site::new();
    let serving = site.serve();
    let key = operator(&site);
    let mut unheard = sample(2, "5");
    unheard["type"] = json!("requests_served");
    unheard["data"]["unit"] = json!("each");
    let mut doubtful = sample(3, "1");
    doubtful["data"]["unit"] = json!("GB");
    let batch = json!([sample(1, "10"), unheard, doubtful, sample(4, "10")]);
    for _ in 0..2 {
        let (status, problem) = post(&serving, &key, MANY, &batch);
        assert_eq!((status, &problem["type"]), (422, &json!("urn:securebase:problem:samples-refused")), "{problem}");
        assert_eq!((&problem["read"], &problem["usage"]), (&json!(4), &json!(2)));
        assert_eq!(problem["dead_letters"], json!({ "meter_unknown": 1, "unit_unknown": 1 }));
        let named = |number: usize| (&problem["events"][number]["number"], &problem["events"][number]["reason"]);
        assert_eq!(named(0), (&json!(1), &json!("meter_unknown")));
        assert_eq!(named(1), (&json!(2), &json!("unit_unknown")));
        assert!(problem["request_id"].is_string() && problem["detail"].is_string(), "{problem}");
    }
    until("the neighbours count", || quantity(&site, "nat_gateway_bytes") == "20");
    let letters = site.json(["dead-letters", "list"])["dead_letters"].as_array().unwrap().clone();
    assert_eq!(letters.len(), 2, "the same request twice sets each aside once");
    let kept: Vec<&Value> = letters.iter().map(|letter| &letter["record"]).collect();
    assert!(kept.contains(&&json!(unheard.to_string())) && kept.contains(&&json!(doubtful.to_string())), "{kept:?}");

    let meter = "[[meter]]\nname = \"requests_served\"\naggregation = \"sum\"\ndescription = \"requests\"\n";
    let file = site.write("meters.toml", meter.as_bytes());
    site.run(["meters", "define", &file]).succeeded();
    let replayed = site.json(["dead-letters", "replay"]);
    assert_eq!((&replayed["resolved"], &replayed["still_open_by_reason"]), (&json!(1), &json!({ "unit_unknown": 1 })));
    assert_eq!(quantity(&site, "requests_served"), "5");
    // Known now, by the server that runs, too.
    assert_eq!(post(&serving, &key, ONE, &unheard), (202, receipt(1)));
    assert_eq!(quantity(&site, "requests_served"), "5");
}

#[test]
fn only_an_operators_key_brings_samples_and_what_is_no_cloud_event_is_refused() {
    let site = Site::new();
    site.add_customer("acme", "standard");
    let serving = site.serve();
    let (customer, operator) = (site.api_key("acme"), operator(&site));
    let kind = |answer: (u16, Value)| (answer.0, answer.1["type"].as_str().unwrap_or_default().to_owned());
    let problem = |status: u16, kind: &str| (status, format!("urn:securebase:problem:{kind}"));
    let good = sample(1, "1");
    assert_eq!(kind(post(&serving, &customer, ONE, &good)), problem(403, "not-allowed"));
    let nobody = serving.post(PATH, None, &[("Content-Type", ONE)], &good.to_string());
    assert_eq!(kind(nobody), problem(401, "not-authenticated"));
    for (media_type, body, expected) in [
        ("application/json", good.clone(), problem(415, "unsupported-media-type")),
        ("text/plain", good.clone(), problem(415, "unsupported-media-type")),
        (MANY, good.clone(), problem(400, "invalid-body")),
        (MANY, json!([good, {}]), problem(400, "invalid-body")),
        (ONE, json!({ "specversion": "0.3", "id": "1", "source": "/", "type": "x" }), problem(400, "invalid-body")),
        (MANY, json!(vec![good.clone(); 1_001]), problem(413, "too-large")),
        (MANY, json!(["x".repeat(1 << 20)]), problem(413, "too-large")),
    ] {
        assert_eq!(kind(post(&serving, &operator, media_type, &body)), expected, "{media_type}");
    }
    assert_eq!(quantity(&site, "nat_gateway_bytes"), "0");
    assert_eq!(site.json(["dead-letters", "list"])["dead_letters"], json!([]));
}
