//! Rate cards from files, in the database.

use billing::{CardSource, Catalogue, LoadError, Retroactive, SEEDED_CARDS, load_files};
use ingest::Meters;

use crate::fixture::{Fixture, at};

fn seeded() -> Vec<CardSource> {
    SEEDED_CARDS.iter().map(|(name, text)| CardSource { name: (*name).into(), text: (*text).into() }).collect()
}

fn source(name: &str, text: &str) -> CardSource {
    CardSource { name: name.into(), text: text.into() }
}

/// A second version of the standard card.
fn second(from: &str) -> CardSource {
    let (_, text) = SEEDED_CARDS[0];
    let text = text.replace("version = 1", "version = 2").replace("2020-01-01", from).replace("2000.00", "2100.00");
    source("standard-2.toml", &text)
}

/// One line a file, or one a fault.
async fn load(fixture: &Fixture, sources: &[CardSource], retroactive: Retroactive) -> Vec<String> {
    let now = at("2026-11-20T00:00:00Z");
    let meters = Meters::built_in();
    let loaded = load_files(&mut fixture.operator().await, sources, &meters, retroactive, "operator:test", now).await;
    match loaded {
        Ok(loaded) => loaded
            .into_iter()
            .map(|card| format!("{}: {} {}", card.source_name, card.card, if card.is_new { "new" } else { "known" }))
            .collect(),
        Err(LoadError::Rules(error)) => error.0.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[tokio::test]
async fn every_tier_is_seeded_exactly_as_its_file_says() {
    let fixture = Fixture::new().await;
    let loaded = load(&fixture, &seeded(), Retroactive::Refused).await;
    assert_eq!(loaded.len(), 4);
    assert!(loaded.iter().all(|line| line.ends_with(" known")), "{loaded:?}");
    assert_eq!(fixture.audited(None).await, Vec::<String>::new(), "nothing changed, nothing to record");
}

#[tokio::test]
async fn a_new_version_ends_the_one_before_and_is_loaded_once() {
    let fixture = Fixture::new().await;
    let first = load(&fixture, &[second("2027-01-01")], Retroactive::Refused).await;
    assert_eq!(first, ["standard-2.toml: rate card standard version 2 new"]);
    assert_eq!(
        load(&fixture, &[second("2027-01-01")], Retroactive::Refused).await,
        ["standard-2.toml: rate card standard version 2 known"]
    );
    let loaded = load(&fixture, &seeded(), Retroactive::Refused).await;
    assert_eq!(loaded.len(), 4, "the first version is known although it has an end now: {loaded:?}");
    let catalogue = Catalogue::load(&mut fixture.connect("securebase_billing").await).await.unwrap();
    let standard: Vec<String> = catalogue
        .cards()
        .iter()
        .filter(|card| card.tier.as_str() == "standard")
        .map(|card| format!("{} {} {:?} {:?}", card.version, card.valid_from, card.valid_to, card.source_name))
        .collect();
    assert_eq!(standard, ["1 2020-01-01 Some(2027-01-01) None", "2 2027-01-01 None Some(\"standard-2.toml\")"]);
    let stored = catalogue.cards().iter().find(|card| card.version == 2).unwrap();
    assert_eq!(stored.source_text.as_deref(), Some(second("2027-01-01").text.as_str()), "byte for byte");
    assert_eq!(stored.card.as_ref().unwrap().base_fee().to_string(), "2,100.00");
    assert_eq!(fixture.audited(None).await, ["rate_card.loaded rate card standard version 2"]);
}

#[tokio::test]
async fn what_contradicts_a_stored_card_is_refused_whole() {
    let fixture = Fixture::new().await;
    let changed = source("standard.toml", &SEEDED_CARDS[0].1.replace("2000.00", "1.00"));
    let refused = load(&fixture, &[changed, second("2027-01-01")], Retroactive::Refused).await;
    assert_eq!(
        refused,
        [
            "standard.toml: rate card standard version 1: is stored with other content: give changed prices a new version and a \
          later `valid_from`"
        ]
    );
    let broken = source("b.toml", &second("2027-01-01").text.replace("\"0.045\"", "\"-1\""));
    let refused = load(&fixture, &[second("2028-01-01"), broken], Retroactive::Refused).await;
    assert_eq!(
        refused,
        ["b.toml: price of nat_gateway_bytes: a price is 0 or more, below 1,000,000,000, with at most 12 places"]
    );
    let early = load(&fixture, &[second("2019-12-31")], Retroactive::Refused).await;
    assert_eq!(early.len(), 1, "{early:?}");
    assert!(early[0].contains("so its version must be higher"), "{early:?}");
    assert_eq!(fixture.count("rate_cards").await, 4, "nothing of what was refused is stored");
}

#[tokio::test]
async fn prices_of_issued_invoices_change_only_when_that_is_allowed() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "fintech", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let refused = load(&fixture, &[second("2026-10-31")], Retroactive::Refused).await;
    assert_eq!(
        refused,
        [
            "rate card standard version 2 begins on 2026-10-31, but 1 invoices of later days are issued: give it a later day, or \
          allow it and credit and reissue those invoices"
        ]
    );
    assert_eq!(load(&fixture, &[second("2026-10-31")], Retroactive::Allowed).await.len(), 1);
    assert_eq!(fixture.count("rate_cards").await, 5);
}

#[tokio::test]
async fn a_contract_needs_its_customer_and_its_currency() {
    let fixture = Fixture::new().await;
    let contract = |customer: &str, currency: &str| {
        let text = SEEDED_CARDS[0].1.replace("version = 1", &format!("version = 1\ncustomer = \"{customer}\""));
        source("contract.toml", &text.replace("\"USD\"", &format!("\"{currency}\"")))
    };
    let refused = load(&fixture, &[contract("anna", "USD")], Retroactive::Refused).await;
    assert_eq!(refused, ["contract.toml: rate card standard of anna version 1: there is no customer anna"]);
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let refused = load(&fixture, &[contract("anna", "EUR")], Retroactive::Refused).await;
    assert_eq!(refused, ["contract.toml: rate card standard of anna version 1: is in EUR but anna is billed in USD"]);
    let loaded = load(&fixture, &[contract("anna", "USD")], Retroactive::Refused).await;
    assert_eq!(loaded, ["contract.toml: rate card standard of anna version 1 new"]);
}

#[tokio::test]
async fn a_loaded_card_never_changes_and_only_the_operator_loads() {
    let fixture = Fixture::new().await;
    load(&fixture, &[second("2027-01-01")], Retroactive::Refused).await;
    for attempt in [
        "update rate_cards set base_fee_minor = 1 where version = 2",
        "update rate_cards set document = '{}' where version = 2",
        "update rate_cards set source_text = 'x' where version = 2",
        "update rate_cards set document = document where version = 2 and false; delete from rate_cards where version = 2",
    ] {
        let refused = fixture.execute(attempt).await.unwrap_err().to_string();
        assert!(refused.contains("was loaded and") || refused.contains("source_has_its_hash"), "{attempt}: {refused}");
    }
    let now = at("2026-11-20T00:00:00Z");
    for role in ["securebase_billing", "securebase_analytics", "securebase_app", "securebase_aggregator"] {
        let mut connection = fixture.connect(role).await;
        let third = second("2028-01-01");
        let third = source("3.toml", &third.text.replace("version = 2", "version = 3"));
        let refused = load_files(&mut connection, &[third], &Meters::built_in(), Retroactive::Refused, "x", now).await;
        assert!(refused.is_err(), "{role}");
    }
}

#[tokio::test]
async fn loaders_at_the_same_moment_load_a_card_once() {
    let fixture = Fixture::new().await;
    let loads = futures_of(8, || async { load(&fixture, &[second("2027-01-01")], Retroactive::Refused).await }).await;
    let new = loads.iter().filter(|lines| lines[0].ends_with(" new")).count();
    assert_eq!((new, fixture.count("rate_cards").await), (1, 5), "{loads:?}");
}

/// The same work several times at once.
async fn futures_of<T, F: Future<Output = T>>(count: usize, work: impl Fn() -> F) -> Vec<T> {
    futures::future::join_all((0..count).map(|_| work())).await
}
