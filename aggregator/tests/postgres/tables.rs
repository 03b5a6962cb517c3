//! The aggregator's tables on a DynamoDB of the test's own, and slices to count.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aggregator::acknowledgement::{Acknowledgements, RunAcknowledged};
use aggregator::aggregator::{Aggregator, Counters};
use aggregator::commit::Limits;
use aggregator::commit_log::CommitLog as _;
use aggregator::dynamodb_log::DynamoDbLog;
use aggregator::entry::CommitId;
use aggregator::known::Known;
use aws_sdk_dynamodb::types::Select;
use embedded::DynamoDb;
use ingest::dead_letter::DeadLetters;
use ingest::manifest::Manifests;
use ingest::{AccountId, Dimensions, Hour, Identity, Meter, Packer, RunId, Slice, UsageEvent};

use crate::clients;
use crate::stage::account;

/// Small enough that a few hundred events make many entries and splits.
pub(crate) const SMALL: Limits = Limits { entry_bytes_max: 2_000, split_at_identities: 40 };

pub(crate) struct Tables {
    pub(crate) server: DynamoDb,
    pub(crate) log: DynamoDbLog,
    pub(crate) acknowledgements: Acknowledgements,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) manifests: Manifests,
    pub(crate) counters: Arc<Counters>,
}

impl Tables {
    pub(crate) async fn set() -> Self {
        let server = DynamoDb::in_memory().await.unwrap();
        let client = clients::dynamodb(server.endpoint());
        let tables = Self {
            log: DynamoDbLog::new(client.clone(), "commit_log".into()),
            acknowledgements: Acknowledgements::new(client.clone(), "acknowledgements".into(), || 0),
            dead_letters: DeadLetters::new(client.clone(), "dead_letters".into(), || 0),
            manifests: Manifests::new(client, "manifests".into(), || 0),
            counters: Arc::default(),
            server,
        };
        // Twice: a table that exists is left as it is.
        for _ in 0..2 {
            tables.log.ensure_table().await.unwrap();
            tables.acknowledgements.ensure_table().await.unwrap();
            tables.dead_letters.ensure_table().await.unwrap();
            tables.manifests.ensure_table().await.unwrap();
        }
        tables
    }

    pub(crate) fn client(&self) -> aws_sdk_dynamodb::Client {
        clients::dynamodb(self.server.endpoint())
    }

    pub(crate) fn aggregator(&self, cache_bytes_max: usize, limits: Limits) -> Aggregator<DynamoDbLog> {
        let (log, acknowledgements) = (self.log.clone(), self.acknowledgements.clone());
        let dead_letters = self.dead_letters.clone();
        let counters = self.counters.clone();
        Aggregator::new(log, acknowledgements, dead_letters, cache_bytes_max, commit_id, counters).with_limits(limits)
    }

    pub(crate) async fn acknowledged(&self, run: u8) -> RunAcknowledged {
        self.acknowledgements.of_run(RunId::from_bytes([run; 16])).await.unwrap()
    }

    /// How many items the table of acknowledgements has, markers among them.
    pub(crate) async fn acknowledgement_items(&self) -> i32 {
        let scan = self.client().scan().table_name("acknowledgements").consistent_read(true);
        scan.select(Select::Count).send().await.unwrap().count
    }

    /// What the logs say that acknowledgements name, by meter, account and hour.
    pub(crate) async fn counted(&self) -> Counts {
        let mut counts = Counts::new();
        for (partition, version) in self.acknowledgements.partitions().await.unwrap() {
            let mut known = Known::empty(partition.clone());
            for entry in self.log.read_after(&partition, 0).await.unwrap() {
                known.apply(&entry).unwrap();
            }
            assert!(version <= known.version(), "{partition} is acknowledged up to {version}");
            for (counter, total) in known.totals() {
                let hour = partition.hour().expect("a partition of counts");
                *counts.entry((counter.meter, counter.account, hour)).or_default() += total;
            }
        }
        counts
    }
}

/// Different in every call of a process, as random ids are.
pub(crate) fn commit_id() -> CommitId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    CommitId(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes())
}

/// Events by meter, account and hour.
pub(crate) type Counts = BTreeMap<(Meter, AccountId, Hour), u64>;

/// One event of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    pub(crate) account: u64,
    pub(crate) hour: i64,
    pub(crate) region: u32,
    pub(crate) identity: u32,
}

/// The first hour of the tests: 2026-10-24T00, within every contract.
pub(crate) const HOUR: i64 = 498_000;

/// So many events of few accounts, hours and regions, each identity about twice among four runs.
pub(crate) fn events(run: u32, count: u32) -> Vec<Event> {
    let event = |n: u32| {
        // A fixed scatter: the same for every test run.
        let scattered = (n + run * 7_919).wrapping_mul(2_654_435_761) >> 8;
        let identity = scattered % (count * 2);
        // Where an event belongs is part of it; its region is not, as far as identity goes.
        let (account, hour) = (u64::from(identity % 5), HOUR + i64::from(identity % 3));
        Event { account, hour, region: scattered % 2, identity }
    };
    (0..count).map(event).collect()
}

/// The slices of one run.
pub(crate) fn slices(run: u8, events: &[Event]) -> Vec<Slice> {
    let mut packer = Packer::new(RunId::from_bytes([run; 16]));
    let mut slices = Vec::new();
    for event in events {
        let mut identity = [0; 16];
        identity[..4].copy_from_slice(&event.identity.to_be_bytes());
        let event = UsageEvent {
            meter: Meter::CloudTrailEvents,
            account: account(event.account),
            identity: Identity::from_bytes(identity),
            event_time: Hour::from_number(event.hour).unwrap().start(),
            dimensions: Dimensions {
                region: Cow::Owned(format!("region-{}", event.region)),
                category: Cow::Borrowed("Management"),
            },
        };
        packer.add(event, &mut slices);
    }
    slices.extend(packer.flush());
    slices
}

/// What all these events must come to.
pub(crate) fn recount(runs: &[Vec<Event>]) -> Counts {
    let distinct: BTreeSet<_> =
        runs.iter().flatten().map(|event| (event.account, event.hour, event.identity)).collect();
    let mut counts = Counts::new();
    for (number, hour, _) in distinct {
        let hour = Hour::from_number(hour).unwrap();
        *counts.entry((Meter::CloudTrailEvents, account(number), hour)).or_default() += 1;
    }
    counts
}
