-- Documents that are still to be rendered: written with the issue, taken by whoever renders, gone when the bytes are stored. So the
-- issue never waits for a document, none is forgotten, and looking for work costs what there is to do and not all that ever was.

set local role securebase_owner;

create table documents_due (
    -- The invoice's or credit note's own id.
    document_id uuid primary key,
    customer_id text not null,
    invoice_id uuid,
    credit_note_id uuid,
    due_since timestamptz not null,
    -- What could not be rendered is tried again each round, and says why.
    attempts int not null default 0,
    last_error text,
    constraint documents_due_are_of_one_thing check (
        num_nonnulls(invoice_id, credit_note_id) = 1 and document_id = coalesce(invoice_id, credit_note_id)),
    constraint documents_due_count_attempts check (attempts >= 0),
    constraint documents_due_of_the_customers_invoice
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint documents_due_of_the_customers_credit_note
        foreign key (credit_note_id, customer_id) references credit_notes (credit_note_id, customer_id)
);

create function invoice_document_is_due() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.documents_due (document_id, customer_id, invoice_id, due_since)
    values (new.invoice_id, new.customer_id, new.invoice_id, new.issued_at);
    return null;
end
$$;

create trigger invoices_are_rendered_later after update on invoices
    for each row when (old.status = 'draft' and new.status = 'issued') execute function invoice_document_is_due();

create function credit_note_document_is_due() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.documents_due (document_id, customer_id, credit_note_id, due_since)
    values (new.credit_note_id, new.customer_id, new.credit_note_id, new.issued_at);
    return null;
end
$$;

create trigger credit_notes_are_rendered_later after insert on credit_notes
    for each row execute function credit_note_document_is_due();

-- What is due stays due until it is stored.
create function keep_documents_due() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from public.invoice_documents d where d.invoice_id = old.invoice_id)
        and not exists (select from public.credit_note_documents d where d.credit_note_id = old.credit_note_id)
    then
        raise exception 'the document of % is not stored yet', old.document_id using errcode = 'restrict_violation';
    end if;
    return old;
end
$$;

create trigger documents_due_until_they_are_stored before delete on documents_due
    for each row execute function keep_documents_due();
create trigger documents_due_are_never_truncated
    before truncate on documents_due for each statement execute function refuse_truncate();

alter table documents_due enable row level security;
alter table documents_due force row level security;
create policy rooms_read on documents_due for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_adds on documents_due for insert to securebase_billing with check (true);
create policy billing_takes on documents_due for update to securebase_billing using (true) with check (true);
create policy billing_renders on documents_due for delete to securebase_billing using (true);

grant select on documents_due to securebase_billing, securebase_operator, securebase_analytics;
grant insert, update (attempts, last_error), delete on documents_due to securebase_billing;

reset role;
