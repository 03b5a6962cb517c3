use proptest::prelude::*;

use super::*;
use crate::coupon::CouponValue;
use crate::coupon::tests::redeemed;
use crate::invoice::draft;
use crate::postings::Postings;
use crate::terms::Terms;
use crate::terms::tests::{card, share, terms};
use crate::tier::Tier;
use crate::usage::tests::in_month;
use ingest::Meter;

fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::Usd)
}

/// A fintech customer's month with so many findings, 0.04 each.
fn month(terms: &Terms, findings: i128) -> Invoice {
    draft(terms, &in_month("2026-10", &[(Meter::GuardDutyFindings, findings)])).unwrap()
}

/// A month of 4,999.96 without usage, on which findings cost a cent.
fn near_the_threshold() -> Terms {
    let mut card = card(Tier::Standard);
    card.fees[0].amount = usd(499_996);
    let finding = card.prices.iter_mut().find(|price| price.meter == Meter::GuardDutyFindings).unwrap();
    finding.model = crate::price::PriceModel::PerUnit { price: crate::price::testing::price("0.01") };
    terms(card, "2026-10")
}

fn printed(totals: &Totals) -> [String; 6] {
    [totals.subtotal, totals.volume_discount, totals.coupons, totals.net, totals.tax, totals.total]
        .map(|amount| amount.to_string())
}

#[test]
fn late_usage_is_the_difference_to_a_new_count() {
    let terms = terms(card(Tier::Standard), "2026-10");
    let standing = Standing::of(&month(&terms, 20)).unwrap();
    let late = standing.correction_to(&month(&terms, 120), "INV-2026-11-0001", "late usage").unwrap().unwrap();
    assert!(late.is_charge());
    assert_eq!(printed(&late.totals), ["5.00", "0.00", "0.00", "5.00", "0.40", "5.40"]);
    assert_eq!((late.lines.len(), &late.lines[0].quantity, late.lines[0].amount), (1, &Fraction::whole(100), usd(500)));
    let corrected = standing.corrected(&late).unwrap();
    assert_eq!(corrected, Standing::of(&month(&terms, 120)).unwrap());
    assert_eq!(corrected.correction_to(&month(&terms, 120), "INV-2026-11-0001", "again").unwrap(), None);
}

#[test]
fn one_late_cent_can_credit_269_99() {
    let terms = near_the_threshold();
    let standing = Standing::of(&month(&terms, 4)).unwrap();
    assert_eq!(printed(standing.totals()), ["5,000.00", "0.00", "0.00", "5,000.00", "400.00", "5,400.00"]);
    let late = standing.correction_to(&month(&terms, 5), "INV-2026-11-0001", "late usage").unwrap().unwrap();
    assert!(!late.is_charge());
    assert_eq!(printed(&late.totals), ["0.01", "250.00", "0.00", "-249.99", "-20.00", "-269.99"]);
    assert_eq!(standing.check_credit(&late), Ok(()));
    assert!(Postings::of_credit_note(&late, usd(0)).unwrap().balance());
}

#[test]
fn a_credit_never_takes_more_than_was_charged() {
    let terms = terms(card(Tier::Standard), "2026-10");
    let invoice = month(&terms, 20);
    let standing = Standing::of(&invoice).unwrap();
    let all = standing.cancellation("INV-2026-11-0001", "wrong tier").unwrap();
    assert_eq!(standing.check_credit(&all), Ok(()));
    let nothing = standing.clone().corrected(&all).unwrap();
    assert_eq!(nothing.totals(), &Totals::zero(Currency::Usd));
    let error = nothing.check_credit(&all).unwrap_err();
    assert_eq!(error.to_string(), "a credit of 2,001.00 would leave -2,001.00 of the net");
}

proptest! {
    /// Invoice, credits and adjustments together are the last count, whatever was counted in between.
    #[test]
    fn an_invoice_with_its_corrections_is_the_recount(counts in proptest::collection::vec(0_i128..40_000, 1..6)) {
        let mut terms = near_the_threshold();
        terms.coupons.push(redeemed("TEN", CouponValue::Percent(share("0.1"))));
        let mut standing = Standing::of(&month(&terms, counts[0])).unwrap();
        for count in &counts[1..] {
            let recount = month(&terms, *count);
            if let Some(correction) = standing.correction_to(&recount, "INV-2026-11-0001", "late usage").unwrap() {
                prop_assert!(correction.totals.add_up());
                prop_assert_eq!(correction.totals.subtotal, Money::sum(correction.lines.iter().map(|l| l.amount), Currency::Usd).unwrap());
                prop_assert_eq!(correction.totals.tax, Money::sum(correction.taxes.iter().map(|t| t.amount), Currency::Usd).unwrap());
                prop_assert!(Postings::of_credit_note(&correction, usd(0)).unwrap().balance());
                standing = standing.corrected(&correction).unwrap();
            }
            prop_assert_eq!(standing.totals(), &recount.totals);
        }
    }
}
