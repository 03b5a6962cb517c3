use proptest::prelude::*;

use super::*;
use crate::correction::Standing;
use crate::coupon::CouponValue;
use crate::coupon::tests::redeemed;
use crate::invoice::draft;
use crate::terms::tests::{card, share, terms};
use crate::tier::Tier;
use crate::usage::tests::in_month;
use ingest::Meter;

fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::Usd)
}

fn written(postings: &Postings) -> Vec<String> {
    postings.iter().map(|posting| format!("{} {}", posting.account, posting.amount)).collect()
}

fn fintech(findings: i128) -> Invoice {
    let mut terms = terms(card(Tier::Fintech), "2026-10");
    terms.coupons.push(redeemed("TEN", CouponValue::Percent(share("0.1"))));
    draft(&terms, &in_month("2026-10", &[(Meter::GuardDutyFindings, findings)])).unwrap()
}

#[test]
fn an_invoice_posts_what_is_owed_against_revenue_tax_and_discounts() {
    let invoice = fintech(5_300).settled(Vec::new(), usd(100_000)).unwrap();
    assert_eq!(
        written(&Postings::of_invoice(&invoice).unwrap()),
        [
            "receivable 6,582.96",
            "revenue:base_fee -8,000.00",
            "revenue:usage -212.00",
            "discounts:volume 410.60",
            "discounts:coupons 780.14",
            "tax_payable -561.70",
            "customer_credit 1,000.00",
        ]
    );
}

#[test]
fn a_credit_note_takes_back_and_what_was_paid_becomes_credit() {
    let standing = Standing::of(&fintech(5_300)).unwrap();
    let late = standing.correction_to(&fintech(5_290), "INV-2026-11-0001", "moved account").unwrap().unwrap();
    let owed = written(&Postings::of_credit_note(&late, usd(0)).unwrap());
    assert_eq!(
        owed,
        [
            "receivable -0.37",
            "revenue:usage 0.40",
            "discounts:volume -0.02",
            "discounts:coupons -0.04",
            "tax_payable 0.03"
        ]
    );
    let paid = written(&Postings::of_credit_note(&late, usd(37)).unwrap());
    assert_eq!(
        paid,
        [
            "revenue:usage 0.40",
            "discounts:volume -0.02",
            "discounts:coupons -0.04",
            "tax_payable 0.03",
            "customer_credit -0.37"
        ]
    );
}

#[test]
fn payments_advances_and_grants_have_two_sides() {
    assert_eq!(written(&Postings::of_payment(usd(5)).unwrap()), ["receivable -0.05", "cash 0.05"]);
    assert_eq!(written(&Postings::of_advance(usd(5)).unwrap()), ["customer_credit -0.05", "cash 0.05"]);
    assert_eq!(written(&Postings::of_grant(usd(5)).unwrap()), ["customer_credit -0.05", "credit_granted 0.05"]);
}

proptest! {
    #[test]
    fn the_ledger_of_any_invoice_balances(before in 0_i128..1_000_000, after in 0_i128..1_000_000, credit in 0_i64..2_000_000) {
        let standing = Standing::of(&fintech(before)).unwrap();
        let late = standing.correction_to(&fintech(after), "INV-2026-11-0001", "late usage").unwrap();
        let adjustments: Vec<Correction> = late.into_iter().filter(Correction::is_charge).collect();
        let invoice = fintech(after).settled(adjustments, usd(credit)).unwrap();
        let postings = Postings::of_invoice(&invoice).unwrap();
        prop_assert!(postings.balance());
        let receivable = postings.iter().find(|posting| posting.account == Account::Receivable).map(|p| p.amount.minor());
        prop_assert_eq!(receivable.unwrap_or(0), invoice.settlement.due.minor());
    }
}
