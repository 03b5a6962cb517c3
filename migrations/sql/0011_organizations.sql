-- Organizations in the directory: their accounts are their customer's, unless the directory says otherwise of an account.

set local role securebase_owner;

-- Who owns an organization when: half-open intervals on whole hours that never overlap.
create table organization_ownership (
    organization_id text not null,
    customer_id text not null references customers,
    valid tstzrange not null,
    constraint organization_ownership_id_has_its_form check (organization_id ~ '^o-[a-z0-9]{10,32}$'),
    constraint organization_ownership_is_half_open_on_whole_hours check (
        not isempty(valid) and lower_inc(valid) and not upper_inc(valid) and not lower_inf(valid)
        and mod(extract(epoch from lower(valid)), 3600) = 0
        and (upper_inf(valid) or mod(extract(epoch from upper(valid)), 3600) = 0)
    ),
    constraint organization_ownership_has_one_owner_at_a_time exclude using gist (organization_id with =, valid with &&)
);

-- Where an interval comes from: said of the account itself, or following its organization. What was said stands above what
-- follows.
alter table account_ownership
    add column origin text not null default 'account',
    add constraint account_ownership_origin_is_known check (origin in ('account', 'organization'));

-- Only what follows is ever taken back.
create policy directory_follows on account_ownership for delete to securebase_aggregator using (origin = 'organization');
grant delete on account_ownership to securebase_aggregator;

alter table organization_ownership enable row level security;
alter table organization_ownership force row level security;
create policy app_reads_its_own on organization_ownership for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on organization_ownership for select
    to securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics using (true);
create policy directory_adds on organization_ownership for insert to securebase_aggregator with check (true);
create policy directory_changes on organization_ownership for update to securebase_aggregator using (true) with check (true);

grant select on organization_ownership to
    securebase_app, securebase_aggregator, securebase_billing, securebase_operator, securebase_analytics;
grant insert, update on organization_ownership to securebase_aggregator;

-- Not a number and no end are numerics, too, and have no scale.
alter table usage_rows
    add constraint usage_rows_total_is_finite check (total > '-Infinity' and total < 'Infinity');
alter table usage_facts
    add constraint usage_facts_value_is_finite check (value > '-Infinity' and value < 'Infinity');

create index usage_facts_of_members on usage_facts (account_id, time) where meter = 'accounts' and kind = 'live';

reset role;
