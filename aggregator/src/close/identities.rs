//! Everything behind the hashes of an evidence file, read from the logs again.

use std::collections::{BTreeMap, BTreeSet};

use ingest::{AccountId, Hour, Identity, Meter, Meters, Timestamp, Window};
use serde::Deserialize;
use thiserror::Error;

use super::facts::{self, Keep};
use super::period::Period;
use super::prefix::{Cut, PrefixError, read_hour};
use super::snapshot::Snapshot;
use super::totals::{LineKey, identities_sha256};
use crate::commit_log::CommitLog;
use crate::directory::{CustomerId, Ownership};
use crate::partition::Partition;

/// Why identities were not found.
#[derive(Debug, Error)]
pub enum IdentitiesError {
    /// Stop: it is not an evidence file of this program's format.
    #[error("line {number} of the evidence cannot be read")]
    NotEvidence {
        /// Which line, from 1.
        number: usize,
    },
    /// Stop: the logs do not hold what the evidence says.
    #[error("the logs no longer come to what the evidence says of {account} {meter} at {window}")]
    Differs {
        /// Whose usage.
        account: AccountId,
        /// Of what.
        meter: Meter,
        /// When.
        window: Hour,
    },
    /// The logs cannot be read, or not be trusted.
    #[error(transparent)]
    Logs(#[from] PrefixError),
}

#[derive(Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Read {
    Evidence {
        customer: String,
        period_start: String,
    },
    Owned {
        account: String,
        from: String,
        until: Option<String>,
    },
    Line {
        account: String,
        meter: String,
        window: String,
        sha256: String,
    },
    Log {
        log: String,
        version: u64,
    },
    #[serde(other)]
    Other,
}

/// What of an evidence file says how to read the logs again.
struct Document {
    period: Period,
    snapshot: Snapshot,
    lines: BTreeMap<LineKey, String>,
}

impl Document {
    fn read(document: &[u8]) -> Result<Self, IdentitiesError> {
        let mut head = None;
        let mut snapshot = Snapshot::default();
        let mut lines = BTreeMap::new();
        for (line, number) in document.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).zip(1..) {
            let broken = || IdentitiesError::NotEvidence { number };
            match serde_json::from_slice(line).map_err(|_| broken())? {
                Read::Evidence { customer, period_start } => {
                    let period = period_start.get(..7).and_then(|month| Period::parse(month).ok());
                    head = CustomerId::parse(&customer).ok().zip(period);
                }
                Read::Owned { account, from, until } => {
                    let hour = |text: &str| Timestamp::parse_rfc3339(text).map(Timestamp::hour).map_err(|_| broken());
                    let account = AccountId::parse(&account).map_err(|_| broken())?;
                    let (customer, _) = head.clone().ok_or_else(broken)?;
                    let until = until.map(|until| hour(&until)).transpose()?;
                    let ownership = Ownership { customer, from: hour(&from)?, until };
                    snapshot.owners.entry(account).or_default().push(ownership);
                }
                Read::Line { account, meter, window, sha256 } => {
                    let line = LineKey {
                        account: AccountId::parse(&account).map_err(|_| broken())?,
                        meter: Meter::parse_stored(&meter).map_err(|_| broken())?,
                        window: Hour::parse_key(&window).map_err(|_| broken())?,
                    };
                    lines.insert(line, sha256);
                }
                Read::Log { log, version } => {
                    snapshot.cursors.insert(Partition::parse(&log).map_err(|_| broken())?, version);
                }
                Read::Other => {}
            }
        }
        let (_, period) = head.ok_or(IdentitiesError::NotEvidence { number: 1 })?;
        Ok(Self { period, snapshot, lines })
    }
}

/// Lines to go behind an evidence file: for each of its lines every identity, or every fact, that its hash is over. They come
/// from the logs up to the cut of the file, and are checked against its hashes.
pub async fn identities<L: CommitLog>(log: &L, document: &[u8], meters: &Meters) -> Result<Vec<u8>, IdentitiesError> {
    let document = Document::read(document)?;
    let mut found = BTreeMap::<&LineKey, Vec<String>>::new();
    let roots: BTreeSet<(ingest::Bucket, Hour)> =
        document.snapshot.cursors.keys().filter_map(|log| Some((log.bucket, log.hour()?))).collect();
    for (bucket, hour) in roots {
        let root = Partition::root(bucket, Window::Hour(hour));
        let counted = read_hour(log, root, Cut::At(&document.snapshot.cursors)).await?;
        let mut by_line = BTreeMap::<LineKey, Vec<Identity>>::new();
        for (counter, identities) in counted.counters {
            let line = LineKey { account: counter.account, meter: counter.meter, window: hour };
            by_line.entry(line).or_default().extend(identities);
        }
        for (line, mut identities) in by_line {
            identities.sort_unstable();
            let Some((line, sha256)) = document.lines.get_key_value(&line) else { continue };
            if hex::encode(identities_sha256(&identities)) != *sha256 {
                return Err(differs(line));
            }
            found.insert(line, identities.iter().map(|identity| hex::encode(identity.as_bytes())).collect());
        }
    }
    let facts = facts::fold(log, &document.snapshot, meters, document.period, Keep::Marks).await?;
    for (line, marks) in facts.marks {
        let Some((line, sha256)) = document.lines.get_key_value(&line) else { continue };
        if facts.lines.get(line).map(hex::encode).as_ref() != Some(sha256) {
            return Err(differs(line));
        }
        found.insert(line, marks.iter().map(ToString::to_string).collect());
    }
    if let Some(line) = document.lines.keys().find(|line| !found.contains_key(line)) {
        return Err(differs(line));
    }
    let mut bytes = Vec::new();
    for (line, of) in found {
        let said = serde_json::json!({
            "is": "identities",
            "account": line.account.as_str(),
            "meter": line.meter.as_str(),
            "window": line.window.to_string(),
            "of": of,
        });
        serde_json::to_writer(&mut bytes, &said).expect("strings are always JSON");
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn differs(line: &LineKey) -> IdentitiesError {
    IdentitiesError::Differs { account: line.account, meter: line.meter, window: line.window }
}
