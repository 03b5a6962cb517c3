//! Who is let in, and the form of every answer.

use std::time::Duration;

use aggregator::directory::CustomerId;
use api::{BODY_BYTES_MAX, TenantMac, TenantTransaction};

use crate::client::{get, get_with, send};
use crate::stage::{Stage, one_row, token};

const PRIVATE: [&str; 3] = ["/v1/usage?meter=cloudtrail_events", "/v1/invoices", "/v1/invoices/INV-2026-11-0001"];

#[tokio::test]
async fn no_key_a_wrong_key_and_another_customers_key_are_not_let_in() {
    let stage = Stage::new().await;
    let good = stage.key("acme");
    let tail = good.rsplit_once('_').unwrap().1;
    let no_key = token(Some("acme"), 9).reveal();
    let other_secret = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { '1' } else { '0' });
    for path in PRIVATE {
        for headers in [
            vec![],
            vec!["Authorization: ".to_owned()],
            vec!["Authorization: Bearer".to_owned()],
            vec![format!("Authorization: {good}")],
            vec![format!("Authorization: Basic {good}")],
            vec![format!("Authorization: Bearer {good}x")],
            vec![format!("Authorization: Bearer sk_live_globex_{tail}")],
            vec![format!("Authorization: Bearer sk_admin_{tail}")],
            vec![format!("Authorization: Bearer {other_secret}")],
            vec![format!("Authorization: Bearer {no_key}")],
            vec![format!("Authorization: Bearer {good}"), format!("Authorization: Bearer {good}")],
            vec![format!("X-Api-Key: {good}")],
            vec!["X-Customer-Id: acme".to_owned()],
        ] {
            let lines: Vec<&str> = headers.iter().map(String::as_str).collect();
            let answer = get_with(stage.address, path, &lines).await;
            answer.problem(401, "not-authenticated");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"securebase\""));
            assert!(!answer.body.contains(&tail[16..]), "a key is never repeated");
        }
        let in_the_url = format!("{path}{}key={good}", if path.contains('?') { "&" } else { "?" });
        get_with(stage.address, &in_the_url, &[]).await.problem(401, "not-authenticated");
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_usage_alone() {
    let stage = Stage::new().await;
    stage.seed(&[one_row(Some("acme"), "000000000001", 11), one_row(Some("globex"), "000000000002", 22)]).await;
    stage.seed(&[one_row(None, "000000000003", 33)]).await;
    let range = "from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z";
    let question = format!("/v1/usage?meter=cloudtrail_events&{range}&group_by=account");
    for (customer, rows) in [
        ("acme", r#"[{"account":"000000000001","quantity":"11"}]"#),
        ("globex", r#"[{"account":"000000000002","quantity":"22"}]"#),
        ("nobody", "[]"),
    ] {
        let answer = get(stage.address, &question, &stage.key(customer)).await;
        assert_eq!(answer.body, format!(r#"{{"complete_through":null,"rows":{rows}}}"#), "{customer}");
    }
}

#[tokio::test]
async fn sql_that_runs_as_a_tenant_cannot_become_another() {
    let stage = Stage::new().await;
    stage.seed(&[one_row(Some("globex"), "000000000002", 22)]).await;
    let pool = stage.pool();
    let acme = CustomerId::parse("acme").unwrap();
    for attack in [
        "select set_tenant('globex', '')",
        "select set_tenant('globex', decode(current_setting('securebase.tenant_mac'), 'hex'))",
        "select set_config('securebase.tenant', 'globex', true)",
        "set local role securebase_operator",
        "set local row_security = off",
        "select key from tenant_keys",
        "delete from usage_rows",
    ] {
        let mut transaction = TenantTransaction::begin(&pool, &stage.mac_key(), &acme).await.unwrap();
        let attempt = sqlx::query(attack).execute(&mut *transaction).await;
        let seen: Result<i64, _> =
            sqlx::query_scalar("select count(*) from usage_rows").fetch_one(&mut *transaction).await;
        assert!(attempt.is_err() || seen.is_err(), "{attack}: {seen:?}");
    }
    let wrong = TenantMac::new([1; 32]).unwrap();
    assert!(TenantTransaction::begin(&pool, &wrong, &acme).await.is_err(), "another key proves nothing");

    // A connection that served a tenant is nobody's afterwards.
    let mut transaction =
        TenantTransaction::begin(&pool, &stage.mac_key(), &CustomerId::parse("globex").unwrap()).await.unwrap();
    let seen: i64 = sqlx::query_scalar("select count(*) from usage_rows").fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(seen, 1);
    transaction.end().await.unwrap();
    let seen: i64 = sqlx::query_scalar("select count(*) from usage_rows").fetch_one(&pool).await.unwrap();
    assert_eq!(seen, 0);
}

#[tokio::test]
async fn health_and_readiness_need_no_key() {
    let stage = Stage::new().await;
    let health = get_with(stage.address, "/v1/health", &[]).await;
    assert_eq!((health.status, health.body.as_str()), (200, r#"{"status":"ok"}"#));
    let ready = get_with(stage.address, "/v1/ready", &[]).await;
    assert_eq!((ready.status, ready.body.as_str()), (200, r#"{"status":"ready"}"#));
}

#[tokio::test]
async fn a_server_above_row_level_security_or_with_another_key_is_not_ready() {
    let stage = Stage::new().await;
    for address in [
        stage.serve_as("postgres", stage.mac_key()).await,
        stage.serve_as("securebase_app", TenantMac::new([1; 32]).unwrap()).await,
        stage.serve_as("securebase_analytics", stage.mac_key()).await,
    ] {
        get_with(address, "/v1/ready", &[]).await.problem(503, "unavailable");
    }
}

#[tokio::test]
async fn every_answer_carries_an_id_of_ours_and_the_security_headers() {
    let stage = Stage::new().await;
    let key = stage.key("acme");
    let mut ids = std::collections::BTreeSet::new();
    for path in ["/v1/health", "/v1/ready", "/v1/usage", "/v1/usage?meter=cloudtrail_events", "/v1/nothing", "/"] {
        let authorization = format!("Authorization: Bearer {key}");
        let answer = get_with(stage.address, path, &[&authorization, "X-Request-Id: chosen-by-the-caller"]).await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(id.len(), 36, "{id}");
        assert!(ids.insert(id), "ids differ");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
    }
}

#[tokio::test]
async fn other_paths_methods_and_bodies_get_problems() {
    let stage = Stage::new().await;
    for path in ["/", "/v1", "/v1/", "/v1/usage/", "/v2/usage", "/v1/invoices/", "/v1/invoices/a/b"] {
        get(stage.address, path, &stage.key("acme")).await.problem(404, "not-found");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let request =
            format!("{method} /v1/usage HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let answer = send(stage.address, request.as_bytes()).await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    }
    let head = b"HEAD /v1/usage?meter=x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(send(stage.address, head).await.status, 401);

    for length in [format!("content-length: {}", BODY_BYTES_MAX + 1), "transfer-encoding: chunked".to_owned()] {
        get_with(stage.address, "/v1/health", &[&length]).await.problem(413, "too-large");
    }
    get(stage.address, "/v1/invoices/%ff", &stage.key("acme")).await.problem(400, "bad-request");
}

#[tokio::test]
async fn a_stopped_server_ends_running_requests_and_takes_no_more() {
    let stage = Stage::new().await;
    let (address, stop, server) = stage.stoppable().await;
    assert_eq!(get_with(address, "/v1/health", &[]).await.status, 200);
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), server).await;
    ended.expect("the server ends at once when it is idle").unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
