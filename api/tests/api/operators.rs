//! What operators look at and change.

use aggregator::directory::AccountDirectory;
use aggregator::receipts::Sources;
use api::{ApiParts, ApiState, OperationQueue, Operations};
use embedded::DynamoDb;
use ingest::dead_letter::{DeadLetter, DeadLetters};
use ingest::{Reason, Timestamp};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::net::SocketAddr;

use crate::client::{Answer, get, send};
use crate::stage::{Stage, one_row, token};
use crate::stores::dynamodb;

/// A server with everything that operators change, and an operator's key.
async fn operated(stage: &Stage, dead_letters: &DeadLetters) -> (SocketAddr, String) {
    let admin = token(None, 3);
    stage.add_key(&admin, &["admin"]).await;
    let pool = PgPool::connect_lazy_with(stage.options("securebase_aggregator"));
    let operations = Some(Operations {
        directory: AccountDirectory::new(pool.clone()),
        sources: Sources::new(pool),
        dead_letters: dead_letters.clone(),
        queue: OperationQueue::default(),
    });
    let address = stage.serve(ApiState::new(ApiParts { operations, ..stage.parts() })).await;
    (address, admin.reveal())
}

async fn post(address: SocketAddr, path: &str, key: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    send(address, request.as_bytes()).await
}

#[tokio::test]
async fn operators_add_customers_and_give_them_accounts() {
    let stage = Stage::new().await;
    let server = DynamoDb::in_memory().await.unwrap();
    let letters = DeadLetters::new(dynamodb(server.endpoint()), "letters".to_owned(), || 0);
    let (address, admin) = operated(&stage, &letters).await;
    stage.seed(&[one_row(None, "000000000005", 7)]).await;
    sqlx::query("insert into accounts (account_id, first_seen_at) values ('000000000005', now())")
        .execute(&mut stage.superuser().await)
        .await
        .unwrap();
    let customer =
        json!({"id": "initech", "name": "Initech", "tier": "standard", "contract_start": "2026-01-01T00:00:00Z"});
    let added = post(address, "/v1/admin/customers", &admin, &customer).await;
    assert_eq!((added.status, added.json()), (201, json!({"customer": "initech", "outcome": "added"})));
    let again = post(address, "/v1/admin/customers", &admin, &customer).await;
    assert_eq!((again.status, &again.json()["outcome"]), (200, &json!("unchanged")));
    let mut other = customer.clone();
    other["tier"] = json!("fintech");
    post(address, "/v1/admin/customers", &admin, &other).await.problem(409, "conflict");
    for (member, value) in [
        ("id", json!("No")),
        ("tier", json!("gold")),
        ("tax_rate", json!("much")),
        ("contract_start", json!("2026-01-01T00:00:01Z")),
        ("unknown", json!(1)),
        ("name", json!("")),
    ] {
        let mut wrong = customer.clone();
        wrong["id"] = json!("another");
        wrong[member] = value;
        post(address, "/v1/admin/customers", &admin, &wrong).await.problem(400, "invalid-body");
    }

    let registration = json!({"account": "000000000005", "customer": "initech", "from": "2026-10-01T00:00:00Z"});
    let registered = post(address, "/v1/admin/accounts", &admin, &registration).await;
    let said = registered.json();
    assert_eq!((registered.status, &said["outcome"], &said["usage_rows_changed"]), (200, &json!("opened"), &json!(1)));
    let again = post(address, "/v1/admin/accounts", &admin, &registration).await.json();
    assert_eq!(again["outcome"], "unchanged");
    let moved = json!({"account": "000000000005", "customer": "acme", "from": "2026-10-02T00:00:00Z"});
    let moved = post(address, "/v1/admin/accounts", &admin, &moved).await.json();
    assert_eq!((&moved["outcome"], &moved["former"]), (&json!("moved"), &json!("initech")));
    let early = json!({"account": "000000000005", "customer": "globex", "from": "2026-10-01T00:00:00Z"});
    post(address, "/v1/admin/accounts", &admin, &early).await.problem(409, "conflict");
    for wrong in [
        json!({"account": "5", "customer": "acme", "from": "2026-10-01T00:00:00Z"}),
        json!({"account": "000000000005", "customer": "never-was", "from": "2026-10-03T00:00:00Z"}),
        json!({"account": "000000000005", "customer": "acme", "from": "2020-10-03T00:00:00Z"}),
        json!({"account": "000000000005", "customer": "acme", "from": "soon"}),
    ] {
        post(address, "/v1/admin/accounts", &admin, &wrong).await.problem(400, "invalid-body");
    }
    for path in ["/v1/admin/customers", "/v1/admin/accounts"] {
        post(address, path, &stage.key("acme"), &customer).await.problem(403, "not-allowed");
        post(
            stage.address,
            path,
            &admin,
            &if path.ends_with("customers") { customer.clone() } else { registration.clone() },
        )
        .await
        .problem(404, "not-found");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn operators_see_dead_letters_and_dismiss_them_with_a_reason() {
    let stage = Stage::new().await;
    let server = DynamoDb::in_memory().await.unwrap();
    let letters = DeadLetters::new(dynamodb(server.endpoint()), "letters".to_owned(), || 0);
    letters.ensure_table().await.unwrap();
    let (address, admin) = operated(&stage, &letters).await;
    let seen_at = Timestamp::parse_rfc3339("2026-10-01T00:00:00Z").unwrap();
    let some: Vec<DeadLetter> = (0..3)
        .map(|number| DeadLetter {
            object: "a.json".to_owned(),
            offset: 10 * number,
            number: 0,
            reason: Reason::AccountMalformed,
            bytes: b"{\"recipientAccountId\":\"x\"}".to_vec(),
            is_whole: true,
            seen_at,
            resolved_at: None,
        })
        .collect();
    letters.put(&some).await.unwrap();
    let first = get(address, "/v1/admin/dead-letters?limit=2", &admin).await.json();
    let rest =
        format!("/v1/admin/dead-letters?limit=2&cursor={}", first["next_cursor"].as_str().expect("there is one more"));
    let rest = get(address, &rest, &admin).await.json();
    assert_eq!((rest["dead_letters"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    let letter = &first["dead_letters"][0];
    assert_eq!((&letter["object"], &letter["excerpt"]), (&json!("a.json"), &json!("{\"recipientAccountId\":\"x\"}")));
    assert!(!letter["advice"].as_str().unwrap().is_empty());

    let path = format!("/v1/admin/dead-letters/{}/dismiss", letter["id"].as_str().unwrap());
    let word = json!({"because": "a test of the sender"});
    let dismissed = post(address, &path, &admin, &word).await;
    assert_eq!(dismissed.status, 200, "{dismissed:?}");
    assert_eq!(dismissed.json()["dismissed_because"], "a test of the sender");
    assert_eq!(post(address, &path, &admin, &word).await.status, 200, "said again");
    post(address, &path, &admin, &json!({"because": "another reason"})).await.problem(409, "conflict");
    for wrong in [json!({"because": " "}), json!({"because": "x".repeat(2_001)}), json!({})] {
        post(address, &path, &admin, &wrong).await.problem(400, "invalid-body");
    }
    let never = format!("/v1/admin/dead-letters/{}/dismiss", "0".repeat(32));
    post(address, &never, &admin, &word).await.problem(404, "not-found");
    let open = get(address, "/v1/admin/dead-letters", &admin).await.json();
    let all = get(address, "/v1/admin/dead-letters?state=all", &admin).await.json();
    let count = |page: &Value| page["dead_letters"].as_array().unwrap().len();
    assert_eq!((count(&open), count(&all)), (2, 3));
    let recorded: Vec<(String, String)> =
        sqlx::query_as("select actor, details ->> 'because' from audit_events where action = 'dead_letter.dismissed'")
            .fetch_all(&mut stage.superuser().await)
            .await
            .unwrap();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert!(recorded[0].0.starts_with("key:") && recorded[0].1 == "a test of the sender", "{recorded:?}");
    get(stage.address, "/v1/admin/dead-letters", &admin).await.problem(404, "not-found");
    server.shutdown().await;
    get(address, "/v1/admin/dead-letters", &admin).await.problem(503, "unavailable");
}

#[tokio::test]
async fn operators_see_closes_receipts_and_runs_page_by_page() {
    let stage = Stage::new().await;
    let admin = token(None, 3);
    stage.add_key(&admin, &["admin"]).await;
    let admin = admin.reveal();
    sqlx::raw_sql(
        "set session_replication_role = replica;
         insert into closes (customer_id, period_start, period_end, cut, source_class, overridden_by, override_reason,
             directory_version, cut_at, evidence_sha256)
         select c, '2026-10-01', '2026-11-01', n, 'best effort', case n when 2 then 'ops' end,
             case n when 2 then 'late' end, 0, '2026-11-02Z', sha256('x')
         from unnest(array['acme', 'globex']) as c, generate_series(1, 2) as n order by n, c;
         insert into sources (customer_id, meter, kind, source_class, lateness_seconds, since, declared_at)
         select c, m, 'cloudtrail_digests', 'proven', 3600, '2026-01-01Z', now()
         from unnest(array['acme', 'globex']) as c, unnest(array['cloudtrail_events', 'guardduty_findings']) as m;
         insert into completeness (customer_id, meter, source_class, complete_through, waits_for, updated_at)
         values ('acme', 'cloudtrail_events', 'proven', '2026-10-31 22:00Z', 'nothing', now());
         insert into billing_runs (period_start, is_whole, started_at, started_by, finished_at)
         values ('2026-09-01', true, '2026-10-01Z', 'schedule', '2026-10-01 00:01Z'), ('2026-10-01', true, '2026-11-01Z', 'ops', null);
         insert into billing_run_customers (run_id, customer_id, outcome, reason, currency, total_minor, finished_at)
         select run_id, c, case c when 'acme' then 'failed' end, case c when 'acme' then 'no prices' end,
             case c when 'acme' then 'USD' end, case c when 'acme' then 216022 end, case c when 'acme' then now() end
         from billing_runs, unnest(array['acme', 'globex']) as c where period_start = '2026-10-01';",
    )
    .execute(&mut stage.superuser().await)
    .await
    .unwrap();
    let pages = async |path: &str, list: &str| {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = get(stage.address, &format!("{path}limit=1{cursor}"), &admin).await;
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            rows.extend(page[list].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", next.replace('/', "%2F")),
                None => return rows,
            }
        }
    };
    let closes = pages("/v1/admin/closes?", "closes").await;
    let seen: Vec<_> =
        closes.iter().map(|close| (close["customer"].as_str().unwrap(), close["cut"].as_i64().unwrap())).collect();
    assert_eq!(seen, [("globex", 2), ("acme", 2), ("globex", 1), ("acme", 1)]);
    assert_eq!((&closes[0]["overridden_by"], &closes[2]["overridden_by"]), (&json!("ops"), &Value::Null));
    assert_eq!(pages("/v1/admin/closes?customer=acme&period=2026-10&", "closes").await.len(), 2);
    assert_eq!(pages("/v1/admin/closes?period=2026-09&", "closes").await.len(), 0);
    let receipts = pages("/v1/admin/receipts?", "receipts").await;
    assert_eq!(receipts.len(), 4);
    assert_eq!(receipts[0]["complete_through"], "2026-10-31T23:00:00Z", "the end of the last complete hour");
    assert_eq!(receipts[1]["waits_for"], Value::Null);
    assert_eq!(pages("/v1/admin/receipts?customer=globex&", "receipts").await.len(), 2);
    let runs = pages("/v1/admin/runs?", "runs").await;
    assert_eq!((&runs[0]["period"], &runs[0]["finished_at"]), (&json!("2026-10"), &Value::Null));
    assert_eq!(runs[0]["outcomes"], json!({"failed": 1, "to be billed": 1}));
    let results = pages(&format!("/v1/admin/runs/{}?", runs[0]["id"]), "results").await;
    assert_eq!((&results[0]["total"], &results[0]["reason"]), (&json!("2160.22"), &json!("no prices")));
    assert_eq!((&results[1]["customer"], &results[1]["outcome"]), (&json!("globex"), &Value::Null));
    for path in ["/v1/admin/runs/0", "/v1/admin/runs/x", "/v1/admin/runs/99999999999999999999"] {
        get(stage.address, path, &admin).await.problem(404, "not-found");
    }
    for (path, parameter) in [
        ("/v1/admin/closes?period=x", "period"),
        ("/v1/admin/closes?cursor=x", "cursor"),
        ("/v1/admin/receipts?cursor=acme", "cursor"),
        ("/v1/admin/receipts?customer=X", "customer"),
        ("/v1/admin/runs?cursor=1.5", "cursor"),
    ] {
        let answer = get(stage.address, path, &admin).await;
        answer.problem(400, "invalid-parameter");
        assert_eq!(answer.json()["parameter"], parameter, "{path}");
    }
    for path in ["/v1/admin/closes", "/v1/admin/receipts", "/v1/admin/runs", "/v1/admin/dead-letters"] {
        get(stage.address, path, &stage.key("acme")).await.problem(403, "not-allowed");
    }
}
