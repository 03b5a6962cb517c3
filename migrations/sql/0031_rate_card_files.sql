-- Rate cards that were loaded from files, and contracts of one customer.

set local role securebase_owner;

-- A card is either rows, as the first four are (per-unit prices in rate_card_prices), or a document. Of a document the amounts
-- of the row are a summary: the base fee, and nothing where there is no volume discount.
alter table rate_cards
    -- Whose contract it is; null for the prices of the tier.
    add column customer_id text references customers,
    -- The card as it was checked, and the file it came from, byte for byte.
    add column document jsonb,
    add column source_name text,
    add column source_text text,
    add column source_sha256 bytea,
    add column loaded_at timestamptz,
    drop constraint rate_cards_version_of_a_tier,
    drop constraint rate_cards_never_overlap,
    add constraint rate_cards_version_of_a_tier unique nulls not distinct (tier, customer_id, version),
    add constraint rate_cards_never_overlap exclude using gist (
        tier with =, (coalesce(customer_id, '')) with =, daterange(valid_from, valid_to) with &&),
    add constraint rate_cards_documents_are_whole check (
        num_nonnulls(document, source_name, source_text, source_sha256, loaded_at) in (0, 5)),
    add constraint rate_cards_source_has_its_hash check (
        source_sha256 = sha256(convert_to(source_text, 'UTF8'))),
    add constraint rate_cards_contracts_are_documents check (customer_id is null or document is not null);

-- Only where a card ends can become known later.
create function keep_loaded_rate_cards() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if old.document is null and tg_op = 'UPDATE' and new.document is null then
        return new;
    end if;
    if tg_op = 'DELETE' then
        raise exception 'rate card % version % was loaded and is never deleted', old.tier, old.version
            using errcode = 'restrict_violation';
    end if;
    if (to_jsonb(new) - 'valid_to') is distinct from (to_jsonb(old) - 'valid_to')
        or (old.valid_to is not null and new.valid_to is distinct from old.valid_to)
    then
        raise exception 'rate card % version % was loaded and never changes', old.tier, old.version
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger rate_cards_keep_what_was_loaded
    before update or delete on rate_cards for each row execute function keep_loaded_rate_cards();

-- A contract is its customer's business; the application reads no card at all.
alter table rate_cards enable row level security;
alter table rate_cards force row level security;
create policy rooms_read on rate_cards for select
    to securebase_billing, securebase_operator, securebase_analytics using (true);
create policy operator_loads on rate_cards for insert to securebase_operator with check (document is not null);
create policy operator_ends on rate_cards for update to securebase_operator using (true) with check (true);

grant insert, update (valid_to) on rate_cards to securebase_operator;

reset role;
