//! What the database knows about a key, read anew by every request.

use aggregator::directory::CustomerId;
use ingest::Timestamp;
use sqlx::{AssertSqlSafe, PgPool, Row};
use thiserror::Error;

use super::scope::Scopes;
use super::token::KeyId;
use crate::tenant::TenantError;

/// The key of one id, by the one function that may find it. `{key_id}` is 16 letters and digits by its type.
///
/// As one simple query: one round trip, and whole for a pooler that changes connections between statements.
pub(crate) const LOOK_UP: &str = "select customer_id, array_to_string(scopes, ' '), secret_hash, generation, \
     (extract(epoch from expires_at) * 1000000)::bigint, revoked_at is not null from look_up_api_key('{key_id}')";

/// A key as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    /// Whose key; `None` for an operator's.
    pub(crate) customer: Option<CustomerId>,
    pub(crate) scopes: Scopes,
    pub(crate) secret_hash: String,
    pub(crate) generation: i32,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) is_revoked: bool,
}

/// Why a key was not found out about.
#[derive(Debug, Error)]
pub enum LookUpError {
    /// PostgreSQL failed; retry when it was away.
    #[error(transparent)]
    Database(#[from] TenantError),
    /// A row holds what we never write. Stop.
    #[error("the stored key {0} cannot be read")]
    Malformed(KeyId),
}

impl StoredKey {
    /// The key of this id, if there is one.
    pub(crate) async fn look_up(pool: &PgPool, key_id: &KeyId) -> Result<Option<Self>, LookUpError> {
        let sql = LOOK_UP.replace("{key_id}", key_id.as_str());
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_optional(pool).await.map_err(TenantError::from)?;
        let Some(row) = row else { return Ok(None) };
        let malformed = || LookUpError::Malformed(key_id.clone());
        let customer: Option<String> = row.try_get(0).map_err(TenantError::from)?;
        let scopes: String = row.try_get(1).map_err(TenantError::from)?;
        let expires_at: Option<i64> = row.try_get(4).map_err(TenantError::from)?;
        Ok(Some(Self {
            customer: customer.map(|id| CustomerId::parse(&id)).transpose().map_err(|_| malformed())?,
            scopes: Scopes::parse(scopes.split(' ')).map_err(|_| malformed())?,
            secret_hash: row.try_get(2).map_err(TenantError::from)?,
            generation: row.try_get(3).map_err(TenantError::from)?,
            expires_at: match expires_at {
                Some(micros) => Some(Timestamp::from_micros(micros).ok_or_else(malformed)?),
                None => None,
            },
            is_revoked: row.try_get(5).map_err(TenantError::from)?,
        }))
    }

    /// Whether the key lets anyone in now.
    pub(crate) fn is_in_force(&self, now: Timestamp) -> bool {
        !self.is_revoked && self.expires_at.is_none_or(|ends_at| now < ends_at)
    }
}
