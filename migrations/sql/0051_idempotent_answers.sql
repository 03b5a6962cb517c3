-- The answers of writes that carried an Idempotency-Key, stored in the transaction of the write: the same key again gets
-- the same answer, and does nothing.
set local role securebase_owner;

create table idempotent_answers (
    -- Null: an operator.
    customer_id text references customers,
    -- The customer, or '' for operators.
    owner text not null generated always as (coalesce(customer_id, '')) stored,
    idempotency_key text not null,
    -- Method, path and body of the first request: another one under the same key is a mistake of the caller.
    request_sha256 bytea not null,
    -- Null while the first request is at work, which nobody but itself sees.
    status int,
    body text,
    created_at timestamptz not null,
    primary key (owner, idempotency_key),
    constraint idempotent_answers_key_is_short check (octet_length(idempotency_key) between 1 and 255),
    constraint idempotent_answers_request_is_sha256 check (octet_length(request_sha256) = 32),
    constraint idempotent_answers_status_is_a_success check (status between 200 and 299),
    constraint idempotent_answers_are_whole check ((status is null) = (body is null))
);

create index idempotent_answers_by_age on idempotent_answers (owner, created_at);

alter table idempotent_answers enable row level security;
alter table idempotent_answers force row level security;
create policy app_reads_its_own on idempotent_answers for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy app_adds_its_own on idempotent_answers for insert to securebase_app
    with check (customer_id = (select current_tenant()));
create policy app_changes_its_own on idempotent_answers for update to securebase_app
    using (customer_id = (select current_tenant())) with check (customer_id = (select current_tenant()));
create policy app_forgets_its_own on idempotent_answers for delete to securebase_app
    using (customer_id = (select current_tenant()));
create policy operator_reads_its_own on idempotent_answers for select to securebase_operator
    using (customer_id is null);
create policy operator_adds_its_own on idempotent_answers for insert to securebase_operator
    with check (customer_id is null);
create policy operator_changes_its_own on idempotent_answers for update to securebase_operator
    using (customer_id is null) with check (customer_id is null);
create policy operator_forgets_its_own on idempotent_answers for delete to securebase_operator
    using (customer_id is null);

grant select, delete on idempotent_answers to securebase_app, securebase_operator;
grant insert (customer_id, idempotency_key, request_sha256, created_at) on idempotent_answers
    to securebase_app, securebase_operator;
grant update (status, body) on idempotent_answers to securebase_app, securebase_operator;

reset role;
