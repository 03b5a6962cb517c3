//! What is written about invoices: drafts, issues, credit notes, payments, grants, and the ledger under all of them.
//!
//! Every function here works in its caller's transaction, in which the customer is locked first ([`lock_customer`]), and
//! numbers are taken last.

pub(crate) mod credit_note;
pub(crate) mod draft;
pub(crate) mod issue;
pub(crate) mod ledger;

use sqlx::PgConnection;

use crate::statements::Statement;

/// Makes everything that moves a customer's money come one after the other, until the caller's transaction ends.
pub(crate) async fn lock_customer(connection: &mut PgConnection, customer_id: &str) -> Result<(), sqlx::Error> {
    sqlx::query(LOCK_CUSTOMER).bind(customer_id).execute(connection).await.map(drop)
}

/// The first number names this work and nothing else. Two customers with one hash wait for each other, and nothing more.
const LOCK_CUSTOMER: &str = "select pg_advisory_xact_lock(731152, hashtext($1::text))";

/// Every statement of the books.
pub(crate) const STATEMENTS: &[&[Statement]] = &[
    &[Statement { name: "lock customer", sql: LOCK_CUSTOMER, roles: &["securebase_billing", "securebase_operator"] }],
    credit_note::STATEMENTS,
    draft::STATEMENTS,
    issue::STATEMENTS,
    ledger::STATEMENTS,
];
