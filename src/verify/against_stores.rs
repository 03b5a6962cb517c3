//! Logs against everything that was made of them: counters, usage rows, closes and invoices.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::close::{Cut, Period, read_day, read_hour};
use aggregator::directory::CustomerId;
use aggregator::partition::Partition;
use anyhow::Context as _;
use billing::load_invoice;
use futures::{StreamExt, TryStreamExt, stream};
use ingest::{Bucket, FactValue, Hour, Window};
use reference::{Line, Number};
use sqlx::PgPool;
use sqlx::types::chrono::{DateTime, Utc};

use super::invoice_lines::{BilledLine, misbilled};
use super::logs::Logs;
use crate::stores::{Role, Stores};

/// Logs of the store read at once.
const READS_AT_ONCE: usize = 16;

/// Two numbers that should be one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// Which line; for an invoice the period stands for the hour.
    pub(crate) line: Line,
    /// What says otherwise, such as a customer's cut or an invoice's number.
    pub(crate) of: String,
    pub(crate) by_recount: String,
    pub(crate) stored: String,
    /// Identities that only the logs have, in hexadecimal; of facts `KEY REVISION CONTENT`.
    pub(crate) only_in_logs: Vec<String>,
    /// Identities that only the counters have.
    pub(crate) only_in_counters: Vec<String>,
}

/// Every difference, by where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreFindings {
    /// Lines compared.
    pub(crate) lines: u64,
    /// Events in the logs of counts.
    pub(crate) counters: Vec<Difference>,
    /// Facts in the logs of facts.
    pub(crate) facts: Vec<Difference>,
    pub(crate) rows: Vec<Difference>,
    pub(crate) closes: Vec<Difference>,
    pub(crate) invoices: Vec<Difference>,
}

impl StoreFindings {
    pub(crate) fn agrees(&self) -> bool {
        [&self.counters, &self.facts, &self.rows, &self.closes, &self.invoices]
            .iter()
            .all(|differences| differences.is_empty())
    }
}

type Identities = BTreeSet<[u8; 16]>;
/// Facts of a line: `KEY REVISION CONTENT`, the hashes in hexadecimal.
type FactNames = BTreeSet<String>;

/// Compares what logs come to in a period with the stores. Hours from `over` on (microseconds since 1970) are not over.
pub(crate) async fn against_stores(
    stores: &Stores,
    logs: &Logs,
    period: Period,
    customer: Option<&CustomerId>,
    over: i64,
) -> anyhow::Result<StoreFindings> {
    let pool = stores.database.pool(Role::Operator)?;
    let partitions = partitions(stores, &pool).await?;
    let counters = counters(stores, &partitions, period).await?;
    let facts = facts(stores, &partitions, period).await?;
    let recount: BTreeMap<Line, Identities> = logs
        .found_in
        .iter()
        .filter(|(line, _)| Hour::parse_key(&line.hour).is_ok_and(|hour| period.has(hour)))
        .map(|(line, found)| (line.clone(), found.keys().copied().collect()))
        .collect();
    let mut findings = StoreFindings::default();
    let named = |identities: &Identities| identities.iter().map(hex::encode).collect();
    let of_logs = recount.iter().map(|(line, found)| (line.clone(), named(found))).collect();
    let of_counters = counters.iter().map(|(line, found)| (line.clone(), named(found))).collect();
    findings.lines += compare(&of_logs, &of_counters, &mut findings.counters);
    findings.lines += compare(&recounted_facts(logs, period), &facts, &mut findings.facts);

    let (from, until) = (period.start().micros(), period.end().micros().min(over));
    let mut totals = logs.recount.fact_totals(from, until);
    for (line, found) in &recount {
        *totals.entry(line.clone()).or_default() += &Number::whole(found.len() as u64);
    }
    let total = |line: &Line| totals.get(line).cloned().unwrap_or_default();
    let rows = rows(&pool, period, until).await?;
    let with_rows: BTreeSet<&Line> = totals.keys().chain(rows.keys()).collect();
    for line in with_rows {
        let stored = rows.get(line).cloned().unwrap_or_else(|| "0".to_owned());
        findings.rows.extend(difference(line, "", total(line).to_string(), stored));
    }
    let owners = Owners::read(&pool, period, customer).await?;
    for (customer, cut, closed) in closes(&pool, period, customer).await? {
        let owned = totals.keys().filter(|line| owners.owner(line) == Some(&customer));
        let with_totals: BTreeSet<&Line> = owned.chain(closed.keys()).collect();
        for line in with_totals {
            let stored = closed.get(line).cloned().unwrap_or_else(|| "0".to_owned());
            findings.closes.extend(difference(line, &format!("{customer} cut {cut}"), total(line).to_string(), stored));
        }
    }
    let mut connection = pool.acquire().await?;
    for invoice in invoices(&pool, period, customer).await? {
        let InvoiceRow { invoice_id, invoice_number, customer_id, older_close } = invoice;
        let document = load_invoice(&mut connection, &invoice_id).await?;
        let document = document.with_context(|| format!("invoice {invoice_number} is gone while it is read"))?;
        let document = serde_json::to_value(document)?;
        // An issued document says raw units on every line of usage.
        let lines = BilledLine::all(document["lines"].as_array().map_or(&[][..], Vec::as_slice), |_| false);
        let found = match older_close {
            None => misbilled(&lines, totals.iter().filter(|(line, _)| owners.owner(line) == Some(&customer_id))),
            Some(close_id) => misbilled(&lines, &closed_totals(&pool, close_id).await?),
        };
        findings.invoices.extend(found.into_iter().map(|one| Difference {
            line: Line { meter: one.meter, account: customer_id.clone(), hour: format!("{period}, {}", one.when) },
            of: invoice_number.clone(),
            by_recount: one.used.to_string(),
            stored: one.billed.to_string(),
            only_in_logs: Vec::new(),
            only_in_counters: Vec::new(),
        }));
    }
    Ok(findings)
}

/// Compares lines name by name; how many lines there are on either side.
fn compare(logs: &BTreeMap<Line, FactNames>, stored: &BTreeMap<Line, FactNames>, found: &mut Vec<Difference>) -> u64 {
    let nothing = FactNames::new();
    let lines: BTreeSet<&Line> = logs.keys().chain(stored.keys()).collect();
    for line in &lines {
        let of_logs = logs.get(line).unwrap_or(&nothing);
        let of_stored = stored.get(line).unwrap_or(&nothing);
        if of_logs != of_stored {
            found.push(Difference {
                line: (*line).clone(),
                of: String::new(),
                by_recount: of_logs.len().to_string(),
                stored: of_stored.len().to_string(),
                only_in_logs: of_logs.difference(of_stored).cloned().collect(),
                only_in_counters: of_stored.difference(of_logs).cloned().collect(),
            });
        }
    }
    lines.len() as u64
}

fn difference(line: &Line, of: &str, by_recount: String, stored: String) -> Option<Difference> {
    (by_recount != stored).then(|| Difference {
        line: line.clone(),
        of: of.to_owned(),
        by_recount,
        stored,
        only_in_logs: Vec::new(),
        only_in_counters: Vec::new(),
    })
}

/// The facts of the period that stand in the logs given.
fn recounted_facts(logs: &Logs, period: Period) -> BTreeMap<Line, FactNames> {
    let mut facts = BTreeMap::<Line, FactNames>::new();
    for fact in logs.recount.facts.standing() {
        let line = fact.key.line();
        if Hour::parse_key(&line.hour).is_ok_and(|hour| period.has(hour)) {
            let name = fact_name(fact.key.identity(), fact.revision, fact.content_hash());
            facts.entry(line).or_default().insert(name);
        }
    }
    facts
}

fn fact_name(key: [u8; 16], revision: u64, content: [u8; 16]) -> String {
    format!("{} {revision} {}", hex::encode(key), hex::encode(content))
}

/// Every log that something was acknowledged in or rolled up from.
async fn partitions(stores: &Stores, pool: &PgPool) -> anyhow::Result<BTreeSet<Partition>> {
    let acknowledged = stores.acknowledgements().partitions().await?;
    let cursors: Vec<String> = sqlx::query_scalar(CURSORS).fetch_all(pool).await?;
    let rolled_up = cursors.iter().filter_map(|name| Partition::parse(name).ok());
    Ok(acknowledged.into_keys().chain(rolled_up).collect())
}

/// Every fact that stands in the logs of the period's days, but for the ends of exports.
async fn facts(
    stores: &Stores,
    partitions: &BTreeSet<Partition>,
    period: Period,
) -> anyhow::Result<BTreeMap<Line, FactNames>> {
    let days = partitions.iter().filter_map(|partition| match partition.window {
        Window::Day(_) => Some(Partition::root(partition.bucket, partition.window)),
        Window::Hour(_) => None,
    });
    let days: BTreeSet<Partition> = days.collect();
    let log = stores.commit_log();
    let days: Vec<_> = stream::iter(days)
        .map(|root| {
            let log = &log;
            async move { read_day(log, root).await }
        })
        .buffer_unordered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let mut facts = BTreeMap::<Line, FactNames>::new();
    for fact in days.into_iter().flatten() {
        let hour = fact.key.time.hour();
        if !period.has(hour) || matches!(fact.value, FactValue::ExportEnd { .. }) {
            continue;
        }
        let line =
            Line { meter: fact.key.meter.to_string(), account: fact.key.account.to_string(), hour: hour.to_string() };
        let key = *fact.key.identity().as_bytes();
        facts.entry(line).or_default().insert(fact_name(key, fact.revision, *fact.content_hash().as_bytes()));
    }
    Ok(facts)
}

/// Every identity that the commit logs of the period hold.
async fn counters(
    stores: &Stores,
    partitions: &BTreeSet<Partition>,
    period: Period,
) -> anyhow::Result<BTreeMap<Line, Identities>> {
    let roots: BTreeSet<(Bucket, Hour)> = partitions
        .iter()
        .filter_map(|partition| Some((partition.bucket, partition.hour()?)))
        .filter(|(_, hour)| period.has(*hour))
        .collect();
    let log = stores.commit_log();
    let hours: Vec<_> = stream::iter(roots)
        .map(|(bucket, hour)| {
            let log = &log;
            async move {
                read_hour(log, Partition::root(bucket, Window::Hour(hour)), Cut::End).await.map(|read| (hour, read))
            }
        })
        .buffer_unordered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let mut counters = BTreeMap::<Line, Identities>::new();
    for (hour, counted) in hours {
        for (counter, identities) in counted.counters {
            let line =
                Line { meter: counter.meter.to_string(), account: counter.account.to_string(), hour: hour.to_string() };
            counters.entry(line).or_default().extend(identities.iter().map(|identity| *identity.as_bytes()));
        }
    }
    Ok(counters)
}

/// Usage rows, over all dimensions and partitions, before an instant in microseconds since 1970.
async fn rows(pool: &PgPool, period: Period, until: i64) -> anyhow::Result<BTreeMap<Line, String>> {
    let from = DateTime::<Utc>::from(period.start());
    let until = DateTime::<Utc>::from_timestamp_micros(until).context("an instant that PostgreSQL has")?;
    let rows: Vec<LineRow> = sqlx::query_as(ROWS).bind(from).bind(until).fetch_all(pool).await?;
    Ok(rows.into_iter().map(LineRow::line).collect())
}

/// The last cut of every customer that closed the period, with its totals.
async fn closes(
    pool: &PgPool,
    period: Period,
    customer: Option<&CustomerId>,
) -> anyhow::Result<Vec<(String, i32, BTreeMap<Line, String>)>> {
    let closes: Vec<(i64, String, i32)> =
        sqlx::query_as(CLOSES).bind(period.first_day()).bind(customer.map(CustomerId::as_str)).fetch_all(pool).await?;
    let mut found = Vec::new();
    for (close_id, customer, cut) in closes {
        let totals: Vec<LineRow> = sqlx::query_as(TOTALS).bind(close_id).fetch_all(pool).await?;
        found.push((customer, cut, totals.into_iter().map(LineRow::line).collect()));
    }
    Ok(found)
}

/// The totals of a close, as numbers.
async fn closed_totals(pool: &PgPool, close_id: i64) -> anyhow::Result<BTreeMap<Line, Number>> {
    let totals: Vec<LineRow> = sqlx::query_as(TOTALS).bind(close_id).fetch_all(pool).await?;
    let number = |row: LineRow| {
        let (line, total) = row.line();
        let broken = || format!("close {close_id} has a total that is no number: {total}");
        let number = Number::read_sum(&total).with_context(broken)?;
        Ok((line, number))
    };
    totals.into_iter().map(number).collect()
}

async fn invoices(pool: &PgPool, period: Period, customer: Option<&CustomerId>) -> anyhow::Result<Vec<InvoiceRow>> {
    let query = sqlx::query_as(INVOICES).bind(period.first_day()).bind(customer.map(CustomerId::as_str));
    Ok(query.fetch_all(pool).await?)
}

/// A customer, from when and until when it owned an account.
type Owner = (String, DateTime<Utc>, Option<DateTime<Utc>>);
/// The same behind its account.
type OwnerRow = (String, String, DateTime<Utc>, Option<DateTime<Utc>>);

/// Who owned what in the period.
struct Owners(BTreeMap<String, Vec<Owner>>);

impl Owners {
    async fn read(pool: &PgPool, period: Period, customer: Option<&CustomerId>) -> anyhow::Result<Self> {
        let (from, until) = (DateTime::<Utc>::from(period.start()), DateTime::<Utc>::from(period.end()));
        let rows: Vec<OwnerRow> = sqlx::query_as(OWNERS)
            .bind(from)
            .bind(until)
            .bind(customer.map(CustomerId::as_str))
            .fetch_all(pool)
            .await?;
        let mut owners = BTreeMap::<String, Vec<_>>::new();
        for (account, customer, from, until) in rows {
            owners.entry(account).or_default().push((customer, from, until));
        }
        Ok(Self(owners))
    }

    fn owner(&self, line: &Line) -> Option<&String> {
        let at = DateTime::<Utc>::from(Hour::parse_key(&line.hour).ok()?.start());
        let owned = self.0.get(&line.account)?.iter();
        let mut owned = owned.filter(|(_, from, until)| *from <= at && until.is_none_or(|until| at < until));
        owned.next().map(|(customer, _, _)| customer)
    }
}

#[derive(sqlx::FromRow)]
struct LineRow {
    account_id: String,
    meter: String,
    window_start: DateTime<Utc>,
    total: String,
}

impl LineRow {
    fn line(self) -> (Line, String) {
        let hour = ingest::Timestamp::from(self.window_start).hour().to_string();
        (Line { meter: self.meter, account: self.account_id, hour }, self.total)
    }
}

#[derive(sqlx::FromRow)]
struct InvoiceRow {
    invoice_id: String,
    invoice_number: String,
    customer_id: String,
    /// The close it was made from, where a newer one is there.
    older_close: Option<i64>,
}

const CURSORS: &str = "select partition from rollup_cursors";

const ROWS: &str = "
    select account_id, meter, window_start, trim_scale(sum(total))::text as total
    from usage_rows where $1 <= window_start and window_start < $2
    group by account_id, meter, window_start having sum(total) <> 0";

const CLOSES: &str = "
    select distinct on (customer_id) close_id, customer_id, cut from closes
    where period_start = $1 and ($2::text is null or customer_id = $2)
    order by customer_id, cut desc";

const TOTALS: &str = "
    select account_id, meter, window_start, trim_scale(sum(total))::text as total
    from closed_totals c
    where close_id = $1
    group by account_id, meter, window_start having sum(total) <> 0";

// Issued invoices of the period. One of an older cut bills that cut: what came since is on other invoices and credit notes.
const INVOICES: &str = "
    select i.invoice_id::text as invoice_id, i.invoice_number, i.customer_id,
        case when i.close_id is distinct from (
            select c.close_id from closes c
            where c.customer_id = i.customer_id and c.period_start = i.period_start
            order by c.cut desc limit 1)
        then i.close_id end as older_close
    from invoices i
    where i.period_start = $1 and i.invoice_number is not null and i.kind in ('monthly', 'final')
        and ($2::text is null or i.customer_id = $2)
    order by i.invoice_number";

const OWNERS: &str = "
    select account_id, customer_id, lower(valid), upper(valid) from account_ownership
    where valid && tstzrange($1, $2) and ($3::text is null or customer_id = $3)";
