//! What is agreed on with a customer, from its change to the terms of a month.

use std::str::FromStr;

use aggregator::directory::CustomerId;
use billing::{
    Catalogue, Change, ChangeError, Coupon, CouponValue, Currency, Days, Exemption, JurisdictionRate, Money, Month,
    Phase, Retroactive, Share, Span, Terms, Tier, change, draft, load_agreements, preview,
};
use chrono::NaiveDate;
use sqlx::Connection as _;

use crate::fixture::{Fixture, at, only, only_preview};

fn anna() -> CustomerId {
    CustomerId::from_str("anna").unwrap()
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn share(text: &str) -> Share {
    Share::new(text.parse().unwrap()).unwrap()
}

async fn try_change(fixture: &Fixture, what: Change) -> Result<bool, ChangeError> {
    let now = at("2026-11-20T00:00:00Z");
    change(&mut fixture.operator().await, &what, Retroactive::Refused, "operator:test", now).await
}

async fn make(fixture: &Fixture, what: Change) -> bool {
    try_change(fixture, what).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn terms(fixture: &Fixture, month: &str) -> Terms {
    let month = Month::parse(month).unwrap();
    let mut connection = fixture.connect("securebase_billing").await;
    let catalogue = Catalogue::load(&mut connection).await.unwrap();
    let (_, agreement) = load_agreements(&mut connection, Some(&[anna()]), month).await.unwrap().remove(0);
    agreement.unwrap().terms(&catalogue, month).unwrap()
}

fn coupon(code: &str, value: CouponValue) -> Coupon {
    Coupon {
        code: code.into(),
        description: "Welcome".into(),
        value,
        valid_from: day("2026-01-01"),
        valid_to: Some(day("2027-01-01")),
        redemptions_max: Some(1),
        invoices_max: Some(2),
    }
}

#[tokio::test]
async fn terms_follow_every_change_of_what_is_agreed_on() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-15T13:00:00Z").await;
    let before = terms(&fixture, "2026-10").await;
    assert_eq!((before.stretches.len(), before.taxes[0].rate), (1, share("0.08")));

    let usd = |minor| Money::from_minor(minor, Currency::Usd);
    let promotion = Phase {
        description: "Pilot".into(),
        off: share("0.5"),
        applies_to: vec!["fees".to_owned().into(), "cloudtrail_events".to_owned().into()],
        span: Span::FirstMonths(12),
    };
    let rate = |rate: &str, from: &str| JurisdictionRate {
        jurisdiction: "CH".into(),
        category: None,
        name: "MWST".into(),
        rate: share(rate),
        valid_from: day(from),
        valid_to: None,
    };
    let exemption = Exemption {
        category: Some("training".into()),
        reason: "Exempt under article 21".into(),
        valid_from: day("2026-01-01"),
        valid_to: None,
    };
    let changes = [
        Change::Tier { customer: anna(), tier: Tier::Fintech, from: day("2026-10-16") },
        Change::ContractEnd { customer: anna(), on: Some(day("2026-10-21")) },
        Change::Promotion { customer: anna(), phase: promotion.clone() },
        Change::TaxRate(rate("0.077", "2018-01-01")),
        Change::TaxRate(rate("0.081", "2024-01-01")),
        Change::Jurisdiction { customer: anna(), jurisdiction: Some("CH".into()), from: day("2026-10-01") },
        Change::Exemption { customer: anna(), exemption },
        Change::Coupon(coupon("WELCOME", CouponValue::Fixed(usd(10_000)))),
        Change::Redemption { customer: anna(), code: "WELCOME".into(), on: day("2026-10-05") },
    ];
    for change in changes {
        assert!(make(&fixture, change.clone()).await, "{change:?}");
    }

    let found = terms(&fixture, "2026-10").await;
    let stretches: Vec<String> =
        found.stretches.iter().map(|stretch| format!("{}: {}", stretch.days, stretch.card.tier())).collect();
    assert_eq!(stretches, ["2026-10-01 to 2026-10-15: standard", "2026-10-16 to 2026-10-20: fintech"]);
    assert_eq!(found.promotions, [promotion]);
    let taxes: Vec<String> = found
        .taxes
        .iter()
        .map(|tax| {
            format!("{} {} {:?} {:?}", tax.jurisdiction, tax.rate.to_percent_text(), tax.category, tax.exemption)
        })
        .collect();
    assert_eq!(taxes, ["CH 8.1 % None None", "CH 0 % Some(\"training\") Some(\"Exempt under article 21\")"]);
    assert_eq!((found.coupons.len(), found.coupons[0].coupon.value), (1, CouponValue::Fixed(usd(10_000))));
    found.check().unwrap();
    let invoice = draft(&found, &billing::Usage::default()).unwrap();
    assert_eq!(invoice.kind.as_str(), "final");
    assert_eq!(terms(&fixture, "2026-09").await.taxes[0].rate, share("0.08"), "before it is taxed elsewhere");
    assert_eq!(
        fixture.audited(Some("anna")).await,
        [
            "customer.tier_changed anna",
            "customer.contract_end_set anna",
            "customer.promotion_added anna",
            "customer.jurisdiction_changed anna",
            "customer.exemption_added anna",
            "coupon.redeemed WELCOME",
        ]
    );
    assert_eq!(fixture.audited(None).await, ["tax_rate.added CH", "tax_rate.added CH", "coupon.added WELCOME"]);
}

#[tokio::test]
async fn the_same_change_again_changes_and_records_nothing() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let ten = || Change::Coupon(coupon("TEN", CouponValue::Percent(share("0.1"))));
    for what in [
        Change::Tier { customer: anna(), tier: Tier::Fintech, from: day("2026-12-01") },
        Change::ContractEnd { customer: anna(), on: Some(day("2027-01-01")) },
        Change::Jurisdiction { customer: anna(), jurisdiction: Some("CH".into()), from: day("2026-12-01") },
        ten(),
        Change::Redemption { customer: anna(), code: "TEN".into(), on: day("2026-11-05") },
    ] {
        assert!(make(&fixture, what.clone()).await, "{what:?}");
        assert!(!make(&fixture, what.clone()).await, "{what:?} again");
    }
    // A planned change is taken back by recording the former tier for its day.
    assert!(make(&fixture, Change::Tier { customer: anna(), tier: Tier::Standard, from: day("2026-12-01") }).await);
    assert_eq!(terms(&fixture, "2026-12").await.stretches.len(), 1);
    assert_eq!(fixture.audited(Some("anna")).await.len(), 5);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_rule() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    let bert = CustomerId::from_str("bert").unwrap();
    make(&fixture, Change::Coupon(coupon("TEN", CouponValue::Percent(share("0.1"))))).await;
    make(&fixture, Change::Redemption { customer: bert, code: "TEN".into(), on: day("2026-11-05") }).await;
    let nobody = CustomerId::from_str("nobody").unwrap();
    let rate = |from: &str, to: Option<&str>| {
        Change::TaxRate(JurisdictionRate {
            jurisdiction: "CH".into(),
            category: None,
            name: "MWST".into(),
            rate: share("0.081"),
            valid_from: day(from),
            valid_to: to.map(day),
        })
    };
    make(&fixture, rate("2024-01-01", Some("2025-01-01"))).await;
    for (what, expected) in [
        (
            Change::Tier { customer: nobody, tier: Tier::Fintech, from: day("2026-12-01") },
            "there is no customer nobody",
        ),
        (
            Change::Redemption { customer: anna(), code: "NONE".into(), on: day("2026-11-05") },
            "there is no coupon NONE",
        ),
        (
            Change::Redemption { customer: anna(), code: "TEN".into(), on: day("2026-11-05") },
            "coupon TEN was redeemed 1 times, as often as it allows",
        ),
        (
            Change::Coupon(coupon("TEN", CouponValue::Percent(share("0.2")))),
            "coupon TEN exists with other terms, and a coupon never changes: give the new one another code",
        ),
        (
            Change::Coupon(coupon("lower", CouponValue::Percent(share("0.2")))),
            "the change breaks the rule coupons code has its form",
        ),
        (rate("2024-06-01", None), "the change breaks the rule tax rates never overlap"),
        (
            Change::Exemption {
                customer: anna(),
                exemption: Exemption {
                    category: None,
                    reason: String::new(),
                    valid_from: day("2026-12-01"),
                    valid_to: None,
                },
            },
            "the change breaks the rule tax exemptions have a reason",
        ),
    ] {
        let error = try_change(&fixture, what.clone()).await.unwrap_err();
        assert_eq!(error.to_string(), expected, "{what:?}");
    }
    assert_eq!(fixture.audited(Some("anna")).await, Vec::<String>::new());
}

#[tokio::test]
async fn days_that_are_billed_stay_as_they_were_agreed_on_unless_that_is_allowed() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let days = Days::new(day("2026-10-31"), day("2026-12-01")).unwrap();
    let phase = Phase {
        description: "Autumn".into(),
        off: share("0.1"),
        applies_to: vec!["usage".to_owned().into()],
        span: Span::Days(days),
    };
    for what in [
        Change::Tier { customer: anna(), tier: Tier::Fintech, from: day("2026-10-31") },
        Change::ContractEnd { customer: anna(), on: Some(day("2026-10-31")) },
        Change::Promotion { customer: anna(), phase },
    ] {
        let error = try_change(&fixture, what.clone()).await.unwrap_err();
        assert!(matches!(error, ChangeError::Invoiced { invoices: 1, .. }), "{error}");
        let now = at("2026-11-20T00:00:00Z");
        let allowed = change(&mut fixture.operator().await, &what, Retroactive::Allowed, "operator:test", now).await;
        assert!(allowed.unwrap(), "{what:?}");
    }
    assert!(make(&fixture, Change::Tier { customer: anna(), tier: Tier::Fintech, from: day("2026-11-01") }).await);
}

#[tokio::test]
async fn an_end_of_contract_that_was_billed_to_is_not_moved_without_saying_so() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let end = |on: Option<&str>| Change::ContractEnd { customer: anna(), on: on.map(day) };
    assert!(make(&fixture, end(Some("2026-10-21"))).await);
    let last = fixture.only_invoice(&fixture.issue_october().await).await;
    assert_eq!((last.kind.as_str(), last.subtotal.as_str()), ("final", "1290.32"), "20 of 31 days");
    // The other eleven days would be billed by nobody.
    for on in [None, Some("2026-10-22"), Some("2027-01-01"), Some("2026-10-20")] {
        let error = try_change(&fixture, end(on)).await.unwrap_err();
        assert!(matches!(error, ChangeError::Invoiced { invoices: 1, .. }), "{on:?}: {error}");
    }
    assert!(!make(&fixture, end(Some("2026-10-21"))).await, "it stands as it is");
    // An end that no invoice reaches moves freely.
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let bert = CustomerId::from_str("bert").unwrap();
    for on in [Some("2026-11-01"), Some("2027-01-01"), Some("2026-11-11"), None] {
        assert!(make(&fixture, Change::ContractEnd { customer: bert.clone(), on: on.map(day) }).await, "{on:?}");
    }
}

#[tokio::test]
async fn a_change_waits_for_the_run_that_bills_its_customer_and_then_finds_the_invoice() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    // Whoever bills the customer holds its lock.
    let mut connection = fixture.connect("securebase_billing").await;
    let mut billing = connection.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(731152, hashtext('anna'))").execute(&mut *billing).await.unwrap();
    let what = Change::Tier { customer: anna(), tier: Tier::Fintech, from: day("2026-10-16") };
    let changing = try_change(&fixture, what);
    let watching = async {
        let waits =
            "select count(*)::text from pg_locks where locktype = 'advisory' and not granted and classid = 731152";
        while fixture.texts(waits).await != ["1"] {
            assert_eq!(fixture.count("customer_tiers").await, 0, "it did not wait");
        }
        billing.rollback().await.unwrap();
    };
    let (changed, ()) = tokio::join!(changing, watching);
    assert!(changed.unwrap());
}

#[tokio::test]
async fn a_coupon_is_redeemed_no_more_often_than_it_allows_however_many_ask_at_once() {
    let fixture = Fixture::new().await;
    let ten = Coupon { redemptions_max: Some(3), ..coupon("TEN", CouponValue::Percent(share("0.1"))) };
    make(&fixture, Change::Coupon(ten)).await;
    let mut customers = Vec::new();
    for number in 0..8 {
        fixture.customer(&format!("customer-{number}"), "standard", "2026-01-01T00:00:00Z").await;
        customers.push(CustomerId::from_str(&format!("customer-{number}")).unwrap());
    }
    let redemptions = customers.into_iter().map(|customer| {
        let fixture = &fixture;
        async move {
            let what = Change::Redemption { customer, code: "TEN".into(), on: day("2026-11-05") };
            try_change(fixture, what).await
        }
    });
    let redeemed = futures::future::join_all(redemptions).await;
    assert_eq!(redeemed.iter().filter(|result| matches!(result, Ok(true))).count(), 3);
    assert_eq!(redeemed.iter().filter(|result| matches!(result, Err(ChangeError::Redeem(_)))).count(), 5);
    assert_eq!(fixture.count("coupon_redemptions").await, 3);
}

#[tokio::test]
async fn a_broken_agreement_is_an_error_of_its_customer_alone() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    fixture.execute("update customers set currency = 'XXX' where customer_id = 'anna'").await.unwrap();
    let mut connection = fixture.connect("securebase_billing").await;
    let found = load_agreements(&mut connection, None, Month::parse("2026-10").unwrap()).await.unwrap();
    let said: Vec<String> = found
        .iter()
        .map(|(customer, agreement)| match agreement {
            Ok(agreement) => format!("{customer}: {}", agreement.first_tier),
            Err(error) => format!("{customer}: {error}"),
        })
        .collect();
    assert_eq!(said, ["anna: the customer's currency is broken", "bert: standard"]);
    let previews = preview(&fixture.billing, &only("2026-10", &["bert"])).await.unwrap();
    assert_eq!(only_preview(previews).subtotal, "2000.00");
}
