//! The audit trail: what was done is recorded in the transaction that does it.

use serde_json::Value;
use sqlx::PgConnection;

use crate::statements::{BILLING, Statement};

/// One event of a chain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recorded<'a> {
    /// Whose chain; the platform's without.
    pub(crate) customer: Option<&'a str>,
    /// Who did it: `operator:NAME`, `billing`.
    pub(crate) actor: &'a str,
    /// What: `invoice.issued`.
    pub(crate) action: &'a str,
    /// To what: an invoice's number or id.
    pub(crate) subject: &'a str,
    /// An object: amounts, numbers, reasons; never payloads.
    pub(crate) details: Value,
}

/// Records an event in the caller's transaction. The customer's chain stays locked until it ends, so this comes late.
pub(crate) async fn record(connection: &mut PgConnection, event: Recorded<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(RECORD)
        .bind(event.customer)
        .bind(event.actor)
        .bind(event.action)
        .bind(event.subject)
        .bind(event.details.to_string())
        .execute(connection)
        .await
        .map(drop)
}

const RECORD: &str = "select record_audit_event($1::text, $2::text, $3::text, $4::text, $5::text::jsonb)";

pub(crate) const STATEMENTS: &[Statement] = &[Statement { name: "record audit event", sql: RECORD, roles: BILLING }];
