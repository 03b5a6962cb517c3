-- The life of an invoice after its draft: the close it was made from, adjustments for late usage, credit notes.

set local role securebase_owner;

-- What an invoice is made from and what is due: total + adjustments - credit applied.
alter table invoices
    add column close_id bigint,
    -- The evidence of that close, copied so that the invoice proves itself.
    add column evidence_sha256 bytea,
    -- What it carries for late usage of earlier periods, below its own total.
    add column adjustments_minor bigint not null default 0,
    -- Customer credit used, which never lowers tax.
    add column credit_applied_minor bigint not null default 0,
    -- Kinds without a month have no card.
    alter column rate_card_id drop not null,
    add constraint invoices_close_is_the_customers
        foreign key (close_id, customer_id) references closes (close_id, customer_id),
    add constraint invoices_evidence_comes_from_a_close check ((evidence_sha256 is null) = (close_id is null)),
    add constraint invoices_evidence_is_a_sha256 check (octet_length(evidence_sha256) = 32),
    add constraint invoices_amounts_are_not_negative check (
        subtotal_minor >= 0 and discount_minor >= 0 and net_minor >= 0 and tax_minor >= 0
        and adjustments_minor >= 0 and credit_applied_minor >= 0),
    add constraint invoices_credit_stays_within_the_total check (
        credit_applied_minor <= total_minor + adjustments_minor),
    -- Overdue is derived from the due date where it is shown.
    add constraint invoices_overdue_is_derived check (status <> 'overdue');

-- What issued invoices a run has to look at when newer cuts of their periods are there.
create index invoices_by_close on invoices (close_id);

-- Late usage of a period that was invoiced: the period rated again with that invoice's own snapshot on a newer cut, minus
-- everything invoiced or credited for it. Positive, and carried by another invoice below its own total.
create table invoice_adjustments (
    adjustment_id uuid primary key default gen_random_uuid(),
    -- The invoice that carries it, and its place there.
    invoice_id uuid not null,
    position int not null,
    customer_id text not null,
    -- The invoice whose period was rated again, and the cut it was rated on.
    adjusted_invoice_id uuid not null,
    close_id bigint not null,
    gross_minor bigint not null,
    discount_minor bigint not null,
    net_minor bigint not null,
    tax_minor bigint not null,
    total_minor bigint not null,
    cause text not null,
    -- The difference, line by line and tax by tax.
    correction jsonb not null,
    constraint invoice_adjustments_have_one_place_each unique (invoice_id, position),
    constraint invoice_adjustments_are_one_a_period unique (invoice_id, adjusted_invoice_id),
    constraint invoice_adjustments_with_customer unique (adjustment_id, customer_id),
    constraint invoice_adjustments_stay_with_their_customer
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint invoice_adjustments_adjust_the_same_customer
        foreign key (adjusted_invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint invoice_adjustments_come_from_the_customers_close
        foreign key (close_id, customer_id) references closes (close_id, customer_id),
    constraint invoice_adjustments_are_carried_by_another check (invoice_id <> adjusted_invoice_id),
    constraint invoice_adjustments_position_is_positive check (position > 0),
    constraint invoice_adjustments_add_up check (
        net_minor = gross_minor - discount_minor and total_minor = net_minor + tax_minor),
    constraint invoice_adjustments_charge check (total_minor > 0),
    constraint invoice_adjustments_have_a_cause check (cause <> '')
);

create index invoice_adjustments_by_adjusted on invoice_adjustments (adjusted_invoice_id);

-- The only way to take back an issued charge. A note refers to one invoice and never exceeds it in any component.
--
-- late_usage    a newer cut came to less: the difference of the invoice's own period
-- adjustment    takes back one adjustment that the invoice carries, whole
-- cancellation  takes back all that is left of the invoice, adjustments included; they are then free to be billed again
create table credit_notes (
    credit_note_id uuid primary key default gen_random_uuid(),
    credit_note_number text,
    customer_id text not null references customers,
    invoice_id uuid not null,
    kind text not null,
    adjustment_id uuid,
    close_id bigint,
    currency char(3) not null,
    -- Taken back: gross is the charge before discounts, discount what had been taken off it. Each of the two can be negative
    -- alone: more usage can bring a discount that is worth more.
    gross_minor bigint not null,
    discount_minor bigint not null,
    net_minor bigint not null,
    tax_minor bigint not null,
    total_minor bigint not null,
    -- Where the total went: off what was still open, and to the customer's credit.
    receivable_minor bigint not null,
    credit_minor bigint not null,
    cause text not null,
    -- The parties, and the difference line by line and tax by tax.
    snapshot jsonb not null,
    issued_at timestamptz not null,
    constraint credit_notes_number_is_unique unique (credit_note_number),
    constraint credit_notes_number_has_its_form check (credit_note_number ~ '^CN-[0-9]{4}-[0-9]{2}-[0-9]{4,}$'),
    constraint credit_notes_with_customer unique (credit_note_id, customer_id),
    constraint credit_notes_stay_with_their_customer
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint credit_notes_take_back_the_customers_adjustment
        foreign key (adjustment_id, customer_id) references invoice_adjustments (adjustment_id, customer_id),
    constraint credit_notes_come_from_the_customers_close
        foreign key (close_id, customer_id) references closes (close_id, customer_id),
    constraint credit_notes_kind_is_known check (kind in ('late_usage', 'adjustment', 'cancellation')),
    constraint credit_notes_of_late_usage_have_a_close check (kind <> 'late_usage' or close_id is not null),
    constraint credit_notes_of_an_adjustment_name_it check ((kind = 'adjustment') = (adjustment_id is not null)),
    constraint credit_notes_currency_is_a_code check (currency ~ '^[A-Z]{3}$'),
    constraint credit_notes_add_up check (
        net_minor = gross_minor - discount_minor and total_minor = net_minor + tax_minor
        and total_minor = receivable_minor + credit_minor),
    constraint credit_notes_credit check (total_minor >= 0 and receivable_minor >= 0 and credit_minor >= 0),
    constraint credit_notes_have_a_cause check (cause <> '')
);

create index credit_notes_by_invoice on credit_notes (invoice_id);
create index credit_notes_by_customer on credit_notes (customer_id, issued_at desc, credit_note_id desc);
-- An adjustment is taken back once, an invoice cancelled once.
create unique index credit_notes_take_an_adjustment_back_once on credit_notes (adjustment_id);
create unique index credit_notes_cancel_an_invoice_once on credit_notes (invoice_id) where kind = 'cancellation';

-- Through which cut an invoice's period is billed and credited: the next look starts there.
create table invoice_cuts (
    invoice_id uuid primary key,
    customer_id text not null,
    close_id bigint not null,
    constraint invoice_cuts_stay_with_their_customer
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint invoice_cuts_come_from_the_customers_close
        foreign key (close_id, customer_id) references closes (close_id, customer_id)
);

-- Draft to issued or cancelled, issued to paid; what was issued never changes.
create or replace function keep_issued_invoices() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    lines_minor bigint;
    carried_minor bigint;
begin
    if tg_op = 'INSERT' then
        if new.status <> 'draft' then
            raise exception 'an invoice begins as a draft' using errcode = 'restrict_violation';
        end if;
        return new;
    end if;
    if tg_op = 'DELETE' then
        if old.status <> 'draft' then
            raise exception 'invoice % was issued and is never deleted', coalesce(old.invoice_number, old.invoice_id::text)
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
    if old.status = 'draft' and (new.customer_id, new.kind, new.revision, new.period_start, new.created_at)
        is distinct from (old.customer_id, old.kind, old.revision, old.period_start, old.created_at)
    then
        raise exception 'a draft stays what it is a draft of' using errcode = 'restrict_violation';
    end if;
    if new.status <> old.status and (old.status::text, new.status::text) not in (
        ('draft', 'issued'), ('draft', 'cancelled'), ('issued', 'paid')
    ) then
        raise exception 'an invoice does not go from % to %', old.status, new.status
            using errcode = 'restrict_violation';
    end if;
    if old.status = 'draft' and new.status = 'issued' then
        select coalesce(sum(l.amount_minor), 0) into lines_minor
        from public.invoice_lines l where l.invoice_id = new.invoice_id;
        if new.subtotal_minor <> lines_minor then
            raise exception 'the lines of an invoice of % do not sum to its subtotal', new.customer_id
                using errcode = 'integrity_constraint_violation';
        end if;
        select coalesce(sum(a.total_minor), 0) into carried_minor
        from public.invoice_adjustments a where a.invoice_id = new.invoice_id;
        if new.adjustments_minor <> carried_minor then
            raise exception 'the adjustments an invoice of % carries do not sum to what it says', new.customer_id
                using errcode = 'integrity_constraint_violation';
        end if;
        -- Usage is invoiced from a close of that very customer and period, with its evidence.
        if new.kind in ('monthly', 'final') and not exists (
            select from public.closes c
            where c.close_id = new.close_id and c.customer_id = new.customer_id and c.period_start = new.period_start
                and c.evidence_sha256 = new.evidence_sha256 and c.source_class = new.source_class
        ) then
            raise exception 'the % invoice of % for % is issued from a close of that period only',
                new.kind, new.customer_id, new.period_start using errcode = 'integrity_constraint_violation';
        end if;
        if new.kind = 'adjustment' and (new.subtotal_minor <> 0 or new.adjustments_minor = 0) then
            raise exception 'an adjustment invoice of % carries adjustments and nothing else', new.customer_id
                using errcode = 'integrity_constraint_violation';
        end if;
        -- A later revision replaces one that was credited whole, or a draft that was discarded.
        if exists (
            select from public.invoices i
            where i.customer_id = new.customer_id and i.period_start = new.period_start and i.kind = new.kind
                and new.kind in ('monthly', 'final') and i.revision < new.revision and i.status in ('issued', 'paid')
                and not exists (
                    select from public.credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation')
        ) then
            raise exception 'an earlier revision of the % invoice of % for % stands: credit it first',
                new.kind, new.customer_id, new.period_start using errcode = 'integrity_constraint_violation';
        end if;
    end if;
    return new;
end
$$;

-- An adjustment joins a draft, adjusts what was issued, and stays as it is.
create function keep_adjustments() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    carrier uuid := case when tg_op = 'DELETE' then old.invoice_id else new.invoice_id end;
begin
    if tg_op = 'UPDATE' then
        raise exception 'an adjustment never changes' using errcode = 'restrict_violation';
    end if;
    perform from public.invoices i where i.invoice_id = carrier and i.status = 'draft' for share;
    if not found then
        raise exception 'the adjustments of an issued invoice never change' using errcode = 'restrict_violation';
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    if not exists (
        select from public.invoices a
        join public.invoices c on c.invoice_id = new.invoice_id and c.currency = a.currency
        join public.closes k on k.close_id = new.close_id and k.period_start = a.period_start
        where a.invoice_id = new.adjusted_invoice_id and a.status in ('issued', 'paid') and a.kind in ('monthly', 'final')
            and not exists (
                select from public.credit_notes n where n.invoice_id = a.invoice_id and n.kind = 'cancellation')
    ) then
        raise exception 'an adjustment is for a standing invoice of the same currency, from a close of its period'
            using errcode = 'integrity_constraint_violation';
    end if;
    return new;
end
$$;

create trigger invoice_adjustments_keep_what_was_issued
    before insert or update or delete on invoice_adjustments
    for each row execute function keep_adjustments();

-- What is left of an invoice's own charges after its credit notes, component by component.
create function invoice_remainder(
    of_invoice uuid, out gross_minor bigint, out discount_minor bigint, out net_minor bigint, out tax_minor bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select
        i.subtotal_minor - coalesce(sum(n.gross_minor), 0)::bigint,
        i.discount_minor - coalesce(sum(n.discount_minor), 0)::bigint,
        i.net_minor - coalesce(sum(n.net_minor), 0)::bigint,
        i.tax_minor - coalesce(sum(n.tax_minor), 0)::bigint
    from public.invoices i
    left join public.credit_notes n on n.invoice_id = i.invoice_id and n.kind = 'late_usage'
    where i.invoice_id = of_invoice
    group by i.invoice_id
$$;

-- What an invoice still carries for other periods: its adjustments that no credit note took back.
create function carried_remainder(
    of_invoice uuid, out gross_minor bigint, out discount_minor bigint, out net_minor bigint, out tax_minor bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select
        coalesce(sum(a.gross_minor), 0)::bigint, coalesce(sum(a.discount_minor), 0)::bigint,
        coalesce(sum(a.net_minor), 0)::bigint, coalesce(sum(a.tax_minor), 0)::bigint
    from public.invoice_adjustments a
    where a.invoice_id = of_invoice
        and not exists (select from public.credit_notes n where n.adjustment_id = a.adjustment_id)
$$;

-- A credit note stays within its invoice and never changes; only its number comes last.
create function keep_credit_notes() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    credited public.invoices;
    own record;
    carried record;
begin
    if tg_op = 'UPDATE' then
        if old.credit_note_number is null and new.credit_note_number is not null
            and (to_jsonb(new) - 'credit_note_number') = (to_jsonb(old) - 'credit_note_number')
        then
            return new;
        end if;
        raise exception 'credit note % was issued and never changes', old.credit_note_number
            using errcode = 'restrict_violation';
    end if;
    if tg_op = 'DELETE' then
        raise exception 'credit note % was issued and is never deleted', old.credit_note_number
            using errcode = 'restrict_violation';
    end if;
    -- The lock makes two notes for one invoice come one after the other.
    select i.* into credited from public.invoices i
    where i.invoice_id = new.invoice_id and i.status in ('issued', 'paid') and i.currency = new.currency for update;
    if not found then
        raise exception 'a credit note is for an issued invoice of the same currency'
            using errcode = 'restrict_violation';
    end if;
    if exists (select from public.credit_notes n where n.invoice_id = new.invoice_id and n.kind = 'cancellation') then
        raise exception 'invoice % was credited whole', credited.invoice_number using errcode = 'restrict_violation';
    end if;
    own := public.invoice_remainder(new.invoice_id);
    if new.kind = 'late_usage' and (
        own.gross_minor < new.gross_minor or own.discount_minor < new.discount_minor
        or own.net_minor < new.net_minor or own.tax_minor < new.tax_minor
        or not exists (
            select from public.closes c where c.close_id = new.close_id and c.period_start = credited.period_start)
    ) then
        raise exception 'a credit note for % exceeds what is left of it, or is from a close of another period',
            credited.invoice_number using errcode = 'integrity_constraint_violation';
    end if;
    if new.kind = 'adjustment' and not exists (
        select from public.invoice_adjustments a
        where a.adjustment_id = new.adjustment_id and a.invoice_id = new.invoice_id
            and (a.gross_minor, a.discount_minor, a.tax_minor) = (new.gross_minor, new.discount_minor, new.tax_minor)
    ) then
        raise exception 'a credit note takes back an adjustment of % whole', credited.invoice_number
            using errcode = 'integrity_constraint_violation';
    end if;
    if new.kind = 'cancellation' then
        carried := public.carried_remainder(new.invoice_id);
        if (own.gross_minor + carried.gross_minor, own.discount_minor + carried.discount_minor,
                own.tax_minor + carried.tax_minor)
            is distinct from (new.gross_minor, new.discount_minor, new.tax_minor)
        then
            raise exception 'a cancellation takes back all that is left of %', credited.invoice_number
                using errcode = 'integrity_constraint_violation';
        end if;
    end if;
    return new;
end
$$;

create trigger credit_notes_keep_what_was_issued
    before insert or update or delete on credit_notes
    for each row execute function keep_credit_notes();

create function credit_note_has_a_number() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public.credit_notes n
        where n.credit_note_id = new.credit_note_id and n.credit_note_number is not null
    ) then
        raise exception 'a credit note for % has no number', new.customer_id
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger credit_notes_have_a_number after insert on credit_notes
    deferrable initially deferred for each row execute function credit_note_has_a_number();

create trigger invoice_adjustments_are_never_truncated
    before truncate on invoice_adjustments for each statement execute function refuse_truncate();
create trigger credit_notes_are_never_truncated
    before truncate on credit_notes for each statement execute function refuse_truncate();

-- A number counts up by one and is never taken back.
create function keep_invoice_numbers() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'DELETE' or (tg_op = 'INSERT' and new.last_number <> 1) or (tg_op = 'UPDATE' and (
        (new.series, new.month) is distinct from (old.series, old.month) or new.last_number <> old.last_number + 1))
    then
        raise exception 'the numbers of a series count from one, one by one' using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger invoice_number_counters_count_one_by_one
    before insert or update or delete on invoice_number_counters
    for each row execute function keep_invoice_numbers();

-- The next number of a series in a month of issue. Others wait for it until the calling transaction ends, so it is taken
-- last; what rolls back gives it back, so there are no gaps.
create function take_invoice_number(series text, month date) returns text
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into public.invoice_number_counters as c (series, month, last_number)
    values (take_invoice_number.series, take_invoice_number.month, 1)
    on conflict on constraint invoice_number_counters_pkey do update set last_number = c.last_number + 1
    returning format(
        '%s-%s-%s', c.series, to_char(c.month, 'YYYY-MM'),
        lpad(c.last_number::text, greatest(4, length(c.last_number::text)), '0'))
$$;

-- Customers see what was issued to them. Billing writes; nobody deletes what was issued.
alter table invoice_adjustments enable row level security;
alter table invoice_adjustments force row level security;
create policy app_reads_its_own on invoice_adjustments for select to securebase_app
    using (
        customer_id = (select current_tenant())
        and exists (select from invoices i where i.invoice_id = invoice_adjustments.invoice_id)
    );
create policy rooms_read on invoice_adjustments for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_adds on invoice_adjustments for insert to securebase_billing with check (true);
create policy billing_drops on invoice_adjustments for delete to securebase_billing using (true);

alter table credit_notes enable row level security;
alter table credit_notes force row level security;
create policy app_reads_its_own on credit_notes for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on credit_notes for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_credits on credit_notes for insert to securebase_billing with check (true);
create policy billing_numbers on credit_notes for update to securebase_billing using (true) with check (true);

alter table invoice_cuts enable row level security;
alter table invoice_cuts force row level security;
create policy rooms_read on invoice_cuts for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_adds on invoice_cuts for insert to securebase_billing with check (true);
create policy billing_moves on invoice_cuts for update to securebase_billing using (true) with check (true);
create policy billing_drops on invoice_cuts for delete to securebase_billing using (true);

-- A draft is made again with newer figures until it is issued; the triggers stop at what was issued.
create policy billing_drops on invoice_lines for delete to securebase_billing using (true);
grant delete on invoice_lines to securebase_billing;
grant update (
    period_end, currency, subtotal_minor, discount_minor, net_minor, tax_rate, tax_minor, total_minor,
    source_class, rate_card_id, snapshot, close_id, evidence_sha256, adjustments_minor, credit_applied_minor
) on invoices to securebase_billing;

grant select on invoice_adjustments, credit_notes to
    securebase_app, securebase_billing, securebase_operator, securebase_analytics;
grant insert, delete on invoice_adjustments to securebase_billing;
grant insert, update (credit_note_number) on credit_notes to securebase_billing;
grant select on invoice_cuts to securebase_billing, securebase_operator, securebase_analytics;
grant insert, update (close_id), delete on invoice_cuts to securebase_billing;
grant execute on function take_invoice_number(text, date) to securebase_billing;
grant execute on function invoice_remainder(uuid), carried_remainder(uuid) to
    securebase_billing, securebase_operator, securebase_analytics;

reset role;
