-- Daily totals, so that a question about a month reads days and not hours.
--
-- A row is the exact sum of the rows of `usage_rows` of its account, meter, region, category, UTC day and customer, over all
-- partitions, after every transaction; the statements that write those rows add their changes here as they add them to
-- `usage_metrics`. hourly_rows is how many rows it is the sum of: with none left it says nothing, and readers pass it over.
set local role securebase_owner;

create table usage_days (
    account_id text not null,
    meter text not null,
    region text not null,
    category text not null,
    -- The day's first hour.
    window_start timestamptz not null,
    -- The owner of those hours; null outside every interval. A day of a move has a row for each owner.
    customer_id text,
    total numeric not null,
    hourly_rows bigint not null,
    constraint usage_days_start_at_midnight check (window_start = date_trunc('day', window_start, 'UTC')),
    constraint usage_days_total_is_exact check (scale(total) <= 18)
) with (fillfactor = 50);

create unique index usage_days_one_a_day on usage_days
    (account_id, meter, window_start, region, category, (coalesce(customer_id, '')));
create index usage_days_by_customer on usage_days (customer_id, meter, window_start);

alter table usage_days enable row level security;
alter table usage_days force row level security;
create policy app_reads_its_own on usage_days for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on usage_days for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy rollup_adds on usage_days for insert to securebase_aggregator with check (true);
create policy rollup_changes on usage_days for update to securebase_aggregator using (true) with check (true);

grant select on usage_days to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant insert, update on usage_days to securebase_aggregator;

-- What was counted before this table was there. The owner sees no tenant's rows, but for this statement.
create policy owner_copies on usage_rows for select to securebase_owner using (true);
create policy owner_copies on usage_days for insert to securebase_owner with check (true);
lock table usage_rows in share mode;
insert into usage_days (account_id, meter, region, category, window_start, customer_id, total, hourly_rows)
select account_id, meter, region, category, date_trunc('day', window_start, 'UTC'), customer_id,
    trim_scale(sum(total)), count(*)
from usage_rows
group by 1, 2, 3, 4, 5, 6;
drop policy owner_copies on usage_rows;
drop policy owner_copies on usage_days;

reset role;
