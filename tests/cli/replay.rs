//! Reading log files: what is named is read, and the last line says what became of it.

use serde_json::{Value, json};

use crate::events::{ACCOUNT, TIME, gzip, object, object_of, record};
use crate::support::{Site, text};

/// The balance without what differs from run to run.
fn check(balance: &Value, expected: Value) {
    let mut balance = balance.clone();
    let members = balance.as_object_mut().unwrap();
    assert!(members.remove("seconds").unwrap().as_f64().unwrap() < 60.0);
    assert!(members.remove("write_units").unwrap().is_u64());
    assert_eq!(balance, expected);
}

fn balance(read: u64, counted: u64, duplicates: u64, files: u64, skipped: u64) -> Value {
    json!({
        "read": read, "counted": counted, "duplicates": duplicates, "not_counted": {}, "dead_letters": {},
        "files": files, "skipped_files": skipped,
    })
}

#[test]
fn the_last_line_is_the_documented_balance() {
    let site = Site::new();
    let records = [record("1234", 1, TIME), record(ACCOUNT, 2, "some day")];
    let log = site.write("odd.json", json!({ "Records": records }).to_string().as_bytes());
    let ran = site.run(["replay", "--json", &log]);
    let found = ran.json();
    let members: Vec<&String> = found.as_object().unwrap().keys().collect();
    let documented = [
        "read",
        "counted",
        "duplicates",
        "not_counted",
        "dead_letters",
        "files",
        "skipped_files",
        "seconds",
        "write_units",
    ];
    assert_eq!(members.len(), documented.len(), "{found}");
    assert!(documented.iter().all(|name| members.iter().any(|member| member == name)), "{found}");
    assert_eq!(found["dead_letters"], json!({ "account_malformed": 1, "event_time_malformed": 1 }));
    assert_eq!(ran.out.lines().count(), 1);
    let ran = site.run(["replay", &log]);
    assert!(ran.succeeded().out.contains("It balances."), "{ran:?}");
    assert!(ran.out.contains("securebase dead-letters list"), "{ran:?}");
}

#[test]
fn files_folders_and_globs_are_all_read_and_again_is_all_duplicates() {
    let site = Site::new();
    let single = site.write("single.json", &object(0..10));
    site.write("folder/deep/a.json.gz", &gzip(&object(10..30)));
    site.write("folder/b.json", &object(30..40));
    site.write("glob/yes-1.json", &object(40..45));
    site.write("glob/yes-2.json", &object(45..50));
    site.write("glob/no.txt", &object(900..999));
    // Relative to the working directory, as a person writes it.
    let paths = ["replay", &single, "folder", "glob/yes-*.json"];
    check(&site.json(paths), balance(50, 50, 0, 5, 0));
    check(&site.json(paths), balance(50, 0, 50, 5, 0));
    assert_eq!(site.counted(), 50);
    let rows = site.usage("account,hour,category");
    let row = json!({
        "account": ACCOUNT, "hour": "2024-03-05T10:00:00Z", "category": "Management", "quantity": "50",
    });
    assert_eq!(rows, [row]);
}

#[test]
fn resume_skips_what_is_done_and_reads_the_rest() {
    let site = Site::new();
    site.write("logs/a.json", &object(0..10));
    site.write("logs/b.json", &object(10..20));
    check(&site.json(["replay", "logs"]), balance(20, 20, 0, 2, 0));
    site.write("logs/c.json", &object(15..25));
    check(&site.json(["replay", "logs", "--resume"]), balance(10, 5, 5, 1, 2));
    check(&site.json(["replay", "logs", "--resume"]), balance(0, 0, 0, 0, 3));
    // The same name with other content is another object.
    site.write("logs/a.json", &object(0..12));
    check(&site.json(["replay", "logs", "--resume"]), balance(12, 0, 12, 1, 2));
    assert_eq!(site.counted(), 25);
}

#[test]
fn names_with_spaces_and_beyond_ascii_are_names() {
    let site = Site::new();
    let log = site.write("Протоколы 2024/lög [1].json", &object(0..3));
    check(&site.json(["replay", &log]), balance(3, 3, 0, 1, 0));
    let folder = site.path("Протоколы 2024");
    check(&site.json(["replay", text(&folder), "--resume"]), balance(0, 0, 0, 0, 1));
}

#[test]
fn usage_is_restricted_by_time_meter_and_customer() {
    let site = Site::new();
    site.write("logs/a.json", &object_of(ACCOUNT, 0..5, "2024-03-31T23:59:59Z"));
    site.write("logs/b.json", &object_of(ACCOUNT, 5..12, "2024-04-01T00:00:00Z"));
    site.write("logs/c.json", &object_of("999999999999", 0..3, "2024-04-01T00:00:00Z"));
    site.json(["replay", "logs"]);
    site.add_customer("acme", "fintech");
    site.register(ACCOUNT, "acme", "2024-01-01T00:00:00Z");
    let rows = |arguments: &[&str]| {
        let answer = site.json([["usage"].as_slice(), arguments].concat());
        assert_eq!(answer["complete_through"], Value::Null);
        answer["rows"].clone()
    };
    let april = ["--from", "2024-04-01T00:00:00Z", "--to", "2024-05-01T00:00:00Z"];
    assert_eq!(
        rows(&[["--customer", "acme", "--group-by", "account,month"].as_slice(), &april].concat()),
        json!([{ "account": ACCOUNT, "month": "2024-04", "quantity": "7" }])
    );
    assert_eq!(
        rows(&["--all", "--group-by", "customer,day"]),
        json!([
            { "customer": null, "day": "2024-04-01", "quantity": "3" },
            { "customer": "acme", "day": "2024-03-31", "quantity": "5" },
            { "customer": "acme", "day": "2024-04-01", "quantity": "7" },
        ])
    );
    assert_eq!(rows(&["--all", "--meter", "guardduty_findings"]), json!([]));
    let ran = site.run(["usage", "--all", "--group-by", "region"]);
    assert!(ran.succeeded().out.contains("eu-central-1") && ran.out.contains("15"), "{ran:?}");
}
