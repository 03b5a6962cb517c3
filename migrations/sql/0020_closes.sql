-- Closes: what a customer's month came to at a cut. Billing rates closed totals and nothing else.

set local role securebase_owner;

-- Counts every change of who owns an account, so that a close can say which directory it was made with.
create table directory_version (
    -- One row.
    singleton boolean primary key default true constraint directory_version_is_one check (singleton),
    version bigint not null
);

insert into directory_version (version) values (0);

-- As the owner: whoever may change the directory must not be able to set its version.
create function count_directory_change() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.directory_version set version = version + 1;
    return null;
end
$$;

create trigger account_ownership_changes_are_counted
    after insert or update or delete on account_ownership
    for each statement execute function count_directory_change();

-- One cut of a customer's period. A later cut of the same period (late usage, a corrected directory) is another row;
-- the one with the highest number stands.
create table closes (
    close_id bigint generated always as identity primary key,
    customer_id text not null references customers,
    -- Half-open, UTC days.
    period_start date not null,
    period_end date not null,
    cut int not null,
    source_class text not null,
    -- Who closed although something was missing, and why; null for a close that was complete.
    overridden_by text,
    override_reason text,
    directory_version bigint not null,
    cut_at timestamptz not null,
    evidence_sha256 bytea not null,
    -- The transaction that wrote this close: its totals and evidence come with it or not at all.
    written_in xid8 not null default pg_current_xact_id(),
    constraint closes_number_their_cuts unique (customer_id, period_start, cut),
    -- What totals and evidence refer to, so that none can belong to another customer than its close.
    constraint closes_with_customer unique (close_id, customer_id),
    constraint closes_cut_is_positive check (cut > 0),
    constraint closes_period_is_half_open check (period_end > period_start),
    constraint closes_source_class_is_known check (source_class in ('proven', 'reconciled', 'best effort')),
    constraint closes_override_has_a_reason check (
        (overridden_by is null) = (override_reason is null) and overridden_by <> '' and override_reason <> ''),
    constraint closes_directory_version_is_not_negative check (directory_version >= 0),
    constraint closes_evidence_is_a_sha256 check (octet_length(evidence_sha256) = 32)
);

-- What each counter came to, recomputed from the logs up to the cut. Hourly windows, raw units, exact.
create table closed_totals (
    close_id bigint not null,
    customer_id text not null,
    account_id text not null,
    meter text not null,
    region text not null,
    category text not null,
    window_start timestamptz not null,
    total numeric not null,
    -- SHA-256 over the counter's sorted identities; for facts over their sorted (key, revision, time, value).
    identities bytea not null,
    primary key (close_id, account_id, meter, window_start, region, category),
    constraint closed_totals_stay_with_their_customer
        foreign key (close_id, customer_id) references closes (close_id, customer_id),
    constraint closed_totals_account_has_12_digits check (account_id ~ '^[0-9]{12}$'),
    constraint closed_totals_window_starts_on_the_hour check (mod(extract(epoch from window_start), 3600) = 0),
    -- Neither NaN nor infinite, and at most 18 digits after the point.
    constraint closed_totals_total_is_exact check (
        total >= 0 and total < 'Infinity' and total = round(total, 18)),
    constraint closed_totals_identities_are_a_sha256 check (octet_length(identities) = 32)
);

create index closed_totals_by_meter on closed_totals (close_id, meter, window_start);

-- The evidence file of a close: canonical bytes, compressed with gzip; the hash is over the uncompressed ones.
create table evidence_records (
    close_id bigint primary key,
    customer_id text not null,
    sha256 bytea not null,
    document bytea not null,
    constraint evidence_records_stay_with_their_customer
        foreign key (close_id, customer_id) references closes (close_id, customer_id),
    constraint evidence_records_sha256_is_one check (octet_length(sha256) = 32)
);

-- A close never changes: neither its row nor what belongs to it.
create function keep_closes() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'table % is only ever added to', tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger closes_are_kept before update or delete or truncate on closes
    for each statement execute function keep_closes();
create trigger closed_totals_are_kept before update or delete or truncate on closed_totals
    for each statement execute function keep_closes();
create trigger evidence_records_are_kept before update or delete or truncate on evidence_records
    for each statement execute function keep_closes();

-- A close is whole or not there: what belongs to it is written in its own transaction.
create function come_with_the_close() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from added a
        left join public.closes c on c.close_id = a.close_id and c.written_in = pg_current_xact_id()
        where c.close_id is null
    ) then
        raise exception '% are written in the transaction of their close', tg_table_name
            using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;

create trigger closed_totals_come_with_their_close after insert on closed_totals
    referencing new table as added for each statement execute function come_with_the_close();
create trigger evidence_records_come_with_their_close after insert on evidence_records
    referencing new table as added for each statement execute function come_with_the_close();

-- At the end of the transaction a close has its evidence, and the hash it names is that evidence's.
create function have_evidence() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public.evidence_records e where e.close_id = new.close_id and e.sha256 = new.evidence_sha256
    ) then
        raise exception 'close % has no evidence of that hash', new.close_id
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger closes_have_evidence after insert on closes
    deferrable initially deferred for each row execute function have_evidence();

-- Customers see their own closes; the rooms see all; the aggregator alone adds.
alter table closes enable row level security;
alter table closes force row level security;
create policy app_reads_its_own on closes for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on closes for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy aggregator_closes on closes for insert to securebase_aggregator with check (true);

alter table closed_totals enable row level security;
alter table closed_totals force row level security;
create policy app_reads_its_own on closed_totals for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on closed_totals for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy aggregator_closes on closed_totals for insert to securebase_aggregator with check (true);

alter table evidence_records enable row level security;
alter table evidence_records force row level security;
create policy app_reads_its_own on evidence_records for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on evidence_records for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy aggregator_closes on evidence_records for insert to securebase_aggregator with check (true);

revoke all on directory_version, closes, closed_totals, evidence_records from public;
grant select on directory_version to
    securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant select on closes, closed_totals, evidence_records to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant insert on closes, closed_totals, evidence_records to securebase_aggregator;

reset role;
