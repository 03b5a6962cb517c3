//! Records and deliveries of every form: each counts once, by whatever way it comes, from the source that is declared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::events::{ACCOUNT, TIME, gzip, record};
use crate::support::Site;

fn envelope(detail_type: &str, detail: &Value) -> Value {
    json!({ "id": "e", "detail-type": detail_type, "source": "aws.ec2", "account": "999999999999", "detail": detail })
}

fn finding(id: &str, account: &str) -> Value {
    json!({
        "accountId": account, "id": id, "createdAt": TIME, "region": "eu-central-1", "severity": 5,
        "arn": format!("arn:aws:guardduty:eu-central-1:{account}:detector/d/finding/{id}"),
    })
}

/// What a CloudWatch Logs subscription brings to a function.
fn logs(messages: &[String]) -> Value {
    let events: Vec<Value> = messages.iter().map(|message| json!({ "id": "1", "message": message })).collect();
    let delivery = json!({ "messageType": "DATA_MESSAGE", "owner": "999999999999", "logEvents": events });
    json!({ "awslogs": { "data": STANDARD.encode(gzip(delivery.to_string().as_bytes())) } })
}

fn quantity(site: &Site, meter: &str) -> u64 {
    let from_to = ["--from", "2000-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
    let words = [["usage", "--all", "--meter", meter, "--group-by", "account"].as_slice(), &from_to].concat();
    let rows = site.json(words)["rows"].as_array().unwrap().clone();
    rows.iter().map(|row| row["quantity"].as_str().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn one_event_and_one_finding_count_once_by_every_way_they_come() {
    let site = Site::new();
    let (event, one) = (record(ACCOUNT, 1, TIME), finding("5f", ACCOUNT));
    let spelled = json!({
        "AccountId": ACCOUNT, "Id": "5f", "CreatedAt": TIME, "Region": "eu-central-1", "Severity": 8,
        "Arn": one["arn"], "UpdatedAt": "2024-03-06T00:00:00Z",
    });
    site.write("by-s3.json.gz", &gzip(json!({ "Records": [event] }).to_string().as_bytes()));
    let by_eventbridge = [
        envelope("AWS API Call via CloudTrail", &event),
        envelope("GuardDuty Finding", &one),
        envelope("GuardDuty Finding", &spelled),
    ];
    site.write("by-eventbridge.json", json!(by_eventbridge).to_string().as_bytes());
    site.write("by-logs.json", logs(&[event.to_string(), one.to_string()]).to_string().as_bytes());
    let balance = site.json(["replay", "by-s3.json.gz", "by-eventbridge.json", "by-logs.json"]);
    assert_eq!((&balance["read"], &balance["counted"], &balance["duplicates"]), (&json!(6), &json!(2), &json!(4)));
    assert_eq!([quantity(&site, "cloudtrail_events"), quantity(&site, "guardduty_findings")], [1, 1]);
}

#[test]
fn poison_in_a_batch_leaves_its_neighbours_alone_and_counts_once_when_it_is_put_right() {
    let site = Site::new();
    let batch = |poison: &str| {
        let messages = [finding("1", ACCOUNT), finding("2", poison), finding("3", ACCOUNT)];
        logs(&messages.map(|message| message.to_string())).to_string()
    };
    let log = site.write("logs.json", batch("1234567890123").as_bytes());
    let balance = site.json(["replay", &log]);
    assert_eq!((&balance["counted"], &balance["dead_letters"]), (&json!(2), &json!({ "account_malformed": 1 })));
    let letters = site.json(["dead-letters", "list"])["dead_letters"].as_array().unwrap().clone();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["record"], finding("2", "1234567890123").to_string(), "the finding, and not its batch");
    assert_eq!((&letters[0]["number"], &letters[0]["is_whole"]), (&json!(1), &json!(true)));
    assert_eq!(site.json(["dead-letters", "replay"])["still_open"], 1);

    site.write("logs.json", batch(ACCOUNT).as_bytes());
    let balance = site.json(["replay", &log]);
    assert_eq!((&balance["counted"], &balance["duplicates"]), (&json!(1), &json!(2)));
    assert_eq!(quantity(&site, "guardduty_findings"), 3);
}

#[test]
fn evaluations_count_from_the_declared_source_alone_and_beside_their_event() {
    let site = Site::new();
    let mut put = record(ACCOUNT, 1, TIME);
    put["eventSource"] = json!("config.amazonaws.com");
    put["eventName"] = json!("PutEvaluations");
    put["requestParameters"] = json!({ "evaluations": [{}, {}, {}], "testMode": false });
    let mut omitted = put.clone();
    omitted["eventID"] = json!("00000002-0000-4000-8000-000000000002");
    omitted["requestParameters"] = json!({ "omitted": true });
    let invoking = json!({ "messageType": "ScheduledNotification", "notificationCreationTime": TIME });
    let invoked =
        |account| json!({ "invokingEvent": invoking.to_string(), "configRuleName": "tagged", "accountId": account });
    let all = json!([put, omitted, invoked(ACCOUNT), invoked("999999999999")]);
    let log = site.write("all.json", all.to_string().as_bytes());
    site.write("bad.toml", b"[[declared]]\nmeter = \"config_rule_evaluations\"\nsource = \"cfg\"");
    assert!(site.run(["replay", &log, "--sources", "bad.toml"]).refusal().contains("is no source"));
    assert!(site.run(["replay", &log, "--sources", "none.toml"]).refusal().contains("none.toml"));
    let declared = format!(
        "[[declared]]\nmeter = \"config_rule_evaluations\"\nsource = \"put_evaluations\"\naccounts = [\"{ACCOUNT}\"]"
    );
    site.write("home/sources.toml", declared.as_bytes());
    let shown = site.json(["sources", "--sources", "home/sources.toml"]);
    let rows = shown["declared"].as_array().unwrap();
    let row = json!({
        "meter": "config_rule_evaluations", "source": "put_evaluations", "accounts": [ACCOUNT], "from": null,
    });
    assert!(rows.contains(&row), "{shown}");

    let sources = ["--sources", "home/sources.toml"];
    let balance = site.json([["replay", &log].as_slice(), &sources].concat());
    assert_eq!((&balance["read"], &balance["counted"]), (&json!(4), &json!(3)));
    assert_eq!(balance["not_counted"], json!({ "not_the_declared_source": 1 }));
    let beside = json!({ "counted": 3, "duplicates": 0, "dead_letters": { "evaluations_malformed": 1 } });
    assert_eq!(balance["beside"], beside);
    assert_eq!([quantity(&site, "cloudtrail_events"), quantity(&site, "config_rule_evaluations")], [2, 4]);

    let again = site.json([["replay", &log].as_slice(), &sources].concat());
    assert_eq!((&again["duplicates"], &again["beside"]["duplicates"]), (&json!(3), &json!(3)));
    let replayed = site.json([["dead-letters", "replay"].as_slice(), &sources].concat());
    assert_eq!(replayed["still_open_by_reason"], json!({ "evaluations_malformed": 1 }));
    assert_eq!(quantity(&site, "config_rule_evaluations"), 4);
}

#[test]
fn an_export_is_summed_up_exactly_before_it_counts_and_no_store_is_opened() {
    let site = Site::without_database();
    let header = "ProviderName,ServiceName,SubAccountId,BillingAccountId,ChargePeriodStart,ChargePeriodEnd,\
        BillingPeriodStart,BillingPeriodEnd,ChargeCategory,ChargeDescription,ConsumedQuantity,ConsumedUnit";
    let row = |provider: &str, account: &str, quantity: &str| {
        format!(
            "{provider},AWS CloudTrail,{account},1,2024-03-05 00:00:00,2024-03-05 01:00:00,2024-03-01 00:00:00,\
             2024-04-01 00:00:00,Usage,0.00 per free event recorded,{quantity},Events"
        )
    };
    let rows = [row("AWS", ACCOUNT, "0.100000000000001"), row("AWS", ACCOUNT, "2775.2"), row("Oracle", "ocid1", "5")];
    let whole = format!("{header}\n{}\n", rows.join("\n"));
    let export = site.write("focus.csv", whole.as_bytes());
    let found = site.json(["sources", "inspect", &export]);
    assert_eq!((&found["rows"], &found["rows_malformed"], &found["cut_off"]), (&json!(3), &json!(0), &Value::Null));
    assert_eq!(
        (&found["providers"], &found["sub_accounts"]),
        (&json!({ "AWS": 2, "Oracle": 1 }), &json!({ ACCOUNT: 2 }))
    );
    let meter = json!([{ "meter": "cloudtrail_events", "rows": 2, "quantity": "2775.300000000000001" }]);
    assert_eq!(found["meters"], meter);

    let packed = gzip(whole.as_bytes());
    let cut = site.write("cut.csv.gz", &packed[..packed.len() - 9]);
    assert_eq!(site.json(["sources", "inspect", &cut])["cut_off"], "gzip_truncated");
    assert!(site.run(["sources", "inspect", &cut]).succeeded().out.contains("IT ENDS EARLY"));
    assert!(site.run(["sources", "inspect", "none.csv"]).refusal().contains("cannot read none.csv"));
    assert!(!site.home().exists(), "nothing is opened");
}

/// What the fixtures come to stands beside them (fixtures/make_objects.py).
#[test]
fn notices_digests_samples_and_exports_of_the_fixtures_come_to_what_is_expected_of_them() {
    let site = Site::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/objects");
    let expected: Value = serde_json::from_slice(&fs::read(fixtures.join("expected.json")).unwrap()).unwrap();
    for name in expected["files"].as_object().unwrap().keys() {
        site.write(&format!("logs/{name}"), &fs::read(fixtures.join(name)).unwrap());
    }
    let all = &expected["all"];
    let balance = site.json(["replay", "logs"]);
    for member in ["read", "counted", "duplicates", "not_counted", "dead_letters", "files"] {
        assert_eq!(balance[member], all[member], "{member}");
    }
    // Nobody says where objects are: each notice that names one is kept, too.
    let named = all["not_counted"]["object_notice"].as_u64().unwrap();
    assert_eq!(balance["beside"]["dead_letters"]["object_missing"], named);
    let mut quantities = BTreeMap::<String, Vec<(Value, Value, Value)>>::new();
    for row in all["rows"].as_array().unwrap() {
        let meter = row["meter"].as_str().unwrap().to_owned();
        let line = (row["account"].clone(), row["hour"].clone(), row["quantity"].clone());
        quantities.entry(meter).or_default().push(line);
    }
    for (meter, expected) in quantities {
        let from_to = ["--from", "2026-10-01T00:00:00Z", "--to", "2026-11-01T00:00:00Z"];
        let words = [["usage", "--all", "--meter", &meter, "--group-by", "account,hour"].as_slice(), &from_to].concat();
        let shown = site.json(words);
        let rows = shown["rows"].as_array().unwrap().iter();
        let rows: Vec<_> =
            rows.map(|row| (row["account"].clone(), row["hour"].clone(), row["quantity"].clone())).collect();
        assert_eq!(rows, expected, "{meter}");
    }

    // Two of the four objects come to light, as large as the notices say: ten notices name them.
    for key in ["x.json.gz", "a+b.json.gz"] {
        site.write(&format!("objects/trail-logs/AWSLogs/{key}"), b"\n");
    }
    let replayed = site.json(["dead-letters", "replay", "--objects", "objects"]);
    assert_eq!((&replayed["resolved"], &replayed["counted"]), (&json!(10), &json!(0)), "{replayed}");
    assert_eq!(replayed["still_open_by_reason"]["object_missing"], named - 10);
}
