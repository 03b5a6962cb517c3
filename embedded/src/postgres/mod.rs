//! A private PostgreSQL cluster of one process.
//!
//! Invariant: the directory of a cluster is locked from before its first file is read until the last process of the
//! cluster is gone. The lock is an open file description that `initdb` and the server's processes inherit, so the kernel
//! drops it no earlier, whoever is killed. Who holds the lock therefore knows that a `postmaster.pid` left behind is stale.

mod cluster;
mod deadline;
mod installation;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use installation::OLDEST_MAJOR;

use cluster::Cluster;

/// What a cluster is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// What is committed survives the kill of any process and a crash of the machine.
    Durable,
    /// Nothing waits for the disk: a kill of the server loses its last commits, a crash of the machine everything. For
    /// tests.
    Throwaway,
}

/// Which cluster to start.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// The cluster's own directory, created if absent; it holds `pgdata` and `postgres.log`.
    pub directory: PathBuf,
    /// What it is for. May differ from one start to the next.
    pub durability: Durability,
    /// The port to listen on; without one, any that is free.
    pub port: Option<u16>,
}

/// A running PostgreSQL cluster that listens on 127.0.0.1 alone and ends with this process.
///
/// Limit: every local user who can reach the port may connect as any role, the superuser `postgres` included (`trust`
/// authentication). It is for one person's machine and for tests, not for a shared host.
///
/// Dropped, it stops like [`PostgreSql::stop`] and waits for that.
#[derive(Debug)]
pub struct PostgreSql {
    cluster: Cluster,
}

/// PostgreSQL did not start; nothing is left running. Each is a stop, and says what to do.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// No PostgreSQL on this machine, and no package manager that we may run.
    #[error(
        "PostgreSQL {OLDEST_MAJOR} or newer was not found: {advice}, or set PG_BIN to the directory of its programs"
    )]
    NotInstalled {
        /// How to install it here.
        advice: &'static str,
    },
    /// The package manager failed.
    #[error(
        "{program} could not install PostgreSQL ({reason}): {advice}, or set PG_BIN to the directory of its programs"
    )]
    InstallFailed {
        /// The package manager.
        program: &'static str,
        /// Its last words.
        reason: String,
        /// How to install it here.
        advice: &'static str,
    },
    /// `PG_BIN` names a directory without the programs.
    #[error("PG_BIN is {}, which does not hold a working `initdb` and `postgres`", bin.display())]
    NoPrograms {
        /// What `PG_BIN` says.
        bin: PathBuf,
    },
    /// Only an older PostgreSQL is installed.
    #[error("PostgreSQL {found} is too old: install version {OLDEST_MAJOR} or newer, or set PG_BIN to its programs")]
    TooOld {
        /// The version found.
        found: u32,
    },
    /// The cluster was made by a major version that is not installed.
    #[error(
        "the cluster was made by PostgreSQL {made_by}, but only {found} is installed: install PostgreSQL {made_by}, or set \
         PG_BIN to its programs"
    )]
    OtherMajor {
        /// The version that made the cluster.
        made_by: u32,
        /// The versions found.
        found: String,
    },
    /// Another process runs this cluster.
    #[error("the PostgreSQL cluster in {} is in use by process {pid}: stop that process first", directory.display())]
    InUse {
        /// The cluster's directory.
        directory: PathBuf,
        /// The process that runs it, or `unknown`.
        pid: String,
    },
    /// The port that was asked for is taken.
    #[error("port {port} of 127.0.0.1 is in use: choose another, or stop what listens there")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The file system is full.
    #[error("no space left for the PostgreSQL cluster in {}: free some and try again", directory.display())]
    DiskFull {
        /// The cluster's directory.
        directory: PathBuf,
    },
    /// A file cannot be used by the user that PostgreSQL runs as.
    #[error("the user {user} may not use the PostgreSQL cluster in {}: {reason}", directory.display())]
    NotPermitted {
        /// The user that PostgreSQL runs as.
        user: String,
        /// The cluster's directory.
        directory: PathBuf,
        /// What was refused.
        reason: String,
    },
    /// PostgreSQL refuses to run as root and there is no other user to run it as.
    #[error("PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as: add one")]
    NoUser,
    /// A file operation failed otherwise.
    #[error("cannot {attempt} {}: {source}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// `initdb` or the server ended, and said why.
    #[error("PostgreSQL did not start; {} ends with: {last_lines}", log.display())]
    Failed {
        /// The cluster's log.
        log: PathBuf,
        /// Its last lines, on one line.
        last_lines: String,
    },
    /// The server is not ready after the longest wait.
    #[error("PostgreSQL was not ready after {seconds} s; {} ends with: {last_lines}", log.display())]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// The cluster's log.
        log: PathBuf,
        /// Its last lines, on one line.
        last_lines: String,
    },
}

impl PostgreSql {
    /// Starts the cluster in a directory, making it first if there is none, and returns once it takes connections.
    ///
    /// A cluster whose last process was killed recovers by itself. One that still ends after its process died is waited
    /// for; one that another live process runs is refused.
    pub async fn start(options: PostgresOptions) -> Result<Self, PostgresError> {
        blocking(move || Cluster::start(&options)).await.map(|cluster| Self { cluster })
    }

    /// Starts a new cluster in a temporary directory that is removed when it ends, even if this process is killed.
    pub async fn throwaway() -> Result<Self, PostgresError> {
        blocking(Cluster::throwaway).await.map(|cluster| Self { cluster })
    }

    /// Where a role finds a database: `postgres://ROLE@127.0.0.1:PORT/DATABASE`.
    pub fn url(&self, database: &str, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.cluster.port())
    }

    /// The port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// The process that accepts connections.
    pub fn pid(&self) -> u32 {
        self.cluster.pid()
    }

    /// The log of this start.
    pub fn log(&self) -> &Path {
        self.cluster.log()
    }

    /// Ends all sessions, keeps what is committed, and returns once the last process is gone.
    pub async fn stop(self) {
        blocking(move || drop(self)).await;
    }
}

/// Runs work that waits for processes and files beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
