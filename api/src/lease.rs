//! Connections that go back to their pool in bounded time, also when their server was lost without a word.
//!
//! A server that vanishes without closing its connections, as in a failover, leaves them silent. sqlx waits for a last
//! answer before it takes a connection back, for ever, and meanwhile the pool counts it: a few requests under way at
//! that moment would hold the whole pool. So nothing that a request waits for goes back without a [`Lease`].

use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::edge::REQUEST_MS_MAX;
use crate::tenant::DATABASE_WAIT_MS_MAX;

/// After a lease began, its connection is waited for so long at least: PostgreSQL gives up on the statement of a request that
/// ended early a little before, and until then a living server is at work on it.
const STATEMENT_MS_MAX: u64 = REQUEST_MS_MAX + 1_000;

/// Only the drop and those who consume a lease take the connection out.
const HELD: &str = "a lease that somebody holds has its connection";

/// A connection that somebody uses. However it is dropped, it goes back, or is closed when nothing answers on it.
#[derive(Debug)]
pub(crate) struct Lease {
    /// `None` once it was given back.
    connection: Option<PoolConnection<Postgres>>,
    began_at: Instant,
}

impl Lease {
    /// Waits for a connection as long as the pool does.
    pub(crate) async fn of(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let connection = pool.acquire().await?;
        Ok(Self { connection: Some(connection), began_at: Instant::now() })
    }

    /// Closes the connection at once and without a word: nothing answers on it.
    pub(crate) fn abandon(mut self) {
        drop(self.connection.take().map(PoolConnection::detach));
    }

    /// Gives the connection back behind the caller, after a last statement. What cannot be ended is closed.
    pub(crate) fn end_with(mut self, sql: &'static str) {
        self.give_back(Some(sql));
    }

    fn give_back(&mut self, last: Option<&'static str>) {
        if let Some(connection) = self.connection.take() {
            spawn_return(connection, self.answers_until(), last);
        }
    }

    /// When a connection that is still silent is lost.
    fn answers_until(&self) -> Instant {
        let of_statement = self.began_at + Duration::from_millis(STATEMENT_MS_MAX);
        of_statement.max(Instant::now() + Duration::from_millis(DATABASE_WAIT_MS_MAX))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(None);
    }
}

/// Without a runtime nobody can wait, and the connection is closed.
fn spawn_return(mut connection: PoolConnection<Postgres>, until: Instant, last: Option<&'static str>) {
    let Ok(runtime) = Handle::try_current() else {
        drop(connection.detach());
        return;
    };
    runtime.spawn(async move {
        if let Some(sql) = last {
            // An answer that nobody waited for is read first.
            let ended = in_time(until, connection.execute(sql)).await;
            if !matches!(ended, Some(Ok(_))) {
                drop(connection.detach());
                return;
            }
        }
        // Not awaited to its end, it drops the connection, which closes it and makes room in the pool.
        in_time(until, connection.return_to_pool()).await;
    });
}

/// A pool whose connections go back in bounded time whoever held them, at the price of a round trip more for each: for
/// pools that few requests use.
pub fn returned_in_time(options: PgPoolOptions) -> PgPoolOptions {
    options.after_release(|connection, _| {
        Box::pin(async move {
            // sqlx closes the connection without a last word when this fails.
            timeout(Duration::from_millis(DATABASE_WAIT_MS_MAX), connection.ping())
                .await
                .map_err(io::Error::from)??;
            Ok(true)
        })
    })
}

async fn in_time<T>(until: Instant, answering: impl Future<Output = T>) -> Option<T> {
    let answered = timeout_at(until, answering).await.ok();
    if answered.is_none() {
        tracing::warn!("a connection to postgresql does not answer and is closed");
    }
    answered
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(HELD)
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(HELD)
    }
}
