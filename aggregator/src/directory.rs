//! The account directory: who the customers are and which account was whose, hour by hour.
//!
//! Counting never asks who owns an account; this does, afterwards. Ownership is effective-dated on whole hours, so an account
//! can be registered after its usage arrived, and moved: its usage rows and the monthly totals of both customers change in
//! the transaction that changes the directory.
//!
//! Invariant: an account has at most one owner at any instant, and none before its owner's contract started.

mod customer;
mod limits;
mod organization;
mod organizations;
mod placement;

use chrono::{DateTime, Utc};
use ingest::{AccountId, Hour, Timestamp};
use sqlx::PgPool;
use thiserror::Error;

use crate::audit::{self, Actor};
use crate::usage_rows::{DatabaseError, recomputed_meters, with_totals};

use customer::Created;
pub use customer::{CreateCustomerError, CustomerCreated, CustomerId, NewCustomer, NotACustomerId};
pub use limits::{AccountLimit, account_limits};
pub use organization::{NotAnOrganizationId, OrganizationId};
use organizations::give_rows;
pub use organizations::{Followed, Organization, OrganizationRegistration, RegisterOrganizationError};
pub use placement::{Change, Conflict, place};

/// One stretch of time in which an account was one customer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The owner.
    pub customer: CustomerId,
    /// The first hour.
    pub from: Hour,
    /// The first hour no longer owned; `None` while it goes on.
    pub until: Option<Hour>,
}

/// An account with usage that is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownAccount {
    /// Its id.
    pub account: AccountId,
    /// When it was first seen.
    pub first_seen_at: Timestamp,
    /// The first and the last hour of usage that is nobody's; `None` where it has none and was only seen.
    pub hours: Option<(Hour, Hour)>,
    /// How many usage rows are nobody's.
    pub usage_rows: u64,
    /// The organization it was last seen live in.
    pub organization: Option<OrganizationId>,
}

/// An account that was seen in usage or registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub account: AccountId,
    /// When it was first seen or registered.
    pub first_seen_at: Timestamp,
    /// Its owners in order of time; empty when it never had one.
    pub ownership: Vec<Ownership>,
}

/// What a registration changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Nothing: the customer owns the account from that hour or an earlier one already.
    Unchanged {
        /// The first hour of that ownership.
        since: Hour,
    },
    /// The account had no owner from that hour on and now has one.
    Opened {
        /// How many usage rows got another owner.
        rows_changed: u64,
    },
    /// The customer's ownership begins earlier than before.
    Extended {
        /// How many usage rows got another owner.
        rows_changed: u64,
    },
    /// The account went from one customer to another.
    Moved {
        /// Who owned it until that hour.
        former: CustomerId,
        /// How many usage rows got another owner.
        rows_changed: u64,
    },
}

/// Why an account was not registered. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Stop: create the customer first.
    #[error("customer {customer} does not exist")]
    UnknownCustomer {
        /// The id asked for.
        customer: CustomerId,
    },
    /// Stop: nothing before the contract is the customer's.
    #[error("account {account} cannot be {customer}'s from {from}: the contract starts at {contract_start}")]
    BeforeContract {
        /// The account.
        account: AccountId,
        /// The customer.
        customer: CustomerId,
        /// The hour asked for.
        from: Hour,
        /// The first hour that is possible.
        contract_start: Hour,
    },
    /// Stop: the directory already says who owned the account later.
    #[error(
        "account {account} cannot be {customer}'s from {from}: it is {owner}'s from {since}{}, and only an hour after the \
         start of the last ownership can begin a new one",
        .until.map(|hour| format!(" to {hour}")).unwrap_or_default()
    )]
    HistoryDiffers {
        /// The account.
        account: AccountId,
        /// The customer asked for.
        customer: CustomerId,
        /// The hour asked for.
        from: Hour,
        /// Who owns it in the interval that stands in the way.
        owner: CustomerId,
        /// The first hour of that interval.
        since: Hour,
        /// Its end, if it has one.
        until: Option<Hour>,
    },
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for RegisterError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The directory of a database, read and written as `securebase_aggregator`.
#[derive(Clone, Debug)]
pub struct AccountDirectory {
    pool: PgPool,
}

impl AccountDirectory {
    /// The directory behind a pool of connections of `securebase_aggregator`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Adds a customer; does nothing when exactly this customer exists.
    pub async fn create_customer(
        &self,
        customer: &NewCustomer,
        now: Timestamp,
    ) -> Result<CustomerCreated, CreateCustomerError> {
        customer.check()?;
        match customer::create(&self.pool, customer, now).await? {
            Created::New => Ok(CustomerCreated::New),
            Created::Existing { differs } if differs.is_empty() => Ok(CustomerCreated::Unchanged),
            Created::Existing { differs } => {
                Err(CreateCustomerError::Differs { customer: customer.id.clone(), fields: differs.join(", ") })
            }
        }
    }

    /// Makes the customer the account's owner from that hour on, and gives it the usage since.
    ///
    /// An account that is another customer's moves; what happened before the hour stays with the former owner. Saying the
    /// same again changes nothing.
    pub async fn register(
        &self,
        account: AccountId,
        customer: &CustomerId,
        from: Hour,
        now: Timestamp,
    ) -> Result<Registration, RegisterError> {
        let mut transaction = self.pool.begin().await?;
        let contract_start: Option<DateTime<Utc>> =
            sqlx::query_scalar(READ_CONTRACT_START).bind(customer.as_str()).fetch_optional(&mut *transaction).await?;
        let Some(contract_start) = contract_start else {
            return Err(RegisterError::UnknownCustomer { customer: customer.clone() });
        };
        let contract_start = Timestamp::from(contract_start).hour();
        if from < contract_start {
            return Err(RegisterError::BeforeContract { account, customer: customer.clone(), from, contract_start });
        }

        // From here on no roll-up of this account runs, and all that ran are seen.
        let now = DateTime::<Utc>::from(now);
        sqlx::query(ADD_ACCOUNT).bind(account.as_str()).bind(now).execute(&mut *transaction).await?;
        sqlx::query(LOCK_ACCOUNT).bind(account.as_str()).execute(&mut *transaction).await?;
        let history: Vec<SaidRow> =
            sqlx::query_as(READ_OWNERSHIP).bind(account.as_str()).fetch_all(&mut *transaction).await?;
        let (mut follows, mut history): (Vec<_>, Vec<_>) =
            history.into_iter().map(|row| (row.is_following(), Ownership::from(row.owned))).unzip();
        // What is said of the account stands above what followed from its organization: that makes way.
        let cedes = |follows: bool, owned: &Ownership| follows && from <= owned.from && owned.customer != *customer;
        if follows.iter().zip(&history).any(|(follows, owned)| cedes(*follows, owned)) {
            let ceded = sqlx::query(CEDE_FOLLOWING).bind(account.as_str()).bind(DateTime::<Utc>::from(from.start()));
            ceded.bind(customer.as_str()).execute(&mut *transaction).await?;
            let kept = follows.into_iter().zip(history).filter(|(follows, owned)| !cedes(*follows, owned));
            (follows, history) = kept.unzip();
        }

        let change = place(&history, customer, from).map_err(|Conflict(other)| RegisterError::HistoryDiffers {
            account,
            customer: customer.clone(),
            from,
            owner: other.customer,
            since: other.from,
            until: other.until,
        })?;
        let hour = |hour: Hour| DateTime::<Utc>::from(hour.start());
        match &change {
            Change::Unchanged { since } => {
                let said = follows.iter().zip(&history).any(|(follows, owned)| *follows && owned.from == *since);
                if said {
                    let statement = sqlx::query(SAY).bind(account.as_str()).bind(hour(*since));
                    statement.execute(&mut *transaction).await?;
                    transaction.commit().await?;
                }
                return Ok(Registration::Unchanged { since: *since });
            }
            Change::Extend { former_start } => {
                let statement = sqlx::query(BEGIN_EARLIER).bind(account.as_str()).bind(hour(*former_start));
                statement.bind(hour(from)).execute(&mut *transaction).await?;
            }
            Change::Open { former } => {
                if let Some(former) = former {
                    let statement = sqlx::query(END_AT).bind(account.as_str()).bind(hour(former.from));
                    statement.bind(hour(from)).execute(&mut *transaction).await?;
                }
                let statement = sqlx::query(ADD_OWNERSHIP).bind(account.as_str()).bind(customer.as_str());
                statement.bind(hour(from)).execute(&mut *transaction).await?;
            }
        }
        let rows_changed = give_rows(account, from, now, &mut transaction).await?;
        let former = match &change {
            Change::Open { former: Some(former) } => Some(former.customer.as_str()),
            _ => None,
        };
        let customers = [Some(customer.as_str()), former.or(Some(customer.as_str()))];
        let (starts, count) = (from.start().to_string(), rows_changed.to_string());
        let mut details = vec![("customer", customer.as_str()), ("from", &starts), ("usage_rows_changed", &count)];
        details.extend(former.map(|former| ("former_customer", former)));
        let (action, subject) = ("account.registered", account.as_str());
        audit::record(&customers, Actor::Operator, action, subject, &details, &mut transaction).await?;
        transaction.commit().await?;

        Ok(match change {
            Change::Extend { .. } => Registration::Extended { rows_changed },
            Change::Open { former: Some(former) } => Registration::Moved { former: former.customer, rows_changed },
            Change::Open { former: None } | Change::Unchanged { .. } => Registration::Opened { rows_changed },
        })
    }

    /// Every account seen or registered, in order of its id; those of no customer included.
    pub async fn list(&self) -> Result<Vec<Account>, DatabaseError> {
        let rows: Vec<AccountRow> = sqlx::query_as(LIST_ACCOUNTS).fetch_all(&self.pool).await?;
        let mut accounts: Vec<Account> = Vec::new();
        for row in rows {
            let account = AccountId::parse(&row.account_id).expect("a constraint: an account id has 12 digits");
            if accounts.last().is_none_or(|last| last.account != account) {
                accounts.push(Account { account, first_seen_at: row.first_seen_at.into(), ownership: Vec::new() });
            }
            if let (Some(customer_id), Some(valid_from)) = (row.customer_id, row.valid_from) {
                let ownership = OwnershipRow { customer_id, valid_from, valid_until: row.valid_until };
                accounts.last_mut().expect("one was just pushed").ownership.push(ownership.into());
            }
        }
        Ok(accounts)
    }
}

impl AccountDirectory {
    /// Accounts with usage of no customer, or never anybody's: they are counted, and not billed until they are registered.
    pub async fn unknown(&self) -> Result<Vec<UnknownAccount>, DatabaseError> {
        type Row = (String, DateTime<Utc>, Option<DateTime<Utc>>, Option<DateTime<Utc>>, i64, Option<String>);
        let rows: Vec<Row> = sqlx::query_as(LIST_UNKNOWN).fetch_all(&self.pool).await?;
        let hour = |at: DateTime<Utc>| Timestamp::from(at).hour();
        let unknown =
            rows.into_iter().map(|(account, first_seen_at, first, last, usage_rows, organization)| UnknownAccount {
                account: AccountId::parse(&account).expect("a constraint: an account id has 12 digits"),
                first_seen_at: first_seen_at.into(),
                hours: first.map(hour).zip(last.map(hour)),
                usage_rows: usage_rows.unsigned_abs(),
                organization: organization.and_then(|id| OrganizationId::parse(&id).ok()),
            });
        Ok(unknown.collect())
    }
}

#[derive(sqlx::FromRow)]
struct OwnershipRow {
    customer_id: String,
    valid_from: DateTime<Utc>,
    valid_until: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    account_id: String,
    first_seen_at: DateTime<Utc>,
    customer_id: Option<String>,
    valid_from: Option<DateTime<Utc>>,
    valid_until: Option<DateTime<Utc>>,
}

/// An interval, and whether it was said of the account or follows from its organization.
#[derive(sqlx::FromRow)]
struct SaidRow {
    origin: String,
    #[sqlx(flatten)]
    owned: OwnershipRow,
}

impl SaidRow {
    fn is_following(&self) -> bool {
        self.origin == "organization"
    }
}

impl From<OwnershipRow> for Ownership {
    fn from(row: OwnershipRow) -> Self {
        Self {
            customer: CustomerId::parse(&row.customer_id).expect("a constraint: a customer id has this form"),
            from: Timestamp::from(row.valid_from).hour(),
            until: row.valid_until.map(|until| Timestamp::from(until).hour()),
        }
    }
}

const READ_CONTRACT_START: &str = "select contract_start from customers where customer_id = $1";

const ADD_ACCOUNT: &str =
    "insert into accounts (account_id, first_seen_at) values ($1, $2) on conflict (account_id) do nothing";

const LOCK_ACCOUNT: &str = "select account_id from accounts where account_id = $1 for update";

// Intervals that only follow make way: those of another customer from the hour on.
const CEDE_FOLLOWING: &str = "
    delete from account_ownership
    where account_id = $1 and origin = 'organization' and lower(valid) >= $2 and customer_id <> $3";

// An interval that was said is no longer one that only follows.
const SAY: &str = "
    update account_ownership set origin = 'account'
    where account_id = $1 and lower(valid) = $2 and origin = 'organization'";

const READ_OWNERSHIP: &str = "
    select origin, customer_id, lower(valid) as valid_from, upper(valid) as valid_until
    from account_ownership where account_id = $1 order by lower(valid)";

const ADD_OWNERSHIP: &str =
    "insert into account_ownership (account_id, customer_id, valid) values ($1, $2, tstzrange($3, null))";

const END_AT: &str = "
    update account_ownership set valid = tstzrange(lower(valid), $3)
    where account_id = $1 and lower(valid) = $2";

const BEGIN_EARLIER: &str = "
    update account_ownership set valid = tstzrange($3, upper(valid)), origin = 'account'
    where account_id = $1 and lower(valid) = $2";

// A registration changes owners from its hour on only, so earlier rows are not read.
const GIVE_ROWS: &str = with_totals!(
    "with changed as materialized (
        select
            u.account_id, u.meter, u.window_start, u.region, u.category, u.partition, u.total,
            u.customer_id as former, o.customer_id as owner
        from usage_rows u
        left join account_ownership o on o.account_id = u.account_id and o.valid @> u.window_start
        where u.account_id = $1 and $2 <= u.window_start and u.customer_id is distinct from o.customer_id
    ), rows_written as (
        update usage_rows u set customer_id = c.owner
        from changed c
        where u.account_id = c.account_id and u.meter = c.meter and u.window_start = c.window_start
            and u.region = c.region and u.category = c.category and u.partition = c.partition
    ), change as (
        select
            former as customer_id, account_id, meter, region, category, window_start,
            -total as quantity, -1 as hourly_rows
        from changed
        union all
        select owner, account_id, meter, region, category, window_start, total, 1 from changed
    )",
    "$3",
    concat!(
        "select n.rows_changed, c.customer_id, c.month
    from (select count(*) as rows_changed from changed) n
    left join (
        select distinct customer_id, date_trunc('month', window_start at time zone 'UTC')::date as month
        from change
        where customer_id is not null and meter = any(",
        recomputed_meters!(),
        ")
    ) c on true"
    )
);

const LIST_ACCOUNTS: &str = "
    select a.account_id, a.first_seen_at, o.customer_id, lower(o.valid) as valid_from, upper(o.valid) as valid_until
    from accounts a
    left join account_ownership o using (account_id)
    order by a.account_id, lower(o.valid)";

const LIST_UNKNOWN: &str = "
    with nobodys as (
        select account_id, min(window_start) as first_at, max(window_start) as last_at, count(*) as usage_rows
        from usage_rows where customer_id is null group by account_id
    )
    select a.account_id, a.first_seen_at, n.first_at, n.last_at, coalesce(n.usage_rows, 0), (
        select f.category from usage_facts f
        where f.account_id = a.account_id and f.meter = 'accounts' and f.kind = 'live' and f.category like 'o-%'
        order by f.time desc limit 1)
    from accounts a
    left join nobodys n using (account_id)
    where n.account_id is not null or not exists (select from account_ownership o where o.account_id = a.account_id)
    order by a.account_id";

/// Every statement of this module, for the test that prepares them against the schema.
#[doc(hidden)]
pub fn statements() -> Vec<&'static str> {
    [STATEMENTS, organizations::STATEMENTS, limits::STATEMENTS].concat()
}

const STATEMENTS: &[&str] = &[
    CEDE_FOLLOWING,
    SAY,
    LIST_UNKNOWN,
    READ_CONTRACT_START,
    ADD_ACCOUNT,
    LOCK_ACCOUNT,
    READ_OWNERSHIP,
    ADD_OWNERSHIP,
    END_AT,
    BEGIN_EARLIER,
    GIVE_ROWS,
    LIST_ACCOUNTS,
    customer::ADD_CUSTOMER,
    customer::COMPARE_CUSTOMER,
];
