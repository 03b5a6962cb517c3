//! What a run issued is not let out before the disk has it.
//!
//! The commits of a run return before they are on the disk ([`crate::issue`]), and everybody sees them at once. So whoever shows
//! an invoice to anyone, or writes down outside the database what one did to it, first commits something that waits for the
//! disk: PostgreSQL writes its log in order, and everything that was seen is before it.

use sqlx::PgConnection;

use crate::statements::{READERS, Statement};

/// Waits until everything that this connection has seen is on the disk. Within a transaction its commit waits, and a
/// transaction that is rolled back has waited for nothing.
pub async fn wait_for_disk(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(WAIT).persistent(false).execute(connection).await.map(drop)
}

/// The same if one of these invoices may not be there yet: one whose document is stored is, because that commit waited.
pub async fn wait_for_invoices(connection: &mut PgConnection, invoice_ids: &[&str]) -> Result<(), sqlx::Error> {
    if invoice_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(WAIT_FOR_INVOICES).bind(invoice_ids).persistent(false).execute(connection).await.map(drop)
}

// A message that nobody reads is the smallest record that a commit waits for; it may be written by read-only transactions, and a
// replica, which cannot, has only what is on the disk. Sources: PostgreSQL documentation, "Replication Management Functions" and
// "Asynchronous Commit"; a commit that wrote nothing waits for nothing (RecordTransactionCommit in xact.c).
const WAIT: &str = "
    select case when not pg_is_in_recovery()
        then pg_logical_emit_message(true, 'securebase.shown', ''::text) is not null end";

const WAIT_FOR_INVOICES: &str = "
    select case when not pg_is_in_recovery() and exists (
            select from unnest($1::text[]) as shown (id)
            where not exists (select from invoice_documents d where d.invoice_id = shown.id::uuid))
        then pg_logical_emit_message(true, 'securebase.shown', ''::text) is not null end";

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement { name: "wait for the disk", sql: WAIT, roles: READERS },
    Statement { name: "wait for invoices", sql: WAIT_FOR_INVOICES, roles: READERS },
];
