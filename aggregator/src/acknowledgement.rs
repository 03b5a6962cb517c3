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

/// Slices of one run in one item; far below the item limit.
const ITEM_SLICES_MAX: usize = 1_000;

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
    /// Once these partitions are rolled up to these versions, usage rows hold the slice.
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
        let mut items = Vec::new();
        for (run, slices) in by_run {
            for (number, slices) in (0_u32..).zip(slices.chunks(ITEM_SLICES_MAX)) {
                items.push(item(run, batch, number, slices));
            }
        }
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
            let acknowledgement = Acknowledgement {
                slice: SliceId { run, number },
                tally: Tally { counted: dynamodb::number(slice, "c")?, duplicates: dynamodb::number(slice, "d")? },
                parked: dynamodb::number(slice, "p")?,
                units: dynamodb::number(slice, "u")?,
                through: through.collect::<Result<_, ItemError>>()?,
            };
            // Of several deliveries the one that wrote entries has the cost; their tallies are equal.
            let kept = found.slices.entry(number).or_insert_with(|| acknowledgement.clone());
            if kept.units < acknowledgement.units {
                *kept = acknowledgement;
            }
        }
    }
    Ok(found)
}
