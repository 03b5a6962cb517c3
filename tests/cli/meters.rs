//! Meters that are data, and organizations in the directory, as an operator meets them.

use serde_json::{Value, json};

use crate::events::{ACCOUNT, object_of, record};
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

/// A usage sample.
fn sample(meter: &str, time: &str, value: u64, unit: &str) -> Value {
    json!({
        "specversion": "1.0", "id": format!("{meter}{time}"), "source": "/collector", "type": meter, "subject": ACCOUNT,
        "time": time, "data": { "resource": "one", "value": value, "unit": unit },
    })
}

#[test]
fn every_meter_of_the_table_is_counted_and_what_lies_too_far_apart_is_missing() {
    const TIME: &str = "2026-10-01T10:00:00Z";
    let site = Site::new();
    let meters = "[[meter]]\nname = \"queue_depth\"\naggregation = \"max\"\n";
    site.json(["meters", "define", &site.write("meters.toml", meters.as_bytes())]);
    let organizations = |name: &str, id: u32, more: Value| {
        let mut event = record(ACCOUNT, id, TIME);
        event["eventSource"] = json!("organizations.amazonaws.com");
        event["eventName"] = json!(name);
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let status = json!({ "state": "SUCCEEDED", "accountId": ACCOUNT });
    let unit = json!({ "organizationalUnit": { "id": "ou-1" } });
    let policy = json!({ "policy": { "policySummary": { "id": "p-1", "type": "SERVICE_CONTROL_POLICY" } } });
    let invoking = json!({ "messageType": "ScheduledNotification", "notificationCreationTime": TIME });
    let all = json!([
        record(ACCOUNT, 1, TIME),
        organizations("CreateAccountResult", 2, json!({ "serviceEventDetails": { "createAccountStatus": status } })),
        organizations("CreateOrganizationalUnit", 3, json!({ "responseElements": unit })),
        organizations("CreatePolicy", 4, json!({ "responseElements": policy })),
        { "accountId": ACCOUNT, "id": "f", "createdAt": TIME, "arn": "arn:aws:guardduty:eu-central-1:1:detector/d/finding/f" },
        { "AwsAccountId": ACCOUNT, "Id": "h", "CreatedAt": TIME, "SchemaVersion": "2018-10-08" },
        { "invokingEvent": invoking.to_string(), "configRuleName": "tagged", "accountId": ACCOUNT },
        sample("log_storage_gb", TIME, 2, "bytes"),
        sample("log_storage_gb", "2026-10-01T11:00:00Z", 3, "bytes"),
        // More than the 48 hours that may lie between two samples.
        sample("log_storage_gb", "2026-10-04T11:00:00Z", 4, "bytes"),
        sample("archive_storage_gb", TIME, 7, "byte_hours"),
        sample("nat_gateway_bytes", TIME, 5, "KiB"),
        sample("data_transfer_bytes", TIME, 6, "bytes"),
        sample("queue_depth", TIME, 8, "count"),
        sample("queue_depth", "2026-10-01T10:30:00Z", 9, "count"),
    ]);
    let log = site.write("all.json", all.to_string().as_bytes());
    let balance = site.json(["replay", &log]);
    assert_eq!((&balance["counted"], &balance["dead_letters"]), (&json!(15), &json!({})), "{balance}");
    let hour = ["--all", "--group-by", "account", "--from", TIME, "--to", "2026-10-01T11:00:00Z", "--meter"];
    for (meter, expected) in [
        ("cloudtrail_events", "4"),
        ("guardduty_findings", "1"),
        ("security_hub_findings", "1"),
        ("config_rule_evaluations", "1"),
        ("accounts", "3600"),
        ("organizational_units", "3600"),
        ("service_control_policies", "3600"),
        ("log_storage_gb", "7200"),
        ("archive_storage_gb", "25200"),
        ("nat_gateway_bytes", "5120"),
        ("data_transfer_bytes", "6"),
        ("queue_depth", "9"),
    ] {
        let answer = site.json([["usage"].as_slice(), &hour, &[meter]].concat());
        assert_eq!(answer["rows"], json!([{ "account": ACCOUNT, "quantity": expected }]), "{meter}");
    }
    let missing = site.json(["meters", "missing"]);
    // The last sample of all is behind by now, too.
    let told: Vec<[&Value; 4]> = missing["missing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gap| [&gap["account"], &gap["meter"], &gap["from"], &gap["until"]])
        .collect();
    let gap = |from: &str, until: Value| [json!(ACCOUNT), json!("log_storage_gb"), json!(from), until];
    let between = gap("2026-10-01T11:00:00Z", json!("2026-10-04T11:00:00Z"));
    let since = gap("2026-10-04T11:00:00Z", Value::Null);
    assert_eq!(told, [between.each_ref(), since.each_ref()]);
    assert_eq!(site.json(["status"])["gaps"], 1);
    let verified = site.run(["verify", "--period", "2026-10", &log]);
    assert!(verified.succeeded().out.contains("The stores agree"), "{verified:?}");
}

#[test]
fn lists_of_an_organization_start_its_accounts_and_show_which_are_no_longer_there() {
    const OTHER: &str = "222233334444";
    let site = Site::new();
    let listed = |account: &str| {
        let arn = format!("arn:aws:organizations::{ACCOUNT}:account/o-exampleorgid/{account}");
        json!({ "Id": account, "Arn": arn, "State": "ACTIVE", "JoinedTimestamp": "2026-09-30T23:30:00Z" })
    };
    let list = |accounts: &[&str], at: &str| {
        let accounts: Vec<Value> = accounts.iter().map(|account| listed(account)).collect();
        site.write(at, json!({ "Accounts": accounts, "listedAt": at }).to_string().as_bytes())
    };
    site.json(["replay", &list(&[ACCOUNT, OTHER], "2026-10-02T00:00:00Z")]);
    let again = site.json(["replay", &list(&[ACCOUNT, OTHER], "2026-10-02T00:00:00Z")]);
    assert_eq!((&again["counted"], &again["duplicates"]), (&json!(0), &json!(2)), "{again}");
    let organization = || site.json(["accounts", "organizations"])["organizations"][0].clone();
    let first = organization();
    assert_eq!(
        [&first["organization"], &first["accounts"], &first["listed_at"], &first["accounts_not_listed"]],
        [&json!("o-exampleorgid"), &json!(2), &json!("2026-10-02T00:00:00Z"), &json!([])]
    );
    site.json(["replay", &list(&[ACCOUNT], "2026-10-09T00:00:00Z")]);
    assert_eq!(organization()["accounts_not_listed"], json!([OTHER]));
    let said = site.run(["accounts", "organizations"]);
    assert!(
        said.succeeded().out.contains(&format!("and not in its list of 2026-10-09T00:00:00Z: {OTHER}")),
        "{said:?}"
    );

    // The owner of the organization owns what it lists, from the first hour on.
    site.add_customer("acme", "standard");
    let register = ["accounts", "register-organization", "o-exampleorgid", "--customer", "acme", "--from"];
    let registered = site.json([register.as_slice(), &["2024-01-01T00:00:00Z"]].concat());
    assert_eq!(registered["accounts_changed"], 2, "{registered}");
    let query = ["usage", "--customer", "acme", "--meter", "accounts", "--group-by", "account"];
    let day = ["--from", "2026-09-30T23:00:00Z", "--to", "2026-10-01T01:00:00Z"];
    let rows = site.json([query.as_slice(), &day].concat())["rows"].clone();
    let live = |account: &str| json!({ "account": account, "quantity": "5400" });
    assert_eq!(rows, json!([live(ACCOUNT), live(OTHER)]), "half an hour and an hour");
}

#[test]
fn lists_make_accounts_reconciled_as_far_as_they_agree_with_what_was_told() {
    const OTHER: &str = "222233334444";
    let site = Site::new();
    let list = |accounts: &[&str], at: &str| {
        let listed = |account: &&str| {
            let arn = format!("arn:aws:organizations::{ACCOUNT}:account/o-exampleorgid/{account}");
            json!({ "Id": account, "Arn": arn, "State": "ACTIVE", "JoinedTimestamp": "2026-09-30T23:30:00Z" })
        };
        let accounts: Vec<Value> = accounts.iter().map(listed).collect();
        site.write(at, json!({ "Accounts": accounts, "listedAt": at }).to_string().as_bytes())
    };
    site.add_customer("acme", "standard");
    let register = ["accounts", "register-organization", "o-exampleorgid", "--customer", "acme", "--from"];
    site.json([register.as_slice(), &["2024-01-01T00:00:00Z"]].concat());
    site.json(["replay", &list(&[ACCOUNT, OTHER], "2026-10-02T00:00:00Z")]);
    let declare = ["receipts", "declare", "--customer", "acme", "--meter", "accounts", "--class", "reconciled"];
    site.json([declare.as_slice(), &["--since", "2026-10-01T00:00:00Z"]].concat());
    let through = || site.json(["receipts", "list"])["sources"][0]["complete_through"].clone();
    assert_eq!(through(), "2026-10-01T22:00:00Z", "up to the list, less the lateness");

    let close = || {
        let ran = site.run(["close", "--period", "2026-10", "--json"]);
        (ran.code, ran.report()["closes"][0].clone())
    };
    let (code, refused) = close();
    let said = |close: &Value| close["missing"].as_array().unwrap().iter().map(Value::to_string).collect::<String>();
    assert_eq!((code, &refused["outcome"]), (Some(3), &json!("refused")), "{refused}");
    assert!(said(&refused).contains("nothing proven after 2026-10-02T00:00:00Z"), "{refused}");

    // A list in two pages that does not have an account of which nobody said that it left.
    site.json(["replay", &list(&[ACCOUNT], "2026-11-01T02:00:00Z")]);
    let (code, refused) = close();
    assert_eq!(code, Some(3), "{refused}");
    assert!(said(&refused).contains(OTHER) && !said(&refused).contains(ACCOUNT), "{refused}");
    assert_eq!(through(), "2026-10-01T22:00:00Z");

    // It left, says an event that comes late: now everybody agrees.
    let mut left = record(ACCOUNT, 1, "2026-10-20T12:00:00Z");
    left["eventSource"] = json!("organizations.amazonaws.com");
    left["eventName"] = json!("RemoveAccountFromOrganization");
    left["requestParameters"] = json!({ "accountId": OTHER });
    site.json(["replay", &site.write("left.json", json!({ "Records": [left] }).to_string().as_bytes())]);
    let (code, closed) = close();
    assert_eq!((code, &closed["outcome"]), (Some(0), &json!("closed")), "{closed}");
    let accounts = closed["accounts"].as_array().unwrap().iter().filter(|one| one["meter"] == "accounts");
    assert!(
        accounts.clone().count() == 2 && accounts.clone().all(|one| one["source_class"] == "reconciled"),
        "{closed}"
    );
    assert_eq!(through(), "2026-11-01T00:00:00Z");
}
