//! Organizations in the directory: whose they are, and the accounts that follow them.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use ingest::{AccountId, Hour, Timestamp};
use sqlx::{FromRow, PgConnection};
use thiserror::Error;

use super::organization::{OrganizationId, first_difference, follow};
use super::placement::{Change, Conflict, place};
use super::{
    ADD_ACCOUNT, AccountDirectory, CustomerId, GIVE_ROWS, LOCK_ACCOUNT, Ownership, OwnershipRow, READ_CONTRACT_START,
    READ_OWNERSHIP, SaidRow,
};
use crate::audit::{self, Actor};
use crate::usage_rows::{DatabaseError, recompute};

/// An organization that was registered, or that accounts were seen in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Its id.
    pub organization: OrganizationId,
    /// Its owners in order of time; empty when it never had one.
    pub ownership: Vec<Ownership>,
    /// Accounts that were last seen live in it.
    pub accounts: u64,
    /// When the last list of its accounts was made that was read.
    pub listed_at: Option<Timestamp>,
    /// Accounts that the events say were live in it then, and the list does not have: an event is missing, or the list is.
    pub not_listed: Vec<AccountId>,
}

/// What registering an organization changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrganizationRegistration {
    /// Nothing: the customer owns it from that hour or an earlier one already.
    Unchanged {
        /// The first hour of that ownership.
        since: Hour,
    },
    /// It is the customer's from that hour on. [`AccountDirectory::follow_organizations`] brings its accounts.
    Registered {
        /// Who owned it until that hour.
        former: Option<CustomerId>,
    },
}

/// Why an organization was not registered. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegisterOrganizationError {
    /// Stop: create the customer first.
    #[error("customer {customer} does not exist")]
    UnknownCustomer {
        /// The id asked for.
        customer: CustomerId,
    },
    /// Stop: nothing before the contract is the customer's.
    #[error("organization {organization} cannot be {customer}'s from {from}: the contract starts at {contract_start}")]
    BeforeContract {
        /// The organization.
        organization: OrganizationId,
        /// The customer.
        customer: CustomerId,
        /// The hour asked for.
        from: Hour,
        /// The first hour that is possible.
        contract_start: Hour,
    },
    /// Stop: the directory already says who owned the organization later.
    #[error("organization {organization} cannot be {customer}'s from {from}: it is {owner}'s from {since}")]
    HistoryDiffers {
        /// The organization.
        organization: OrganizationId,
        /// The customer asked for.
        customer: CustomerId,
        /// The hour asked for.
        from: Hour,
        /// Who owns it in the interval that stands in the way.
        owner: CustomerId,
        /// The first hour of that interval.
        since: Hour,
    },
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for RegisterOrganizationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// What following the organizations changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Accounts whose history is another now.
    pub accounts: u64,
    /// Usage rows that got another owner.
    pub rows_changed: u64,
}

#[derive(FromRow)]
struct OrganizationRow {
    organization_id: String,
    #[sqlx(flatten)]
    owned: OwnershipRow,
}

impl AccountDirectory {
    /// Makes the customer the organization's owner from that hour on. Saying the same again changes nothing.
    pub async fn register_organization(
        &self,
        organization: &OrganizationId,
        customer: &CustomerId,
        from: Hour,
    ) -> Result<OrganizationRegistration, RegisterOrganizationError> {
        let mut transaction = self.pool.begin().await?;
        let contract_start: Option<DateTime<Utc>> =
            sqlx::query_scalar(READ_CONTRACT_START).bind(customer.as_str()).fetch_optional(&mut *transaction).await?;
        let Some(contract_start) = contract_start else {
            return Err(RegisterOrganizationError::UnknownCustomer { customer: customer.clone() });
        };
        let contract_start = Timestamp::from(contract_start).hour();
        if from < contract_start {
            let (organization, customer) = (organization.clone(), customer.clone());
            return Err(RegisterOrganizationError::BeforeContract { organization, customer, from, contract_start });
        }
        // Two registrations at once would meet in the constraint; the second one waits here instead.
        sqlx::query(LOCK_ORGANIZATION).bind(organization.as_str()).execute(&mut *transaction).await?;
        let rows: Vec<OwnershipRow> =
            sqlx::query_as(READ_ORGANIZATION).bind(organization.as_str()).fetch_all(&mut *transaction).await?;
        let history: Vec<Ownership> = rows.into_iter().map(Ownership::from).collect();
        let change = place(&history, customer, from).map_err(|Conflict(other)| {
            let (organization, customer) = (organization.clone(), customer.clone());
            RegisterOrganizationError::HistoryDiffers {
                organization,
                customer,
                from,
                owner: other.customer,
                since: other.from,
            }
        })?;
        let hour = |hour: Hour| DateTime::<Utc>::from(hour.start());
        let former = match change {
            Change::Unchanged { since } => return Ok(OrganizationRegistration::Unchanged { since }),
            Change::Extend { former_start } => {
                let statement = sqlx::query(BEGIN_ORGANIZATION_EARLIER).bind(organization.as_str());
                statement.bind(hour(former_start)).bind(hour(from)).execute(&mut *transaction).await?;
                None
            }
            Change::Open { former } => {
                if let Some(former) = &former {
                    let statement = sqlx::query(END_ORGANIZATION_AT).bind(organization.as_str());
                    statement.bind(hour(former.from)).bind(hour(from)).execute(&mut *transaction).await?;
                }
                let statement = sqlx::query(ADD_ORGANIZATION).bind(organization.as_str()).bind(customer.as_str());
                statement.bind(hour(from)).execute(&mut *transaction).await?;
                former.map(|former| former.customer)
            }
        };
        let customers = [Some(customer.as_str()), Some(former.as_ref().unwrap_or(customer).as_str())];
        let starts = from.start().to_string();
        let mut details = vec![("customer", customer.as_str()), ("from", &starts)];
        details.extend(former.as_ref().map(|former| ("former_customer", former.as_str())));
        let (action, subject) = ("organization.registered", organization.as_str());
        audit::record(&customers, Actor::Operator, action, subject, &details, &mut transaction).await?;
        transaction.commit().await?;
        Ok(OrganizationRegistration::Registered { former })
    }

    /// Gives every account that was seen in an organization to the organization's owner, with its usage, where nothing is said
    /// of the account itself. Each account is a transaction; doing it again changes nothing.
    pub async fn follow_organizations(&self, now: Timestamp) -> Result<Followed, DatabaseError> {
        let owned: Vec<OrganizationRow> = sqlx::query_as(LIST_OWNED).fetch_all(&self.pool).await?;
        let mut owners = BTreeMap::<OrganizationId, Vec<Ownership>>::new();
        for row in owned {
            let organization = OrganizationId::parse(&row.organization_id);
            let organization = organization.expect("a constraint: an organization id has this form");
            owners.entry(organization).or_default().push(row.owned.into());
        }
        let mut followed = Followed::default();
        if owners.is_empty() {
            return Ok(followed);
        }
        let accounts: Vec<String> = sqlx::query_scalar(LIST_SEEN).fetch_all(&self.pool).await?;
        for account in accounts {
            let account = AccountId::parse(&account).expect("only account ids are stored");
            if let Some(rows_changed) = self.follow_one(account, &owners, now).await? {
                followed.accounts += 1;
                followed.rows_changed += rows_changed;
            }
        }
        Ok(followed)
    }

    /// `None` if the account's history is as it should be.
    async fn follow_one(
        &self,
        account: AccountId,
        owners: &BTreeMap<OrganizationId, Vec<Ownership>>,
        now: Timestamp,
    ) -> Result<Option<u64>, DatabaseError> {
        let mut connection = self.pool.acquire().await?;
        // Nearly always nothing changes, and nothing is locked.
        if Histories::read(account, owners, &mut connection).await?.change().is_none() {
            return Ok(None);
        }
        drop(connection);
        let mut transaction = self.pool.begin().await?;
        let now = DateTime::<Utc>::from(now);
        sqlx::query(ADD_ACCOUNT).bind(account.as_str()).bind(now).execute(&mut *transaction).await?;
        sqlx::query(LOCK_ACCOUNT).bind(account.as_str()).execute(&mut *transaction).await?;
        let histories = Histories::read(account, owners, &mut transaction).await?;
        let Some(from) = histories.change() else { return Ok(None) };
        sqlx::query(REMOVE_FOLLOWING).bind(account.as_str()).execute(&mut *transaction).await?;
        let hour = |hour: Hour| DateTime::<Utc>::from(hour.start());
        sqlx::query(ADD_FOLLOWING)
            .bind(account.as_str())
            .bind(histories.follows.iter().map(|owned| owned.customer.as_str()).collect::<Vec<_>>())
            .bind(histories.follows.iter().map(|owned| hour(owned.from)).collect::<Vec<_>>())
            .bind(histories.follows.iter().map(|owned| owned.until.map(hour)).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?;
        let rows_changed = give_rows(account, from, now, &mut transaction).await?;
        let owners = histories.followed.iter().chain(&histories.follows).map(|owned| Some(owned.customer.as_str()));
        let (starts, count) = (from.start().to_string(), rows_changed.to_string());
        let details = [("from", starts.as_str()), ("usage_rows_changed", &count)];
        let (action, owners) = ("account.followed_organization", owners.collect::<Vec<_>>());
        audit::record(&owners, Actor::System, action, account.as_str(), &details, &mut transaction).await?;
        transaction.commit().await?;
        Ok(Some(rows_changed))
    }

    /// Every organization that was registered or that accounts were seen in, in order of its id.
    pub async fn organizations(&self) -> Result<Vec<Organization>, DatabaseError> {
        let mut organizations = BTreeMap::<OrganizationId, Organization>::new();
        // A category that is no organization's id is another source's word.
        let mut of = |id: &str, change: &mut dyn FnMut(&mut Organization)| {
            if let Ok(id) = OrganizationId::parse(id) {
                let (ownership, not_listed) = (Vec::new(), Vec::new());
                let empty =
                    || Organization { organization: id.clone(), ownership, accounts: 0, listed_at: None, not_listed };
                change(organizations.entry(id.clone()).or_insert_with(empty));
            }
        };
        let owned: Vec<OrganizationRow> = sqlx::query_as(LIST_OWNED).fetch_all(&self.pool).await?;
        for OrganizationRow { organization_id, owned } in owned {
            let mut owned = Some(Ownership::from(owned));
            of(&organization_id, &mut |one| one.ownership.extend(owned.take()));
        }
        let seen: Vec<(String, i64)> = sqlx::query_as(COUNT_SEEN).fetch_all(&self.pool).await?;
        for (organization, accounts) in seen {
            of(&organization, &mut |one| one.accounts = accounts.unsigned_abs());
        }
        let lists: Vec<(String, DateTime<Utc>, Vec<String>)> =
            sqlx::query_as(COMPARE_LISTS).bind(ingest::LISTED).fetch_all(&self.pool).await?;
        for (organization, listed_at, not_listed) in lists {
            of(&organization, &mut |one| {
                one.listed_at = Some(listed_at.into());
                one.not_listed = not_listed.iter().filter_map(|account| AccountId::parse(account).ok()).collect();
            });
        }
        Ok(organizations.into_values().collect())
    }
}

/// An account's intervals: what was said of it, what follows from its organizations now, and what followed before.
struct Histories {
    said: Vec<Ownership>,
    followed: Vec<Ownership>,
    follows: Vec<Ownership>,
}

impl Histories {
    async fn read(
        account: AccountId,
        owners: &BTreeMap<OrganizationId, Vec<Ownership>>,
        connection: &mut PgConnection,
    ) -> Result<Self, sqlx::Error> {
        let rows: Vec<SaidRow> =
            sqlx::query_as(READ_OWNERSHIP).bind(account.as_str()).fetch_all(&mut *connection).await?;
        let (said, followed): (Vec<SaidRow>, Vec<SaidRow>) = rows.into_iter().partition(|row| !row.is_following());
        let owned = |rows: Vec<SaidRow>| rows.into_iter().map(|row| row.owned.into()).collect::<Vec<Ownership>>();
        let (said, followed) = (owned(said), owned(followed));
        let seen: Vec<(DateTime<Utc>, String)> =
            sqlx::query_as(READ_SEEN).bind(account.as_str()).fetch_all(connection).await?;
        let seen: Vec<(Timestamp, OrganizationId)> = seen
            .into_iter()
            .filter_map(|(time, organization)| Some((time.into(), OrganizationId::parse(&organization).ok()?)))
            .collect();
        let owners = |organization: &OrganizationId| owners.get(organization).cloned().unwrap_or_default();
        let follows = follow(&seen, owners, &said);
        Ok(Self { said, followed, follows })
    }

    /// The first hour that gets another owner.
    fn change(&self) -> Option<Hour> {
        let whole = |following: &[Ownership]| [following, self.said.as_slice()].concat();
        first_difference(&whole(&self.followed), &whole(&self.follows))
    }
}

/// Gives usage rows from an hour on to their owners by the directory, with monthly totals; how many changed.
pub(super) async fn give_rows(
    account: AccountId,
    from: Hour,
    now: DateTime<Utc>,
    connection: &mut PgConnection,
) -> Result<u64, sqlx::Error> {
    let given: Vec<(i64, Option<String>, Option<NaiveDate>)> = sqlx::query_as(GIVE_ROWS)
        .bind(account.as_str())
        .bind(DateTime::<Utc>::from(from.start()))
        .bind(now)
        .fetch_all(&mut *connection)
        .await?;
    let rows_changed = given.first().map_or(0, |(count, _, _)| *count);
    let months = given.into_iter().filter_map(|(_, customer, month)| customer.zip(month)).collect();
    recompute(&months, now, connection).await?;
    Ok(rows_changed.unsigned_abs())
}

// A transaction's lock on the organization's name; the number names this use of such locks.
const LOCK_ORGANIZATION: &str = "select pg_advisory_xact_lock(731152, hashtext($1))";

const READ_ORGANIZATION: &str = "
    select customer_id, lower(valid) as valid_from, upper(valid) as valid_until
    from organization_ownership where organization_id = $1 order by lower(valid)";

const ADD_ORGANIZATION: &str =
    "insert into organization_ownership (organization_id, customer_id, valid) values ($1, $2, tstzrange($3, null))";

const END_ORGANIZATION_AT: &str = "
    update organization_ownership set valid = tstzrange(lower(valid), $3)
    where organization_id = $1 and lower(valid) = $2";

const BEGIN_ORGANIZATION_EARLIER: &str = "
    update organization_ownership set valid = tstzrange($3, upper(valid))
    where organization_id = $1 and lower(valid) = $2";

const LIST_OWNED: &str = "
    select organization_id, customer_id, lower(valid) as valid_from, upper(valid) as valid_until
    from organization_ownership order by organization_id, lower(valid)";

const LIST_SEEN: &str = "
    select distinct account_id from usage_facts
    where meter = 'accounts' and kind = 'live' and category like 'o-%' order by account_id";

const READ_SEEN: &str = "
    select time, category from usage_facts
    where account_id = $1 and meter = 'accounts' and kind = 'live' and category like 'o-%' order by time";

const COUNT_SEEN: &str = "
    with last_seen as (
        select distinct on (account_id) account_id, category from usage_facts
        where meter = 'accounts' and kind = 'live' and category like 'o-%'
        order by account_id, time desc
    )
    select category, count(*) from last_seen group by category";

// Of each organization the last list, and the accounts whose last word until then is that they are live in it, though the list
// itself says nothing of them.
const COMPARE_LISTS: &str = "
    with lists as (
        select category as organization_id, max(time) as listed_at from usage_facts
        where meter = 'accounts' and region = $1 and category like 'o-%'
        group by category
    ), last_word as (
        select distinct on (l.organization_id, f.account_id) l.organization_id, l.listed_at, f.account_id, f.kind, f.time, (
            select m.category from usage_facts m
            where m.account_id = f.account_id and m.meter = 'accounts' and m.kind = 'live' and m.category like 'o-%'
                and m.time <= l.listed_at
            order by m.time desc limit 1) as member_of
        from lists l
        join usage_facts f on f.meter = 'accounts' and f.time <= l.listed_at
        order by l.organization_id, f.account_id, f.time desc
    )
    select l.organization_id, l.listed_at,
        coalesce(array_agg(w.account_id order by w.account_id) filter (where w.account_id is not null), '{}')
    from lists l
    left join last_word w
        on w.organization_id = l.organization_id and w.member_of = l.organization_id and w.kind = 'live'
        and w.time < l.listed_at
    group by 1, 2
    order by 1";

const REMOVE_FOLLOWING: &str = "delete from account_ownership where account_id = $1 and origin = 'organization'";

const ADD_FOLLOWING: &str = "
    insert into account_ownership (account_id, customer_id, valid, origin)
    select $1, customer_id, tstzrange(valid_from, valid_until), 'organization'
    from unnest($2::text[], $3::timestamptz[], $4::timestamptz[]) as i (customer_id, valid_from, valid_until)";

pub(super) const STATEMENTS: &[&str] = &[
    LOCK_ORGANIZATION,
    READ_ORGANIZATION,
    ADD_ORGANIZATION,
    END_ORGANIZATION_AT,
    BEGIN_ORGANIZATION_EARLIER,
    LIST_OWNED,
    LIST_SEEN,
    READ_SEEN,
    COUNT_SEEN,
    COMPARE_LISTS,
    REMOVE_FOLLOWING,
    ADD_FOLLOWING,
];
