//! What a customer and its operator have agreed on for a month, at the prices of the run.

use aggregator::directory::CustomerId;
use sqlx::PgConnection;

use super::BillingError;
use crate::agreement::load_agreements;
use crate::catalogue::Catalogue;
use crate::document::Party;
use crate::period::Month;
use crate::terms::Terms;

/// The prices of a month: read once a run, so that one run has one set of prices.
#[derive(Clone, Debug)]
pub(super) struct Catalog {
    month: Month,
    catalogue: Catalogue,
}

/// A customer as the directory has it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct CustomerRow {
    pub(super) customer_id: String,
    name: String,
    billing_address: String,
    tax_id: String,
}

impl CustomerRow {
    /// The buyer as invoices name it.
    pub(super) fn buyer(&self) -> Party {
        Party { name: self.name.clone(), address: self.billing_address.clone(), tax_id: self.tax_id.clone() }
    }
}

impl Catalog {
    /// No prices: for what rates nothing.
    pub(super) fn none(month: Month) -> Self {
        Self { month, catalogue: Catalogue::default() }
    }

    /// The prices there are.
    pub(super) async fn load(connection: &mut PgConnection, month: Month) -> Result<Self, BillingError> {
        Ok(Self { month, catalogue: Catalogue::load(connection).await? })
    }

    /// The customer's terms of the month.
    pub(super) async fn terms(
        &self,
        connection: &mut PgConnection,
        customer: &CustomerRow,
    ) -> Result<Terms, BillingError> {
        let id = CustomerId::parse(&customer.customer_id).map_err(|_| BillingError::UnknownCustomer)?;
        let agreements = load_agreements(connection, Some(&[id]), self.month).await?;
        let (_, agreement) = agreements.into_iter().next().ok_or(BillingError::UnknownCustomer)?;
        Ok(agreement?.terms(&self.catalogue, self.month)?)
    }
}
