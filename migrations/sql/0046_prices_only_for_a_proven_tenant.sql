-- The application reads prices of the tiers and coupons for somebody: without a proven tenant it reads none of them either.

set local role securebase_owner;

alter policy app_reads_tiers_and_its_own on rate_cards
    using ((select current_tenant()) is not null and (customer_id is null or customer_id = (select current_tenant())));
alter policy app_reads_what_it_redeemed on coupons
    using (exists (
        select from coupon_redemptions r where r.code = coupons.code and r.customer_id = (select current_tenant())));

reset role;
