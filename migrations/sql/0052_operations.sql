-- What operators asked for over HTTP that takes longer than a request may: closes, billing runs, replays of dead letters. A row
-- says what is to be done and how far it is; the operator's servers carry them out one at a time, in the order of their numbers.
-- Who carries one out holds a lock of the transaction that will finish it, so a server that dies lets go of it at once.

set local role securebase_owner;

create table operations (
    operation_id bigint generated always as identity primary key,
    -- `close`, `run` or `replay`.
    kind text not null,
    -- What exactly, in the form of the request's body.
    request jsonb not null,
    -- Over the kind and the request as it was written: the same may wait or be under way once.
    request_sha256 bytea not null,
    requested_by text not null,
    requested_at timestamptz not null,
    status text not null default 'queued',
    -- How often it was begun; more than once where a server died over it.
    attempts int not null default 0,
    started_at timestamptz,
    finished_at timestamptz,
    -- What it came to, once it is done; else why it failed, as a problem document.
    result jsonb,
    problem jsonb,
    constraint operations_kind_is_known check (kind in ('close', 'run', 'replay')),
    constraint operations_request_is_an_object check (jsonb_typeof(request) = 'object'),
    constraint operations_request_is_sha256 check (octet_length(request_sha256) = 32),
    constraint operations_name_who_asked check (requested_by <> ''),
    constraint operations_status_is_known check (status in ('queued', 'under_way', 'done', 'failed')),
    constraint operations_are_begun_before_they_are_under_way check (
        (status = 'queued') = (attempts = 0) and (attempts = 0) = (started_at is null)),
    constraint operations_end_done_or_failed check ((status in ('done', 'failed')) = (finished_at is not null)),
    constraint operations_done_say_what check ((status = 'done') = (result is not null)),
    constraint operations_failed_say_why check ((status = 'failed') = (problem is not null))
);

create unique index operations_wait_once on operations (kind, request_sha256) where finished_at is null;
create index operations_to_be_carried_out on operations (operation_id) where finished_at is null;

-- What was asked for stays as it was, and so does what it came to.
create function keep_operations() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'operation % is never deleted', old.operation_id using errcode = 'restrict_violation';
    end if;
    if old.finished_at is not null
        or (new.operation_id, new.kind, new.request, new.request_sha256, new.requested_by, new.requested_at)
            is distinct from
            (old.operation_id, old.kind, old.request, old.request_sha256, old.requested_by, old.requested_at)
        or new.attempts < old.attempts
    then
        raise exception 'operation % does not change so', old.operation_id using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger operations_keep_what_was_asked
    before update or delete on operations for each row execute function keep_operations();
create trigger operations_are_never_truncated
    before truncate on operations for each statement execute function refuse_truncate();

-- Operators ask, and their servers carry out, as one role; nobody else sees who asked for what, and why.
grant select, insert (kind, request, request_sha256, requested_by, requested_at),
    update (status, attempts, started_at, finished_at, result, problem)
    on operations to securebase_operator;

reset role;
