//! The server under load and the bare one, each in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use embedded::{Durability, PostgreSql, PostgresOptions};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::seed::seed;

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    postgres: Option<PostgreSql>,
    _directory: Option<TempDir>,
}

impl Server {
    /// `securebase serve` on a database of its own, with its disk writes on and so many customers.
    pub(crate) async fn start(program: &Path, customers: u32) -> (Self, Vec<String>) {
        let directory = TempDir::new().unwrap();
        // PostgreSQL runs as a user of its own where we are root.
        let options = PostgresOptions {
            directory: directory.path().join("postgres"),
            durability: Durability::Durable,
            port: None,
        };
        open_to_all(directory.path());
        let postgres = PostgreSql::start(options).await.unwrap();
        let mut command = Command::new(program);
        command
            .args(["serve", "--json", "--listen", "127.0.0.1:0", "--home"])
            .arg(directory.path().join("home"))
            .env("DATABASE_URL", postgres.url("postgres", "postgres"))
            .env("SECUREBASE_APP_DATABASE_URL", postgres.url("postgres", "securebase_app"));
        let (child, address) = started(command).await;
        let keys = seed(&postgres.url("postgres", "postgres"), customers).await;
        (Self { address, child, postgres: Some(postgres), _directory: Some(directory) }, keys)
    }

    /// This program, serving a static answer.
    pub(crate) async fn bare() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--bare");
        let (child, address) = started(command).await;
        Self { address, child, postgres: None, _directory: None }
    }

    /// What the process holds now, and held at most.
    pub(crate) fn memory(&self) -> String {
        let status = self.child.id().map(|pid| format!("/proc/{pid}/status"));
        let status = status.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
        };
        format!("{} now, {} at most", field("VmRSS:"), field("VmHWM:"))
    }

    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        self.child.wait().await.unwrap();
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

/// Lets another user pass through the directory.
fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Starts a server and reads where it listens.
async fn started(mut command: Command) -> (Child, SocketAddr) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("the server says where it listens");
    // Read on, so that a server which prints never waits for us.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = said["api"].as_str().unwrap().trim_start_matches("http://").parse().unwrap();
    (child, address)
}
