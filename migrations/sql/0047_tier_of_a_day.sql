-- The tier that a customer is in on a day, for whoever shows or alerts what the tier allows.

set local role securebase_owner;

-- Its last change up to the day, else the tier it was added with. As its caller: a tenant finds its own.
create function tier_of(of_customer text, on_day date) returns customer_tier
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (
            select t.tier from public.customer_tiers t
            where t.customer_id = of_customer and t.valid_from <= on_day
            order by t.valid_from desc
            limit 1
        ),
        (select c.tier from public.customers c where c.customer_id = of_customer))
$$;

create policy aggregator_reads on customer_tiers for select to securebase_aggregator using (true);
grant select on customer_tiers to securebase_aggregator;
grant execute on function tier_of(text, date) to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;

-- The tier of today. What was billed is what invoices come to with the late usage they carry, as what is open of them is.
create or replace view customer_billing_summary with (security_invoker = true) as
select
    c.customer_id,
    c.name,
    tier_of(c.customer_id, (now() at time zone 'utc')::date) as tier,
    c.currency,
    count(i.invoice_id) as invoices,
    coalesce(sum(i.total_minor + i.adjustments_minor), 0) as billed_minor,
    coalesce(sum(o.open_minor), 0) as open_minor,
    min(i.due_at) filter (where o.open_minor > 0) as next_due_at,
    max(i.period_start) as last_period_start,
    max(i.issued_at) as last_issued_at
from customers c
left join invoices i
    on i.customer_id = c.customer_id and i.currency = c.currency and i.status not in ('draft', 'cancelled')
left join lateral (
    select sum(l.amount_minor) as open_minor
    from ledger_lines l where l.invoice_id = i.invoice_id and l.account = 'receivable'
) o on true
group by c.customer_id, c.name, c.currency;

reset role;
