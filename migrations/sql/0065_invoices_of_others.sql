-- Whether a tenant that asked for an invoice, and did not find it, named another's: for the isolation alarm of a server that
-- has no operator's connections. The API never tells its caller. SQL that was injected there learns of a number or id it
-- knows whole that somebody else has it, and nothing of whose it is or what it says; that much a tenant's own numbers
-- tell already, because they leave no gaps. Without a proven tenant there is no answer but no.
set local role securebase_owner;

-- Row-level security is forced, for the owner as well.
create policy owner_recognizes on invoices for select to securebase_owner using (true);

create function names_invoice_of_another(wanted text) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    tenant text := public.current_tenant();
begin
    if tenant is null then
        return false;
    end if;
    -- Whole numbers and ids, each by its index.
    if wanted ~ '^[A-Z]{2,3}-[0-9]{4}-[0-9]{2}-[0-9]{4,12}$' then
        return exists (select from public.invoices i where i.invoice_number = wanted and i.customer_id <> tenant);
    elsif wanted ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        return exists (select from public.invoices i where i.invoice_id = wanted::uuid and i.customer_id <> tenant);
    end if;
    return false;
end
$$;

revoke all on function names_invoice_of_another(text) from public;
grant execute on function names_invoice_of_another(text) to securebase_app;

reset role;
