//! The daily and monthly totals, and the one place where a meter becomes a column of `usage_metrics`.
//!
//! Days and most of a month's totals are sums, which every change adds to. Those of [`recomputed_meters`] are computed anew from the month's rows whenever
//! one of them changes: peaks are no sums, and a sample meter may be a maximum.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

/// A customer and a month's first day.
pub(crate) type CustomerMonth = (String, NaiveDate);

/// A statement that also adds to the daily and monthly totals.
///
/// `$with` opens a `with` whose last query is `change (customer_id, account_id, meter, region, category, window_start,
/// quantity, hourly_rows)`: how much more usage there is, in how many more rows. `$now` is the parameter that holds the
/// time, `$then` the statement's own last part. Days are written in the order of their unique index and months in that of
/// (customer, month): the orders in which every writer locks them. Usage of no customer has no monthly total.
macro_rules! with_totals {
    ($with:expr, $now:literal, $then:expr) => {
        concat!(
            $with,
            ", days_written as (
        insert into usage_days as d
            (account_id, meter, region, category, window_start, customer_id, total, hourly_rows)
        select
            account_id, meter, region, category, date_trunc('day', window_start, 'UTC') as day, customer_id,
            trim_scale(sum(quantity)), sum(hourly_rows)
        from change
        group by 1, 2, 3, 4, 5, 6
        having sum(quantity) <> 0 or sum(hourly_rows) <> 0
        order by 1, 2, 5, 3, 4, coalesce(customer_id, '')
        on conflict (account_id, meter, window_start, region, category, (coalesce(customer_id, ''))) do update set
            total = trim_scale(d.total + excluded.total), hourly_rows = d.hourly_rows + excluded.hourly_rows
    ), months_written as (
        insert into usage_metrics as m (
            customer_id, month, updated_at,
            cloudtrail_events, guardduty_findings, config_rule_evaluations, log_storage_gb, nat_gateway_bytes,
            security_hub_findings, archive_storage_gb, data_transfer_bytes, account_seconds, ou_seconds, scp_seconds
        )
        select
            customer_id, date_trunc('month', window_start at time zone 'UTC')::date as month, ",
            $now,
            ",
            coalesce(sum(quantity) filter (where meter = 'cloudtrail_events'), 0),
            coalesce(sum(quantity) filter (where meter = 'guardduty_findings'), 0),
            coalesce(sum(quantity) filter (where meter = 'config_rule_evaluations'), 0),
            coalesce(sum(quantity) filter (where meter = 'log_storage_gb'), 0),
            coalesce(sum(quantity) filter (where meter = 'nat_gateway_bytes'), 0),
            sum(quantity) filter (where meter = 'security_hub_findings'),
            sum(quantity) filter (where meter = 'archive_storage_gb'),
            sum(quantity) filter (where meter = 'data_transfer_bytes'),
            sum(quantity) filter (where meter = 'accounts'),
            sum(quantity) filter (where meter = 'organizational_units'),
            sum(quantity) filter (where meter = 'service_control_policies')
        from change
        where customer_id is not null
        group by 1, 2
        order by 1, 2
        on conflict (customer_id, month) do update set
            updated_at = greatest(m.updated_at, excluded.updated_at),
            cloudtrail_events = m.cloudtrail_events + excluded.cloudtrail_events,
            guardduty_findings = m.guardduty_findings + excluded.guardduty_findings,
            config_rule_evaluations = m.config_rule_evaluations + excluded.config_rule_evaluations,
            log_storage_gb = trim_scale(m.log_storage_gb + excluded.log_storage_gb),
            nat_gateway_bytes = trim_scale(m.nat_gateway_bytes + excluded.nat_gateway_bytes),
            security_hub_findings = coalesce(
                m.security_hub_findings + excluded.security_hub_findings,
                m.security_hub_findings, excluded.security_hub_findings),
            archive_storage_gb = trim_scale(coalesce(
                m.archive_storage_gb + excluded.archive_storage_gb, m.archive_storage_gb, excluded.archive_storage_gb)),
            data_transfer_bytes = trim_scale(coalesce(
                m.data_transfer_bytes + excluded.data_transfer_bytes,
                m.data_transfer_bytes, excluded.data_transfer_bytes)),
            account_seconds = trim_scale(coalesce(
                m.account_seconds + excluded.account_seconds, m.account_seconds, excluded.account_seconds)),
            ou_seconds = trim_scale(coalesce(m.ou_seconds + excluded.ou_seconds, m.ou_seconds, excluded.ou_seconds)),
            scp_seconds = trim_scale(coalesce(m.scp_seconds + excluded.scp_seconds, m.scp_seconds, excluded.scp_seconds))
    )
    ",
            $then
        )
    };
}

/// The meters whose monthly figures are recomputed, as an SQL array.
macro_rules! recomputed_meters {
    () => {
        "array['accounts', 'organizational_units', 'service_control_policies', 'vpn_connections_count', \
        'custom_ec2_instances', 'custom_rds_instances', 'custom_s3_buckets', 'custom_lambda_invocations']"
    };
}

pub(crate) use {recomputed_meters, with_totals};

/// Recomputes peaks and sample meters of these months, whose rows the transaction has locked.
pub(crate) async fn recompute(
    months: &BTreeSet<CustomerMonth>,
    now: DateTime<Utc>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    if months.is_empty() {
        return Ok(());
    }
    let customers: Vec<&str> = months.iter().map(|(customer, _)| customer.as_str()).collect();
    let firsts: Vec<NaiveDate> = months.iter().map(|(_, month)| *month).collect();
    sqlx::query(RECOMPUTE_MONTHS).bind(customers).bind(firsts).bind(now).execute(connection).await.map(drop)
}

// How many were live at once is how many were live in an hour, at its highest: an account has one row an hour, and the rows of
// units and policies say how many they stand for. A column of samples has the meter of its name, if that is defined: its
// highest hour for a maximum, otherwise its sum.
pub(super) const RECOMPUTE_MONTHS: &str = concat!(
    "with asked as (
        select * from unnest($1::text[], $2::date[]) as i (customer_id, month)
    ), hours as (
        select
            a.customer_id, a.month, u.window_start, u.meter,
            sum(case when u.meter in ('accounts', 'organizational_units', 'service_control_policies')
                then u.parts else u.total end) as number
        from asked a
        join usage_rows u
            on u.customer_id = a.customer_id
            and u.meter = any(",
    recomputed_meters!(),
    ")
            and u.window_start >= a.month::timestamp at time zone 'UTC'
            and u.window_start < (a.month + interval '1 month') at time zone 'UTC'
        group by 1, 2, 3, 4
    ), figures as (
        select
            h.customer_id, h.month, h.meter,
            case when s.aggregation in ('sum', 'time_weighted') then sum(h.number) else max(h.number) end as figure
        from hours h
        left join sample_meters s using (meter)
        group by 1, 2, 3, s.aggregation
    ), wide as (
        select
            a.customer_id, a.month,
            max(f.figure) filter (where f.meter = 'accounts') as account_count,
            max(f.figure) filter (where f.meter = 'organizational_units') as ou_count,
            max(f.figure) filter (where f.meter = 'service_control_policies') as scp_count,
            max(f.figure) filter (where f.meter = 'vpn_connections_count') as vpn_connections_count,
            max(f.figure) filter (where f.meter = 'custom_ec2_instances') as custom_ec2_instances,
            max(f.figure) filter (where f.meter = 'custom_rds_instances') as custom_rds_instances,
            max(f.figure) filter (where f.meter = 'custom_s3_buckets') as custom_s3_buckets,
            max(f.figure) filter (where f.meter = 'custom_lambda_invocations') as custom_lambda_invocations
        from asked a
        left join figures f using (customer_id, month)
        group by 1, 2
    )
    update usage_metrics m set
        updated_at = greatest(m.updated_at, $3),
        account_count = w.account_count,
        ou_count = w.ou_count,
        scp_count = w.scp_count,
        vpn_connections_count = w.vpn_connections_count,
        custom_ec2_instances = w.custom_ec2_instances,
        custom_rds_instances = w.custom_rds_instances,
        custom_s3_buckets = w.custom_s3_buckets,
        custom_lambda_invocations = w.custom_lambda_invocations
    from wide w
    where m.customer_id = w.customer_id and m.month = w.month"
);
