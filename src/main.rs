//! `securebase`: the operator's command line and the local platform.
//!
//! **Owns** the composition of the rooms: where the stores are, who starts them, what a command prints and its exit code.
//!
//! **Does not own** any rule: what counts as what, how it is counted, priced or shown is decided in the rooms.
//!
//! **Promises** that a command which fails says in one line what to do, exits non-zero and leaves nothing half done.

mod cli;
mod commands;
mod declared;
mod edge;
#[cfg(feature = "local")]
mod full_disk;
#[cfg(feature = "local")]
mod home;
mod mail;
mod platform;
mod print;
mod reading;
mod replay;
mod samples;
mod session_keys;
mod stores;
mod verify;
mod workers;

use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::Signal;
use tokio::signal::unix;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The exit code of a process that was interrupted (POSIX: 128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// Lines of text, or of JSON for who collects logs. Other people's crates are never heard below `info`: they write secrets.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SECUREBASE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).with_target(false);
    let kept = filter_fn(api::may_be_logged);
    match std::env::var("SECUREBASE_LOG_FORMAT").as_deref() {
        Ok("json") => log.json().flatten_event(true).finish().with(kept).init(),
        _ => log.finish().with(kept).init(),
    }
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return print::failure(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let outcome = runtime.block_on(async {
        // A file that may not grow is to fail the write, as a full disk does, not to end the process: a signal that is
        // listened to no longer does.
        let _listening = unix::signal(unix::SignalKind::from_raw(Signal::SIGXFSZ as i32));
        commands::run(cli).await
    });
    // Readers of files may still be blocked; what they hold is not worth waiting for.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) if error.is::<commands::Interrupted>() => ExitCode::from(INTERRUPTED),
        Err(error) => print::failure(&error),
    }
}
