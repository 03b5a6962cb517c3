//! AWS Secrets Manager as far as a function asks it: one call of its protocol. No embedded server for it exists.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Secrets by name.
pub(crate) struct Secrets {
    pub(crate) endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Vault {
    secrets: Arc<BTreeMap<String, String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Secrets {
    pub(crate) async fn with(secrets: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let vault = Vault { secrets: Arc::new(secrets), asked: asked.clone() };
        let app = Router::new().route("/", post(get_secret_value)).with_state(vault);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { endpoint, asked, server }
    }

    /// The names that were asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// AWS Secrets Manager API reference, GetSecretValue.
async fn get_secret_value(State(vault): State<Vault>, headers: HeaderMap, body: Bytes) -> (StatusCode, Json<Value>) {
    assert_eq!(headers["x-amz-target"], "secretsmanager.GetSecretValue");
    let request: Value = serde_json::from_slice(&body).unwrap();
    let name = request["SecretId"].as_str().unwrap();
    vault.asked.lock().unwrap().push(name.to_owned());
    match vault.secrets.get(name) {
        Some(secret) => (
            StatusCode::OK,
            Json(json!({
                "ARN": format!("arn:aws:secretsmanager:eu-central-1:123456789012:secret:{name}-AbCdEf"),
                "Name": name,
                "VersionId": "EXAMPLE1-90ab-cdef-fedc-ba987SECRET1",
                "SecretString": secret,
                "VersionStages": ["AWSCURRENT"],
                "CreatedDate": 1_761_955_200.0,
            })),
        ),
        None => (
            StatusCode::BAD_REQUEST,
            Json(json!({
                "__type": "ResourceNotFoundException",
                "Message": "Secrets Manager can't find the specified secret.",
            })),
        ),
    }
}
