//! Whether this process can answer for its customers now.

use aggregator::directory::CustomerId;
use sqlx::PgPool;
use thiserror::Error;

use crate::tenant::{TenantError, TenantMac, TenantTransaction};

/// A right customer id that owns nothing: the probe's tenant.
const PROBE: &str = "readiness-probe";

/// True when PostgreSQL accepts our MAC and holds this role to row-level security.
pub(crate) const CHECK: &str =
    "select current_tenant() is not null, r.rolsuper or r.rolbypassrls from pg_roles r where r.rolname = current_user";

/// Why no customer may be served.
#[derive(Debug, Error)]
pub enum NotReady {
    /// PostgreSQL is away, refuses our MAC, or lacks the schema. Retry.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The connections' role is above row-level security. Stop: connect as `securebase_app`.
    #[error("the role of the connections bypasses row-level security")]
    Unrestricted,
    /// The tenant that was set is not seen. Stop: the schema is not the API's.
    #[error("the tenant does not hold within a transaction")]
    NoTenant,
}

/// Goes the way of a customer's query, as a tenant that owns nothing.
pub(crate) async fn check(pool: &PgPool, key: &TenantMac) -> Result<(), NotReady> {
    let probe = CustomerId::parse(PROBE).expect("the probe's id has the form of a customer id");
    let mut transaction = TenantTransaction::begin(pool, key, &probe).await?;
    let (has_tenant, is_unrestricted): (bool, bool) =
        sqlx::query_as(CHECK).persistent(false).fetch_one(&mut *transaction).await.map_err(TenantError::from)?;
    transaction.end().await?;
    match (has_tenant, is_unrestricted) {
        (_, true) => Err(NotReady::Unrestricted),
        (false, _) => Err(NotReady::NoTenant),
        (true, false) => Ok(()),
    }
}
