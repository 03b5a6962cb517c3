-- The outbox: what customers are to be told, written with what it tells of and sent after the commit. And the documents
-- that go with it, rendered once and served from then on.

set local role securebase_owner;

-- An invoice as the customer gets it: rendered once after the issue, the same bytes for ever.
create table invoice_documents (
    invoice_id uuid not null,
    customer_id text not null,
    media_type text not null,
    bytes bytea not null,
    sha256 bytea not null,
    rendered_at timestamptz not null,
    primary key (invoice_id, media_type),
    constraint invoice_documents_stay_with_their_customer
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint invoice_documents_media_type_has_its_form check (media_type ~ '^[a-z]+/[a-z0-9.+-]+$'),
    constraint invoice_documents_hash_is_theirs check (sha256 = pg_catalog.sha256(bytes)),
    constraint invoice_documents_are_not_empty check (octet_length(bytes) > 0)
);

create table credit_note_documents (
    credit_note_id uuid not null,
    customer_id text not null,
    media_type text not null,
    bytes bytea not null,
    sha256 bytea not null,
    rendered_at timestamptz not null,
    primary key (credit_note_id, media_type),
    constraint credit_note_documents_stay_with_their_customer
        foreign key (credit_note_id, customer_id) references credit_notes (credit_note_id, customer_id),
    constraint credit_note_documents_media_type_has_its_form check (media_type ~ '^[a-z]+/[a-z0-9.+-]+$'),
    constraint credit_note_documents_hash_is_theirs check (sha256 = pg_catalog.sha256(bytes)),
    constraint credit_note_documents_are_not_empty check (octet_length(bytes) > 0)
);

create function keep_documents() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'a stored document never changes' using errcode = 'restrict_violation';
end
$$;

create trigger invoice_documents_are_kept before update or delete or truncate on invoice_documents
    for each statement execute function keep_documents();
create trigger credit_note_documents_are_kept before update or delete or truncate on credit_note_documents
    for each statement execute function keep_documents();

-- Only what was issued has a document.
create function render_what_was_issued() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public.invoices i where i.invoice_id = new.invoice_id and i.status in ('issued', 'paid')
    ) then
        raise exception 'a document is of an issued invoice' using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger invoice_documents_are_of_issued_invoices before insert on invoice_documents
    for each row execute function render_what_was_issued();

-- Where a customer's mail goes. An address that bounced for good, or whose owner complained, gets no more.
create table mail_recipients (
    customer_id text not null references customers,
    address text not null,
    added_at timestamptz not null,
    added_by text not null,
    suppressed_at timestamptz,
    suppressed_because text,
    primary key (customer_id, address),
    constraint mail_recipients_address_has_its_form check (
        address ~ '^[^[:space:]<>@,;]+@[^[:space:]<>@,;]+$' and octet_length(address) <= 254),
    constraint mail_recipients_are_suppressed_for_a_reason check ((suppressed_at is null) = (suppressed_because is null)),
    constraint mail_recipients_reason_is_known check (suppressed_because in ('bounce', 'complaint', 'operator'))
);

create index mail_recipients_by_address on mail_recipients (lower(address));

create table notifications (
    notification_id bigint generated always as identity primary key,
    -- Stable: the same occasion has the same tag, and a message that is sent twice carries it twice.
    tag text not null,
    customer_id text not null references customers,
    template text not null,
    invoice_id uuid,
    credit_note_id uuid,
    -- What the template says beside the invoice or credit note.
    payload jsonb not null default '{}',
    created_at timestamptz not null,
    state text not null default 'pending',
    attempts int not null default 0,
    next_attempt_at timestamptz not null,
    sent_at timestamptz,
    -- The mail service's own id of what it took.
    message_id text,
    last_error text,
    constraint notifications_tag_is_unique unique (tag),
    constraint notifications_with_customer unique (notification_id, customer_id),
    constraint notifications_tag_has_its_form check (tag ~ '^[A-Za-z0-9_-]{1,200}$'),
    constraint notifications_template_is_known check (template in (
        'invoice_issued', 'credit_note_issued', 'invoice_reminder', 'invoice_overdue', 'api_key_ready', 'usage_threshold')),
    constraint notifications_name_what_they_tell_of check (
        (template in ('invoice_issued', 'invoice_reminder', 'invoice_overdue')) = (invoice_id is not null)
        and (template = 'credit_note_issued') = (credit_note_id is not null)),
    constraint notifications_payload_is_a_small_object check (
        jsonb_typeof(payload) = 'object' and octet_length(payload::text) <= 16384),
    constraint notifications_state_is_known check (state in ('pending', 'sent', 'failed')),
    constraint notifications_sent_have_a_date check ((state = 'sent') = (sent_at is not null)),
    constraint notifications_count_attempts check (attempts >= 0),
    constraint notifications_are_of_the_customers_invoice
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint notifications_are_of_the_customers_credit_note
        foreign key (credit_note_id, customer_id) references credit_notes (credit_note_id, customer_id)
);

create index notifications_to_send on notifications (next_attempt_at, notification_id) where state = 'pending';
create index notifications_by_customer on notifications (customer_id, created_at desc, notification_id desc);
create index notifications_by_invoice on notifications (invoice_id) where invoice_id is not null;
create index notifications_by_credit_note on notifications (credit_note_id) where credit_note_id is not null;
create index notifications_by_message on notifications (message_id) where message_id is not null;

-- A notification is about what it was made about; only its sending moves on, and what was sent stays sent.
create function keep_notifications() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    moving constant text[] := array['state', 'attempts', 'next_attempt_at', 'sent_at', 'message_id', 'last_error'];
begin
    if tg_op = 'DELETE' then
        raise exception 'a notification is never deleted' using errcode = 'restrict_violation';
    end if;
    if (to_jsonb(new) - moving) is distinct from (to_jsonb(old) - moving) or (old.state = 'sent' and new.state <> 'sent') then
        raise exception 'a notification never changes' using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger notifications_are_kept before update or delete on notifications
    for each row execute function keep_notifications();
create trigger notifications_are_never_truncated
    before truncate on notifications for each statement execute function refuse_truncate();

-- What became of a message after it was taken: bounces, complaints, deliveries.
create table mail_events (
    mail_event_id bigint generated always as identity primary key,
    -- Null where the message is none of ours.
    notification_id bigint,
    customer_id text,
    message_id text not null,
    kind text not null,
    is_permanent boolean not null,
    address text not null,
    occurred_at timestamptz not null,
    recorded_at timestamptz not null,
    details jsonb not null,
    constraint mail_events_are_recorded_once unique (message_id, kind, address, occurred_at),
    constraint mail_events_are_of_the_customers_notification
        foreign key (notification_id, customer_id) references notifications (notification_id, customer_id) match full,
    constraint mail_events_kind_is_known check (kind in ('bounce', 'complaint', 'delivery', 'reject', 'delay'))
);

create index mail_events_by_notification on mail_events (notification_id) where notification_id is not null;

create trigger mail_events_are_kept before update or delete or truncate on mail_events
    for each statement execute function keep_the_books();

-- No issued invoice and no credit note without its notification, in the same transaction.
create function issued_is_announced() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public.notifications n where n.invoice_id = new.invoice_id and n.template = 'invoice_issued'
    ) then
        raise exception 'invoice % is not in the outbox', new.invoice_id using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger invoices_are_announced after update on invoices
    deferrable initially deferred for each row
    when (old.status = 'draft' and new.status = 'issued') execute function issued_is_announced();

create function credit_is_announced() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from public.notifications n where n.credit_note_id = new.credit_note_id) then
        raise exception 'a credit note for % is not in the outbox', new.customer_id
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger credit_notes_are_announced after insert on credit_notes
    deferrable initially deferred for each row execute function credit_is_announced();

-- And none of an invoice that was not issued: a draft is told to nobody.
create function announce_what_was_issued() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.invoice_id is not null and not exists (
        select from public.invoices i where i.invoice_id = new.invoice_id and i.status in ('issued', 'paid')
    ) then
        raise exception 'notification % tells of an invoice that was not issued', new.tag
            using errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create constraint trigger notifications_tell_of_issued_invoices after insert on notifications
    deferrable initially deferred for each row execute function announce_what_was_issued();

alter table invoice_documents enable row level security;
alter table invoice_documents force row level security;
create policy app_reads_its_own on invoice_documents for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on invoice_documents for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_renders on invoice_documents for insert to securebase_billing with check (true);

alter table credit_note_documents enable row level security;
alter table credit_note_documents force row level security;
create policy app_reads_its_own on credit_note_documents for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on credit_note_documents for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_renders on credit_note_documents for insert to securebase_billing with check (true);

alter table mail_recipients enable row level security;
alter table mail_recipients force row level security;
create policy app_reads_its_own on mail_recipients for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on mail_recipients for select to securebase_billing, securebase_operator using (true);
create policy billing_adds on mail_recipients for insert to securebase_billing with check (true);
create policy billing_changes on mail_recipients for update to securebase_billing using (true) with check (true);

alter table notifications enable row level security;
alter table notifications force row level security;
create policy app_reads_its_own on notifications for select to securebase_app
    using (customer_id = (select current_tenant()));
-- The application tells of keys it made for its proven tenant, and of nothing else.
create policy app_tells_of_keys on notifications for insert to securebase_app
    with check (customer_id = (select current_tenant()) and template = 'api_key_ready');
create policy rooms_read on notifications for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_tells on notifications for insert to securebase_billing with check (true);
create policy operator_tells_of_keys on notifications for insert to securebase_operator
    with check (template = 'api_key_ready');
create policy aggregator_tells_of_usage on notifications for insert to securebase_aggregator
    with check (template = 'usage_threshold');
create policy billing_sends on notifications for update to securebase_billing using (true) with check (true);

alter table mail_events enable row level security;
alter table mail_events force row level security;
create policy rooms_read on mail_events for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_records on mail_events for insert to securebase_billing with check (true);

grant select on invoice_documents, credit_note_documents, notifications to
    securebase_app, securebase_billing, securebase_operator, securebase_analytics;
grant insert on invoice_documents, credit_note_documents to securebase_billing;
grant select on mail_recipients to securebase_app, securebase_billing, securebase_operator;
grant insert, update (suppressed_at, suppressed_because) on mail_recipients to securebase_billing;
grant insert (tag, customer_id, template, invoice_id, credit_note_id, payload, created_at, next_attempt_at)
    on notifications to securebase_billing, securebase_operator, securebase_aggregator, securebase_app;
grant update (state, attempts, next_attempt_at, sent_at, message_id, last_error) on notifications to securebase_billing;
grant select on mail_events to securebase_billing, securebase_operator, securebase_analytics;
grant insert on mail_events to securebase_billing;

reset role;
