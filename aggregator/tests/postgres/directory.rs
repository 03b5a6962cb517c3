//! Who owns what, and what a registration does to usage that has arrived.

use aggregator::directory::{
    CreateCustomerError, CustomerCreated, CustomerId, Followed, NewCustomer, OrganizationId, OrganizationRegistration,
    Ownership, RegisterError, Registration, account_limits,
};
use aggregator::fact_rows::FactAdvance;
use aggregator::partition::Partition;
use ingest::{AccountId, Dimensions, FactKey, FactValue, Meter, UsageFact, Window};
use sqlx::Connection as _;
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

    // Its first event, in the transaction that added it; what was refused or unchanged left none.
    let trail: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', customer_id, sequence, actor, action, subject, details ->> 'tier') from audit_events",
    )
    .fetch_all(&mut sqlx::PgConnection::connect(&stage.operator_url()).await.unwrap())
    .await
    .unwrap();
    assert_eq!(trail, ["anna 1 operator customer.added anna gov-federal"]);
}

/// What is said when a list of an organization's accounts is read.
fn seen_in(organization: &str, account: AccountId, at: &str) -> FactAdvance {
    let time = hour(at).start();
    let key = FactKey { meter: Meter::Accounts, account, resource: account.to_string().into(), time, export: None };
    let dimensions = Dimensions { region: Dimensions::NONE.into(), category: organization.to_owned().into() };
    FactAdvance {
        partition: Partition::root(account.bucket(), Window::Day(time.day())),
        from_version: 0,
        to_version: 1,
        facts: vec![UsageFact { key, revision: 0, dimensions, end: None, value: FactValue::Live }],
    }
}

#[tokio::test]
async fn accounts_follow_their_organization_with_their_history_unless_something_is_said_of_them() {
    let (stage, anna, berta) = Stage::with_customers().await;
    let rows = stage.rows.fact_rows();
    let (first, second) =
        (OrganizationId::parse("o-aaaaaaaaaa").unwrap(), OrganizationId::parse("o-bbbbbbbbbb").unwrap());
    for (number, organization, at) in [
        (1, &first, "2026-10-01T00"),
        (2, &first, "2026-10-01T00"),
        (2, &second, "2026-10-20T00"),
        (3, &second, "2026-10-01T00"),
    ] {
        let advance = seen_in(organization.as_str(), account(number), at);
        rows.advance(account(number).bucket(), &[advance], now()).await.unwrap();
    }
    for number in 1..=4 {
        let counters: Vec<_> =
            ["2026-10-10T00", "2026-10-25T00"].iter().map(|window| events(account(number), window, 10, 1)).collect();
        stage.rows.advance(&[advance(&format!("p{number}"), (0, 1), &counters)], now()).await.unwrap();
    }
    let unknown = stage.directory.unknown().await.unwrap();
    let named: Vec<_> =
        unknown.iter().map(|one| (one.account, one.organization.as_ref().map(|id| id.as_str().to_owned()))).collect();
    let id = |organization: &OrganizationId| Some(organization.as_str().to_owned());
    assert_eq!(
        named,
        [(account(1), id(&first)), (account(2), id(&second)), (account(3), id(&second)), (account(4), None)]
    );
    assert_eq!(unknown[3].hours, Some((hour("2026-10-10T00"), hour("2026-10-25T00"))));
    assert_eq!(stage.directory.follow_organizations(now()).await.unwrap(), Followed::default(), "nobody owns them yet");

    for (organization, customer) in [(&first, &anna), (&second, &berta)] {
        let registered = stage.directory.register_organization(organization, customer, hour("2026-01-01T00")).await;
        assert_eq!(registered.unwrap(), OrganizationRegistration::Registered { former: None });
        let again = stage.directory.register_organization(organization, customer, hour("2026-01-01T00")).await;
        assert!(matches!(again, Ok(OrganizationRegistration::Unchanged { .. })), "{again:?}");
    }
    let version = async || -> i64 {
        sqlx::query_scalar("select version from directory_version").fetch_one(&stage.pool).await.unwrap()
    };
    assert_eq!(stage.directory.follow_organizations(now()).await.unwrap().accounts, 3);
    let followed = version().await;
    assert_eq!(stage.directory.follow_organizations(now()).await.unwrap(), Followed::default());
    assert_eq!(version().await, followed, "doing it again changes nothing");
    let events_of = async |customer: &str| -> i64 {
        let sql = "select coalesce(sum(total), 0)::bigint from usage_rows
            where meter = 'cloudtrail_events' and customer_id is not distinct from nullif($1, '')";
        sqlx::query_scalar(sql).bind(customer).fetch_one(&stage.pool).await.unwrap()
    };
    // The second account changed organizations on the 20th.
    assert_eq!((events_of("anna").await, events_of("berta").await, events_of("").await), (30, 30, 20));
    assert_eq!(stage.directory.unknown().await.unwrap().len(), 1);

    // Something is said of the first account: it stands above its organization's owner, and stays.
    let registration = stage.directory.register(account(1), &berta, hour("2026-10-20T00"), now()).await.unwrap();
    assert!(matches!(registration, Registration::Moved { former, .. } if former == anna));
    assert_eq!(stage.directory.follow_organizations(now()).await.unwrap(), Followed::default());
    assert_eq!((events_of("anna").await, events_of("berta").await), (20, 40));
    // Of the third from the very hour its organization's interval begins in.
    stage.directory.register(account(3), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    assert_eq!(stage.directory.follow_organizations(now()).await.unwrap(), Followed::default());
    assert_eq!((events_of("anna").await, events_of("berta").await), (40, 20));
    // An organization moves: its accounts go along, those of which something was said do not.
    let moved = stage.directory.register_organization(&second, &anna, hour("2026-10-22T00")).await.unwrap();
    assert_eq!(moved, OrganizationRegistration::Registered { former: Some(berta.clone()) });
    assert_eq!(stage.directory.follow_organizations(now()).await.unwrap().accounts, 1);
    assert_eq!((events_of("anna").await, events_of("berta").await, events_of("").await), (50, 10, 20));
    let organizations = stage.directory.organizations().await.unwrap();
    assert_eq!(
        organizations.iter().map(|one| (&one.organization, one.accounts)).collect::<Vec<_>>(),
        [(&first, 1), (&second, 2)]
    );

    let trail: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', customer_id, actor, action, subject) from audit_events
        where action like 'organization.%' or subject = '000000000001' order by occurred_at, sequence, customer_id",
    )
    .fetch_all(&mut sqlx::PgConnection::connect(&stage.operator_url()).await.unwrap())
    .await
    .unwrap();
    assert_eq!(
        trail,
        [
            "anna operator organization.registered o-aaaaaaaaaa",
            "berta operator organization.registered o-bbbbbbbbbb",
            "anna system account.followed_organization 000000000001",
            "anna operator account.registered 000000000001",
            "berta operator account.registered 000000000001",
            "anna operator organization.registered o-bbbbbbbbbb",
            "berta operator organization.registered o-bbbbbbbbbb",
        ]
    );
    for (customer, from) in [(&anna, "2025-12-31T23"), (&berta, "2026-01-05T00")] {
        assert!(stage.directory.register_organization(&second, customer, hour(from)).await.is_err(), "{from}");
    }
}

#[tokio::test]
async fn a_list_shows_what_the_events_did_not_say() {
    let stage = Stage::set().await;
    let rows = stage.rows.fact_rows();
    let id = "o-aaaaaaaaaa";
    let say = async |number: u64, at: &str, region: &str, value: FactValue| {
        let mut advance = seen_in(id, account(number), at);
        advance.facts[0].value = value;
        advance.facts[0].dimensions.region = region.to_owned().into();
        let name = advance.partition.to_string();
        advance.from_version = stage.rows.cursors(std::slice::from_ref(&name)).await.unwrap()[&name];
        advance.to_version = advance.from_version + 1;
        rows.advance(account(number).bucket(), &[advance], now()).await.unwrap();
    };
    for number in 1..=4 {
        say(number, "2026-10-01T00", "none", FactValue::Live).await;
    }
    let listed = async || {
        let organizations = stage.directory.organizations().await.unwrap();
        let [one] = organizations.as_slice() else { panic!("{organizations:?}") };
        (one.listed_at.map(|at| at.hour().to_string()), one.not_listed.clone())
    };
    assert_eq!(listed().await, (None, vec![]));
    // The list has the first and, closed, the second; an event says that the third had left before.
    say(1, "2026-10-10T00", ingest::LISTED, FactValue::Live).await;
    say(2, "2026-10-10T00", ingest::LISTED, FactValue::Gone).await;
    say(3, "2026-10-09T00", "none", FactValue::Gone).await;
    assert_eq!(listed().await, (Some("2026-10-10T00".to_owned()), vec![account(4)]));
    say(4, "2026-10-05T00", "none", FactValue::Gone).await;
    assert_eq!(listed().await, (Some("2026-10-10T00".to_owned()), vec![]));
}

#[tokio::test]
async fn a_limit_is_of_the_accounts_that_are_live_or_else_of_those_registered() {
    let (stage, anna, _) = Stage::with_customers().await;
    for number in 1..=6 {
        stage.directory.register(account(number), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    }
    let limits = async || {
        let mut connection = stage.pool.acquire().await.unwrap();
        let limits = account_limits(&mut connection, now()).await.unwrap();
        limits.iter().map(|one| (one.used(), one.allowed, one.is_exceeded())).collect::<Vec<_>>()
    };
    assert_eq!(limits().await, [(6, 5, true), (0, 5, false)], "nobody says which are live");
    let rows = stage.rows.fact_rows();
    for number in 1..=3 {
        let advance = seen_in("none", account(number), "2026-11-01T00");
        rows.advance(account(number).bucket(), &[advance], now()).await.unwrap();
    }
    assert_eq!(limits().await, [(3, 5, false), (0, 5, false)]);
    // The tier of the day counts, not the one a customer began with.
    let mut operator = sqlx::PgConnection::connect(&stage.operator_url()).await.unwrap();
    let change = "insert into customer_tiers (customer_id, valid_from, tier, recorded_at)
        values ($1, '2026-02-01', 'fintech', now()), ($1, '9000-01-01', 'standard', now())";
    sqlx::query(change).bind(anna.as_str()).execute(&mut operator).await.unwrap();
    assert_eq!(limits().await, [(3, 20, false), (0, 5, false)]);
}
