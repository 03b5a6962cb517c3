-- Who records an event holds its chain until the transaction ends. As with a tenant's (0055), a transaction whose client is
-- gone without a word ends by itself: rooms and operators, too, record last, and 15 seconds of idleness are nobody's.
set local role securebase_owner;

create or replace function record_audit_event(customer_id text, actor text, action text, subject text, details jsonb)
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
    perform set_config('idle_in_transaction_session_timeout', '15s', true);
    return public.append_audit_event(
        record_audit_event.customer_id, caller, clock_timestamp(), record_audit_event.actor,
        record_audit_event.action, record_audit_event.subject, coalesce(record_audit_event.details, '{}'));
end
$$;

create or replace function record_audit_call(
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
    perform set_config('idle_in_transaction_session_timeout', '15s', true);
    return public.append_audit_event(
        record_audit_call.customer_id, caller, record_audit_call.occurred_at, record_audit_call.actor,
        record_audit_call.action, record_audit_call.subject, coalesce(record_audit_call.details, '{}'));
end
$$;

reset role;
