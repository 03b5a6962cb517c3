-- Rate cards, invoices and their numbers.

set local role securebase_owner;

-- Prices of a tier, in force from a day on. Amounts are minor units, prices whole currency.
create table rate_cards (
    rate_card_id bigint generated always as identity primary key,
    tier customer_tier not null,
    version int not null,
    valid_from date not null,
    valid_to date,
    currency char(3) not null,
    base_fee_minor bigint not null,
    discount_threshold_minor bigint not null,
    discount_rate numeric(9, 6) not null,
    constraint rate_cards_version_of_a_tier unique (tier, version),
    constraint rate_cards_version_is_positive check (version > 0),
    constraint rate_cards_end_after_they_begin check (valid_to > valid_from),
    constraint rate_cards_currency_is_a_code check (currency ~ '^[A-Z]{3}$'),
    constraint rate_cards_amounts_are_not_negative check (base_fee_minor >= 0 and discount_threshold_minor >= 0),
    constraint rate_cards_discount_is_a_fraction check (discount_rate >= 0 and discount_rate <= 1),
    constraint rate_cards_never_overlap exclude using gist (tier with =, daterange(valid_from, valid_to) with &&)
);

-- One unit is so many counts, bytes, or bytes stored for the whole month.
create table rate_card_prices (
    rate_card_id bigint not null references rate_cards,
    meter text not null,
    unit text not null,
    raw_units_per_unit numeric(18, 0) not null,
    unit_price numeric(21, 12) not null,
    primary key (rate_card_id, meter),
    constraint rate_card_prices_unit_is_named check (unit <> ''),
    constraint rate_card_prices_unit_is_positive check (raw_units_per_unit > 0),
    constraint rate_card_prices_are_not_negative check (unit_price >= 0)
);

insert into rate_cards
    (tier, version, valid_from, currency, base_fee_minor, discount_threshold_minor, discount_rate)
values
    ('standard', 1, '2020-01-01', 'USD', 200000, 500000, 0.05),
    ('fintech', 1, '2020-01-01', 'USD', 800000, 500000, 0.05),
    ('healthcare', 1, '2020-01-01', 'USD', 1500000, 500000, 0.05),
    ('gov-federal', 1, '2020-01-01', 'USD', 2500000, 500000, 0.05);

insert into rate_card_prices (rate_card_id, meter, unit, raw_units_per_unit, unit_price)
select c.rate_card_id, p.meter, p.unit, p.raw_units_per_unit,
    case c.tier
        when 'standard' then p.standard
        when 'fintech' then p.fintech
        when 'healthcare' then p.healthcare
        when 'gov-federal' then p.gov_federal
    end
from rate_cards c
cross join (values
    ('log_storage_gb', 'GB-month', 1073741824, 0.03, 0.025, 0.025, 0.020),
    ('nat_gateway_bytes', 'GiB', 1073741824, 0.045, 0.040, 0.040, 0.035),
    ('cloudtrail_events', 'event', 1, 0.0000002, 0.00000015, 0.00000015, 0.0000001),
    ('config_rule_evaluations', 'evaluation', 1, 0.001, 0.0008, 0.0008, 0.0006),
    ('guardduty_findings', 'finding', 1, 0.05, 0.04, 0.04, 0.03)
) as p (meter, unit, raw_units_per_unit, standard, fintech, healthcare, gov_federal);

-- Overdue is derived from the due date where it is shown; cancelled only ever discards a draft.
create type invoice_status as enum ('draft', 'issued', 'paid', 'overdue', 'cancelled');

create table invoices (
    invoice_id uuid primary key default gen_random_uuid(),
    customer_id text not null references customers,
    kind text not null,
    revision int not null,
    period_start date not null,
    period_end date not null,
    status invoice_status not null,
    invoice_number text,
    currency char(3) not null,
    subtotal_minor bigint not null,
    discount_minor bigint not null,
    net_minor bigint not null,
    tax_rate numeric(9, 6) not null,
    tax_minor bigint not null,
    total_minor bigint not null,
    source_class text not null,
    rate_card_id bigint not null references rate_cards,
    snapshot jsonb not null,
    issued_at timestamptz,
    due_at timestamptz,
    paid_at timestamptz,
    created_at timestamptz not null,
    constraint invoices_once_per_period unique (customer_id, period_start, kind, revision),
    constraint invoices_number_is_unique unique (invoice_number),
    -- What the lines refer to, so that no line can belong to another customer than its invoice.
    constraint invoices_with_customer unique (invoice_id, customer_id),
    constraint invoices_kind_is_known check (kind in ('monthly', 'final', 'prepayment', 'adjustment')),
    constraint invoices_revision_is_positive check (revision > 0),
    constraint invoices_period_is_half_open check (period_end > period_start),
    constraint invoices_number_has_its_form check (invoice_number ~ '^(INV|CN)-[0-9]{4}-[0-9]{2}-[0-9]{4,}$'),
    constraint invoices_drafts_have_no_number check ((status in ('draft', 'cancelled')) = (invoice_number is null)),
    constraint invoices_issued_have_dates check (
        (status in ('draft', 'cancelled')) = (issued_at is null)
        and (issued_at is null) = (due_at is null)
        and due_at >= issued_at),
    constraint invoices_paid_have_a_date check ((status = 'paid') = (paid_at is not null)),
    constraint invoices_currency_is_a_code check (currency ~ '^[A-Z]{3}$'),
    constraint invoices_source_class_is_known check (source_class in ('proven', 'reconciled', 'best effort')),
    constraint invoices_amounts_add_up check (
        net_minor = subtotal_minor - discount_minor and total_minor = net_minor + tax_minor)
);

create index invoices_by_customer on invoices (customer_id, issued_at desc, invoice_id desc);
create index invoices_by_issue on invoices (issued_at desc, invoice_id desc);

-- The quantity is quantity_raw / quantity_raw_per_unit, the amount before rounding exact_numerator / exact_denominator
-- minor units: two numbers each, because a month's seconds divide into no finite decimal.
create table invoice_lines (
    invoice_id uuid not null,
    position int not null,
    customer_id text not null,
    kind text not null,
    meter text,
    description text not null,
    quantity_raw numeric(39, 0) not null,
    quantity_raw_per_unit numeric(39, 0) not null,
    unit text not null,
    unit_price numeric(30, 12) not null,
    exact_numerator numeric(39, 0) not null,
    exact_denominator numeric(39, 0) not null,
    amount_minor bigint not null,
    primary key (invoice_id, position),
    constraint invoice_lines_stay_with_their_customer
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint invoice_lines_position_is_positive check (position > 0),
    constraint invoice_lines_kind_is_known check (kind in ('base_fee', 'usage')),
    constraint invoice_lines_usage_has_a_meter check ((kind = 'usage') = (meter is not null)),
    constraint invoice_lines_quantity_is_a_fraction check (quantity_raw >= 0 and quantity_raw_per_unit > 0),
    constraint invoice_lines_exact_is_a_fraction check (exact_denominator > 0),
    -- Half-even to the minor unit; a prorated fee is a difference of two rounded sums.
    constraint invoice_lines_amount_is_the_rounded_one check (
        2 * abs(amount_minor * exact_denominator - exact_numerator)
            <= exact_denominator * case kind when 'usage' then 1 else 2 end)
);

-- The last number taken of a series in a month of issue. Locked from there to the end of the issuing transaction, so a
-- number is never skipped: what rolls back gives it back.
create table invoice_number_counters (
    series text not null,
    month date not null,
    last_number int not null,
    primary key (series, month),
    constraint invoice_number_counters_series_is_known check (series in ('INV', 'CN')),
    constraint invoice_number_counters_month_is_a_first_day check (extract(day from month) = 1),
    constraint invoice_number_counters_count_from_one check (last_number > 0)
);

-- What was issued never changes: afterwards only its status moves on, with the date of payment.
create function keep_issued_invoices() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        if new.status <> 'draft' then
            raise exception 'an invoice begins as a draft' using errcode = 'restrict_violation';
        end if;
        return new;
    end if;
    if tg_op = 'DELETE' then
        if old.status <> 'draft' then
            raise exception 'invoice % was issued and is never deleted', old.invoice_number
                using errcode = 'restrict_violation';
        end if;
        return old;
    end if;
    if old.status <> 'draft' and (
        (to_jsonb(new) - array['status', 'paid_at']) is distinct from (to_jsonb(old) - array['status', 'paid_at'])
        or (old.paid_at is not null and new.paid_at is distinct from old.paid_at)
    ) then
        raise exception 'invoice % was issued and never changes', coalesce(old.invoice_number, old.invoice_id::text)
            using errcode = 'restrict_violation';
    end if;
    if new.status <> old.status and (old.status::text, new.status::text) not in (
        ('draft', 'issued'), ('draft', 'cancelled'), ('issued', 'paid'), ('issued', 'overdue'), ('overdue', 'paid')
    ) then
        raise exception 'an invoice does not go from % to %', old.status, new.status
            using errcode = 'restrict_violation';
    end if;
    if old.status = 'draft' and new.status = 'issued' and new.subtotal_minor is distinct from (
        select sum(l.amount_minor) from public.invoice_lines l where l.invoice_id = new.invoice_id
    ) then
        raise exception 'the lines of an invoice of % do not sum to its subtotal', new.customer_id
            using errcode = 'integrity_constraint_violation';
    end if;
    return new;
end
$$;

create trigger invoices_keep_what_was_issued
    before insert or update or delete on invoices
    for each row execute function keep_issued_invoices();

create function keep_issued_lines() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    line_invoice uuid := case when tg_op = 'DELETE' then old.invoice_id else new.invoice_id end;
begin
    if tg_op = 'UPDATE' and new.invoice_id <> old.invoice_id then
        raise exception 'a line stays with its invoice' using errcode = 'restrict_violation';
    end if;
    -- The lock keeps the invoice from being issued before this line is seen. An invoice the role cannot see refuses too.
    perform from public.invoices i where i.invoice_id = line_invoice and i.status = 'draft' for share;
    if not found then
        raise exception 'the lines of an issued invoice never change' using errcode = 'restrict_violation';
    end if;
    return case when tg_op = 'DELETE' then old else new end;
end
$$;

create trigger invoice_lines_keep_what_was_issued
    before insert or update or delete on invoice_lines
    for each row execute function keep_issued_lines();

create function refuse_truncate() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'table % is never truncated', tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger invoices_are_never_truncated
    before truncate on invoices for each statement execute function refuse_truncate();
create trigger invoice_lines_are_never_truncated
    before truncate on invoice_lines for each statement execute function refuse_truncate();

-- Customers see what was issued to them, no drafts. Billing writes; nobody deletes.
alter table invoices enable row level security;
alter table invoices force row level security;
create policy app_reads_its_own on invoices for select to securebase_app
    using (customer_id = (select current_tenant()) and status not in ('draft', 'cancelled'));
create policy rooms_read on invoices for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_drafts on invoices for insert to securebase_billing with check (status = 'draft');
create policy billing_issues on invoices for update to securebase_billing using (true) with check (true);

alter table invoice_lines enable row level security;
alter table invoice_lines force row level security;
-- The inner look is under the policies of invoices, so a draft's lines stay hidden as well.
create policy app_reads_its_own on invoice_lines for select to securebase_app
    using (
        customer_id = (select current_tenant())
        and exists (select from invoices i where i.invoice_id = invoice_lines.invoice_id)
    );
create policy rooms_read on invoice_lines for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_drafts on invoice_lines for insert to securebase_billing with check (true);

-- No prices for the application: a card can be one customer's contract. An invoice carries the prices it was rated with.
grant select on rate_cards, rate_card_prices to securebase_billing, securebase_operator, securebase_analytics;
grant select on invoices, invoice_lines to
    securebase_app, securebase_billing, securebase_operator, securebase_analytics;
grant insert on invoices, invoice_lines to securebase_billing;
grant update (status, invoice_number, issued_at, due_at, paid_at) on invoices to securebase_billing;
grant select on invoice_number_counters to securebase_billing, securebase_operator;
grant insert, update (last_number) on invoice_number_counters to securebase_billing;

-- One row per customer the reader may see: what was billed, what is open.
create view customer_billing_summary with (security_invoker = true) as
select
    c.customer_id,
    c.name,
    c.tier,
    c.currency,
    count(i.invoice_id) as invoices,
    coalesce(sum(i.total_minor), 0) as billed_minor,
    coalesce(sum(i.total_minor) filter (where i.status in ('issued', 'overdue')), 0) as open_minor,
    min(i.due_at) filter (where i.status in ('issued', 'overdue')) as next_due_at,
    max(i.period_start) as last_period_start,
    max(i.issued_at) as last_issued_at
from customers c
left join invoices i
    on i.customer_id = c.customer_id and i.currency = c.currency and i.status not in ('draft', 'cancelled')
group by c.customer_id, c.name, c.tier, c.currency;

grant select on customer_billing_summary to
    securebase_app, securebase_billing, securebase_operator, securebase_analytics;

reset role;
