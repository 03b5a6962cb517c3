-- Customers, the account directory, and usage.

set local role securebase_owner;

create type customer_tier as enum ('standard', 'fintech', 'healthcare', 'gov-federal');

-- What a tier allows: shown and alerted, never priced.
create table tier_features (
    tier customer_tier primary key,
    accounts_allowed int not null,
    regions_allowed int not null,
    sso_users_allowed int not null,
    constraint tier_features_are_positive
        check (accounts_allowed > 0 and regions_allowed > 0 and sso_users_allowed > 0)
);

insert into tier_features (tier, accounts_allowed, regions_allowed, sso_users_allowed) values
    ('standard', 5, 2, 10),
    ('fintech', 20, 5, 50),
    ('healthcare', 20, 5, 50),
    ('gov-federal', 50, 10, 200);

create table customers (
    customer_id text primary key,
    name text not null,
    tier customer_tier not null,
    currency char(3) not null default 'USD',
    tax_rate numeric(9, 6) not null default 0.08,
    contract_start timestamptz not null,
    billing_address text not null default '',
    tax_id text not null default '',
    created_at timestamptz not null default now(),
    constraint customers_id_is_a_slug check (customer_id ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
    constraint customers_name_is_given check (name <> ''),
    constraint customers_currency_is_a_code check (currency ~ '^[A-Z]{3}$'),
    constraint customers_tax_rate_is_a_fraction check (tax_rate >= 0 and tax_rate < 1),
    constraint customers_contract_starts_on_the_hour check (mod(extract(epoch from contract_start), 3600) = 0)
);

-- Every account ever seen or registered. Its row is the lock between the roll-up (shared) and a registration (exclusive).
create table accounts (
    account_id text primary key,
    name text not null default '',
    first_seen_at timestamptz not null,
    constraint accounts_id_has_12_digits check (account_id ~ '^[0-9]{12}$')
);

-- Who owns an account when: half-open intervals on whole hours that never overlap.
create table account_ownership (
    account_id text not null references accounts,
    customer_id text not null references customers,
    valid tstzrange not null,
    constraint account_ownership_is_half_open_on_whole_hours check (
        not isempty(valid) and lower_inc(valid) and not upper_inc(valid) and not lower_inf(valid)
        and mod(extract(epoch from lower(valid)), 3600) = 0
        and (upper_inf(valid) or mod(extract(epoch from upper(valid)), 3600) = 0)
    ),
    constraint account_ownership_has_one_owner_at_a_time exclude using gist (account_id with =, valid with &&)
);

create index account_ownership_by_customer on account_ownership (customer_id);

-- Hourly totals, one row per counter and log partition; readers sum over partitions. A row carries the owner of its
-- window, null outside every interval. No foreign keys and no pattern for the account, which would cost a third of the
-- roll-up's rate: it has locked the account's row, which keeps the pattern, and the owner comes from account_ownership.
-- Half of each page is left free: the rows of a running hour are all updated again and again, and an update that stays
-- in its page needs no new index entries (measured: half the time).
create table usage_rows (
    account_id text not null,
    meter text not null,
    region text not null,
    category text not null,
    window_start timestamptz not null,
    partition text not null,
    total numeric(38, 0) not null,
    version bigint not null,
    customer_id text,
    primary key (account_id, meter, window_start, region, category, partition),
    constraint usage_rows_window_starts_on_the_hour check (mod(extract(epoch from window_start), 3600) = 0),
    constraint usage_rows_total_is_not_negative check (total >= 0),
    constraint usage_rows_version_is_positive check (version > 0)
) with (fillfactor = 50);

create index usage_rows_by_customer on usage_rows (customer_id, meter, window_start);

-- How far each log partition has been rolled up; moved in the transaction that writes its rows.
create table rollup_cursors (
    partition text primary key,
    version bigint not null,
    updated_at timestamptz not null,
    constraint rollup_cursors_version_is_not_negative check (version >= 0)
);

-- Monthly totals, in the meter's raw unit: the exact sum of the customer's usage rows of that UTC month.
-- Null: no source of that meter has reported yet, which is not zero.
create table usage_metrics (
    customer_id text not null references customers,
    month date not null,
    cloudtrail_events numeric not null default 0,
    guardduty_findings numeric not null default 0,
    config_rule_evaluations numeric not null default 0,
    log_storage_gb numeric not null default 0,
    nat_gateway_bytes numeric not null default 0,
    security_hub_findings numeric,
    archive_storage_gb numeric,
    data_transfer_bytes numeric,
    account_count numeric,
    ou_count numeric,
    scp_count numeric,
    vpn_connections_count numeric,
    custom_ec2_instances numeric,
    custom_rds_instances numeric,
    custom_s3_buckets numeric,
    custom_lambda_invocations numeric,
    updated_at timestamptz not null,
    primary key (customer_id, month),
    constraint usage_metrics_month_is_a_first_day check (extract(day from month) = 1)
);

-- Tenants see their own rows; the rooms see what they work on, by one policy per command they use.
alter table customers enable row level security;
alter table customers force row level security;
create policy app_reads_its_own on customers for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on customers for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy directory_adds on customers for insert to securebase_aggregator with check (true);

alter table account_ownership enable row level security;
alter table account_ownership force row level security;
create policy app_reads_its_own on account_ownership for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on account_ownership for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy directory_adds on account_ownership for insert to securebase_aggregator with check (true);
create policy directory_changes on account_ownership for update to securebase_aggregator using (true) with check (true);

alter table usage_rows enable row level security;
alter table usage_rows force row level security;
create policy app_reads_its_own on usage_rows for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on usage_rows for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy rollup_adds on usage_rows for insert to securebase_aggregator with check (true);
create policy rollup_changes on usage_rows for update to securebase_aggregator using (true) with check (true);

alter table usage_metrics enable row level security;
alter table usage_metrics force row level security;
create policy app_reads_its_own on usage_metrics for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on usage_metrics for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy rollup_adds on usage_metrics for insert to securebase_aggregator with check (true);
create policy rollup_changes on usage_metrics for update to securebase_aggregator using (true) with check (true);

grant select on tier_features to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant select on customers, account_ownership, usage_rows, usage_metrics to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant select on accounts to
    securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant select on rollup_cursors to securebase_aggregator, securebase_operator;

grant insert on customers to securebase_aggregator;
grant insert, update on accounts, account_ownership, usage_rows, usage_metrics, rollup_cursors to securebase_aggregator;

reset role;
