//! Up to when a customer's usage is complete: nothing more is expected before that instant.
//!
//! The aggregator keeps, for each declared source, the last hour through which everything that was expected is counted and
//! rolled up. An answer says the end of that hour; null where no source is proven or reconciled, or none is complete yet.

use aggregator::directory::CustomerId;
use chrono::{DateTime, Utc};
use ingest::{Meter, Timestamp};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::tenant::Statements;

/// The end of the last complete hour of the meter `$1` of a customer; by itself, or a part of a statement about its usage.
pub(crate) fn of_meter_sql(customer: &str) -> String {
    format!(
        "select c.complete_through + interval '1 hour' from completeness c \
         where c.customer_id = {customer} and c.meter = $1 and c.source_class <> 'best effort'"
    )
}

/// The end of the last hour that every declared source of the customer is complete through; null while one has none.
macro_rules! of_all_sql {
    ($customer:literal) => {
        concat!(
            "select case when bool_and(c.complete_through is not null) ",
            "then min(c.complete_through) + interval '1 hour' end from completeness c where c.customer_id = ",
            $customer
        )
    };
}
pub(crate) use of_all_sql;

/// As it is asked for by itself.
pub(crate) const OF_ALL: &str = of_all_sql!("$1");

/// As it is written in answers.
pub(crate) fn written(through: Option<DateTime<Utc>>) -> Option<String> {
    through.map(|through| Timestamp::from(through).to_string())
}

/// Of one meter of a customer.
pub(crate) async fn of_meter(
    connection: &mut PgConnection,
    customer: &CustomerId,
    meter: Meter,
    statements: Statements,
) -> Result<Option<String>, sqlx::Error> {
    let through: Option<Option<DateTime<Utc>>> = sqlx::query_scalar(AssertSqlSafe(of_meter_sql("$2")))
        .bind(meter.as_str())
        .bind(customer.as_str())
        .persistent(statements.are_kept())
        .fetch_optional(connection)
        .await?;
    Ok(written(through.flatten()))
}

/// Of all meters of the customer whose transaction it is.
pub(crate) async fn of_all(
    connection: &mut PgConnection,
    customer: &CustomerId,
    statements: Statements,
) -> Result<Option<String>, sqlx::Error> {
    let through: Option<DateTime<Utc>> = sqlx::query_scalar(OF_ALL)
        .bind(customer.as_str())
        .persistent(statements.are_kept())
        .fetch_one(connection)
        .await?;
    Ok(written(through))
}
