//! Every model, kind, correction and edge as a reviewed invoice. Pure: terms and usage go in, text comes out.

use billing::{
    Correction, Coupon, CouponValue, Currency, Days, Evidence, Fraction, Head, Invoice, InvoiceDocument, Money, Month,
    Party, Phase, PrepaidFee, RateCard, RedeemedCoupon, Share, SourceClass, Span, Standing, Stretch, TaxRate, Terms,
    Tier, Usage, UsagePart, Windows, annual_prepayment, draft, render_csv, render_text, seeded,
};
use chrono::NaiveDate;
use ingest::{Meter, Meters, Timestamp};
use rust_decimal::Decimal;

use crate::golden::check;

const GIB: i128 = 1 << 30;

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn days(start: &str, end: &str) -> Days {
    Days::new(day(start), day(end)).unwrap()
}

fn share(text: &str) -> Share {
    Share::new(text.parse().unwrap()).unwrap()
}

fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::Usd)
}

/// A card of the standard tier from its fees, prices and the rest.
fn card(rest: &str) -> RateCard {
    let head = "tier = \"standard\"\nversion = 7\ncurrency = \"USD\"\nvalid_from = 2020-01-01\n";
    RateCard::parse(&format!("{head}{rest}"), "gallery.toml", &Meters::built_in()).unwrap_or_else(|e| panic!("{e}"))
}

fn terms(card: RateCard, month: &str) -> Terms {
    let month = Month::parse(month).unwrap();
    Terms {
        customer: "anna".into(),
        month,
        contract_start: day("2024-01-01"),
        contract_end: None,
        currency: card.currency(),
        stretches: vec![Stretch { days: month.all_days(), rate_card_id: None, card }],
        promotions: Vec::new(),
        prepaid: Vec::new(),
        coupons: Vec::new(),
        taxes: vec![TaxRate::of_customer(share("0.08"))],
    }
}

/// Usage in one hour of a day.
fn used(rows: &[(Meter, &str, i128)]) -> Usage {
    let mut usage = Usage::default();
    for (meter, on, raw) in rows {
        let start = Timestamp::parse_rfc3339(&format!("{on}T10:00:00Z")).unwrap();
        usage
            .add(UsagePart {
                meter: *meter,
                days: Days::new(day(on), day(on).succ_opt().unwrap()).unwrap(),
                total: Fraction::whole(*raw),
                peak: Fraction::whole(*raw),
                windows: Windows::new(start, start.saturating_add_secs(3_600), 1),
            })
            .unwrap();
    }
    usage
}

fn parties() -> (Party, Party) {
    let seller = Party {
        name: "SecureBase Inc.".into(),
        address: "2 Vault Road\nDover, DE 19901".into(),
        tax_id: "US 98-7654321".into(),
    };
    let buyer = Party {
        name: "Zoë's Bäckerei AG".into(),
        address: "Bahnhofstrasse 1\n8001 Zürich".into(),
        tax_id: "CHE-123.456.789".into(),
    };
    (seller, buyer)
}

/// An issued invoice with a proven close.
fn issued(number: &str) -> Head {
    let (seller, buyer) = parties();
    let at = |text: &str| Some(Timestamp::parse_rfc3339(text).unwrap().into());
    Head {
        number: Some(number.into()),
        status: "issued".into(),
        issued_at: at("2026-11-04T00:10:00Z"),
        due_at: at("2026-12-04T23:59:59Z"),
        source_class: SourceClass::Proven,
        evidence: Some(Evidence {
            cut: 1,
            cut_at: "2026-11-04T00:00:00Z".into(),
            sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
        }),
        ..Head::preview(seller, buyer)
    }
}

fn preview() -> Head {
    let (seller, buyer) = parties();
    Head::preview(seller, buyer)
}

/// Compares the text with the reviewed one, and adds the CSV up.
fn review(name: &str, document: &InvoiceDocument) {
    check(name, &render_text(document));
    let bytes = render_csv(document).unwrap();
    let rows: Vec<csv::StringRecord> =
        csv::Reader::from_reader(bytes.as_slice()).records().map(Result::unwrap).collect();
    let amounts = |kind: &str| -> Vec<Decimal> {
        rows.iter().filter(|row| &row[6] == kind).map(|row| row[14].parse().unwrap()).collect()
    };
    let sum = |kind: &str| amounts(kind).into_iter().sum::<Decimal>();
    let mut left = sum("line");
    for (added, result) in
        [("", "subtotal"), ("deduction", "net"), ("tax", "total"), ("adjustment", "payable"), ("prepaid_credit", "due")]
    {
        left += sum(added);
        // A credit note ends with its total.
        if let [stated] = amounts(result).as_slice() {
            assert_eq!(*stated, left, "{name}: {result}");
        } else {
            assert!(document.is_credit_note() && matches!(result, "payable" | "due"), "{name} has no {result}");
        }
    }
    let adjusted = sum("adjustment_line") + sum("adjustment_deduction") + sum("adjustment_tax");
    assert_eq!(adjusted, sum("adjustment"), "{name}");
}

fn show(name: &str, terms: &Terms, usage: &Usage) -> Invoice {
    let invoice = draft(terms, usage).unwrap_or_else(|error| panic!("{name}: {error}"));
    review(&format!("{name}.txt"), &InvoiceDocument::of(&invoice, Some(terms), preview()));
    invoice
}

fn redeemed(code: &str, description: &str, value: CouponValue) -> RedeemedCoupon {
    RedeemedCoupon {
        coupon: Coupon {
            code: code.into(),
            description: description.into(),
            value,
            valid_from: day("2026-01-01"),
            valid_to: None,
            redemptions_max: None,
            invoices_max: None,
        },
        redeemed_on: day("2026-10-01"),
        invoices_used: 0,
        taken: usd(0),
    }
}

const BASE: &str =
    "[[fees]]\nid = \"base\"\nkind = \"base\"\ndescription = \"Base fee, standard tier\"\namount = \"2000.00\"\n";
const DISCOUNT: &str = "[volume_discount]\nabove = \"5000.00\"\nrate = \"0.05\"\n";

fn nat(model: &str) -> RateCard {
    card(&format!(
        "{BASE}[[prices]]\nmeter = \"nat_gateway_bytes\"\nunit = \"GiB\"\nraw_units_per_unit = 1073741824\n{model}\n"
    ))
}

#[test]
fn every_price_model() {
    const TIERS: &str = "tiers = [{ from = 0, up_to = 100, price = \"0.10\" }, { from = 100, up_to = 1000, price = \"0.05\", \
                         flat = \"2.50\" }, { from = 1000, price = \"0.01\" }]";
    let usage =
        used(&[(Meter::NatGatewayBytes, "2026-10-05", 1_500 * GIB), (Meter::NatGatewayBytes, "2026-10-20", GIB / 2)]);
    for (name, model) in [
        ("model_flat", "model = \"flat\"\nprice = \"49.90\"".to_owned()),
        ("model_per_unit", "model = \"per_unit\"\nprice = \"0.045\"".to_owned()),
        ("model_graduated", format!("model = \"graduated\"\n{TIERS}")),
        ("model_volume", format!("model = \"volume\"\n{TIERS}")),
        ("model_package", "model = \"package\"\nsize = 250\nprice = \"9.00\"".to_owned()),
        ("model_allowance", "model = \"per_unit\"\nprice = \"0.045\"\nincluded = 1000".to_owned()),
        ("model_allowance_graduated", format!("model = \"graduated\"\nincluded = 1000\n{TIERS}")),
    ] {
        show(name, &terms(nat(&model), "2026-10"), &usage);
    }
}

#[test]
fn every_aggregation() {
    let rest = format!(
        "{BASE}\
         [[prices]]\nmeter = \"accounts\"\ndescription = \"Accounts, average\"\nunit = \"account\"\nmodel = \"per_unit\"\n\
         price = \"20\"\n\
         [[prices]]\nmeter = \"organizational_units\"\ndescription = \"Organizational units, by day\"\nunit = \"day\"\n\
         aggregation = \"sum\"\nraw_units_per_unit = 86400\nmodel = \"per_unit\"\nprice = \"0.25\"\n\
         [[prices]]\nmeter = \"service_control_policies\"\ndescription = \"Policies, at the peak\"\nunit = \"policy\"\n\
         aggregation = \"peak\"\nmodel = \"per_unit\"\nprice = \"3.10\"\n"
    );
    // Ten units live for ten hours, which lie on ten days; the peak is one hour of twelve policies.
    let mut rows = vec![(Meter::ServiceControlPolicies, "2026-10-31", 12 * 3_600)];
    let dates: Vec<String> = (1..=10).map(|on| format!("2026-10-{on:02}")).collect();
    for on in &dates {
        rows.push((Meter::Accounts, on, 10 * 3_600));
        rows.push((Meter::OrganizationalUnits, on, 10 * 3_600));
        rows.push((Meter::ServiceControlPolicies, on, 10 * 3_600));
    }
    show("aggregations", &terms(card(&rest), "2026-10"), &used(&rows));
}

#[test]
fn fees_commitment_and_phases() {
    let rest = format!(
        "{BASE}\
         [[fees]]\nid = \"support\"\nkind = \"recurring\"\ndescription = \"Premium support\"\namount = \"500\"\n\
         [[fees]]\nid = \"setup\"\nkind = \"one_off\"\ndescription = \"Set-up\"\namount = \"1500\"\n\
         [[fees]]\nid = \"audit\"\nkind = \"one_off\"\non = 2026-10-20\ndescription = \"Yearly audit\"\namount = \"2500\"\n\
         [[prices]]\nmeter = \"guardduty_findings\"\nunit = \"finding\"\nmodel = \"per_unit\"\nprice = \"0.05\"\n\
         [commitment]\namount = \"3100\"\ncounts = [\"base\", \"usage\"]\n\
         [[phases]]\ndescription = \"Pilot\"\noff = \"0.5\"\nfirst_months = 6\napplies_to = [\"base\", \"setup\"]\n{DISCOUNT}"
    );
    let findings = used(&[(Meter::GuardDutyFindings, "2026-10-25", 700)]);
    let mut first = terms(card(&rest), "2026-10");
    first.contract_start = day("2026-10-12");
    first.stretches[0].days = first.days().unwrap();
    show("first_month_with_everything", &first, &findings);
    let mut seventh = terms(card(&rest), "2026-10");
    seventh.contract_start = day("2026-04-17");
    show("phase_ends_within_the_month", &seventh, &findings);
}

#[test]
fn a_change_of_tier_and_of_card() {
    let mut changed = terms(seeded(Tier::Standard), "2026-10");
    changed.stretches = vec![
        Stretch { days: days("2026-10-01", "2026-10-15"), rate_card_id: None, card: seeded(Tier::Standard) },
        Stretch { days: days("2026-10-15", "2026-11-01"), rate_card_id: None, card: seeded(Tier::Fintech) },
    ];
    let usage = used(&[
        (Meter::NatGatewayBytes, "2026-10-14", 1_000 * GIB),
        (Meter::NatGatewayBytes, "2026-10-15", 1_000 * GIB),
        (Meter::CloudTrailEvents, "2026-10-31", 25_000_000),
    ]);
    show("tier_change", &changed, &usage);
}

#[test]
fn every_kind() {
    let mut last = terms(seeded(Tier::Standard), "2026-10");
    last.contract_end = Some(day("2026-10-21"));
    last.stretches[0].days = last.days().unwrap();
    show("kind_final", &last, &used(&[(Meter::GuardDutyFindings, "2026-10-20", 30)]));

    let taxes = [TaxRate::of_customer(share("0.08"))];
    let (yearly, covers) = annual_prepayment(&seeded(Tier::Fintech), "anna", day("2026-11-15"), &taxes).unwrap();
    let document = InvoiceDocument::of(&yearly, None, Head { evidence: None, ..issued("INV-2026-11-0012") });
    review("kind_prepayment.txt", &document);

    let mut prepaid = terms(seeded(Tier::Fintech), "2026-11");
    prepaid.prepaid = vec![PrepaidFee { invoice: "INV-2026-11-0012".into(), ..covers }];
    show("prepaid_month", &prepaid, &used(&[(Meter::GuardDutyFindings, "2026-11-20", 30)]));
}

#[test]
fn the_threshold_of_the_volume_discount() {
    for (name, minor) in [
        ("discount_none_at_5000_00", "5000.00"),
        ("discount_at_5000_01", "5000.01"),
        ("discount_at_5000_10", "5000.10"),
    ] {
        let rest = format!("{}{DISCOUNT}", BASE.replace("2000.00", minor));
        show(name, &terms(card(&rest), "2026-10"), &Usage::default());
    }
}

#[test]
fn coupons_and_credit() {
    let usage = used(&[(Meter::NatGatewayBytes, "2026-10-05", 5_300 * GIB)]);
    let mut fintech = terms(seeded(Tier::Fintech), "2026-10");
    fintech.coupons = vec![redeemed("TEN", "Welcome coupon", CouponValue::Percent(share("0.1")))];
    let invoice = show("coupon_percent", &fintech, &usage);
    let settled = invoice.settled(Vec::new(), usd(100_000)).unwrap();
    let document = InvoiceDocument::of(&settled, Some(&fintech), issued("INV-2026-11-0001"));
    assert_eq!((document.total.as_str(), document.due.as_str()), ("7582.96", "6582.96"));
    review("prepaid_credit.txt", &document);

    let mut small = terms(seeded(Tier::Standard), "2026-10");
    small.coupons = vec![
        redeemed("HALF", "Half price", CouponValue::Percent(share("0.5"))),
        redeemed("CREDIT", "Promotional credit", CouponValue::Balance(usd(500_000))),
        redeemed("THOUSAND", "A thousand off", CouponValue::Fixed(usd(100_000))),
    ];
    small.coupons[1].taken = usd(420_000);
    show("coupons_to_zero", &small, &Usage::default());
}

#[test]
fn taxes() {
    let rate = |category: Option<&str>, name: &str, rate: &str, exemption: Option<&str>| TaxRate {
        category: category.map(str::to_owned),
        jurisdiction: "CH".into(),
        name: name.into(),
        rate: share(rate),
        exemption: exemption.map(str::to_owned),
    };
    let rest = format!(
        "{BASE}[[fees]]\nid = \"training\"\nkind = \"recurring\"\ndescription = \"Training\"\namount = \"999.99\"\n\
         tax_category = \"training\"\n{DISCOUNT}"
    );
    let mut two = terms(card(&rest), "2026-10");
    two.coupons = vec![redeemed("CENT", "Ten and a cent", CouponValue::Fixed(usd(1_001)))];
    two.taxes = vec![rate(None, "MWST", "0.081", None), rate(Some("training"), "MWST", "0.026", None)];
    show("tax_two_rates", &two, &Usage::default());
    two.taxes =
        vec![rate(None, "MWST", "0.081", None), rate(Some("training"), "MWST", "0", Some("Exempt under article 21"))];
    show("tax_exempt_category", &two, &Usage::default());
    two.taxes = vec![rate(None, "VAT", "0", Some("Reverse charge: the buyer owes the tax"))];
    show("tax_reverse_charge", &two, &Usage::default());
}

/// A month of 4,999.96 without usage, on which findings cost a cent.
fn near_the_threshold() -> Terms {
    let rest = format!(
        "{}[[prices]]\nmeter = \"guardduty_findings\"\nunit = \"finding\"\nmodel = \"per_unit\"\nprice = \"0.01\"\n{DISCOUNT}",
        BASE.replace("2000.00", "4999.96")
    );
    terms(card(&rest), "2026-10")
}

fn findings(terms: &Terms, count: i128) -> Invoice {
    draft(terms, &used(&[(Meter::GuardDutyFindings, "2026-10-20", count)])).unwrap()
}

fn late(terms: &Terms, before: i128, after: i128, cause: &str) -> Correction {
    let standing = Standing::of(&findings(terms, before)).unwrap();
    standing.correction_to(&findings(terms, after), "INV-2026-11-0001", cause).unwrap().unwrap()
}

#[test]
fn every_correction() {
    let credit_note = |name: &str, correction: &Correction, number: &str| {
        let head = Head { due_at: None, ..issued(number) };
        let document = InvoiceDocument::of_credit_note(correction, "anna", head);
        review(&format!("{name}.txt"), &document);
        document
    };
    let terms = near_the_threshold();
    let cent = late(&terms, 4, 5, "late usage: 1 finding of 2026-10-20 arrived on 2026-11-09");
    let document = credit_note("credit_note_one_late_cent", &cent, "CN-2026-11-0001");
    assert_eq!(document.total, "-269.99");

    let all = Standing::of(&findings(&terms, 4)).unwrap().cancellation("INV-2026-11-0001", "wrong tier").unwrap();
    credit_note("credit_note_cancellation", &all, "CN-2026-11-0002");
    let json = serde_json::to_string_pretty(&credit_note("credit_note_cancellation", &all, "CN-2026-11-0002")).unwrap();
    check("credit_note_cancellation.json", &(json + "\n"));

    let standard = self::terms(seeded(Tier::Standard), "2026-10");
    let adjustment = late(&standard, 20, 1_020, "late usage: 1,000 findings of 2026-10-20 arrived on 2026-11-09");
    let november = self::terms(seeded(Tier::Standard), "2026-11");
    let invoice = draft(&november, &Usage::default()).unwrap().settled(vec![adjustment.clone()], usd(0)).unwrap();
    let document = InvoiceDocument::of(&invoice, Some(&november), issued("INV-2026-12-0001"));
    assert_eq!((document.total.as_str(), document.due.as_str()), ("2160.00", "2214.00"));
    review("adjustment_on_the_next_invoice.txt", &document);
    let with_credit = draft(&november, &Usage::default()).unwrap().settled(vec![adjustment], usd(221_400)).unwrap();
    let document = InvoiceDocument::of(&with_credit, Some(&november), issued("INV-2026-12-0001"));
    review("adjustment_paid_from_credit.txt", &document);

    let reissued = Head { revision: 2, ..issued("INV-2026-11-0009") };
    let invoice = findings(&standard, 20);
    review("revision.txt", &InvoiceDocument::of(&invoice, Some(&standard), reissued));
}

#[test]
fn edges() {
    show(
        "zero",
        &terms(
            card("[[fees]]\nid = \"base\"\nkind = \"base\"\ndescription = \"Free tier\"\namount = \"0\"\n"),
            "2026-10",
        ),
        &Usage::default(),
    );
    show("nothing_at_all", &terms(card(""), "2026-10"), &Usage::default());
    show(
        "leap_day",
        &terms(seeded(Tier::Standard), "2028-02"),
        &used(&[(Meter::LogStorageGb, "2028-02-29", 100 * GIB * 86_400)]),
    );
    let mut new_year = terms(seeded(Tier::GovFederal), "2026-12");
    new_year.contract_start = day("2026-12-31");
    new_year.stretches[0].days = new_year.days().unwrap();
    show("year_end_one_day", &new_year, &used(&[(Meter::CloudTrailEvents, "2026-12-31", 123_456_789)]));

    let yen = "tier = \"healthcare\"\ncustomer = \"anna\"\nversion = 3\ncurrency = \"JPY\"\nvalid_from = 2026-01-01\n[[fees]]\n\
               id = \"base\"\nkind = \"base\"\ndescription = \"基本料金\"\namount = \"1234567\"\n[[prices]]\n\
               meter = \"cloudtrail_events\"\nunit = \"event\"\nmodel = \"per_unit\"\nprice = \"0.00003\"\n";
    let yen = RateCard::parse(yen, "yen.toml", &Meters::built_in()).unwrap();
    let mut contract = terms(yen, "2026-10");
    contract.promotions = vec![Phase {
        description: "紹介割引".into(),
        off: share("0.125"),
        applies_to: vec!["fees".to_owned().into()],
        span: Span::Days(days("2026-10-01", "2026-10-11")),
    }];
    show("contract_in_yen", &contract, &used(&[(Meter::CloudTrailEvents, "2026-10-10", 50_000)]));
}
