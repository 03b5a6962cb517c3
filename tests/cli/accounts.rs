//! Customers, their accounts and their invoices.

use serde_json::{Value, json};

use crate::events::{ACCOUNT, object_of};
use crate::support::Site;

const START: &str = "2024-01-01T00:00:00Z";

fn of_customers(site: &Site) -> Value {
    site.usage("customer,month").into()
}

#[test]
fn usage_follows_its_account_to_the_customer_registered_before_or_after_it() {
    let site = Site::new();
    let march = site.write("march.json", &object_of(ACCOUNT, 0..10, "2024-03-05T10:00:00Z"));
    site.add_customer("early", "standard");
    site.add_customer("late", "standard");
    // Before its usage, and after it.
    let opened = site.register("000000000001", "early", START);
    assert_eq!((&opened["outcome"], &opened["usage_rows_changed"]), (&json!("opened"), &json!(0)));
    let registered = site.write("registered.json", &object_of("000000000001", 0..3, "2024-03-05T10:00:00Z"));
    site.json(["replay", &march, &registered]);
    assert_eq!(of_customers(&site)[0], json!({ "customer": null, "month": "2024-03", "quantity": "10" }));
    let opened = site.register(ACCOUNT, "late", START);
    assert_eq!((&opened["outcome"], &opened["usage_rows_changed"]), (&json!("opened"), &json!(1)));
    assert_eq!(
        of_customers(&site),
        json!([
            { "customer": "early", "month": "2024-03", "quantity": "3" },
            { "customer": "late", "month": "2024-03", "quantity": "10" },
        ])
    );
    assert_eq!(site.register(ACCOUNT, "late", START)["outcome"], "unchanged");

    // Moved from an hour on: what was before stays.
    let april = site.write("april.json", &object_of(ACCOUNT, 10..17, "2024-04-02T10:00:00Z"));
    site.json(["replay", &april]);
    let moved = site.register(ACCOUNT, "early", "2024-04-01T00:00:00Z");
    assert_eq!((&moved["outcome"], &moved["usage_rows_changed"]), (&json!("moved"), &json!(1)));
    assert_eq!(
        of_customers(&site),
        json!([
            { "customer": "early", "month": "2024-03", "quantity": "3" },
            { "customer": "early", "month": "2024-04", "quantity": "7" },
            { "customer": "late", "month": "2024-03", "quantity": "10" },
        ])
    );
    let accounts = site.json(["accounts", "list"]);
    let account =
        accounts["accounts"].as_array().unwrap().iter().find(|account| account["account"] == ACCOUNT).unwrap();
    assert_eq!(
        account["ownership"],
        json!([
            { "customer": "late", "from": START, "until": "2024-04-01T00:00:00Z" },
            { "customer": "early", "from": "2024-04-01T00:00:00Z", "until": null },
        ])
    );
    let ran = site.run(["accounts", "list"]);
    assert!(ran.succeeded().out.lines().any(|line| line.contains(ACCOUNT) && line.contains("open")), "{ran:?}");
    let before_contract =
        ["accounts", "register", "000000000002", "--customer", "late", "--from", "2023-01-01T00:00:00Z"];
    assert!(site.run(before_contract).refusal().contains("contract starts"));
}

#[test]
fn a_month_is_issued_once_and_shown_by_its_number() {
    let site = Site::new();
    let log = site.write("log.json", &object_of(ACCOUNT, 0..10, "2024-03-05T10:00:00Z"));
    site.json(["replay", &log]);
    site.add_customer("acme", "fintech");
    site.add_customer("bert", "standard");
    site.register(ACCOUNT, "acme", START);
    let run = ["invoice", "run", "--period", "2024-03"];

    let preview = site.json([run.as_slice(), &["--dry-run"]].concat());
    assert_eq!(preview["issued"], 0);
    let outcomes = |report: &Value| -> Vec<Value> {
        report["results"].as_array().unwrap().iter().map(|result| result["outcome"].clone()).collect()
    };
    assert_eq!(outcomes(&preview), ["previewed", "previewed"]);
    assert_eq!(preview["results"][0]["invoice"]["number"], Value::Null);
    let preview = site.json([run.as_slice(), &["--dry-run"]].concat());
    assert_eq!(outcomes(&preview), ["previewed", "previewed"], "a preview writes nothing");

    // Without a close there is nothing to issue from, and nobody waits any more: the draft stays.
    let open = site.run([run.as_slice(), &["--customer", "acme", "--json"]].concat());
    assert_eq!((open.code, open.report()["results"][0]["outcome"].as_str()), (Some(1), Some("unproven")), "{open:?}");
    site.json(["close", "--period", "2024-03"]);
    let one = site.json([run.as_slice(), &["--customer", "acme"]].concat());
    assert_eq!((&one["issued"], &one["failures"]), (&json!(1), &json!(0)));
    let invoice = &one["results"][0]["invoice"];
    let number = invoice["number"].as_str().unwrap();
    assert!(number.starts_with("INV-") && number.ends_with("-0001"), "{number}");
    // 8,000.00 and ten events, 5 % off above 5,000.00, 8 % tax.
    assert_eq!(
        ["subtotal", "volume_discount", "net", "tax", "total"].map(|name| invoice[name].as_str().unwrap()),
        ["8000.00", "400.00", "7600.00", "608.00", "8208.00"]
    );
    assert_eq!(invoice["lines"][1]["quantity"], "10");
    assert_eq!(invoice["usage_source"]["class"], "best effort");
    assert_eq!(invoice["buyer"]["name"], "Käse & Söhne GmbH");

    let all = site.json(run);
    assert_eq!(all["issued"], 1, "the other customer's");
    assert_eq!(outcomes(&all), ["already_issued", "issued"]);
    assert_eq!(&all["results"][0]["invoice"], invoice);
    assert!(all["results"][1]["invoice"]["number"].as_str().unwrap().ends_with("-0002"));
    assert_eq!(site.json(run)["issued"], 0);

    assert_eq!(&site.json(["invoice", "show", number]), invoice);
    let ran = site.run(["invoice", "show", number]);
    for part in [number, "Käse & Söhne GmbH", "8,208.00", "best-effort"] {
        assert!(ran.succeeded().out.contains(part), "{part}: {ran:?}");
    }
    let ran = site.run(run);
    assert!(ran.succeeded().out.contains("issued before"), "{ran:?}");
    // A customer whose contract starts later has no invoice, and that is no failure.
    let start = "2024-06-01T00:00:00Z";
    site.run(["customers", "add", "later", "--name", "L", "--tier", "standard", "--contract-start", start]).succeeded();
    let none = site.json([run.as_slice(), &["--customer", "later"]].concat());
    assert_eq!(outcomes(&none), ["not_under_contract"]);
    assert_eq!((&none["finished"], &none["counts"]), (&json!(true), &json!({ "not_under_contract": 1 })));
}

#[test]
fn the_seller_on_an_invoice_is_the_configured_one() {
    let site = Site::new();
    site.add_customer("acme", "standard");
    site.json(["close", "--period", "2024-03"]);
    let mut command = site.command(["invoice", "run", "--period", "2024-03", "--json"]);
    command.env("SECUREBASE_SELLER_NAME", "Metering Ltd").env("SECUREBASE_SELLER_ADDRESS", "1 High Street");
    let report = crate::support::run(command.env("SECUREBASE_SELLER_TAX_ID", "GB123")).json();
    let seller = json!({ "name": "Metering Ltd", "address": "1 High Street", "tax_id": "GB123" });
    assert_eq!(report["results"][0]["invoice"]["seller"], seller);
}

#[test]
fn adding_a_customer_again_changes_nothing_and_otherwise_is_refused() {
    let site = Site::new();
    let add = |name| ["customers", "add", "acme", "--name", name, "--tier", "standard", "--contract-start", START];
    assert_eq!(site.json(add("Acme")), json!({ "customer": "acme", "outcome": "added" }));
    assert_eq!(site.json(add("Acme")), json!({ "customer": "acme", "outcome": "unchanged" }));
    assert!(site.run(add("Other")).refusal().contains("name"));
}
