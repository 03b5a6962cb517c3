//! Entries of commit logs, from DynamoDB Streams or found by a sweep, rolled up to usage rows.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aggregator::commit::Gain;
use aggregator::commit_log::CommitLog;
use aggregator::partition::Partition;
use aggregator::rollup::RollUpError;
use aggregator::sweep::{Sweep, SweepError, Swept};
use ingest::Timestamp;
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::answer::{BatchAnswer, diagnostic};
use crate::deadline::{Deadline, DeadlineExceeded};
use crate::metric;
use crate::settings::{DatabaseSettings, Settings, SettingsError, StoreSettings};

/// The role of the database that writes usage rows.
const ROLE: &str = "securebase_aggregator";
/// Where the name of a set of logs stands in their table; no partition is written like this.
const DEPLOYMENT_KEY: &str = "deployment";

/// The settings of the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollupSettings {
    /// The tables.
    pub stores: StoreSettings,
    /// PostgreSQL.
    pub database: DatabaseSettings,
}

impl RollupSettings {
    /// Reads them.
    pub fn read(read: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(read);
        let stores = settings.stores();
        let database = settings.database(ROLE);
        settings.finish(Self { stores, database })
    }
}

/// Why an invocation has no answer: Lambda delivers it again.
#[derive(Debug, Error)]
pub enum RollupError {
    /// Stop: something else invokes the function.
    #[error("neither a batch of the DynamoDB event source mapping nor a schedule: {0}")]
    NotRecognized(String),
    /// Retry. What was rolled up stays.
    #[error(transparent)]
    Deadline(#[from] DeadlineExceeded),
    /// Retry if passing: a sweep did not come to its end.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// Retry if passing: entries could not be rolled up.
    #[error(transparent)]
    RollUp(#[from] RollUpError),
}

impl From<RollupError> for Diagnostic {
    fn from(error: RollupError) -> Self {
        let kind = match &error {
            RollupError::NotRecognized(_) => "Delivery.NotRecognized",
            RollupError::Deadline(_) => "Deadline.Exceeded",
            RollupError::Sweep(_) | RollupError::RollUp(_) => "Store.Failed",
        };
        diagnostic(kind, &error)
    }
}

/// The answer to an invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RollupAnswer {
    /// To a batch of the event source mapping.
    Batch(BatchAnswer),
    /// To a schedule.
    Sweep(SweepAnswer),
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SweepAnswer {
    /// Partitions that were acknowledged since the last sweep, or left out by it.
    pub partitions: usize,
    /// Partitions left out because their log or rows cannot be trusted; the log names them.
    pub refused: usize,
}

/// Rolls up what a delivery names: entries of the commit log, or what a sweep finds: everything that was acknowledged since the
/// last one, what goes on without a word, and accounts that follow their organization.
///
/// A partition that cannot be trusted is left out with an alarm and holds up nothing; it comes back with every sweep.
pub async fn roll_up<L: CommitLog>(
    sweep: &Sweep<L>,
    event: &str,
    now: Timestamp,
    deadline: Deadline,
) -> Result<RollupAnswer, RollupError> {
    match decode(event)? {
        Delivery::Entries { first, partitions } => {
            let number = partitions.len();
            let done = deadline.keep(sweep.roll_up().apply(wanted(partitions), now)).await?;
            Ok(RollupAnswer::Batch(match done {
                Ok(refused) => {
                    report(number, refused.len(), now);
                    BatchAnswer::done()
                }
                Err(error) => {
                    tracing::error!(%error, "entries are to be delivered again");
                    BatchAnswer::again([first])
                }
            }))
        }
        Delivery::Schedule => {
            let Swept { partitions, refused, .. } = deadline.keep(sweep.run(now)).await??;
            report(partitions, refused.len(), now);
            Ok(RollupAnswer::Sweep(SweepAnswer { partitions, refused: refused.len() }))
        }
    }
}

fn report(partitions: usize, refused: usize, now: Timestamp) {
    metric::emit("rollup", &[("Partitions", partitions as u64), ("RefusedPartitions", refused as u64)], now);
}

/// Partitions at the versions that usage rows must hold, whatever else is known of them.
fn wanted(partitions: BTreeMap<Partition, u64>) -> Vec<Gain> {
    let gain = |(partition, version)| Gain { partition, from_version: version, to_version: version, totals: None };
    partitions.into_iter().map(gain).collect()
}

enum Delivery {
    Entries {
        /// Sequence number of the first record.
        first: String,
        /// The highest version of each partition.
        partitions: BTreeMap<Partition, u64>,
    },
    Schedule,
}

/// Only what is read here: a field that Lambda adds or leaves out must not stop a shard.
///
/// Source: AWS Lambda Developer Guide, "Using AWS Lambda with Amazon DynamoDB", example event.
#[derive(Deserialize)]
struct EventRecord<'a> {
    #[serde(rename = "eventName", borrow)]
    change: Cow<'a, str>,
    #[serde(borrow)]
    dynamodb: Change<'a>,
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(rename = "SequenceNumber", borrow)]
    sequence_number: Cow<'a, str>,
    #[serde(rename = "Keys", borrow)]
    keys: Keys<'a>,
}

#[derive(Deserialize)]
struct Keys<'a> {
    #[serde(borrow)]
    partition: Text<'a>,
    #[serde(borrow)]
    version: Number<'a>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(rename = "S", borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Number<'a> {
    #[serde(rename = "N", borrow)]
    digits: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<EventRecord<'a>>,
}

fn decode(event: &str) -> Result<Delivery, RollupError> {
    let not_recognized = |reason: String| RollupError::NotRecognized(reason);
    if is_schedule(event) {
        return Ok(Delivery::Schedule);
    }
    let batch: Batch<'_> = serde_json::from_str(event).map_err(|error| not_recognized(error.to_string()))?;
    let first = batch.records.first().ok_or_else(|| not_recognized("no records".to_owned()))?;
    let first = first.dynamodb.sequence_number.clone().into_owned();
    let mut partitions = BTreeMap::<Partition, u64>::new();
    for record in &batch.records {
        let (partition, version) = (&record.dynamodb.keys.partition.text, &record.dynamodb.keys.version.digits);
        if record.change != "INSERT" {
            // Entries are never changed or deleted; the roll-up will find a gap if this one was.
            let change = &*record.change;
            tracing::error!(%partition, %version, change, "someone has changed a commit log");
        }
        match (Partition::parse(partition), version.parse::<u64>()) {
            (Ok(partition), Ok(version)) => {
                let highest = partitions.entry(partition).or_default();
                *highest = version.max(*highest);
            }
            _ if partition == DEPLOYMENT_KEY => {}
            _ => tracing::error!(%partition, %version, "someone has written into the table of commit logs"),
        }
    }
    Ok(Delivery::Entries { first, partitions })
}

/// A rule's scheduled event, or the input `{"securebase":"sweep"}` of a schedule or a person.
fn is_schedule(event: &str) -> bool {
    let Ok(Value::Object(event)) = serde_json::from_str(event) else { return false };
    let is = |member: &str, value: &str| event.get(member).and_then(Value::as_str) == Some(value);
    is("detail-type", "Scheduled Event") || is("securebase", "sweep")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(change: &str, partition: &str, version: &str, sequence_number: &str) -> String {
        format!(
            r#"{{"eventID":"c4ca4238","eventName":"{change}","eventVersion":"1.1","eventSource":"aws:dynamodb",
            "awsRegion":"us-east-1","dynamodb":{{"ApproximateCreationDateTime":1761955200,
            "Keys":{{"partition":{{"S":"{partition}"}},"version":{{"N":"{version}"}}}},
            "SequenceNumber":"{sequence_number}","SizeBytes":26,"StreamViewType":"KEYS_ONLY"}},
            "eventSourceARN":"arn:aws:dynamodb:us-east-1:123456789012:table/securebase-commit-log/stream/2026"}}"#
        )
    }

    #[test]
    fn a_batch_names_each_partition_at_its_highest_version() {
        let records = [
            record("INSERT", "07/2026-10-01T13", "2", "111"),
            record("INSERT", "07/2026-10-01T13/a", "1", "112"),
            record("MODIFY", "07/2026-10-01T13", "1", "113"),
            record("INSERT", "deployment", "0", "114"),
            record("INSERT", "something else", "1", "115"),
        ];
        let event = format!(r#"{{"Records":[{}]}}"#, records.join(","));
        let Delivery::Entries { first, partitions } = decode(&event).unwrap() else { panic!("entries") };
        assert_eq!(first, "111");
        let expected = [("07/2026-10-01T13", 2), ("07/2026-10-01T13/a", 1)];
        let expected = expected.map(|(name, version)| (Partition::parse(name).unwrap(), version));
        assert_eq!(partitions, BTreeMap::from(expected));
    }

    #[test]
    fn a_schedule_is_a_sweep_and_anything_else_is_refused() {
        for schedule in [
            r#"{"version":"0","id":"53dc4d37","detail-type":"Scheduled Event","source":"aws.events","detail":{}}"#,
            r#"{"securebase":"sweep"}"#,
        ] {
            assert!(matches!(decode(schedule), Ok(Delivery::Schedule)), "{schedule}");
        }
        for other in [r#"{"Records":[]}"#, "{}", "[]", r#"{"Records":[{"eventName":"INSERT"}]}"#] {
            assert!(matches!(decode(other), Err(RollupError::NotRecognized(_))), "{other}");
        }
    }
}
