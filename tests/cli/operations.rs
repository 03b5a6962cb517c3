//! Closes, billing runs and replays that operators ask the running server for.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::events::{ACCOUNT, object, object_of};
use crate::support::{Serving, Site, until};

const MONTH: &str = "2024-03";
const OTHER: &str = "222233334444";
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn operator(site: &Site) -> String {
    site.json(["keys", "create", "--admin", "--name", "a test"])["key"].as_str().unwrap().to_owned()
}

fn ask(serving: &Serving, key: &str, path: &str, body: &Value) -> Value {
    let (status, accepted) = serving.post(path, Some(key), &[JSON], &body.to_string());
    assert_eq!(status, 202, "{accepted}");
    accepted
}

/// Looks until an operation has ended; each answer waits for it.
fn ended(serving: &Serving, key: &str, operation: &Value) -> Value {
    let path = format!("/v1/admin/operations/{}", operation["id"]);
    let mut found = Value::Null;
    until("the operation has ended", || {
        found = serving.get_with(&path, Some(key), &[("Prefer", "wait=5")]).1;
        found["finished_at"].is_string()
    });
    found
}

fn carried_out(serving: &Serving, key: &str, path: &str, body: &Value) -> Value {
    let accepted = ask(serving, key, path, body);
    ended(serving, key, &accepted)
}

fn sample() -> Value {
    json!({
        "specversion": "1.0", "id": "1", "source": "/collectors/requests", "type": "requests_served",
        "subject": ACCOUNT, "time": "2024-03-05T10:00:00Z",
        "data": { "resource": "gateway-1", "value": "5", "unit": "each" },
    })
}

fn requests(site: &Site) -> String {
    let from_to = ["--from", "2024-03-01T00:00:00Z", "--to", "2024-04-01T00:00:00Z"];
    let words =
        [["usage", "--all", "--meter", "requests_served", "--group-by", "account"].as_slice(), &from_to].concat();
    site.json(words)["rows"][0]["quantity"].as_str().unwrap_or("0").to_owned()
}

#[test]
fn a_dead_letter_is_put_right_the_month_closed_and_billed_over_http() {
    let site = Site::new();
    site.add_customer("acme", "standard");
    site.register(ACCOUNT, "acme", "2024-01-01T00:00:00Z");
    site.json(["replay", &site.write("log.json", &object(0..100))]);
    let serving = site.serve();
    let key = operator(&site);
    let sample_type = [("Content-Type", "application/cloudevents+json")];
    assert_eq!(serving.post("/v1/samples", Some(&key), &sample_type, &sample().to_string()).0, 422);

    let close = json!({ "period": MONTH, "customer": "acme" });
    let refused = carried_out(&serving, &key, "/v1/admin/closes", &close);
    let problem = &refused["problem"];
    assert_eq!((&refused["status"], &problem["status"]), (&json!("failed"), &json!(409)), "{refused}");
    assert_eq!(problem["type"], "urn:securebase:problem:operation-refused");
    let missing = &problem["closes"][0]["missing"][0];
    assert_eq!((&missing["kind"], &missing["reason"]), (&json!("dead_letter"), &json!("meter_unknown")), "{problem}");
    // To who waits for it, the refusal is the answer.
    let (status, answer) =
        serving.post("/v1/admin/closes", Some(&key), &[JSON, ("Prefer", "wait=5")], &close.to_string());
    match status {
        409 => assert_eq!(answer["closes"], problem["closes"]),
        // Slower than five seconds.
        _ => assert_eq!(ended(&serving, &key, &answer)["problem"]["closes"], problem["closes"]),
    }

    let letter = missing["dead_letter"].as_str().unwrap();
    let replay = format!("/v1/admin/dead-letters/{letter}/replay");
    let still = carried_out(&serving, &key, &replay, &json!({}));
    assert_eq!(
        (&still["problem"]["status"], &still["problem"]["reason"]),
        (&json!(409), &json!("meter_unknown")),
        "{still}"
    );
    let meter = "[[meter]]\nname = \"requests_served\"\naggregation = \"sum\"\ndescription = \"requests\"\n";
    site.run(["meters", "define", &site.write("meters.toml", meter.as_bytes())]).succeeded();
    let right = carried_out(&serving, &key, &replay, &json!({}));
    assert_eq!((&right["status"], &right["result"]["outcome"]), (&json!("done"), &json!("resolved")), "{right}");
    assert_eq!((&right["result"]["read"], &right["result"]["counted"]), (&json!(1), &json!(1)), "{right}");
    let again = serving.post(&replay, Some(&key), &[JSON], "");
    assert_eq!(again.0, 409, "{again:?}");
    assert_eq!(requests(&site), "5");

    let closed = carried_out(&serving, &key, "/v1/admin/closes", &close);
    let made = &closed["result"]["closes"][0];
    assert_eq!(
        (&made["outcome"], &made["cut"], &made["missing"]),
        (&json!("closed"), &json!(1), &json!([])),
        "{closed}"
    );
    let unchanged = carried_out(&serving, &key, "/v1/admin/closes", &close);
    assert_eq!(unchanged["result"]["closes"][0]["outcome"], "unchanged");
    assert_eq!(unchanged["result"]["closes"][0]["evidence_sha256"], made["evidence_sha256"]);
    assert_eq!(
        site.json(["close", "--period", MONTH])["closes"][0]["outcome"],
        "unchanged",
        "as the command line says"
    );

    let ran = carried_out(&serving, &key, "/v1/admin/runs", &json!({ "period": MONTH }));
    assert_eq!((&ran["result"]["outcomes"], &ran["result"]["issued"]), (&json!({ "issued": 1 }), &json!(1)), "{ran}");
    let run = serving.get(&format!("/v1/admin/runs/{}", ran["result"]["run"]), Some(&key)).1;
    assert_eq!(run["results"][0]["outcome"], "issued");
    let again = carried_out(&serving, &key, "/v1/admin/runs", &json!({ "period": MONTH, "customer": "acme" }));
    assert_eq!(again["result"]["outcomes"], json!({ "already_issued": 1 }));
    let invoices = serving.get("/v1/invoices", Some(&site.api_key("acme"))).1;
    assert_eq!(invoices["invoices"].as_array().unwrap().len(), 1);
    let who = site.json(["audit", "verify"]);
    assert_eq!(serving.end_by(Signal::SIGINT).code, Some(0), "{who}");
}

#[test]
fn a_server_that_is_killed_over_an_operation_leaves_it_to_the_next_and_nothing_is_done_twice() {
    let site = Site::new();
    for (customer, account) in [("acme", ACCOUNT), ("bert", OTHER)] {
        site.add_customer(customer, "standard");
        site.register(account, customer, "2024-01-01T00:00:00Z");
    }
    site.json(["replay", &site.write("a.json", &object(0..40))]);
    site.json(["replay", &site.write("b.json", &object_of(OTHER, 0..7, "2024-02-05T10:00:00Z"))]);
    let key = operator(&site);
    let mut asked = Vec::new();
    for month in ["2024-02", MONTH] {
        for path in ["/v1/admin/closes", "/v1/admin/runs"] {
            let serving = site.serve();
            asked.push(ask(&serving, &key, path, &json!({ "period": month })));
            // Wherever it is by then.
            serving.end_by(Signal::SIGKILL);
        }
    }
    let serving = site.serve();
    for operation in &asked {
        let operation = ended(&serving, &key, operation);
        assert_eq!(operation["status"], "done", "{operation}");
    }
    let closes = serving.get("/v1/admin/closes", Some(&key)).1;
    let mut cuts: Vec<_> = closes["closes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|close| {
            let text = |name: &str| close[name].as_str().unwrap().to_owned();
            (text("period_start"), text("customer"), close["cut"].as_i64().unwrap())
        })
        .collect();
    cuts.sort();
    let expected = [("2024-02-01", "acme"), ("2024-02-01", "bert"), ("2024-03-01", "acme"), ("2024-03-01", "bert")];
    assert_eq!(cuts, expected.map(|(month, customer)| (month.to_owned(), customer.to_owned(), 1)));
    for customer in ["acme", "bert"] {
        let invoices = serving.get("/v1/invoices", Some(&site.api_key(customer))).1;
        assert_eq!(invoices["invoices"].as_array().unwrap().len(), 2, "one a month: {invoices}");
    }
    let finished = site.json(["audit", "verify"]);
    assert_eq!(serving.end_by(Signal::SIGTERM).code, Some(0), "{finished}");
}
