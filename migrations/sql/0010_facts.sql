-- Facts: samples, intervals and rows of exports. What stands of them, and what of it is missing.

set local role securebase_owner;

-- Totals of facts are decimals, exact to 18 places; those of counts stay whole. `parts` says how many resources or amounts
-- are in a total of facts, null for counts: a total of no parts is missing, so its row goes. A correction can make the amounts
-- of an hour negative.
alter table usage_rows alter column total type numeric;
alter table usage_rows
    add column parts bigint,
    drop constraint usage_rows_total_is_not_negative,
    add constraint usage_rows_counts_are_not_negative check (parts is not null or total >= 0),
    add constraint usage_rows_total_is_exact check (scale(total) <= 18),
    add constraint usage_rows_parts_are_positive check (parts > 0);

create policy rollup_removes on usage_rows for delete to securebase_aggregator using (parts is not null);
grant delete on usage_rows to securebase_aggregator;

-- Meters that are data. A definition never changes: what was measured under a name was measured by its rules.
create table sample_meters (
    meter text primary key,
    aggregation text not null,
    gap_seconds_max int,
    description text not null,
    defined_at timestamptz not null,
    constraint sample_meters_name_has_its_form check (meter ~ '^[a-z][a-z0-9_]{1,39}$'),
    constraint sample_meters_aggregation_is_known check (aggregation in ('sum', 'max', 'time_weighted')),
    constraint sample_meters_gap_is_for_levels_over_time
        check ((aggregation = 'time_weighted') = (gap_seconds_max is not null) and gap_seconds_max > 0)
);

-- The roll-up of a bucket's facts: its row is locked first, so one transaction at a time sees and changes them, carry-in
-- included. `sequence` numbers those transactions; what is live is counted up to `through`.
create table fact_buckets (
    bucket smallint primary key,
    sequence bigint not null,
    through timestamptz not null,
    constraint fact_buckets_are_those_of_the_logs check (bucket between 0 and 31),
    constraint fact_buckets_sequence_is_not_negative check (sequence >= 0),
    constraint fact_buckets_through_a_whole_hour check (mod(extract(epoch from through), 3600) = 0)
);

-- The facts that stand, as far as their logs are rolled up: of each key the one of the highest revision, then content hash.
-- Rows of an export are not in force until the export is.
create table usage_facts (
    key bytea primary key,
    bucket smallint not null references fact_buckets,
    account_id text not null,
    meter text not null,
    resource text not null,
    time timestamptz not null,
    end_at timestamptz,
    revision bigint not null,
    content_hash bytea not null,
    kind text not null,
    value numeric,
    region text not null,
    category text not null,
    export text,
    in_force boolean not null,
    constraint usage_facts_hashes_have_16_bytes check (octet_length(key) = 16 and octet_length(content_hash) = 16),
    constraint usage_facts_kind_is_known check (kind in ('amount', 'level', 'live', 'gone', 'export_end')),
    constraint usage_facts_value_is_of_its_kind check ((kind in ('live', 'gone')) = (value is null)),
    constraint usage_facts_value_is_exact check (scale(value) <= 18),
    constraint usage_facts_revision_is_not_negative check (revision >= 0),
    constraint usage_facts_end_after_they_begin check (end_at > time)
);

create index usage_facts_by_resource on usage_facts (account_id, meter, resource, time) where in_force;
create index usage_facts_by_export on usage_facts (export, revision) where export is not null;
create index usage_facts_that_are_live on usage_facts (bucket) where kind in ('live', 'gone');

-- Every generation of every export: what was seen of it, how much there is, and which one counts.
create table usage_exports (
    export text not null,
    generation bigint not null,
    seen bigint not null,
    expected bigint,
    in_force boolean not null default false,
    changed_at timestamptz not null,
    primary key (export, generation),
    constraint usage_exports_are_counted check (seen >= 0 and expected >= 0 and generation >= 0),
    constraint usage_exports_in_force_are_complete check (not in_force or (expected is not null and expected <= seen))
);

create unique index usage_exports_have_one_in_force on usage_exports (export) where in_force;

-- What is missing: stretches between samples that lie too far apart.
create table usage_gaps (
    account_id text not null,
    meter text not null,
    resource text not null,
    from_at timestamptz not null,
    until_at timestamptz not null,
    primary key (account_id, meter, resource, from_at),
    constraint usage_gaps_are_half_open check (until_at > from_at)
);

-- Seconds live, beside the peaks in account_count, ou_count and scp_count.
alter table usage_metrics
    add column account_seconds numeric,
    add column ou_seconds numeric,
    add column scp_seconds numeric;

grant select on sample_meters to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant select on fact_buckets, usage_facts, usage_exports, usage_gaps to securebase_aggregator, securebase_operator;
grant insert on sample_meters to securebase_aggregator;
grant insert, update on fact_buckets, usage_facts, usage_exports to securebase_aggregator;
grant insert, delete on usage_gaps to securebase_aggregator;

reset role;
