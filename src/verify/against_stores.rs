//! Logs against everything that was made of them: counters, usage rows, closes and invoices.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::close::{Cut, Period, read_hour};
use aggregator::directory::CustomerId;
use aggregator::partition::Partition;
use futures::{StreamExt, TryStreamExt, stream};
use ingest::{Bucket, Hour, Window};
use reference::Line;
use sqlx::PgPool;
use sqlx::types::chrono::{DateTime, Utc};

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
    pub(crate) by_recount: u64,
    pub(crate) stored: String,
    /// Identities that only the logs have, in hexadecimal.
    pub(crate) only_in_logs: Vec<String>,
    /// Identities that only the counters have.
    pub(crate) only_in_counters: Vec<String>,
}

/// Every difference, by where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreFindings {
    /// Lines compared.
    pub(crate) lines: u64,
    pub(crate) counters: Vec<Difference>,
    pub(crate) rows: Vec<Difference>,
    pub(crate) closes: Vec<Difference>,
    pub(crate) invoices: Vec<Difference>,
}

impl StoreFindings {
    pub(crate) fn agrees(&self) -> bool {
        [&self.counters, &self.rows, &self.closes, &self.invoices].iter().all(|differences| differences.is_empty())
    }
}

type Identities = BTreeSet<[u8; 16]>;

/// Compares what logs come to in a period with the stores.
pub(crate) async fn against_stores(
    stores: &Stores,
    logs: &Logs,
    period: Period,
    customer: Option<&CustomerId>,
) -> anyhow::Result<StoreFindings> {
    let pool = stores.database.pool(Role::Operator)?;
    let counters = counters(stores, &pool, period).await?;
    let recount: BTreeMap<Line, Identities> = logs
        .found_in
        .iter()
        .filter(|(line, _)| Hour::parse_key(&line.hour).is_ok_and(|hour| period.has(hour)))
        .map(|(line, found)| (line.clone(), found.keys().copied().collect()))
        .collect();
    let nothing = Identities::new();
    let lines: BTreeSet<&Line> = recount.keys().chain(counters.keys()).collect();
    let mut findings = StoreFindings { lines: lines.len() as u64, ..StoreFindings::default() };
    for line in &lines {
        let of_logs = recount.get(line).unwrap_or(&nothing);
        let of_counters = counters.get(line).unwrap_or(&nothing);
        if of_logs != of_counters {
            let hex = |only: Vec<&[u8; 16]>| only.into_iter().map(hex::encode).collect();
            findings.counters.push(Difference {
                line: (*line).clone(),
                of: String::new(),
                by_recount: of_logs.len() as u64,
                stored: of_counters.len().to_string(),
                only_in_logs: hex(of_logs.difference(of_counters).collect()),
                only_in_counters: hex(of_counters.difference(of_logs).collect()),
            });
        }
    }
    let count = |line: &Line| recount.get(line).map_or(0, |found| found.len() as u64);
    let rows = rows(&pool, period).await?;
    let with_rows: BTreeSet<&Line> = recount.keys().chain(rows.keys()).collect();
    for line in with_rows {
        let stored = rows.get(line).cloned().unwrap_or_else(|| "0".to_owned());
        findings.rows.extend(difference(line, "", count(line), stored));
    }
    let owners = Owners::read(&pool, period, customer).await?;
    for (customer, cut, totals) in closes(&pool, period, customer).await? {
        let owned = recount.keys().filter(|line| owners.owner(line) == Some(&customer));
        let with_totals: BTreeSet<&Line> = owned.chain(totals.keys()).collect();
        for line in with_totals {
            let stored = totals.get(line).cloned().unwrap_or_else(|| "0".to_owned());
            findings.closes.extend(difference(line, &format!("{customer} cut {cut}"), count(line), stored));
        }
    }
    for invoice in invoices(&pool, period, customer).await? {
        let owned = recount
            .keys()
            .filter(|line| line.meter == invoice.meter && owners.owner(line) == Some(&invoice.customer_id));
        let by_recount = owned.map(&count).sum();
        let line = Line { meter: invoice.meter, account: invoice.customer_id, hour: period.to_string() };
        findings.invoices.extend(difference(&line, &invoice.invoice_number, by_recount, invoice.quantity));
    }
    Ok(findings)
}

fn difference(line: &Line, of: &str, by_recount: u64, stored: String) -> Option<Difference> {
    (by_recount.to_string() != stored).then(|| Difference {
        line: line.clone(),
        of: of.to_owned(),
        by_recount,
        stored,
        only_in_logs: Vec::new(),
        only_in_counters: Vec::new(),
    })
}

/// Every identity that the commit logs of the period hold.
async fn counters(stores: &Stores, pool: &PgPool, period: Period) -> anyhow::Result<BTreeMap<Line, Identities>> {
    let acknowledged = stores.acknowledgements().partitions().await?;
    let cursors: Vec<String> = sqlx::query_scalar(CURSORS).fetch_all(pool).await?;
    let rolled_up = cursors.iter().filter_map(|name| Partition::parse(name).ok());
    let roots: BTreeSet<(Bucket, Hour)> = acknowledged
        .into_keys()
        .chain(rolled_up)
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

/// Usage rows of counts, over all dimensions and partitions.
async fn rows(pool: &PgPool, period: Period) -> anyhow::Result<BTreeMap<Line, String>> {
    let (from, until) = (DateTime::<Utc>::from(period.start()), DateTime::<Utc>::from(period.end()));
    let rows: Vec<LineRow> = sqlx::query_as(ROWS).bind(from).bind(until).fetch_all(pool).await?;
    Ok(rows.into_iter().map(LineRow::line).collect())
}

/// The last cut of every customer that closed the period, with its totals of counts.
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
    invoice_number: String,
    customer_id: String,
    meter: String,
    quantity: String,
}

const CURSORS: &str = "select partition from rollup_cursors";

const ROWS: &str = "
    select account_id, meter, window_start, trim_scale(sum(total))::text as total
    from usage_rows where $1 <= window_start and window_start < $2 and parts is null
    group by account_id, meter, window_start having sum(total) <> 0";

const CLOSES: &str = "
    select distinct on (customer_id) close_id, customer_id, cut from closes
    where period_start = $1 and ($2::text is null or customer_id = $2)
    order by customer_id, cut desc";

// Facts are not counted from logs of events: their meters are those with totals that have parts.
const TOTALS: &str = "
    select account_id, meter, window_start, trim_scale(sum(total))::text as total
    from closed_totals c
    where close_id = $1
        and not exists (select from usage_rows u where u.meter = c.meter and u.account_id = c.account_id and u.parts > 0)
    group by account_id, meter, window_start";

const INVOICES: &str = "
    select i.invoice_number, i.customer_id, l.meter, trim_scale(sum(l.quantity_raw))::text as quantity
    from invoices i
    join invoice_lines l using (invoice_id, customer_id)
    where i.period_start = $1 and i.invoice_number is not null and l.meter is not null
        and l.meter in ('cloudtrail_events', 'guardduty_findings', 'security_hub_findings')
        and ($2::text is null or i.customer_id = $2)
    group by i.invoice_number, i.customer_id, l.meter
    order by i.invoice_number, l.meter";

const OWNERS: &str = "
    select account_id, customer_id, lower(valid), upper(valid) from account_ownership
    where valid && tstzrange($1, $2) and ($3::text is null or customer_id = $3)";
