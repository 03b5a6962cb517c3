-- What customers and their operator agree on beside rate cards: tiers over time, ends of contracts, promotions, taxes, coupons.
-- Whoever changes one of these records it in the audit trail, in the same transaction.

set local role securebase_owner;

-- Changes of tier, at 00:00 UTC of the day. Before the first, a customer is in the tier it was added with.
create table customer_tiers (
    customer_id text not null references customers,
    valid_from date not null,
    tier customer_tier not null,
    recorded_at timestamptz not null,
    primary key (customer_id, valid_from)
);

-- The first day after a contract; null for an end that was withdrawn.
create table contract_ends (
    customer_id text primary key references customers,
    ends_on date,
    recorded_at timestamptz not null
);

-- Promotional phases of one customer, beside those of its cards.
create table customer_promotions (
    customer_id text not null references customers,
    name text not null,
    off numeric(9, 6) not null,
    -- `fees`, `usage`, or names of fees and meters.
    applies_to text[] not null,
    -- Either so many months from the first day of the contract, or these days.
    first_months int,
    starts_on date,
    ends_on date,
    recorded_at timestamptz not null,
    primary key (customer_id, name),
    constraint customer_promotions_are_named check (name <> ''),
    constraint customer_promotions_take_off_a_share check (off >= 0 and off <= 1),
    constraint customer_promotions_apply_to_something check (
        cardinality(applies_to) > 0 and array_position(applies_to, null) is null),
    constraint customer_promotions_have_one_span check (
        (first_months is not null and first_months > 0 and starts_on is null and ends_on is null)
        or (first_months is null and starts_on is not null and ends_on > starts_on))
);

-- Tax rates by jurisdiction and category; without a category, for everything that has no rate of its own.
create table tax_rates (
    jurisdiction text not null,
    category text,
    name text not null,
    rate numeric(9, 6) not null,
    valid_from date not null,
    valid_to date,
    recorded_at timestamptz not null,
    constraint tax_rates_jurisdiction_has_its_form check (jurisdiction ~ '^[A-Z]{2}(-[A-Z0-9]{1,8})?$'),
    constraint tax_rates_category_is_named check (category <> ''),
    constraint tax_rates_are_named check (name <> ''),
    constraint tax_rates_are_fractions check (rate >= 0 and rate <= 1),
    constraint tax_rates_end_after_they_begin check (valid_to > valid_from),
    constraint tax_rates_never_overlap exclude using gist (
        jurisdiction with =, (coalesce(category, '')) with =, daterange(valid_from, valid_to) with &&)
);

-- Where a customer is taxed; before the first row it has the rate it was added with. Null ends a jurisdiction again.
create table customer_jurisdictions (
    customer_id text not null references customers,
    valid_from date not null,
    jurisdiction text,
    recorded_at timestamptz not null,
    primary key (customer_id, valid_from)
);

create table tax_exemptions (
    customer_id text not null references customers,
    -- Null: from all taxes.
    category text,
    -- As the invoice must say it.
    reason text not null,
    valid_from date not null,
    valid_to date,
    recorded_at timestamptz not null,
    constraint tax_exemptions_category_is_named check (category <> ''),
    constraint tax_exemptions_have_a_reason check (reason <> ''),
    constraint tax_exemptions_end_after_they_begin check (valid_to > valid_from),
    constraint tax_exemptions_never_overlap exclude using gist (
        customer_id with =, (coalesce(category, '')) with =, daterange(valid_from, valid_to) with &&)
);

-- A coupon never changes; how many customers can redeem it can.
create table coupons (
    code text primary key,
    description text not null,
    kind text not null,
    rate numeric(9, 6),
    amount_minor bigint,
    currency char(3),
    -- When it can be redeemed, half-open.
    valid_from date not null,
    valid_to date,
    redemptions_max int,
    -- How many invoices of a customer it is taken off.
    invoices_max int,
    recorded_at timestamptz not null,
    constraint coupons_code_has_its_form check (code ~ '^[A-Z0-9][A-Z0-9_-]{1,39}$'),
    constraint coupons_are_described check (description <> ''),
    constraint coupons_take_off_a_share_or_an_amount check (
        (kind = 'percent' and rate >= 0 and rate <= 1 and num_nonnulls(amount_minor, currency) = 0)
        or (kind in ('fixed', 'balance') and rate is null and amount_minor > 0 and currency ~ '^[A-Z]{3}$')),
    constraint coupons_end_after_they_begin check (valid_to > valid_from),
    constraint coupons_limits_are_positive check (redemptions_max > 0 and invoices_max > 0)
);

-- What of a coupon was used is read from the issued invoices themselves.
create table coupon_redemptions (
    customer_id text not null references customers,
    code text not null references coupons,
    redeemed_on date not null,
    recorded_at timestamptz not null,
    primary key (customer_id, code)
);

create index coupon_redemptions_by_code on coupon_redemptions (code);

alter table customer_tiers enable row level security;
alter table customer_tiers force row level security;
create policy app_reads_its_own on customer_tiers for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on customer_tiers for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_records on customer_tiers for insert to securebase_operator with check (true);
create policy operator_corrects on customer_tiers for update to securebase_operator using (true) with check (true);

alter table contract_ends enable row level security;
alter table contract_ends force row level security;
create policy app_reads_its_own on contract_ends for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy rooms_read on contract_ends for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_records on contract_ends for insert to securebase_operator with check (true);
create policy operator_corrects on contract_ends for update to securebase_operator using (true) with check (true);

alter table customer_promotions enable row level security;
alter table customer_promotions force row level security;
create policy rooms_read on customer_promotions for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_records on customer_promotions for insert to securebase_operator with check (true);

alter table customer_jurisdictions enable row level security;
alter table customer_jurisdictions force row level security;
create policy rooms_read on customer_jurisdictions for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_records on customer_jurisdictions for insert to securebase_operator with check (true);
create policy operator_corrects on customer_jurisdictions for update
    to securebase_operator using (true) with check (true);

alter table tax_exemptions enable row level security;
alter table tax_exemptions force row level security;
create policy rooms_read on tax_exemptions for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_records on tax_exemptions for insert to securebase_operator with check (true);
create policy operator_ends on tax_exemptions for update to securebase_operator using (true) with check (true);

alter table coupon_redemptions enable row level security;
alter table coupon_redemptions force row level security;
create policy rooms_read on coupon_redemptions for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_records on coupon_redemptions for insert to securebase_operator with check (true);

grant select on customer_tiers, contract_ends to securebase_app;
grant select on
    customer_tiers, contract_ends, customer_promotions, tax_rates, customer_jurisdictions, tax_exemptions, coupons,
    coupon_redemptions
    to securebase_billing, securebase_operator, securebase_analytics;
grant insert on
    customer_tiers, contract_ends, customer_promotions, tax_rates, customer_jurisdictions, tax_exemptions, coupons,
    coupon_redemptions
    to securebase_operator;
grant update (tier, recorded_at) on customer_tiers to securebase_operator;
grant update (ends_on, recorded_at) on contract_ends to securebase_operator;
grant update (jurisdiction, recorded_at) on customer_jurisdictions to securebase_operator;
grant update (valid_to) on tax_rates, tax_exemptions to securebase_operator;
grant update (redemptions_max) on coupons to securebase_operator;

reset role;
