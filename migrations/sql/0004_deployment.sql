-- Which counters this database belongs to: usage rows and cursors mean nothing without the logs they were rolled up from.
set local role securebase_owner;

create table deployment (
    -- One row at most.
    singleton boolean primary key default true constraint deployment_is_one check (singleton),
    deployment_id text not null constraint deployment_id_is_hex check (deployment_id ~ '^[0-9a-f]{32}$'),
    bound_at timestamptz not null
);

revoke all on deployment from public;
grant select, insert on deployment to securebase_aggregator;
grant select on deployment to securebase_operator;

reset role;
