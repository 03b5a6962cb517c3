-- Lines of every kind, with exact numbers of any length.

set local role securebase_owner;

-- A price of 12 places on a byte-second total of 18 is a fraction of more than 39 digits, and a scale of 0 would round it.
alter table invoice_lines
    alter column quantity_raw type numeric,
    alter column quantity_raw_per_unit type numeric,
    alter column exact_numerator type numeric,
    alter column exact_denominator type numeric;

-- The fee's name on its rate card, the meter's, or `commitment`. Null on lines written before.
alter table invoice_lines add column item text;

alter table invoice_lines
    drop constraint invoice_lines_kind_is_known,
    drop constraint invoice_lines_exact_is_a_fraction,
    drop constraint invoice_lines_quantity_is_a_fraction,
    drop constraint invoice_lines_amount_is_the_rounded_one;
alter table invoice_lines
    add constraint invoice_lines_kind_is_known check (
        kind in ('base_fee', 'recurring_fee', 'one_off_fee', 'usage', 'true_up', 'prepayment')),
    -- NaN sorts above every number.
    add constraint invoice_lines_quantity_is_a_fraction check (
        quantity_raw >= 0 and quantity_raw < 'Infinity'
        and quantity_raw_per_unit > 0 and quantity_raw_per_unit < 'Infinity'),
    add constraint invoice_lines_exact_is_a_fraction check (
        exact_denominator > 0 and exact_denominator < 'Infinity'
        and exact_numerator >= 0 and exact_numerator < 'Infinity'
        and exact_numerator = trunc(exact_numerator) and exact_denominator = trunc(exact_denominator)),
    -- Half-even to the minor unit; a prorated monthly fee is a difference of two rounded sums.
    add constraint invoice_lines_amount_is_the_rounded_one check (
        2 * abs(amount_minor * exact_denominator - exact_numerator)
            <= exact_denominator * case when kind in ('base_fee', 'recurring_fee') then 2 else 1 end);

reset role;
