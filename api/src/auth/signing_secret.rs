//! The keys that sign sessions, from AWS Secrets Manager.

use aws_sdk_secretsmanager::Client;
use ingest::aws::AwsError;
use thiserror::Error;

use super::session::{BadSigningKeys, SigningKeys};

/// Why the keys were not read.
#[derive(Debug, Error)]
pub enum SigningSecretError {
    /// Secrets Manager refused or did not answer.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// Stop: the secret is binary.
    #[error("the secret {0} is not text")]
    NotText(String),
    /// Stop: the secret holds something else.
    #[error("the secret {id} cannot be used: {source}")]
    Malformed {
        /// Its name.
        id: String,
        /// What is wrong; never what it says.
        source: BadSigningKeys,
    },
}

impl SigningKeys {
    /// Reads the current version of a secret, by name or ARN.
    pub async fn from_secrets_manager(client: &Client, id: &str) -> Result<Self, SigningSecretError> {
        let answer = client.get_secret_value().secret_id(id).send().await;
        let answer = answer.map_err(|error| AwsError::new("GetSecretValue", error))?;
        let text = answer.secret_string().ok_or_else(|| SigningSecretError::NotText(id.to_owned()))?;
        Self::parse(text).map_err(|source| SigningSecretError::Malformed { id: id.to_owned(), source })
    }
}
