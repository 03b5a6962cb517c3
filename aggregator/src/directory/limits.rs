//! What a customer's tier allows and what it uses of that: shown and alerted, never priced.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sqlx::PgConnection;

use super::CustomerId;
use crate::usage_rows::DatabaseError;

/// Accounts used of those allowed, such as 15 of 20.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountLimit {
    /// The customer.
    pub customer: CustomerId,
    /// How many its tier allows.
    pub allowed: u32,
    /// How many were live in the last hour that is counted; `None` where no source of accounts has reported.
    pub live: Option<u32>,
    /// How many the directory says are its own now.
    pub registered: u32,
}

impl AccountLimit {
    /// How many it uses: the live ones, or those registered where nobody says which are live.
    pub fn used(&self) -> u32 {
        self.live.unwrap_or(self.registered)
    }

    /// Whether it uses more than its tier allows.
    pub fn is_exceeded(&self) -> bool {
        self.allowed < self.used()
    }
}

/// The limit of every customer the connection's role and tenant may see, in order of its id: for the application one, for
/// the rooms all.
pub async fn account_limits(connection: &mut PgConnection, now: Timestamp) -> Result<Vec<AccountLimit>, DatabaseError> {
    type Row = (String, i32, Option<i64>, i64);
    let rows: Vec<Row> = sqlx::query_as(READ_LIMITS).bind(DateTime::<Utc>::from(now)).fetch_all(connection).await?;
    let number = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    let limits = rows.into_iter().map(|(customer, allowed, live, registered)| AccountLimit {
        customer: CustomerId::parse(&customer).expect("a constraint: a customer id has this form"),
        allowed: allowed.unsigned_abs(),
        live: live.map(number),
        registered: number(registered),
    });
    Ok(limits.collect())
}

// Live accounts have a row an hour. The last hour anybody has is the last that is counted; of a customer whose accounts are
// all gone it has none, which is 0 and not unknown.
const READ_LIMITS: &str = "
    with last_hour as (
        select max(window_start) as at from usage_rows where meter = 'accounts' and window_start <= $1
    )
    select c.customer_id, f.accounts_allowed,
        case when exists (select from usage_rows u where u.customer_id = c.customer_id and u.meter = 'accounts') then (
            select count(*) from usage_rows u, last_hour h
            where u.customer_id = c.customer_id and u.meter = 'accounts' and u.window_start = h.at)
        end as live,
        (select count(*) from account_ownership o where o.customer_id = c.customer_id and o.valid @> $1) as registered
    from customers c
    join tier_features f on f.tier = tier_of(c.customer_id, ($1::timestamptz at time zone 'utc')::date)
    order by c.customer_id";

pub(super) const STATEMENTS: &[&str] = &[READ_LIMITS];
