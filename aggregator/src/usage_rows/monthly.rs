//! The monthly totals, and the one place where a meter becomes a column of `usage_metrics`.

/// A statement that also adds to the monthly totals.
///
/// `$with` opens a `with` whose last query is `change (customer_id, window_start, meter, quantity)`, `$now` is the parameter
/// that holds the time, `$then` the statement's own last part. Months are written in the order of (customer, month), the
/// order in which every writer locks them. Usage of no customer has no monthly total.
macro_rules! with_monthly_totals {
    ($with:literal, $now:literal, $then:literal) => {
        concat!(
            $with,
            ", months_written as (
        insert into usage_metrics as m (
            customer_id, month, updated_at,
            cloudtrail_events, guardduty_findings, config_rule_evaluations, log_storage_gb, nat_gateway_bytes
        )
        select
            customer_id, date_trunc('month', window_start at time zone 'UTC')::date as month, ",
            $now,
            ",
            coalesce(sum(quantity) filter (where meter = 'cloudtrail_events'), 0),
            coalesce(sum(quantity) filter (where meter = 'guardduty_findings'), 0),
            coalesce(sum(quantity) filter (where meter = 'config_rule_evaluations'), 0),
            coalesce(sum(quantity) filter (where meter = 'log_storage_gb'), 0),
            coalesce(sum(quantity) filter (where meter = 'nat_gateway_bytes'), 0)
        from change
        where customer_id is not null
        group by 1, 2
        order by 1, 2
        on conflict (customer_id, month) do update set
            updated_at = greatest(m.updated_at, excluded.updated_at),
            cloudtrail_events = m.cloudtrail_events + excluded.cloudtrail_events,
            guardduty_findings = m.guardduty_findings + excluded.guardduty_findings,
            config_rule_evaluations = m.config_rule_evaluations + excluded.config_rule_evaluations,
            log_storage_gb = m.log_storage_gb + excluded.log_storage_gb,
            nat_gateway_bytes = m.nat_gateway_bytes + excluded.nat_gateway_bytes
    )
    ",
            $then
        )
    };
}

pub(crate) use with_monthly_totals;
