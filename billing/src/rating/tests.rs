use chrono::NaiveDate;
use ingest::Meters;
use proptest::prelude::*;

use super::*;
use crate::period::Month;
use crate::rate_card::RateCard;
use crate::terms::tests::{card, day, terms};
use crate::terms::{PrepaidFee, Stretch};
use crate::tier::Tier;
use crate::usage::tests::{in_month, on_day};

const GIB: i128 = 1 << 30;

fn toml(text: &str) -> RateCard {
    let head = "tier = \"standard\"\nversion = 1\ncurrency = \"USD\"\nvalid_from = 2026-01-01\n";
    RateCard::parse(&format!("{head}{text}"), "test.toml", &Meters::built_in())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn lines(terms: &Terms, usage: &Usage) -> Vec<Line> {
    rate(terms, usage).unwrap_or_else(|error| panic!("{error}")).lines
}

/// Lines as `item amount`.
fn written(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| format!("{} {}", line.item, line.amount)).collect()
}

fn check(tier: Tier, meter: Meter, raw: i128, minor: i64) {
    let lines = lines(&terms(card(tier), "2026-10"), &in_month("2026-10", &[(meter, raw)]));
    assert_eq!((lines.len(), lines[1].meter(), lines[1].amount.minor()), (2, Some(meter), minor), "{raw} of {meter}");
}

#[test]
fn half_a_cent_of_a_line_rounds_to_the_even_cent() {
    for (evaluations, minor) in [(0, 0), (5, 0), (6, 1), (15, 2), (25, 2), (35, 4), (5_000, 500)] {
        check(Tier::Standard, Meter::ConfigRuleEvaluations, evaluations, minor);
    }
    // 25,000 events cost exactly half a cent and 75,000 one and a half.
    for (events, minor) in [(24_999, 0), (25_000, 0), (25_001, 1), (75_000, 2)] {
        check(Tier::Standard, Meter::CloudTrailEvents, events, minor);
    }
}

#[test]
fn each_tier_pays_its_own_price() {
    for (tier, minors) in [
        (Tier::Standard, [300, 4_500, 20, 500, 100]),
        (Tier::Fintech, [250, 4_000, 15, 400, 80]),
        (Tier::Healthcare, [250, 4_000, 15, 400, 80]),
        (Tier::GovFederal, [200, 3_500, 10, 300, 60]),
    ] {
        let raws = [100 * GIB * 2_678_400, 1_000 * GIB, 1_000_000, 5_000, 20];
        for ((meter, raw), minor) in Meter::PRICED.into_iter().zip(raws).zip(minors) {
            check(tier, meter, raw, minor);
        }
    }
}

#[test]
fn a_meter_that_reported_nothing_has_no_line_and_one_that_reported_zero_has() {
    let terms = terms(card(Tier::Standard), "2026-10");
    let nothing = rate(&terms, &Usage::default()).unwrap();
    assert_eq!((nothing.lines.len(), nothing.meters_without_usage), (1, Meter::PRICED.to_vec()));
    let zero = rate(&terms, &in_month("2026-10", &[(Meter::CloudTrailEvents, 0)])).unwrap();
    assert_eq!(written(&zero.lines), ["base 2,000.00", "cloudtrail_events 0.00"]);
    assert!(!zero.meters_without_usage.contains(&Meter::CloudTrailEvents));
}

#[test]
fn a_contract_pays_from_the_day_it_starts() {
    for (start, days, minor, description) in [
        ("2026-01-01", 31, 200_000, "Base fee, standard tier"),
        ("2026-10-01", 31, 200_000, "Base fee, standard tier"),
        ("2026-10-15", 17, 109_677, "Base fee, standard tier, 17 of 31 days"),
        ("2026-10-31", 1, 6_452, "Base fee, standard tier, 1 of 31 days"),
    ] {
        let mut terms = terms(card(Tier::Standard), "2026-10");
        terms.contract_start = day(start);
        terms.stretches[0].days = terms.days().unwrap();
        let line = &lines(&terms, &Usage::default())[0];
        assert_eq!(
            (line.quantity.raw(), line.amount.minor(), line.description.as_str()),
            (&Fraction::whole(days), minor, description),
            "{start}"
        );
    }
}

/// A month whose customer changes from one card to another on a day.
fn changed(from: RateCard, to: RateCard, month: &str, change: NaiveDate) -> Terms {
    let mut terms = terms(from, month);
    let days = terms.month.all_days().split_at([change]);
    terms.stretches[0].days = days[0];
    if let Some(second) = days.get(1) {
        terms.stretches.push(Stretch { days: *second, rate_card_id: None, card: to });
    } else if terms.month.first_day() == change {
        terms.stretches[0].card = to;
    }
    terms
}

#[test]
fn a_change_of_tier_splits_the_month_at_midnight() {
    let terms = changed(card(Tier::Standard), card(Tier::Fintech), "2026-10", day("2026-10-15"));
    let mut usage = Usage::default();
    for (on, gib) in [("2026-10-14", 1_000), ("2026-10-15", 1_000), ("2026-10-31", 1_000)] {
        usage.add(on_day(Meter::NatGatewayBytes, on, Fraction::whole(gib * GIB))).unwrap();
    }
    let lines = lines(&terms, &usage);
    let found: Vec<String> = lines.iter().map(|line| format!("{}: {}", line.description, line.amount)).collect();
    assert_eq!(
        found,
        [
            "Base fee, standard tier, 14 of 31 days: 903.23",
            "Base fee, fintech tier, 17 of 31 days: 4,387.10",
            "NAT gateway traffic, 2026-10-01 to 2026-10-14: 45.00",
            "NAT gateway traffic, 2026-10-15 to 2026-10-31: 80.00",
        ]
    );
    let windows: Vec<String> = lines[2..]
        .iter()
        .map(|line| line.windows.unwrap())
        .map(|windows| format!("{} to {}: {}", windows.start(), windows.end(), windows.count))
        .collect();
    assert_eq!(
        windows,
        ["2026-10-14T00:00:00Z to 2026-10-14T01:00:00Z: 1", "2026-10-15T00:00:00Z to 2026-10-31T01:00:00Z: 2"]
    );
}

const GRADUATED: &str = r#"
[[prices]]
meter = "nat_gateway_bytes"
unit = "GiB"
raw_units_per_unit = 1073741824
included = "10"
model = "graduated"
tiers = [{ from = 0, up_to = 100, price = "1" }, { from = 100, price = "0.5" }]
"#;

#[test]
fn a_line_says_which_tiers_were_used_and_what_more_would_cost() {
    let lines = lines(&terms(toml(GRADUATED), "2026-10"), &in_month("2026-10", &[(Meter::NatGatewayBytes, 111 * GIB)]));
    let pricing = &lines[0].pricing;
    let steps: Vec<String> = pricing.steps.iter().map(|s| format!("{} at {}", s.units, s.price.decimal())).collect();
    assert_eq!(steps, ["10 at 0", "100 at 1", "1 at 0.5"]);
    assert_eq!((pricing.model.as_str(), pricing.aggregation), ("graduated", Some(Aggregation::Sum)));
    assert_eq!((pricing.marginal.price.decimal().to_string().as_str(), lines[0].amount.minor()), ("0.5", 10_050));
    assert_eq!(pricing.list_minor, Fraction::whole(10_050));
}

#[test]
fn tiers_and_allowances_begin_anew_where_the_card_changes_and_are_not_prorated() {
    let terms = changed(toml(GRADUATED), toml(&GRADUATED.replace("\"0.5\"", "\"0.4\"")), "2026-10", day("2026-10-16"));
    let mut usage = Usage::default();
    for on in ["2026-10-15", "2026-10-16"] {
        usage.add(on_day(Meter::NatGatewayBytes, on, Fraction::whole(111 * GIB))).unwrap();
    }
    assert_eq!(written(&lines(&terms, &usage)), ["nat_gateway_bytes 100.50", "nat_gateway_bytes 100.40"]);
}

#[test]
fn a_peak_is_the_highest_hour_and_a_part_of_the_month_costs_part_of_it() {
    let peak = r#"
[[prices]]
meter = "log_storage_gb"
aggregation = "peak"
unit = "GiB at the peak"
raw_units_per_unit = 1073741824
model = "per_unit"
price = "0.31"
"#;
    let mut usage = Usage::default();
    for (on, gib) in [("2026-10-02", 100), ("2026-10-20", 50)] {
        usage.add(on_day(Meter::LogStorageGb, on, Fraction::whole(gib * GIB * 3_600))).unwrap();
    }
    assert_eq!(written(&lines(&terms(toml(peak), "2026-10"), &usage)), ["log_storage_gb 31.00"]);
    let halves = changed(toml(peak), toml(peak), "2026-10", day("2026-10-11"));
    let lines = lines(&halves, &usage);
    let found: Vec<String> = lines.iter().map(|line| format!("{}: {}", line.description, line.amount)).collect();
    assert_eq!(found, ["Log storage, 10 of 31 days: 10.00", "Log storage, 21 of 31 days: 10.50"]);
}

#[test]
fn a_commitment_is_prorated_and_charges_what_its_lines_lack() {
    let card = || {
        toml(
            r#"
[[fees]]
id = "base"
kind = "base"
description = "Base fee"
amount = "100"

[[prices]]
meter = "guardduty_findings"
unit = "finding"
model = "per_unit"
price = "1"

[commitment]
amount = "310.00"
counts = ["usage"]
"#,
        )
    };
    let found = |findings: i128| {
        let usage = in_month("2026-10", &[(Meter::GuardDutyFindings, findings)]);
        let rated = lines(&terms(card(), "2026-10"), &usage);
        rated.get(2).map(|line| format!("{}: {}", line.description, line.amount))
    };
    assert_eq!(found(309).unwrap(), "Minimum commitment, true-up from 309.00 to 310.00: 1.00");
    assert_eq!(found(310), None);
    assert_eq!(found(1_000), None);
    let mut terms = terms(card(), "2026-10");
    terms.contract_start = day("2026-10-22");
    terms.stretches[0].days = terms.days().unwrap();
    let prorated = lines(&terms, &Usage::default());
    assert_eq!(written(&prorated), ["base 32.26", "commitment 100.00"]);
    // Each card's commitment is for its own days: what was used under another counts there.
    let two = changed(card(), card(), "2026-10", day("2026-10-16"));
    let split = lines(&two, &in_month("2026-10", &[(Meter::GuardDutyFindings, 400)]));
    let owed: Vec<String> = written(&split).into_iter().filter(|line| line.starts_with("commitment")).collect();
    assert_eq!(owed, ["commitment 160.00"], "16 of 31 days without usage");
}

#[test]
fn fees_are_charged_once_or_monthly_and_phases_take_off_their_share() {
    let card = toml(
        r#"
[[fees]]
id = "base"
kind = "base"
description = "Base fee"
amount = "99.99"

[[fees]]
id = "support"
kind = "recurring"
description = "Support"
amount = "50"

[[fees]]
id = "setup"
kind = "one_off"
description = "Set-up"
amount = "500"

[[fees]]
id = "audit"
kind = "one_off"
on = 2026-11-30
description = "Audit"
amount = "250"

[[phases]]
description = "Pilot"
off = "0.5"
first_months = 6
applies_to = ["base", "setup"]
"#,
    );
    let found = |month: &str, start: &str| {
        let mut terms = terms(card.clone(), month);
        terms.contract_start = day(start);
        terms.stretches[0].days = terms.days().unwrap();
        written(&lines(&terms, &Usage::default()))
    };
    // 49.995 rounds half to even.
    assert_eq!(found("2026-10", "2026-10-01"), ["base 50.00", "support 50.00", "setup 250.00"]);
    assert_eq!(found("2026-11", "2026-10-01"), ["base 50.00", "support 50.00", "audit 250.00"]);
    // The phase of a contract from the 16th of May ends within November: 15 of 30 days at half, 15 in full.
    assert_eq!(found("2026-11", "2026-05-16"), ["base 25.00", "base 49.99", "support 50.00", "audit 250.00"]);
    assert_eq!(found("2026-12", "2026-05-16"), ["base 99.99", "support 50.00"]);
}

#[test]
fn a_prepaid_fee_costs_nothing_on_its_days_and_in_its_tier() {
    let mut terms = changed(card(Tier::Standard), card(Tier::Fintech), "2026-10", day("2026-10-21"));
    terms.prepaid.push(PrepaidFee {
        fee: "base".into(),
        tier: Tier::Standard,
        days: Days::new(day("2025-10-11"), day("2026-10-11")).unwrap(),
        invoice: "INV-2025-10-0007".into(),
    });
    let lines = lines(&terms, &Usage::default());
    assert_eq!(written(&lines), ["base 0.00", "base 645.16", "base 2,838.71"]);
    assert_eq!(lines[0].pricing.reduction.as_ref().unwrap().name, "prepaid by INV-2025-10-0007");
    // What was paid for one tier covers no other.
    terms.prepaid[0].days = Days::new(day("2025-10-26"), day("2026-10-26")).unwrap();
    assert_eq!(written(&self::lines(&terms, &Usage::default())), ["base 0.00", "base 2,838.71"]);
}

#[test]
fn usage_beyond_any_amount_is_an_error_that_names_its_line() {
    let beyond =
        rate(&terms(card(Tier::Standard), "2026-10"), &in_month("2026-10", &[(Meter::GuardDutyFindings, i128::MAX)]));
    assert_eq!(
        beyond,
        Err(RatingError::Line { line: "guardduty_findings".to_owned(), source: AmountError::OutOfRange })
    );
}

#[test]
fn a_quantity_of_eighteen_places_at_a_price_of_twelve_is_exact() {
    let card = toml(
        r#"
[[prices]]
meter = "log_storage_gb"
unit = "GB-month"
raw_units_per_unit = 1073741824
model = "per_unit"
price = "0.023456789012"
"#,
    );
    // 65 TB for a month and a part of a byte-second: beyond what fits 128 bits as a fraction.
    let total = Fraction::parse("191000000000000000000000.123456789012345679").unwrap();
    let mut usage = Usage::default();
    usage.add(on_day(Meter::LogStorageGb, "2026-10-01", total.clone())).unwrap();
    let line = &lines(&terms(card, "2026-10"), &usage)[0];
    let per = Fraction::whole(GIB * 2_678_400);
    let exact =
        total.checked_div(&per).and_then(|gb| gb.checked_mul(&Fraction::parse("2.3456789012").unwrap())).unwrap();
    assert_eq!((&line.exact_minor, line.amount.minor()), (&exact, 155_785_353));
}

fn any_meter() -> impl Strategy<Value = Meter> {
    proptest::sample::select(Meter::PRICED.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn more_usage_never_costs_less(
        tier in proptest::sample::select(Tier::ALL.to_vec()),
        meter in any_meter(),
        raw in 0_i128..1_000_000_000_000_000_000_000,
        more in 0_i128..1_000_000_000_000,
    ) {
        let terms = terms(card(tier), "2026-10");
        let amount = |raw| rate(&terms, &in_month("2026-10", &[(meter, raw)])).map(|rated| rated.lines[1].amount.minor());
        match (amount(raw), amount(raw + more)) {
            (Ok(less), Ok(more)) => prop_assert!(less <= more),
            (Err(_), more) => prop_assert!(more.is_err(), "what is out of range stays out of range"),
            (Ok(_), Err(_)) => {}
        }
    }

    #[test]
    fn the_order_in_which_usage_arrives_changes_no_line(
        rows in proptest::collection::vec((any_meter(), 1_u32..=31, 0_i128..1_000_000_000_000), 0..20),
        turn in proptest::num::usize::ANY,
    ) {
        let usage = |rows: &[(Meter, u32, i128)]| {
            let mut usage = Usage::default();
            for (meter, on, raw) in rows {
                usage.add(on_day(*meter, &format!("2026-10-{on:02}"), Fraction::whole(*raw))).unwrap();
            }
            usage
        };
        let mut turned = rows.clone();
        turned.reverse();
        let middle = turn % turned.len().max(1);
        turned.rotate_left(middle);
        let terms = changed(card(Tier::Standard), card(Tier::Fintech), "2026-10", day("2026-10-16"));
        prop_assert_eq!(rate(&terms, &usage(&rows)).unwrap(), rate(&terms, &usage(&turned)).unwrap());
    }

    /// Every length of month, leap days and the end of the year; a change of tier on each day of each.
    #[test]
    fn the_parts_of_a_month_sum_to_it_on_whichever_day_the_tier_changes(
        fee in 0_i64..10_000_000,
        usage_days in proptest::collection::vec((1_u32..=28, 0_i128..1_000_000_000_000), 0..6),
    ) {
        let text = format!(
            "[[fees]]\nid = \"base\"\nkind = \"base\"\ndescription = \"Base fee\"\namount = \"{}.{:02}\"\n[[prices]]\n\
             meter = \"nat_gateway_bytes\"\nunit = \"GiB\"\nmodel = \"per_unit\"\nprice = \"0.045\"", fee / 100, fee % 100
        );
        let card = toml(&text);
        for month in ["2026-02", "2028-02", "2100-02", "2026-04", "2026-10", "2026-12", "2027-01"] {
            let of_month = Month::parse(month).unwrap();
            let mut usage = Usage::default();
            for (on, raw) in &usage_days {
                usage.add(on_day(Meter::NatGatewayBytes, &format!("{month}-{on:02}"), Fraction::whole(*raw))).unwrap();
            }
            let used: i128 = usage_days.iter().map(|(_, raw)| raw).sum();
            for offset in 0..of_month.days() {
                let change = of_month.first_day() + chrono::Days::new(u64::from(offset));
                let mut terms = changed(card.clone(), card.clone(), month, change);
                terms.contract_start = day("2020-01-01");
                let rated = lines(&terms, &usage);
                let (fees, usage_lines): (Vec<&Line>, Vec<&Line>) =
                    rated.iter().partition(|line| line.kind == LineKind::BaseFee);
                prop_assert_eq!(fees.iter().map(|line| line.amount.minor()).sum::<i64>(), fee, "{}", change);
                prop_assert_eq!(fees.iter().map(|line| line.days.count()).sum::<u32>(), of_month.days());
                let sum = |values: Vec<&Fraction>| {
                    values.into_iter().try_fold(Fraction::zero(), |sum, value| sum.checked_add(value)).unwrap()
                };
                prop_assert_eq!(sum(fees.iter().map(|line| &line.exact_minor).collect()), Fraction::whole(fee.into()));
                let raw = sum(usage_lines.iter().map(|line| line.quantity.raw()).collect());
                prop_assert_eq!(raw, Fraction::whole(used), "each window is charged once");
            }
        }
    }
}
