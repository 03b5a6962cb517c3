-- What the processes that count have met, for their operator.

set local role securebase_owner;

create table worker_records (
    worker text primary key,
    started_at timestamptz not null,
    seen_at timestamptz not null,
    conflicts bigint not null,
    unknown_outcomes bigint not null,
    parked_slices bigint not null,
    constraint worker_records_are_counts check (conflicts >= 0 and unknown_outcomes >= 0 and parked_slices >= 0)
);

create index worker_records_by_time on worker_records (seen_at);

grant select on worker_records to securebase_aggregator, securebase_operator;
grant insert, update, delete on worker_records to securebase_aggregator;

reset role;
