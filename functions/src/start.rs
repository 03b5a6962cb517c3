//! From the start of a process to its first invocation.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::secret::SecretError;
use crate::settings::{SettingsError, environment};

/// How long telling Lambda why a function cannot start may take.
const TELL_SECONDS_MAX: u64 = 5;

/// What Lambda sets in every execution environment (AWS Lambda Developer Guide, "Defined runtime environment variables").
const LAMBDA_VARIABLES: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
];

/// Why a function cannot start. Lambda is told, and starts another environment for the next invocation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Stop: an operator has to change settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Retry or stop, as it says.
    #[error("{0}")]
    Store(String),
}

impl StartError {
    /// A store that does not answer, or not as it should.
    pub fn store(error: impl std::fmt::Display) -> Self {
        Self::Store(error.to_string())
    }

    /// What metrics and alarms tell apart.
    fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "Runtime.SettingsInvalid",
            Self::Secret(_) => "Runtime.SecretUnavailable",
            Self::Store(_) => "Runtime.StoreUnavailable",
        }
    }
}

/// Runs a function: prepares once, then serves invocations until Lambda ends the process.
///
/// What cannot be prepared is logged, told to Lambda, and ends the process.
pub fn start<T>(
    prepare: impl AsyncFnOnce() -> Result<T, StartError>,
    serve: impl AsyncFnOnce(T) -> Result<(), lambda_runtime::Error>,
) -> ExitCode {
    if let Some(name) = LAMBDA_VARIABLES.into_iter().find(|name| environment(name).is_none()) {
        say(&format!("this program is a Lambda function and runs as the `bootstrap` of one: {name} is not set"));
        return ExitCode::FAILURE;
    }
    log_to_stdout();
    // One invocation at a time, and below 1,769 MB less than one processor: more threads would only cost their start.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(async {
        match prepare().await {
            Ok(prepared) => serve(prepared).await.map_err(|error| error.to_string()),
            Err(error) => {
                if let Err(untold) = tell_lambda(&error) {
                    tracing::warn!(error = %untold, "Lambda could not be told why the function does not start");
                }
                Err(error.to_string())
            }
        }
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the function ends");
            ExitCode::FAILURE
        }
    }
}

/// Lines of JSON where Lambda is set to JSON logs, text otherwise; `SECUREBASE_LOG` or Lambda's own level say how much.
fn log_to_stdout() {
    let level = ["SECUREBASE_LOG", "AWS_LAMBDA_LOG_LEVEL"].into_iter().find_map(environment);
    let filter = EnvFilter::try_new(level.as_deref().unwrap_or("info")).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false);
    // Other people's crates are never heard below `info`: they write secrets.
    let kept = filter_fn(api::may_be_logged);
    if environment("AWS_LAMBDA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("json")) {
        lines.json().flatten_event(true).with_span_list(false).finish().with(kept).init();
    } else {
        lines.without_time().finish().with(kept).init();
    }
}

/// One line on standard error, for whoever started the program by hand. Nobody listening is their choice.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Source: AWS Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes", initialization error.
///
/// By hand, because the runtime's own client offers it only inside its loop.
fn tell_lambda(error: &StartError) -> io::Result<()> {
    let kind = error.kind();
    let body = json!({ "errorType": kind, "errorMessage": error.to_string(), "stackTrace": [] }).to_string();
    let address = environment("AWS_LAMBDA_RUNTIME_API").unwrap_or_default();
    let socket = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let limit = Duration::from_secs(TELL_SECONDS_MAX);
    let mut connection = TcpStream::connect_timeout(&socket, limit)?;
    connection.set_read_timeout(Some(limit))?;
    connection.set_write_timeout(Some(limit))?;
    write!(
        connection,
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\nlambda-runtime-function-error-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    // It has been told once it has answered; what it says changes nothing.
    connection.read_exact(&mut [0; 1])
}
