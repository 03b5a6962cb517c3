//! Customers with keys, accounts, a month of hourly usage and a year of monthly totals, written straight into the tables.

use aggregator::directory::CustomerId;
use api::auth::{HashingPool, KeyToken};
use sqlx::{Connection, PgConnection};

/// Every key has the same secret, so that one hash is enough; they differ by their ids.
const SECRET: [u8; 32] = [7; 32];

const CUSTOMERS: &str = "
    insert into customers (customer_id, name, tier, contract_start)
    select 'load-' || lpad(n::text, 5, '0'), 'Load ' || n, 'fintech', '2025-01-01Z' from generate_series(0, $1 - 1) as n";

/// Two accounts a customer.
const ACCOUNTS: &str = "
    insert into accounts (account_id, first_seen_at)
    select lpad((n * 10 + a)::text, 12, '0'), '2025-01-01Z' from generate_series(0, $1 - 1) as n, generate_series(0, 1) as a";

const OWNERSHIP: &str = "
    insert into account_ownership (account_id, customer_id, valid)
    select lpad((n * 10 + a)::text, 12, '0'), 'load-' || lpad(n::text, 5, '0'), tstzrange('2025-01-01Z', null)
    from generate_series(0, $1 - 1) as n, generate_series(0, 1) as a";

/// October 2026, every hour, in two regions.
const USAGE: &str = "
    insert into usage_rows
        (account_id, meter, region, category, window_start, partition, total, version, customer_id)
    select lpad((n * 10 + a)::text, 12, '0'), 'cloudtrail_events', r, 'Management', h, 'load', 1 + (n * 31 + a) % 997, 1,
        'load-' || lpad(n::text, 5, '0')
    from generate_series(0, $1 - 1) as n, generate_series(0, 1) as a, unnest(array['us-east-1', 'eu-central-1']) as r,
        generate_series(timestamptz '2026-10-01Z', timestamptz '2026-10-31 23:00Z', interval '1 hour') as h";

/// What the roll-up adds up as it goes.
const DAYS: &str = "
    insert into usage_days (account_id, meter, region, category, window_start, customer_id, total, hourly_rows)
    select account_id, meter, region, category, date_trunc('day', window_start, 'UTC'), customer_id, sum(total), count(*)
    from usage_rows where $1::int is not null group by 1, 2, 3, 4, 5, 6";

const METRICS: &str = "
    insert into usage_metrics (customer_id, month, cloudtrail_events, updated_at)
    select 'load-' || lpad(n::text, 5, '0'), m::date, 100000 + n, now()
    from generate_series(0, $1 - 1) as n,
        generate_series(timestamp '2025-11-01', timestamp '2026-10-01', interval '1 month') as m";

const KEY: &str = "
    insert into api_keys (key_id, customer_id, name, scopes, secret_hash, created_at, created_by)
    values ($1, $2, 'load', '{read:usage,read:invoices}', $3, '2026-01-01Z', 'load')";

/// Fills the database and returns a key of each customer.
pub(crate) async fn seed(superuser_url: &str, customers: u32) -> Vec<String> {
    let mut connection = PgConnection::connect(superuser_url).await.unwrap();
    let count = i32::try_from(customers).unwrap();
    for statement in [CUSTOMERS, ACCOUNTS, OWNERSHIP, USAGE, DAYS, METRICS] {
        sqlx::query(statement).bind(count).execute(&mut connection).await.unwrap();
    }
    let mut keys = Vec::new();
    let mut hash = None;
    for number in 0..customers {
        let customer = CustomerId::parse(&format!("load-{number:05}")).unwrap();
        let token = KeyToken::mint(Some(customer.clone()), u128::from(number + 1).to_be_bytes(), SECRET);
        if hash.is_none() {
            hash = Some(HashingPool::new(1).hash(token.secret_digest(), [9; 16]).await.unwrap());
        }
        let insert = sqlx::query(KEY).bind(token.key_id.as_str()).bind(customer.as_str()).bind(hash.as_deref());
        insert.execute(&mut connection).await.unwrap();
        keys.push(token.reveal());
    }
    // What comes by itself after a load of rows, and would go on under the first requests: nobody seeds a month at once.
    for statement in ["vacuum analyze", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
    keys
}
