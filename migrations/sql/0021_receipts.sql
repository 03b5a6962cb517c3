-- What there should be: declared sources, what their proofs expect, and through which hour all of it is there.

set local role securebase_owner;

-- Exactly one source feeds a meter of a customer. One that is not declared is best effort.
create table sources (
    customer_id text not null references customers,
    meter text not null,
    -- What delivers: `cloudtrail_digests`, `guardduty_list`, `usage_samples`, ...
    kind text not null,
    source_class text not null,
    -- How much later than an event its record may be delivered.
    lateness_seconds int not null,
    -- From when on the source is expected to say everything.
    since timestamptz not null,
    -- Of which trail, where several deliver; null: every trail that is seen must be whole.
    trail text,
    -- Lanes (`REGION/TRAIL`) that every account has, besides those it is seen to have.
    lanes text[] not null default '{}',
    declared_at timestamptz not null,
    primary key (customer_id, meter),
    constraint sources_kind_is_a_word check (kind ~ '^[a-z][a-z0-9_]{1,62}$'),
    constraint sources_class_is_known check (source_class in ('proven', 'reconciled', 'best effort')),
    constraint sources_lateness_is_not_negative check (lateness_seconds >= 0),
    constraint sources_start_on_the_hour check (mod(extract(epoch from since), 3600) = 0)
);

-- One statement of what there should be, such as a digest file: it speaks for a stretch of delivery time of one lane.
create table source_proofs (
    proof_id bigint generated always as identity primary key,
    meter text not null,
    account_id text not null,
    lane text not null,
    name text not null,
    -- The last part of the name: what a proof keeps wherever a copy of it lies.
    file_name text not null,
    content_sha256 bytea not null,
    covers_from timestamptz not null,
    covers_until timestamptz not null,
    -- It adds objects to a stretch that another proof speaks for.
    is_backfill boolean not null,
    previous_file_name text,
    previous_sha256 bytea,
    is_signature_checked boolean not null,
    recorded_at timestamptz not null,
    constraint source_proofs_once_in_a_lane unique (meter, account_id, lane, file_name),
    constraint source_proofs_account_has_12_digits check (account_id ~ '^[0-9]{12}$'),
    constraint source_proofs_cover_a_stretch check (covers_until > covers_from),
    constraint source_proofs_previous_is_named_and_hashed check (
        (previous_file_name is null) = (previous_sha256 is null)),
    constraint source_proofs_hashes_are_sha256 check (
        octet_length(content_sha256) = 32 and octet_length(previous_sha256) = 32)
);

create index source_proofs_by_previous on source_proofs (meter, account_id, lane, previous_file_name);

-- An object that a proof names. Done: all slices of one of its runs are acknowledged and rolled up.
create table expected_objects (
    proof_id bigint not null references source_proofs,
    name text not null,
    file_name text not null,
    content_sha256 bytea not null,
    first_event_at timestamptz,
    last_event_at timestamptz,
    done_at timestamptz,
    done_run bytea,
    primary key (proof_id, name),
    constraint expected_objects_hash_is_sha256 check (octet_length(content_sha256) = 32),
    constraint expected_objects_done_by_a_run check (
        (done_at is null) = (done_run is null) and octet_length(done_run) = 16)
);

create index expected_objects_waiting on expected_objects (proof_id, name) where done_at is null;

-- A unit of usage that a list names. Done: its identity is counted.
create table expected_usage (
    proof_id bigint not null references source_proofs,
    window_start timestamptz not null,
    identity bytea not null,
    done_at timestamptz,
    primary key (proof_id, window_start, identity),
    constraint expected_usage_identity_has_16_bytes check (octet_length(identity) = 16),
    constraint expected_usage_window_starts_on_the_hour check (mod(extract(epoch from window_start), 3600) = 0)
);

create index expected_usage_waiting on expected_usage (proof_id, window_start) where done_at is null;

-- The stretches of delivery time that the proofs of a lane speak for, joined where they touch.
create table source_lanes (
    meter text not null,
    account_id text not null,
    lane text not null,
    covers tstzmultirange not null default '{}',
    -- The first proof that says nothing came before it.
    starts_at timestamptz,
    -- Where a proof does not follow the one it names: somebody changed or replaced one of them.
    breaks timestamptz[] not null default '{}',
    primary key (meter, account_id, lane)
);

-- Through which hour a customer's usage of a meter is complete.
create table completeness (
    customer_id text not null references customers,
    meter text not null,
    source_class text not null,
    -- The start of the last complete hour; null while there is none, or where the source proves nothing.
    complete_through timestamptz,
    -- What the next hour waits for.
    waits_for text not null,
    updated_at timestamptz not null,
    primary key (customer_id, meter),
    constraint completeness_class_is_known check (source_class in ('proven', 'reconciled', 'best effort')),
    constraint completeness_is_of_whole_hours check (mod(extract(epoch from complete_through), 3600) = 0)
);

-- A correction can make an hour's amounts negative; a count never is.
alter table closed_totals
    drop constraint closed_totals_total_is_exact,
    add constraint closed_totals_total_is_exact check (
        total > '-Infinity' and total < 'Infinity' and total = round(total, 18));

alter table sources enable row level security;
alter table sources force row level security;
create policy app_reads_its_own on sources for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on sources for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy aggregator_declares on sources for insert to securebase_aggregator with check (true);
create policy aggregator_changes on sources for update to securebase_aggregator using (true) with check (true);

alter table completeness enable row level security;
alter table completeness force row level security;
create policy app_reads_its_own on completeness for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on completeness for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy aggregator_adds on completeness for insert to securebase_aggregator with check (true);
create policy aggregator_changes on completeness for update to securebase_aggregator using (true) with check (true);

revoke all on sources, source_proofs, expected_objects, expected_usage, source_lanes, completeness from public;
grant select on sources, completeness to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant select on source_proofs, expected_objects, expected_usage, source_lanes to
    securebase_aggregator, securebase_operator;
grant insert, update on sources, source_lanes, completeness to securebase_aggregator;
grant insert on source_proofs, expected_objects, expected_usage to securebase_aggregator;
grant update (done_at, done_run) on expected_objects to securebase_aggregator;
grant update (done_at) on expected_usage to securebase_aggregator;

reset role;
