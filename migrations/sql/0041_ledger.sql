-- The ledger, double entry: what invoices, credit notes, payments and grants of credit did to whose accounts.

set local role securebase_owner;

-- Money that came in for an invoice, recorded by an operator. The same reference is the same payment.
create table payments (
    payment_id bigint generated always as identity primary key,
    customer_id text not null,
    invoice_id uuid not null,
    currency char(3) not null,
    amount_minor bigint not null,
    method text not null,
    reference text not null,
    received_at timestamptz not null,
    recorded_at timestamptz not null,
    recorded_by text not null,
    constraint payments_with_customer unique (payment_id, customer_id),
    constraint payments_are_recorded_once unique (customer_id, method, reference),
    constraint payments_stay_with_their_customer
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint payments_are_positive check (amount_minor > 0),
    constraint payments_currency_is_a_code check (currency ~ '^[A-Z]{3}$'),
    constraint payments_method_is_known check (method in ('bank_transfer', 'card', 'marketplace', 'other')),
    constraint payments_reference_is_given check (reference <> '' and recorded_by <> '')
);

create index payments_by_invoice on payments (invoice_id);

-- Credit given to a customer: money paid ahead, or goodwill. The same reference is the same grant.
create table credit_grants (
    grant_id bigint generated always as identity primary key,
    customer_id text not null references customers,
    currency char(3) not null,
    amount_minor bigint not null,
    kind text not null,
    reference text not null,
    reason text not null,
    granted_at timestamptz not null,
    granted_by text not null,
    constraint credit_grants_with_customer unique (grant_id, customer_id),
    constraint credit_grants_are_recorded_once unique (customer_id, reference),
    constraint credit_grants_are_positive check (amount_minor > 0),
    constraint credit_grants_currency_is_a_code check (currency ~ '^[A-Z]{3}$'),
    constraint credit_grants_kind_is_known check (kind in ('prepaid', 'goodwill')),
    constraint credit_grants_say_why check (reference <> '' and reason <> '' and granted_by <> '')
);

-- One entry an occasion. It says how many lines it has, so that none can be added later.
create table ledger_entries (
    entry_id bigint generated always as identity primary key,
    customer_id text not null references customers,
    kind text not null,
    invoice_id uuid,
    credit_note_id uuid,
    payment_id bigint,
    grant_id bigint,
    currency char(3) not null,
    line_count int not null,
    posted_at timestamptz not null,
    constraint ledger_entries_with_customer unique (entry_id, customer_id),
    constraint ledger_entries_kind_is_known check (kind in ('issue', 'credit_note', 'payment', 'grant')),
    constraint ledger_entries_name_their_occasion check (
        (kind in ('issue', 'credit_note', 'payment')) = (invoice_id is not null)
        and (kind = 'credit_note') = (credit_note_id is not null)
        and (kind = 'payment') = (payment_id is not null)
        and (kind = 'grant') = (grant_id is not null)),
    constraint ledger_entries_currency_is_a_code check (currency ~ '^[A-Z]{3}$'),
    constraint ledger_entries_count_their_lines check (line_count >= 0),
    constraint ledger_entries_are_of_the_customers_invoice
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint ledger_entries_are_of_the_customers_credit_note
        foreign key (credit_note_id, customer_id) references credit_notes (credit_note_id, customer_id),
    constraint ledger_entries_are_of_the_customers_payment
        foreign key (payment_id, customer_id) references payments (payment_id, customer_id),
    constraint ledger_entries_are_of_the_customers_grant
        foreign key (grant_id, customer_id) references credit_grants (grant_id, customer_id)
);

create unique index ledger_entries_issue_once on ledger_entries (invoice_id) where kind = 'issue';
create unique index ledger_entries_credit_once on ledger_entries (credit_note_id);
create unique index ledger_entries_pay_once on ledger_entries (payment_id);
create unique index ledger_entries_grant_once on ledger_entries (grant_id);
create index ledger_entries_by_customer on ledger_entries (customer_id, posted_at, entry_id);

-- Debits are positive, credits negative, in minor units of the entry's currency.
--
-- receivable       what the customer owes, invoice by invoice
-- revenue          by kind of line (detail)
-- discounts        volume, coupons (detail)
-- tax_payable      by jurisdiction (detail)
-- customer_credit  what the customer has paid ahead, was granted, or was credited after it had paid
-- cash             money that came in
-- credit_granted   credit that was given without money
create table ledger_lines (
    entry_id bigint not null,
    position int not null,
    customer_id text not null,
    account text not null,
    detail text not null,
    invoice_id uuid,
    currency char(3) not null,
    amount_minor bigint not null,
    primary key (entry_id, position),
    constraint ledger_lines_stay_with_their_customer
        foreign key (entry_id, customer_id) references ledger_entries (entry_id, customer_id),
    constraint ledger_lines_position_is_positive check (position > 0),
    constraint ledger_lines_account_is_known check (
        account in (
            'receivable', 'revenue', 'discounts', 'tax_payable', 'customer_credit', 'cash', 'credit_granted')),
    constraint ledger_lines_receivable_is_of_an_invoice check ((account = 'receivable') = (invoice_id is not null)),
    constraint ledger_lines_move_something check (amount_minor <> 0)
);

create index ledger_lines_by_invoice on ledger_lines (invoice_id) where invoice_id is not null;
create index ledger_lines_by_customer on ledger_lines (customer_id, account);

-- What each customer owes and has in credit, kept by the ledger itself. The row also orders what moves a customer's credit.
create table customer_balances (
    customer_id text not null references customers,
    currency char(3) not null,
    receivable_minor bigint not null,
    credit_minor bigint not null,
    primary key (customer_id, currency),
    -- Nobody can use credit that is not there, however many try at once.
    constraint customer_balances_credit_is_not_negative check (credit_minor >= 0),
    constraint customer_balances_receivable_is_not_negative check (receivable_minor >= 0)
);

-- As the owner: who posts may not set a balance.
create function keep_customer_balances() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Two steps: constraints are checked on the row an insert proposes, also where it conflicts.
    insert into public.customer_balances (customer_id, currency, receivable_minor, credit_minor)
    select distinct a.customer_id, a.currency, 0, 0
    from added a
    where a.account in ('receivable', 'customer_credit')
    on conflict do nothing;
    update public.customer_balances b
    set receivable_minor = b.receivable_minor + d.receivable_minor, credit_minor = b.credit_minor + d.credit_minor
    from (
        select a.customer_id, a.currency,
            coalesce(sum(a.amount_minor) filter (where a.account = 'receivable'), 0) as receivable_minor,
            coalesce(-sum(a.amount_minor) filter (where a.account = 'customer_credit'), 0) as credit_minor
        from added a
        where a.account in ('receivable', 'customer_credit')
        group by a.customer_id, a.currency
    ) d
    where b.customer_id = d.customer_id and b.currency = d.currency;
    return null;
end
$$;

create trigger ledger_lines_keep_the_balances after insert on ledger_lines
    referencing new table as added for each statement execute function keep_customer_balances();

-- At the end of the transaction every entry has the lines it says and they sum to nothing.
create function ledger_entry_balances() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    entry public.ledger_entries;
    found_count bigint;
    found_sum numeric;
    foreign_count bigint;
begin
    select e.* into strict entry from public.ledger_entries e where e.entry_id = new.entry_id;
    select count(*), coalesce(sum(l.amount_minor), 0),
        count(*) filter (where l.currency <> entry.currency or l.invoice_id <> entry.invoice_id)
    into found_count, found_sum, foreign_count
    from public.ledger_lines l where l.entry_id = new.entry_id;
    if found_count <> entry.line_count or found_sum <> 0 or foreign_count <> 0 then
        raise exception 'ledger entry % of % does not balance: % lines of %, sum %',
            entry.entry_id, entry.customer_id, found_count, entry.line_count, found_sum
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger ledger_entries_balance after insert on ledger_entries
    deferrable initially deferred for each row execute function ledger_entry_balances();

-- A line past the count of its entry is refused at once. The places up to it are taken when the entry is committed, so
-- nothing is ever added to it later.
create function ledger_line_has_a_place() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from added a join public.ledger_entries e on e.entry_id = a.entry_id
        where a.position > e.line_count or a.currency <> e.currency
    ) then
        raise exception 'a ledger line has no place in its entry' using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create trigger ledger_lines_have_a_place after insert on ledger_lines
    referencing new table as added for each statement execute function ledger_line_has_a_place();

-- Nothing of the books is ever changed or taken out.
create function keep_the_books() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'table % is only ever added to', tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger payments_are_kept before update or delete or truncate on payments
    for each statement execute function keep_the_books();
create trigger credit_grants_are_kept before update or delete or truncate on credit_grants
    for each statement execute function keep_the_books();
create trigger ledger_entries_are_kept before update or delete or truncate on ledger_entries
    for each statement execute function keep_the_books();
create trigger ledger_lines_are_kept before update or delete or truncate on ledger_lines
    for each statement execute function keep_the_books();
create trigger customer_balances_are_never_truncated
    before truncate on customer_balances for each statement execute function refuse_truncate();

-- What is still open of an invoice.
create function invoice_open_minor(of_invoice uuid) returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(sum(l.amount_minor), 0)::bigint
    from public.ledger_lines l
    where l.invoice_id = of_invoice and l.account = 'receivable'
$$;

-- At the end of the transaction an issued invoice is in the ledger with what it says is due, and a paid one is settled.
create function invoice_is_posted() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    posted_minor bigint;
begin
    select coalesce(sum(l.amount_minor) filter (where l.account = 'receivable'), 0) into posted_minor
    from public.ledger_entries e
    join public.ledger_lines l on l.entry_id = e.entry_id
    where e.invoice_id = new.invoice_id and e.kind = 'issue'
    having count(*) > 0 or new.total_minor + new.adjustments_minor = 0;
    if posted_minor is distinct from new.total_minor + new.adjustments_minor - new.credit_applied_minor then
        raise exception 'invoice % is not in the ledger as it stands', new.invoice_number
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger invoices_are_posted after update on invoices
    deferrable initially deferred for each row
    when (old.status = 'draft' and new.status = 'issued') execute function invoice_is_posted();

create function paid_invoice_is_settled() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if public.invoice_open_minor(new.invoice_id) <> 0 then
        raise exception 'invoice % is not paid: % minor units are open',
            new.invoice_number, public.invoice_open_minor(new.invoice_id)
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger invoices_paid_are_settled after update on invoices
    deferrable initially deferred for each row
    when (old.status = 'issued' and new.status = 'paid') execute function paid_invoice_is_settled();

create function credit_note_is_posted() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    receivable_minor bigint;
    credit_minor bigint;
begin
    select coalesce(-sum(l.amount_minor) filter (where l.account = 'receivable'), 0),
        coalesce(-sum(l.amount_minor) filter (where l.account = 'customer_credit'), 0)
    into receivable_minor, credit_minor
    from public.ledger_entries e
    join public.ledger_lines l on l.entry_id = e.entry_id
    where e.credit_note_id = new.credit_note_id;
    if (receivable_minor, credit_minor) is distinct from (new.receivable_minor, new.credit_minor) then
        raise exception 'a credit note for % is not in the ledger as it stands', new.customer_id
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger credit_notes_are_posted after insert on credit_notes
    deferrable initially deferred for each row execute function credit_note_is_posted();

-- Money that came in or was granted is in the ledger in the same transaction.
create function payment_is_posted() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public.ledger_entries e join public.ledger_lines l on l.entry_id = e.entry_id
        where e.payment_id = new.payment_id and l.account = 'cash' and l.amount_minor = new.amount_minor
    ) then
        raise exception 'a payment of % is not in the ledger', new.customer_id
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger payments_are_posted after insert on payments
    deferrable initially deferred for each row execute function payment_is_posted();

create function grant_is_posted() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public.ledger_entries e join public.ledger_lines l on l.entry_id = e.entry_id
        where e.grant_id = new.grant_id and l.account = 'customer_credit' and l.amount_minor = -new.amount_minor
    ) then
        raise exception 'a grant of credit to % is not in the ledger', new.customer_id
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger credit_grants_are_posted after insert on credit_grants
    deferrable initially deferred for each row execute function grant_is_posted();

-- Customers see what moved for them; billing posts; nobody changes.
alter table payments enable row level security;
alter table payments force row level security;
create policy app_reads_its_own on payments for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on payments for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_records on payments for insert to securebase_billing with check (true);

alter table credit_grants enable row level security;
alter table credit_grants force row level security;
create policy app_reads_its_own on credit_grants for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on credit_grants for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_records on credit_grants for insert to securebase_billing with check (true);

alter table ledger_entries enable row level security;
alter table ledger_entries force row level security;
create policy app_reads_its_own on ledger_entries for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on ledger_entries for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_posts on ledger_entries for insert to securebase_billing with check (true);

alter table ledger_lines enable row level security;
alter table ledger_lines force row level security;
create policy app_reads_its_own on ledger_lines for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on ledger_lines for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_posts on ledger_lines for insert to securebase_billing with check (true);

alter table customer_balances enable row level security;
alter table customer_balances force row level security;
create policy app_reads_its_own on customer_balances for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on customer_balances for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy ledger_reads on customer_balances for select to securebase_owner using (true);
create policy ledger_adds on customer_balances for insert to securebase_owner with check (true);
create policy ledger_moves on customer_balances for update to securebase_owner using (true) with check (true);

grant select on payments, credit_grants, ledger_entries, ledger_lines, customer_balances to
    securebase_app, securebase_billing, securebase_operator, securebase_analytics;
grant insert on payments, credit_grants, ledger_entries, ledger_lines to securebase_billing;
grant execute on function invoice_open_minor(uuid) to
    securebase_app, securebase_billing, securebase_operator, securebase_analytics;

-- What is open follows from the ledger: credit notes, payments and credit have come off it.
create or replace view customer_billing_summary with (security_invoker = true) as
select
    c.customer_id,
    c.name,
    c.tier,
    c.currency,
    count(i.invoice_id) as invoices,
    coalesce(sum(i.total_minor), 0) as billed_minor,
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
group by c.customer_id, c.name, c.tier, c.currency;

reset role;
