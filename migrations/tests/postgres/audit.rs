//! The audit trail: append-only, chained, each tenant's own.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::{assert_denied, connect, mac_of, run, set_tenant, stage, texts};

const RECORD: &str = "select record_audit_event($1, $2, $3, $4, $5::jsonb)";

async fn record(connection: &mut PgConnection, customer: Option<&str>, details: &str) -> Result<i64, sqlx::Error> {
    let recorded = sqlx::query_scalar(RECORD).bind(customer).bind("tester").bind("test.done").bind("a subject");
    recorded.bind(details).fetch_one(connection).await
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// The hash as the comment of the migration says, from what is stored.
async fn recomputed(connection: &mut PgConnection) -> Vec<(String, bool)> {
    let rows = sqlx::query(
        "select chain, sequence::text, (extract(epoch from occurred_at) * 1000000)::bigint::text, recorded_by, actor,
             action, subject, details::text, previous_hash, hash
         from audit_events order by chain, audit_events.sequence",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    let mut outcome = Vec::new();
    let mut before: (String, Vec<u8>) = (String::new(), vec![0; 32]);
    for row in rows {
        let chain: String = row.get(0);
        let previous: Vec<u8> = row.get(8);
        let follows = previous == if before.0 == chain { before.1.clone() } else { vec![0; 32] };
        let mut hash = Sha256::new();
        hash.update(&previous);
        for column in 0..8 {
            let field: String = row.get(column);
            hash.update(u32::try_from(field.len()).unwrap().to_be_bytes());
            hash.update(field.as_bytes());
        }
        let stored: Vec<u8> = row.get(9);
        outcome.push((format!("{chain} {}", row.get::<String, _>(1)), follows && hash.finalize()[..] == stored[..]));
        before = (chain, stored);
    }
    outcome
}

#[tokio::test]
async fn every_room_records_and_anyone_can_recompute_the_chains() {
    let database = stage().await;
    for login in ["securebase_aggregator", "securebase_billing", "securebase_operator"] {
        let mut connection = connect(&database.url(login)).await;
        record(&mut connection, Some("anna"), r#"{"b": 1.50, "a": "ü\u0001", "list": [null, {"x": true}]}"#)
            .await
            .unwrap();
        record(&mut connection, None, "{}").await.unwrap();
    }
    let mut app = connect(&database.url("securebase_app")).await;
    let mut transaction = app.begin().await.unwrap();
    set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
    assert_eq!(record(&mut transaction, Some("anna"), "{}").await.unwrap(), 4);
    transaction.commit().await.unwrap();

    let mut operator = connect(&database.url("securebase_operator")).await;
    let expected: Vec<(String, bool)> =
        [" 1", " 2", " 3", "anna 1", "anna 2", "anna 3", "anna 4"].map(|event| (event.to_owned(), true)).into();
    assert_eq!(recomputed(&mut operator).await, expected);
    let heads = "select h.chain || ' ' || h.sequence from audit_heads h join audit_events e
        on e.chain = h.chain and e.sequence = h.sequence and e.hash = h.hash order by 1";
    assert_eq!(texts(&mut operator, heads).await.unwrap(), [" 3", "anna 4"]);
    let who = "select recorded_by from audit_events where customer_id = 'anna' order by sequence";
    let rooms = ["securebase_aggregator", "securebase_billing", "securebase_operator", "securebase_app"];
    assert_eq!(texts(&mut operator, who).await.unwrap(), rooms);
}

#[tokio::test]
async fn who_recorded_and_is_gone_without_a_word_holds_a_chain_for_15_seconds_at_most() {
    let database = stage().await;
    let idle = "select current_setting('idle_in_transaction_session_timeout')";
    let event = "select record_audit_event('anna', 'x', 'x.y', 'x', '{}')";
    let call = "select record_audit_call(null, now(), 'x', 'x.y', 'x', '{}')";
    for (login, record) in [
        ("securebase_operator", call),
        ("securebase_operator", event),
        ("securebase_billing", event),
        ("securebase_aggregator", event),
    ] {
        let mut connection = connect(&database.url(login)).await;
        let mut transaction = connection.begin().await.unwrap();
        run(&mut transaction, record).await.unwrap();
        assert_eq!(texts(&mut transaction, idle).await.unwrap(), ["15s"], "{login}: {record}");
        transaction.commit().await.unwrap();
        assert_eq!(texts(&mut connection, idle).await.unwrap(), ["0"], "{login}: a setting of the transaction alone");
    }
}

#[tokio::test]
async fn a_tenant_records_for_itself_alone_and_reads_its_own() {
    let database = stage().await;
    let mut operator = connect(&database.url("securebase_operator")).await;
    record(&mut operator, Some("berta"), "{}").await.unwrap();
    record(&mut operator, None, "{}").await.unwrap();
    for customer in [Some("berta"), None] {
        let mut app = connect(&database.url("securebase_app")).await;
        assert_denied(record(&mut app, customer, "{}").await, "without a tenant");
        let mut transaction = app.begin().await.unwrap();
        set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
        assert_denied(record(&mut transaction, customer, "{}").await, "for another");
    }
    let mut app = connect(&database.url("securebase_app")).await;
    let mut transaction = app.begin().await.unwrap();
    set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
    record(&mut transaction, Some("anna"), "{}").await.unwrap();
    for table in ["audit_events", "audit_heads"] {
        let seen = format!("select coalesce(customer_id, 'platform') from {table}");
        assert_eq!(texts(&mut transaction, &seen).await.unwrap(), ["anna"], "{table}");
    }
}

const APPEND_CALLS: &str = "select append_audit_calls($1, $2, $3::jsonb[])";

async fn append_calls(
    connection: &mut PgConnection,
    customers: &[Option<&str>],
    macs: &[Option<Vec<u8>>],
    events: &[String],
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(APPEND_CALLS).bind(customers).bind(macs).bind(events).fetch_one(connection).await
}

#[expect(clippy::disallowed_methods, reason = "PostgreSQL holds the time of a call to its own clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Calls that were answered so many seconds ago, as they are given for a customer.
fn calls(seconds_ago: &[i64]) -> String {
    let event = |ago: &i64| {
        let apart = Duration::from_secs(ago.unsigned_abs());
        let at = if *ago < 0 { now() + apart } else { now() - apart };
        format!(
            r#"{{"at": "{}", "actor": "key:ü", "action": "request.get", "subject": "/v1/usage?x=%00", "details": {{"ago": {ago}}}}}"#,
            at.to_rfc3339()
        )
    };
    format!("[{}]", seconds_ago.iter().map(event).collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn calls_of_many_customers_go_to_the_chain_of_each_in_their_order() {
    let database = stage().await;
    let mut app = connect(&database.url("securebase_app")).await;
    for (of_berta, recorded) in [(&[9, 1, 5][..], 5), (&[], 2), (&[0], 3)] {
        let mut transaction = app.begin().await.unwrap();
        let (customers, macs) = ([Some("berta"), Some("anna")], [Some(mac_of("berta")), Some(mac_of("anna"))]);
        let events = [calls(of_berta), calls(&[3, 2])];
        assert_eq!(append_calls(&mut transaction, &customers, &macs, &events).await.unwrap(), recorded);
        // Whose client is gone without a word holds nobody's chain for long.
        let idle = "select current_setting('idle_in_transaction_session_timeout')";
        assert_eq!(texts(&mut transaction, idle).await.unwrap(), ["15s"]);
        transaction.commit().await.unwrap();
    }
    let mut operator = connect(&database.url("securebase_operator")).await;
    record(&mut operator, Some("anna"), "{}").await.unwrap();
    let expected: Vec<(String, bool)> =
        (1..=7).map(|n| (format!("anna {n}"), true)).chain((1..=4).map(|n| (format!("berta {n}"), true))).collect();
    assert_eq!(recomputed(&mut operator).await, expected, "as one event by itself is appended");
    let ago = "select details ->> 'ago' from audit_events where customer_id = 'berta' order by sequence";
    assert_eq!(texts(&mut operator, ago).await.unwrap(), ["9", "1", "5", "0"]);
    let went_back = "select sequence::text from (
        select sequence, occurred_at < lag(occurred_at) over (partition by chain order by sequence) as is_back from audit_events
    ) as e where is_back";
    assert_eq!(texts(&mut operator, went_back).await.unwrap(), Vec::<String>::new());
    let who = "select distinct recorded_by || ' ' || actor || ' ' || subject from audit_events where details ? 'ago'";
    assert_eq!(texts(&mut operator, who).await.unwrap(), ["securebase_app key:ü /v1/usage?x=%00"]);
}

#[tokio::test]
async fn calls_are_appended_for_proven_customers_alone_and_each_is_named_once() {
    let database = stage().await;
    let (anna, berta) = (Some(mac_of("anna")), Some(mac_of("berta")));
    let one = || calls(&[0]);
    let denied = [
        (vec![Some("berta")], vec![anna.clone()]),
        (vec![Some("anna"), Some("berta")], vec![anna.clone(), anna.clone()]),
        (vec![Some("anna"), Some("berta")], vec![anna.clone()]),
        (vec![Some("anna")], vec![anna.clone(), berta]),
        (vec![Some("anna"), None], vec![anna.clone(), None]),
        (vec![None], vec![anna.clone()]),
        (vec![Some("")], vec![Some(mac_of(""))]),
        (vec![Some("anna")], vec![Some(mac_of("anna")[..31].to_vec())]),
        (vec![Some("anna")], vec![Some(Vec::new())]),
    ];
    for (customers, macs) in denied {
        let mut app = connect(&database.url("securebase_app")).await;
        let appended = append_calls(&mut app, &customers, &macs, &[one(), one()]).await;
        assert_denied(appended, &format!("{customers:?}"));
    }
    let refused = [
        (vec![Some("anna"), Some("anna")], vec![one(), calls(&[1])]),
        (vec![Some("anna")], vec![calls(&[0, 3_700])]),
        (vec![Some("anna")], vec![calls(&[0, -400])]),
        (vec![Some("anna")], vec![r#"[{"actor": "a", "action": "b", "subject": "c"}]"#.to_owned()]),
    ];
    for (customers, events) in refused {
        let mut app = connect(&database.url("securebase_app")).await;
        let macs = vec![anna.clone(); customers.len()];
        let refused = append_calls(&mut app, &customers, &macs, &events).await.unwrap_err();
        assert_eq!(code(&refused).as_deref(), Some("22023"), "{events:?}: {refused}");
    }
    for login in super::LOGINS.into_iter().filter(|login| *login != "securebase_app") {
        let mut connection = connect(&database.url(login)).await;
        let appended = append_calls(&mut connection, &[Some("anna")], std::slice::from_ref(&anna), &[one()]).await;
        assert_denied(appended, login);
    }
    let mut superuser = connect(&database.superuser_url()).await;
    assert_eq!(texts(&mut superuser, "select chain from audit_events").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_event_that_rolls_back_leaves_no_gap_and_two_at_once_take_turns() {
    let database = stage().await;
    let mut one = connect(&database.url("securebase_billing")).await;
    let mut two = connect(&database.url("securebase_operator")).await;
    let mut abandoned = one.begin().await.unwrap();
    assert_eq!(record(&mut abandoned, Some("anna"), "{}").await.unwrap(), 1);
    let (recorded, ()) = tokio::join!(record(&mut two, Some("anna"), "{}"), async {
        abandoned.rollback().await.unwrap();
    });
    assert_eq!(recorded.unwrap(), 1, "the number comes back with what rolled back");
}

#[tokio::test]
async fn not_even_the_owner_changes_deletes_or_truncates_what_was_recorded() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    run(&mut superuser, "select record_audit_event('anna', 'a', 'b', 'c', '{}')").await.unwrap();
    let partition = "select tableoid::regclass::text from audit_events";
    let partition = texts(&mut superuser, partition).await.unwrap().remove(0);
    assert_ne!(partition, "audit_events_default", "a partition of the month was made ahead");
    for statement in [
        "update audit_events set actor = 'x'".to_owned(),
        "delete from audit_events".to_owned(),
        "truncate audit_events".to_owned(),
        format!("update {partition} set actor = 'x'"),
        format!("delete from {partition}"),
        format!("truncate {partition}"),
        "truncate audit_events_default".to_owned(),
        "update audit_heads set hash = decode(repeat('00', 32), 'hex')".to_owned(),
        "update audit_heads set sequence = sequence + 2".to_owned(),
        "delete from audit_heads".to_owned(),
        "truncate audit_heads".to_owned(),
    ] {
        let refused = run(&mut superuser, &statement).await.unwrap_err();
        assert_eq!(code(&refused).as_deref(), Some("23001"), "{statement}: {refused}");
    }
    for login in super::LOGINS {
        let mut connection = connect(&database.url(login)).await;
        for statement in [
            "insert into audit_events (customer_id, sequence, occurred_at, recorded_by, actor, action, subject, details,
                previous_hash, hash) values ('anna', 2, now(), 'x', 'x', 'x', 'x', '{}', '', '')",
            "update audit_events set actor = 'x'",
            "delete from audit_events",
            "truncate audit_events",
            "update audit_heads set sequence = 9",
            "select append_audit_event('anna', 'x', now(), 'x', 'x', 'x', '{}')",
            &format!("select * from {partition}"),
            "select * from audit_events_default",
        ] {
            assert_denied(run(&mut connection, statement).await, &format!("{login}: {statement}"));
        }
    }
}

#[tokio::test]
async fn months_are_made_ahead_and_what_has_no_month_is_kept_all_the_same() {
    let database = stage().await;
    let mut operator = connect(&database.url("securebase_operator")).await;
    let make = |months: i32| format!("select make_audit_partitions({months})::text");
    assert_eq!(texts(&mut operator, &make(3)).await.unwrap(), ["0"], "the migration made them");
    assert_eq!(texts(&mut operator, &make(5)).await.unwrap(), ["2"]);

    let mut superuser = connect(&database.superuser_url()).await;
    let far = "select append_audit_event('anna', 'x', now() + interval '7 months', 'x', 'x', 'x', '{}')";
    run(&mut superuser, far).await.unwrap();
    assert_eq!(texts(&mut operator, &make(8)).await.unwrap(), ["2"], "the month that has events stays where it is");
    let kept = "select tableoid::regclass::text from audit_events";
    assert_eq!(texts(&mut superuser, kept).await.unwrap(), ["audit_events_default"]);
}

#[tokio::test]
async fn what_is_no_event_is_refused() {
    let database = stage().await;
    let mut operator = connect(&database.url("securebase_operator")).await;
    for (call, constraint) in [
        ("'Anna', 'a', 'b', 'c', '{}'", "audit_events_customer_is_a_slug"),
        ("'anna', '', 'b', 'c', '{}'", "audit_events_words_are_short"),
        ("'anna', 'a', 'b', repeat('c', 1001), '{}'", "audit_events_words_are_short"),
        ("'anna', 'a', 'b', 'c', '[]'", "audit_events_details_are_a_small_object"),
        (
            "'anna', 'a', 'b', 'c', jsonb_build_object('a', repeat('x', 65536))",
            "audit_events_details_are_a_small_object",
        ),
    ] {
        let sql = format!("select record_audit_event({call})");
        let refused = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut operator).await.unwrap_err();
        let named = refused.as_database_error().and_then(|error| error.constraint());
        assert_eq!(named, Some(constraint), "{call}: {refused}");
    }
    assert_eq!(texts(&mut operator, "select chain from audit_heads").await.unwrap(), Vec::<String>::new());
}
