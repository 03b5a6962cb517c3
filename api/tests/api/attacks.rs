//! Hand attacks on every operation of the document, and the alarms that go with them.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex};

use api::{ApiParts, ApiState};
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use crate::client::{encoded, get, send};
use crate::stage::{Stage, one_row, token};

/// What is put into every parameter, one at a time.
const PAYLOADS: [&str; 7] = [
    "' or '1'='1",
    "'; select pg_sleep(30) --",
    "x' union all select customer_id || secret_hash from api_keys --",
    "$1::text; reset role",
    "\0",
    "../../../etc/passwd",
    "\u{202e}𝔘\u{fffd}{{7*7}}",
];

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().clone();
        let path = path.clone();
        methods.into_iter().map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
    };
    paths.iter().flat_map(of_path).collect()
}

/// A path with something in each of its places.
fn filled(path: &str, name: &str, value: &str) -> String {
    let mut filled = path.replace(&format!("{{{name}}}"), &encoded(value));
    for (place, known) in
        [("{customer}", "acme"), ("{key}", "0000000000000000"), ("{invoice}", "INV-2026-11-9999"), ("{run}", "1")]
    {
        filled = filled.replace(place, known);
    }
    filled.replace("{id}", &"0".repeat(32))
}

#[tokio::test]
async fn whatever_stands_in_a_parameter_is_a_value_or_a_problem() {
    let stage = Stage::new().await;
    stage.seed(&[one_row(Some("acme"), "000000000001", 11), one_row(Some("globex"), "000000000002", 22)]).await;
    let admin = token(None, 3);
    stage.add_key(&admin, &["admin"]).await;
    let document = get(stage.address, "/v1/openapi.json", "").await.json();
    let mut attacked = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let is_operators = operation["tags"][0] == "operators";
        let key = if is_operators { admin.reveal() } else { stage.key("acme") };
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in &parameters {
            let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            attacked.insert(format!("{method} {path} {name}"));
            for payload in PAYLOADS {
                let (query, header) = match place {
                    "query" => (format!("?{name}={}", encoded(payload)), String::new()),
                    "path" => (String::new(), String::new()),
                    // A header holds visible text alone.
                    _ => (
                        String::new(),
                        format!("{name}: {}\r\n", payload.replace(|c: char| !c.is_ascii_graphic(), " ")),
                    ),
                };
                let request = format!(
                    "{method} {}{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
                     content-length: 0\r\n{header}\r\n",
                    filled(&path, name, payload)
                );
                let answer = send(stage.address, request.as_bytes()).await;
                assert!(answer.status < 500, "{method} {path} {name}={payload:?}: {answer:?}");
                let leaks = answer.body.contains("$2b$") || (!is_operators && answer.body.contains("000000000002"));
                assert!(!leaks, "{method} {path} {name}={payload:?}: {answer:?}");
            }
        }
    }
    assert!(attacked.len() > 50, "{attacked:?}");
    let globex = get(
        stage.address,
        "/v1/usage?meter=cloudtrail_events&from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z",
        &stage.key("globex"),
    )
    .await;
    assert_eq!(globex.json()["rows"][0]["quantity"], "22", "nothing was changed");
}

/// A log that a test reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// The alarms since the last time, and everything is forgotten.
    fn alarms(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| Some(line["fields"]["alarm"].as_str()?.to_owned())).collect()
    }
}

#[tokio::test]
async fn naming_what_is_another_customers_raises_the_isolation_alarm_and_nothing_else_does() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
    // The server runs on this thread as well.
    let _guard = tracing::subscriber::set_default(subscriber);
    let stage = Stage::new().await;
    let key = stage.key("acme");
    sqlx::raw_sql(
        "set session_replication_role = replica;
         insert into invoices (invoice_id, invoice_number, customer_id, kind, revision, period_start, period_end, status,
             currency, subtotal_minor, discount_minor, net_minor, tax_rate, tax_minor, total_minor, source_class, snapshot,
             created_at, issued_at, due_at)
         values ('00000000-0000-4000-8000-000000000001', 'INV-2026-11-0007', 'globex', 'monthly', 1, '2026-10-01', '2026-11-01',
             'issued', 'USD', 0, 0, 0, 0, 0, 0, 'best effort', '{}', now(), now(), now())",
    )
    .execute(&mut stage.superuser().await)
    .await
    .unwrap();
    let alone = stage.serve(ApiState::new(ApiParts { operator_pool: None, ..stage.parts() })).await;
    log.alarms();
    let foreign_key = token(Some("globex"), 1).key_id;
    for (method, path) in [
        ("GET", "/v1/customers/globex".to_owned()),
        ("GET", "/v1/invoices/INV-2026-11-0007".to_owned()),
        ("GET", "/v1/invoices/00000000-0000-4000-8000-000000000001".to_owned()),
        ("GET", "/v1/invoices/INV-2026-11-0007/download".to_owned()),
        ("GET", "/v1/invoices/INV-2026-11-0007/evidence".to_owned()),
        ("DELETE", format!("/v1/api-keys/{foreign_key}")),
        ("POST", format!("/v1/api-keys/{foreign_key}/rotate")),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\ncontent-length: 0\r\n\r\n"
        );
        // With operators' connections, and without, as in a function.
        for address in [stage.address, alone] {
            send(address, request.as_bytes()).await.problem(404, "not-found");
            assert_eq!(log.alarms(), ["isolation"], "{method} {path}");
        }
    }
    for path in ["/v1/customers/acme", "/v1/invoices/INV-2026-11-0008", "/v1/nothing", "/v1/api-keys"] {
        get(stage.address, path, &key).await;
        assert_eq!(log.alarms(), [""; 0], "{path}");
    }
    // A call whose tenant PostgreSQL refuses cannot be recorded either: the recorder meets the same MAC.
    let wrong = ApiState::new(ApiParts { mac_key: api::TenantMac::new([1; 32]).unwrap(), ..stage.parts() });
    let recorder = wrong.recorder().clone();
    let wrong = stage.serve(wrong).await;
    log.alarms();
    get(wrong, "/v1/accounts", &key).await.problem(500, "internal");
    recorder.flush().await.unwrap();
    let mut alarms = log.alarms();
    alarms.sort();
    assert_eq!(
        alarms,
        ["audit", "isolation", "isolation"],
        "a MAC that PostgreSQL refuses, to the request and to the recorder"
    );
    let isolation = || log.alarms().into_iter().filter(|alarm| alarm != "audit").collect::<Vec<_>>();

    // A row of another customer, should PostgreSQL ever show one: here to a role that may see all of them.
    let above = stage.serve_as("postgres", stage.mac_key()).await;
    log.alarms();
    get(above, "/v1/invoices", &key).await.problem(500, "internal");
    assert_eq!(isolation(), ["isolation"], "a row of another customer");

    // A right that the application does not have (SQLSTATE 42501).
    let revoke = "revoke select on account_ownership from securebase_app";
    sqlx::raw_sql(revoke).execute(&mut stage.superuser().await).await.unwrap();
    get(stage.address, "/v1/accounts", &key).await.problem(500, "internal");
    assert_eq!(isolation(), ["isolation"], "a right that was refused");
    sqlx::raw_sql("grant select on account_ownership to securebase_app")
        .execute(&mut stage.superuser().await)
        .await
        .unwrap();

    // A tenant that is not set, however that may come about.
    sqlx::raw_sql(
        "create or replace function current_tenant() returns text language sql stable as 'select null::text'",
    )
    .execute(&mut stage.superuser().await)
    .await
    .unwrap();
    for path in ["/v1/customers/acme", "/v1/invoices/preview"] {
        get(stage.address, path, &key).await.problem(500, "internal");
        assert_eq!(isolation(), ["isolation"], "no tenant is set: {path}");
    }
}

#[tokio::test]
async fn no_log_line_holds_a_key_a_query_or_a_body() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().json().with_max_level(tracing::Level::DEBUG).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let stage = Stage::new().await;
    let key = stage.key("acme");
    get(stage.address, "/v1/usage?meter=secret-in-a-query", &key).await.problem(400, "invalid-parameter");
    let body = r#"{"name":"secret-in-a-body","scopes":["read:usage"]}"#;
    let request = format!(
        "POST /v1/api-keys HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\ncookie: secret-in-a-cookie\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let made = send(stage.address, request.as_bytes()).await;
    assert_eq!(made.status, 201);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let answered: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["fields"]["message"] == "answered")
        .collect();
    assert_eq!(answered.len(), 2, "one line a request");
    assert_eq!(answered[1]["fields"]["request_id"].as_str(), made.header("x-request-id"));
    let made = made.json()["key"].as_str().unwrap().to_owned();
    for secret in ["secret-in-a-query", "secret-in-a-cookie", &key, &made, &key[key.len() - 43..]] {
        assert!(!text.contains(secret), "{secret}");
    }
}
