//! Roll-ups and registrations at the same time, against a recomputation from nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregator::directory::{CustomerId, RegisterError};
use aggregator::usage_rows::{Advance, CounterTotal};
use ingest::{AccountId, Hour, Meter};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

use crate::stage::{Stage, account, hour, name_of, now};

const SEEDS: u64 = 24;
const ROLL_UPS: u64 = 3;
const REGISTRARS: u64 = 2;
const REGISTRATIONS: usize = 12;

/// The logs of one seed: what each entry says, per partition. The state after an entry is the fold up to it.
struct Logs {
    partitions: Vec<(String, Vec<Vec<CounterTotal>>)>,
    accounts: Vec<AccountId>,
    customers: Vec<CustomerId>,
    /// Hours around a change of month.
    hours: Vec<Hour>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn roll_ups_and_registrations_at_once_end_as_if_one_after_the_other() {
    let stage = Arc::new(Stage::set().await);
    let mut expected = BTreeMap::new();
    for seed in 0..SEEDS {
        let logs = Arc::new(write_logs(&stage, seed).await);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..ROLL_UPS {
            tasks.spawn(roll_up(stage.clone(), logs.clone(), StdRng::seed_from_u64(seed << 8 | task)));
        }
        for task in 0..REGISTRARS {
            tasks.spawn(register(stage.clone(), logs.clone(), StdRng::seed_from_u64(seed << 8 | 0x80 | task)));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap_or_else(|panicked| panic!("seed {seed}: {panicked}"));
        }
        for (partition, entries) in &logs.partitions {
            for counter in entries.iter().flatten() {
                expected.insert((partition.clone(), name_of(counter)), counter.total);
            }
        }
        let totals: BTreeMap<_, _> = stage.rows().await.into_iter().map(|(key, (_, total))| (key, total)).collect();
        assert_eq!(totals, expected, "seed {seed}");
        stage.agrees_with_a_naive_recomputation().await;
    }
}

async fn write_logs(stage: &Stage, seed: u64) -> Logs {
    let mut random = StdRng::seed_from_u64(seed);
    let accounts: Vec<_> = (0..4).map(|number| account(seed * 10 + number)).collect();
    let start = hour("2026-09-30T20").number();
    let hours: Vec<_> = (start..start + 8).map(|number| Hour::from_number(number).unwrap()).collect();
    let mut customers = Vec::new();
    for name in ["anna", "berta", "carla"] {
        customers.push(stage.customer(&format!("{name}-{seed}")).await);
    }
    let partitions = (0..5).map(|partition| {
        let mut totals = BTreeMap::<_, u64>::new();
        let entries = (1..=random.random_range(3..12)).map(|version| {
            let mut named = BTreeMap::new();
            for _ in 0..random.random_range(1..6) {
                let key = (
                    *accounts.choose(&mut random).unwrap(),
                    *Meter::PRICED.choose(&mut random).unwrap(),
                    *hours.choose(&mut random).unwrap(),
                    *["eu-west-1", "us-east-1"].choose(&mut random).unwrap(),
                );
                let total = totals.entry(key).or_default();
                *total += random.random_range(0..1000);
                named.insert(key, *total);
            }
            let counter = |((account, meter, window, region), total): (_, u64)| CounterTotal {
                account,
                meter,
                region: str::to_owned(region),
                category: "Management".to_owned(),
                window,
                total,
                version,
            };
            named.into_iter().map(counter).collect()
        });
        (format!("{seed}/{partition}"), entries.collect())
    });
    Logs { partitions: partitions.collect(), accounts, customers, hours }
}

/// Reads cursors and moves them some entries on, whatever the others do, until every log is rolled up.
async fn roll_up(stage: Arc<Stage>, logs: Arc<Logs>, mut random: StdRng) {
    let names: Vec<_> = logs.partitions.iter().map(|(name, _)| name.clone()).collect();
    loop {
        let cursors = stage.rows.cursors(&names).await.unwrap();
        let mut batch: Vec<Advance> = logs
            .partitions
            .iter()
            .filter_map(|(partition, entries)| {
                let from_version = cursors[partition];
                let entries_left = entries.len() - from_version as usize;
                (entries_left != 0).then(|| {
                    let read = random.random_range(1..=entries_left);
                    let mut newest = BTreeMap::new();
                    for counter in entries[from_version as usize..][..read].iter().flatten() {
                        newest.insert(name_of(counter), counter.clone());
                    }
                    Advance {
                        partition: partition.clone(),
                        from_version,
                        to_version: from_version + read as u64,
                        counters: newest.into_values().collect(),
                    }
                })
            })
            .collect();
        if batch.is_empty() {
            return;
        }
        batch.shuffle(&mut random);
        batch.truncate(random.random_range(1..=batch.len()));
        // No error is expected: a deadlock would be one.
        stage.rows.advance(&batch, now()).await.unwrap();
    }
}

/// Registers accounts for whoever, from whenever; what contradicts the history is refused.
async fn register(stage: Arc<Stage>, logs: Arc<Logs>, mut random: StdRng) {
    for _ in 0..REGISTRATIONS {
        let account = *logs.accounts.choose(&mut random).unwrap();
        let customer = logs.customers.choose(&mut random).unwrap();
        let from = *logs.hours.choose(&mut random).unwrap();
        match stage.directory.register(account, customer, from, now()).await {
            Ok(_) | Err(RegisterError::HistoryDiffers { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
