//! A preview is the invoice that is to come.

use std::str::FromStr as _;

use aggregator::directory::CustomerId;
use billing::{GrantKind, GrantRequest, InvoiceDocument, Month, Previewed, RunError, preview, preview_customer};
use ingest::Meter;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::fixture::{Fixture, GIB, OCTOBER_SECONDS, at, request, seller};

/// One customer's history up to the end of October.
#[derive(Clone, Debug)]
struct Story {
    tier: &'static str,
    /// The day of October on which the contract starts; 0 is long before.
    starts_on: u32,
    /// A change of tier, and on which day of October.
    changes: Option<(&'static str, u32)>,
    usage: Vec<(Meter, i128, u32)>,
    /// What September came to before it was invoiced, and after.
    september: Option<(i128, i128)>,
    has_coupon: bool,
    credit: Option<u32>,
}

fn stories() -> impl Strategy<Value = Story> {
    let tier = prop_oneof![Just("standard"), Just("fintech"), Just("gov-federal")];
    let usage = prop_oneof![
        (1_i128..400).prop_map(|gb| (Meter::LogStorageGb, gb * GIB * OCTOBER_SECONDS / 31)),
        (1_i128..9_000).prop_map(|gib| (Meter::NatGatewayBytes, gib * GIB + 7)),
        (1_i128..9_000_000).prop_map(|events| (Meter::CloudTrailEvents, events)),
        (1_i128..70_000).prop_map(|evaluations| (Meter::ConfigRuleEvaluations, evaluations)),
        (1_i128..70_000).prop_map(|findings| (Meter::GuardDutyFindings, findings)),
    ];
    let usage =
        proptest::collection::vec((usage, 1_u32..=31).prop_map(|((meter, total), day)| (meter, total, day)), 0..7);
    (
        tier.clone(),
        prop_oneof![3 => Just(0), 1 => 1_u32..=31],
        proptest::option::of((tier, 1_u32..=31)),
        usage,
        proptest::option::of((0_i128..70_000, 0_i128..70_000)),
        any::<bool>(),
        proptest::option::of(1_u32..12_000),
    )
        .prop_map(|(tier, starts_on, changes, usage, september, has_coupon, credit)| Story {
            tier,
            starts_on,
            // Before its contract there is no tier to change.
            changes: changes.filter(|(_, day)| starts_on < *day),
            usage,
            september: september.filter(|_| starts_on == 0),
            has_coupon,
            credit,
        })
}

impl Fixture {
    async fn tell(&self, customer: &str, story: &Story) {
        let start = match story.starts_on {
            0 => "2026-01-01T00:00:00Z".to_owned(),
            day => format!("2026-10-{day:02}T00:00:00Z"),
        };
        self.customer(customer, story.tier, &start).await;
        if let Some((before, _)) = story.september {
            self.usage(customer, "2026-09-05T00:00:00Z", customer, Meter::GuardDutyFindings, before).await;
        }
        for (position, (meter, total, day)) in story.usage.iter().enumerate() {
            if story.starts_on <= *day {
                let partition = format!("{customer}-{position}");
                self.usage(customer, &format!("2026-10-{day:02}T05:00:00Z"), &partition, *meter, *total).await;
            }
        }
        if let Some((tier, day)) = story.changes {
            self.execute(&format!(
                "insert into customer_tiers (customer_id, valid_from, tier, recorded_at)
                 values ('{customer}', '2026-10-{day:02}', '{tier}', '2026-10-01')"
            ))
            .await
            .unwrap();
        }
        if story.has_coupon {
            self.execute(&format!(
                "insert into coupon_redemptions (customer_id, code, redeemed_on, recorded_at)
                 values ('{customer}', 'TEN', '2026-10-01', '2026-10-01'), ('{customer}', 'FIFTY', '2026-10-01', '2026-10-01')"
            ))
            .await
            .unwrap();
        }
        if let Some(dollars) = story.credit {
            let amount = format!("{dollars}.37");
            let grant =
                GrantRequest { customer, amount: &amount, kind: GrantKind::Prepaid, reference: "1", reason: "ahead" };
            billing::grant(&self.billing, &grant, "operator:ada", at("2026-10-01T00:00:00Z")).await.unwrap();
        }
    }
}

/// What only an issued invoice has, and what a close adds.
fn as_preview(issued: InvoiceDocument, preview: &InvoiceDocument) -> InvoiceDocument {
    InvoiceDocument {
        id: None,
        number: None,
        status: preview.status.clone(),
        issued_at: None,
        due_at: None,
        paid_at: None,
        evidence: None,
        usage_source: billing::UsageSource {
            meters_without_usage: issued.usage_source.meters_without_usage,
            ..preview.usage_source.clone()
        },
        ..issued
    }
}

#[tokio::test]
async fn the_preview_of_a_period_whose_usage_is_complete_is_its_invoice() {
    const CUSTOMERS: usize = 40;
    let mut runner = TestRunner::deterministic();
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "insert into coupons (code, description, kind, rate, amount_minor, currency, valid_from, recorded_at) values
                 ('TEN', 'Ten percent', 'percent', 0.1, null, null, '2026-01-01', '2026-01-01'),
                 ('FIFTY', 'Fifty', 'balance', null, 5000, 'USD', '2026-01-01', '2026-01-01')",
        )
        .await
        .unwrap();
    let mut told = Vec::new();
    for number in 0..CUSTOMERS {
        let customer = CustomerId::from_str(&format!("customer-{number:02}")).unwrap();
        let story = stories().new_tree(&mut runner).unwrap().current();
        fixture.tell(customer.as_str(), &story).await;
        told.push((customer, story));
    }
    fixture.issue("2026-09", "2026-10-01T00:00:00Z").await;
    for (customer, story) in &told {
        if let Some((_, after)) = story.september {
            fixture
                .execute(&format!(
                    "update usage_rows set total = {after} where customer_id = '{customer}' and window_start < '2026-10-01'"
                ))
                .await
                .unwrap();
            fixture.close(customer.as_str(), "2026-09", "proven").await;
        }
    }

    // The run's preview and the one of the customer's own application, before the close.
    let october = Month::parse("2026-10").unwrap();
    let by_billing = preview(&fixture.billing, &request("2026-10")).await.unwrap();
    let mut app = fixture.connect("securebase_app").await;
    let mut previews = Vec::new();
    for ((customer, story), (of, by_billing)) in told.iter().zip(by_billing) {
        assert_eq!(customer, &of);
        let mut tenant = Fixture::tenant(&mut app, customer.as_str()).await;
        let own = preview_customer(&mut tenant, customer, october, &seller()).await.unwrap();
        tenant.rollback().await.unwrap();
        match (own, by_billing) {
            (Previewed::Document(own), Previewed::Document(by_billing)) => {
                assert_eq!(own, by_billing, "{customer}: {story:?}");
                previews.push(*own);
            }
            other => panic!("{customer}: {story:?}: {other:?}"),
        }
    }
    let report = fixture.issue_october().await;
    assert_eq!(report.issued(), CUSTOMERS);
    let mut carried = 0;
    for ((preview, result), (customer, story)) in previews.iter().zip(&report.results).zip(&told) {
        let issued = fixture.invoice(&result.outcome.billed().unwrap().id).await;
        carried += issued.adjustments.len();
        assert_eq!(&as_preview(issued, preview), preview, "{customer}: {story:?}");
    }
    assert!(0 < carried && 0 < report.credit_notes(), "the stories have late usage of both signs");

    // Another's month is nobody to the application, and an issued one is shown as it was issued.
    let mut tenant = Fixture::tenant(&mut app, "customer-00").await;
    let other = preview_customer(&mut tenant, &told[1].0, october, &seller()).await.unwrap_err();
    assert!(matches!(other, RunError::UnknownCustomer(_)), "{other}");
    let own = preview_customer(&mut tenant, &told[0].0, october, &seller()).await.unwrap();
    assert!(matches!(own, Previewed::AlreadyIssued(_)), "{own:?}");
}
