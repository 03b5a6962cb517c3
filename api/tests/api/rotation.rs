//! The secret that holds the keys of sessions is rotated while a server runs: no restart, and no session lost.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use api::ApiState;
use api::auth::{Authenticator, KEYS_READ_SECS, Session, Sessions, SigningKeys, UNKNOWN_KEY_SECS};
use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use ingest::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::stage::{Stage, token};

/// AWS Secrets Manager with one secret, as far as it is asked here. No embedded server for it exists.
#[derive(Clone, Default)]
struct Vault(Arc<Mutex<(String, usize)>>);

impl Vault {
    /// A client of a server with this secret.
    async fn serve(&self) -> aws_sdk_secretsmanager::Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/", post(get_secret_value)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let connections =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let config = aws_sdk_secretsmanager::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("any", "any", None, None, "test"))
            .http_client(connections)
            .retry_config(aws_sdk_secretsmanager::config::retry::RetryConfig::disabled())
            .endpoint_url(endpoint);
        aws_sdk_secretsmanager::Client::from_conf(config.build())
    }

    fn rotate(&self, keys: &[(&str, u8)]) {
        self.0.lock().unwrap().0 = text_of(keys);
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

/// AWS Secrets Manager API reference, GetSecretValue. Without a secret it fails.
async fn get_secret_value(State(vault): State<Vault>) -> (StatusCode, Json<Value>) {
    let mut inside = vault.0.lock().unwrap();
    inside.1 += 1;
    if inside.0.is_empty() {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"__type": "InternalServiceError"})));
    }
    let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:session-AbCdEf";
    (StatusCode::OK, Json(json!({"ARN": arn, "Name": "session", "SecretString": inside.0})))
}

/// The secret's text, the key that signs first.
fn text_of(keys: &[(&str, u8)]) -> String {
    let keys: Vec<Value> = keys.iter().map(|(id, byte)| json!({"id": id, "secret": hex(*byte)})).collect();
    json!({ "keys": keys }).to_string()
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

/// A server's sessions under these keys.
fn sessions(keys: &[(&str, u8)]) -> Sessions {
    Sessions::new(SigningKeys::parse(&text_of(keys)).unwrap())
}

/// A session of acme as another server signs it.
fn signed(by: &Sessions, now: Timestamp) -> String {
    let key = token(Some("acme"), 1);
    let session = Session { customer: key.customer, key_id: key.key_id, generation: 1, id: "x".to_owned() };
    by.sign(&session, now).token
}

async fn lets_in(authenticator: &Authenticator, session: &str, now: Timestamp) -> bool {
    let address: IpAddr = [127, 0, 0, 1].into();
    authenticator.authenticate(format!("Bearer {session}").as_bytes(), address, now).await.is_ok()
}

#[tokio::test]
async fn a_rotated_secret_is_taken_over_by_a_running_server() {
    let stage = Stage::new().await;
    let start = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let at = |seconds: i64| start.saturating_add_secs(seconds);
    let vault = Vault::default();
    vault.rotate(&[("a", 1)]);
    let state = ApiState::new(stage.parts());
    let authenticator = state.authenticator();
    authenticator.sessions().replace(SigningKeys::parse(&text_of(&[("a", 1)])).unwrap());
    authenticator.sessions().keep_fresh_from(vault.serve().await, "session".to_owned(), start);
    let old = signed(&sessions(&[("a", 1)]), start);
    assert!(lets_in(authenticator, &old, at(0)).await);

    // The secret is rotated, and another server has it already.
    vault.rotate(&[("b", 2), ("a", 1)]);
    let new = signed(&sessions(&[("b", 2)]), at(1));
    assert!(!lets_in(authenticator, &new, at(UNKNOWN_KEY_SECS - 1)).await, "it was read too lately to be read again");
    assert_eq!(vault.asked(), 0);
    assert!(lets_in(authenticator, &new, at(UNKNOWN_KEY_SECS)).await, "an unknown key is reason enough");
    assert!(lets_in(authenticator, &old, at(UNKNOWN_KEY_SECS)).await, "both hold in the overlap");
    let shown = format!("Bearer {}", stage.key("acme"));
    let caller = authenticator.authenticate(shown.as_bytes(), [127, 0, 0, 1].into(), at(UNKNOWN_KEY_SECS)).await;
    let begun = authenticator.begin_session(&caller.unwrap(), "y".to_owned(), at(UNKNOWN_KEY_SECS)).await.unwrap();
    assert!(sessions(&[("b", 2)]).verify(&begun.token, at(UNKNOWN_KEY_SECS)).is_ok(), "new sessions have the new key");

    // Whoever makes up keys makes nobody ask all the time.
    let made_up = signed(&sessions(&[("z", 9)]), at(1));
    for second in 1..UNKNOWN_KEY_SECS {
        assert!(!lets_in(authenticator, &made_up, at(UNKNOWN_KEY_SECS + second)).await);
    }
    assert_eq!(vault.asked(), 1);

    // The old key is taken out: refused after the longest time between two readings.
    vault.rotate(&[("b", 2)]);
    let last = UNKNOWN_KEY_SECS + KEYS_READ_SECS;
    assert!(lets_in(authenticator, &old, at(last - 1)).await);
    assert!(!lets_in(authenticator, &old, at(last)).await && lets_in(authenticator, &new, at(last)).await);
    assert_eq!(vault.asked(), 2);

    // While the secret cannot be read, or makes no sense, the keys stay as they are.
    for (round, text) in ["", "{}"].into_iter().enumerate() {
        vault.0.lock().unwrap().0 = text.to_owned();
        let later = last + (i64::try_from(round).unwrap() + 1) * KEYS_READ_SECS;
        assert!(lets_in(authenticator, &new, at(later)).await && !lets_in(authenticator, &old, at(later)).await);
    }
    assert!(vault.asked() >= 4, "{}", vault.asked());
}
