//! The statements of the roll-up of facts.

use crate::usage_rows::{recomputed_meters, with_totals};

pub(super) const ADD_BUCKETS: &str = "
    insert into fact_buckets (bucket, sequence, through)
    select bucket, 0, $2 from unnest($1::smallint[]) as i (bucket) order by bucket
    on conflict do nothing";

pub(super) const LOCK_BUCKETS: &str =
    "select bucket, sequence, through from fact_buckets where bucket = any($1) order by bucket for update";

pub(super) const BUMP_BUCKETS: &str = "update fact_buckets set sequence = sequence + 1 where bucket = any($1)";

pub(super) const ADD_EXPORTS: &str = "
    insert into usage_exports (export, generation, seen, changed_at)
    select export, generation, 0, $3 from unnest($1::text[], $2::bigint[]) as i (export, generation)
    order by export, generation
    on conflict do nothing";

pub(super) const LOCK_EXPORTS: &str = "
    select export, generation, in_force from usage_exports where export = any($1)
    order by export, generation for update";

pub(super) const COUNT_EXPORTS: &str = "
    update usage_exports e
    set seen = e.seen + i.seen, changed_at = $4, expected = (
        select max(f.value)::bigint from usage_facts f
        where f.export = e.export and f.revision = e.generation and f.kind = 'export_end')
    from unnest($1::text[], $2::bigint[], $3::bigint[]) as i (export, generation, seen)
    where e.export = i.export and e.generation = i.generation";

// Of these exports, or of all: those of which the highest complete generation is not the one in force.
pub(super) const COMPLETE_EXPORTS: &str = "
    select distinct e.export from usage_exports e
    where ($1::text[] is null or e.export = any($1))
        and e.expected <= e.seen and not e.in_force
        and not exists (
            select from usage_exports later
            where later.export = e.export and later.in_force and e.generation < later.generation)
    order by 1";

pub(super) const READ_VERSIONS: &str = "select key, revision, content_hash from usage_facts where key = any($1)";

pub(super) const WRITE_FACTS: &str = "
    insert into usage_facts
        (bucket, key, account_id, meter, resource, time, end_at, revision, content_hash, kind, value, region, category, export,
        in_force)
    select $1, i.key, i.account_id, i.meter, i.resource, i.time, i.end_at, i.revision, i.content_hash, i.kind,
        i.value::numeric, i.region, i.category, i.export, i.in_force
    from unnest(
        $2::bytea[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::bigint[], $9::bytea[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::boolean[]
    ) as i (key, account_id, meter, resource, time, end_at, revision, content_hash, kind, value, region, category, export,
        in_force)
    on conflict (key) do update set
        end_at = excluded.end_at, revision = excluded.revision, content_hash = excluded.content_hash, kind = excluded.kind,
        value = excluded.value, region = excluded.region, category = excluded.category, in_force = excluded.in_force";

// The hours that facts between two times can bear on reach from the fact before the first to the fact after the last; what is
// read reaches one fact farther on each side, so that those hours can be evaluated whole.
pub(super) const LOAD_SERIES: &str = "
    with asked as (
        select * from unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
            as i (position, account_id, meter, resource, first_at, last_at)
    ), neighbours as (
        select a.*,
            (select max(f.time) from usage_facts f where f.in_force and f.account_id = a.account_id and f.meter = a.meter
                and f.resource = a.resource and f.time < a.first_at) as before_at,
            (select min(f.time) from usage_facts f where f.in_force and f.account_id = a.account_id and f.meter = a.meter
                and f.resource = a.resource and f.time > a.last_at) as after_at
        from asked a
    ), hours as (
        select n.*,
            date_trunc('hour', coalesce(n.before_at, n.first_at), 'UTC') as from_hour,
            date_trunc('hour', coalesce(n.after_at, n.last_at), 'UTC') + interval '1 hour' as to_hour
        from neighbours n
    ), reach as (
        select h.*,
            coalesce((select max(f.time) from usage_facts f where f.in_force and f.account_id = h.account_id
                and f.meter = h.meter and f.resource = h.resource and f.time < h.from_hour), h.from_hour) as from_at,
            coalesce((select min(f.time) from usage_facts f where f.in_force and f.account_id = h.account_id
                and f.meter = h.meter and f.resource = h.resource and f.time >= h.to_hour), h.to_hour) as to_at
        from hours h
    )
    select r.position, r.from_hour, r.to_hour, r.after_at is not null as is_followed,
        f.account_id, f.meter, f.resource, f.time, f.end_at, f.revision, f.kind, f.value::text as value, f.region, f.category,
        f.export
    from reach r
    left join usage_facts f
        on f.in_force and f.account_id = r.account_id and f.meter = r.meter and f.resource = r.resource
        and f.time >= r.from_at and f.time <= r.to_at
    order by r.position, f.time";

// Everything that was ever live in a bucket, for what goes on.
pub(super) const LOAD_LIVE: &str = "
    select account_id, meter, resource, time, end_at, revision, kind, value::text as value, region, category, export
    from usage_facts
    where bucket = $1 and kind in ('live', 'gone')
    order by meter, account_id, resource, time";

pub(super) const MOVE_THROUGH: &str = "update fact_buckets set through = $2 where bucket = $1";

pub(super) const BUCKETS_BEHIND: &str = "select bucket from fact_buckets where through < $1 order by bucket";

/// A statement that applies changes: `$input` opens a `with` whose last query is `input (account_id, meter, region, category,
/// window_start, partition, delta, parts, version)`, `$now` is the parameter that holds the time.
///
/// Runs after the accounts are share-locked, in a statement of its own: it must see the ownership committed before.
macro_rules! applying {
    ($input:literal, $now:literal) => {
        with_totals!(
            concat!(
                $input,
                ", owned as (
        select i.*, o.customer_id
        from input i
        left join account_ownership o on o.account_id = i.account_id and o.valid @> i.window_start
    ), compared as materialized (
        select i.*, u.total is not null as is_known, coalesce(u.total, 0) as former, coalesce(u.parts, 0) as former_parts
        from owned i
        left join usage_rows u using (account_id, meter, window_start, region, category, partition)
    ), rows_changed as (
        update usage_rows u
        set total = trim_scale(c.former + c.delta), parts = c.former_parts + c.parts, version = c.version
        from compared c
        where c.is_known and c.former_parts + c.parts > 0
            and u.account_id = c.account_id and u.meter = c.meter and u.window_start = c.window_start
            and u.region = c.region and u.category = c.category and u.partition = c.partition
    ), rows_removed as (
        delete from usage_rows u
        using compared c
        where c.is_known and c.former_parts + c.parts = 0
            and u.account_id = c.account_id and u.meter = c.meter and u.window_start = c.window_start
            and u.region = c.region and u.category = c.category and u.partition = c.partition
    ), rows_added as (
        insert into usage_rows
            (account_id, meter, region, category, window_start, partition, total, version, customer_id, parts)
        select account_id, meter, region, category, window_start, partition, trim_scale(delta), version, customer_id, parts
        from compared
        where not is_known and parts > 0
        order by account_id, meter, window_start, region, category, partition
    ), change as (
        select
            customer_id, account_id, meter, region, category, window_start, delta as quantity,
            case
                when not is_known and parts > 0 then 1
                when is_known and former_parts + parts = 0 then -1
                else 0
            end as hourly_rows
        from compared
    )"
            ),
            $now,
            concat!(
                "select
        concat_ws(' ', account_id, meter, to_char(window_start at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24'), region, category)
            as problem,
        null::text as customer_id, null::date as month
    from compared
    where former_parts + parts < 0 or (former_parts + parts = 0 and former + delta <> 0)
    union all
    select distinct null::text, customer_id, date_trunc('month', window_start at time zone 'UTC')::date
    from compared
    where customer_id is not null and meter = any(",
                recomputed_meters!(),
                ")"
            )
        )
    };
}

pub(super) const APPLY_CHANGE: &str = applying!(
    "with input as (
        select i.account_id, i.meter, i.region, i.category, i.window_start, $8::text as partition,
            i.delta::numeric as delta, i.parts, $9::bigint as version
        from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::bigint[])
            as i (account_id, meter, region, category, window_start, delta, parts)
    )",
    "$10"
);

// An export's rows are amounts, so the difference between two generations is a sum.
pub(super) const APPLY_GENERATION: &str = applying!(
    "with input as (
        select f.account_id, f.meter, f.region, f.category, date_trunc('hour', f.time, 'UTC') as window_start,
            'facts/' || to_char(f.bucket, 'FM00') as partition,
            sum(case f.revision when $2 then f.value else -f.value end) as delta,
            sum(case f.revision when $2 then 1 else -1 end) as parts,
            max(b.sequence) as version
        from usage_facts f
        join fact_buckets b using (bucket)
        where f.export = $1 and f.kind = 'amount' and (f.revision = $2 or f.revision = $3)
        group by 1, 2, 3, 4, 5, 6
        having sum(case f.revision when $2 then f.value else -f.value end) <> 0
            or sum(case f.revision when $2 then 1 else -1 end) <> 0
    )",
    "$4"
);

pub(super) const ALL_BUCKETS: &str = "select bucket from fact_buckets order by bucket";

pub(super) const LOCK_GENERATIONS: &str = "
    select generation, in_force, coalesce(expected <= seen, false) as is_complete
    from usage_exports where export = $1 order by generation for update";

pub(super) const ACCOUNTS_OF_GENERATIONS: &str = "
    select distinct account_id from usage_facts
    where export = $1 and kind = 'amount' and (revision = $2 or revision = $3)";

pub(super) const MARK_FACTS: &str =
    "update usage_facts set in_force = (revision = $2) where export = $1 and (revision = $2 or revision = $3)";

// One after the other: an export has one generation in force at any moment.
pub(super) const TAKE_FORCE: &str =
    "update usage_exports set in_force = false, changed_at = $2 where export = $1 and in_force";
pub(super) const GIVE_FORCE: &str =
    "update usage_exports set in_force = true, changed_at = $3 where export = $1 and generation = $2";

pub(super) const REMOVE_GAPS: &str = "
    delete from usage_gaps g
    using unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
        as i (account_id, meter, resource, from_at, until_at)
    where g.account_id = i.account_id and g.meter = i.meter and g.resource = i.resource and g.from_at = i.from_at";

pub(super) const ADD_GAPS: &str = "
    insert into usage_gaps (account_id, meter, resource, from_at, until_at)
    select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
        as i (account_id, meter, resource, from_at, until_at)
    order by 1, 2, 3, 4";

pub(super) const COUNT_FACTS: &str = "
    select
        (select count(*) from usage_facts),
        (select count(*) from usage_exports where in_force),
        (select count(*) from usage_exports e where not e.in_force and not exists (
            select from usage_exports later where later.export = e.export and later.in_force and e.generation < later.generation)),
        (select count(*) from usage_gaps)";

pub(super) const LIST_GAPS: &str = "
    select account_id, meter, resource, from_at, until_at from usage_gaps order by account_id, meter, resource, from_at";

pub(super) const LIST_QUIET: &str = "
    with last_level as (
        select distinct on (account_id, meter, resource) account_id, meter, resource, greatest(time, end_at) as from_at, value
        from usage_facts
        where in_force and kind = 'level' and meter = any($1)
        order by account_id, meter, resource, time desc
    )
    select l.account_id, l.meter, l.resource, l.from_at, null::timestamptz
    from last_level l
    join unnest($1::text[], $2::bigint[]) as g (meter, seconds) using (meter)
    where l.value <> 0 and l.from_at + make_interval(secs => g.seconds) < $3
    order by l.account_id, l.meter, l.resource";

/// Every statement of the module, for the test that prepares them against the schema.
#[doc(hidden)]
pub const STATEMENTS: &[&str] = &[
    ADD_BUCKETS,
    LOCK_BUCKETS,
    BUMP_BUCKETS,
    ADD_EXPORTS,
    LOCK_EXPORTS,
    COUNT_EXPORTS,
    COMPLETE_EXPORTS,
    READ_VERSIONS,
    WRITE_FACTS,
    LOAD_SERIES,
    LOAD_LIVE,
    MOVE_THROUGH,
    BUCKETS_BEHIND,
    APPLY_CHANGE,
    APPLY_GENERATION,
    ALL_BUCKETS,
    LOCK_GENERATIONS,
    ACCOUNTS_OF_GENERATIONS,
    MARK_FACTS,
    TAKE_FORCE,
    GIVE_FORCE,
    REMOVE_GAPS,
    ADD_GAPS,
    COUNT_FACTS,
    LIST_GAPS,
    LIST_QUIET,
];
