-- A customer's application can work its own month out before it is invoiced: it reads the prices of the tiers and of its own
-- contract, and what is agreed on with that customer. Nothing of anyone else, and nothing is written.

set local role securebase_owner;

create policy app_reads_tiers_and_its_own on rate_cards for select to securebase_app
    using (customer_id is null or customer_id = (select current_tenant()));
create policy app_reads_its_own on customer_promotions for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy app_reads_its_own on customer_jurisdictions for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy app_reads_its_own on tax_exemptions for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy app_reads_its_own on coupon_redemptions for select to securebase_app
    using (customer_id = (select current_tenant()));
create policy app_reads_its_own on invoice_cuts for select to securebase_app
    using (customer_id = (select current_tenant()));

-- A code that somebody else has redeemed is a secret of theirs; so coupons are behind policies from here on.
alter table coupons enable row level security;
alter table coupons force row level security;
-- The inner look is under the policies of redemptions.
create policy app_reads_what_it_redeemed on coupons for select to securebase_app
    using (exists (select from coupon_redemptions r where r.code = coupons.code));
create policy rooms_read on coupons for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_records on coupons for insert to securebase_operator with check (true);
create policy operator_changes on coupons for update to securebase_operator using (true) with check (true);

-- Prices kept as rows are those of the first cards, which are the tiers'; a contract is always a document.
grant select on
    rate_cards, rate_card_prices, tax_rates, customer_promotions, customer_jurisdictions, tax_exemptions, coupons,
    coupon_redemptions, invoice_cuts
    to securebase_app;

reset role;
