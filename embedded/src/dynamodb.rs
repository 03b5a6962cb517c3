//! DynamoDB in this process, in memory or in one file.

use std::io;
use std::path::{Path, PathBuf};

use dynoxide::Database;
use thiserror::Error;

use crate::loopback::{self, Serving};

/// A DynamoDB that answers the AWS protocol on loopback. It takes any credentials and any region.
///
/// It never throttles and never reports a transaction conflict: such paths need injected faults.
#[derive(Debug)]
pub struct DynamoDb {
    endpoint: String,
    serving: Serving,
}

/// DynamoDB did not start; nothing is left running. Each is a stop.
#[derive(Debug, Error)]
pub enum DynamoDbError {
    /// No port of 127.0.0.1 could be bound.
    #[error("cannot listen on 127.0.0.1: {0}")]
    Listen(#[source] io::Error),
    /// The file cannot be opened as a database.
    #[error("cannot open the table store {}: {reason}; check that it is writable and that the disk has space", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the store says.
        reason: String,
    },
}

impl DynamoDb {
    /// Tables that end with this process.
    pub async fn in_memory() -> Result<Self, DynamoDbError> {
        let database = Database::memory()
            .map_err(|error| DynamoDbError::Open { path: PathBuf::from(":memory:"), reason: error.to_string() })?;
        Self::serve(database).await
    }

    /// Tables kept in `path`, created if absent. One process at a time may open it; the caller sees to that.
    pub async fn file(path: &Path) -> Result<Self, DynamoDbError> {
        let refuse = |reason: String| DynamoDbError::Open { path: path.to_owned(), reason };
        let name = path.to_str().ok_or_else(|| refuse("its name is not UTF-8".into()))?;
        let database = Database::new(name).map_err(|error| refuse(error.to_string()))?;
        Self::serve(database).await
    }

    async fn serve(database: Database) -> Result<Self, DynamoDbError> {
        let (listener, endpoint) = loopback::listen().await.map_err(DynamoDbError::Listen)?;
        let serving = Serving::spawn(|stopped| async move {
            let stopped = async move {
                // A dropped sender stops the server like a sent signal.
                let _ = stopped.await;
            };
            if let Err(reason) = dynoxide::server::serve_with_shutdown(listener, database, stopped).await {
                tracing::error!(%reason, "the embedded DynamoDB ended");
            }
        });
        Ok(Self { endpoint, serving })
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Finishes the requests under way, for a few seconds at most, and closes the tables.
    pub async fn shutdown(self) {
        self.serving.shutdown().await;
    }
}
