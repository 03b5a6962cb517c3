//! Slices that are counted: the right side of the balance.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ScalarAttributeType};
use ingest::aws::AwsError;
use ingest::dynamodb::{self, Item, ItemError};
use ingest::{RunId, SliceId};
use thiserror::Error;

use crate::entry::CommitId;
use crate::fold::Tally;
use crate::partition::Partition;

/// Where an item is closed and the next begun; the service takes 400 KB, and one slice stays far below the difference
/// unless its partition has split thousands of times.
const ITEM_BYTES_MAX: usize = 300_000;

/// One slice is dealt with. Said again after a redelivery it says the same, except for what that cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Which slice.
    pub slice: SliceId,
    /// What became of its events.
    pub tally: Tally,
    /// Events set aside because their partition cannot be trusted.
    pub parked: u64,
    /// Its share of the write units.
    pub units: u64,
    /// Once these partitions are rolled up to these versions, usage rows hold the slice. Sorted when read.
    pub through: Vec<(Partition, u64)>,
}

/// Why acknowledgements could not be read.
#[derive(Debug, Error)]
pub enum AcknowledgementError {
    /// The store failed. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
    /// An item is not one of ours. Stop.
    #[error("acknowledgements: {0}")]
    Item(#[from] ItemError),
}

/// The table of acknowledgements: partition key `run`, sort key `batch`. The aggregator is its only writer.
#[derive(Clone, Debug)]
pub struct Acknowledgements {
    client: Client,
    table: String,
    random: fn() -> u64,
}

impl Acknowledgements {
    /// The table of this name; `random` feeds the jitter of its waits.
    pub fn new(client: Client, table: String, random: fn() -> u64) -> Self {
        Self { client, table, random }
    }

    /// Creates the table unless it exists.
    pub async fn ensure_table(&self) -> Result<(), AwsError> {
        let sort_key = Some(("batch", ScalarAttributeType::B));
        dynamodb::ensure_table(&self.client, &self.table, ("run", ScalarAttributeType::B), sort_key).await
    }

    /// Writes one batch of acknowledgements; `batch` is a fresh random id, so that batches never overwrite each other.
    pub async fn put(&self, batch: CommitId, acknowledgements: &[Acknowledgement]) -> Result<u64, AwsError> {
        let mut by_run = BTreeMap::<RunId, Vec<&Acknowledgement>>::new();
        for acknowledgement in acknowledgements {
            by_run.entry(acknowledgement.slice.run).or_default().push(acknowledgement);
        }
        let items = by_run.into_iter().flat_map(|(run, slices)| items(run, batch, &slices)).collect();
        dynamodb::batch_put(&self.client, &self.table, items, self.random).await
    }

    /// What is acknowledged of a run.
    pub async fn of_run(&self, run: RunId) -> Result<RunAcknowledged, AcknowledgementError> {
        let key = ("run", AttributeValue::B(Blob::new(run.as_bytes().as_slice())));
        let items = dynamodb::query_all(&self.client, &self.table, key).await?;
        collect(run, &items)
    }

    /// The partitions that acknowledgements name, each with the highest version: what a sweep must find rolled up.
    pub async fn partitions(&self) -> Result<BTreeMap<Partition, u64>, AcknowledgementError> {
        let mut through = BTreeMap::<Partition, u64>::new();
        let mut start = None;
        loop {
            let page = self
                .client
                .scan()
                .table_name(&self.table)
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsError::new("Scan", error))?;
            for item in page.items.unwrap_or_default() {
                let run = dynamodb::bytes(&item, "run")?.try_into().map_err(|_| ItemError { attribute: "run" })?;
                for acknowledged in collect(RunId::from_bytes(run), &[item])?.slices.into_values() {
                    for (partition, version) in acknowledged.through {
                        let highest = through.entry(partition).or_default();
                        *highest = version.max(*highest);
                    }
                }
            }
            match page.last_evaluated_key {
                Some(last) => start = Some(last),
                None => return Ok(through),
            }
        }
    }
}

/// What is acknowledged of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunAcknowledged {
    /// By slice number.
    pub slices: BTreeMap<u32, Acknowledgement>,
    /// Write units its acknowledgements cost.
    pub units: u64,
}

fn items(run: RunId, batch: CommitId, slices: &[&Acknowledgement]) -> Vec<Item> {
    let mut items = Vec::new();
    let mut rest = slices;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|slice| {
            bytes += bytes_max(slice);
            bytes <= ITEM_BYTES_MAX
        });
        let (now, later) = rest.split_at(fitting.count().max(1));
        let number = u32::try_from(items.len()).expect("a batch is far smaller");
        items.push(item(run, batch, number, now));
        rest = later;
    }
    items
}

/// Bytes of a slice in an item, at most: six members, numbers of up to 20 digits, and the partitions by name.
fn bytes_max(acknowledgement: &Acknowledgement) -> usize {
    let through = acknowledgement.through.iter().map(|(partition, _)| partition.to_string().len() + 12);
    80 + through.sum::<usize>()
}

fn item(run: RunId, batch: CommitId, number: u32, slices: &[&Acknowledgement]) -> Item {
    let mut key = batch.0.to_vec();
    key.extend(number.to_be_bytes());
    Item::from([
        ("run".to_owned(), AttributeValue::B(Blob::new(run.as_bytes().as_slice()))),
        ("batch".to_owned(), AttributeValue::B(Blob::new(key))),
        ("slices".to_owned(), AttributeValue::L(slices.iter().map(|slice| slice_item(slice)).collect())),
    ])
}

fn slice_item(acknowledgement: &Acknowledgement) -> AttributeValue {
    let number = |value: u64| AttributeValue::N(value.to_string());
    let through = acknowledgement.through.iter().map(|(partition, version)| (partition.to_string(), number(*version)));
    AttributeValue::M(Item::from([
        ("n".to_owned(), number(acknowledgement.slice.number.into())),
        ("c".to_owned(), number(acknowledgement.tally.counted)),
        ("d".to_owned(), number(acknowledgement.tally.duplicates)),
        ("p".to_owned(), number(acknowledgement.parked)),
        ("u".to_owned(), number(acknowledgement.units)),
        ("t".to_owned(), AttributeValue::M(through.collect())),
    ]))
}

fn collect(run: RunId, items: &[Item]) -> Result<RunAcknowledged, AcknowledgementError> {
    let wrong = |attribute| ItemError { attribute };
    let mut found = RunAcknowledged::default();
    for item in items {
        found.units += dynamodb::item_units(item);
        let slices = item.get("slices").and_then(|value| value.as_l().ok()).ok_or(wrong("slices"))?;
        for slice in slices {
            let slice = slice.as_m().map_err(|_| wrong("slices"))?;
            let number = u32::try_from(dynamodb::number(slice, "n")?).map_err(|_| wrong("n"))?;
            let through = slice.get("t").and_then(|value| value.as_m().ok()).ok_or(wrong("t"))?;
            let through = through.keys().map(|name| {
                let partition = Partition::parse(name).map_err(|_| wrong("t"))?;
                let version = through[name].as_n().ok().and_then(|digits| digits.parse().ok()).ok_or(wrong("t"))?;
                Ok((partition, version))
            });
            let mut through = through.collect::<Result<Vec<_>, ItemError>>()?;
            through.sort_unstable();
            let acknowledgement = Acknowledgement {
                slice: SliceId { run, number },
                tally: Tally { counted: dynamodb::number(slice, "c")?, duplicates: dynamodb::number(slice, "d")? },
                parked: dynamodb::number(slice, "p")?,
                units: dynamodb::number(slice, "u")?,
                through,
            };
            // Once counted, a slice is counted, even if its partition parked it before or since. Of several deliveries
            // the one that wrote entries has the cost; their tallies are equal.
            let weight = |one: &Acknowledgement| (one.parked == 0, one.units);
            let kept = found.slices.entry(number).or_insert_with(|| acknowledgement.clone());
            if weight(kept) < weight(&acknowledgement) {
                *kept = acknowledgement;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size limit of an item (Amazon DynamoDB Developer Guide, "Constraints").
    const SERVICE_ITEM_BYTES_MAX: u64 = 400 << 10;

    fn acknowledgement(number: u32, partitions: u32) -> Acknowledgement {
        let partition = |child| Partition::parse(&format!("07/2026-10-01T13/{child:06x}")).unwrap();
        Acknowledgement {
            slice: SliceId { run: RunId::from_bytes([1; 16]), number },
            tally: Tally { counted: u64::MAX, duplicates: u64::MAX },
            parked: 0,
            units: u64::MAX,
            through: (0..partitions).map(|child| (partition(child), u64::MAX)).collect(),
        }
    }

    #[test]
    fn items_stay_below_the_limit_however_many_partitions_a_slice_went_through() {
        for (slices, partitions) in [(1, 0), (10_000, 1), (1_000, 17), (300, 273), (3, 5_000)] {
            let all: Vec<_> = (0..slices).map(|number| acknowledgement(number, partitions)).collect();
            let items = items(RunId::from_bytes([1; 16]), CommitId([2; 16]), &all.iter().collect::<Vec<_>>());
            let keys: std::collections::BTreeSet<_> =
                items.iter().map(|item| dynamodb::bytes(item, "batch").unwrap()).collect();
            assert_eq!(keys.len(), items.len(), "no item overwrites another");
            for item in &items {
                let units = dynamodb::item_units(item);
                assert!(units * 1_024 < SERVICE_ITEM_BYTES_MAX, "{units} units: {slices} of {partitions}");
            }
            let found = collect(RunId::from_bytes([1; 16]), &items).unwrap();
            assert!(found.slices.into_values().eq(all), "{slices} of {partitions}");
        }
    }

    #[test]
    fn a_slice_that_was_counted_stays_counted_whatever_else_was_said() {
        let counted = Acknowledgement { units: 0, ..acknowledgement(0, 1) };
        let costly = Acknowledgement { units: 5, ..acknowledgement(0, 1) };
        let parked = Acknowledgement { parked: 9, units: 0, tally: Tally::default(), ..acknowledgement(0, 0) };
        for (said, expected) in [
            ([&counted, &parked], &counted),
            ([&parked, &counted], &counted),
            ([&counted, &costly], &costly),
            ([&costly, &counted], &costly),
            ([&parked, &parked], &parked),
        ] {
            let items: Vec<Item> =
                said.iter().flat_map(|one| items(one.slice.run, CommitId([2; 16]), &[one])).collect();
            assert_eq!(collect(expected.slice.run, &items).unwrap().slices[&0], *expected, "{said:?}");
        }
    }
}
