//! Customers: their ids and how one is added.

use std::fmt;

use chrono::{DateTime, Utc};
use ingest::{Hour, Timestamp};
use sqlx::PgPool;
use sqlx::types::Decimal;
use thiserror::Error;

use crate::audit::{self, Actor};
use crate::usage_rows::DatabaseError;

/// A customer's id: 2 to 63 of `a-z`, `0-9` and `-`, not beginning with `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CustomerId(String);

/// The text is no customer id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a customer id has 2 to 63 lower-case letters, digits and hyphens, and no hyphen first")]
pub struct NotACustomerId;

impl CustomerId {
    /// Reads a customer id; nothing is trimmed or folded.
    pub fn parse(text: &str) -> Result<Self, NotACustomerId> {
        let part = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let fits = (2..=63).contains(&text.len()) && text.as_bytes().iter().all(part) && !text.starts_with('-');
        if fits { Ok(Self(text.to_owned())) } else { Err(NotACustomerId) }
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CustomerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CustomerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for CustomerId {
    type Err = NotACustomerId;

    fn from_str(text: &str) -> Result<Self, NotACustomerId> {
        Self::parse(text)
    }
}

/// A customer to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCustomer {
    /// The id it keeps for ever.
    pub id: CustomerId,
    /// The name on its invoices.
    pub name: String,
    /// The name of its tier, such as `fintech`.
    pub tier: String,
    /// The ISO 4217 code of the currency it is billed in.
    pub currency: String,
    /// The fraction of the net amount that is tax: at least 0, below 1, at most six decimals.
    pub tax_rate: Decimal,
    /// The first hour of its contract; no account can be its own before.
    pub contract_start: Hour,
    /// The address on its invoices.
    pub billing_address: String,
    /// Its tax number, or nothing.
    pub tax_id: String,
}

/// What adding a customer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CustomerCreated {
    /// It was added.
    New,
    /// Exactly this customer existed.
    Unchanged,
}

/// Why a customer was not added. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateCustomerError {
    /// Stop: a value cannot be.
    #[error("customer {customer}: {field} {rule}")]
    Invalid {
        /// The customer.
        customer: CustomerId,
        /// The value's name.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// Stop: there is no such tier.
    #[error("customer {customer}: there is no tier {tier:?}")]
    UnknownTier {
        /// The customer.
        customer: CustomerId,
        /// The tier asked for.
        tier: String,
    },
    /// Stop: the id is taken by a customer with other values.
    #[error("customer {customer} exists already with another {fields}")]
    Differs {
        /// The customer.
        customer: CustomerId,
        /// The names of the values that differ.
        fields: String,
    },
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl NewCustomer {
    /// What the table would refuse, or round, with a better message.
    pub(super) fn check(&self) -> Result<(), CreateCustomerError> {
        let is_text = |text: &str| !text.contains('\0');
        let is_code = self.currency.len() == 3 && self.currency.bytes().all(|byte| byte.is_ascii_uppercase());
        let is_rate = Decimal::ZERO <= self.tax_rate && self.tax_rate < Decimal::ONE;
        let rules = [
            ("name", "must be given and be text", !self.name.is_empty() && is_text(&self.name)),
            ("tier", "must be text", is_text(&self.tier)),
            ("currency", "must be three capital letters", is_code),
            (
                "tax_rate",
                "must be at least 0, below 1, with at most six decimals",
                is_rate && self.tax_rate.normalize().scale() <= 6,
            ),
            ("billing_address", "must be text", is_text(&self.billing_address)),
            ("tax_id", "must be text", is_text(&self.tax_id)),
        ];
        match rules.into_iter().find(|(_, _, holds)| !holds) {
            None => Ok(()),
            Some((field, rule, _)) => Err(CreateCustomerError::Invalid { customer: self.id.clone(), field, rule }),
        }
    }
}

pub(super) enum Created {
    New,
    Existing { differs: Vec<String> },
}

pub(super) async fn create(
    pool: &PgPool,
    customer: &NewCustomer,
    now: Timestamp,
) -> Result<Created, CreateCustomerError> {
    let failed = |error: sqlx::Error| {
        let code = error.as_database_error().and_then(|error| error.code());
        // 22P02: the text is no value of the enum; the tier is the only enum in these statements.
        if code.is_some_and(|code| code == "22P02") {
            CreateCustomerError::UnknownTier { customer: customer.id.clone(), tier: customer.tier.clone() }
        } else {
            DatabaseError::from(error).into()
        }
    };
    let contract_start = DateTime::<Utc>::from(customer.contract_start.start());
    let mut transaction = pool.begin().await.map_err(failed)?;
    let added = sqlx::query(ADD_CUSTOMER)
        .bind(customer.id.as_str())
        .bind(&customer.name)
        .bind(&customer.tier)
        .bind(&customer.currency)
        .bind(customer.tax_rate)
        .bind(contract_start)
        .bind(&customer.billing_address)
        .bind(&customer.tax_id)
        .bind(DateTime::<Utc>::from(now))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    if added.rows_affected() == 1 {
        let (id, start) = (customer.id.as_str(), customer.contract_start.start().to_string());
        let details = [("tier", customer.tier.as_str()), ("currency", &customer.currency), ("contract_start", &start)];
        audit::record(&[Some(id)], Actor::Operator, "customer.added", id, &details, &mut transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        return Ok(Created::New);
    }
    let differs = sqlx::query_scalar(COMPARE_CUSTOMER)
        .bind(customer.id.as_str())
        .bind(&customer.name)
        .bind(&customer.tier)
        .bind(&customer.currency)
        .bind(customer.tax_rate)
        .bind(contract_start)
        .bind(&customer.billing_address)
        .bind(&customer.tax_id)
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed)?;
    Ok(Created::Existing { differs })
}

pub(super) const ADD_CUSTOMER: &str = "
    insert into customers
        (customer_id, name, tier, currency, tax_rate, contract_start, billing_address, tax_id, created_at)
    values ($1, $2, $3::text::customer_tier, $4, $5, $6, $7, $8, $9)
    on conflict (customer_id) do nothing";

pub(super) const COMPARE_CUSTOMER: &str = "
    select array_remove(array[
        case when name <> $2 then 'name' end,
        case when tier <> $3::text::customer_tier then 'tier' end,
        case when currency <> $4 then 'currency' end,
        case when tax_rate <> $5 then 'tax rate' end,
        case when contract_start <> $6 then 'contract start' end,
        case when billing_address <> $7 then 'billing address' end,
        case when tax_id <> $8 then 'tax id' end
    ], null)
    from customers where customer_id = $1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_id_is_a_short_lower_case_slug() {
        for good in ["anna", "a1", "0-9", "a".repeat(63).as_str()] {
            assert_eq!(CustomerId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a", "-anna", "Anna", "anna_b", "änna", " anna", "anna\n", "a".repeat(64).as_str()] {
            assert_eq!(CustomerId::parse(bad), Err(NotACustomerId), "{bad:?}");
        }
    }

    #[test]
    fn values_the_table_would_refuse_or_round_are_named() {
        let good = NewCustomer {
            id: CustomerId::parse("anna").unwrap(),
            name: "Anna".into(),
            tier: "standard".into(),
            currency: "USD".into(),
            tax_rate: Decimal::new(800, 4),
            contract_start: Hour::from_number(0).unwrap(),
            billing_address: String::new(),
            tax_id: String::new(),
        };
        assert!(good.check().is_ok());
        assert!(NewCustomer { tax_rate: Decimal::new(80_000_000, 9), ..good.clone() }.check().is_ok());
        for (bad, named) in [
            (NewCustomer { name: String::new(), ..good.clone() }, "name"),
            (NewCustomer { currency: "usd".into(), ..good.clone() }, "currency"),
            (NewCustomer { tax_rate: Decimal::ONE, ..good.clone() }, "tax_rate"),
            (NewCustomer { tax_rate: Decimal::new(-1, 2), ..good.clone() }, "tax_rate"),
            (NewCustomer { tax_rate: Decimal::new(1, 7), ..good.clone() }, "tax_rate"),
            (NewCustomer { tax_id: "\0".into(), ..good.clone() }, "tax_id"),
        ] {
            assert!(
                matches!(bad.check(), Err(CreateCustomerError::Invalid { field, .. }) if field == named),
                "{named}"
            );
        }
    }
}
