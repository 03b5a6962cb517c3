//! Rate cards, simulation, and what is agreed on with customers.

use serde_json::json;

use crate::events::{ACCOUNT, object_of};
use crate::support::Site;

const START: &str = "2024-01-01T00:00:00Z";

fn card(tier: &str, version: u32, from: &str, base: &str) -> String {
    format!(
        "tier = \"{tier}\"\nversion = {version}\ncurrency = \"USD\"\nvalid_from = {from}\n\n[[fees]]\nid = \"base\"\n\
         kind = \"base\"\ndescription = \"Base fee\"\namount = \"{base}\"\n"
    )
}

#[test]
fn rate_cards_are_checked_loaded_once_and_shown_as_they_were_loaded() {
    let site = Site::new();
    let good = site.write("good.toml", card("standard", 2, "2030-01-01", "2100.00").as_bytes());
    let bad = site.write("bad.toml", card("gold", 0, "2030-01-01", "-1").as_bytes());
    let ran = site.run(["rate-cards", "check", &good, &bad]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let faults: Vec<&str> = ran.err.lines().map(|line| line.rsplit_once("bad.toml: ").unwrap().1).collect();
    assert_eq!(
        faults,
        [
            "card: unknown tier \"gold\": expected one of standard, fintech, healthcare, gov-federal",
            "card: versions count from 1",
            "fee base: `amount` is negative",
        ]
    );
    assert!(!site.home().exists(), "a check needs no home");
    assert_eq!(site.json(["rate-cards", "check", &good])["cards"][0]["card"]["version"], 2);

    let outcome = |value: serde_json::Value| value["cards"][0]["outcome"].clone();
    assert_eq!(outcome(site.json(["rate-cards", "load", &good])), "loaded");
    assert_eq!(outcome(site.json(["rate-cards", "load", &good])), "unchanged");
    assert_eq!(site.json(["rate-cards", "load"])["cards"].as_array().unwrap().len(), 4, "the seeded ones");
    let listed = site.json(["rate-cards", "list"]);
    let standard: Vec<_> =
        listed["cards"].as_array().unwrap().iter().filter(|card| card["tier"] == "standard").collect();
    assert_eq!((&standard[0]["valid_to"], &standard[1]["valid_to"]), (&json!("2030-01-01"), &json!(null)));
    let shown = site.run(["rate-cards", "show", "standard"]);
    assert_eq!(shown.succeeded().out.trim_end(), card("standard", 2, "2030-01-01", "2100.00").trim_end());
    let first = site.run(["rate-cards", "show", "standard", "--version", "1"]);
    assert!(first.succeeded().out.contains("meter = \"log_storage_gb\""), "{first:?}");
    assert!(site.run(["rate-cards", "show", "gold"]).refusal().contains("rate-cards list"));
}

#[test]
fn other_prices_are_tried_out_and_agreements_change_what_is_billed() {
    let site = Site::new();
    let log = site.write("log.json", &object_of(ACCOUNT, 0..10, "2024-03-05T10:00:00Z"));
    site.json(["replay", &log]);
    site.add_customer("acme", "standard");
    site.register(ACCOUNT, "acme", START);
    let trial = site.write("trial.toml", card("standard", 9, "2031-01-01", "2500.00").as_bytes());
    let simulated = site.json(["simulate", "--rate-card", &trial, "--period", "2024-03"]);
    assert_eq!(
        simulated["results"],
        json!([{
            "customer": "acme", "period": "2024-03", "usage": "so_far", "currency": "USD", "total_before": "2160.00",
            "total_after": "2700.00", "difference": "540.00",
        }])
    );
    assert_eq!(simulated["sums"][0]["difference"], "540.00");
    let shown = site.run(["simulate", "--rate-card", &trial, "--period", "2024-03", "--customer", "acme"]);
    let table = &shown.succeeded().out;
    assert!(table.contains("INVOICE (preview, not issued)") && table.contains("+540.00"), "{table}");

    let recorded = json!({ "outcome": "recorded" });
    let tier = ["agree", "tier", "acme", "--tier", "fintech", "--from", "2024-03-17"];
    assert_eq!(site.json(tier), recorded);
    assert_eq!(site.json(tier), json!({ "outcome": "unchanged" }));
    for words in [
        &["agree", "promotion", "acme", "--description", "Pilot", "--off", "0.5", "--first-months", "12"] as &[&str],
        &["tax-rates", "add", "CH", "--rate", "0.081", "--tax", "MWST", "--from", "2024-01-01"],
        &["agree", "jurisdiction", "acme", "--jurisdiction", "CH", "--from", "2024-03-01"],
        &["agree", "exemption", "acme", "--reason", "Reverse charge", "--category", "training", "--from", "2024-03-01"],
        &["coupons", "add", "TEN", "--description", "Welcome", "--percent", "0.1", "--from", "2024-01-01"],
        &["coupons", "redeem", "TEN", "--customer", "acme", "--on", "2024-03-31"],
        &["agree", "end", "acme", "--on", "2024-05-01"],
    ] {
        assert_eq!(site.json(words.iter().copied()), recorded, "{words:?}");
    }
    assert_eq!(site.json(["tax-rates", "list"])["tax_rates"][0]["rate"], "0.081");
    let same = site.write("same.toml", card("healthcare", 9, "2031-01-01", "1.00").as_bytes());
    let shown = site.run(["simulate", "--rate-card", &same, "--period", "2024-03", "--customer", "acme"]);
    for part in [
        "Base fee, standard tier, 16 of 31 days",
        "Base fee, fintech tier, 15 of 31 days",
        "Pilot: 50 % off",
        "Welcome (TEN, 10 %)",
        "MWST CH (8.1 %)",
    ] {
        assert!(shown.succeeded().out.contains(part), "{part}: {}", shown.out);
    }
    for (words, expected) in [
        (&["agree", "tier", "nobody", "--tier", "fintech", "--from", "2024-03-17"] as &[&str], "no customer nobody"),
        (&["coupons", "redeem", "NONE", "--customer", "acme"], "there is no coupon NONE"),
        (&["agree", "tier", "acme", "--tier", "fintech", "--from", "tomorrow"], "expected a day such as"),
        (&["coupons", "add", "X1", "--description", "X", "--amount", "5", "--from", "2024-01-01"], "50.00 USD"),
    ] {
        let ran = site.run(words.iter().copied());
        assert!(ran.refusal().contains(expected), "{ran:?}");
    }
}
