//! The Lambda Runtime API on loopback, and the real program behind it as Lambda runs it: a child process, one invocation at
//! a time, killed when it is too late.
//!
//! Source: AWS Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Lambda takes a program that has not asked for work by then for broken.
const INIT_SECONDS_MAX: u64 = 10;
const BODY_BYTES_MAX: usize = 8 << 20;

/// A function as it is deployed: the program, its settings, and how long an invocation may take.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) program: PathBuf,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) timeout: Duration,
}

/// What came of an invocation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// The function answered.
    Answer(Value),
    /// The function answered with an error.
    Error { kind: String, message: String },
    /// The function did not answer in time and was killed.
    TimedOut,
    /// The process ended; which signal, if one ended it.
    Exited { signal: Option<i32> },
}

impl Outcome {
    /// The answer of an invocation that must have one.
    pub(crate) fn answer(self) -> Value {
        match self {
            Self::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }
}

/// Why an environment did not come up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NotStarted {
    /// What the function told Lambda, kind and message.
    pub(crate) told: Option<(String, String)>,
    pub(crate) code: Option<i32>,
}

/// One execution environment.
pub(crate) struct Environment {
    child: Child,
    timeout: Duration,
    invocations: mpsc::UnboundedSender<Invocation>,
    said: mpsc::UnboundedReceiver<Said>,
    next_id: u32,
    log: Arc<Mutex<Vec<String>>>,
    /// From the start of the process to its first request for work.
    pub(crate) init: Duration,
    server: JoinHandle<()>,
    reader: JoinHandle<()>,
}

struct Invocation {
    id: String,
    deadline_ms: u128,
    event: String,
}

#[derive(Debug)]
enum Said {
    AsksForWork,
    Answers { id: String, body: Bytes },
    Fails { id: String, body: Bytes },
    CannotStart { body: Bytes },
}

#[derive(Clone)]
struct Api {
    said: mpsc::UnboundedSender<Said>,
    invocations: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>>,
}

impl Environment {
    /// Starts a cold environment, and returns once the program asks for work.
    pub(crate) async fn start(function: &Function) -> Result<Self, NotStarted> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (invocations, waiting) = mpsc::unbounded_channel();
        let (saying, mut said) = mpsc::unbounded_channel();
        let api = Api { said: saying, invocations: Arc::new(tokio::sync::Mutex::new(waiting)) };
        let server = tokio::spawn(async move { axum::serve(listener, routes(api)).await.unwrap() });

        let started = stopwatch();
        let mut child = Command::new(&function.program)
            .env_clear()
            .envs(&function.variables)
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
                ("AWS_LAMBDA_FUNCTION_NAME", "function"),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
                ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
                ("RUST_BACKTRACE", "1"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let written = log.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                written.lock().unwrap().push(line);
            }
        });

        let mut told = None;
        let came_up = loop {
            tokio::select! {
                biased;
                next = said.recv() => match next {
                    Some(Said::AsksForWork) => break true,
                    Some(Said::CannotStart { body }) => told = Some(error_of(&body)),
                    other => panic!("before the first invocation: {other:?}"),
                },
                _ = child.wait() => break false,
                () = tokio::time::sleep(Duration::from_secs(INIT_SECONDS_MAX)) => {
                    panic!("{} has not asked for work", function.program.display())
                }
            }
        };
        let init = started.elapsed();
        let timeout = function.timeout;
        let mut environment = Self { child, timeout, invocations, said, next_id: 0, log, init, server, reader };
        if came_up {
            return Ok(environment);
        }
        let code = environment.child.wait().await.unwrap().code();
        Err(NotStarted { told, code })
    }

    /// Invokes the function; an environment that has exited or was killed must not be used again.
    pub(crate) async fn invoke(&mut self, event: &str) -> Outcome {
        self.next_id += 1;
        let id = format!("00000000-0000-4000-8000-{:012}", self.next_id);
        let now = wall_clock();
        let deadline_ms = (now + self.timeout).as_millis();
        self.invocations.send(Invocation { id: id.clone(), deadline_ms, event: event.to_owned() }).unwrap();
        let outcome = tokio::select! {
            biased;
            outcome = outcome(&mut self.said, &id) => outcome,
            status = self.child.wait() => exited(status.unwrap()),
            () = tokio::time::sleep(self.timeout) => Outcome::TimedOut,
        };
        if outcome == Outcome::TimedOut {
            self.child.kill().await.unwrap();
        }
        outcome
    }

    /// The process, to be killed by faults.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("it is running")).unwrap()
    }

    /// Lines the function has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// What the process keeps in memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most it has kept in memory so far, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, member: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(member)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        self.server.abort();
        self.reader.abort();
    }
}

async fn outcome(said: &mut mpsc::UnboundedReceiver<Said>, expected: &str) -> Outcome {
    loop {
        match said.recv().await.expect("the server is there") {
            Said::AsksForWork => {}
            Said::Answers { id, body } => {
                assert_eq!(id, expected);
                return Outcome::Answer(serde_json::from_slice(&body).expect("an answer is JSON"));
            }
            Said::Fails { id, body } => {
                assert_eq!(id, expected);
                let (kind, message) = error_of(&body);
                return Outcome::Error { kind, message };
            }
            Said::CannotStart { body } => panic!("it has started: {body:?}"),
        }
    }
}

fn exited(status: ExitStatus) -> Outcome {
    Outcome::Exited { signal: status.signal() }
}

fn error_of(body: &[u8]) -> (String, String) {
    let error: Value = serde_json::from_slice(body).unwrap();
    let text = |member: &str| error[member].as_str().expect("an error has a type and a message").to_owned();
    (text("errorType"), text("errorMessage"))
}

fn routes(api: Api) -> Router {
    Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

async fn next(State(api): State<Api>) -> impl IntoResponse {
    let _ = api.said.send(Said::AsksForWork);
    // A program that is gone asks no more: its request, and with it the lock, goes too.
    let Some(invocation) = api.invocations.lock().await.recv().await else {
        return (StatusCode::GONE, HeaderMap::new(), String::new());
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("lambda-runtime-aws-request-id", invocation.id.clone()),
        ("lambda-runtime-deadline-ms", invocation.deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:f".to_owned()),
        (
            "lambda-runtime-trace-id",
            "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0".to_owned(),
        ),
        ("content-type", "application/json".to_owned()),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    (StatusCode::OK, headers, invocation.event)
}

async fn response(State(api): State<Api>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    let _ = api.said.send(Said::Answers { id, body });
    StatusCode::ACCEPTED
}

async fn error(State(api): State<Api>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    let _ = api.said.send(Said::Fails { id, body });
    StatusCode::ACCEPTED
}

async fn init_error(State(api): State<Api>, body: Bytes) -> StatusCode {
    let _ = api.said.send(Said::CannotStart { body });
    StatusCode::ACCEPTED
}

#[expect(clippy::disallowed_methods, reason = "Lambda's deadlines are times of day")]
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "how long a start takes is printed and never asserted")]
pub(crate) fn stopwatch() -> Instant {
    Instant::now()
}
