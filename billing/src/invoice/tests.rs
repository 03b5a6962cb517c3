use ingest::Meters;
use proptest::prelude::*;

use super::*;
use crate::coupon::tests::redeemed;
use crate::rate_card::RateCard;
use crate::terms::tests::{card, share, terms};
use crate::tier::Tier;
use crate::usage::tests::in_month;

const GIB: i128 = 1 << 30;

fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::Usd)
}

/// `[subtotal, discount, coupons, net, tax, total]` as printed.
fn printed(invoice: &Invoice) -> [String; 6] {
    let totals = &invoice.totals;
    [totals.subtotal, totals.volume_discount, totals.coupons, totals.net, totals.tax, totals.total]
        .map(|amount| amount.to_string())
}

/// A card with one fee of this many cents and the standard discount.
fn costing(minor: i64) -> RateCard {
    let amount = usd(minor).to_decimal_text();
    let text = format!(
        "tier = \"standard\"\nversion = 1\ncurrency = \"USD\"\nvalid_from = 2026-01-01\n[[fees]]\nid = \"base\"\n\
         kind = \"base\"\ndescription = \"Base fee\"\namount = \"{amount}\"\n[volume_discount]\nabove = \"5000.00\"\nrate = \"0.05\"\n"
    );
    RateCard::parse(&text, "test.toml", &Meters::built_in()).unwrap()
}

fn of_fee(minor: i64) -> Invoice {
    draft(&terms(costing(minor), "2026-10"), &Usage::default()).unwrap()
}

#[test]
fn a_standard_customer_with_every_meter_owes_2218_54() {
    let usage = in_month(
        "2026-10",
        &[
            (Meter::LogStorageGb, 100 * GIB * 2_678_400),
            (Meter::NatGatewayBytes, 1_000 * GIB),
            (Meter::CloudTrailEvents, 1_000_000),
            (Meter::ConfigRuleEvaluations, 5_000),
            (Meter::GuardDutyFindings, 20),
        ],
    );
    let invoice = draft(&terms(card(Tier::Standard), "2026-10"), &usage).unwrap();
    let lines: Vec<String> = invoice.lines.iter().map(|line| line.amount.to_string()).collect();
    assert_eq!(lines, ["2,000.00", "3.00", "45.00", "0.20", "5.00", "1.00"]);
    assert_eq!(printed(&invoice), ["2,054.20", "0.00", "0.00", "2,054.20", "164.34", "2,218.54"]);
    assert_eq!(invoice.meters_without_usage, []);
    assert_eq!((invoice.kind, invoice.tax_point.to_string().as_str()), (InvoiceKind::Monthly, "2026-10-31"));
}

/// 5,300 GiB of NAT traffic at 0.040 are 212.00.
fn fintech() -> (Terms, Usage) {
    (terms(card(Tier::Fintech), "2026-10"), in_month("2026-10", &[(Meter::NatGatewayBytes, 5_300 << 30)]))
}

#[test]
fn a_fintech_customer_with_212_00_of_usage_owes_8425_51() {
    let (terms, usage) = fintech();
    let invoice = draft(&terms, &usage).unwrap();
    assert_eq!(printed(&invoice), ["8,212.00", "410.60", "0.00", "7,801.40", "624.11", "8,425.51"]);
    assert_eq!(invoice.meters_without_usage.len(), 4);
    assert_eq!(invoice.settlement.due, invoice.totals.total);
}

#[test]
fn with_a_coupon_of_ten_percent_it_owes_7582_96_and_with_credit_6582_96() {
    let (mut terms, usage) = fintech();
    terms.coupons.push(redeemed("TEN", CouponValue::Percent(share("0.1"))));
    let invoice = draft(&terms, &usage).unwrap();
    assert_eq!(printed(&invoice), ["8,212.00", "410.60", "780.14", "7,021.26", "561.70", "7,582.96"]);
    let settled = invoice.clone().settled(Vec::new(), usd(100_000)).unwrap();
    assert_eq!((settled.settlement.credit, settled.settlement.due), (usd(100_000), usd(658_296)));
    assert_eq!(settled.totals, invoice.totals, "credit lowers no tax");
}

#[test]
fn the_volume_discount_begins_above_5000_00_and_rounds_half_even() {
    for (subtotal, rest) in [
        (500_000, ["5,000.00", "0.00", "0.00", "5,000.00", "400.00", "5,400.00"]),
        (500_001, ["5,000.01", "250.00", "0.00", "4,750.01", "380.00", "5,130.01"]),
        (500_010, ["5,000.10", "250.00", "0.00", "4,750.10", "380.01", "5,130.11"]),
        (500_030, ["5,000.30", "250.02", "0.00", "4,750.28", "380.02", "5,130.30"]),
    ] {
        assert_eq!(printed(&of_fee(subtotal)), rest);
    }
}

#[test]
fn coupons_take_off_percents_first_then_amounts_and_never_more_than_is_left() {
    let mut terms = terms(costing(10_000), "2026-10");
    terms.coupons = vec![
        redeemed("FIXED", CouponValue::Fixed(usd(5_000))),
        redeemed("HALF", CouponValue::Percent(share("0.5"))),
        redeemed("BALANCE", CouponValue::Balance(usd(7_000))),
        redeemed("TENTH", CouponValue::Percent(share("0.1"))),
    ];
    terms.coupons[2].taken = usd(6_000);
    let invoice = draft(&terms, &Usage::default()).unwrap();
    let taken: Vec<(&str, i64)> =
        invoice.taken.iter().skip(1).map(|taken| (taken.code.as_deref().unwrap(), taken.amount.minor())).collect();
    // Percents by code, each off what is left: 50.00, then 5.00. Amounts likewise: what is left of the balance, then the rest.
    assert_eq!(taken, [("HALF", 5_000), ("TENTH", 500), ("BALANCE", 1_000), ("FIXED", 3_500)]);
    assert_eq!(printed(&invoice), ["100.00", "0.00", "100.00", "0.00", "0.00", "0.00"]);
}

#[test]
fn a_card_declares_the_order_and_the_invoice_shows_it() {
    let order = "order = [\"lines\", \"commitment true-up\", \"subtotal\", \"fixed coupons\", \"volume discount\", \
                 \"percent coupons\", \"net\", \"tax\", \"total\", \"adjustments\", \"prepaid credit\", \"due\"]\n";
    let text = toml::to_string(&costing(500_100)).unwrap();
    let text = text.lines().filter(|line| !line.starts_with("order") && !line.starts_with("    \"") && *line != "]");
    let text = format!("{order}{}", text.collect::<Vec<_>>().join("\n"));
    let card =
        RateCard::parse(&text, "test.toml", &Meters::built_in()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut terms = terms(card, "2026-10");
    terms.coupons = vec![redeemed("TWO", CouponValue::Fixed(usd(200)))];
    let invoice = draft(&terms, &Usage::default()).unwrap();
    // 5,001.00 less 2.00 does not exceed 5,000.00.
    assert_eq!(printed(&invoice), ["5,001.00", "0.00", "2.00", "4,999.00", "399.92", "5,398.92"]);
    assert_eq!(invoice.order[3..6], ["fixed coupons", "volume discount", "percent coupons"]);
}

#[test]
fn the_customers_own_rate_is_taxed() {
    for (rate, tax_minor) in [("0", 0), ("0.0825", 825), ("0.190000", 1_900), ("1", 10_000)] {
        let mut terms = terms(costing(10_000), "2026-10");
        terms.taxes = vec![TaxRate::of_customer(share(rate))];
        let totals = draft(&terms, &Usage::default()).unwrap().totals;
        assert_eq!((totals.tax, totals.total), (usd(tax_minor), usd(10_000 + tax_minor)), "{rate}");
    }
}

/// A base fee of 100.00 and a training of 50.00 that is taxed otherwise.
fn two_rates() -> Terms {
    let text = "tier = \"standard\"\nversion = 1\ncurrency = \"USD\"\nvalid_from = 2026-01-01\n[[fees]]\nid = \"base\"\n\
                kind = \"base\"\ndescription = \"Base fee\"\namount = \"100\"\n[[fees]]\nid = \"training\"\nkind = \"recurring\"\n\
                description = \"Training\"\namount = \"50\"\ntax_category = \"training\"\n";
    let mut terms = terms(RateCard::parse(text, "test.toml", &Meters::built_in()).unwrap(), "2026-10");
    let rate = |category: Option<&str>, rate| TaxRate {
        category: category.map(str::to_owned),
        jurisdiction: "CH".into(),
        name: "MWST".into(),
        rate: share(rate),
        exemption: None,
    };
    terms.taxes = vec![rate(None, "0.081"), rate(Some("training"), "0.026")];
    terms
}

#[test]
fn deductions_are_split_among_lines_of_several_tax_rates_by_largest_remainder() {
    let mut terms = two_rates();
    terms.coupons = vec![redeemed("CENTS", CouponValue::Fixed(usd(1_000)))];
    let invoice = draft(&terms, &Usage::default()).unwrap();
    // 10.00 in proportion 100 : 50 is 6.666... and 3.333...
    assert_eq!(invoice.taken[0].parts, [usd(667), usd(333)]);
    assert_eq!(invoice.line_nets, [usd(9_333), usd(4_667)]);
    let taxes: Vec<(i64, i64)> = invoice.taxes.iter().map(|tax| (tax.basis.minor(), tax.amount.minor())).collect();
    assert_eq!(taxes, [(9_333, 756), (4_667, 121)]);
    assert_eq!(printed(&invoice), ["150.00", "0.00", "10.00", "140.00", "8.77", "148.77"]);
    assert_eq!(invoice.tax_rate(), None);
}

#[test]
fn an_exempt_line_is_not_taxed_and_says_why() {
    let mut terms = two_rates();
    terms.taxes[0].rate = Share::default();
    terms.taxes[0].exemption = Some("Reverse charge".into());
    let invoice = draft(&terms, &Usage::default()).unwrap();
    assert_eq!(printed(&invoice), ["150.00", "0.00", "0.00", "150.00", "1.30", "151.30"]);
    assert_eq!(invoice.taxes[0].rate.exemption.as_deref(), Some("Reverse charge"));
    terms.taxes.remove(0);
    assert_eq!(
        draft(&terms, &Usage::default()).unwrap_err().to_string(),
        "there is no tax rate for the category standard"
    );
}

#[test]
fn credit_pays_no_more_than_is_payable() {
    let invoice = of_fee(10_000);
    for (available, credit, due) in [(0, 0, 10_800), (10_799, 10_799, 1), (1_000_000, 10_800, 0), (-5, 0, 10_800)] {
        let settled = invoice.clone().settled(Vec::new(), usd(available)).unwrap().settlement;
        assert_eq!((settled.credit, settled.due), (usd(credit), usd(due)), "{available}");
    }
}

#[test]
fn the_last_month_of_a_contract_is_final() {
    let mut terms = terms(costing(3_100), "2026-10");
    terms.contract_end = Some("2026-10-11".parse().unwrap());
    terms.stretches[0].days = terms.days().unwrap();
    let invoice = draft(&terms, &Usage::default()).unwrap();
    assert_eq!((invoice.kind, invoice.totals.subtotal), (InvoiceKind::Final, usd(1_000)));
    assert_eq!(invoice.period.to_string(), "2026-10-01 to 2026-10-10");
    for (end, kind) in [
        (Some("2026-11-01"), InvoiceKind::Final),
        (Some("2026-11-02"), InvoiceKind::Monthly),
        (None, InvoiceKind::Monthly),
    ] {
        terms.contract_end = end.map(|end| end.parse().unwrap());
        terms.stretches[0].days = terms.days().unwrap();
        assert_eq!(draft(&terms, &Usage::default()).unwrap().kind, kind, "{end:?}");
    }
}

#[test]
fn amounts_beyond_the_range_are_an_error() {
    let mut terms = terms(costing(10_000_000_000_000), "2026-10");
    terms.currency = Currency::Eur;
    assert!(matches!(draft(&terms, &Usage::default()), Err(DraftError::Rating(RatingError::Terms(_)))));
    let line = of_fee(1).lines.remove(0);
    let lines = vec![Line { amount: usd(i64::MAX), ..line.clone() }, line];
    let sums =
        Sums { period: of_fee(1).period, lines, currency: Currency::Usd, order: Order::default(), discount: None };
    let error = sums.invoice(InvoiceKind::Monthly, "anna", &[], &[TaxRate::of_customer(share("0.08"))]);
    assert_eq!(error, Err(DraftError::Total(AmountError::OutOfRange)));
}

#[test]
fn an_invoice_is_read_as_it_was_written() {
    let (mut terms, usage) = fintech();
    terms.coupons.push(redeemed("TEN", CouponValue::Percent(share("0.1"))));
    let invoice = draft(&terms, &usage).unwrap().settled(Vec::new(), usd(5)).unwrap();
    let written = serde_json::to_string(&invoice).unwrap();
    assert_eq!(serde_json::from_str::<Invoice>(&written).unwrap(), invoice);
}

fn any_coupon() -> impl Strategy<Value = RedeemedCoupon> {
    let value = prop_oneof![
        (0_i64..=1_000_000)
            .prop_map(|rate| CouponValue::Percent(Share::new(rust_decimal::Decimal::new(rate, 6)).unwrap())),
        (0_i64..10_000_000).prop_map(|minor| CouponValue::Fixed(usd(minor))),
        (1_i64..10_000_000).prop_map(|minor| CouponValue::Balance(usd(minor))),
    ];
    ("[A-Z]{3}", value).prop_map(|(code, value)| redeemed(&code, value))
}

proptest! {
    #[test]
    fn every_amount_follows_from_the_lines(
        base in 0_i64..2_000_000,
        training in 0_i64..2_000_000,
        coupons in proptest::collection::vec(any_coupon(), 0..5),
        credit in 0_i64..5_000_000,
    ) {
        let mut terms = two_rates();
        let card = costing(base);
        terms.stretches[0].card.fees[0].amount = usd(base);
        terms.stretches[0].card.fees[1].amount = usd(training);
        terms.stretches[0].card.volume_discount = card.volume_discount();
        terms.coupons = coupons;
        let invoice = draft(&terms, &Usage::default()).unwrap().settled(Vec::new(), usd(credit)).unwrap();
        let totals = &invoice.totals;
        prop_assert!(totals.add_up());
        prop_assert_eq!(totals.subtotal.minor(), base + training);
        prop_assert_eq!(totals.subtotal.minor(), invoice.lines.iter().map(|line| line.amount.minor()).sum::<i64>());
        prop_assert_eq!(totals.volume_discount.minor() == 0, totals.subtotal.minor() <= 500_000);
        prop_assert_eq!(totals.net.minor(), invoice.line_nets.iter().map(|net| net.minor()).sum::<i64>());
        prop_assert_eq!(totals.net.minor(), invoice.taxes.iter().map(|tax| tax.basis.minor()).sum::<i64>());
        prop_assert_eq!(totals.tax.minor(), invoice.taxes.iter().map(|tax| tax.amount.minor()).sum::<i64>());
        prop_assert!(0 <= totals.net.minor() && invoice.line_nets.iter().all(|net| 0 <= net.minor()));
        for taken in &invoice.taken {
            prop_assert_eq!(taken.amount.minor(), taken.parts.iter().map(|part| part.minor()).sum::<i64>());
        }
        let settled = &invoice.settlement;
        prop_assert_eq!(settled.due.minor(), settled.payable.minor() - settled.credit.minor());
        prop_assert!(0 <= settled.due.minor() && settled.credit.minor() <= credit);
        prop_assert_eq!(draft(&terms, &Usage::default()).unwrap().settled(Vec::new(), usd(credit)).unwrap(), invoice);
    }
}
