//! A database with customers and a closed month of usage for each.

use billing::Month;
use chrono::{DateTime, Utc};
use embedded::PostgreSql;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The usage of each customer: CloudTrail events hour by hour over two accounts, log storage, NAT traffic and evaluations day
/// by day, findings now and then. 31 days of it are 1,488 + 31 + 31 + 31 + 16 rows.
const CLOSED_TOTALS: &str = "
    insert into closed_totals (
        close_id, customer_id, account_id, meter, region, category, window_start, total, identities)
    select k.close_id, k.customer_id, lpad((2 * k.close_id + u.account)::text, 12, '0'), u.meter, 'eu-west-1', u.category,
        u.window_start, u.total, sha256(convert_to(u.meter, 'UTF8'))
    from closes k
    cross join (
        select 'cloudtrail_events' as meter, 'Management' as category, a as account, w as window_start,
            (1000 + extract(hour from w) * 37 + a)::numeric as total
        from generate_series(0, 1) a, generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', '1 hour') w
        union all
        select meter, 'none', 0, w, total
        from (values
            ('log_storage_gb', 86400::numeric * 1073741824 * 100),
            ('nat_gateway_bytes', 1073741824::numeric * 33),
            ('config_rule_evaluations', 160::numeric)) as daily (meter, total),
            generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', '1 day') w
        union all
        select 'guardduty_findings', 'none', 1, w, 1::numeric
        from generate_series($1::timestamptz, $2::timestamptz - interval '1 hour', '2 days') w
    ) u
    where k.customer_id > $3::text and k.customer_id <= $4::text";

/// Customers whose totals are written in one transaction.
const BATCH: u32 = 250;

/// Makes the database anew.
pub(crate) async fn make(
    server: &PostgreSql,
    database: &str,
    customers: u32,
    period: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut admin = PgConnection::connect(&server.url("postgres", "postgres")).await?;
    for statement in [format!("drop database if exists {database} with (force)"), format!("create database {database}")]
    {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await?;
    }
    migrations::migrate(&server.url(database, "postgres")).await?;
    let mut superuser = superuser(server, database).await?;
    sqlx::query(
        "insert into customers (customer_id, name, tier, contract_start, billing_address)
         select 'customer-' || lpad(n::text, 6, '0'), 'Customer ' || n,
             (array['standard', 'fintech', 'healthcare', 'gov-federal'])[1 + n % 4]::customer_tier, '2026-01-01',
             n || ' High Street'
         from generate_series(1, $1::int) n",
    )
    .bind(i32::try_from(customers)?)
    .execute(&mut superuser)
    .await?;

    // Rows as the aggregator writes them, a close and what belongs to it in one transaction. Their foreign keys hold by how
    // they are made; checking sixteen million of them is no part of what is measured.
    let month = Month::parse(period)?;
    sqlx::raw_sql("set session_replication_role = replica").execute(&mut superuser).await?;
    let name = |number: u32| format!("customer-{number:06}");
    let mut from = 0;
    while from < customers {
        let to = (from + BATCH).min(customers);
        let mut transaction = superuser.begin().await?;
        sqlx::query(
            "insert into closes (
                 customer_id, period_start, period_end, cut, source_class, directory_version, cut_at, evidence_sha256)
             select customer_id, $1::date, $2::date, 1, 'proven', 0, $2::date, sha256(convert_to(customer_id, 'UTF8'))
             from customers where customer_id > $3::text and customer_id <= $4::text
             order by customer_id",
        )
        .bind(month.first_day())
        .bind(month.end_day())
        .bind(name(from))
        .bind(name(to))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(CLOSED_TOTALS)
            .bind(DateTime::<Utc>::from(month.start()))
            .bind(DateTime::<Utc>::from(month.end()))
            .bind(name(from))
            .bind(name(to))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "insert into evidence_records (close_id, customer_id, sha256, document)
             select close_id, customer_id, evidence_sha256, 'evidence' from closes
             where customer_id > $1::text and customer_id <= $2::text",
        )
        .bind(name(from))
        .bind(name(to))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        from = to;
    }
    sqlx::raw_sql("set session_replication_role = origin").execute(&mut superuser).await?;
    // As autovacuum would have, had the month been written over a month.
    for statement in ["vacuum analyze", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut superuser).await?;
    }
    Ok(())
}

pub(crate) async fn superuser(server: &PostgreSql, database: &str) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect(&server.url(database, "postgres")).await
}

/// Bytes of all stored PDFs.
pub(crate) async fn pdf_bytes(superuser: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select coalesce(sum(octet_length(bytes)), 0)::bigint from invoice_documents")
        .fetch_one(superuser)
        .await
}

pub(crate) async fn closed_totals(superuser: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from closed_totals").fetch_one(superuser).await
}
