//! A fresh migrated database with the parts under test, and the naive reference they must agree with.

use std::collections::BTreeMap;

use aggregator::commit::Gain;
use aggregator::directory::{AccountDirectory, CustomerId, NewCustomer};
use aggregator::rollup::RollUp;
use aggregator::usage_rows::{Advance, CounterTotal, UsageRows};
use chrono::{DateTime, Datelike as _, Utc};
use embedded::testing::TestDatabase;
use ingest::{AccountId, Hour, Meter, Timestamp};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use sqlx::types::Decimal;

use crate::tables::Tables;

pub(crate) struct Stage {
    /// Goes away with the stage.
    database: TestDatabase,
    /// As `securebase_aggregator`.
    pub(crate) pool: PgPool,
    pub(crate) rows: UsageRows,
    pub(crate) directory: AccountDirectory,
}

#[derive(sqlx::FromRow)]
struct UsageRow {
    account_id: String,
    meter: String,
    region: String,
    category: String,
    window_start: DateTime<Utc>,
    partition: String,
    total: Decimal,
    customer_id: Option<String>,
}

/// A customer's monthly totals in the order of [`Meter::PRICED`]; those of zero are left out.
pub(crate) type Months = BTreeMap<(String, String), [u64; 5]>;

impl Stage {
    pub(crate) async fn set() -> Self {
        let migrate = async |url: String| migrations::migrate(&url).await;
        let database = TestDatabase::create(&migrations::fingerprint(), migrate).await.unwrap();
        let url = database.url("securebase_aggregator");
        let pool = PgPoolOptions::new().max_connections(8).connect(&url).await.unwrap();
        Self { rows: UsageRows::new(pool.clone()), directory: AccountDirectory::new(pool.clone()), pool, database }
    }

    /// The login of `securebase_operator`.
    pub(crate) fn operator_url(&self) -> String {
        self.database.url("securebase_operator")
    }

    /// With two customers, whose contracts start in 2026.
    pub(crate) async fn with_customers() -> (Self, CustomerId, CustomerId) {
        let stage = Self::set().await;
        let (anna, berta) = (stage.customer("anna").await, stage.customer("berta").await);
        (stage, anna, berta)
    }

    pub(crate) async fn customer(&self, id: &str) -> CustomerId {
        let customer = new_customer(id);
        self.directory.create_customer(&customer, now()).await.unwrap();
        customer.id
    }

    /// The audited events of one action, as subject and class.
    pub(crate) async fn audited(&self, action: &str) -> Vec<String> {
        let operator = PgPoolOptions::new().connect(&self.database.url("securebase_operator")).await.unwrap();
        sqlx::query_scalar(
            "select subject || ' ' || coalesce(details ->> 'class', '') from audit_events where action = $1
            order by sequence",
        )
        .bind(action)
        .fetch_all(&operator)
        .await
        .unwrap()
    }

    /// Brings the usage rows up to everything that is acknowledged.
    pub(crate) async fn roll_up(&self, tables: &Tables) {
        let acknowledged = tables.acknowledgements.partitions().await.unwrap();
        let gain = |(partition, version)| Gain { partition, from_version: version, to_version: version, totals: None };
        let roll_up = RollUp::new(tables.log.clone(), self.rows.clone());
        assert!(roll_up.apply(acknowledged.into_iter().map(gain).collect(), now()).await.unwrap().is_empty());
    }

    /// Every usage row as (partition, counter) and its owner and total.
    pub(crate) async fn rows(&self) -> BTreeMap<(String, String), (Option<String>, u64)> {
        let rows: Vec<UsageRow> = sqlx::query_as("select * from usage_rows").fetch_all(&self.pool).await.unwrap();
        rows.into_iter()
            .map(|row| {
                let window = Timestamp::from(row.window_start).hour();
                let counter = counter_name(&row.account_id, &row.meter, window, &row.region, &row.category);
                ((row.partition, counter), (row.customer_id, whole(row.total)))
            })
            .collect()
    }

    /// The monthly totals as stored.
    pub(crate) async fn months(&self) -> Months {
        let months: Vec<(String, String, Decimal, Decimal, Decimal, Decimal, Decimal)> = sqlx::query_as(
            "select customer_id, to_char(month, 'YYYY-MM'),
                log_storage_gb, nat_gateway_bytes, cloudtrail_events, config_rule_evaluations, guardduty_findings
            from usage_metrics",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        months
            .into_iter()
            .map(|(customer, month, a, b, c, d, e)| ((customer, month), [a, b, c, d, e].map(whole)))
            .filter(|(_, totals)| *totals != [0; 5])
            .collect()
    }

    /// Owners and monthly totals recomputed from the directory and the totals alone must be those stored.
    pub(crate) async fn agrees_with_a_naive_recomputation(&self) {
        let directory = self.directory.list().await.unwrap();
        let owner = |account: &str, window: Hour| {
            let account = directory.iter().find(|listed| listed.account.as_str() == account);
            let ownership = account.expect("an account with usage is listed").ownership.iter();
            let mut owners =
                ownership.filter(|owned| owned.from <= window && owned.until.is_none_or(|until| window < until));
            let owner = owners.next().map(|owned| owned.customer.to_string());
            assert!(owners.next().is_none(), "one owner at a time");
            owner
        };
        let mut months = Months::new();
        for ((partition, counter), (stored_owner, total)) in self.rows().await {
            let parts: Vec<&str> = counter.split(' ').collect();
            let (account, meter) = (parts[0], Meter::parse(parts[1]).unwrap());
            let window = Hour::parse_key(parts[2]).unwrap();
            assert_eq!(stored_owner, owner(account, window), "{partition} {counter}");
            let start = DateTime::<Utc>::from(window.start());
            if let (Some(customer), 1..) = (stored_owner, total) {
                let month = format!("{:04}-{:02}", start.year(), start.month());
                months.entry((customer, month)).or_default()[place_of(meter)] += total;
            }
        }
        assert_eq!(self.months().await, months);
        self.days_are_the_sums_of_their_hours().await;
    }

    /// Every day of every owner has the sum and the number of its hourly rows, and no other day says anything.
    pub(crate) async fn days_are_the_sums_of_their_hours(&self) {
        let wrong: Vec<String> = sqlx::query_scalar(
            "with hours as (
                select account_id, meter, region, category, date_trunc('day', window_start, 'UTC') as window_start,
                    coalesce(customer_id, '') as owner, sum(total) as total, count(*) as hourly_rows
                from usage_rows group by 1, 2, 3, 4, 5, 6
            ), days as (
                select account_id, meter, region, category, window_start, coalesce(customer_id, '') as owner, total, hourly_rows
                from usage_days where hourly_rows <> 0 or total <> 0
            )
            select coalesce(h::text, 'nothing') || ' but ' || coalesce(d::text, 'nothing') from hours h
            full join days d using (account_id, meter, region, category, window_start, owner)
            where h.total is distinct from d.total or h.hourly_rows is distinct from d.hourly_rows
                or scale(d.total) <> min_scale(d.total)",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

fn place_of(meter: Meter) -> usize {
    Meter::PRICED.into_iter().position(|priced| priced == meter).unwrap()
}

fn whole(total: Decimal) -> u64 {
    total.try_into().unwrap()
}

pub(crate) fn counter_name(account: &str, meter: &str, window: Hour, region: &str, category: &str) -> String {
    format!("{account} {meter} {window} {region} {category}")
}

pub(crate) fn name_of(counter: &CounterTotal) -> String {
    let CounterTotal { account, meter, region, category, window, .. } = counter;
    counter_name(account.as_str(), meter.as_str(), *window, region, category)
}

pub(crate) fn new_customer(id: &str) -> NewCustomer {
    NewCustomer {
        id: CustomerId::parse(id).unwrap(),
        name: format!("{id} Ltd"),
        tier: "standard".into(),
        currency: "USD".into(),
        tax_rate: Decimal::new(8, 2),
        contract_start: hour("2026-01-01T00"),
        billing_address: String::new(),
        tax_id: String::new(),
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-22T08:00:00Z").unwrap()
}

pub(crate) fn hour(key: &str) -> Hour {
    Hour::parse_key(key).unwrap()
}

pub(crate) fn account(number: u64) -> AccountId {
    AccountId::parse(&format!("{number:012}")).unwrap()
}

/// Management events of an account in us-east-1.
pub(crate) fn events(account: AccountId, window: &str, total: u64, version: u64) -> CounterTotal {
    CounterTotal {
        account,
        meter: Meter::CloudTrailEvents,
        region: "us-east-1".into(),
        category: "Management".into(),
        window: hour(window),
        total,
        version,
    }
}

pub(crate) fn advance(partition: &str, versions: (u64, u64), counters: &[CounterTotal]) -> Advance {
    Advance {
        partition: partition.into(),
        from_version: versions.0,
        to_version: versions.1,
        counters: counters.to_vec(),
    }
}
