//! The demo on one home, again and again.

use crate::events::object;
use crate::support::{Site, text};

/// The invoice numbers that a demo names, in order.
fn numbers(out: &str) -> Vec<&str> {
    out.split_whitespace().filter(|word| word.starts_with("INV-")).collect()
}

#[test]
fn the_demo_ends_with_an_invoice_and_again_with_the_same_one() {
    let site = Site::without_database();
    let first = site.run(["demo", "--exit", "--events", "2000"]);
    assert!(first.succeeded().out.contains("It balances."), "{first:?}");
    assert!(first.out.contains("TOTAL USD"), "{first:?}");
    assert!(first.out.lines().any(|line| line == "Difference 0."), "{first:?}");
    for meter in
        ["cloudtrail_events", "guardduty_findings", "config_rule_evaluations", "nat_gateway_bytes", "log_storage_gb"]
    {
        let of_meter: Vec<&str> = first.out.lines().filter(|line| line.starts_with(meter)).collect();
        assert!(of_meter.iter().any(|line| line.trim_end().ends_with(" 0")), "{meter}: {first:?}");
    }
    assert_eq!(first.err, "");
    let second = site.run(["demo", "--exit", "--events", "2000"]);
    assert!(
        second.succeeded().out.lines().any(|line| line.starts_with("counted") && line.ends_with(" 0")),
        "{second:?}"
    );
    assert!(!numbers(&first.out).is_empty());
    assert_eq!(numbers(&first.out), numbers(&second.out));
    let invoice = |out: &str| out[out.find("INVOICE INV-").unwrap()..].to_owned();
    assert_eq!(invoice(&first.out), invoice(&second.out));
    let number = numbers(&first.out)[0];
    assert!(site.run(["invoice", "show", number]).succeeded().out.contains("TOTAL USD"));
}

#[test]
fn the_demo_reads_ones_own_logs_and_bills_only_its_own_customers() {
    let site = Site::new();
    site.add_customer("real", "gov-federal");
    site.write("logs/a.json", &object(0..30));
    let ran = site.run(["demo", "--exit", "--logs", text(&site.path("logs"))]);
    assert!(ran.succeeded().out.contains("INVOICE INV-"), "{ran:?}");
    assert!(!ran.out.contains("real"), "{ran:?}");
    let preview = site.json(["invoice", "run", "--period", "2024-03", "--customer", "real", "--dry-run"]);
    assert_eq!(preview["results"][0]["outcome"], "previewed", "not issued yet");
    site.write("empty/note.txt", b"");
    let none = site.run(["demo", "--exit", "--logs", text(&site.path("missing"))]);
    assert!(none.refusal().contains("missing"), "{none:?}");
}
