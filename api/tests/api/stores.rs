//! What the API keeps outside PostgreSQL, on servers that speak the real protocols.

use std::time::Duration;

use api::audit::archive::{Archive, ArchiveError, archive, witnesses};
use api::audit::{S3Archive, verify};
use api::auth::create_verified_table;
use api::{ApiParts, ApiState};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use embedded::{DynamoDb, S3, S3Options};
use ingest::Timestamp;
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::client::{Answer, get};
use crate::outage::{Wire, wire_to};
use crate::stage::{Stage, token};

const TABLE: &str = "test-auth-cache";
const ASKED: &str = "/v1/accounts";

/// A client of an embedded DynamoDB.
pub(crate) fn dynamodb(endpoint: &str) -> aws_sdk_dynamodb::Client {
    let connections =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"))
        .http_client(connections)
        .endpoint_url(endpoint);
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

fn s3(endpoint: &str) -> aws_sdk_s3::Client {
    let connections =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"))
        .http_client(connections)
        .force_path_style(true)
        .endpoint_url(endpoint);
    aws_sdk_s3::Client::from_conf(config.build())
}

/// A new server that shares the table with the others: its memory is empty.
fn state(stage: &Stage, client: &aws_sdk_dynamodb::Client) -> ApiState {
    ApiState::new(ApiParts { shared_table: Some((client.clone(), TABLE.to_owned())), ..stage.parts() })
}

/// Asks a new server once, and returns its status and what the cache counted: memory, table, bcrypt.
async fn ask(stage: &Stage, client: &aws_sdk_dynamodb::Client) -> (u16, [u64; 3]) {
    let state = state(stage, client);
    let authenticator = state.authenticator().clone();
    let address = stage.serve(state).await;
    let status = get(address, ASKED, &stage.key("acme")).await.status;
    let counts = authenticator.cache_counts();
    (status, [counts.memory, counts.table, counts.missed])
}

#[tokio::test]
async fn servers_share_what_bcrypt_accepted_and_believe_no_entry_that_is_not_theirs() {
    let stage = Stage::new().await;
    let server = DynamoDb::in_memory().await.unwrap();
    let client = dynamodb(server.endpoint());
    create_verified_table(&client, TABLE).await.unwrap();
    create_verified_table(&client, TABLE).await.expect("it is there");
    assert_eq!(ask(&stage, &client).await, (200, [0, 0, 1]), "nobody knows the secret yet");
    assert_eq!(ask(&stage, &client).await, (200, [0, 1, 0]), "another server finds it in the table");

    let items = client.scan().table_name(TABLE).send().await.unwrap().items.unwrap();
    let items: Vec<_> = items.into_iter().filter(|item| item.contains_key("mac")).collect();
    let [item] = &items[..] else { panic!("{items:?}") };
    let shown = format!("{item:?}");
    let token = token(Some("acme"), 1);
    assert!(!shown.contains(token.key_id.as_str()) && !shown.contains("acme"), "names and secrets are not in it");
    let ends_at: i64 = item["ends_at"].as_n().unwrap().parse().unwrap();

    // Whoever can write to the table can neither prolong an entry nor make one.
    for (attribute, value) in [
        ("ends_at", AttributeValue::N((ends_at + 1).to_string())),
        ("ends_at", AttributeValue::N((ends_at + 86_400).to_string())),
        ("ends_at", AttributeValue::S("later".to_owned())),
        ("ends_at", AttributeValue::N("0".to_owned())),
        ("mac", AttributeValue::B(vec![0; 32].into())),
        ("mac", AttributeValue::S("none".to_owned())),
    ] {
        let put = client.put_item().table_name(TABLE).set_item(Some(item.clone())).item(attribute, value.clone());
        put.send().await.unwrap();
        assert_eq!(ask(&stage, &client).await, (200, [0, 0, 1]), "{attribute} {value:?}: bcrypt is asked again");
    }
    assert_eq!(ask(&stage, &client).await, (200, [0, 1, 0]), "and writes it right");

    // Revocation holds whatever is remembered.
    let state = state(&stage, &client);
    let address = stage.serve(state).await;
    assert_eq!(get(address, ASKED, &stage.key("acme")).await.status, 200);
    sqlx::query("update api_keys set revoked_at = clock_timestamp() where key_id = $1")
        .bind(token.key_id.as_str())
        .execute(&mut stage.superuser().await)
        .await
        .unwrap();
    get(address, ASKED, &stage.key("acme")).await.problem(401, "not-authenticated");
    assert_eq!(ask(&stage, &client).await.0, 401);
    server.shutdown().await;
}

#[tokio::test]
async fn a_table_that_is_away_costs_bcrypt_and_nothing_else() {
    let stage = Stage::new().await;
    let server = DynamoDb::in_memory().await.unwrap();
    let client = dynamodb(server.endpoint());
    assert_eq!(ask(&stage, &client).await, (200, [0, 0, 1]), "there is no such table");
    server.shutdown().await;
    assert_eq!(ask(&stage, &client).await, (200, [0, 0, 1]), "nothing listens");
    // A socket that takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = dynamodb(&format!("http://{}", silent.local_addr().unwrap()));
    assert_eq!(ask(&stage, &mute).await, (200, [0, 0, 1]), "nothing answers");
}

#[tokio::test]
async fn while_the_table_is_away_readiness_is_red_requests_are_served_and_it_comes_back_by_itself() {
    let stage = Stage::new().await;
    let server = DynamoDb::in_memory().await.unwrap();
    let (wire, switch) = wire_to(server.endpoint().strip_prefix("http://").unwrap().parse().unwrap()).await;
    let client = dynamodb(&format!("http://{wire}"));
    let key = stage.key("acme");
    let missing = stage.serve(state(&stage, &client)).await;
    check_red(&get(missing, "/v1/ready", &key).await, "there is no such table");
    create_verified_table(&client, TABLE).await.unwrap();
    let address = stage.serve(state(&stage, &client)).await;
    assert_eq!(get(address, "/v1/ready", &key).await.status, 200);
    for away in [Wire::Cut, Wire::Silent] {
        switch.send_replace(away);
        let red = timeout(Duration::from_secs(8), get(address, "/v1/ready", &key)).await;
        check_red(&red.expect("readiness answers in bounded time"), &format!("{away:?}"));
        assert_eq!(get(address, "/v1/health", &key).await.status, 200, "{away:?}: the process itself is well");
        let new = stage.serve(state(&stage, &client)).await;
        for server in [address, new] {
            assert_eq!(get(server, ASKED, &key).await.status, 200, "{away:?}: customers are served without it");
        }
        switch.send_replace(Wire::Carries);
        let recovered = async {
            while get(address, "/v1/ready", &key).await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), recovered).await.expect("the next question finds the table");
    }
    server.shutdown().await;
}

#[track_caller]
fn check_red(answer: &Answer, what: &str) {
    let detail = answer.problem(503, "unavailable");
    assert!(detail.contains("DynamoDB") && !detail.contains("PostgreSQL"), "{what}: {detail}");
    assert!(!detail.contains("127.0.0.1") && !detail.contains(TABLE), "{what}: {detail}");
    assert_eq!(answer.header("retry-after"), Some("5"), "{what}");
}

#[tokio::test]
async fn heads_of_the_trail_go_to_s3_once_and_witness_it() {
    let stage = Stage::new().await;
    let mut superuser = stage.superuser().await;
    sqlx::raw_sql("select record_audit_event('acme', 'tester', 'test.done', '', '{}')")
        .execute(&mut superuser)
        .await
        .unwrap();
    let mut operator = PgConnection::connect(&stage.url("securebase_operator")).await.unwrap();
    let server = S3::start(S3Options::default()).await.unwrap();
    let client = s3(server.endpoint());
    client.create_bucket().bucket("unlocked").send().await.unwrap();
    client.create_bucket().bucket("trail").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let now = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let unlocked = S3Archive::new(client.clone(), "unlocked".to_owned(), "", now);
    let refused = archive(&mut operator, &unlocked, now).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Place { .. }), "a bucket that locks nothing is no archive: {refused}");
    let place = S3Archive::new(client.clone(), "trail".to_owned(), "/audit/", now);
    let archived = archive(&mut operator, &place, now).await.unwrap();
    assert_eq!(archived.day.as_deref(), Some("2026-11-22"));
    assert_eq!(place.names("heads/").await.unwrap(), ["heads/2026-11-22.json"]);
    let object = client.get_object().bucket("trail").key("audit/heads/2026-11-22.json").send().await.unwrap();
    let first = object.body.collect().await.unwrap().into_bytes();
    assert_eq!(place.get("heads/2026-11-22.json").await.unwrap(), first.to_vec());

    assert!(!place.put_once("heads/2026-11-22.json", b"{}".to_vec()).await.unwrap(), "what stands there stays");
    assert_eq!(place.get("heads/2026-11-22.json").await.unwrap(), first.to_vec());
    let again = archive(&mut operator, &place, now.saturating_add_secs(60)).await.unwrap();
    assert_eq!(again.day, None, "once a day");

    // The lock that was asked for, and that it holds against who may write to the bucket.
    let key = "audit/heads/2026-11-22.json";
    let locked = server.retention("trail", key).expect("what is archived is locked");
    assert_eq!((locked.mode.as_str(), locked.until.as_str()), ("COMPLIANCE", "2036-11-29T12:00:00Z"));
    let denied = |error: Option<&str>| assert_eq!(error, Some("AccessDenied"));
    denied(client.delete_object().bucket("trail").key(key).send().await.unwrap_err().code());
    let other = ByteStream::from_static(b"{}");
    denied(client.put_object().bucket("trail").key(key).body(other).send().await.unwrap_err().code());
    denied(client.delete_bucket().bucket("trail").send().await.unwrap_err().code());
    assert_eq!(place.get("heads/2026-11-22.json").await.unwrap(), first.to_vec());

    let known = witnesses(&place).await.unwrap();
    assert_eq!(verify(&mut operator, &known).await.unwrap().breaks.len(), 0);
    sqlx::raw_sql("set session_replication_role = replica; delete from audit_events; delete from audit_heads")
        .execute(&mut superuser)
        .await
        .unwrap();
    assert_eq!(verify(&mut operator, &known).await.unwrap().breaks.len(), 1, "the bucket knows what is gone");
    sqlx::raw_sql(
        "reset session_replication_role; select record_audit_event('acme', 'tester', 'test.other', '', '{}')",
    )
    .execute(&mut superuser)
    .await
    .unwrap();
    let strange = archive(&mut operator, &place, now.saturating_add_secs(120)).await.unwrap_err();
    assert!(
        matches!(strange, ArchiveError::Strange(_)),
        "other heads for the same day are no second version: {strange}"
    );
    assert_eq!(place.get("heads/2026-11-22.json").await.unwrap(), first.to_vec());

    server.shutdown().await;
}
