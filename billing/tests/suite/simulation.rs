//! Other prices, tried out on past usage.

use billing::{Comparison, Month, RateCard, SEEDED_CARDS, Simulated, SimulationError, UsageState, preview, simulate};
use ingest::{Meter, Meters};

use crate::fixture::{Fixture, only, only_preview};

/// The seeded card of a tier with something replaced.
fn trial(index: usize, from: &str, to: &str) -> RateCard {
    let (name, text) = SEEDED_CARDS[index];
    RateCard::parse(&text.replace(from, to), name, &Meters::built_in()).unwrap()
}

async fn simulated(fixture: &Fixture, trial: &[RateCard]) -> Vec<Simulated> {
    let mut results = Vec::new();
    let october = Month::parse("2026-10").unwrap();
    let mut connection = fixture.connect("securebase_operator").await;
    simulate(&mut connection, october, None, trial, |one| results.push(one)).await.unwrap();
    results
}

fn compared(result: &Simulated) -> &Comparison {
    match result {
        Simulated::Compared(comparison) => comparison,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_whole_base_is_rated_again_and_nothing_changes() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "fintech", "2026-01-01T00:00:00Z").await;
    fixture.customer("cleo", "standard", "2026-11-01T00:00:00Z").await;
    fixture.customer("dora", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    fixture.execute("update customers set currency = 'EUR' where customer_id = 'dora'").await.unwrap();
    // In force from 2030 on, and tried out on October 2026 all the same.
    let card = trial(0, "2020-01-01", "2030-01-01");
    let card = RateCard::parse(
        &toml::to_string(&card).unwrap().replace("\"0.045\"", "\"0.055\""),
        "trial.toml",
        &Meters::built_in(),
    )
    .unwrap();
    let results = simulated(&fixture, &[card]).await;
    let said: Vec<String> = results
        .iter()
        .map(|result| match result {
            Simulated::Compared(one) => format!(
                "{}: {} to {}, {:?}",
                one.customer,
                one.before.1.totals.total,
                one.after.1.totals.total,
                one.difference().unwrap()
            ),
            Simulated::NotUnderContract { customer, .. } => format!("{customer}: not under contract"),
            Simulated::Failed { customer, error, .. } => format!("{customer}: {error}"),
        })
        .collect();
    assert_eq!(
        said,
        [
            // 10.00 more, and 8 % on it.
            "anna: 2,218.54 to 2,229.34, 10.80 USD",
            "bert: 8,208.00 to 8,208.00, 0.00 USD",
            "cleo: not under contract",
            "dora: at the stored prices: the customer is billed in EUR, but rate card standard version 1 is in USD",
        ]
    );
    assert_eq!(compared(&results[0]).usage, UsageState::Open);
    assert_eq!((fixture.count("invoices").await, fixture.count("rate_cards").await), (0, 4));
    let previews = preview(&fixture.billing, &only("2026-10", &["anna"])).await.unwrap();
    assert_eq!(only_preview(previews).total, compared(&results[0]).before.1.totals.total.to_decimal_text());
}

#[tokio::test]
async fn a_closed_period_is_simulated_on_its_newest_close() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    fixture.usage("anna", "2026-10-05T00:00:00Z", "p", Meter::GuardDutyFindings, 1_000).await;
    for (cut, findings) in [(1, "20"), (2, "40")] {
        fixture
            .execute(&format!(
                "with c as (
                     insert into closes (customer_id, period_start, period_end, cut, source_class, directory_version, cut_at,
                         evidence_sha256)
                     values ('anna', '2026-10-01', '2026-11-01', {cut}, 'proven', 1, '2026-11-02', sha256('e'))
                     returning close_id),
                 e as (
                     insert into evidence_records (close_id, customer_id, sha256, document)
                     select close_id, 'anna', sha256('e'), 'e' from c)
                 insert into closed_totals (close_id, customer_id, account_id, meter, region, category, window_start, total,
                     identities)
                 select close_id, 'anna', '123837392027', 'guardduty_findings', 'eu-west-1', 'none', '2026-10-05', {findings},
                     sha256('i')
                 from c"
            ))
            .await
            .unwrap();
    }
    fixture
        .execute(
            "with c as (
                 insert into closes (customer_id, period_start, period_end, cut, source_class, directory_version, cut_at,
                     evidence_sha256)
                 values ('bert', '2026-10-01', '2026-11-01', 1, 'proven', 1, '2026-11-02', sha256('e'))
                 returning close_id)
             insert into evidence_records (close_id, customer_id, sha256, document)
             select close_id, 'bert', sha256('e'), 'e' from c",
        )
        .await
        .unwrap();
    let results = simulated(&fixture, &[trial(0, "\"0.05\"\n\n[volume", "\"0.10\"\n\n[volume")]).await;
    let anna = compared(&results[0]);
    assert_eq!((anna.usage, anna.before.1.totals.subtotal.to_string().as_str()), (UsageState::Closed, "2,002.00"));
    assert_eq!(anna.after.1.totals.subtotal.to_string(), "2,004.00");
    let bert = compared(&results[1]);
    assert_eq!((bert.usage, bert.before.1.lines.len()), (UsageState::Closed, 1), "a close without usage");
}

#[tokio::test]
async fn two_cards_of_one_tier_cannot_be_tried_out_together() {
    let fixture = Fixture::new().await;
    let mut connection = fixture.connect("securebase_operator").await;
    let cards = [trial(0, "", ""), trial(0, "version = 1", "version = 2")];
    let refused = simulate(&mut connection, Month::parse("2026-10").unwrap(), None, &cards, |_| {}).await;
    assert!(matches!(refused, Err(SimulationError::TwoCards(..))), "{refused:?}");
}
