//! The audit trail, followed: what was changed behind its back shows.

use api::audit::archive::{Archive, archive, witnesses};
use api::audit::{FolderArchive, Verification, verify};
use ingest::Timestamp;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::client::get;
use crate::stage::Stage;

/// Three chains with four events each.
async fn recorded(stage: &Stage) -> PgConnection {
    let mut superuser = stage.superuser().await;
    for number in 0..4 {
        for customer in ["'acme'", "'globex'", "null"] {
            let sql = format!(
                "select record_audit_event({customer}, 'tester', 'test.done', 'subject {number}', '{{\"n\": {number}}}')"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
        }
    }
    superuser
}

async fn operator(stage: &Stage) -> PgConnection {
    PgConnection::connect(&stage.url("securebase_operator")).await.unwrap()
}

fn breaks(found: &Verification) -> Vec<String> {
    found.breaks.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn an_untouched_trail_verifies_and_every_kind_of_change_shows() {
    let stage = Stage::new().await;
    let mut superuser = recorded(&stage).await;
    let found = verify(&mut operator(&stage).await, &[]).await.unwrap();
    assert_eq!((found.chains, found.events, breaks(&found)), (3, 12, vec![]));

    for (tampering, says) in [
        (
            "update audit_events set actor = 'nobody' where chain = 'acme' and sequence = 2",
            "chain acme: event 2 was changed",
        ),
        (
            "update audit_events set details = '{}' where chain = '' and sequence = 4",
            "chain of the platform: event 4 was changed",
        ),
        (
            "update audit_events set occurred_at = occurred_at + interval '1 microsecond' where chain = 'acme' and sequence = 1",
            "chain acme: event 1 was changed",
        ),
        (
            "delete from audit_events where chain = 'globex' and sequence = 3",
            "chain globex: event 3 is missing; event 4 stands in its place",
        ),
        (
            "delete from audit_events where chain = 'globex' and sequence > 2",
            "chain globex: it ends at event 2, but the chain's head knows event 4",
        ),
        (
            "update audit_events set hash = sha256('x') where chain = 'acme' and sequence = 4",
            "chain acme: event 4 was changed",
        ),
        (
            "delete from audit_heads where chain = 'acme'",
            "chain acme: it goes on to event 4, but the chain's head ends at event 0",
        ),
        (
            "delete from audit_events where chain = 'acme'",
            "chain acme: it ends at event 0, but the chain's head knows event 4",
        ),
        (
            "update audit_heads set hash = sha256('x') where chain = 'acme'",
            "chain acme: event 4 has another hash than the chain's head remembers",
        ),
    ] {
        let mut transaction = superuser.begin().await.unwrap();
        // The superuser turns the triggers off, as only the owner of the machine could.
        sqlx::raw_sql("set local session_replication_role = replica").execute(&mut *transaction).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(tampering)).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let found = verify(&mut operator(&stage).await, &[]).await.unwrap();
        assert_eq!(breaks(&found), [says], "{tampering}");
        // Back to what it was: everything anew.
        sqlx::raw_sql("set session_replication_role = replica; delete from audit_events; delete from audit_heads; reset session_replication_role")
            .execute(&mut superuser)
            .await
            .unwrap();
        superuser = recorded(&stage).await;
    }
}

#[tokio::test]
async fn a_trail_written_anew_with_right_hashes_is_found_by_the_heads_of_a_day() {
    let stage = Stage::new().await;
    let mut superuser = recorded(&stage).await;
    let folder = tempfile::tempdir().unwrap();
    let place = FolderArchive::new(folder.path());
    let now = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let archived = archive(&mut operator(&stage).await, &place, now).await.unwrap();
    assert_eq!(archived.day.as_deref(), Some("2026-11-22"));
    let again = archive(&mut operator(&stage).await, &place, now).await.unwrap();
    assert_eq!((again.day, again.months), (None, vec![]), "once a day");
    assert_eq!(place.names("heads/").await.unwrap(), ["heads/2026-11-22.json"]);

    let known = witnesses(&place).await.unwrap();
    let found = verify(&mut operator(&stage).await, &known).await.unwrap();
    assert_eq!((found.witnessed, breaks(&found)), (3, vec![]));

    sqlx::raw_sql("set session_replication_role = replica; delete from audit_events; delete from audit_heads; reset session_replication_role")
        .execute(&mut superuser)
        .await
        .unwrap();
    let found = verify(&mut operator(&stage).await, &known).await.unwrap();
    assert_eq!(found.breaks.len(), 3, "nothing is left, and the heads know: {found:?}");
    drop(recorded(&stage).await);
    assert_eq!(
        breaks(&verify(&mut operator(&stage).await, &[]).await.unwrap()),
        Vec::<String>::new(),
        "in itself it is right"
    );
    let found = verify(&mut operator(&stage).await, &known).await.unwrap();
    assert_eq!(
        breaks(&found)[1],
        "chain acme: event 4 has another hash than heads/2026-11-22.json remembers",
        "{found:?}"
    );
    assert_eq!(found.breaks.len(), 3);
}

#[tokio::test]
async fn a_month_is_archived_whole_90_days_after_its_end() {
    let stage = Stage::new().await;
    drop(recorded(&stage).await);
    let folder = tempfile::tempdir().unwrap();
    let place = FolderArchive::new(folder.path());
    let mut operator = operator(&stage).await;
    let month: String = sqlx::query_scalar("select to_char(now() at time zone 'UTC', 'YYYY-MM')")
        .fetch_one(&mut operator)
        .await
        .unwrap();
    let end: String = sqlx::query_scalar(
        "select to_char((date_trunc('month', now() at time zone 'UTC') + interval '1 month')::date + 90, 'YYYY-MM-DD')",
    )
    .fetch_one(&mut operator)
    .await
    .unwrap();
    let due = Timestamp::parse_rfc3339(&format!("{end}T00:00:00Z")).unwrap();
    let early = archive(&mut operator, &place, due.saturating_add_secs(-1)).await.unwrap();
    assert_eq!(early.months, Vec::<String>::new());
    let archived = archive(&mut operator, &place, due).await.unwrap();
    assert_eq!(archived.months, std::slice::from_ref(&month));
    assert_eq!(
        place.names("events/").await.unwrap(),
        ["_platform.jsonl.gz", "acme.jsonl.gz", "globex.jsonl.gz", "index.json"]
            .map(|name| format!("events/{month}/{name}"))
    );
    let again = archive(&mut operator, &place, due.saturating_add_secs(86_400)).await.unwrap();
    assert_eq!(again.months, Vec::<String>::new());
}

#[tokio::test]
async fn a_customer_reads_its_own_trail_with_filters_and_pages() {
    let stage = Stage::new().await;
    drop(recorded(&stage).await);
    let key = stage.key("acme");
    let page = get(stage.address, "/v1/audit-events?limit=3&action=test.done", &key).await.json();
    let sequences = |page: &serde_json::Value| -> Vec<i64> {
        page["events"].as_array().unwrap().iter().map(|event| event["sequence"].as_i64().unwrap()).collect()
    };
    assert_eq!(sequences(&page), [4, 3, 2]);
    assert_eq!(page["events"][0]["details"], json!({"n": 3}));
    let rest = format!("/v1/audit-events?limit=3&action=test.done&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(sequences(&get(stage.address, &rest, &key).await.json()), [1]);
    let one = get(stage.address, "/v1/audit-events?subject=subject%202&actor=tester", &key).await.json();
    assert_eq!(sequences(&one), [3]);
    for (filter, parameter) in [
        ("from=x", "from"),
        ("to=2026", "to"),
        ("actor=", "actor"),
        ("subject=%00", "subject"),
        ("cursor=0", "cursor"),
        ("cursor=-1", "cursor"),
        ("limit=1001", "limit"),
        ("format=csv", "format"),
        ("customer_id=globex", "customer_id"),
    ] {
        let answer = get(stage.address, &format!("/v1/audit-events?{filter}"), &key).await;
        answer.problem(400, "invalid-parameter");
        assert_eq!(answer.json()["parameter"], parameter);
    }
    let export = get(stage.address, "/v1/audit-events?format=jsonl&limit=2&action=test.done", &key).await;
    assert_eq!(export.header("content-type"), Some("application/jsonl"));
    assert_eq!(export.header("x-next-cursor"), Some("3"));
    assert_eq!(export.body.lines().count(), 2);
    let other = get(stage.address, "/v1/audit-events?action=test.done", &stage.key("nobody")).await.json();
    assert_eq!(other["events"], json!([]));
}
