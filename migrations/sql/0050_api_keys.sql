-- API keys: what is kept of one, who may look at it, and the one way to find it before anyone is authenticated.
set local role securebase_owner;

create table api_keys (
    -- 16 letters and digits, shown in the key itself.
    key_id text primary key,
    -- Null: an operator's key.
    customer_id text references customers,
    name text not null,
    scopes text[] not null,
    -- bcrypt of base64(SHA-256(secret)); the secret itself is nowhere.
    secret_hash text not null,
    -- Changes whenever something that was granted is taken back; what was derived from an older one no longer holds.
    generation int not null default 1,
    created_at timestamptz not null,
    created_by text not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    -- The key that takes this one's place; this one expires when the overlap ends.
    rotated_to text,
    -- To the minute, for it is written behind the requests.
    last_used_at timestamptz,
    -- What a successor refers to: a key of the same customer, so that nobody can ask for another's keys by naming them.
    constraint api_keys_with_customer unique (key_id, customer_id),
    constraint api_keys_stay_with_their_customer
        foreign key (rotated_to, customer_id) references api_keys (key_id, customer_id),
    constraint api_keys_id_is_base62 check (key_id ~ '^[0-9A-Za-z]{16}$'),
    constraint api_keys_name_is_short check (char_length(name) between 1 and 100),
    constraint api_keys_scopes_are_known check (
        cardinality(scopes) > 0
        and scopes <@ array['read:usage', 'read:invoices', 'read:audit', 'write:keys', 'write:config', 'admin']),
    -- No customer can hold an operator's key, whoever writes the row.
    constraint api_keys_admin_is_the_operators check ((customer_id is null) = ('admin' = any (scopes))),
    constraint api_keys_hash_is_bcrypt check (secret_hash ~ '^\$2[aby]\$10\$[./0-9A-Za-z]{53}$'),
    constraint api_keys_generation_is_positive check (generation > 0),
    constraint api_keys_expire_after_they_begin check (expires_at > created_at)
);

create index api_keys_by_customer on api_keys (customer_id, created_at desc, key_id);

-- What a key is never changes; what is taken back stays taken back, and makes a new generation.
create function keep_api_keys() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'a key is revoked, never deleted' using errcode = 'restrict_violation';
    end if;
    if (new.key_id, new.secret_hash, new.created_at, new.created_by)
            is distinct from (old.key_id, old.secret_hash, old.created_at, old.created_by)
        or new.customer_id is distinct from old.customer_id
        or new.scopes <> old.scopes
    then
        raise exception 'key % never changes', old.key_id using errcode = 'restrict_violation';
    end if;
    if old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at
        or old.expires_at is not null and (new.expires_at is null or new.expires_at > old.expires_at)
        or old.rotated_to is not null and new.rotated_to is distinct from old.rotated_to
        or new.last_used_at < old.last_used_at
    then
        raise exception 'what was taken from key % is not given back', old.key_id
            using errcode = 'restrict_violation';
    end if;
    new.generation := old.generation
        + case when old.revoked_at is null and new.revoked_at is not null then 1 else 0 end;
    return new;
end
$$;

create trigger api_keys_never_come_back
    before update or delete on api_keys for each row execute function keep_api_keys();
create trigger api_keys_are_never_truncated
    before truncate on api_keys for each statement execute function refuse_truncate();

alter table api_keys enable row level security;
alter table api_keys force row level security;
create policy app_reads_its_own on api_keys for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy app_adds_its_own on api_keys for insert to securebase_app
    with check (customer_id = (select current_tenant()));
create policy app_changes_its_own on api_keys for update to securebase_app
    using (customer_id = (select current_tenant())) with check (customer_id = (select current_tenant()));
create policy operator_reads on api_keys for select to securebase_operator using (true);
create policy operator_adds on api_keys for insert to securebase_operator with check (true);
create policy operator_changes on api_keys for update to securebase_operator using (true) with check (true);
-- The look-up below, by exact id.
create policy look_up_finds on api_keys for select to securebase_auth_reader using (true);

grant select (
    key_id, customer_id, name, scopes, generation, created_at, created_by, expires_at, revoked_at, rotated_to, last_used_at
) on api_keys to securebase_app, securebase_operator;
grant insert (key_id, customer_id, name, scopes, secret_hash, created_at, created_by, expires_at)
    on api_keys to securebase_app, securebase_operator;
grant update (expires_at, revoked_at, rotated_to, last_used_at) on api_keys to securebase_app, securebase_operator;
grant select (key_id, customer_id, scopes, secret_hash, generation, expires_at, revoked_at)
    on api_keys to securebase_auth_reader;

-- The key of exactly this id, for whoever is not authenticated yet. The only way to a secret's hash.
create function look_up_api_key(wanted text)
returns table (
    customer_id text, scopes text[], secret_hash text, generation int, expires_at timestamptz, revoked_at timestamptz
)
language sql stable security definer rows 1
set search_path = pg_catalog, pg_temp
as $$
    select k.customer_id, k.scopes, k.secret_hash, k.generation, k.expires_at, k.revoked_at
    from public.api_keys k
    where k.key_id = wanted
$$;

revoke all on function look_up_api_key(text) from public;
grant execute on function look_up_api_key(text) to securebase_app, securebase_operator;

-- The function runs with the rights of securebase_auth_reader and no others. To give it away the owner must be a member
-- of that role, which can do nothing the owner cannot; and the role may make things only while it receives the function.
reset role;
grant create on schema public to securebase_auth_reader;
do $$
begin
    if not pg_has_role(
        'securebase_owner', 'securebase_auth_reader',
        case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end)
    then
        grant securebase_auth_reader to securebase_owner;
    end if;
exception when unique_violation then
    null; -- granted by another database's migration meanwhile
end
$$;
set local role securebase_owner;
alter function look_up_api_key(text) owner to securebase_auth_reader;
reset role;
revoke create on schema public from securebase_auth_reader;
set local role securebase_owner;

-- Many requests of many customers in one transaction, each customer named with its proof: what the server noticed since
-- the last time. events[i] is an array of {"at", "actor", "action", "subject", "details", "key_id"} of customers[i].
create function record_audit_calls(customers text[], macs bytea[], events jsonb[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    position int;
    event jsonb;
    recorded bigint := 0;
begin
    -- In one order, so that two servers cannot wait for each other's chains.
    for position in
        select i from generate_subscripts(customers, 1) as i order by customers[i] collate "C"
    loop
        perform public.set_tenant(customers[position], macs[position]);
        for event in select e.value from jsonb_array_elements(events[position]) with ordinality as e (value, n) order by e.n loop
            perform public.record_audit_call(
                customers[position], (event ->> 'at')::timestamptz, event ->> 'actor', event ->> 'action',
                event ->> 'subject', event -> 'details');
            recorded := recorded + 1;
        end loop;
        update public.api_keys k
        set last_used_at = greatest(k.last_used_at, u.at)
        from (
            select e.value ->> 'key_id' as key_id, max((e.value ->> 'at')::timestamptz) as at
            from jsonb_array_elements(events[position]) as e (value)
            group by 1
        ) as u
        where k.key_id = u.key_id and (k.last_used_at is null or k.last_used_at < u.at - interval '1 minute');
    end loop;
    -- Whoever comes next in this transaction is nobody.
    perform set_config('securebase.tenant', '', true);
    return recorded;
end
$$;

-- One call that was answered at a moment of the last minutes, in the chain of the proven tenant.
create function record_audit_call(
    customer_id text, occurred_at timestamptz, actor text, action text, subject text, details jsonb
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    caller text := case when current_setting('role') in ('none', '') then session_user
        else current_setting('role') end;
begin
    if caller = 'securebase_app'
        and (record_audit_call.customer_id is null
            or public.current_tenant() is distinct from record_audit_call.customer_id)
    then
        raise exception 'the application records events of its proven tenant only'
            using errcode = 'insufficient_privilege';
    end if;
    if record_audit_call.occurred_at is null
        or record_audit_call.occurred_at not between clock_timestamp() - interval '1 hour'
            and clock_timestamp() + interval '5 minutes'
    then
        raise exception 'a call is recorded soon after it was answered' using errcode = 'invalid_parameter_value';
    end if;
    return public.append_audit_event(
        record_audit_call.customer_id, caller, record_audit_call.occurred_at, record_audit_call.actor,
        record_audit_call.action, record_audit_call.subject, coalesce(record_audit_call.details, '{}'));
end
$$;

grant execute on function record_audit_calls(text[], bytea[], jsonb[]) to securebase_app;
grant execute on function record_audit_call(text, timestamptz, text, text, text, jsonb) to
    securebase_app, securebase_operator;

reset role;
