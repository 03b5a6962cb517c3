//! Through which hour each customer's meters are complete, kept where the API reads it; and the same for one period, with
//! everything that is missing.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ingest::{AccountId, Hour, Meter, Timestamp};
use sqlx::PgPool;

use super::coverage::{AccountScope, LaneState, Through, Waiting, complete_until};
use super::source::{Source, SourceClass, Sources};
use crate::directory::CustomerId;
use crate::usage_rows::DatabaseError;

/// What a source should have delivered, and what of it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Which source.
    pub source: Source,
    /// Every hour before this one is complete, for all its accounts together.
    pub through: Through,
    /// By account, and by start where an account was the customer's more than once.
    pub accounts: Vec<AccountReport>,
}

/// One account of a [`SourceReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountReport {
    /// Which account.
    pub account: AccountId,
    /// From when on it was looked at.
    pub from: Timestamp,
    /// Until when; `None` while it goes on.
    pub until: Option<Timestamp>,
    /// Every hour of it before this one is complete.
    pub through: Through,
    /// Its lanes.
    pub lanes: Vec<LaneReport>,
}

/// One lane of an [`AccountReport`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneReport {
    /// Its name.
    pub lane: String,
    /// Objects and units that proofs expect.
    pub expected: u64,
    /// How many of them are done.
    pub done: u64,
    /// Stretches of delivery time that no proof speaks for: the hours they bear on are missing, not idle.
    pub gaps: Vec<(Timestamp, Timestamp)>,
}

/// The completeness of every customer's meters in a database, kept as `securebase_aggregator`.
#[derive(Clone, Debug)]
pub struct Completeness {
    pool: PgPool,
}

impl Completeness {
    /// The completeness behind a pool of connections of `securebase_aggregator`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Works out through which hour every declared source is complete, and writes it where the API reads it.
    pub async fn refresh(&self, now: Timestamp) -> Result<Vec<SourceReport>, DatabaseError> {
        let sources = Sources::new(self.pool.clone()).list(None).await?;
        let mut scopes = self.scopes(None, None).await?;
        let mut reports = Vec::new();
        for source in sources {
            let scopes = scopes.remove(&(source.customer.clone(), source.meter)).unwrap_or_default();
            reports.push(report(source, scopes, now));
        }
        let customers: Vec<&str> = reports.iter().map(|report| report.source.customer.as_str()).collect();
        let meters: Vec<&str> = reports.iter().map(|report| report.source.meter.as_str()).collect();
        let classes: Vec<&str> = reports.iter().map(|report| report.source.class.as_str()).collect();
        let through: Vec<Option<DateTime<Utc>>> =
            reports.iter().map(|report| report.complete_through().map(|hour| hour.start().into())).collect();
        let waits: Vec<&str> = reports.iter().map(|report| report.through.waits_for.as_str()).collect();
        sqlx::query(WRITE)
            .bind(customers)
            .bind(meters)
            .bind(classes)
            .bind(through)
            .bind(waits)
            .bind(DateTime::<Utc>::from(now))
            .execute(&self.pool)
            .await?;
        Ok(reports)
    }

    /// What the customer's sources should have delivered of a period, and what of it is there. Says nothing of meters
    /// without a declared source.
    pub async fn of_period(
        &self,
        customer: &CustomerId,
        period: (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Result<Vec<SourceReport>, DatabaseError> {
        let sources = Sources::new(self.pool.clone()).list(Some(customer)).await?;
        let mut scopes = self.scopes(Some(customer), Some(period)).await?;
        let reports = sources.into_iter().map(|source| {
            let scopes = scopes.remove(&(source.customer.clone(), source.meter)).unwrap_or_default();
            report(source, scopes, now)
        });
        Ok(reports.collect())
    }

    async fn scopes(
        &self,
        customer: Option<&CustomerId>,
        period: Option<(Timestamp, Timestamp)>,
    ) -> Result<Scopes, DatabaseError> {
        let rows: Vec<LaneRow> = sqlx::query_as(LANES)
            .bind(customer.map(CustomerId::as_str))
            .bind(period.map(|(from, _)| DateTime::<Utc>::from(from)))
            .bind(period.map(|(_, until)| DateTime::<Utc>::from(until)))
            .fetch_all(&self.pool)
            .await?;
        let mut scopes = Scopes::new();
        for row in rows {
            // A meter that this program does not know is another version's.
            let Ok(meter) = Meter::parse_stored(&row.meter) else { continue };
            let customer = CustomerId::parse(&row.customer_id).expect("a constraint: a customer id has this form");
            let of_source = scopes.entry((customer, meter)).or_default();
            row.add_to(of_source);
        }
        Ok(scopes)
    }
}

type Scopes = BTreeMap<(CustomerId, Meter), Vec<(AccountScope, Vec<LaneReport>)>>;

impl SourceReport {
    /// The last complete hour; `None` while there is none, or where the source proves nothing.
    pub fn complete_through(&self) -> Option<Hour> {
        let until = self.through.until.filter(|_| self.source.class != SourceClass::BestEffort)?;
        let last = until.saturating_add_secs(-1).hour();
        // Nothing is complete before the source is expected to say anything.
        (self.source.since <= last).then_some(last)
    }
}

fn report(source: Source, scopes: Vec<(AccountScope, Vec<LaneReport>)>, now: Timestamp) -> SourceReport {
    if source.class == SourceClass::BestEffort {
        let through = Through { until: None, waits_for: "the source proves nothing".to_owned() };
        return SourceReport { source, through, accounts: Vec::new() };
    }
    let accounts: Vec<AccountReport> = scopes
        .into_iter()
        .map(|(scope, lanes)| {
            let through = complete_until(&scope, source.lateness_seconds);
            AccountReport { account: scope.account, from: scope.from, until: scope.until, through, lanes }
        })
        .collect();
    let least = accounts.iter().filter_map(|account| Some((account.through.until?, account)));
    let through = match least.min_by_key(|(until, _)| *until) {
        Some((until, account)) => Through { until: Some(until), waits_for: account.through.waits_for.clone() },
        // Nobody is left to deliver anything: as complete as the clock allows.
        None if !accounts.is_empty() => Through { until: Some(now.hour().start()), waits_for: String::new() },
        None => Through { until: None, waits_for: "the customer has no account".to_owned() },
    };
    SourceReport { source, through, accounts }
}

#[derive(sqlx::FromRow)]
struct LaneRow {
    customer_id: String,
    meter: String,
    account_id: String,
    scope_from: DateTime<Utc>,
    scope_until: Option<DateTime<Utc>>,
    lane: Option<String>,
    is_declared: Option<bool>,
    covered_until: Option<DateTime<Utc>>,
    begins_at: Option<DateTime<Utc>>,
    begun_until: Option<DateTime<Utc>>,
    broken_at: Option<DateTime<Utc>>,
    waiting_since: Option<DateTime<Utc>>,
    waiting_name: Option<String>,
    expected: i64,
    done: i64,
    gaps_from: Vec<DateTime<Utc>>,
    gaps_until: Vec<DateTime<Utc>>,
}

impl LaneRow {
    /// Rows come in order of account and start.
    fn add_to(self, scopes: &mut Vec<(AccountScope, Vec<LaneReport>)>) {
        let account = AccountId::parse(&self.account_id).expect("a constraint: an account id has 12 digits");
        let from = Timestamp::from(self.scope_from);
        if scopes.last().is_none_or(|(scope, _)| (scope.account, scope.from) != (account, from)) {
            let until = self.scope_until.map(Timestamp::from);
            scopes.push((AccountScope { account, from, until, lanes: Vec::new() }, Vec::new()));
        }
        let Some(lane) = self.lane else { return };
        let (scope, reports) = scopes.last_mut().expect("one was just pushed");
        let time = |instant: Option<DateTime<Utc>>| instant.map(Timestamp::from);
        scope.lanes.push(LaneState {
            lane: lane.clone(),
            is_declared: self.is_declared.unwrap_or_default(),
            covered_until: time(self.covered_until),
            begins: time(self.begins_at).zip(time(self.begun_until)),
            broken_at: time(self.broken_at),
            waiting: time(self.waiting_since).zip(self.waiting_name).map(|(since, name)| Waiting { since, name }),
        });
        let gaps = self.gaps_from.into_iter().zip(self.gaps_until);
        reports.push(LaneReport {
            lane,
            expected: self.expected.unsigned_abs(),
            done: self.done.unsigned_abs(),
            gaps: gaps.map(|(from, until)| (from.into(), until.into())).collect(),
        });
    }
}

// What is open bears on a scope unless all of it happened before; it was delivered after it happened. Gaps are looked for up
// to the end of what is proven, and in a period up to its end, lateness included.
const LANES: &str = "
    with scopes as (
        select
            s.customer_id, s.meter, s.trail, s.lanes, make_interval(secs => s.lateness_seconds) as lateness, o.account_id,
            greatest(lower(o.valid), s.since, $2) as scope_from, least(upper(o.valid), $3) as scope_until
        from sources s
        join account_ownership o using (customer_id)
        where s.source_class <> 'best effort' and ($1::text is null or s.customer_id = $1)
    ), wanted as (
        select * from scopes where scope_until is null or scope_from < scope_until
    ), open as (
        select
            p.meter, p.account_id, p.lane, p.covers_from, o.first_event_at,
            coalesce(o.last_event_at, p.covers_until) as last_at, o.name, false as is_unit
        from expected_objects o
        join source_proofs p using (proof_id)
        where o.done_at is null
        union all
        select p.meter, p.account_id, p.lane, u.window_start, u.window_start, u.window_start + interval '1 hour',
            'usage that ' || p.name || ' lists', true
        from expected_usage u
        join source_proofs p using (proof_id)
        where u.done_at is null
    )
    select
        w.customer_id, w.meter, w.account_id, w.scope_from, w.scope_until, l.lane, l.is_declared,
        (select upper(r) from unnest(k.covers) r where r @> w.scope_from) as covered_until,
        k.starts_at as begins_at,
        (select upper(r) from unnest(k.covers) r where r @> k.starts_at) as begun_until,
        (select min(b) from unnest(k.breaks) b where w.scope_from <= b) as broken_at,
        o.since as waiting_since, o.name as waiting_name,
        coalesce(e.expected, 0) as expected, coalesce(e.done, 0) as done,
        array(select lower(r) from unnest(g.gaps) r order by 1) as gaps_from,
        array(select upper(r) from unnest(g.gaps) r order by 1) as gaps_until
    from wanted w
    left join lateral (
        select lane, bool_or(is_declared) as is_declared
        from (
            select unnest(w.lanes) as lane, true as is_declared
            union all
            select lane, false from source_lanes s
            where s.meter = w.meter and s.account_id = w.account_id
                and (w.trail is null or split_part(s.lane, '/', 2) = w.trail)
        ) either
        group by lane
    ) l on true
    left join source_lanes k on k.meter = w.meter and k.account_id = w.account_id and k.lane = l.lane
    left join lateral (
        select tstzmultirange(tstzrange(
                w.scope_from,
                greatest(w.scope_from, coalesce(w.scope_until + w.lateness, upper(k.covers), w.scope_from))))
            - coalesce(k.covers, '{}') as gaps
    ) g on l.lane is not null
    left join lateral (
        select case when is_unit then first_event_at else least(covers_from - w.lateness, first_event_at) end as since,
            name
        from open
        where open.meter = w.meter and open.account_id = w.account_id and open.lane = l.lane
            and w.scope_from <= last_at
        order by 1, 2 limit 1
    ) o on true
    left join lateral (
        select sum(c.expected)::bigint as expected, sum(c.done)::bigint as done
        from source_proofs p
        cross join lateral (
            select count(*) as expected, count(done_at) as done from expected_objects x where x.proof_id = p.proof_id
            union all
            select count(*), count(done_at) from expected_usage x where x.proof_id = p.proof_id
        ) c
        where $2::timestamptz is not null
            and p.meter = w.meter and p.account_id = w.account_id and p.lane = l.lane
            and w.scope_from < p.covers_until and p.covers_from < w.scope_until + w.lateness
    ) e on true
    order by w.customer_id, w.meter, w.account_id, w.scope_from, l.lane";

// One that is no longer declared, or promises nothing now, says so.
const WRITE: &str = "
    with input as (
        select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[])
            as i (customer_id, meter, source_class, complete_through, waits_for)
    )
    insert into completeness (customer_id, meter, source_class, complete_through, waits_for, updated_at)
    select customer_id, meter, source_class, complete_through, waits_for, $6 from input
    order by customer_id, meter
    on conflict (customer_id, meter) do update set
        source_class = excluded.source_class, complete_through = excluded.complete_through,
        waits_for = excluded.waits_for, updated_at = excluded.updated_at";

pub(super) const STATEMENTS: &[&str] = &[LANES, WRITE];
