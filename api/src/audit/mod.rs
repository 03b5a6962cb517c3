//! The audit trail as the API sees it: every authenticated call is in it, and every write with its change.

pub mod archive;
mod archive_folder;
mod archive_s3;
pub mod chain;
mod months;
mod recorder;
pub(crate) mod verify;
pub(crate) mod wire;

pub use archive_folder::FolderArchive;
pub use archive_s3::{LOCKED_YEARS, S3Archive};
pub use months::{ArchivedMonths, archived_months};
pub(crate) use recorder::CALLER_GONE;
pub use recorder::{AuditRecorder, Call, RecordError};
#[cfg(test)]
pub(crate) use recorder::{ENDED, RECORD_CALLS, RECORD_OPERATOR_CALL, TRANSACTION};
pub use verify::{Head, Verification, VerifyError, Witness, heads, verify, verify_after};

use aggregator::directory::CustomerId;
use serde_json::Value;
use sqlx::PgConnection;

/// Appends to the chain of a customer, or of the platform, in the transaction of the change.
pub(crate) const RECORD: &str = "select record_audit_event($1, $2, $3, $4, $5::jsonb)";

/// Records a change in its own transaction, as its last statement: the chain is locked until the transaction ends.
pub(crate) async fn record(
    connection: &mut PgConnection,
    customer: Option<&CustomerId>,
    actor: &str,
    action: &str,
    subject: &str,
    details: Value,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(RECORD)
        .bind(customer.map(CustomerId::as_str))
        .bind(actor)
        .bind(action)
        .bind(subject)
        .bind(details.to_string())
        .persistent(false)
        .fetch_one(connection)
        .await
}
