//! API keys: made, listed, rotated and revoked, each in the transaction that records it.

pub(crate) mod wire;

use aggregator::directory::CustomerId;
use billing::outbox::{Notification, enqueue};
use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use thiserror::Error;

use crate::audit;
use crate::auth::{KeyId, KeyToken, Scope, Scopes};

/// Keys a customer may have in force at once; more are hardly kept apart by anyone.
pub const KEYS_IN_FORCE_MAX: i64 = 100;

/// How long a rotated key goes on beside its successor, at most.
pub const OVERLAP_SECS_MAX: i64 = 7 * 24 * 3_600;

/// A name's longest form.
pub const NAME_CHARS_MAX: usize = 100;

pub(crate) const INSERT: &str = "insert into api_keys \
     (key_id, customer_id, name, scopes, secret_hash, created_at, created_by, expires_at) \
     values ($1, $2, $3, $4, $5, $6, $7, $8)";

pub(crate) const COUNT_IN_FORCE: &str = "select count(*) from api_keys \
     where customer_id is not distinct from $1 and revoked_at is null and (expires_at is null or expires_at > $2)";

pub(crate) const FIND: &str = "select key_id, customer_id, name, scopes, generation, created_at, created_by, expires_at, \
     revoked_at, rotated_to, last_used_at from api_keys where key_id = $1 and customer_id is not distinct from $2 \
     for update";

pub(crate) const LIST: &str = "select key_id, customer_id, name, scopes, generation, created_at, created_by, expires_at, \
     revoked_at, rotated_to, last_used_at from api_keys \
     where ($1::text is null or customer_id = $1) and ($2::timestamptz is null or (created_at, key_id) < ($2, $3)) \
     order by created_at desc, key_id desc limit $4";

pub(crate) const REVOKE: &str = "update api_keys set revoked_at = $2 where key_id = $1 and revoked_at is null";

pub(crate) const SUCCEED: &str =
    "update api_keys set rotated_to = $2, expires_at = least(expires_at, $3) where key_id = $1";

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Whose; `None` for an operator's.
    pub customer: Option<CustomerId>,
    /// What it is for, in its owner's words.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// From here on it is refused; `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// The random part of a new key, with its hash, made before the transaction begins.
#[derive(Clone, Debug)]
pub struct MintedSecret {
    /// The key as it is shown once.
    pub token: KeyToken,
    /// bcrypt of its secret.
    pub hash: String,
}

/// A key as it may be shown: everything but its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its public name.
    pub key_id: KeyId,
    /// Whose; `None` for an operator's.
    pub customer: Option<CustomerId>,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Changes when something is taken back.
    pub generation: i32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it: `key:<key id>`, `operator`.
    pub created_by: String,
    /// From here on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked_at: Option<Timestamp>,
    /// The key that took its place.
    pub rotated_to: Option<KeyId>,
    /// The last request, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// Why a key was not made or changed. Nothing was written.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Stop: the name is empty or too long.
    #[error("a key's name has 1 to {NAME_CHARS_MAX} characters and no control characters")]
    BadName,
    /// Stop: no scopes.
    #[error("a key needs at least one scope")]
    NoScopes,
    /// Stop: admin is an operator's, and an operator's key has nothing else.
    #[error("the scope admin belongs to operators' keys, and to those alone")]
    Admin,
    /// Stop: it would be over before it begins.
    #[error("a key expires after now")]
    ExpiresBeforeNow,
    /// Stop: revoke some.
    #[error("at most {KEYS_IN_FORCE_MAX} keys are in force at once; revoke one first")]
    TooMany,
    /// Stop: the key is revoked, expired or has a successor.
    #[error("this key is no more in force, so it has no successor")]
    NotInForce,
    /// Stop: no such key of this owner.
    #[error("there is no such key")]
    NotFound,
    /// Stop: the maker may less than the key.
    #[error("a key can only be given scopes that its maker has")]
    BeyondTheMaker,
    /// Stop: no such customer.
    #[error("there is no such customer")]
    NoCustomer,
    /// A row holds what we never write. Stop.
    #[error("the stored key {0} cannot be read")]
    Malformed(String),
    /// PostgreSQL failed. Retry when it was away.
    #[error("keys cannot be read or written")]
    Database(#[from] sqlx::Error),
}

/// Who makes or changes a key.
#[derive(Clone, Debug)]
pub struct KeyActor {
    /// In the audit trail: `key:<key id>`, `operator`.
    pub name: String,
    /// What it may pass on; `None`: everything.
    pub scopes: Option<Scopes>,
}

impl KeyActor {
    fn may_give(&self, scopes: Scopes) -> bool {
        self.scopes.is_none_or(|own| scopes.is_within(own))
    }
}

/// Makes a key. The connection is in a transaction that is read committed: the tenant's, or the operator's.
pub async fn create(
    connection: &mut PgConnection,
    new: &NewKey,
    minted: &MintedSecret,
    actor: &KeyActor,
    now: Timestamp,
) -> Result<KeyRecord, KeyError> {
    check(new, now)?;
    if !actor.may_give(new.scopes) {
        return Err(KeyError::BeyondTheMaker);
    }
    let in_force: i64 = sqlx::query_scalar(COUNT_IN_FORCE)
        .bind(new.customer.as_ref().map(CustomerId::as_str))
        .bind(DateTime::<Utc>::from(now))
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    if in_force >= KEYS_IN_FORCE_MAX {
        return Err(KeyError::TooMany);
    }
    let record = insert(connection, new, minted, actor, now).await?;
    let details = json!({
        "name": record.name,
        "scopes": record.scopes.names(),
        "expires_at": record.expires_at.map(|at| at.to_string()),
    });
    let (customer, subject) = (new.customer.as_ref(), record.key_id.as_str());
    audit::record(connection, customer, &actor.name, "api_key.created", subject, details).await?;
    Ok(record)
}

async fn insert(
    connection: &mut PgConnection,
    new: &NewKey,
    minted: &MintedSecret,
    actor: &KeyActor,
    now: Timestamp,
) -> Result<KeyRecord, KeyError> {
    let inserted = sqlx::query(INSERT)
        .bind(minted.token.key_id.as_str())
        .bind(new.customer.as_ref().map(CustomerId::as_str))
        .bind(&new.name)
        .bind(new.scopes.names())
        .bind(&minted.hash)
        .bind(DateTime::<Utc>::from(now))
        .bind(&actor.name)
        .bind(new.expires_at.map(DateTime::<Utc>::from))
        .persistent(false)
        .execute(&mut *connection)
        .await;
    inserted.map_err(|error| match error.as_database_error().and_then(|cause| cause.constraint()) {
        Some("api_keys_customer_id_fkey") => KeyError::NoCustomer,
        _ => KeyError::Database(error),
    })?;
    if let Some(customer) = &new.customer {
        // Whoever reads the customer's mail learns of a key that nobody there asked for.
        let key_id = minted.token.key_id.as_str();
        let prefix = format!("sk_live_{customer}_{key_id}");
        let told = Notification::of_api_key(customer.as_str(), key_id, &prefix, &new.name);
        let told = told.expect("letters and digits make a tag");
        enqueue(connection, &told, now).await?;
    }
    Ok(KeyRecord {
        key_id: minted.token.key_id.clone(),
        customer: new.customer.clone(),
        name: new.name.clone(),
        scopes: new.scopes,
        generation: 1,
        created_at: now,
        created_by: actor.name.clone(),
        expires_at: new.expires_at,
        revoked_at: None,
        rotated_to: None,
        last_used_at: None,
    })
}

fn check(new: &NewKey, now: Timestamp) -> Result<(), KeyError> {
    let chars = new.name.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX || new.name.chars().any(char::is_control) {
        return Err(KeyError::BadName);
    }
    if new.scopes.is_empty() {
        return Err(KeyError::NoScopes);
    }
    if new.scopes.allows(Scope::Admin) != new.customer.is_none() {
        return Err(KeyError::Admin);
    }
    if new.expires_at.is_some_and(|ends_at| ends_at <= now) {
        return Err(KeyError::ExpiresBeforeNow);
    }
    Ok(())
}

/// The keys of a customer, or all, newest first, after the place where an earlier list ended.
pub async fn list(
    connection: &mut PgConnection,
    customer: Option<&CustomerId>,
    after: Option<(Timestamp, KeyId)>,
    limit: u32,
) -> Result<Vec<KeyRecord>, KeyError> {
    let (at, id) = after.unzip();
    let rows = sqlx::query(LIST)
        .bind(customer.map(CustomerId::as_str))
        .bind(at.map(DateTime::<Utc>::from))
        .bind(id.as_ref().map(KeyId::as_str))
        .bind(i64::from(limit))
        .persistent(false)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// Revokes a key of this owner, now and for good. Revoking it again changes nothing.
pub async fn revoke(
    connection: &mut PgConnection,
    customer: Option<&CustomerId>,
    key_id: &KeyId,
    actor: &KeyActor,
    now: Timestamp,
) -> Result<KeyRecord, KeyError> {
    let record = find(connection, customer, key_id).await?;
    if record.revoked_at.is_some() {
        return Ok(record);
    }
    let revoked_at = DateTime::<Utc>::from(now);
    sqlx::query(REVOKE).bind(key_id.as_str()).bind(revoked_at).persistent(false).execute(&mut *connection).await?;
    let details = json!({ "name": record.name });
    audit::record(connection, customer, &actor.name, "api_key.revoked", key_id.as_str(), details).await?;
    Ok(KeyRecord { revoked_at: Some(now), generation: record.generation + 1, ..record })
}

/// Makes a successor with the same name, rights and end; the key itself goes on for the overlap.
pub async fn rotate(
    connection: &mut PgConnection,
    customer: Option<&CustomerId>,
    key_id: &KeyId,
    minted: &MintedSecret,
    overlap_secs: i64,
    actor: &KeyActor,
    now: Timestamp,
) -> Result<KeyRecord, KeyError> {
    let record = find(connection, customer, key_id).await?;
    // Who rotates a key gets to see its successor, and so must be allowed all that it may do.
    if !actor.may_give(record.scopes) {
        return Err(KeyError::BeyondTheMaker);
    }
    let is_over = record.expires_at.is_some_and(|ends_at| ends_at <= now);
    if is_over || record.revoked_at.is_some() || record.rotated_to.is_some() {
        return Err(KeyError::NotInForce);
    }
    let new = NewKey {
        customer: record.customer.clone(),
        name: record.name.clone(),
        scopes: record.scopes,
        expires_at: record.expires_at,
    };
    let successor = insert(connection, &new, minted, actor, now).await?;
    // An end at its beginning would be refused: without overlap, a second remains.
    let ends_at = now.saturating_add_secs(overlap_secs.clamp(1, OVERLAP_SECS_MAX));
    sqlx::query(SUCCEED)
        .bind(key_id.as_str())
        .bind(successor.key_id.as_str())
        .bind(DateTime::<Utc>::from(ends_at))
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    let details = json!({ "successor": successor.key_id.as_str(), "ends_at": ends_at.to_string() });
    audit::record(connection, customer, &actor.name, "api_key.rotated", key_id.as_str(), details).await?;
    Ok(successor)
}

async fn find(
    connection: &mut PgConnection,
    customer: Option<&CustomerId>,
    key_id: &KeyId,
) -> Result<KeyRecord, KeyError> {
    let row = sqlx::query(FIND)
        .bind(key_id.as_str())
        .bind(customer.map(CustomerId::as_str))
        .persistent(false)
        .fetch_optional(connection)
        .await?;
    read(&row.ok_or(KeyError::NotFound)?)
}

fn read(row: &PgRow) -> Result<KeyRecord, KeyError> {
    let id: String = row.try_get("key_id")?;
    let malformed = || KeyError::Malformed(id.clone());
    let instant = |name: &str| -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(row.try_get::<Option<DateTime<Utc>>, _>(name)?.map(Timestamp::from))
    };
    let customer: Option<String> = row.try_get("customer_id")?;
    let rotated_to: Option<String> = row.try_get("rotated_to")?;
    let scopes: Vec<String> = row.try_get("scopes")?;
    Ok(KeyRecord {
        key_id: KeyId::parse(&id).map_err(|_| malformed())?,
        customer: customer.map(|id| CustomerId::parse(&id)).transpose().map_err(|_| malformed())?,
        name: row.try_get("name")?,
        scopes: Scopes::parse(scopes.iter().map(String::as_str)).map_err(|_| malformed())?,
        generation: row.try_get("generation")?,
        created_at: instant("created_at")?.ok_or_else(malformed)?,
        created_by: row.try_get("created_by")?,
        expires_at: instant("expires_at")?,
        revoked_at: instant("revoked_at")?,
        rotated_to: rotated_to.map(|id| KeyId::parse(&id)).transpose().map_err(|_| malformed())?,
        last_used_at: instant("last_used_at")?,
    })
}
