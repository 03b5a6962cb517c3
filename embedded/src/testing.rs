//! A fresh, migrated PostgreSQL database for each test.
//!
//! Tests run many at once, each in a process of its own. They share the server that [`SERVER_VARIABLE`] names, which
//! `with-postgres` starts for a whole test run; a test run without it starts a server of its own, which costs a second.
//! The schema is migrated once per server, into a template that every test's database is then copied from.

use std::env;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use thiserror::Error;
use tokio::sync::OnceCell;

use crate::{PostgreSql, PostgresError};

/// Names the PostgreSQL server for tests, as `postgres://SUPERUSER@HOST:PORT/DATABASE`; every role must be able to connect
/// without a password.
pub const SERVER_VARIABLE: &str = "SECUREBASE_TEST_POSTGRES";

/// The longest wait of a test's end for its database to go.
const DROP_SECONDS_MAX: u64 = 10;

static OWN_SERVER: OnceCell<PostgreSql> = OnceCell::const_new();

/// A database of one test, copied from a migrated template; dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    server: ServerUrl,
    name: String,
}

/// No database for this test: the test fails.
#[derive(Debug, Error)]
pub enum TestDatabaseError {
    /// No server could be started.
    #[error(transparent)]
    Server(#[from] PostgresError),
    /// The variable does not name a server.
    #[error("{SERVER_VARIABLE} is {0:?}: expected postgres://SUPERUSER@HOST:PORT/DATABASE")]
    NotAServer(String),
    /// The server refused.
    #[error("cannot {attempt}: {source}")]
    Sql {
        /// What was attempted.
        attempt: &'static str,
        /// What the server said.
        source: sqlx::Error,
    },
    /// The caller's migration failed.
    #[error("cannot migrate the template database: {0}")]
    Migrate(String),
}

impl TestDatabase {
    /// A new database, equal to one that `migrate` has filled.
    ///
    /// `migrate` gets the URL of an empty database as the superuser, and must close its connections to it before it
    /// returns. It runs once per server and `fingerprint`, which must therefore change when its result would: the
    /// checksums of the migrations do. What it makes outside that database, such as roles, is seen by every test.
    pub async fn create<M, F, E>(fingerprint: &str, migrate: M) -> Result<Self, TestDatabaseError>
    where
        M: FnOnce(String) -> F,
        F: Future<Output = Result<(), E>>,
        E: Display,
    {
        let server = match env::var(SERVER_VARIABLE) {
            Ok(url) => ServerUrl::parse(&url).ok_or(TestDatabaseError::NotAServer(url))?,
            Err(_) => {
                let own = OWN_SERVER.get_or_try_init(PostgreSql::throwaway).await?;
                ServerUrl::parse(&own.url("postgres", "postgres")).expect("our own URLs have the form we read")
            }
        };
        Self::create_at(server, fingerprint, migrate).await
    }

    /// The same on a server of the test's own, for tests that end it before its time.
    pub async fn create_on<M, F, E>(
        server: &PostgreSql,
        fingerprint: &str,
        migrate: M,
    ) -> Result<Self, TestDatabaseError>
    where
        M: FnOnce(String) -> F,
        F: Future<Output = Result<(), E>>,
        E: Display,
    {
        let server = ServerUrl::parse(&server.url("postgres", "postgres")).expect("our own URLs have the form we read");
        Self::create_at(server, fingerprint, migrate).await
    }

    async fn create_at<M, F, E>(server: ServerUrl, fingerprint: &str, migrate: M) -> Result<Self, TestDatabaseError>
    where
        M: FnOnce(String) -> F,
        F: Future<Output = Result<(), E>>,
        E: Display,
    {
        let mut admin = server.connect().await?;
        let template = template_name(fingerprint);
        ensure_template(&mut admin, &server, &template, migrate).await?;
        #[expect(clippy::disallowed_methods, reason = "tests at once need different names; no result depends on them")]
        let name = format!("test_{:016x}", rand::random::<u64>());
        run(&mut admin, "create the test's database", format!("create database {name} template {template}")).await?;
        close(admin).await?;
        Ok(Self { server, name })
    }

    /// The database's URL for this role.
    pub fn url(&self, role: &str) -> String {
        self.server.url(role, &self.name)
    }

    /// The database's URL for the superuser.
    pub fn superuser_url(&self) -> String {
        self.url(&self.server.superuser)
    }
}

impl Drop for TestDatabase {
    /// Best effort: a database that stays costs disk until its server ends, and nothing else.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A runtime of its own, because the test's may be the one that waits for us.
        let dropping = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            let drop_database = async {
                let mut admin = server.connect().await?;
                // With force: the test's pools may still hold connections.
                run(&mut admin, "drop the test's database", format!("drop database {name} with (force)")).await
            };
            let _ = runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(DROP_SECONDS_MAX), drop_database).await });
        });
        let _ = dropping.join();
    }
}

/// Makes the template unless it is there. Under an advisory lock, so that one of many tests at once does it.
async fn ensure_template<M, F, E>(
    admin: &mut PgConnection,
    server: &ServerUrl,
    template: &str,
    migrate: M,
) -> Result<(), TestDatabaseError>
where
    M: FnOnce(String) -> F,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    // Of the session: it goes with the connection, however the test ends. One key for all templates, because migrations
    // also make roles, which belong to the whole server.
    run(admin, "wait for other tests", "select pg_advisory_lock(7311520893)".into()).await?;
    if !exists(admin, template).await? {
        let unfinished = format!("{template}_unfinished");
        run(admin, "drop a template left unfinished", format!("drop database if exists {unfinished} with (force)"))
            .await?;
        run(admin, "create the template", format!("create database {unfinished} template template0")).await?;
        migrate(server.url(&server.superuser, &unfinished))
            .await
            .map_err(|error| TestDatabaseError::Migrate(error.to_string()))?;
        let whole = format!("alter database {unfinished} rename to {template}");
        run(admin, "finish the template", whole).await?;
    }
    run(admin, "let other tests go on", "select pg_advisory_unlock(7311520893)".into()).await
}

async fn exists(admin: &mut PgConnection, database: &str) -> Result<bool, TestDatabaseError> {
    sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(database)
        .fetch_one(admin)
        .await
        .map_err(|source| TestDatabaseError::Sql { attempt: "look for the template", source })
}

/// Runs a statement whose only variable parts are names that we made.
async fn run(admin: &mut PgConnection, attempt: &'static str, sql: String) -> Result<(), TestDatabaseError> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await;
    done.map(drop).map_err(|source| TestDatabaseError::Sql { attempt, source })
}

async fn close(admin: PgConnection) -> Result<(), TestDatabaseError> {
    admin.close().await.map_err(|source| TestDatabaseError::Sql { attempt: "leave the server", source })
}

fn template_name(fingerprint: &str) -> String {
    format!("template_{}", hex::encode(&Sha256::digest(fingerprint)[..8]))
}

/// A server and the superuser that makes databases there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ServerUrl {
    superuser: String,
    /// `HOST:PORT`.
    address: String,
    /// The database to connect to when another is made.
    database: String,
}

impl ServerUrl {
    fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
        let (superuser, rest) = rest.split_once('@')?;
        let (address, database) = rest.split_once('/')?;
        let whole =
            ![superuser, address, database].iter().any(|part| part.is_empty() || part.contains(['?', '/', '@']));
        let passwordless = !superuser.contains(':');
        (whole && passwordless).then(|| Self {
            superuser: superuser.to_owned(),
            address: address.to_owned(),
            database: database.to_owned(),
        })
    }

    fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@{}/{database}", self.address)
    }

    async fn connect(&self) -> Result<PgConnection, TestDatabaseError> {
        PgConnection::connect(&self.url(&self.superuser, &self.database))
            .await
            .map_err(|source| TestDatabaseError::Sql { attempt: "connect to the PostgreSQL server for tests", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_superuser_host_port_and_database() {
        let server = ServerUrl::parse("postgres://postgres@127.0.0.1:5433/postgres").unwrap();
        assert_eq!(server.url("app", "test_1"), "postgres://app@127.0.0.1:5433/test_1");
        for bad in ["", "127.0.0.1:5433", "postgres://127.0.0.1/x", "postgres://a:secret@h:1/x", "postgres://a@h:1"] {
            assert_eq!(ServerUrl::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn another_fingerprint_is_another_template() {
        assert_ne!(template_name("0001 a"), template_name("0001 b"));
        assert_eq!(template_name("0001 a"), template_name("0001 a"));
    }
}
