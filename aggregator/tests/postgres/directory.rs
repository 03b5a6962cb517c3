//! Who owns what, and what a registration does to usage that has arrived.

use aggregator::directory::{
    CreateCustomerError, CustomerCreated, CustomerId, NewCustomer, Ownership, RegisterError, Registration,
};
use sqlx::types::Decimal;

use crate::stage::{Stage, account, advance, events, hour, new_customer, now};

#[tokio::test]
async fn a_registration_gives_the_customer_the_usage_that_arrived_before_it() {
    let (stage, anna, _) = Stage::with_customers().await;
    let counters = [
        events(account(1), "2026-09-30T23", 1, 1),
        events(account(1), "2026-10-01T00", 20, 1),
        events(account(1), "2026-10-31T23", 300, 1),
        events(account(2), "2026-10-01T00", 4000, 1),
    ];
    stage.rows.advance(&[advance("p", (0, 1), &counters)], now()).await.unwrap();
    assert!(stage.months().await.is_empty());

    let registration = stage.directory.register(account(1), &anna, hour("2026-10-01T00"), now()).await.unwrap();
    assert_eq!(registration, Registration::Opened { rows_changed: 2 });
    assert_eq!(stage.months().await, [(("anna".into(), "2026-10".into()), [0, 0, 320, 0, 0])].into());

    let registration = stage.directory.register(account(1), &anna, hour("2026-03-01T00"), now()).await.unwrap();
    assert_eq!(registration, Registration::Extended { rows_changed: 1 });
    let month = |month: &str, total| (("anna".into(), month.into()), [0, 0, total, 0, 0]);
    assert_eq!(stage.months().await, [month("2026-09", 1), month("2026-10", 320)].into());
    stage.agrees_with_a_naive_recomputation().await;
}

#[tokio::test]
async fn a_move_splits_usage_at_its_hour() {
    let (stage, anna, berta) = Stage::with_customers().await;
    stage.directory.register(account(1), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    let counters = [
        events(account(1), "2026-10-15T11", 1, 1),
        events(account(1), "2026-10-15T12", 20, 1),
        events(account(1), "2026-11-01T00", 300, 1),
    ];
    stage.rows.advance(&[advance("p", (0, 1), &counters)], now()).await.unwrap();

    let registration = stage.directory.register(account(1), &berta, hour("2026-10-15T12"), now()).await.unwrap();
    assert_eq!(registration, Registration::Moved { former: anna.clone(), rows_changed: 2 });
    let month = |customer: &str, month: &str, total| ((customer.into(), month.into()), [0, 0, total, 0, 0]);
    let expected = [month("anna", "2026-10", 1), month("berta", "2026-10", 20), month("berta", "2026-11", 300)];
    assert_eq!(stage.months().await, expected.into());

    let later = [events(account(1), "2026-10-15T11", 5, 2), events(account(1), "2026-10-15T12", 60, 2)];
    stage.rows.advance(&[advance("p", (1, 2), &later)], now()).await.unwrap();
    let expected = [month("anna", "2026-10", 5), month("berta", "2026-10", 60), month("berta", "2026-11", 300)];
    assert_eq!(stage.months().await, expected.into(), "late usage goes to the owner of its hour");
    stage.agrees_with_a_naive_recomputation().await;
}

#[tokio::test]
async fn the_same_registration_again_changes_nothing() {
    let (stage, anna, berta) = Stage::with_customers().await;
    stage.directory.register(account(1), &anna, hour("2026-02-01T00"), now()).await.unwrap();
    stage.directory.register(account(1), &berta, hour("2026-03-01T00"), now()).await.unwrap();
    let listed = stage.directory.list().await.unwrap();
    for (customer, since) in [(&anna, "2026-02-01T00"), (&berta, "2026-03-01T00")] {
        let registration = stage.directory.register(account(1), customer, hour(since), now()).await.unwrap();
        assert_eq!(registration, Registration::Unchanged { since: hour(since) });
    }
    assert_eq!(stage.directory.list().await.unwrap(), listed);
}

#[tokio::test]
async fn a_registration_that_cannot_be_says_why_and_writes_nothing() {
    let (stage, anna, berta) = Stage::with_customers().await;
    let carla = CustomerId::parse("carla").unwrap();
    let refused = stage.directory.register(account(1), &carla, hour("2026-02-01T00"), now()).await.unwrap_err();
    assert!(matches!(refused, RegisterError::UnknownCustomer { .. }));
    assert_eq!(refused.to_string(), "customer carla does not exist");

    let refused = stage.directory.register(account(1), &anna, hour("2025-12-31T23"), now()).await.unwrap_err();
    assert!(matches!(refused, RegisterError::BeforeContract { .. }));
    assert_eq!(
        refused.to_string(),
        "account 000000000001 cannot be anna's from 2025-12-31T23: the contract starts at 2026-01-01T00"
    );
    assert!(stage.directory.list().await.unwrap().is_empty());

    stage.directory.register(account(1), &anna, hour("2026-02-01T00"), now()).await.unwrap();
    let refused = stage.directory.register(account(1), &berta, hour("2026-01-15T00"), now()).await.unwrap_err();
    assert!(matches!(refused, RegisterError::HistoryDiffers { .. }));
    assert_eq!(
        refused.to_string(),
        "account 000000000001 cannot be berta's from 2026-01-15T00: it is anna's from 2026-02-01T00, and only an hour \
         after the start of the last ownership can begin a new one"
    );
}

#[tokio::test]
async fn the_list_shows_owners_in_order_and_accounts_of_no_customer() {
    let (stage, anna, berta) = Stage::with_customers().await;
    stage.rows.advance(&[advance("p", (0, 1), &[events(account(9), "2026-10-01T00", 1, 1)])], now()).await.unwrap();
    stage.directory.register(account(1), &anna, hour("2026-02-01T00"), now()).await.unwrap();
    stage.directory.register(account(1), &berta, hour("2026-03-01T00"), now()).await.unwrap();

    let listed = stage.directory.list().await.unwrap();
    let owned = |customer: &CustomerId, from, until: Option<&str>| Ownership {
        customer: customer.clone(),
        from: hour(from),
        until: until.map(hour),
    };
    assert_eq!(listed.iter().map(|listed| listed.account).collect::<Vec<_>>(), [account(1), account(9)]);
    assert_eq!(
        listed[0].ownership,
        [owned(&anna, "2026-02-01T00", Some("2026-03-01T00")), owned(&berta, "2026-03-01T00", None)]
    );
    assert_eq!((listed[1].ownership.len(), listed[1].first_seen_at), (0, now()));
}

#[tokio::test]
async fn a_customer_is_created_once_and_never_silently_changed() {
    let stage = Stage::set().await;
    let anna = NewCustomer { tier: "gov-federal".into(), tax_rate: Decimal::new(81_250, 6), ..new_customer("anna") };
    assert_eq!(stage.directory.create_customer(&anna, now()).await.unwrap(), CustomerCreated::New);
    assert_eq!(stage.directory.create_customer(&anna, now()).await.unwrap(), CustomerCreated::Unchanged);

    let other = NewCustomer { name: "Anne".into(), contract_start: hour("2026-01-01T01"), ..anna.clone() };
    let refused = stage.directory.create_customer(&other, now()).await.unwrap_err();
    assert_eq!(refused.to_string(), "customer anna exists already with another name, contract start");

    let other = NewCustomer { tier: "premium".into(), ..new_customer("berta") };
    let refused = stage.directory.create_customer(&other, now()).await.unwrap_err();
    assert!(matches!(refused, CreateCustomerError::UnknownTier { .. }));
    assert_eq!(refused.to_string(), "customer berta: there is no tier \"premium\"");
}
