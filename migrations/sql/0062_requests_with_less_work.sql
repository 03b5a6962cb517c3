-- What every request does in PostgreSQL, with less work: its call is appended to the trail with those of other customers in one
-- statement, and its key is looked up by a function whose plan is kept.
--
-- What is written and what is found is what was before: the same hash over the same fields, the same proof of each customer, the
-- same limits of time.
set local role securebase_owner;

-- Appends to each customer's chain the events of its array, in order. Chains are locked in one order, so that two servers cannot
-- wait for each other; a round appends the next event of every chain that has one.
create function append_audit_calls(customers text[], macs bytea[], events jsonb[]) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    caller text := case when current_setting('role') in ('none', '') then session_user
        else current_setting('role') end;
    round int := 0;
    appended bigint;
    recorded bigint := 0;
begin
    -- The chains stay locked until the caller's transaction ends: one that says nothing more does not hold them for long.
    perform set_config('idle_in_transaction_session_timeout', '15s', true);
    -- Two rounds at once would give two events of a chain the same number.
    if exists (select from unnest(customers) as c (id) group by c.id having 1 < count(*)) then
        raise exception 'a customer is named once' using errcode = 'invalid_parameter_value';
    end if;
    -- As current_tenant() proves one: both sides are hashed once more before they are compared.
    if exists (
        select from unnest(customers, macs) as c (id, mac)
        where coalesce(c.id, '') = '' or not exists (
            select from public.tenant_keys k
            where public.hmac(c.mac, k.key, 'sha256')
                = public.hmac(public.hmac(convert_to(c.id, 'UTF8'), k.key, 'sha256'), k.key, 'sha256'))
    ) then
        raise exception 'the application records events of its proven tenants only'
            using errcode = 'insufficient_privilege';
    end if;
    if exists (
        select from unnest(events) as of_one (calls), jsonb_array_elements(of_one.calls) as e (value)
        where ((e.value ->> 'at')::timestamptz between clock_timestamp() - interval '1 hour'
            and clock_timestamp() + interval '5 minutes') is not true
    ) then
        raise exception 'a call is recorded soon after it was answered' using errcode = 'invalid_parameter_value';
    end if;
    insert into public.audit_heads (chain, customer_id, sequence, hash, occurred_at)
    select c.id, c.id, 0, decode(repeat('00', 32), 'hex'), '-infinity'
    from unnest(customers) as c (id)
    where not exists (select from public.audit_heads h where h.chain = c.id)
    order by c.id collate "C"
    on conflict (chain) do nothing;
    perform from public.audit_heads h where h.chain = any (customers) order by h.chain collate "C" for update;
    loop
        with call as (
            select h.customer_id, h.chain, h.sequence + 1 as sequence, h.hash as previous_hash,
                -- Never earlier than the event before it, also when the clock is put back.
                greatest((e.value ->> 'at')::timestamptz, h.occurred_at) as occurred_at,
                e.value ->> 'actor' as actor, e.value ->> 'action' as action, e.value ->> 'subject' as subject,
                coalesce(e.value -> 'details', '{}') as details
            from unnest(customers, events) as c (id, calls)
            cross join lateral (select c.calls -> round) as e (value)
            join public.audit_heads h on h.chain = c.id
            where e.value is not null
        ), written as materialized (
            select call.*, convert_to(call.chain, 'UTF8') as chain_bytes, convert_to(call.sequence::text, 'UTF8') as sequence_bytes,
                convert_to((extract(epoch from call.occurred_at) * 1000000)::bigint::text, 'UTF8') as occurred_at_bytes,
                convert_to(caller, 'UTF8') as caller_bytes, convert_to(call.actor, 'UTF8') as actor_bytes,
                convert_to(call.action, 'UTF8') as action_bytes, convert_to(call.subject, 'UTF8') as subject_bytes,
                convert_to(call.details::text, 'UTF8') as details_bytes
            from call
        ), event as materialized (
            -- As audit_field() writes each.
            select w.*,
                sha256(w.previous_hash
                    || int4send(octet_length(w.chain_bytes)) || w.chain_bytes
                    || int4send(octet_length(w.sequence_bytes)) || w.sequence_bytes
                    || int4send(octet_length(w.occurred_at_bytes)) || w.occurred_at_bytes
                    || int4send(octet_length(w.caller_bytes)) || w.caller_bytes
                    || int4send(octet_length(w.actor_bytes)) || w.actor_bytes
                    || int4send(octet_length(w.action_bytes)) || w.action_bytes
                    || int4send(octet_length(w.subject_bytes)) || w.subject_bytes
                    || int4send(octet_length(w.details_bytes)) || w.details_bytes) as hash
            from written w
        ), appended as (
            insert into public.audit_events
                (customer_id, sequence, occurred_at, recorded_by, actor, action, subject, details, previous_hash, hash)
            select customer_id, sequence, occurred_at, caller, actor, action, subject, details, previous_hash, hash from event
        )
        update public.audit_heads h set sequence = event.sequence, hash = event.hash, occurred_at = event.occurred_at
        from event where h.chain = event.chain;
        get diagnostics appended = row_count;
        exit when appended = 0;
        recorded := recorded + appended;
        round := round + 1;
    end loop;
    return recorded;
end
$$;

create or replace function record_audit_calls(customers text[], macs bytea[], events jsonb[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    position int;
begin
    -- Keys before chains, as those do who make and rotate keys; in one order.
    for position in
        select i from generate_subscripts(customers, 1) as i
        where events[i] @? '$[*].key_id' order by customers[i] collate "C"
    loop
        perform public.set_tenant(customers[position], macs[position]);
        -- In one order, so that two servers cannot wait for each other's keys.
        perform from public.api_keys k
        where k.key_id in (select e.value ->> 'key_id' from jsonb_array_elements(events[position]) as e (value))
        order by k.key_id for update;
        update public.api_keys k
        set last_used_at = greatest(k.last_used_at, u.at)
        from (
            select e.value ->> 'key_id' as key_id, max((e.value ->> 'at')::timestamptz) as at
            from jsonb_array_elements(events[position]) as e (value)
            where e.value ? 'key_id'
            group by 1
        ) as u
        where k.key_id = u.key_id and (k.last_used_at is null or k.last_used_at < u.at - interval '1 minute');
    end loop;
    -- Whoever comes next in this transaction is nobody.
    perform set_config('securebase.tenant', '', true);
    return public.append_audit_calls(customers, macs, events);
end
$$;

revoke all on function append_audit_calls(text[], bytea[], jsonb[]) from public;
grant execute on function append_audit_calls(text[], bytea[], jsonb[]) to securebase_app;

-- As before, in a language that keeps its plan.
create or replace function look_up_api_key(wanted text)
returns table (
    customer_id text, scopes text[], secret_hash text, generation int, expires_at timestamptz, revoked_at timestamptz
)
language plpgsql stable security definer rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select k.customer_id, k.scopes, k.secret_hash, k.generation, k.expires_at, k.revoked_at
        from public.api_keys k
        where k.key_id = wanted;
end
$$;

reset role;
