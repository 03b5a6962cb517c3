//! What is measured, and how it is printed.

use std::fmt;
use std::time::Duration;

use billing::Point;
use sqlx::PgConnection;

/// One size of the run.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) customers: u32,
    pub(crate) workers: usize,
    pub(crate) staged: Duration,
    pub(crate) closed_totals: i64,
    pub(crate) ran: Duration,
    pub(crate) again: Duration,
    pub(crate) rendered: (u64, Duration),
    pub(crate) pdf_bytes: i64,
    pub(crate) grown: Sizes,
    pub(crate) memory: Option<u64>,
    pub(crate) steps: Vec<(Point, Duration)>,
}

/// Bytes of a database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Its files.
    pub(crate) stored: i64,
    /// What was written ahead.
    pub(crate) logged: i64,
}

impl Sizes {
    pub(crate) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let (stored, logged): (i64, i64) = sqlx::query_as(
            "select pg_database_size(current_database()), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint",
        )
        .fetch_one(connection)
        .await?;
        Ok(Self { stored, logged })
    }

    pub(crate) fn since(self, before: &Self) -> Self {
        Self { stored: self.stored - before.stored, logged: self.logged - before.logged }
    }
}

/// The most memory this process has had, which is the run's and not the server's; `None` where the system does not say.
pub(crate) fn memory_high_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

impl Measure {
    /// Whether the time grows as the number of customers does.
    pub(crate) fn growth(first: &Self, last: &Self) -> String {
        let times = |a: u128, b: u128| a.saturating_mul(100) / b.max(1);
        let more = times(last.customers.into(), first.customers.into());
        let longer = times(last.ran.as_micros(), first.ran.as_micros());
        format!(
            "{}.{:02} times the customers took {}.{:02} times as long",
            more / 100,
            more % 100,
            longer / 100,
            longer % 100
        )
    }
}

/// So many a second.
fn rate(count: u64, time: Duration) -> u128 {
    u128::from(count) * 1_000_000 / time.as_micros().max(1)
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = u64::from(self.customers);
        let each = |bytes: i64| bytes / i64::from(self.customers.max(1));
        writeln!(f, "{} customers, {} workers", self.customers, self.workers)?;
        writeln!(f, "  closed totals rated   {} rows (staged in {:.1?})", self.closed_totals, self.staged)?;
        writeln!(f, "  issued in             {:.2?}, {} invoices/s", self.ran, rate(count, self.ran))?;
        writeln!(f, "  run again             {:.2?}, nothing issued", self.again)?;
        writeln!(
            f,
            "  PDFs apart            {} in {:.2?}, {} a second, {} bytes each",
            self.rendered.0,
            self.rendered.1,
            rate(self.rendered.0, self.rendered.1),
            each(self.pdf_bytes)
        )?;
        writeln!(
            f,
            "  stored per invoice    {} bytes, written ahead {} bytes",
            each(self.grown.stored),
            each(self.grown.logged)
        )?;
        if let Some(memory) = self.memory {
            writeln!(f, "  memory at most        {} MB in the run's process", memory / 1_000_000)?;
        }
        write!(f, "  time of one customer  ")?;
        let total: Duration = self.steps.iter().map(|(_, spent)| *spent).sum();
        write!(f, "{total:.2?}:")?;
        for (point, spent) in &self.steps {
            write!(f, " {} {spent:.2?},", named(*point))?;
        }
        writeln!(f, " by the wall clock of its worker")
    }
}

/// What is done before a point.
fn named(point: Point) -> &'static str {
    match point {
        Point::Claimed => "claim",
        Point::Credited => "look for late usage",
        Point::Drafted => "read, rate and write the draft",
        Point::Lined => "lines",
        Point::Adjusted => "adjustments",
        Point::Posted => "ledger",
        Point::Announced => "outbox",
        Point::Done => "claim done",
        Point::Issued => "number, state and audit",
        Point::Committed => "commit",
    }
}
