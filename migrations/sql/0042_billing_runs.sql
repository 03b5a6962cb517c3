-- Billing runs: who is still to be billed for a period. A row that waits is a claim to take; whoever holds its lock bills
-- that customer, and a worker that dies lets go of it.

set local role securebase_owner;

create table billing_runs (
    run_id bigint generated always as identity primary key,
    period_start date not null,
    -- Everyone, or only the customers that were named.
    is_whole boolean not null,
    started_at timestamptz not null,
    started_by text not null,
    finished_at timestamptz,
    constraint billing_runs_period_begins_a_month check (extract(day from period_start) = 1),
    constraint billing_runs_name_who_started check (started_by <> ''),
    constraint billing_runs_finish_after_they_start check (finished_at >= started_at)
);

-- A run of everyone that was interrupted is taken up by the next, also by several at once.
create unique index billing_runs_are_one_a_period on billing_runs (period_start) where is_whole and finished_at is null;

create table billing_run_customers (
    run_id bigint not null references billing_runs,
    customer_id text not null references customers,
    -- Null while the customer waits to be billed.
    outcome text,
    -- Why it failed or waits.
    reason text,
    invoice_id uuid,
    -- What the run's own invoice came to, and what its credit notes took back.
    currency char(3),
    total_minor bigint,
    credited_minor bigint not null default 0,
    credit_note_count int not null default 0,
    finished_at timestamptz,
    primary key (run_id, customer_id),
    constraint billing_run_customers_invoice_is_theirs
        foreign key (invoice_id, customer_id) references invoices (invoice_id, customer_id),
    constraint billing_run_customers_outcome_is_known check (outcome in (
        'issued', 'already_issued', 'waiting', 'unproven', 'not_under_contract', 'voided', 'credited', 'failed')),
    constraint billing_run_customers_are_done_with_an_outcome check ((outcome is null) = (finished_at is null)),
    constraint billing_run_customers_say_why check (
        (outcome in ('waiting', 'unproven', 'failed')) <= (reason is not null)),
    constraint billing_run_customers_issue_an_invoice check (outcome <> 'issued' or invoice_id is not null)
);

create index billing_run_customers_waiting on billing_run_customers (run_id, customer_id) where outcome is null;

alter table billing_run_customers enable row level security;
alter table billing_run_customers force row level security;
create policy rooms_read on billing_run_customers for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy billing_lists on billing_run_customers for insert to securebase_billing with check (outcome is null);
create policy billing_takes on billing_run_customers for update to securebase_billing using (true) with check (true);

grant select on billing_runs, billing_run_customers to securebase_billing, securebase_operator, securebase_analytics;
grant insert, update (finished_at) on billing_runs to securebase_billing;
grant insert, update (
    outcome, reason, invoice_id, currency, total_minor, credited_minor, credit_note_count, finished_at
) on billing_run_customers to securebase_billing;

reset role;
