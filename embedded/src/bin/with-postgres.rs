//! Runs a command beside a throwaway PostgreSQL: `with-postgres COMMAND ARGUMENT...`.
//!
//! The command finds the server in `SECUREBASE_TEST_POSTGRES`. The exit code is the command's, 128 and the signal's number
//! if a signal ended it, or 125 if there was no server or no command.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use embedded::PostgreSql;
use embedded::testing::SERVER_VARIABLE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// We, not the command, failed; what `env` and `timeout` use too.
const OURS: u8 = 125;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|message| {
        eprintln!("with-postgres: {message}");
        ExitCode::from(OURS)
    })
}

async fn run() -> Result<ExitCode, String> {
    let mut words = env::args_os().skip(1);
    let program = words.next().ok_or("usage: with-postgres COMMAND ARGUMENT...")?;
    // Before the server starts, so that no signal ends us without it being stopped.
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen to signals: {error}"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let server = PostgreSql::throwaway().await.map_err(|error| error.to_string())?;
    let mut command = Command::new(&program);
    command.args(words).env(SERVER_VARIABLE, server.url("postgres", "postgres"));
    let mut child = command.spawn().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let forward = |signal| {
        if let Some(pid) = pid {
            // A command that has just ended has nobody to tell.
            let _ = kill(pid, signal);
        }
    };
    let ended = loop {
        tokio::select! {
            ended = child.wait() => break ended.map_err(|error| format!("lost the command: {error}"))?,
            // The terminal has sent it to the command too; a second one would make many programs give up at once.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => forward(Signal::SIGTERM),
            _ = hangup.recv() => forward(Signal::SIGHUP),
        }
    };
    server.stop().await;
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(OURS)))
}
