//! Alarms when a customer names what is another's. The answer is the same as for what never was.

use aggregator::directory::CustomerId;

use crate::auth::KeyId;
use crate::auth::stored_key::StoredKey;
use crate::state::ApiState;
use crate::tenant::{TenantError, TenantTransaction};

/// Whether an invoice of this number or id is of another customer than the tenant. PostgreSQL says no more about it.
pub(crate) const FOREIGN_INVOICE: &str = "select names_invoice_of_another($1)";

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
pub(crate) async fn report_foreign(state: &ApiState, customer: &CustomerId, asked: Foreign<'_>) {
    let is_foreign = match asked {
        Foreign::Customer(other) => Ok(other != customer),
        Foreign::Key(key_id) => {
            let stored = StoredKey::look_up(&state.pool, key_id).await;
            stored
                .map(|stored| stored.is_some_and(|key| key.customer.as_ref() != Some(customer)))
                .map_err(|error| error.to_string())
        }
        Foreign::Invoice(number_or_id) => {
            is_foreign_invoice(state, customer, number_or_id).await.map_err(|error| error.to_string())
        }
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

async fn is_foreign_invoice(state: &ApiState, customer: &CustomerId, number_or_id: &str) -> Result<bool, TenantError> {
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, customer).await?;
    let asking = sqlx::query_scalar(FOREIGN_INVOICE).bind(number_or_id).persistent(false);
    let is_foreign = asking.fetch_one(&mut *transaction).await?;
    transaction.let_go();
    Ok(is_foreign)
}
