//! What every answer carries, and how it travels: tags, compression, origins, limits, streams.

use std::time::Duration;

use api::{ApiParts, ApiState, REQUESTS_PER_MINUTE};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{get, get_with, send};
use crate::stage::Stage;

const METRICS: &str = "/v1/metrics?month=2026-10";

/// Sets a customer's total of a month, as the roll-up does.
async fn set_total(stage: &Stage, customer: &str, month: &str, total: u32) {
    sqlx::query(
        "insert into usage_metrics (customer_id, month, cloudtrail_events, updated_at)
         values ($1, $2::text::date, $3, clock_timestamp())
         on conflict (customer_id, month) do update set cloudtrail_events = excluded.cloudtrail_events,
             updated_at = excluded.updated_at",
    )
    .bind(customer)
    .bind(month)
    .bind(i64::from(total))
    .execute(&mut stage.superuser().await)
    .await
    .unwrap();
}

async fn this_month(stage: &Stage) -> String {
    let first = "select to_char(date_trunc('month', now() at time zone 'UTC'), 'YYYY-MM-DD')";
    sqlx::query_scalar(first).fetch_one(&mut stage.superuser().await).await.unwrap()
}

#[tokio::test]
async fn a_months_totals_and_twelve_months_back() {
    let stage = Stage::new().await;
    set_total(&stage, "acme", "2026-10-01", 7).await;
    set_total(&stage, "globex", "2026-10-01", 8).await;
    set_total(&stage, "acme", "2025-11-01", 5).await;
    let key = stage.key("acme");
    let month = get(stage.address, METRICS, &key).await.json();
    assert_eq!(month["metrics"]["cloudtrail_events"], "7");
    assert_eq!(month["metrics"]["security_hub_findings"], json!(null), "no source has reported");
    assert_eq!(month["complete_through"], json!(null));
    let empty = get(stage.address, "/v1/metrics?month=2026-09", &key).await.json();
    assert_eq!((&empty["month"], &empty["metrics"]), (&json!("2026-09"), &json!(null)));
    let history = get(stage.address, "/v1/metrics/history?until=2026-10", &key).await.json();
    let months = history["months"].as_array().unwrap();
    assert_eq!((months.len(), &months[0]["month"], &months[11]["month"]), (12, &json!("2026-10"), &json!("2025-11")));
    assert_eq!(months[11]["metrics"]["cloudtrail_events"], "5");
    for (query, parameter) in [
        ("months=0", "months"),
        ("months=13", "months"),
        ("until=2026-13", "until"),
        ("until=1999-12", "until"),
        ("month=x", "month"),
    ] {
        let answer = get(stage.address, &format!("/v1/metrics/history?{query}"), &key).await;
        answer.problem(400, "invalid-parameter");
        assert_eq!(answer.json()["parameter"], parameter);
    }
}

#[tokio::test]
async fn who_has_an_answer_already_gets_304_until_it_changes() {
    let stage = Stage::new().await;
    set_total(&stage, "acme", "2026-10-01", 7).await;
    let key = format!("Authorization: Bearer {}", stage.key("acme"));
    let first = get_with(stage.address, METRICS, &[&key]).await;
    let tag = first.header("etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let known = format!("If-None-Match: \"x\", {tag}");
    let again = get_with(stage.address, METRICS, &[&key, &known]).await;
    assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", Some(tag.as_str())));
    set_total(&stage, "acme", "2026-10-01", 8).await;
    let changed = get_with(stage.address, METRICS, &[&key, &known]).await;
    assert_eq!(changed.status, 200);
    get_with(stage.address, METRICS, &[&known]).await.problem(401, "not-authenticated");
}

#[tokio::test]
async fn a_long_answer_travels_compressed_for_who_asks() {
    let stage = Stage::new().await;
    let head = format!(
        "GET /v1/metrics/history HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         accept-encoding: gzip\r\n\r\n",
        stage.key("acme")
    );
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.unwrap();
    let text = String::from_utf8_lossy(&raw).to_ascii_lowercase();
    assert!(text.contains("content-encoding: gzip") && text.contains("vary: accept-encoding"), "{text}");
}

#[tokio::test]
async fn only_named_origins_may_ask_from_a_browser() {
    let stage = Stage::new().await;
    let origins = vec!["https://portal.example.com".parse().unwrap()];
    let address = stage.serve(ApiState::new(ApiParts { cors_origins: origins, ..stage.parts() })).await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /v1/api-keys HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\norigin: {origin}\r\n\
             access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n\r\n"
        )
    };
    let allowed = send(address, preflight("https://portal.example.com").as_bytes()).await;
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://portal.example.com"));
    assert_eq!(allowed.header("access-control-allow-credentials"), None, "cookies play no part");
    for origin in ["https://evil.example.com", "https://portal.example.com.evil.com", "null"] {
        let refused = send(address, preflight(origin).as_bytes()).await;
        assert_eq!(refused.header("access-control-allow-origin"), None, "{origin}");
    }
}

#[tokio::test]
async fn a_customer_has_so_many_requests_a_minute_and_is_told_what_is_left() {
    let stage = Stage::new().await;
    let key = stage.key("acme");
    let first = get(stage.address, METRICS, &key).await;
    assert_eq!(first.header("ratelimit-policy"), Some("\"customer\";q=1000;w=60"));
    assert_eq!(first.header("ratelimit"), Some("\"customer\";r=999;t=1"));
    // What the key may not do is a request as well, and a quick one. On one connection, one after the other.
    let asked = REQUESTS_PER_MINUTE as usize + 500;
    let line = format!("GET /v1/admin/accounts HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n");
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    let mut requests = format!("{line}\r\n").repeat(asked - 1);
    requests.push_str(&format!("{line}connection: close\r\n\r\n"));
    let (mut reader, mut writer) = stream.split();
    let mut raw = Vec::new();
    let (written, read) = tokio::join!(writer.write_all(requests.as_bytes()), reader.read_to_end(&mut raw));
    written.unwrap();
    read.unwrap();
    let text = String::from_utf8(raw).unwrap();
    let refused = text.matches("HTTP/1.1 429").count();
    let passed = text.matches("HTTP/1.1 403").count();
    assert_eq!(refused + passed, asked);
    // How many come back meanwhile depends on how long it takes.
    assert!(passed >= 999 && refused > 0, "{passed} passed, {refused} refused");
    assert!(text.to_ascii_lowercase().contains("retry-after: 1"));
    assert_eq!(get(stage.address, METRICS, &stage.key("globex")).await.status, 200, "others are not concerned");
}

#[tokio::test]
async fn the_server_says_what_it_measures_without_naming_anyone() {
    let stage = Stage::new().await;
    get(stage.address, METRICS, &stage.key("acme")).await;
    get(stage.address, "/v1/customers/globex", &stage.key("acme")).await.problem(404, "not-found");
    let shown = get_with(stage.address, "/metrics", &[]).await;
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("text/plain; version=0.0.4")));
    for line in [
        "securebase_api_requests_total{route=\"/v1/metrics\",method=\"GET\",status=\"200\"} 1",
        "securebase_api_requests_total{route=\"/v1/customers/{customer}\",method=\"GET\",status=\"404\"} 1",
        "securebase_api_secrets_total{known_by=\"bcrypt\"} 1",
        "securebase_api_secrets_total{known_by=\"memory\"} 1",
    ] {
        assert!(shown.body.lines().any(|text| text == line), "{line}: {}", shown.body);
    }
    assert!(!shown.body.contains("acme") && !shown.body.contains("globex"), "{}", shown.body);
}

/// Reads from a stream until it holds the text.
async fn until(stream: &mut TcpStream, seen: &mut String, text: &str) {
    let reading = async {
        let mut buffer = [0; 4_096];
        while !seen.contains(text) {
            let length = stream.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "the stream ended before {text:?}: {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    };
    timeout(Duration::from_secs(20), reading).await.unwrap_or_else(|_| panic!("no {text:?} in time"));
}

async fn open(stage: &Stage, key: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    let head = format!(
        "GET /v1/usage/stream HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\naccept: text/event-stream\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_stream_shows_totals_as_they_change_and_goes_on_where_it_was() {
    let stage = Stage::new().await;
    let month = this_month(&stage).await;
    set_total(&stage, "acme", &month, 7).await;
    set_total(&stage, "globex", &month, 424_242).await;
    let key = stage.key("acme");
    let mut stream = open(&stage, &key, "").await;
    let mut seen = String::new();
    until(&mut stream, &mut seen, r#""cloudtrail_events":"7""#).await;
    assert!(seen.contains("content-type: text/event-stream") && seen.contains("event: usage"), "{seen}");
    set_total(&stage, "acme", &month, 8).await;
    until(&mut stream, &mut seen, r#""cloudtrail_events":"8""#).await;
    assert!(!seen.contains("424242"), "another customer's totals: {seen}");
    let id = seen.rsplit("\nid: ").next().unwrap().lines().next().unwrap().to_owned();

    let mut resumed = open(&stage, &key, &format!("last-event-id: {id}\r\n")).await;
    set_total(&stage, "acme", &month, 9).await;
    let mut seen = String::new();
    until(&mut resumed, &mut seen, "\"9\"").await;
    assert!(!seen.contains(r#""cloudtrail_events":"8""#), "what it has is not sent again: {seen}");
}

#[tokio::test]
async fn a_long_poll_answers_with_the_next_change() {
    let stage = Stage::new().await;
    let month = this_month(&stage).await;
    set_total(&stage, "acme", &month, 7).await;
    let key = stage.key("acme");
    let first = get(stage.address, "/v1/usage/stream", &key).await.json();
    assert_eq!(first["metrics"]["cloudtrail_events"], "7");
    let next = format!("/v1/usage/stream?since={}", first["id"].as_str().unwrap());
    let (second, ()) = tokio::join!(get(stage.address, &next, &key), set_total(&stage, "acme", &month, 8));
    assert_eq!(second.json()["metrics"]["cloudtrail_events"], "8");
    get(stage.address, "/v1/usage/stream?since=%00", &key).await.problem(400, "invalid-parameter");
    get(stage.address, "/v1/usage/stream", "x").await.problem(401, "not-authenticated");
}
