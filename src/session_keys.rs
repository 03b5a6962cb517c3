//! Where the keys that sign sessions come from.

use std::net::SocketAddr;

use anyhow::Context;
use api::auth::{Sessions, SigningKeys};
use aws_sdk_secretsmanager::Client;
use ingest::Timestamp;

const SECRET: &str = "SECUREBASE_SESSION_SECRET";
const KEYS: &str = "SECUREBASE_SESSION_KEYS";

/// A source of session keys.
#[derive(Clone)]
pub(crate) enum SessionKeys {
    /// The home's own key.
    #[cfg(feature = "local")]
    Home([u8; 32]),
    /// The keys themselves, for a server that only this machine reaches.
    Environment(String),
    /// A secret of AWS Secrets Manager, by name or ARN.
    Secret(Client, String),
}

impl SessionKeys {
    /// What the environment says.
    pub(crate) fn from_environment(client: Client) -> anyhow::Result<Self> {
        let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        match (given(SECRET), given(KEYS)) {
            (Some(id), _) => Ok(Self::Secret(client, id)),
            (None, Some(keys)) => Ok(Self::Environment(keys)),
            (None, None) => anyhow::bail!(
                "{SECRET} is not set: name the secret of AWS Secrets Manager that holds the keys of sessions"
            ),
        }
    }

    /// Reads the keys, for a server that listens there.
    pub(crate) async fn load(&self, address: SocketAddr) -> anyhow::Result<SigningKeys> {
        match self {
            #[cfg(feature = "local")]
            Self::Home(key) => Ok(SigningKeys::new(vec![("home".to_owned(), key.to_vec())])?),
            Self::Environment(keys) => {
                anyhow::ensure!(
                    address.ip().is_loopback(),
                    "{KEYS} is for a server that only this machine reaches: name a secret with {SECRET}"
                );
                SigningKeys::parse(keys).context(KEYS)
            }
            Self::Secret(client, id) => Ok(SigningKeys::from_secrets_manager(client, id).await?),
        }
    }

    /// Lets sessions follow the secret, if the keys come from one that was read just now.
    pub(crate) fn keep_fresh(self, sessions: &Sessions, now: Timestamp) {
        if let Self::Secret(client, id) = self {
            sessions.keep_fresh_from(client, id, now);
        }
    }
}
