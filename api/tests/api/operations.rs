//! What operators ask for, from the request to its end: rate cards and sources at once, closes, runs and replays by a worker.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aggregator::directory::AccountDirectory;
use aggregator::receipts::Sources;
use api::{
    ApiParts, ApiState, Operation, OperationFailure, OperationQueue, OperationTask, OperationWorker, Operations,
};
use embedded::DynamoDb;
use ingest::dead_letter::{DeadLetter, DeadLetters, Dismissal};
use ingest::{Reason, Timestamp};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::client::{Answer, get, get_with, send};
use crate::invoices::issue;
use crate::stage::{Stage, token};
use crate::stores::dynamodb;

const CLOSES: &str = "/v1/admin/closes";
const RUNS: &str = "/v1/admin/runs";
const CARDS: &str = "/v1/admin/rate-cards";

/// A server for operators, whose queue a test's workers carry out.
struct Operated {
    stage: Stage,
    tables: DynamoDb,
    letters: DeadLetters,
    queue: OperationQueue,
    address: SocketAddr,
    admin: String,
}

impl Operated {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let tables = DynamoDb::in_memory().await.unwrap();
        let letters = DeadLetters::new(dynamodb(tables.endpoint()), "letters".to_owned(), || 0);
        letters.ensure_table().await.unwrap();
        let admin = token(None, 3);
        stage.add_key(&admin, &["admin"]).await;
        let pool = PgPool::connect_lazy_with(stage.options("securebase_aggregator"));
        let queue = OperationQueue::default();
        let operations = Some(Operations {
            directory: AccountDirectory::new(pool.clone()),
            sources: Sources::new(pool),
            dead_letters: letters.clone(),
            queue: queue.clone(),
        });
        let address = stage.serve(ApiState::new(ApiParts { operations, ..stage.parts() })).await;
        Self { stage, tables, letters, queue, address, admin: admin.reveal() }
    }

    async fn post(&self, path: &str, headers: &[&str], body: &Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.post_text(path, &[&["content-type: application/json"], headers].concat(), &text).await
    }

    async fn post_text(&self, path: &str, headers: &[&str], body: &str) -> Answer {
        post_to(self.address, &self.admin, path, headers, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        get(self.address, path, &self.admin).await
    }

    /// Waits until an operation has ended; each answer waits for it.
    async fn ended(&self, id: &Value) -> Value {
        loop {
            let key = format!("authorization: Bearer {}", self.admin);
            let headers = [key.as_str(), "prefer: wait=5"];
            let answer = get_with(self.address, &format!("/v1/admin/operations/{id}"), &headers).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let found = answer.json();
            if found["finished_at"].is_string() {
                return found;
            }
        }
    }

    /// A worker that carries out as it is told to.
    fn worker<W>(&self, carry_out: impl Fn(OperationTask) -> W + Send + Sync + 'static) -> JoinHandle<()>
    where
        W: Future<Output = Result<Value, OperationFailure>> + Send + 'static,
    {
        let pool = PgPool::connect_lazy_with(self.stage.options("securebase_operator"));
        tokio::spawn(OperationWorker::new(pool, self.queue.clone()).run(carry_out))
    }

    async fn recorded(&self, action: &str) -> Vec<(String, String, Value)> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "select actor, subject, details::text from audit_events where action = $1 and customer_id is null order by sequence",
        )
        .bind(action)
        .fetch_all(&mut self.stage.superuser().await)
        .await
        .unwrap();
        rows.into_iter().map(|(actor, subject, text)| (actor, subject, serde_json::from_str(&text).unwrap())).collect()
    }
}

async fn post_to(address: SocketAddr, key: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n{lines}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    send(address, request.as_bytes()).await
}

fn card(version: u32, from: &str, base: &str) -> String {
    format!(
        "tier = \"standard\"\nversion = {version}\ncurrency = \"USD\"\nvalid_from = {from}\n\n[[fees]]\nid = \"base\"\n\
         kind = \"base\"\ndescription = \"Base fee\"\namount = \"{base}\"\n"
    )
}

const TOML: &str = "content-type: application/toml; charset=utf-8";

#[tokio::test]
async fn a_rate_card_is_loaded_once_whichever_form_it_has() {
    let site = Operated::new().await;
    let loaded = site.post_text(&format!("{CARDS}?name=july.toml"), &[TOML], &card(2, "2030-01-01", "2100.00")).await;
    assert_eq!(
        (loaded.status, loaded.json()),
        (201, json!({"card": "rate card standard version 2", "outcome": "loaded"}))
    );
    let as_json = json!({
        "tier": "standard", "version": 2, "currency": "USD", "valid_from": "2030-01-01",
        "fees": [{"id": "base", "kind": "base", "description": "Base fee", "amount": "2100.00"}],
    });
    for again in
        [site.post_text(CARDS, &[TOML], &card(2, "2030-01-01", "2100.00")).await, site.post(CARDS, &[], &as_json).await]
    {
        assert_eq!((again.status, &again.json()["outcome"]), (200, &json!("unchanged")), "{again:?}");
    }
    let mut third = as_json.clone();
    third["version"] = json!(3);
    third["valid_from"] = json!("2031-01-01");
    let key = ["idempotency-key: third"];
    let (first, second) = (site.post(CARDS, &key, &third).await, site.post(CARDS, &key, &third).await);
    assert_eq!((first.status, second.status), (201, 201), "the answer of the first");
    assert_eq!(first.json(), second.json());
    site.post(CARDS, &key, &as_json).await.problem(422, "idempotency-key-reused");
    let stored: Vec<(i32, String)> = sqlx::query_as(
        "select version, source_name from rate_cards where tier = 'standard' and document is not null order by version",
    )
    .fetch_all(&mut site.stage.superuser().await)
    .await
    .unwrap();
    assert_eq!(stored, [(2, "july.toml".to_owned()), (3, "rate-card.toml".to_owned())]);
    let recorded = site.recorded("rate_card.loaded").await;
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert!(recorded[0].0.starts_with("key:") && recorded[0].1 == "rate card standard version 2", "{recorded:?}");
    assert_eq!(site.get(CARDS).await.json()["rate_cards"].as_array().unwrap().len(), 6);
    site.tables.shutdown().await;
}

#[tokio::test]
async fn a_rate_card_that_breaks_rules_is_refused_with_each_of_them() {
    let site = Operated::new().await;
    let good = card(2, "2030-01-01", "2100.00");
    for (body, row, rule) in [
        (good.replace("standard", "gold"), "card", "unknown tier"),
        (good.replace("\"2100.00\"", "2100.00"), "line 10", "number in quotes"),
        (good.replace("tier =", "tier"), "line 1", "="),
        (good.replace("Base fee", "Base\\u0000fee"), "card", "U+0000"),
        (good.replace("version = 2", "version = 1"), "rate card standard version 1", "stored with other content"),
    ] {
        let refused = site.post_text(CARDS, &[TOML], &body).await;
        refused.problem(422, "rate-card-refused");
        let faults = refused.json()["faults"].clone();
        let is_named = faults
            .as_array()
            .unwrap()
            .iter()
            .any(|fault| fault["row"].as_str().unwrap() == row && fault["rule"].as_str().unwrap().contains(rule));
        assert!(is_named, "{row}: {rule}: {faults}");
    }
    let refused = site.post_text(CARDS, &["content-type: application/json"], "{\n\"tier\": 1\n}").await;
    refused.problem(422, "rate-card-refused");
    assert_eq!(refused.json()["faults"][0]["row"], "line 2", "{refused:?}");
    for body in ["[]", "", "null", "{\"tier\":\"standard\"}"] {
        let refused = site.post_text(CARDS, &["content-type: application/json"], body).await;
        refused.problem(422, "rate-card-refused");
    }
    site.post_text(CARDS, &["content-type: text/plain"], &good).await.problem(415, "unsupported-media-type");
    site.post_text(CARDS, &[], &good).await.problem(415, "unsupported-media-type");
    site.post_text(CARDS, &[TOML], &"#".repeat(17_000)).await.problem(413, "too-large");
    site.post_text(&format!("{CARDS}?retroactive=perhaps"), &[TOML], &good).await.problem(400, "invalid-parameter");
    site.post_text(&format!("{CARDS}?name="), &[TOML], &good).await.problem(400, "invalid-parameter");

    // Prices of days that are invoiced change only when that is said.
    issue(&site.stage, &["2026-10"]).await;
    let early = card(2, "2026-10-15", "2100.00");
    let detail = site.post_text(CARDS, &[TOML], &early).await.problem(409, "conflict");
    assert!(detail.contains("1 invoices of later days are issued"), "{detail}");
    assert_eq!(site.recorded("rate_card.loaded").await, [], "nothing was loaded");
    let allowed = site.post_text(&format!("{CARDS}?retroactive=true"), &[TOML], &early).await;
    assert_eq!(allowed.status, 201, "{allowed:?}");
    site.tables.shutdown().await;
}

#[tokio::test]
async fn a_source_is_declared_for_a_customers_meter() {
    let site = Operated::new().await;
    let path = "/v1/admin/receipts";
    let source = json!({"customer": "acme", "class": "proven", "since": "2026-10-01T00:00:00Z"});
    let said = |outcome: &str| json!({"customer": "acme", "meter": "cloudtrail_events", "outcome": outcome});
    for outcome in ["declared", "unchanged"] {
        let answer = site.post(path, &[], &source).await;
        assert_eq!((answer.status, answer.json()), (200, said(outcome)));
    }
    let mut weaker = source.clone();
    weaker["class"] = json!("best-effort");
    weaker["lanes"] = json!(["eu-central-1/main"]);
    assert_eq!(site.post(path, &[], &weaker).await.json(), said("declared"));
    let listed = site.get("/v1/admin/receipts?customer=acme").await.json();
    assert_eq!(
        (&listed["receipts"][0]["source_class"], &listed["receipts"][0]["lateness_seconds"]),
        (&json!("best effort"), &json!(3600))
    );
    for (member, value) in [
        ("customer", json!("never-was")),
        ("customer", json!("No")),
        ("meter", json!("Not A Meter")),
        ("class", json!("certain")),
        ("kind", json!("Digests!")),
        ("since", json!("2026-10-01T00:30:00Z")),
        ("lateness_seconds", json!(2_147_483_648_u32)),
        ("lateness_seconds", json!(-1)),
        ("trail", json!("a\0b")),
        ("lanes", json!([""])),
        ("unknown", json!(1)),
    ] {
        let mut wrong = source.clone();
        wrong[member] = value;
        site.post(path, &[], &wrong).await.problem(400, "invalid-body");
    }
    let recorded: Vec<String> = sqlx::query_scalar(
        "select actor from audit_events where action = 'source.declared' and customer_id = 'acme' order by sequence",
    )
    .fetch_all(&mut site.stage.superuser().await)
    .await
    .unwrap();
    assert!(recorded.len() == 2 && recorded.iter().all(|actor| actor.starts_with("key:")), "{recorded:?}");
    site.tables.shutdown().await;
}

#[tokio::test]
async fn an_operation_is_accepted_once_carried_out_and_recorded() {
    let site = Operated::new().await;
    let close = json!({"period": "2026-09", "customer": "acme", "override": {"because": "agreed on"}});
    let key = ["idempotency-key: september"];
    let accepted = site.post(CLOSES, &key, &close).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let queued = accepted.json();
    let location = accepted.header("location").unwrap().to_owned();
    assert_eq!(location, format!("/v1/admin/operations/{}", queued["id"]));
    assert_eq!((&queued["status"], &queued["attempts"], &queued["request"]), (&json!("queued"), &json!(0), &close));
    assert_eq!(site.get(&location).await.json(), queued);
    // The same again, with its key and without, is the same operation; others are not.
    for headers in [key.as_slice(), &[]] {
        let again = site.post(CLOSES, headers, &close).await;
        assert_eq!((again.status, &again.json()["id"]), (202, &queued["id"]), "{again:?}");
    }
    site.post(CLOSES, &key, &json!({"period": "2026-09"})).await.problem(422, "idempotency-key-reused");
    let run = site.post(RUNS, &[], &json!({"period": "2026-09", "workers": 2, "grace_hours": 0})).await.json();
    assert_ne!(run["id"], queued["id"]);

    let begun = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (seen, same) = (begun.clone(), begun.clone());
    let carry = |seen: Arc<std::sync::Mutex<Vec<OperationTask>>>| {
        move |task: OperationTask| {
            seen.lock().unwrap().push(task);
            async { Ok(json!({"a\0b": "done\0"})) }
        }
    };
    let workers = [site.worker(carry(seen)), site.worker(carry(same))];
    let (closed, ran) = (site.ended(&queued["id"]).await, site.ended(&run["id"]).await);
    assert_eq!((&closed["status"], &closed["attempts"], &closed["problem"]), (&json!("done"), &json!(1), &Value::Null));
    assert_eq!(closed["result"], json!({"a\u{fffd}b": "done\u{fffd}"}), "what PostgreSQL cannot store is replaced");
    assert_eq!(ran["status"], "done");
    let begun = begun.lock().unwrap().clone();
    assert_eq!(begun.len(), 2, "two workers, and each operation once: {begun:?}");
    assert!(begun[0].requested_by.starts_with("key:"));
    assert!(
        matches!(&begun[0].operation, Operation::Close { override_because: Some(because), .. } if because == "agreed on")
    );
    assert!(matches!(begun[1].operation, Operation::Run { workers: 2, grace_hours: 0, customer: None, .. }));

    // With its key it stays the operation that it was; without, it is a new one by now.
    let repeated = site.post(CLOSES, &key, &close).await;
    assert_eq!((repeated.status, &repeated.json()["status"]), (202, &json!("done")));
    let waited = site.post(CLOSES, &["idempotency-key: september", "prefer: wait=5"], &close).await;
    assert_eq!((waited.status, &waited.json()["id"]), (200, &queued["id"]), "{waited:?}");
    let anew = site.post(CLOSES, &["prefer: respond-async, wait=5"], &close).await;
    assert_eq!((anew.status, &anew.json()["status"]), (200, &json!("done")), "{anew:?}");
    assert_ne!(anew.json()["id"], queued["id"]);

    let subjects =
        |events: &[(String, String, Value)]| events.iter().map(|(_, subject, _)| subject.clone()).collect::<Vec<_>>();
    let requested = site.recorded("operation.requested").await;
    assert_eq!(subjects(&requested).len(), 3, "{requested:?}");
    assert_eq!(requested[0].2, json!({"kind": "close", "request": close}));
    let finished = site.recorded("operation.finished").await;
    assert_eq!(subjects(&finished), subjects(&requested));
    let first = site.get("/v1/admin/operations?limit=2").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = site.get(&format!("/v1/admin/operations?limit=2&status=done&cursor={cursor}")).await.json();
    assert_eq!((first["operations"].as_array().unwrap().len(), rest["operations"].as_array().unwrap().len()), (2, 1));
    assert_eq!(rest["next_cursor"], Value::Null);
    workers.iter().for_each(JoinHandle::abort);
    site.tables.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_a_problem_to_who_asks_and_to_who_waits() {
    let site = Operated::new().await;
    let letter = DeadLetter {
        object: "a.json".to_owned(),
        offset: 0,
        number: 0,
        reason: Reason::AccountMalformed,
        bytes: b"{\"recipientAccountId\":\"x\"}".to_vec(),
        is_whole: true,
        seen_at: Timestamp::parse_rfc3339("2026-10-01T00:00:00Z").unwrap(),
        resolved_at: None,
    };
    site.letters.put(std::slice::from_ref(&letter)).await.unwrap();
    let id = letter.id();
    let shown = site.get(&format!("/v1/admin/dead-letters/{id}")).await.json();
    assert_eq!((&shown["record"], &shown["is_whole"]), (&json!("eyJyZWNpcGllbnRBY2NvdW50SWQiOiJ4In0="), &json!(true)));
    site.get(&format!("/v1/admin/dead-letters/{}", "0".repeat(32))).await.problem(404, "not-found");

    for (path, body) in [(CLOSES, json!({"period": "2150-01"})), (RUNS, json!({"period": "2150-01"}))] {
        assert!(site.post(path, &[], &body).await.problem(409, "conflict").contains("not over"));
    }
    for body in [
        json!({}),
        json!({"period": "2026-13"}),
        json!({"period": "2026-10", "customer": "never-was"}),
        json!({"period": "2026-10", "dry_run": true}),
        json!({"period": "2026-10", "customer": "N"}),
    ] {
        for path in [CLOSES, RUNS] {
            site.post(path, &[], &body).await.problem(400, "invalid-body");
        }
    }
    let no_reason = json!({"period": "2026-10", "override": {"because": " "}});
    site.post(CLOSES, &[], &no_reason).await.problem(400, "invalid-body");
    site.post(RUNS, &[], &json!({"period": "2026-10", "workers": 17})).await.problem(400, "invalid-body");
    for never in ["0".repeat(32), "x".to_owned()] {
        let path = format!("/v1/admin/dead-letters/{never}/replay");
        site.post(&path, &[], &Value::Null).await.problem(404, "not-found");
    }
    let replay = format!("/v1/admin/dead-letters/{id}/replay");
    site.post(&replay, &[], &json!({"objects": "/"})).await.problem(400, "invalid-body");
    for path in ["/v1/admin/operations/0", "/v1/admin/operations/x"] {
        site.get(path).await.problem(404, "not-found");
    }
    assert_eq!(site.get("/v1/admin/operations").await.json()["operations"], json!([]), "nothing was accepted");

    let missing = json!([{"kind": "dead_letter", "dead_letter": id}]);
    let said = missing.clone();
    let worker = site.worker(move |task| {
        let missing = said.clone();
        async move {
            match task.operation {
                Operation::Close { .. } => {
                    Err(OperationFailure::refused("1 thing is missing").with("missing", missing))
                }
                Operation::Run { .. } => Err(OperationFailure::failed("the tables are away")),
                Operation::Replay { .. } => panic!("a bug"),
            }
        }
    });
    let wait = ["prefer: wait=5"];
    let refused = site.post(CLOSES, &wait, &json!({"period": "2026-10"})).await;
    assert_eq!(refused.problem(409, "operation-refused"), "1 thing is missing");
    assert_eq!(refused.json()["missing"], missing);
    let operation = site.ended(&refused.json()["operation"]).await;
    assert_eq!((&operation["status"], &operation["problem"]["status"]), (&json!("failed"), &json!(409)));
    assert_eq!(operation["problem"]["missing"], missing);
    let failed = site.post(RUNS, &wait, &json!({"period": "2026-10"})).await;
    assert_eq!(failed.problem(503, "operation-failed"), "the tables are away");
    assert!(failed.header("retry-after").is_some());
    let accepted = site.post(&replay, &[], &Value::Null).await.json();
    let bug = site.ended(&accepted["id"]).await;
    assert!(bug["problem"]["detail"].as_str().unwrap().contains("a bug in this program"), "{bug}");

    let dismissal = Dismissal { by: "eve".to_owned(), because: "a test".to_owned() };
    site.letters.dismiss(&id, &dismissal, letter.seen_at).await.unwrap();
    site.post(&replay, &[], &Value::Null).await.problem(409, "conflict");
    worker.abort();
    site.tables.shutdown().await;
}

#[tokio::test]
async fn an_operation_whose_worker_is_killed_or_cut_off_is_begun_again_and_ends_once() {
    let site = Operated::new().await;
    let begun = Arc::new(Notify::new());
    let hanging = |begun: Arc<Notify>| {
        move |_: OperationTask| {
            begun.notify_one();
            pending::<Result<Value, OperationFailure>>()
        }
    };
    let killed = site.worker(hanging(begun.clone()));
    let accepted = site.post(RUNS, &[], &json!({"period": "2026-10"})).await.json();
    begun.notified().await;
    let under_way = site.get(&format!("/v1/admin/operations/{}", accepted["id"])).await.json();
    assert_eq!((&under_way["status"], &under_way["attempts"]), (&json!("under_way"), &json!(1)));
    assert_eq!(site.post(RUNS, &[], &json!({"period": "2026-10"})).await.json()["id"], accepted["id"]);
    killed.abort();
    let _ = killed.await;

    // The next one is cut off from the database, lives on, and ends after another has ended the operation.
    let release = Arc::new(Notify::new());
    let (begins, released) = (begun.clone(), release.clone());
    let cut_off = site.worker(move |_| {
        let (begins, released) = (begins.clone(), released.clone());
        async move {
            begins.notify_one();
            released.notified().await;
            Ok(json!({"by": "who was cut off"}))
        }
    });
    begun.notified().await;
    sqlx::query(
        "select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database
         where l.locktype = 'advisory' and d.datname = current_database()",
    )
    .execute(&mut site.stage.superuser().await)
    .await
    .unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let last = site.worker(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(json!({"by": "the last"})) }
    });
    let ended = site.ended(&accepted["id"]).await;
    assert_eq!((&ended["attempts"], &ended["result"]), (&json!(3), &json!({"by": "the last"})));
    release.notify_one();
    // Whoever carries out what comes next.
    let next = site.post(RUNS, &[], &json!({"period": "2026-09"})).await.json();
    site.ended(&next["id"]).await;
    let stays = site.ended(&accepted["id"]).await;
    assert_eq!(stays, ended);
    let id = accepted["id"].to_string();
    assert_eq!(site.recorded("operation.finished").await.iter().filter(|(_, subject, _)| *subject == id).count(), 1);
    cut_off.abort();
    last.abort();

    // One that cuts off whoever tries it is given up, and says so.
    let worker = site.worker(hanging(begun.clone()));
    let poison = site.post(RUNS, &[], &json!({"period": "2026-08"})).await.json();
    begun.notified().await;
    worker.abort();
    let _ = worker.await;
    let mut superuser = site.stage.superuser().await;
    sqlx::query("update operations set attempts = 5 where finished_at is null").execute(&mut superuser).await.unwrap();
    let worker = site.worker(hanging(begun.clone()));
    let given_up = site.ended(&poison["id"]).await;
    assert!(given_up["problem"]["detail"].as_str().unwrap().contains("given up"), "{given_up}");
    worker.abort();

    // What was asked for and what it came to never change, not even for the owner.
    for change in [
        "update operations set status = 'queued', attempts = 0, started_at = null, finished_at = null, result = null, problem = null",
        "update operations set requested_by = 'eve'",
        "delete from operations",
        "truncate operations",
    ] {
        let refused = sqlx::query(change).execute(&mut superuser).await.unwrap_err();
        assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("23001"), "{change}");
    }
    site.tables.shutdown().await;
}

#[tokio::test]
async fn nobody_but_an_operator_asks_and_only_a_host_that_carries_out_is_asked() {
    let site = Operated::new().await;
    let replay = format!("/v1/admin/dead-letters/{}/replay", "0".repeat(32));
    let month = json!({"period": "2026-10"}).to_string();
    let source = json!({"customer": "acme", "class": "proven", "since": "2026-10-01T00:00:00Z"}).to_string();
    let json_type = "content-type: application/json";
    for (path, content_type, body, is_open_elsewhere) in [
        (CLOSES, json_type, month.as_str(), false),
        (RUNS, json_type, &month, false),
        (&replay, json_type, "", false),
        ("/v1/admin/receipts", json_type, &source, false),
        (CARDS, TOML, &card(2, "2030-01-01", "2100.00"), true),
    ] {
        let customer = site.stage.key("acme");
        post_to(site.address, &customer, path, &[content_type], body).await.problem(403, "not-allowed");
        post_to(site.address, "none", path, &[content_type], body).await.problem(401, "not-authenticated");
        // A server with the operator's role and nothing else.
        let answer = post_to(site.stage.address, &site.admin, path, &[content_type], body).await;
        if is_open_elsewhere {
            assert_eq!(answer.status, 201, "{answer:?}");
        } else {
            answer.problem(404, "not-found");
        }
        // One without even that, as in Lambda.
        let closed = site.stage.serve(ApiState::new(ApiParts { operator_pool: None, ..site.stage.parts() })).await;
        post_to(closed, &site.admin, path, &[content_type], body).await.problem(404, "not-found");
    }
    for path in
        ["/v1/admin/operations", "/v1/admin/operations/1", &format!("/v1/admin/dead-letters/{}", "0".repeat(32))]
    {
        get(site.address, path, &site.stage.key("acme")).await.problem(403, "not-allowed");
    }
    // No other role reaches the table, whatever SQL it runs.
    for role in ["securebase_app", "securebase_aggregator", "securebase_billing", "securebase_analytics"] {
        let pool = PgPool::connect_lazy_with(site.stage.options(role));
        for sql in ["select from operations", "delete from operations", "update operations set attempts = 9"] {
            let refused = sqlx::query(sql).execute(&pool).await.unwrap_err();
            assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("42501"), "{role}: {sql}");
        }
    }
    site.tables.shutdown().await;
}
