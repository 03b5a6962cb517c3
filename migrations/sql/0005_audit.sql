-- What was done, by whom: append-only, and chained by hash so that any change, gap or lost end can be found.
--
-- Every customer has a chain of its own, and the platform one more (customer_id null). An event's hash is
--
--     sha256(previous_hash || field(customer_id or '') || field(sequence) || field(occurred_at) || field(recorded_by)
--            || field(actor) || field(action) || field(subject) || field(details))
--
-- field(text) = the length of its UTF-8 bytes as four bytes, most significant first, then the bytes. sequence is decimal
-- digits, occurred_at the microseconds since 1970-01-01 00:00 UTC in decimal digits, details the text of the jsonb value.
-- The hash before the first event is 32 zero bytes. audit_heads holds the end of each chain, so a cut tail shows as well.
--
-- Retention: 7 years, and 10 for customers of the tier gov-federal. Nothing here is ever deleted by a row; a month that
-- every customer may let go is detached whole by the owner, after it was archived.
set local role securebase_owner;

-- The end of each chain. Its row is the lock that orders a chain's events.
create table audit_heads (
    chain text primary key,
    customer_id text,
    sequence bigint not null,
    hash bytea not null,
    occurred_at timestamptz not null,
    constraint audit_heads_chain_is_the_customers check (chain = coalesce(customer_id, '')),
    constraint audit_heads_sequence_is_not_negative check (sequence >= 0),
    constraint audit_heads_hash_is_sha256 check (octet_length(hash) = 32)
);

create table audit_events (
    customer_id text,
    -- The customer, or '' for the platform.
    chain text not null generated always as (coalesce(customer_id, '')) stored,
    -- 1, 2, 3, ... in its chain.
    sequence bigint not null,
    occurred_at timestamptz not null,
    -- The database role that recorded it: which room vouches for the rest.
    recorded_by text not null,
    -- Who did it: `key:<key id>`, `operator`, `billing`, `system`, ...
    actor text not null,
    -- What was done: `api_key.created`, `invoice.issued`, `request.get`, ...
    action text not null,
    -- What it was done to: a key id, an invoice number, a path.
    subject text not null,
    details jsonb not null,
    previous_hash bytea not null,
    hash bytea not null,
    primary key (chain, sequence, occurred_at),
    constraint audit_events_customer_is_a_slug check (customer_id ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
    constraint audit_events_sequence_is_positive check (sequence > 0),
    constraint audit_events_words_are_short check (
        octet_length(actor) between 1 and 200 and octet_length(action) between 1 and 100 and octet_length(subject) <= 1000),
    constraint audit_events_details_are_a_small_object check (
        jsonb_typeof(details) = 'object' and octet_length(details::text) <= 65536),
    constraint audit_events_hashes_are_sha256 check (octet_length(previous_hash) = 32 and octet_length(hash) = 32)
) partition by range (occurred_at);

-- Takes what no month holds, so that recording never fails for want of a partition.
create table audit_events_default partition of audit_events default;

create index audit_events_by_customer on audit_events (customer_id, occurred_at desc, sequence desc);

create function refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'table % is append-only', tg_table_name using errcode = 'restrict_violation';
end
$$;

-- A row trigger of the parent is one of each partition, present and future; a truncate trigger is not.
create trigger audit_events_are_append_only
    before update or delete on audit_events for each row execute function refuse_change();
create trigger audit_events_are_never_truncated
    before truncate on audit_events for each statement execute function refuse_truncate();
create trigger audit_events_default_is_never_truncated
    before truncate on audit_events_default for each statement execute function refuse_truncate();

-- A head moves by one event at a time and never goes.
create function keep_audit_heads() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'DELETE' or new.chain <> old.chain or new.sequence <> old.sequence + 1 then
        raise exception 'the head of an audit chain moves one event at a time' using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger audit_heads_move_by_one
    before update or delete on audit_heads for each row execute function keep_audit_heads();
create trigger audit_heads_are_never_truncated
    before truncate on audit_heads for each statement execute function refuse_truncate();

-- Makes the monthly partitions of this month and of so many months ahead; returns how many are new. A month whose events
-- already went to the default partition stays there: they are found all the same.
create function make_audit_partitions(months_ahead int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    month date := date_trunc('month', now() at time zone 'UTC')::date;
    last_month date := (month + make_interval(months => least(greatest(months_ahead, 0), 24)))::date;
    partition_name text;
    made int := 0;
begin
    -- One at a time; the number names this work and nothing else.
    perform pg_advisory_xact_lock(7311520905);
    while month <= last_month loop
        partition_name := 'audit_events_' || to_char(month, 'YYYY_MM');
        if to_regclass('public.' || partition_name) is null then
            begin
                execute format(
                    'create table public.%I partition of public.audit_events for values from (%L) to (%L)',
                    partition_name,
                    month::text || ' 00:00:00+00',
                    (month + interval '1 month')::date::text || ' 00:00:00+00');
                execute format('alter table public.%I enable row level security', partition_name);
                execute format('alter table public.%I force row level security', partition_name);
                execute format(
                    'create trigger %I before truncate on public.%I for each statement '
                    'execute function public.refuse_truncate()',
                    partition_name || '_is_never_truncated', partition_name);
                made := made + 1;
            exception when check_violation then
                null; -- The default partition holds events of this month.
            end;
        end if;
        month := (month + interval '1 month')::date;
    end loop;
    return made;
end
$$;

-- One field of the hash's input.
create function audit_field(value text) returns bytea
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select int4send(octet_length(convert_to(value, 'UTF8'))) || convert_to(value, 'UTF8')
$$;

-- Appends one event to a chain. For the functions below: it asks nobody who they are.
create function append_audit_event(
    customer_id text, recorded_by text, occurred_at timestamptz, actor text, action text, subject text, details jsonb
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    chain_name text := coalesce(customer_id, '');
    head public.audit_heads;
    next_sequence bigint;
    next_at timestamptz;
    next_hash bytea;
begin
    insert into public.audit_heads (chain, customer_id, sequence, hash, occurred_at)
    values (chain_name, append_audit_event.customer_id, 0, decode(repeat('00', 32), 'hex'), '-infinity')
    on conflict (chain) do nothing;
    select h.* into strict head from public.audit_heads h where h.chain = chain_name for update;
    next_sequence := head.sequence + 1;
    -- Never earlier than the event before it, also when the clock is put back.
    next_at := greatest(append_audit_event.occurred_at, head.occurred_at);
    next_hash := sha256(
        head.hash
        || public.audit_field(chain_name)
        || public.audit_field(next_sequence::text)
        || public.audit_field((extract(epoch from next_at) * 1000000)::bigint::text)
        || public.audit_field(append_audit_event.recorded_by)
        || public.audit_field(append_audit_event.actor)
        || public.audit_field(append_audit_event.action)
        || public.audit_field(append_audit_event.subject)
        || public.audit_field(append_audit_event.details::text));
    insert into public.audit_events
        (customer_id, sequence, occurred_at, recorded_by, actor, action, subject, details, previous_hash, hash)
    values (
        append_audit_event.customer_id, next_sequence, next_at, append_audit_event.recorded_by,
        append_audit_event.actor, append_audit_event.action, append_audit_event.subject,
        append_audit_event.details, head.hash, next_hash);
    update public.audit_heads h set sequence = next_sequence, hash = next_hash, occurred_at = next_at
    where h.chain = chain_name;
    return next_sequence;
end
$$;

-- Records what is done in this transaction; the event stands or falls with it. customer_id null: the platform's chain.
-- Returns the event's number in its chain. The application records for its proven tenant only.
--
-- The chain stays locked until the transaction ends, so call it last, in a transaction that is read committed; one that
-- records for several customers does so in the order of their ids, or two of them could wait for each other.
create function record_audit_event(customer_id text, actor text, action text, subject text, details jsonb)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- current_user is the owner in here; the role that was taken on, or else the login, is who called.
    caller text := case when current_setting('role') in ('none', '') then session_user
        else current_setting('role') end;
begin
    if caller = 'securebase_app'
        and (record_audit_event.customer_id is null
            or public.current_tenant() is distinct from record_audit_event.customer_id)
    then
        raise exception 'the application records events of its proven tenant only'
            using errcode = 'insufficient_privilege';
    end if;
    return public.append_audit_event(
        record_audit_event.customer_id, caller, clock_timestamp(), record_audit_event.actor,
        record_audit_event.action, record_audit_event.subject, coalesce(record_audit_event.details, '{}'));
end
$$;

-- The owner writes, inside the functions above; row-level security is forced on it as well.
alter table audit_events enable row level security;
alter table audit_events force row level security;
create policy functions_append on audit_events for insert to securebase_owner with check (true);
create policy app_reads_its_own on audit_events for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on audit_events for select to securebase_operator, securebase_analytics using (true);
-- A partition asked directly shows nothing to anyone: no policy, no grant.
alter table audit_events_default enable row level security;
alter table audit_events_default force row level security;

alter table audit_heads enable row level security;
alter table audit_heads force row level security;
create policy functions_read on audit_heads for select to securebase_owner using (true);
create policy functions_begin on audit_heads for insert to securebase_owner with check (sequence = 0);
create policy functions_move on audit_heads for update to securebase_owner using (true) with check (true);
create policy app_reads_its_own on audit_heads for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on audit_heads for select to securebase_operator, securebase_analytics using (true);

grant select on audit_events, audit_heads to securebase_app, securebase_operator, securebase_analytics;
grant execute on function record_audit_event(text, text, text, text, jsonb) to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator;
grant execute on function make_audit_partitions(int) to securebase_aggregator, securebase_operator;

select make_audit_partitions(3);

reset role;
