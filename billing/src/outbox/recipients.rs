//! Where a customer's mail goes.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sqlx::{Connection as _, PgConnection};
use thiserror::Error;

use super::compose::RECIPIENTS_MAX;
use crate::audit::{Recorded, record};
use crate::books::lock_customer;
use crate::statements::{BILLING, Statement};

/// An address of a customer.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Recipient {
    /// Whose.
    #[sqlx(rename = "customer_id")]
    pub customer: String,
    /// The address.
    pub address: String,
    /// Why nothing is sent there: `bounce`, `complaint` or `operator`.
    pub suppressed_because: Option<String>,
}

/// An address was not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecipientError {
    /// Stop: it is no address.
    #[error("{0:?} is no mail address: expected a form such as billing@example.com")]
    NotAnAddress(String),
    /// Stop: add the customer first.
    #[error("customer {0} does not exist")]
    UnknownCustomer(String),
    /// Stop: whoever is beyond that would be told nothing.
    #[error("customer {0} has {max} addresses, as many as one message goes to: suppress one first", max = RECIPIENTS_MAX)]
    TooMany(String),
    /// Stop: the customer has no such address.
    #[error("customer {customer} has no address {address}")]
    UnknownAddress {
        /// The customer.
        customer: String,
        /// The address.
        address: String,
    },
    /// Retry: the database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// Adds an address, or takes it up again after it was suppressed. Recorded in the audit trail.
pub async fn add_recipient(
    connection: &mut PgConnection,
    customer: &str,
    address: &str,
    actor: &str,
    now: Timestamp,
) -> Result<(), RecipientError> {
    if !is_address(address) {
        return Err(RecipientError::NotAnAddress(address.to_owned()));
    }
    let mut transaction = connection.begin().await?;
    // One at a time, so that together they are not too many.
    lock_customer(&mut transaction, customer).await?;
    let added = sqlx::query(ADD)
        .bind(customer)
        .bind(address)
        .bind(DateTime::<Utc>::from(now))
        .bind(actor)
        .execute(&mut *transaction)
        .await;
    match added {
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
            return Err(RecipientError::UnknownCustomer(customer.to_owned()));
        }
        added => added?,
    };
    let others: i64 = sqlx::query_scalar(OTHERS).bind(customer).bind(address).fetch_one(&mut *transaction).await?;
    if usize::try_from(others).unwrap_or(usize::MAX) >= RECIPIENTS_MAX {
        return Err(RecipientError::TooMany(customer.to_owned()));
    }
    let details = serde_json::json!({ "address": address });
    let event = Recorded { customer: Some(customer), actor, action: "mail_recipient.added", subject: address, details };
    record(&mut transaction, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Sends nothing to an address any more. Recorded in the audit trail.
pub async fn suppress_recipient(
    connection: &mut PgConnection,
    customer: &str,
    address: &str,
    actor: &str,
    now: Timestamp,
) -> Result<(), RecipientError> {
    let mut transaction = connection.begin().await?;
    let done = sqlx::query(SUPPRESS)
        .bind(customer)
        .bind(address)
        .bind(DateTime::<Utc>::from(now))
        .bind("operator")
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 0 {
        return Err(RecipientError::UnknownAddress { customer: customer.to_owned(), address: address.to_owned() });
    }
    let details = serde_json::json!({ "address": address });
    let event =
        Recorded { customer: Some(customer), actor, action: "mail_recipient.suppressed", subject: address, details };
    record(&mut transaction, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Every address of a customer, or of everyone, in order.
pub async fn list_recipients(
    connection: &mut PgConnection,
    customer: Option<&str>,
) -> Result<Vec<Recipient>, sqlx::Error> {
    sqlx::query_as(LIST).bind(customer).fetch_all(connection).await
}

/// The addresses that a customer's mail goes to.
pub(super) async fn reachable(connection: &mut PgConnection, customer: &str) -> Result<Vec<String>, sqlx::Error> {
    let limit = i64::try_from(RECIPIENTS_MAX).expect("fifty");
    sqlx::query_scalar(REACHABLE).bind(customer).bind(limit).fetch_all(connection).await
}

/// What the table's own constraint takes, and what a message can be addressed to.
fn is_address(text: &str) -> bool {
    text.len() <= 254 && text.parse::<lettre::Address>().is_ok() && !text.contains([' ', '<', '>', ',', ';'])
}

const ADD: &str = "
    insert into mail_recipients as r (customer_id, address, added_at, added_by)
    values ($1::text, $2::text, $3::timestamptz, $4::text)
    on conflict (customer_id, address) do update set suppressed_at = null, suppressed_because = null";

const OTHERS: &str = "
    select count(*) from mail_recipients
    where customer_id = $1::text and address <> $2::text and suppressed_at is null";

const SUPPRESS: &str = "
    update mail_recipients set suppressed_at = $3::timestamptz, suppressed_because = $4::text
    where customer_id = $1::text and address = $2::text";

const LIST: &str = "
    select customer_id, address, suppressed_because
    from mail_recipients
    where $1::text is null or customer_id = $1::text
    order by customer_id, address";

const REACHABLE: &str = "
    select address from mail_recipients
    where customer_id = $1::text and suppressed_at is null
    order by address
    limit $2::bigint";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "add recipient", sql: ADD, roles: BILLING },
    Statement { name: "other recipients", sql: OTHERS, roles: BILLING },
    Statement { name: "suppress recipient", sql: SUPPRESS, roles: BILLING },
    Statement { name: "list recipients", sql: LIST, roles: &["securebase_billing", "securebase_operator"] },
    Statement { name: "reachable recipients", sql: REACHABLE, roles: BILLING },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_plain_address_is_an_address() {
        for good in ["billing@example.com", "a.b+c@sub.example.org", "zoë@example.com"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "billing", "@example.com", "a@", "a b@example.com", "A <a@example.com>", "a@b.c,d@e.f", "a@b\n.c"]
        {
            assert!(!is_address(bad), "{bad:?}");
        }
    }
}
