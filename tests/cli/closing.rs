//! Months closed, proven and checked from outside: what refuses a close, what its evidence says, what a customer finds.

use std::fs;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

use crate::events::{ACCOUNT, TIME, gzip, object, object_of, record};
use crate::parked::{self, served};
use crate::support::{Ran, Site, block_on};

const MONTH: &str = "2024-03";
const OTHER: &str = "222233334444";

/// A home with the account's owner and a month of logs: two objects with an event in common.
fn site() -> (Site, String) {
    let site = Site::new();
    site.add_customer("acme", "standard");
    site.register(ACCOUNT, "acme", "2024-01-01T00:00:00Z");
    site.write("logs/a.json.gz", &gzip(&object(0..60)));
    site.write("logs/b.json", &object(59..100));
    let logs = site.path("logs").to_str().unwrap().to_owned();
    assert_eq!(site.json(["replay", &logs])["counted"], 100);
    (site, logs)
}

/// The one customer's close, and the exit code.
fn close(site: &Site, options: &[&str]) -> (i32, Value) {
    let words = [["close", "--period", MONTH, "--json"].as_slice(), options].concat();
    let ran = site.run(words);
    (ran.code.unwrap(), last_line(&ran)["closes"][0].clone())
}

fn last_line(ran: &Ran) -> Value {
    let line = ran.out.lines().last().unwrap_or_else(|| panic!("{ran:?}"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn verify(site: &Site, options: &[&str]) -> (i32, Value) {
    let ran = site.run([["verify", "--json"].as_slice(), options].concat());
    (ran.code.unwrap(), last_line(&ran))
}

fn export(site: &Site, name: &str, options: &[&str]) -> String {
    let path = site.path(name).to_str().unwrap().to_owned();
    let words = ["evidence", "export", "--period", MONTH, "--customer", "acme", "--out", &path];
    site.run([words.as_slice(), options].concat()).succeeded();
    path
}

#[test]
fn a_month_closes_once_and_late_usage_makes_another_cut() {
    let (site, _) = site();
    let (code, first) = close(&site, &[]);
    assert_eq!((code, &first["outcome"], &first["cut"]), (0, &json!("closed"), &json!(1)), "{first}");
    assert_eq!(first["source_class"], "best effort");
    let account = &first["accounts"][0];
    assert_eq!((&account["total"], &account["first_hour"]), (&json!("100"), &json!("2024-03-05T10:00:00Z")));
    let (code, again) = close(&site, &["--customer", "acme"]);
    assert_eq!((code, &again["outcome"]), (0, &json!("unchanged")));
    assert_eq!(again["evidence_sha256"], first["evidence_sha256"]);
    site.json(["replay", &site.write("late.json", &object_of(ACCOUNT, 200..203, "2024-03-31T23:59:59Z"))]);
    let (_, second) = close(&site, &[]);
    assert_eq!((&second["cut"], &second["accounts"][0]["total"]), (&json!(2), &json!("103")));
    assert_eq!(second["accounts"][0]["quietest_hours"], 636);

    // Each cut keeps its own evidence.
    let hash_of = |options: &[&str]| -> String {
        let ran =
            site.run([["evidence", "export", "--period", MONTH, "--customer", "acme"].as_slice(), options].concat());
        let head: Value = serde_json::from_str(ran.succeeded().out.lines().next().unwrap()).unwrap();
        format!("{} {}", head["cut"], ran.out.lines().count())
    };
    assert_eq!(hash_of(&["--cut", "1"]).split(' ').next(), Some("1"));
    assert_eq!(hash_of(&[]).split(' ').next(), Some("2"));
    let refused = site.run(["evidence", "export", "--period", MONTH, "--customer", "acme", "--cut", "3"]);
    assert!(refused.refusal().contains("has no cut 3"), "{refused:?}");
    let open = site.run(["close", "--period", "2999-01"]);
    assert!(open.refusal().contains("2999-01 is not over"), "{open:?}");
}

#[test]
fn an_open_dead_letter_refuses_the_close_until_it_is_replayed_dismissed_or_overridden() {
    let (site, _) = site();
    let malformed = |account: &str| json!({ "Records": [record(account, 7, TIME)] }).to_string().into_bytes();
    site.json(["replay", &site.write("bad.json", &malformed("12"))]);
    let (code, refused) = close(&site, &[]);
    assert_eq!((code, &refused["outcome"], &refused["cut"]), (3, &json!("refused"), &Value::Null), "{refused}");
    let missing = refused["missing"][0].as_str().unwrap();
    assert!(missing.contains("account_malformed") && missing.contains("is open"), "{missing}");
    let said = site.run(["close", "--period", MONTH]);
    assert_eq!((said.code, said.out.contains("REFUSED, something is missing")), (Some(3), true), "{said:?}");
    // One of another month refuses nothing here.
    let (code, _) = close(&site, &["--dry-run"]);
    assert_eq!(code, 3);

    let exported = site.path("letters.jsonl");
    site.run(["dead-letters", "export", "--out", exported.to_str().unwrap()]).succeeded();
    let line: Value = serde_json::from_str(fs::read_to_string(&exported).unwrap().trim()).unwrap();
    assert_eq!((&line["reason"], &line["first_at"]), (&json!("account_malformed"), &json!(TIME)));
    let id = line["id"].as_str().unwrap();
    let idle = site.run(["dead-letters", "dismiss", id, "--reason", " "]);
    assert!(idle.refusal().contains("--reason"), "{idle:?}");

    let (code, overridden) = close(&site, &["--override", "the source is being put right", "--by", "eve"]);
    assert_eq!((code, &overridden["outcome"], &overridden["cut"]), (0, &json!("closed"), &json!(1)));
    let evidence = fs::read_to_string(export(&site, "evidence", &[])).unwrap();
    assert!(evidence.contains(r#""overridden_by":"eve","override_reason":"the source is being put right""#));
    assert!(evidence.contains(r#""state":"open""#));

    site.run(["dead-letters", "dismiss", id, "--reason", "a test of the sender", "--by", "eve"]).succeeded();
    let again = site.run(["dead-letters", "dismiss", id, "--reason", "twice"]);
    assert!(again.refusal().contains("no open dead letter"), "{again:?}");
    let (code, whole) = close(&site, &[]);
    assert_eq!((code, &whole["outcome"], &whole["cut"]), (0, &json!("closed"), &json!(2)), "no longer overridden");
    let evidence = fs::read_to_string(export(&site, "evidence", &[])).unwrap();
    assert!(
        evidence.contains(r#""state":"dismissed","dismissed_by":"eve","dismissed_because":"a test of the sender""#)
    );
}

#[test]
fn a_customer_checks_the_evidence_with_its_own_logs_and_no_stores() {
    let (site, logs) = site();
    close(&site, &[]);
    let evidence = export(&site, "evidence", &[]);
    let with_identities = export(&site, "identities", &["--with-identities"]);
    // Somewhere else, without the home.
    let away = Site::without_database();
    for file in [&evidence, &with_identities] {
        let (code, same) = verify(&away, &["--evidence", file, &logs]);
        assert_eq!((code, &same["agrees"], &same["lines_agreeing"]), (0, &json!(true), &json!(1)), "{same}");
    }
    assert!(!away.home().exists(), "no store was opened");

    let lost = site.write("logs/c.json", &object(100..102));
    let (code, more) = verify(&away, &["--evidence", &with_identities, &logs]);
    let finding = &more["findings"][0];
    assert_eq!((code, &finding["class"], &finding["events"]), (4, &json!("object_not_in_evidence"), &json!(2)));
    assert_eq!(finding["identities"][0], "00000064000040008000000000000064");
    fs::remove_file(lost).unwrap();
    fs::remove_file(site.path("logs/b.json")).unwrap();
    let (code, fewer) = verify(&away, &["--evidence", &with_identities, &logs]);
    assert_eq!((code, &fewer["findings"][0]["class"]), (4, &json!("not_in_the_logs")), "{fewer}");
    assert_eq!(fewer["findings"][0]["events"], 40);

    // The invoice must be for this very evidence.
    let hash = fs::read_to_string(&evidence).unwrap();
    let invoice = |sha256: &str, quantity: &str| {
        let lines = json!([{ "meter": "cloudtrail_events", "quantity": quantity }]);
        let invoice = json!({ "number": "INV-2024-04-0001", "evidence": { "sha256": sha256 }, "lines": lines });
        site.write("invoice.json", invoice.to_string().as_bytes())
    };
    site.write("logs/b.json", &object(59..100));
    let sha256 = sha256_hex(hash.as_bytes());
    let check = |file: &str| away.run(["verify", "--evidence", &evidence, "--invoice", file, &logs]);
    check(&invoice(&sha256, "100")).succeeded();
    assert!(check(&invoice(&sha256, "101")).refusal().contains("bills 101 of cloudtrail_events, its evidence has 100"));
    assert!(check(&invoice(&"0".repeat(64), "100")).refusal().contains("the invoice is for the evidence 0000"));
    let none =
        site.write("none.json", json!({ "number": "INV-2024-04-0001", "evidence": null }).to_string().as_bytes());
    assert!(check(&none).refusal().contains("names no evidence"));
    // And the invoice that was made from the close is.
    let run = site.json(["invoice", "run", "--period", MONTH, "--customer", "acme"]);
    let issued = site.write("issued.json", run["results"][0]["invoice"].to_string().as_bytes());
    check(&issued).succeeded();
    let cut_short = site.write("short", &hash.as_bytes()[..hash.len() - 9]);
    let refused = away.run(["verify", "--evidence", &cut_short, &logs]);
    assert!(refused.refusal().contains("ends early"), "{refused:?}");
}

#[test]
fn a_customer_is_told_of_a_loss_beside_a_record_that_was_set_aside() {
    let (site, _serving) = served();
    let name = format!("logs/{ACCOUNT}_CloudTrail_eu-central-1_20240305T1025Z_a.json");
    let large = |number: u32| {
        let mut event = record(ACCOUNT, number, TIME);
        event["requestParameters"] = json!("x".repeat(5 << 20));
        event
    };
    let log = json!({ "Records": [record(ACCOUNT, 0, TIME), large(1), large(2)] });
    let file = site.write(&name, log.to_string().as_bytes());
    let balance = site.json(["replay", &file]);
    assert_eq!((&balance["counted"], &balance["dead_letters"]), (&json!(1), &json!({ "record_too_large": 2 })));
    // Of one nobody keeps anything; of the other somebody says that it is no usage.
    let open = parked::letters(&site, &[]);
    let [lost, known] = [0, 1].map(|number| open[number]["id"].as_str().unwrap());
    let client = parked::dynamodb(&site);
    let delete = client.delete_item().table_name(format!("{}-dead-letters", parked::NAME));
    let delete = delete.key("id", AttributeValue::S(lost.to_owned())).key("part", AttributeValue::N("0".to_owned()));
    block_on(delete.send()).unwrap();
    site.run(["dead-letters", "dismiss", known, "--reason", "no usage"]).succeeded();
    let (code, closed) = close(&site, &[]);
    assert_eq!(code, 0, "{closed}");

    let evidence = export(&site, "evidence", &["--with-identities"]);
    let (code, found) = verify(&Site::without_database(), &["--evidence", &evidence, &file]);
    let findings = found["findings"].as_array().unwrap();
    let said: Vec<_> = findings.iter().map(|one| (one["class"].as_str().unwrap(), &one["events"])).collect();
    assert_eq!((code, said), (4, vec![("not_counted", &json!(1)), ("unexplained", &json!(1))]), "{found}");
    let unexplained = &findings[1];
    assert_eq!((&unexplained["objects"], unexplained["identities"].as_array().unwrap().len()), (&json!([file]), 1));
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(bytes))
}

#[test]
fn an_operator_checks_counters_rows_closes_and_invoices_with_the_logs() {
    let (site, logs) = site();
    site.register(OTHER, "acme", "2024-03-10T00:00:00Z");
    site.json(["replay", &site.write("logs/d.json", &object_of(OTHER, 0..5, "2024-03-10T00:00:00Z"))]);
    // Before the account was the customer's.
    site.json(["replay", &site.write("logs/e.json", &object_of(OTHER, 5..9, "2024-03-09T23:59:59Z"))]);
    close(&site, &[]);
    let (code, same) = verify(&site, &["--period", MONTH, &logs]);
    assert_eq!((code, &same["agrees"], &same["lines"]), (0, &json!(true), &json!(3)), "{same}");
    // What the month's logs have and nobody read.
    let lost = site.write("logs/f.json", &object_of(OTHER, 20..22, "2024-03-20T01:00:00Z"));
    let (code, more) = verify(&site, &["--period", MONTH, &logs]);
    assert_eq!(
        (code, &more["counters"][0]["by_recount"], &more["counters"][0]["stored"]),
        (4, &json!("2"), &json!("0"))
    );
    assert_eq!(more["counters"][0]["only_in_logs"].as_array().unwrap().len(), 2);
    assert_eq!((&more["usage_rows"][0]["account"], &more["closes"][0]["of"]), (&json!(OTHER), &json!("acme cut 1")));
    site.json(["replay", &lost]);
    let (code, late) = verify(&site, &["--period", MONTH, "--customer", "acme", &logs]);
    assert_eq!((code, late["counters"].as_array().unwrap().len(), &late["usage_rows"]), (4, 0, &json!([])));
    assert_eq!(late["closes"][0]["stored"], "0", "late usage is in the next cut");
    close(&site, &[]);
    assert_eq!(verify(&site, &["--period", MONTH, &logs]).0, 0);
}

#[test]
fn a_proven_source_is_incomplete_until_its_digests_say_otherwise() {
    let (site, _) = site();
    let declare = |class: &str| {
        let words = ["receipts", "declare", "--customer", "acme", "--class", class, "--since", "2024-03-01T00:00:00Z"];
        site.json(words)["changed"].clone()
    };
    assert_eq!((declare("proven"), declare("proven")), (json!(true), json!(false)));
    let (code, refused) = close(&site, &[]);
    assert_eq!((code, &refused["source_class"]), (3, &json!("proven")), "{refused}");
    assert!(refused["missing"][0].as_str().unwrap().contains("no proof of any kind"), "{refused}");
    let listed = site.json(["receipts", "list"]);
    assert_eq!(
        (&listed["sources"][0]["complete_through"], &listed["sources"][0]["class"]),
        (&Value::Null, &json!("proven"))
    );
    assert_eq!(site.json(["usage", "--customer", "acme"])["complete_through"], Value::Null);
    assert_eq!(declare("best-effort"), json!(true));
    assert_eq!(close(&site, &[]).1["outcome"], "closed");
}

#[test]
fn a_line_that_bills_the_highest_hour_is_counted_again_with_and_without_the_stores() {
    let (site, logs) = site();
    site.register(OTHER, "acme", "2024-01-01T00:00:00Z");
    // The same hour of another account counts together with it, a quieter hour does not.
    site.json(["replay", &site.write("logs/d.json", &object_of(OTHER, 0..5, TIME))]);
    site.json(["replay", &site.write("logs/e.json", &object_of(ACCOUNT, 200..290, "2024-03-20T01:00:00Z"))]);
    let card = "tier = \"standard\"\nversion = 2\ncurrency = \"USD\"\nvalid_from = 2024-03-01\n\n[[prices]]\n\
                meter = \"cloudtrail_events\"\naggregation = \"peak\"\nunit = \"event of the highest hour\"\n\
                model = \"per_unit\"\nprice = \"0.10\"\n";
    site.json(["rate-cards", "load", &site.write("peak.toml", card.as_bytes())]);
    close(&site, &[]);
    let run = site.json(["invoice", "run", "--period", MONTH, "--customer", "acme"]);
    let mut invoice = run["results"][0]["invoice"].clone();
    assert_eq!((&invoice["lines"][0]["quantity"], &invoice["lines"][0]["amount"]), (&json!("105"), &json!("10.50")));
    assert_eq!(verify(&site, &["--period", MONTH, &logs]).0, 0);

    let evidence = export(&site, "evidence", &[]);
    let away = Site::without_database();
    let check = |invoice: &Value| {
        let file = site.write("issued.json", invoice.to_string().as_bytes());
        away.run(["verify", "--evidence", &evidence, "--invoice", &file, &logs])
    };
    check(&invoice).succeeded();
    // The sum of the month is no highest hour.
    invoice["lines"][0]["quantity_raw"] = json!("195");
    let refused = check(&invoice);
    let said =
        "bills 195 of cloudtrail_events (the highest hour from 2024-03-01 to before 2024-04-01), its evidence has 105";
    assert!(refused.refusal().contains(said), "{refused:?}");

    fs::remove_file(site.path("logs/b.json")).unwrap();
    let (code, lost) = verify(&site, &["--period", MONTH, &logs]);
    let found = &lost["invoices"][0];
    // Without the second object another hour is the highest.
    assert_eq!((code, &found["by_recount"], &found["stored"]), (4, &json!("90"), &json!("105")), "{lost}");
    assert!(found["hour"].as_str().unwrap().contains("the highest hour"), "{found}");
}
