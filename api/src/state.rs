//! What every request needs.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::bootstrap::BootstrapSecret;
use crate::edge::REQUEST_MS_MAX;
use crate::tenant::{DATABASE_WAIT_MS_MAX, TenantMac};

/// Connections to PostgreSQL that one API process holds at most.
const CONNECTIONS_MAX: u32 = 16;

/// The shared state of the router. Cheap to clone; prints no secret.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Connections as the role `securebase_app`.
    pub pool: PgPool,
    /// Vouches for the tenant of each transaction.
    pub mac_key: TenantMac,
    /// Checks bootstrap keys.
    pub bootstrap_secret: BootstrapSecret,
}

/// A pool with the limits the API counts on; it connects when first used, so the API starts while PostgreSQL is away.
///
/// The caller's options name the server, database and role `securebase_app`.
pub fn pool(options: PgConnectOptions) -> PgPool {
    // PostgreSQL gives up on a statement when the request that asked for it is over.
    let options =
        options.application_name("securebase-api").options([("statement_timeout", REQUEST_MS_MAX.to_string())]);
    PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(Duration::from_millis(DATABASE_WAIT_MS_MAX))
        .idle_timeout(Duration::from_secs(300))
        .connect_lazy_with(options)
}
