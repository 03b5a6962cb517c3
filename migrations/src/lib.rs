//! The PostgreSQL schema: tables, roles, policies, and the way to bring a database up to date.
//!
//! **Owns** every table, type, function, role, grant and policy, as numbered SQL files in `sql/`.
//!
//! **Does not own** the statements that read and write the tables; each lives with the room that runs it.
//!
//! **Promises** that a database is either at the schema this program knows or left as it was; that no role of a room can
//! bypass row-level security; and that a transaction sees a customer's rows only after proving that customer.

use sha2::{Digest, Sha256};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use thiserror::Error;

/// The migrations this program knows, in order.
pub static MIGRATOR: Migrator = sqlx::migrate!("./sql");

/// The oldest PostgreSQL the schema works on, as `server_version_num` writes it.
const SERVER_VERSION_MIN: i32 = 150_000;

/// The shortest tenant key, in bytes: the output length of the hash it keys.
pub const TENANT_KEY_BYTES_MIN: usize = 32;

/// Why a database was not brought up to date. Nothing is half done: every migration is a transaction.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// Stop: the address cannot be read. Neither it nor the cause is shown: it may hold a password.
    #[error("the database address is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE")]
    NotAnAddress,
    /// Retry: nothing answered there.
    #[error("cannot reach PostgreSQL at {at}: {source}")]
    Unreachable {
        /// Host, port and database.
        at: String,
        /// What the network said.
        source: sqlx::Error,
    },
    /// Stop: the server answered and refused the login or the database.
    #[error("PostgreSQL at {at} refused the connection: {source}")]
    Refused {
        /// Host, port and database.
        at: String,
        /// What the server said.
        source: sqlx::Error,
    },
    /// Stop: the server is older than the schema needs.
    #[error("PostgreSQL {found} is too old: version 15 or newer is needed")]
    ServerTooOld {
        /// The server's major version.
        found: i32,
    },
    /// Stop: a newer program has migrated this database.
    #[error("the database has migration {version} that this program does not know: install a newer securebase")]
    NewerSchema {
        /// The unknown migration.
        version: i64,
    },
    /// Stop: an applied file was edited afterwards.
    #[error("migration {version} was applied to the database with other content than this program has")]
    Edited {
        /// The migration whose content differs.
        version: i64,
    },
    /// Stop: the login may not create extensions or roles, or may not become the owner.
    #[error(
        "the login may not do what migration {version} needs: it must own the database and be superuser, \
         or have createrole, or be a member of securebase_owner with all roles present: {source}"
    )]
    Privilege {
        /// The migration that was refused; 0 is the bookkeeping before the first.
        version: i64,
        /// What the server said.
        source: sqlx::Error,
    },
    /// Stop: a migration failed and was rolled back.
    #[error("migration failed and was rolled back: {0}")]
    Failed(#[source] sqlx::migrate::MigrateError),
}

/// Brings the database up to the schema of this program; does nothing when it is there already.
///
/// Safe to call from several processes at once, also for several databases of one cluster.
pub async fn migrate(owner_url: &str) -> Result<(), MigrateError> {
    // The parser below takes any scheme.
    if !["postgres://", "postgresql://"].iter().any(|scheme| owner_url.starts_with(scheme)) {
        return Err(MigrateError::NotAnAddress);
    }
    let options: PgConnectOptions = owner_url.parse().map_err(|_| MigrateError::NotAnAddress)?;
    let at =
        format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or("the default"));
    let unusable = |source: sqlx::Error| match source {
        sqlx::Error::Database(_) => MigrateError::Refused { at: at.clone(), source },
        source => MigrateError::Unreachable { at: at.clone(), source },
    };
    let mut connection = options.connect().await.map_err(unusable)?;
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&mut connection)
        .await
        .map_err(unusable)?;
    if version < SERVER_VERSION_MIN {
        return Err(MigrateError::ServerTooOld { found: version / 10_000 });
    }
    // "already exists, skipping" is no news.
    sqlx::query("set client_min_messages = warning").execute(&mut connection).await.map_err(unusable)?;
    // Not `run`: its future is not `Send` for a borrowed connection.
    let outcome = MIGRATOR.run_direct(None, &mut connection, false).await.map_err(explained);
    // Closing also gives back the lock that a failed run still holds.
    drop(connection.close().await);
    outcome
}

fn explained(error: sqlx::migrate::MigrateError) -> MigrateError {
    use sqlx::migrate::MigrateError as Cause;
    let may_not = |source: &sqlx::Error| {
        source.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42501")
    };
    match error {
        Cause::VersionMissing(version) => MigrateError::NewerSchema { version },
        Cause::VersionMismatch(version) => MigrateError::Edited { version },
        Cause::Execute(source) if may_not(&source) => MigrateError::Privilege { version: 0, source },
        Cause::ExecuteMigration(source, version) if may_not(&source) => MigrateError::Privilege { version, source },
        error => MigrateError::Failed(error),
    }
}

/// Names the exact set of migrations: the same for two programs only when all their SQL is the same.
///
/// 32 hexadecimal digits, fit for the name of a template database.
pub fn fingerprint() -> String {
    let mut hash = Sha256::new();
    for migration in MIGRATOR.iter() {
        hash.update(migration.version.to_be_bytes());
        hash.update(&migration.checksum);
    }
    hex::encode(&hash.finalize()[..16])
}

/// Why the tenant key was not stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetTenantKeyError {
    /// Stop: a short key can be guessed.
    #[error("a tenant key has at least {TENANT_KEY_BYTES_MIN} bytes")]
    TooShort,
    /// Stop: the login is no member of the owner, or the schema is missing.
    #[error("cannot store the tenant key: {0}")]
    Database(#[from] sqlx::Error),
}

/// Stores the key that proves tenants, in place of the former one; what that one proved is refused from now on.
///
/// The connection's login must be able to become the schema's owner, as for [`migrate`].
pub async fn set_tenant_key(connection: &mut PgConnection, key: &[u8]) -> Result<(), SetTenantKeyError> {
    if key.len() < TENANT_KEY_BYTES_MIN {
        return Err(SetTenantKeyError::TooShort);
    }
    let mut transaction = connection.begin().await?;
    sqlx::query("set local role securebase_owner").execute(&mut *transaction).await?;
    sqlx::query(STORE_KEY).bind(key).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

const STORE_KEY: &str =
    "insert into tenant_keys (id, key) values (1, $1) on conflict (id) do update set key = excluded.key";
