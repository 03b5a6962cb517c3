//! A month in every form it is delivered, counted again by `verify`: what agrees, and what was lost or changed.

use std::fs;

use benches::landing_zone::{
    DECLARED_FILE, EVENTS_FOLDER, EXPORT_FOLDER, LandingZone, SAMPLES_FOLDER, TRAIL_BUCKET, write,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::{Site, block_on};

const MONTH: &str = "2026-10";

fn verify(site: &Site, options: &[&str], paths: &[String]) -> (Option<i32>, Value) {
    let mut command = site.command(["verify", "--json"].iter().chain(options));
    let ran = crate::support::run(command.args(paths));
    (ran.code, ran.report())
}

fn count(answer: &Value, kind: &str) -> usize {
    answer[kind].as_array().unwrap_or_else(|| panic!("{kind}: {answer}")).len()
}

/// Adds so much to every usage row of NAT gateways in one hour; how many rows there are.
fn shift(site: &Site, by: i64) -> u64 {
    block_on(async {
        let url = site.database.as_ref().unwrap().superuser_url();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let update = "update usage_rows set total = total + $1
            where meter = 'nat_gateway_bytes' and window_start = '2026-10-07T05:00:00Z'";
        sqlx::query(update).bind(by).execute(&mut connection).await.unwrap().rows_affected()
    })
}

#[test]
fn every_form_is_recounted_and_what_was_lost_or_changed_is_named() {
    let site = Site::new();
    let from: DateTime<Utc> = DateTime::parse_from_rfc3339("2026-10-01T00:00:00Z").unwrap().to_utc();
    let usual = LandingZone::new(7, 1, from, 31);
    let zone = LandingZone { accounts_each: 1, events: 300, findings_each: 4, evaluations_each: 20, ..usual };
    let answer = write(&site.path("month"), &zone).unwrap();
    site.add_customer("acme", "fintech");
    for life in &answer.accounts {
        site.register(&life.account, "acme", "2024-01-01T00:00:00Z");
    }
    let declared = site.path("month").join(DECLARED_FILE);
    fs::create_dir_all(site.home()).unwrap();
    fs::copy(&declared, site.home().join("sources.toml")).unwrap();
    // Without the digest files, of which there are many.
    let folders = ["trail-logs/AWSLogs/*/CloudTrail", EVENTS_FOLDER, SAMPLES_FOLDER, EXPORT_FOLDER];
    let paths = folders.map(|name| site.path("month").join(name).to_str().unwrap().to_owned());
    let replayed = crate::support::run(site.command(["replay", "--json"]).args(&paths)).json();
    let of_others: u64 = folders[1..].iter().map(|name| answer.records[*name]).sum();
    let records = of_others + answer.records[TRAIL_BUCKET] - answer.digests;
    assert_eq!(replayed["read"], records, "{replayed}");
    assert_eq!(replayed["dead_letters"], json!({}));

    site.run(["close", "--period", MONTH]).succeeded();
    let issued = site.json(["invoice", "run", "--period", MONTH]);
    assert_eq!(issued["issued"], 1, "{issued}");

    let period = ["--period", MONTH];
    let (code, same) = verify(&site, &period, &paths);
    assert_eq!((code, &same["agrees"]), (Some(0), &json!(true)), "{same}");
    assert_eq!(same["read"]["records"], records);
    assert!(2_000 < same["read"]["facts"].as_u64().unwrap(), "{same}");

    // A row that somebody changed, in one hour of one account.
    assert_eq!(shift(&site, 1), 2, "a row for each Region");
    let (code, changed) = verify(&site, &period, &paths);
    assert_eq!((code, count(&changed, "usage_rows"), count(&changed, "facts")), (Some(4), 1, 0), "{changed}");
    let row = &changed["usage_rows"][0];
    assert_eq!((&row["meter"], &row["hour"]), (&json!("nat_gateway_bytes"), &json!("2026-10-07T05:00:00Z")));
    shift(&site, -1);

    // Samples of a day that the given logs lack: in the facts, the rows, the close, and two lines of the invoice.
    let lacking = site.path("lacking");
    fs::create_dir_all(&lacking).unwrap();
    for sample in fs::read_dir(&paths[2]).unwrap().map(|entry| entry.unwrap()) {
        if sample.file_name() != "2026-10-20.json" {
            fs::copy(sample.path(), lacking.join(sample.file_name())).unwrap();
        }
    }
    let mut fewer = paths.clone();
    fewer[2] = lacking.to_str().unwrap().to_owned();
    let (code, lost) = verify(&site, &period, &fewer);
    assert_eq!((code, &lost["counters"]), (Some(4), &json!([])));
    for kind in ["facts", "usage_rows", "closes"] {
        assert!(24 <= count(&lost, kind), "{kind}: {}", lost[kind]);
    }
    assert_eq!(lost["facts"][0]["only_in_logs"], json!([]));
    let lines: Vec<&Value> = lost["invoices"].as_array().unwrap().iter().map(|one| &one["meter"]).collect();
    assert_eq!(lines, ["log_storage_gb", "nat_gateway_bytes"]);
    // A finding, an evaluation and an event that nobody counted.
    let more = [paths[0].clone(), paths[3].clone()];
    let (_, without) = verify(&site, &period, &more);
    let meters: std::collections::BTreeSet<&str> =
        without["counters"].as_array().unwrap().iter().map(|one| one["meter"].as_str().unwrap()).collect();
    assert_eq!(meters, ["cloudtrail_events", "config_rule_evaluations", "guardduty_findings"].into());

    // What a customer sees, without the stores.
    let evidence = site.path("evidence").to_str().unwrap().to_owned();
    site.run(["evidence", "export", "--period", MONTH, "--customer", "acme", "--out", &evidence]).succeeded();
    let away = Site::without_database();
    let options = ["--evidence", &evidence, "--sources", declared.to_str().unwrap()];
    let (code, same) = verify(&away, &options, &paths);
    assert_eq!((code, &same["agrees"], &same["lines_not_checked"]), (Some(0), &json!(true), &json!({})), "{same}");
    assert_eq!(same["lines"], same["lines_agreeing"]);
    let (code, lost) = verify(&away, &options, &fewer);
    assert_eq!((code, &lost["agrees"]), (Some(4), &json!(false)));
    // The invoice bills what its evidence has, to the byte-second.
    let number = issued["results"][0]["invoice"]["number"].as_str().unwrap();
    let mut invoice = site.json(["invoice", "show", number]);
    let with_invoice = |invoice: &Value| {
        let file = site.write("invoice.json", invoice.to_string().as_bytes());
        let options = ["verify", "--evidence", &evidence, "--invoice", &file, "--sources", declared.to_str().unwrap()];
        crate::support::run(away.command(options).args(&paths))
    };
    with_invoice(&invoice).succeeded();
    let line =
        invoice["lines"].as_array_mut().unwrap().iter_mut().find(|line| line["meter"] == "log_storage_gb").unwrap();
    line["quantity_raw"] = json!(format!("{}1", line["quantity_raw"].as_str().unwrap()));
    let refused = with_invoice(&invoice);
    assert!(
        refused.refusal().contains("of log_storage_gb (2026-10-01 to before 2026-11-01), its evidence has"),
        "{refused:?}"
    );
    let trail_only = verify(&away, &options, &paths[..1]).1;
    assert!(744 <= trail_only["lines_not_checked"]["nat_gateway_bytes"].as_u64().unwrap(), "{trail_only}");

    // Late usage: the newer cut is the recount's, and the invoice still bills the cut it was made from.
    let late = json!({
        "specversion": "1.0", "id": "late", "source": "/collector", "type": "nat_gateway_bytes",
        "subject": answer.accounts[0].account, "time": "2026-10-20T01:00:00Z",
        "data": { "resource": "nat-late", "value": 5, "unit": "KiB" },
    });
    let late = site.write("late.json", late.to_string().as_bytes());
    site.json(["replay", &late]);
    site.run(["close", "--period", MONTH]).succeeded();
    let all = [paths.to_vec(), vec![late]].concat();
    let (code, same) = verify(&site, &period, &all);
    assert_eq!((code, &same["agrees"]), (Some(0), &json!(true)), "{same}");
}
