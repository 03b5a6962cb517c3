//! What the database knows about a key, read anew by every request.

use std::collections::HashMap;
use std::sync::Arc;

use aggregator::directory::CustomerId;
use ingest::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Decode, PgConnection, PgPool, Postgres, Row, Type};
use thiserror::Error;

use super::scope::Scopes;
use super::token::KeyId;
use crate::lease::Lease;
use crate::tenant::{Statements, TenantError};

/// The keys of the ids `$1`, by the one function that may find them.
pub(crate) const LOOK_UP: &str = "select i.key_id, k.customer_id, array_to_string(k.scopes, ' '), k.secret_hash, \
     k.generation, (extract(epoch from k.expires_at) * 1000000)::bigint, k.revoked_at is not null \
     from unnest($1::text[]) as i (key_id), look_up_api_key(i.key_id) as k";

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
#[derive(Clone, Debug, Error)]
pub enum LookUpError {
    /// PostgreSQL failed, for everyone who asked at the same time; retry when it was away.
    #[error(transparent)]
    Database(Arc<TenantError>),
    /// A row holds what we never write. Stop.
    #[error("the stored key {0} cannot be read")]
    Malformed(String),
}

impl From<TenantError> for LookUpError {
    fn from(error: TenantError) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// What was found of some ids; who is not among them does not exist.
pub(crate) type Found = HashMap<String, Result<StoredKey, LookUpError>>;

impl StoredKey {
    /// The key of this id, if there is one.
    pub(crate) async fn look_up(pool: &PgPool, key_id: &KeyId) -> Result<Option<Self>, LookUpError> {
        let mut connection = Lease::of(pool).await.map_err(TenantError::from)?;
        let mut found = Self::look_up_all(&mut connection, [key_id], Statements::Unnamed).await?;
        found.remove(key_id.as_str()).transpose()
    }

    /// The keys of these ids, as they stand at one moment.
    pub(crate) async fn look_up_all(
        connection: &mut PgConnection,
        key_ids: impl IntoIterator<Item = &KeyId>,
        statements: Statements,
    ) -> Result<Found, TenantError> {
        let listed: Vec<&str> = key_ids.into_iter().map(KeyId::as_str).collect();
        let rows = match statements {
            Statements::Prepared => sqlx::query(LOOK_UP).bind(listed).fetch_all(connection).await?,
            // As one simple query: one round trip, and whole for a pooler that changes connections between statements. An
            // id is 16 letters and digits by its type, and needs no quoting.
            Statements::Unnamed => {
                let sql = LOOK_UP.replace("$1", &format!("'{{{}}}'", listed.join(",")));
                sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?
            }
        };
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, Self::read(row))))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(Into::into)
    }

    fn read(row: &PgRow) -> Result<Self, LookUpError> {
        fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, at: usize) -> Result<T, LookUpError> {
            row.try_get(at).map_err(|error| TenantError::from(error).into())
        }
        let key_id: String = column(row, 0)?;
        let malformed = || LookUpError::Malformed(key_id.clone());
        let customer: Option<String> = column(row, 1)?;
        let scopes: String = column(row, 2)?;
        let expires_at: Option<i64> = column(row, 5)?;
        Ok(Self {
            customer: customer.map(|id| CustomerId::parse(&id)).transpose().map_err(|_| malformed())?,
            scopes: Scopes::parse(scopes.split(' ')).map_err(|_| malformed())?,
            secret_hash: column(row, 3)?,
            generation: column(row, 4)?,
            expires_at: match expires_at {
                Some(micros) => Some(Timestamp::from_micros(micros).ok_or_else(malformed)?),
                None => None,
            },
            is_revoked: column(row, 6)?,
        })
    }

    /// Whether the key lets anyone in now.
    pub(crate) fn is_in_force(&self, now: Timestamp) -> bool {
        !self.is_revoked && self.expires_at.is_none_or(|ends_at| now < ends_at)
    }
}
