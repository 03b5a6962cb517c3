//! Amazon SES as far as the function asks it: one call of its protocol (API v2, SendEmail). No embedded server for it exists.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A message as it was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) raw: Vec<u8>,
    pub(crate) to: Vec<String>,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) configuration_set: Option<String>,
}

#[derive(Clone, Default)]
struct Service {
    taken: Arc<Mutex<Vec<Taken>>>,
    /// After which message which process ends.
    fatal: Arc<Mutex<Option<(usize, i32)>>>,
}

/// A mail service that takes everything.
pub(crate) struct MailService {
    pub(crate) endpoint: String,
    service: Service,
    server: JoinHandle<()>,
}

impl MailService {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = Service::default();
        let app = Router::new().route("/v2/email/outbound-emails", post(send_email)).with_state(service.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { endpoint, service, server }
    }

    /// Kills a process once so many messages are taken, before it is told of the last.
    pub(crate) fn kill_after(&self, messages: usize, pid: i32) {
        *self.service.fatal.lock().unwrap() = Some((messages, pid));
    }

    pub(crate) fn messages(&self) -> Vec<Taken> {
        self.service.taken.lock().unwrap().clone()
    }
}

impl Drop for MailService {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Amazon SES API v2 reference, SendEmail.
async fn send_email(State(service): State<Service>, body: Bytes) -> (StatusCode, Json<Value>) {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let raw = base64::engine::general_purpose::STANDARD.decode(text(&request["Content"]["Raw"]["Data"])).unwrap();
    let tags = request["EmailTags"].as_array().cloned().unwrap_or_default();
    let taken = Taken {
        raw,
        to: request["Destination"]["ToAddresses"].as_array().unwrap().iter().map(text).collect(),
        tags: tags.iter().map(|tag| (text(&tag["Name"]), text(&tag["Value"]))).collect(),
        configuration_set: request["ConfigurationSetName"].as_str().map(ToOwned::to_owned),
    };
    let count = {
        let mut all = service.taken.lock().unwrap();
        all.push(taken);
        all.len()
    };
    let fatal = service.fatal.lock().unwrap().take_if(|(messages, _)| *messages == count);
    if let Some((_, pid)) = fatal {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    (StatusCode::OK, Json(json!({ "MessageId": format!("m-{count}") })))
}
