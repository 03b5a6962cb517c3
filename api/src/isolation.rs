//! Alarms when a customer names what is another's. The answer is the same as for what never was.

use aggregator::directory::CustomerId;

use crate::auth::KeyId;
use crate::auth::stored_key::StoredKey;
use crate::state::ApiState;

/// Whether an invoice of this number or id is another customer's.
pub(crate) const FOREIGN_INVOICE: &str = "select exists (select from invoices i \
     where (i.invoice_number = $1 or i.invoice_id::text = lower($1)) and i.customer_id <> $2)";

/// What a customer asked for and did not find.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Foreign<'a> {
    /// An API key.
    Key(&'a KeyId),
    /// An invoice, by number or id.
    Invoice(&'a str),
    /// A customer.
    Customer(&'a CustomerId),
}

/// Raises the isolation alarm when what was not found is another customer's.
///
/// Invoices are looked for with the operator's connections; without those only keys and customers are noticed.
pub(crate) async fn report_foreign(state: &ApiState, customer: &CustomerId, asked: Foreign<'_>) {
    let is_foreign = match asked {
        Foreign::Customer(other) => Ok(other != customer),
        Foreign::Key(key_id) => {
            let stored = StoredKey::look_up(&state.pool, key_id).await;
            stored
                .map(|stored| stored.is_some_and(|key| key.customer.as_ref() != Some(customer)))
                .map_err(|error| error.to_string())
        }
        Foreign::Invoice(number_or_id) => match &state.operator_pool {
            None => Ok(false),
            Some(pool) => sqlx::query_scalar(FOREIGN_INVOICE)
                .bind(number_or_id)
                .bind(customer.as_str())
                .persistent(false)
                .fetch_one(pool)
                .await
                .map_err(|error| error.to_string()),
        },
    };
    // Ids that exist. What else a caller wrote is in the audit trail, under the request's id, and not in the log.
    let asked = match asked {
        Foreign::Key(key_id) => format!("key {key_id}"),
        Foreign::Invoice(number_or_id) => format!("invoice {number_or_id}"),
        Foreign::Customer(_) => "customer".to_owned(),
    };
    match is_foreign {
        Ok(false) => {}
        Ok(true) => tracing::error!(alarm = "isolation", %customer, asked, "a customer named what is another's"),
        // The alarm is an extra; the answer does not wait for it.
        Err(error) => tracing::warn!(error, "cannot tell whether what was asked for is another customer's"),
    }
}
