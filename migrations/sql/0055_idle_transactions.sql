-- A transaction of a tenant whose client is gone without a word, as after a failure of the network, ends by itself: until
-- then it would hold the head of the customer's audit chain, and with it every write of that customer. A request is over
-- after 10 seconds, so 15 of idleness are nobody's. Set with the tenant, so that it holds through any pooler.
set local role securebase_owner;

create or replace function set_tenant(customer_id text, mac bytea) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(customer_id, '') = '' or mac is null then
        raise exception 'a tenant needs an id and its proof' using errcode = 'insufficient_privilege';
    end if;
    perform set_config('securebase.tenant', customer_id, true);
    perform set_config('securebase.tenant_mac', encode(mac, 'hex'), true);
    perform set_config('idle_in_transaction_session_timeout', '15s', true);
    perform public.current_tenant();
end
$$;

reset role;
