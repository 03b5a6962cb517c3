//! What is acknowledged and not swept yet.
//!
//! Each batch of acknowledgements leaves a marker before it is written: the partitions it names and their versions. A sweep
//! brings usage rows up to what markers name and takes them away, so it reads what is new and never the history. Markers stand
//! under a key that no run has; they may go, unlike anything that is counted or acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use ingest::aws::AwsError;
use ingest::dynamodb::{self, Item, ItemError};

use super::{
    Acknowledgement, AcknowledgementError, Acknowledgements, ITEM_BYTES_MAX, cut, read_through, through_bytes_max,
    through_item,
};
use crate::entry::CommitId;
use crate::partition::Partition;

/// Where markers stand: a run's key has 16 bytes.
const MARKERS: &[u8] = b"unswept";
/// The marker that says that everything before the first marker is swept. No batch has so short a key.
const BEGINNING: &[u8] = b"beginning";

/// What is to be swept, and which markers say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unswept {
    /// The partitions, each with the highest version that is named.
    pub partitions: BTreeMap<Partition, u64>,
    markers: Vec<Marker>,
    /// Whether markers tell everything. Otherwise acknowledgements are older than the first marker, and all were read.
    has_beginning: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Marker {
    key: Vec<u8>,
    through: Vec<(Partition, u64)>,
}

impl Unswept {
    /// What markers say, in whatever order they are read.
    pub fn of_markers<'a>(items: impl IntoIterator<Item = &'a Item>) -> Result<Self, ItemError> {
        let mut unswept = Self::default();
        for item in items {
            let key = dynamodb::bytes(item, "batch")?;
            if key == BEGINNING {
                unswept.has_beginning = true;
                continue;
            }
            let through = read_through(item)?;
            unswept.add(through.iter().cloned());
            unswept.markers.push(Marker { key: key.to_vec(), through });
        }
        Ok(unswept)
    }

    fn add(&mut self, through: impl IntoIterator<Item = (Partition, u64)>) {
        for (partition, version) in through {
            let highest = self.partitions.entry(partition).or_default();
            *highest = version.max(*highest);
        }
    }
}

/// Whether an item of the table is a marker and no acknowledgement.
pub(super) fn is_marker(item: &Item) -> bool {
    dynamodb::bytes(item, "run").is_ok_and(|run| run == MARKERS)
}

impl Acknowledgements {
    /// What is acknowledged and not known to be swept.
    pub async fn unswept(&self) -> Result<Unswept, AcknowledgementError> {
        let items = dynamodb::query_all(&self.client, &self.table, ("run", bytes(MARKERS))).await?;
        let mut unswept = Unswept::of_markers(&items)?;
        if !unswept.has_beginning {
            unswept.add(self.partitions().await?);
        }
        Ok(unswept)
    }

    /// Takes the markers away of what is swept: usage rows hold these partitions, all but those `left_out`.
    pub async fn swept(&self, unswept: &Unswept, left_out: &BTreeSet<Partition>) -> Result<(), AwsError> {
        if !unswept.has_beginning {
            // What was left out is named from now on by a marker of its own, under a key that saying it again overwrites.
            let left: Vec<_> =
                unswept.partitions.iter().filter(|(partition, _)| left_out.contains(partition)).collect();
            let left: Vec<_> = left.into_iter().map(|(partition, version)| (partition.clone(), *version)).collect();
            let mut items = markers_of(b"left", &left, ITEM_BYTES_MAX);
            items.push(Item::from([("run".to_owned(), bytes(MARKERS)), ("batch".to_owned(), bytes(BEGINNING))]));
            for item in items {
                dynamodb::batch_put(&self.client, &self.table, vec![item], self.random).await?;
            }
        }
        let is_left = |marker: &Marker| marker.through.iter().any(|(partition, _)| left_out.contains(partition));
        let done = unswept.markers.iter().filter(|marker| !is_left(marker));
        let keys =
            done.map(|done| Item::from([("run".to_owned(), bytes(MARKERS)), ("batch".to_owned(), bytes(&done.key))]));
        dynamodb::batch_delete(&self.client, &self.table, keys.collect(), self.random).await.map(drop)
    }

    /// Leaves the markers of a batch.
    pub(super) async fn mark(&self, batch: CommitId, acknowledgements: &[Acknowledgement]) -> Result<u64, AwsError> {
        let items = markers(batch, acknowledgements, ITEM_BYTES_MAX);
        dynamodb::batch_put(&self.client, &self.table, items, self.random).await
    }
}

/// The markers of a batch of acknowledgements: they are written before anything is acknowledged, and not as one. Each is of at
/// most `item_bytes_max`, except for one that cannot be smaller.
pub fn markers(batch: CommitId, acknowledgements: &[Acknowledgement], item_bytes_max: usize) -> Vec<Item> {
    let mut named = Unswept::default();
    named.add(acknowledgements.iter().flat_map(|said| said.through.iter().cloned()));
    let through: Vec<_> = named.partitions.into_iter().collect();
    markers_of(&batch.0, &through, item_bytes_max)
}

/// Markers that fit an item each.
fn markers_of(batch: &[u8], through: &[(Partition, u64)], item_bytes_max: usize) -> Vec<Item> {
    let pieces = cut(through, item_bytes_max, through_bytes_max);
    let marker = |(number, piece): (u32, &[(Partition, u64)])| {
        let key = [batch, &number.to_be_bytes()].concat();
        Item::from([
            ("run".to_owned(), bytes(MARKERS)),
            ("batch".to_owned(), bytes(&key)),
            ("t".to_owned(), through_item(piece)),
        ])
    };
    (0..).zip(pieces).map(marker).collect()
}

fn bytes(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}
