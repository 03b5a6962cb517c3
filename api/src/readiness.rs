//! Whether this process can answer for its customers now, and each store it counts on is there.

use std::time::Duration;

use aggregator::directory::CustomerId;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use ingest::aws::AwsError;
use sqlx::PgPool;
use thiserror::Error;
use tokio::time::timeout;

use crate::tenant::{TenantError, TenantMac, TenantTransaction};

/// A right customer id that owns nothing: the probe's tenant.
const PROBE: &str = "readiness-probe";

/// DynamoDB has so long to answer.
const TABLE_WAIT_MS_MAX: u64 = 1_000;

/// True when PostgreSQL accepts our MAC and holds this role to row-level security.
pub(crate) const CHECK: &str =
    "select current_tenant() is not null, r.rolsuper or r.rolbypassrls from pg_roles r where r.rolname = current_user";

/// What is not as it should be. Without PostgreSQL no customer can be served; without the table they are, each server by
/// itself and with a bcrypt where another server knew the secret.
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
    /// The table that servers share cannot be read. Retry, or stop where the table or the right to it is missing.
    #[error("the table that servers share cannot be read")]
    Table(#[source] AwsError),
    /// The table that servers share does not answer in time. Retry.
    #[error("the table that servers share does not answer in time")]
    TableSilent,
}

impl NotReady {
    /// The store that is away.
    pub(crate) fn store(&self) -> &'static str {
        match self {
            Self::Tenant(_) | Self::Unrestricted | Self::NoTenant => "PostgreSQL",
            Self::Table(_) | Self::TableSilent => "DynamoDB",
        }
    }
}

/// All that is not ready. Asks both stores at once.
pub(crate) async fn check(pool: &PgPool, key: &TenantMac, table: Option<&(Client, String)>) -> Vec<NotReady> {
    let (database, table) = tokio::join!(check_database(pool, key), check_table(table));
    database.err().into_iter().chain(table.err()).collect()
}

/// Reads an item that is not there.
async fn check_table(table: Option<&(Client, String)>) -> Result<(), NotReady> {
    let Some((client, table)) = table else { return Ok(()) };
    let probe = AttributeValue::B(PROBE.as_bytes().into());
    let asked = client.get_item().table_name(table).key("entry", probe).send();
    match timeout(Duration::from_millis(TABLE_WAIT_MS_MAX), asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(NotReady::Table(AwsError::new("GetItem", error))),
        Err(_) => Err(NotReady::TableSilent),
    }
}

/// Goes the way of a customer's query, as a tenant that owns nothing.
async fn check_database(pool: &PgPool, key: &TenantMac) -> Result<(), NotReady> {
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
