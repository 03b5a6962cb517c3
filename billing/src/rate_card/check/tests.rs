use ingest::Meters;

use super::*;

const CARD: &str = include_str!("../../../../rate-cards/standard.toml");

/// Every price model and every other part of a card, once.
pub(crate) const EVERYTHING: &str = r#"
tier = "fintech"
customer = "acme"
version = 3
currency = "USD"
valid_from = 2026-01-01
valid_to = 2027-01-01
order = ["lines", "commitment true-up", "subtotal", "percent coupons", "volume discount", "fixed coupons", "net", "tax", "total",
    "adjustments", "prepaid credit", "due"]

[[fees]]
id = "base"
kind = "base"
description = "Base fee"
amount = "8000.00 USD"

[[fees]]
id = "support"
kind = "recurring"
description = "Premium support"
amount = "500"
tax_category = "services"

[[fees]]
id = "setup"
kind = "one_off"
description = "Set-up"
amount = "1000.00"

[[fees]]
id = "audit"
kind = "one_off"
on = 2026-06-15
description = "Yearly audit"
amount = "2500.00"

[[prices]]
meter = "log_storage_gb"
description = "Stored logs"
unit = "GB-month"
raw_units_per_unit = 1073741824
included = "100"
model = "graduated"
tiers = [
    { from = "0", up_to = "1000", price = "0.03" },
    { from = "1000", price = "0.02", flat = "5" },
]

[[prices]]
meter = "nat_gateway_bytes"
unit = "GiB"
raw_units_per_unit = 1073741824
model = "volume"
tiers = [{ from = 0, up_to = 500, price = "0.045" }, { from = 500, price = "0.04" }]

[[prices]]
meter = "cloudtrail_events"
unit = "million events"
raw_units_per_unit = 1000000
model = "package"
size = "10"
price = "1.50"

[[prices]]
meter = "config_rule_evaluations"
unit = "evaluation"
model = "per_unit"
price = "0.0008"

[[prices]]
meter = "guardduty_findings"
unit = "finding in the busiest hour"
aggregation = "peak"
model = "flat"
price = "49.90"

[commitment]
amount = "9000.00"
counts = ["fees", "cloudtrail_events"]

[volume_discount]
above = "5000.00"
rate = "0.05"

[[phases]]
description = "Pilot"
off = "0.5"
first_months = 6
applies_to = ["base"]

[[phases]]
description = "Summer"
off = "0.1"
from = 2026-06-01
to = 2026-09-01
applies_to = ["usage"]

[annual_prepayment]
fee = "base"
off = "0.15"
"#;

#[test]
fn a_card_reads_as_it_was_written_and_writes_as_it_was_read() {
    for (text, source) in [(CARD, "standard.toml"), (EVERYTHING, "everything.toml")] {
        let card = RateCard::parse(text, source, &Meters::built_in()).unwrap_or_else(|error| panic!("{error}"));
        let written = serde_json::to_string(&card).unwrap();
        assert_eq!(serde_json::from_str::<RateCard>(&written).unwrap(), card, "{written}");
        let toml = toml::to_string(&card).unwrap();
        assert_eq!(RateCard::parse(&toml, "again", &Meters::built_in()).unwrap(), card, "{toml}");
    }
}

/// Replaces the first text by the second in the card with everything and names the faults found.
fn faults(from: &str, to: &str) -> Vec<String> {
    assert!(EVERYTHING.contains(from), "{from}");
    match RateCard::parse(&EVERYTHING.replacen(from, to, 1), "acme.toml", &Meters::built_in()) {
        Ok(_) => Vec::new(),
        Err(error) => error.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_broken_rule_is_named_with_its_file_and_row() {
    for (from, to, expected) in [
        ("\"fintech\"", "\"gold\"", "acme.toml: card: unknown tier \"gold\""),
        ("currency = \"USD\"", "currency = \"XXX\"", "acme.toml: card: unknown currency \"XXX\""),
        ("version = 3", "version = 0", "acme.toml: card: versions count from 1"),
        ("2027-01-01", "2026-01-01", "acme.toml: card: `valid_to`, the first day it is no longer in force"),
        ("\"acme\"", "\"ACME!\"", "acme.toml: card: `customer` is no customer id"),
        ("8000.00 USD", "8000.00 EUR", "acme.toml: fee base: `amount` is in EUR but the card is in USD"),
        ("8000.00 USD", "8000.001", "acme.toml: fee base: `amount` \"8000.001\" is no amount with at most 2 places"),
        ("\"500\"", "\"-500\"", "acme.toml: fee support: `amount` is negative"),
        ("\"recurring\"", "\"weekly\"", "acme.toml: fee support: unknown kind \"weekly\""),
        ("id = \"audit\"", "id = \"setup\"", "acme.toml: fee setup: the id is taken"),
        ("id = \"audit\"", "id = \"usage\"", "acme.toml: fee usage: the id is taken"),
        ("\"nat_gateway_bytes\"", "\"vpn\"", "acme.toml: price of vpn: unknown meter"),
        ("\"nat_gateway_bytes\"", "\"log_storage_gb\"", "acme.toml: price of log_storage_gb: the meter has two prices"),
        ("= 1000000\n", "= \"0.5\"\n", "price of cloudtrail_events: the raw units of one unit are no positive whole"),
        ("\"peak\"", "\"median\"", "acme.toml: price of guardduty_findings: unknown aggregation \"median\""),
        ("\"peak\"", "\"time_weighted\"", "price of guardduty_findings: only a level that lasts, such as storage"),
        ("\"package\"", "\"stairs\"", "acme.toml: price of cloudtrail_events: unknown model \"stairs\""),
        ("size = \"10\"\n", "", "acme.toml: price of cloudtrail_events: the model package needs `size`"),
        ("size = \"10\"", "size = \"0\"", "price of cloudtrail_events: a package has more than 0 units"),
        (
            "model = \"per_unit\"",
            "model = \"volume\"",
            "config_rule_evaluations: the model volume does not take `price`",
        ),
        ("included = \"100\"", "included = \"-1\"", "price of log_storage_gb: `included` has negative units"),
        ("price = \"0.0008\"", "price = \"-0.0008\"", "price of config_rule_evaluations: a price is 0 or more, below"),
        (
            "from = \"1000\"",
            "from = \"1001\"",
            "price of log_storage_gb, tier 2: begins at 1001 but the tier before ends",
        ),
        (
            "from = 500",
            "from = 499",
            "price of nat_gateway_bytes, tier 2: begins at 499 but the tier before ends at 500: an",
        ),
        ("up_to = 500, ", "", "acme.toml: price of nat_gateway_bytes, tier 2: stands behind a tier without end"),
        ("from = 0", "from = -1", "acme.toml: price of nat_gateway_bytes, tier 1: has negative units"),
        ("\"cloudtrail_events\"]", "\"vpn\"]", "acme.toml: commitment: \"vpn\" is no fee and no price of this card"),
        ("rate = \"0.05\"", "rate = \"5\"", "acme.toml: volume_discount: 5 is not a rate"),
        ("first_months = 6", "first_months = 0", "acme.toml: phase 1: has either `first_months`, of 1 or more"),
        ("to = 2026-09-01", "to = 2026-06-01", "acme.toml: phase 2: has either `first_months`"),
        ("fee = \"base\"", "fee = \"setup\"", "acme.toml: annual_prepayment: \"setup\" is no monthly fee"),
        ("\"net\", \"tax\"", "\"tax\", \"net\"", "acme.toml: order: expected the steps lines, commitment true-up"),
        ("\"volume discount\"", "\"percent coupons\"", "acme.toml: order: expected the steps"),
        (
            "price = \"0.0008\"",
            "price = 0.0008",
            "acme.toml: line 68: invalid type: floating point `0.0008`, expected a",
        ),
        ("version = 3", "version = 3\ncolour = 1", "acme.toml: line 5: unknown field `colour`"),
        ("2026-01-01", "yesterday", "acme.toml: line 6"),
    ] {
        let found = faults(from, to);
        assert!(found.iter().any(|fault| fault.contains(expected)), "{from} -> {to}: {found:#?} lacks {expected}");
    }
}

#[test]
fn all_broken_rules_are_named_at_once() {
    let text = EVERYTHING.replacen("\"500\"", "\"-500\"", 1).replacen("first_months = 6", "first_months = 0", 1);
    let error = RateCard::parse(&text, "acme.toml", &Meters::built_in()).unwrap_err();
    assert_eq!(error.0.len(), 2, "{error}");
    assert_eq!(error.to_string().lines().count(), 2);
}

#[test]
fn a_meter_that_is_data_is_priced_by_its_definition_or_by_what_the_card_says() {
    use ingest::{MeterDefinition, SampleMeter};
    let of_meter = |rest: &str| {
        let price = format!(
            "[[prices]]\nmeter = \"queue_depth\"\nunit = \"message\"\nmodel = \"per_unit\"\nprice = \"1\"\n{rest}"
        );
        format!("tier = \"standard\"\nversion = 1\ncurrency = \"USD\"\nvalid_from = 2026-01-01\n{price}")
    };
    let name = SampleMeter::parse("queue_depth").unwrap();
    let level = MeterDefinition::of_samples(name, ingest::Aggregation::TimeWeighted, Some(60), String::new()).unwrap();
    let meters = Meters::with_samples([level]);
    let found = |rest: &str, meters: Option<&Meters>| match RateCard::parse(&of_meter(rest), "q.toml", meters) {
        Ok(card) => format!("{} {}", card.prices[0].aggregation.as_str(), card.prices[0].raw_unit.as_str()),
        Err(error) => error.to_string(),
    };
    let row = "q.toml: price of queue_depth";
    assert_eq!(found("", Some(&meters)), "time_weighted unit_second");
    assert_eq!(found("raw_unit = \"each\"", Some(&meters)), format!("{row}: `raw_unit` is unit_second"));
    assert_eq!(found("", Some(&Meters::built_in())), format!("{row}: unknown meter"));
    assert_eq!(found("raw_unit = \"unit_second\"", None), "time_weighted unit_second");
    assert_eq!(found("raw_unit = \"each\"\naggregation = \"peak\"", None), "peak each");
    assert_eq!(found("raw_unit = \"each\"", None), format!("{row}: needs its `aggregation`: sum or peak"));
    assert!(found("", None).contains("one that is data says its `raw_unit`"), "{}", found("", None));
    let card = RateCard::parse(&of_meter(""), "q.toml", &meters).unwrap();
    let written = serde_json::to_string(&card).unwrap();
    assert_eq!(serde_json::from_str::<RateCard>(&written).unwrap(), card, "a stored card needs no definition");
    let marker = of_meter("").replace("queue_depth", "export_generations");
    let error = RateCard::parse(&marker, "q.toml", &meters).unwrap_err().to_string();
    assert_eq!(error, "q.toml: price of export_generations: the meter says what becomes of others and has no price");
}
