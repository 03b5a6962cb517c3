-- Roles, what they may not do, and the tenant of a transaction.

-- Trusted extensions: hmac() for the tenant's proof, and equality inside exclusion constraints.
create extension if not exists pgcrypto with schema public;
create extension if not exists btree_gist with schema public;

-- Roles belong to the cluster, not to this database: another database may create them at the same moment.
do $$
declare
    role_name text;
    attributes text;
begin
    for role_name, attributes in values
        ('securebase_owner', 'nologin'),
        ('securebase_app', 'login'),
        ('securebase_aggregator', 'login'),
        ('securebase_billing', 'login'),
        ('securebase_operator', 'login'),
        ('securebase_analytics', 'login'),
        ('securebase_auth_reader', 'nologin')
    loop
        if not exists (select from pg_roles where rolname = role_name) then
            begin
                execute format(
                    'create role %I %s nosuperuser nobypassrls nocreatedb nocreaterole noreplication',
                    role_name, attributes);
            exception when duplicate_object or unique_violation then
                null; -- created by another database's migration meanwhile
            end;
        end if;
    end loop;
    -- A login that is no superuser works as the owner by membership. From version 16 on, who creates a role is a member
    -- that may grant the role but not become it.
    if not pg_has_role(
        current_user, 'securebase_owner',
        case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end)
    then
        begin
            execute format('grant securebase_owner to %I', current_user);
        exception when unique_violation then
            null;
        end;
    end if;
end
$$;

-- Nothing by default: not in the schema, not for functions made later, and no temporary tables, which could stand in
-- for real ones in a pooled session.
revoke all on schema public from public;
grant usage, create on schema public to securebase_owner;
grant usage on schema public to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics,
    securebase_auth_reader;
do $$
begin
    execute format('revoke temporary on database %I from public', current_database());
end
$$;

set local role securebase_owner;

alter default privileges revoke execute on functions from public;

-- The keys that prove a tenant; only current_tenant() reads them. Two rows while a key is being changed.
create table tenant_keys (
    id smallint primary key,
    key bytea not null,
    constraint tenant_keys_key_is_long_enough check (octet_length(key) >= 32)
);

-- The customer this transaction acts for; null when unset, SQLSTATE 42501 when set without its proof.
-- Both sides are hashed once more before they are compared, so the time of the comparison tells nothing.
create function current_tenant() returns text
language plpgsql stable security definer parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := current_setting('securebase.tenant', true);
    mac text := coalesce(current_setting('securebase.tenant_mac', true), '');
begin
    if coalesce(tenant, '') = '' then
        return null;
    end if;
    if exists (
        select from public.tenant_keys k
        where public.hmac(convert_to(mac, 'UTF8'), k.key, 'sha256')
            = public.hmac(
                convert_to(encode(public.hmac(convert_to(tenant, 'UTF8'), k.key, 'sha256'), 'hex'), 'UTF8'),
                k.key, 'sha256')
    ) then
        return tenant;
    end if;
    raise exception 'the tenant of this transaction is not proven'
        using errcode = 'insufficient_privilege';
end
$$;

-- Names the customer for this transaction only; mac is HMAC-SHA256 over the id with the tenant key.
create function set_tenant(customer_id text, mac bytea) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(customer_id, '') = '' or mac is null then
        raise exception 'a tenant needs an id and its proof' using errcode = 'insufficient_privilege';
    end if;
    perform set_config('securebase.tenant', customer_id, true);
    perform set_config('securebase.tenant_mac', encode(mac, 'hex'), true);
    perform public.current_tenant();
end
$$;

revoke all on function current_tenant(), set_tenant(text, bytea) from public;
grant execute on function current_tenant(), set_tenant(text, bytea) to securebase_app;

reset role;
