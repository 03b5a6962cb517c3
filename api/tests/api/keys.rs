//! Keys and sessions: made, used, rotated, revoked, and attacked.

use aggregator::directory::CustomerId;
use api::auth::{AuthenticationError, KeyToken, VERIFIED_SECS_MAX};
use ingest::Timestamp;
use serde_json::{Value, json};

use crate::client::{Answer, get, get_with, send};
use crate::stage::{Stage, token};

const USAGE: &str = "/v1/usage?meter=cloudtrail_events";

/// A request with a JSON body.
async fn call(stage: &Stage, method: &str, path: &str, key: &str, headers: &[&str], body: &str) -> Answer {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{lines}\r\n{body}",
        body.len()
    );
    send(stage.address, request.as_bytes()).await
}

async fn create(stage: &Stage, key: &str, body: Value) -> Answer {
    call(stage, "POST", "/v1/api-keys", key, &[], &body.to_string()).await
}

async fn made(stage: &Stage, key: &str, scopes: &[&str]) -> (String, String) {
    let answer = create(stage, key, json!({"name": "made", "scopes": scopes})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let document = answer.json();
    (document["key_id"].as_str().unwrap().to_owned(), document["key"].as_str().unwrap().to_owned())
}

async fn session(stage: &Stage, key: &str) -> String {
    let answer = call(stage, "POST", "/v1/auth/authenticate", key, &[], "").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_is_shown_once_and_may_do_what_its_scopes_say() {
    let stage = Stage::new().await;
    let root = stage.key("acme");
    let answer = create(&stage, &root, json!({"name": "billing", "scopes": ["read:metrics", "read:usage"]})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let document = answer.json();
    assert_eq!(document["scopes"], json!(["read:usage"]), "an alias is stored as its scope");
    let key = document["key"].as_str().unwrap();
    assert!(key.starts_with("sk_live_acme_"), "{key}");

    assert_eq!(get(stage.address, USAGE, key).await.status, 200);
    for path in ["/v1/invoices", "/v1/api-keys"] {
        get(stage.address, path, key).await.problem(403, "not-allowed");
    }
    let listed = get(stage.address, "/v1/api-keys?limit=1", &root).await;
    assert!(!listed.body.contains(&key[29..]), "the secret is in no other answer: {listed:?}");
    assert_eq!(listed.json()["keys"][0]["key_id"], document["key_id"], "newest first");
    let cursor = listed.json()["next_cursor"].as_str().unwrap().to_owned();
    let rest = get(stage.address, &format!("/v1/api-keys?cursor={cursor}"), &root).await.json();
    assert_eq!(rest["keys"].as_array().unwrap().len(), 1);
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test]
async fn nobody_gives_a_key_more_than_he_has() {
    let stage = Stage::new().await;
    let root = stage.key("acme");
    let (_, maker) = made(&stage, &root, &["write:keys", "read:usage"]).await;
    for scopes in [&["read:invoices"] as &[&str], &["read:usage", "read:audit"], &["write:config"]] {
        create(&stage, &maker, json!({"name": "x", "scopes": scopes})).await.problem(403, "not-allowed");
    }
    create(&stage, &root, json!({"name": "x", "scopes": ["admin"]})).await.problem(400, "invalid-body");
    create(&stage, &root, json!({"name": "x", "scopes": ["admin", "read:usage"]})).await.problem(400, "invalid-body");
    // Who rotates a stronger key would see its successor.
    let strong = token(Some("acme"), 1).key_id;
    let path = format!("/v1/api-keys/{strong}/rotate");
    call(&stage, "POST", &path, &maker, &[], "").await.problem(403, "not-allowed");
    let (_, reader) = made(&stage, &maker, &["read:usage"]).await;
    create(&stage, &reader, json!({"name": "x", "scopes": ["read:usage"]})).await.problem(403, "not-allowed");
}

#[tokio::test]
async fn a_revoked_key_and_its_sessions_are_out_with_the_next_request() {
    let stage = Stage::new().await;
    let root = stage.key("acme");
    let (id, key) = made(&stage, &root, &["read:usage"]).await;
    let session = session(&stage, &key).await;
    for credentials in [&key, &session] {
        assert_eq!(get(stage.address, USAGE, credentials).await.status, 200, "and remembered by every cache");
    }
    for _ in 0..2 {
        let revoked = call(&stage, "DELETE", &format!("/v1/api-keys/{id}"), &root, &[], "").await;
        assert_eq!(revoked.status, 200, "{revoked:?}");
        assert!(revoked.json()["revoked_at"].is_string());
        for credentials in [&key, &session] {
            get(stage.address, USAGE, credentials).await.problem(401, "not-authenticated");
        }
    }
}

#[tokio::test]
async fn a_rotated_key_goes_on_beside_its_successor_for_the_overlap() {
    let stage = Stage::new().await;
    let root = stage.key("acme");
    let (id, key) = made(&stage, &root, &["read:usage"]).await;
    let rotate = format!("/v1/api-keys/{id}/rotate");
    for overlap in ["-1", "604801", "\"1\"", "1.5"] {
        let body = format!(r#"{{"overlap_seconds":{overlap}}}"#);
        call(&stage, "POST", &rotate, &root, &[], &body).await.problem(400, "invalid-body");
    }
    let rotated = call(&stage, "POST", &rotate, &root, &[], r#"{"overlap_seconds":3600}"#).await;
    assert_eq!(rotated.status, 201, "{rotated:?}");
    let successor = rotated.json()["key"].as_str().unwrap().to_owned();
    for credentials in [&key, &successor] {
        assert_eq!(get(stage.address, USAGE, credentials).await.status, 200);
    }
    call(&stage, "POST", &rotate, &root, &[], "").await.problem(409, "conflict");

    // The overlap has ended.
    let mut superuser = stage.superuser().await;
    sqlx::query("update api_keys set expires_at = created_at + interval '1 microsecond' where key_id = $1")
        .bind(&id)
        .execute(&mut superuser)
        .await
        .unwrap();
    get(stage.address, USAGE, &key).await.problem(401, "not-authenticated");
    assert_eq!(get(stage.address, USAGE, &successor).await.status, 200);
}

#[tokio::test]
async fn another_customers_keys_are_not_there() {
    let stage = Stage::new().await;
    let foreign = token(Some("globex"), 1).key_id;
    for path in
        [format!("/v1/api-keys/{foreign}"), "/v1/api-keys/0000000000000000".to_owned(), "/v1/api-keys/x".to_owned()]
    {
        let answer = call(&stage, "DELETE", &path, &stage.key("acme"), &[], "").await;
        answer.problem(404, "not-found");
        let answer = call(&stage, "POST", &format!("{path}/rotate"), &stage.key("acme"), &[], "").await;
        answer.problem(404, "not-found");
    }
    assert_eq!(get(stage.address, USAGE, &stage.key("globex")).await.status, 200, "it is as it was");
    let listed = get(stage.address, "/v1/api-keys", &stage.key("acme")).await;
    assert!(!listed.body.contains(foreign.as_str()), "{listed:?}");
}

#[tokio::test]
async fn a_session_lasts_a_day_and_begins_no_other() {
    let stage = Stage::new().await;
    for path in ["/v1/auth/authenticate", "/v1/auth/session"] {
        let answer = call(&stage, "POST", path, &stage.key("acme"), &[], "").await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let session = answer.json();
        assert_eq!(session["customer"], "acme");
        let token = session["token"].as_str().unwrap();
        assert_eq!(get(stage.address, USAGE, token).await.status, 200);
        call(&stage, "POST", path, token, &[], "").await.problem(403, "not-allowed");
        let (head, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
        get(stage.address, USAGE, &forged).await.problem(401, "not-authenticated");
        get(stage.address, USAGE, &format!("{head}.")).await.problem(401, "not-authenticated");
    }
    call(&stage, "POST", "/v1/auth/session", "sk_live_acme_x", &[], "").await.problem(401, "not-authenticated");
}

#[tokio::test]
async fn a_write_sent_again_with_its_idempotency_key_happens_once() {
    let stage = Stage::new().await;
    let root = stage.key("acme");
    let body = json!({"name": "once", "scopes": ["read:usage"]}).to_string();
    let key = "idempotency-key: 7f0c";
    let send = |key: &'static str, body: String| {
        let (stage, root) = (&stage, root.clone());
        async move { call(stage, "POST", "/v1/api-keys", &root, &[key], &body).await }
    };
    let (first, second) = tokio::join!(send(key, body.clone()), send(key, body.clone()));
    assert_eq!((first.status, second.status), (201, 201), "{first:?} {second:?}");
    assert_eq!(first.json()["key_id"], second.json()["key_id"]);
    let shown = [first.json()["key"].is_string(), second.json()["key"].is_string()];
    assert_eq!(shown.iter().filter(|shown| **shown).count(), 1, "the secret is stored nowhere, so it is shown once");

    let other = body.replace("once", "twice");
    send(key, other.clone()).await.problem(422, "idempotency-key-reused");
    assert_eq!(send("idempotency-key: other", other).await.status, 201);
    for bad in ["idempotency-key: ", "idempotency-key: a\r\nidempotency-key: b"] {
        send(bad, body.clone()).await.problem(400, "invalid-idempotency-key");
    }
    // A write that failed is not remembered: put right, it goes through.
    let bad = json!({"name": "", "scopes": ["read:usage"]}).to_string();
    send("idempotency-key: third", bad).await.problem(400, "invalid-body");
    assert_eq!(send("idempotency-key: third", body).await.status, 201);
    // Another customer's key of the same text is its own.
    let globex = call(&stage, "POST", "/v1/api-keys", &stage.key("globex"), &[key], "{}").await;
    globex.problem(400, "invalid-body");
}

#[tokio::test]
async fn bodies_that_are_no_key_are_refused_with_the_reason() {
    let stage = Stage::new().await;
    let root = stage.key("acme");
    let deep = format!("{}{}", "[".repeat(8_000), "]".repeat(8_000));
    let long = json!({"name": "x".repeat(101), "scopes": ["read:usage"]}).to_string();
    for (body, says) in [
        ("", "name"),
        ("{", "EOF"),
        ("null", "JSON object"),
        (r#"["x",["read:usage"]]"#, "JSON object"),
        (r#"{"name":"x"}"#, "scopes"),
        (r#"{"name":"x","scopes":[]}"#, "at least one scope"),
        (r#"{"name":"x","scopes":["read:all"]}"#, "unknown scope"),
        (r#"{"name":"","scopes":["read:usage"]}"#, "1 to 100"),
        (r#"{"name":"a\u0000b","scopes":["read:usage"]}"#, "control"),
        (r#"{"name":"x","scopes":["read:usage"],"customer_id":"globex"}"#, "unknown field"),
        (r#"{"name":"x","name":"y","scopes":["read:usage"]}"#, "duplicate field"),
        (r#"{"name":"x","scopes":["read:usage"],"expires_at":"2020-01-01T00:00:00Z"}"#, "after now"),
        (r#"{"name":"x","scopes":["read:usage"],"expires_at":"tomorrow"}"#, "instant"),
        (&deep, "JSON object"),
        (&format!(r#"{{"name":{deep}}}"#), "invalid type"),
        (&format!(r#"{{"x":{deep}}}"#), "unknown field"),
        (&long, "1 to 100"),
    ] {
        let answer = call(&stage, "POST", "/v1/api-keys", &root, &[], body).await;
        let detail = answer.problem(400, "invalid-body");
        assert!(detail.contains(says), "{body:.60}: {detail}");
    }
    let head = format!(
        "POST /v1/api-keys HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {root}\r\n"
    );
    let invalid =
        [head.as_bytes(), b"content-type: application/json\r\ncontent-length: 12\r\n\r\n{\"name\":\"\xff\"}"].concat();
    send(stage.address, &invalid).await.problem(400, "invalid-body");
    let form = format!("{head}content-type: application/x-www-form-urlencoded\r\ncontent-length: 3\r\n\r\na=b");
    send(stage.address, form.as_bytes()).await.problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn wrong_secrets_are_limited_by_address_and_key_and_headers_do_not_change_the_address() {
    let stage = Stage::new().await;
    let good = stage.key("acme");
    let wrong = |number: u32| format!("{}{number:04}", &good[..good.len() - 4]);
    let mut refused = 0;
    for number in 0..16 {
        let forwarded = format!("x-forwarded-for: 198.51.100.{number}");
        let key = format!("Authorization: Bearer {}", wrong(number));
        let answer =
            get_with(stage.address, USAGE, &[&key, &forwarded, &forwarded.replace("x-forwarded-for", "x-real-ip")])
                .await;
        if answer.status == 429 {
            answer.problem(429, "too-many-attempts");
            assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
            refused += 1;
        } else {
            answer.problem(401, "not-authenticated");
        }
    }
    assert!(refused >= 4, "ten tries, and one more every six seconds: {refused}");
    assert_eq!(get(stage.address, USAGE, &stage.key("globex")).await.status, 200, "others are not locked out");
}

#[tokio::test]
async fn who_guesses_behind_a_load_balancer_shuts_out_nobody_whose_secret_was_right_before_or_whose_key_is_another() {
    let stage = Stage::new().await;
    let state = stage.state();
    let authenticator = state.authenticator();
    let balancer: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    let began = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let header = |key: &str| format!("Bearer {key}").into_bytes();
    let (acme, globex) = (header(&stage.key("acme")), header(&stage.key("globex")));
    assert!(authenticator.authenticate(&acme, balancer, began).await.is_ok());
    // Nothing is remembered any more.
    let now = began.saturating_add_secs(VERIFIED_SECS_MAX);
    let refused = async |header: &[u8]| match authenticator.authenticate(header, balancer, now).await {
        Err(AuthenticationError::NotAuthenticated) => false,
        Err(AuthenticationError::TooManyAttempts { .. }) => true,
        other => panic!("{other:?}"),
    };
    // Ids that no key has: a hundred tries, and then no thread for them.
    let mut refusals = 0;
    for number in 0..120_u8 {
        let stranger = KeyToken::mint(Some(CustomerId::parse("acme").unwrap()), [number; 16], [number; 32]);
        refusals += u32::from(refused(&header(&stranger.reveal())).await);
    }
    assert_eq!(refusals, 20);
    // A key of one's own, of which somebody knows the id.
    let mut refusals = 0;
    for number in 0..16 {
        let mut wrong = acme.clone();
        let digit = wrong.len() - 2;
        wrong.splice(digit.., format!("{number:02}").into_bytes());
        refusals += u32::from(refused(&wrong).await);
    }
    assert_eq!(refusals, 6);
    assert!(authenticator.authenticate(&acme, balancer, now).await.is_ok(), "it was right before");
    assert!(authenticator.authenticate(&globex, balancer, now).await.is_ok(), "it was never shown before");
}

#[tokio::test]
async fn every_authenticated_call_and_every_write_is_in_the_audit_trail() {
    let stage = Stage::new().await;
    let state = stage.state();
    let recorder = state.recorder().clone();
    let address = stage.serve(state).await;
    let root = stage.key("acme");
    get(address, USAGE, &root).await;
    get(address, "/v1/invoices/INV-2026-01-0001?x=secret", &root).await;
    get(address, USAGE, "sk_live_acme_wrong").await.problem(401, "not-authenticated");
    let stage_of_address = Stage { address, ..stage };
    let (id, _) = made(&stage_of_address, &root, &["read:usage"]).await;
    recorder.flush().await.unwrap();

    let events: Vec<(String, String, String, i32)> = sqlx::query_as(
        "select actor, action, subject, coalesce((details ->> 'status')::int, 0) from audit_events
         where customer_id = 'acme' order by sequence",
    )
    .fetch_all(&mut stage_of_address.superuser().await)
    .await
    .unwrap();
    let key_id = token(Some("acme"), 1).key_id;
    let event =
        |action: &str, subject: &str, status| (format!("key:{key_id}"), action.to_owned(), subject.to_owned(), status);
    let mut expected = vec![
        event("request.get", "/v1/usage", 200),
        event("request.get", "/v1/invoices/INV-2026-01-0001", 400),
        event("api_key.created", &id, 0),
        event("request.post", "/v1/api-keys", 201),
    ];
    let mut events = events;
    // The write is in the trail with its work; the calls follow within a tenth of a second.
    events.sort();
    expected.sort();
    assert_eq!(events, expected);
    let used: bool = sqlx::query_scalar("select last_used_at is not null from api_keys where key_id = $1")
        .bind(key_id.as_str())
        .fetch_one(&mut stage_of_address.superuser().await)
        .await
        .unwrap();
    assert!(used);
}
