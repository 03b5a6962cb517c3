//! What PostgreSQL says of a period at one instant: who owned what, how far logs are rolled up, what rows hold.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ingest::{AccountId, Hour, Meter, Quantity, Timestamp};
use sqlx::{PgPool, Postgres, Transaction};

use super::period::Period;
use crate::directory::{CustomerId, Ownership};
use crate::partition::Partition;
use crate::usage_rows::DatabaseError;

/// Names a total within a customer's period: what a row of closed totals stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TotalKey {
    /// Whose usage.
    pub account: AccountId,
    /// Of what.
    pub meter: Meter,
    /// The hour it happened in.
    pub window: Hour,
    /// The AWS Region.
    pub region: String,
    /// The event category.
    pub category: String,
}

/// Who owned an account when, as far as it bears on a period.
pub type Owners = BTreeMap<AccountId, Vec<Ownership>>;

/// Everything of one period, at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Changes of the directory so far.
    pub directory_version: i64,
    /// Every account that had an owner in the period.
    pub owners: Owners,
    /// How far the logs of the period's counts, and of all facts, are rolled up.
    pub cursors: BTreeMap<Partition, u64>,
}

impl Snapshot {
    /// The customer that owns an account in an hour.
    pub(super) fn owner(&self, account: &AccountId, hour: Hour) -> Option<&CustomerId> {
        let owned = |ownership: &&Ownership| ownership.from <= hour && ownership.until.is_none_or(|until| hour < until);
        self.owners.get(account)?.iter().find(owned).map(|ownership| &ownership.customer)
    }

    /// When accounts were a customer's, cut to the period, by account and start.
    pub(super) fn owned_by(&self, customer: &CustomerId) -> Vec<(AccountId, &Ownership)> {
        let all = self.owners.iter().flat_map(|(account, owners)| owners.iter().map(|one| (*account, one)));
        all.filter(|(_, ownership)| ownership.customer == *customer).collect()
    }
}

/// The rows of a customer's period, by what they are totals of; `None` for a total of more digits than any log comes to.
pub(super) type Rows = BTreeMap<TotalKey, Option<Quantity>>;

/// Reads a number as PostgreSQL writes it: totals have more digits than a source may say.
fn stored_total(text: &str) -> Option<Quantity> {
    let (integer, fraction) = text.split_once('.').unwrap_or((text, ""));
    Quantity::new(format!("{integer}{fraction}").parse().ok()?, u8::try_from(fraction.len()).ok()?)
}

/// A transaction that goes on seeing the instant it began at.
pub(super) struct OneInstant {
    transaction: Transaction<'static, Postgres>,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    /// What it saw of the period.
    pub(super) snapshot: Snapshot,
}

impl OneInstant {
    /// Begins, and reads who owned what and how far logs are rolled up.
    pub(super) async fn begin(pool: &PgPool, period: Period) -> Result<Self, DatabaseError> {
        let mut transaction = pool.begin().await?;
        sqlx::query(ONE_INSTANT).execute(&mut *transaction).await?;
        let (from, until) = (DateTime::<Utc>::from(period.start()), DateTime::<Utc>::from(period.end()));
        let mut snapshot = Snapshot {
            directory_version: sqlx::query_scalar(DIRECTORY_VERSION).fetch_one(&mut *transaction).await?,
            ..Snapshot::default()
        };
        let owned: Vec<OwnerRow> = sqlx::query_as(OWNERS).bind(from).bind(until).fetch_all(&mut *transaction).await?;
        for row in owned {
            let account = AccountId::parse(&row.account_id).expect("a constraint: an account id has 12 digits");
            snapshot.owners.entry(account).or_default().push(row.ownership());
        }
        let (first, last) = (period.first_day().to_string(), period.end_day().to_string());
        let cursors: Vec<(String, i64)> =
            sqlx::query_as(CURSORS).bind(first).bind(last).fetch_all(&mut *transaction).await?;
        for (name, version) in cursors {
            // Cursors are written by this program from partitions' names. One at 0 stands for a log without entries.
            if let (Ok(partition), 1..) = (Partition::parse(&name), version) {
                snapshot.cursors.insert(partition, version.unsigned_abs());
            }
        }
        Ok(Self { transaction, from, until, snapshot })
    }

    /// The usage rows of customers, by customer.
    pub(super) async fn rows(&mut self, customers: &[CustomerId]) -> Result<BTreeMap<CustomerId, Rows>, DatabaseError> {
        let names: Vec<&str> = customers.iter().map(CustomerId::as_str).collect();
        let query = sqlx::query_as(ROWS).bind(self.from).bind(self.until).bind(names);
        let stored: Vec<TotalRow> = query.fetch_all(&mut *self.transaction).await?;
        let mut rows = BTreeMap::<CustomerId, Rows>::new();
        for row in stored {
            let customer = CustomerId::parse(&row.customer_id).expect("a constraint: a customer id has this form");
            let total = stored_total(&row.total);
            // A meter that this program does not know is another version's.
            if let Some(key) = row.key() {
                rows.entry(customer).or_default().insert(key, total);
            }
        }
        Ok(rows)
    }
}

#[derive(sqlx::FromRow)]
struct OwnerRow {
    account_id: String,
    customer_id: String,
    valid_from: DateTime<Utc>,
    valid_until: Option<DateTime<Utc>>,
}

impl OwnerRow {
    fn ownership(self) -> Ownership {
        Ownership {
            customer: CustomerId::parse(&self.customer_id).expect("a constraint: a customer id has this form"),
            from: Timestamp::from(self.valid_from).hour(),
            until: self.valid_until.map(|until| Timestamp::from(until).hour()),
        }
    }
}

#[derive(sqlx::FromRow)]
struct TotalRow {
    customer_id: String,
    account_id: String,
    meter: String,
    region: String,
    category: String,
    window_start: DateTime<Utc>,
    total: String,
}

impl TotalRow {
    fn key(self) -> Option<TotalKey> {
        Some(TotalKey {
            account: AccountId::parse(&self.account_id).expect("an account with rows is in the directory"),
            meter: Meter::parse_stored(&self.meter).ok()?,
            window: Timestamp::from(self.window_start).hour(),
            region: self.region,
            category: self.category,
        })
    }
}

const ONE_INSTANT: &str = "set transaction isolation level repeatable read, read only";

const DIRECTORY_VERSION: &str = "select version from directory_version";

const OWNERS: &str = "
    select account_id, customer_id, lower(valid) as valid_from, upper(valid) as valid_until
    from account_ownership where valid && tstzrange($1, $2)
    order by account_id, lower(valid)";

// A partition's name has its window behind its first slash: an hour for counts, a day (of ten characters) for facts.
// Compared byte by byte, whatever the database's collation.
const CURSORS: &str = "
    select partition, version from rollup_cursors
    where length(split_part(partition, '/', 2)) = 10
        or split_part(partition, '/', 2) collate \"C\" >= $1 and split_part(partition, '/', 2) collate \"C\" < $2";

const ROWS: &str = "
    select customer_id, account_id, meter, region, category, window_start, sum(total)::text as total
    from usage_rows
    where $1 <= window_start and window_start < $2 and customer_id = any($3)
    group by customer_id, account_id, meter, region, category, window_start";

/// Without the one that no `prepare` takes.
pub(super) const STATEMENTS: &[&str] = &[DIRECTORY_VERSION, OWNERS, CURSORS, ROWS];
