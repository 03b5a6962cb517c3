//! The close itself: look at everything, say what is missing, then fix the cut.

use std::collections::BTreeMap;
use std::fmt;

use ingest::dead_letter::{DeadLetterError, DeadLetterHead, DeadLetters};
use ingest::{AccountId, Hour, Meter, Meters, Quantity, Timestamp, Window};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use thiserror::Error;

use super::evidence::{Evidence, LetterEvidence, ObjectEvidence, SourceEvidence};
use super::facts;
use super::letters::Letters;
use super::period::Period;
use super::prefix::PrefixError;
use super::readings::Readings;
use super::snapshot::{OneInstant, Rows, Snapshot, TotalKey};
use super::store::{self, NewClose, closes_of};
use super::totals::{self, CustomerTotals};
use crate::acknowledgement::AcknowledgementError;
use crate::commit_log::CommitLog;
use crate::directory::CustomerId;
use crate::meters::MeterBook;
use crate::partition::Partition;
use crate::receipts::{Completeness, ReceiptError, Receipts, SourceClass, SourceReport};
use crate::usage_rows::DatabaseError;

/// Customers whose logs are read in one pass: their totals are in memory together.
const CUSTOMERS_TOGETHER: usize = 16;
/// Differences between logs and rows that are named; the others are counted.
const DIFFERENCES_NAMED: usize = 20;

/// Somebody's word that a close shall be made although something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Who.
    pub by: String,
    /// Why.
    pub because: String,
}

/// What to close.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which month.
    pub period: Period,
    /// Whose; `None` for every customer whose contract began.
    pub customers: Option<Vec<CustomerId>>,
    /// Who closes, for the audit.
    pub actor: String,
    /// Why it shall be closed even if something is missing.
    pub override_because: Option<String>,
    /// Only look.
    pub is_dry_run: bool,
}

/// What stands in the way of a close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// A declared source has not delivered all it should have, or not all of it is counted.
    SourceIncomplete {
        /// Of which meter.
        meter: Meter,
        /// Which account.
        account: AccountId,
        /// What is missing first.
        waits_for: String,
    },
    /// A record of the period was set aside and not dealt with.
    DeadLetter {
        /// Its name.
        id: String,
        /// Why it was set aside.
        reason: &'static str,
        /// The object it came from.
        object: String,
    },
    /// An object was read and is not counted.
    NotCounted {
        /// Its name.
        object: String,
    },
    /// A log is counted and not rolled up.
    NotRolledUp {
        /// Which log.
        log: Partition,
        /// How far it is rolled up.
        at: u64,
        /// How far it is acknowledged.
        acknowledged: u64,
    },
    /// A usage row is not what the logs say.
    RowDiffers {
        /// Which total.
        total: TotalKey,
        /// By the logs up to where the row was rolled up; `None`: they have none.
        in_logs: Option<Quantity>,
        /// By the row; `None`: there is none, or it is no number that logs come to.
        in_rows: Option<Quantity>,
    },
    /// More of the same.
    MoreRowsDiffer(usize),
    /// A log contradicts itself: nobody can say what it comes to, so no word overrides it.
    Untrusted(String),
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceIncomplete { meter, waits_for, .. } => write!(f, "{meter} is incomplete: {waits_for}"),
            Self::DeadLetter { id, reason, object } => write!(f, "dead letter {id} ({reason}) of {object} is open"),
            Self::NotCounted { object } => write!(f, "{object} was read and is not counted"),
            Self::NotRolledUp { log, at, acknowledged } => {
                write!(f, "log {log} is counted up to entry {acknowledged} and rolled up to {at}")
            }
            Self::RowDiffers { total, in_logs, in_rows } => {
                let said = |quantity: &Option<Quantity>| quantity.map_or("nothing".to_owned(), |it| it.to_string());
                let TotalKey { account, meter, window, region, category } = total;
                let (logs, rows) = (said(in_logs), said(in_rows));
                write!(f, "{account} {meter} {window} {region} {category}: the logs say {logs}, the usage row {rows}")
            }
            Self::MoreRowsDiffer(more) => write!(f, "{more} more usage rows are not what the logs say"),
            Self::Untrusted(what) => write!(f, "a log cannot be trusted: {what}"),
        }
    }
}

/// What an account used of a meter in the period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountUsage {
    /// Which account.
    pub account: AccountId,
    /// Of what.
    pub meter: Meter,
    /// In raw units; `None` if it does not fit 38 digits.
    pub total: Option<Quantity>,
    /// The first hour with usage.
    pub first: Hour,
    /// The last hour with usage.
    pub last: Hour,
    /// The longest stretch of hours without usage between the two: first hour and how many. Not wrong by itself.
    pub quietest: Option<(Hour, i64)>,
}

/// What became of one customer's close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new cut was made.
    Closed {
        /// Its number, from 1.
        cut: i32,
        /// SHA-256 of its evidence.
        evidence_sha256: [u8; 32],
    },
    /// The last cut says the same, and stands.
    Unchanged {
        /// Its number.
        cut: i32,
        /// SHA-256 of its evidence.
        evidence_sha256: [u8; 32],
    },
    /// Something is missing; nothing was written.
    Refused,
    /// Nothing is missing; nothing was written, as asked.
    WouldClose,
}

/// One customer's close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerClose {
    /// Whose.
    pub customer: CustomerId,
    /// What its sources promise together: the weakest of them.
    pub class: SourceClass,
    /// What its declared sources should have delivered, and what of it is there.
    pub sources: Vec<SourceReport>,
    /// What its accounts used.
    pub accounts: Vec<AccountUsage>,
    /// Entries behind the cut in the logs it was read from.
    pub entries_after: u64,
    /// What is missing.
    pub blockers: Vec<Blocker>,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why nobody's close could be looked at to its end. Customers already closed stay closed.
#[derive(Debug, Error)]
pub enum CloseError {
    /// Stop: there is more to come.
    #[error("{0} is not over")]
    NotOver(Period),
    /// Stop: no such customer, or its contract begins later.
    #[error("customer {0} does not exist, or its contract begins after the period")]
    UnknownCustomer(CustomerId),
    /// Stop: an override needs its reason.
    #[error("an override needs a reason of at most 2,000 characters")]
    NoReason,
    /// As it says.
    #[error(transparent)]
    Receipts(#[from] ReceiptError),
    /// As it says.
    #[error(transparent)]
    Acknowledgements(#[from] AcknowledgementError),
    /// As it says.
    #[error(transparent)]
    DeadLetters(#[from] DeadLetterError),
    /// A log could not be read.
    #[error(transparent)]
    Logs(#[from] PrefixError),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Closes periods.
#[derive(Clone, Debug)]
pub struct Closer<L> {
    /// The commit logs.
    pub log: L,
    /// The database, as `securebase_aggregator`.
    pub pool: PgPool,
    /// What was read, counted and rolled up.
    pub receipts: Receipts,
    /// What was set aside.
    pub dead_letters: DeadLetters,
}

/// What all customers of a close have in common.
struct Common {
    readings: Readings,
    letters: Letters,
    acknowledged: BTreeMap<Partition, u64>,
}

impl<L: CommitLog> Closer<L> {
    /// Closes a period, customer by customer: each is looked at, and closed or refused, on its own.
    pub async fn close(&self, request: &Request, now: Timestamp) -> Result<Vec<CustomerClose>, CloseError> {
        let period = request.period;
        if now < period.end() {
            return Err(CloseError::NotOver(period));
        }
        let reason = request.override_because.as_deref();
        if reason.is_some_and(|reason| reason.trim().is_empty() || 2_000 < reason.chars().count()) {
            return Err(CloseError::NoReason);
        }
        let all = store::customers_of(&self.pool, period).await?;
        let customers = match &request.customers {
            None => all,
            Some(some) => {
                if let Some(unknown) = some.iter().find(|customer| !all.contains(customer)) {
                    return Err(CloseError::UnknownCustomer(unknown.clone()));
                }
                some.clone()
            }
        };
        // Read before the cut: what is acknowledged here must be rolled up there.
        let common = Common {
            acknowledged: self.receipts.acknowledgements.partitions().await?,
            readings: Readings::of(&self.receipts, period).await?,
            letters: Letters::read(&self.dead_letters).await?,
        };
        let meters = MeterBook::new(self.pool.clone()).read().await?;
        let mut instant = OneInstant::begin(&self.pool, period).await?;
        let facts = facts::fold(&self.log, &instant.snapshot, &meters, period, facts::Keep::Hashes).await?;
        let mut closes = Vec::new();
        for together in customers.chunks(CUSTOMERS_TOGETHER) {
            let mut rows = instant.rows(together).await?;
            let snapshot = &instant.snapshot;
            let mut folded = totals::fold(&self.log, snapshot, period, together).await?;
            totals::add_facts(&mut folded, &facts, snapshot);
            for customer in together {
                let totals = folded.remove(customer).unwrap_or_default();
                let rows = rows.remove(customer).unwrap_or_default();
                let one = One { request, customer, common: &common, meters: &meters, snapshot, totals, now };
                closes.push(self.close_one(one, &rows).await?);
            }
        }
        Ok(closes)
    }

    async fn close_one(&self, one: One<'_>, rows: &Rows) -> Result<CustomerClose, CloseError> {
        let period = one.request.period;
        let completeness = Completeness::new(self.pool.clone());
        let sources = completeness.of_period(one.customer, (period.start(), period.end()), one.now).await?;
        let blockers = one.blockers(&sources, rows);
        let class = one.class(&sources);
        let closes = closes_of(&self.pool, one.customer, period).await?;
        let is_overridden = one.request.override_because.is_some() && !blockers.is_empty();
        let is_fatal = blockers.iter().any(|blocker| matches!(blocker, Blocker::Untrusted(_)));
        let overridden = is_overridden.then(|| Override {
            by: one.request.actor.clone(),
            because: one.request.override_because.clone().unwrap_or_default(),
        });
        let totals_sha256 = totals_sha256(&one.totals);
        let outcome = match closes.last() {
            _ if is_fatal || (!blockers.is_empty() && overridden.is_none()) => Outcome::Refused,
            _ if one.request.is_dry_run => Outcome::WouldClose,
            Some(last)
                if last.totals_sha256 == Some(totals_sha256)
                    && last.class == class
                    && last.overridden.is_some() == overridden.is_some() =>
            {
                Outcome::Unchanged { cut: last.cut, evidence_sha256: last.evidence_sha256 }
            }
            last => {
                let cut = last.map_or(1, |last| last.cut + 1);
                let document = one.evidence(&sources, class, cut, overridden.as_ref());
                let new = NewClose {
                    customer: one.customer,
                    period,
                    cut,
                    class,
                    overridden: overridden.as_ref(),
                    directory_version: one.snapshot.directory_version,
                    cut_at: one.now,
                    totals: &one.totals,
                    totals_sha256,
                    document: &document,
                    actor: &one.request.actor,
                    blockers: blockers.iter().map(|blocker| format!("{blocker}\n")).collect(),
                };
                Outcome::Closed { cut, evidence_sha256: store::add(&self.pool, &new).await? }
            }
        };
        Ok(CustomerClose {
            customer: one.customer.clone(),
            class,
            sources,
            accounts: accounts(&one.totals),
            entries_after: one.totals.entries_after,
            blockers,
            outcome,
        })
    }
}

/// One customer's close while it is looked at.
struct One<'a> {
    request: &'a Request,
    customer: &'a CustomerId,
    common: &'a Common,
    meters: &'a Meters,
    snapshot: &'a Snapshot,
    totals: CustomerTotals,
    now: Timestamp,
}

impl One<'_> {
    fn blockers(&self, sources: &[SourceReport], rows: &Rows) -> Vec<Blocker> {
        let mut blockers: Vec<Blocker> = self.totals.untrusted.iter().cloned().map(Blocker::Untrusted).collect();
        for report in sources.iter().filter(|report| report.source.class != SourceClass::BestEffort) {
            let open = report.accounts.iter().filter(|account| account.through.until.is_some());
            blockers.extend(open.map(|account| Blocker::SourceIncomplete {
                meter: report.source.meter,
                account: account.account,
                waits_for: account.through.waits_for.clone(),
            }));
        }
        let open = self.letters().filter(|letter| letter.is_open());
        blockers.extend(open.map(|letter| Blocker::DeadLetter {
            id: letter.id.clone(),
            reason: letter.reason.as_str(),
            object: letter.object.clone(),
        }));
        let not_counted = self.common.readings.not_counted.iter().cloned();
        blockers.extend(not_counted.map(|object| Blocker::NotCounted { object }));
        blockers.extend(self.not_rolled_up());
        blockers.extend(self.differences(rows));
        blockers
    }

    /// The dead letters that may be the customer's usage of the period, by name.
    fn letters(&self) -> impl Iterator<Item = &DeadLetterHead> {
        let (from, until) = (self.request.period.start(), self.request.period.end());
        let concerns =
            move |letter: &&DeadLetterHead| letter.scope.may_concern(|account| self.is_theirs(account), from, until);
        self.common.letters.heads.iter().filter(concerns)
    }

    fn is_theirs(&self, account: &AccountId) -> bool {
        let owners = self.snapshot.owners.get(account);
        owners.is_some_and(|owners| owners.iter().any(|ownership| ownership.customer == *self.customer))
    }

    fn not_rolled_up(&self) -> impl Iterator<Item = Blocker> {
        let buckets: Vec<_> =
            self.snapshot.owned_by(self.customer).iter().map(|(account, _)| account.bucket()).collect();
        let period = self.request.period;
        let of_period = self.common.acknowledged.iter().filter(move |(log, _)| {
            let bears_on_it = match log.window {
                Window::Hour(hour) => period.has(hour),
                // What was stated of any time before bears on it.
                Window::Day(day) => day.start() < period.end(),
            };
            bears_on_it && buckets.contains(&log.bucket)
        });
        of_period.filter_map(|(log, &acknowledged)| {
            let at = self.snapshot.cursors.get(log).copied().unwrap_or_default();
            (at < acknowledged).then(|| Blocker::NotRolledUp { log: log.clone(), at, acknowledged })
        })
    }

    /// Where usage rows are not what one full fold of the logs says.
    fn differences(&self, rows: &Rows) -> Vec<Blocker> {
        let keys = self.totals.totals.keys().chain(rows.keys().filter(|key| !self.totals.totals.contains_key(key)));
        let mut differences = keys.filter_map(|key| {
            let in_logs = self.totals.totals.get(key).map(|closed| closed.total);
            let in_rows = rows.get(key).copied();
            let is_same = in_rows == in_logs.map(Some);
            (!is_same).then(|| Blocker::RowDiffers { total: key.clone(), in_logs, in_rows: in_rows.flatten() })
        });
        let mut named: Vec<Blocker> = differences.by_ref().take(DIFFERENCES_NAMED).collect();
        let more = differences.count();
        if 0 < more {
            named.push(Blocker::MoreRowsDiffer(more));
        }
        named
    }

    /// The weakest promise of any meter that was used or declared. A source that began to promise within the period
    /// promises nothing of all of it.
    fn class(&self, sources: &[SourceReport]) -> SourceClass {
        let begins = self.request.period.start();
        let promised = |report: &SourceReport| {
            let owned = self.snapshot.owned_by(self.customer);
            let first = owned.iter().map(|(_, ownership)| ownership.from.start()).min().unwrap_or(begins);
            if report.source.since.start() <= begins.max(first) { report.source.class } else { SourceClass::BestEffort }
        };
        let declared = |meter: Meter| sources.iter().find(|report| report.source.meter == meter);
        let used = self.totals.lines.keys().map(|line| line.meter);
        let of_used = used.map(|meter| declared(meter).map_or(SourceClass::BestEffort, promised));
        of_used.chain(sources.iter().map(promised)).min().unwrap_or(SourceClass::BestEffort)
    }

    fn evidence(
        &self,
        sources: &[SourceReport],
        class: SourceClass,
        cut: i32,
        overridden: Option<&Override>,
    ) -> Vec<u8> {
        let mut used: Vec<Meter> = self.totals.lines.keys().map(|line| line.meter).collect();
        used.extend(sources.iter().map(|report| report.source.meter));
        used.sort_unstable_by_key(|meter| meter.as_str());
        used.dedup();
        let source = |meter: &Meter| match sources.iter().find(|report| report.source.meter == *meter) {
            None => SourceEvidence {
                meter: *meter,
                kind: None,
                class: SourceClass::BestEffort,
                since: None,
                is_complete: false,
                waits_for: String::new(),
            },
            Some(report) => {
                let open = report.accounts.iter().find(|account| account.through.until.is_some());
                SourceEvidence {
                    meter: *meter,
                    kind: Some(report.source.kind.clone()),
                    class: report.source.class,
                    since: Some(report.source.since),
                    is_complete: report.source.class != SourceClass::BestEffort && open.is_none(),
                    waits_for: open.map(|account| account.through.waits_for.clone()).unwrap_or_default(),
                }
            }
        };
        let known = |run| self.common.readings.objects.get(run);
        let mut objects: Vec<ObjectEvidence> = self.totals.runs.iter().filter_map(known).cloned().collect();
        objects.sort_unstable();
        objects.dedup();
        let is_theirs = |letter: &DeadLetterHead| {
            let accounts = letter.scope.accounts.as_ref();
            accounts.is_some_and(|accounts| accounts.iter().all(|account| self.is_theirs(account)))
        };
        let letter = |head| LetterEvidence {
            head,
            object: is_theirs(head).then(|| self.common.readings.source_of(&head.object)),
            holds: self.common.letters.holds(&head.id),
        };
        let mut dead_letters: Vec<LetterEvidence<'_>> = self.letters().map(letter).collect();
        dead_letters.sort_unstable_by_key(|letter| &letter.head.id);
        let evidence = Evidence {
            customer: self.customer,
            period: self.request.period,
            cut,
            cut_at: self.now,
            class,
            directory_version: self.snapshot.directory_version,
            overridden,
            meters: used.iter().filter_map(|meter| self.meters.get(*meter)).collect(),
            sources: used.iter().map(source).collect(),
            owned: self.snapshot.owned_by(self.customer),
            lines: &self.totals.lines,
            runs_without_manifest: self.totals.runs.iter().filter(|run| known(run).is_none()).count() as u64,
            objects: &objects,
            logs: &self.totals.cut,
            dead_letters,
        };
        evidence.document()
    }
}

/// SHA-256 over every total in order: each text with its length before it, eight bytes big endian.
fn totals_sha256(totals: &CustomerTotals) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for (key, closed) in &totals.totals {
        let TotalKey { account, meter, window, region, category } = key;
        for text in [account.as_str(), meter.as_str(), &window.to_string(), region, category] {
            field(text.as_bytes());
        }
        field(closed.total.to_string().as_bytes());
        field(&closed.identities_sha256);
    }
    hash.finalize().into()
}

fn accounts(totals: &CustomerTotals) -> Vec<AccountUsage> {
    let mut accounts = BTreeMap::<(AccountId, Meter), AccountUsage>::new();
    // In order of time for each account and meter.
    for (line, closed) in &totals.lines {
        let hour = line.window;
        let usage = accounts.entry((line.account, line.meter)).or_insert_with(|| AccountUsage {
            account: line.account,
            meter: line.meter,
            total: Some(Quantity::ZERO),
            first: hour,
            last: hour,
            quietest: None,
        });
        usage.total = usage.total.and_then(|total| total.checked_add(closed.total));
        let quiet = hour.number() - usage.last.number() - 1;
        if usage.quietest.map_or(0, |(_, hours)| hours) < quiet {
            usage.quietest = Hour::from_number(usage.last.number() + 1).map(|from| (from, quiet));
        }
        usage.last = hour;
    }
    accounts.into_values().collect()
}
