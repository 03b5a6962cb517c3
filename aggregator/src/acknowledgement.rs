//! Slices that are counted: the right side of the balance.

mod unswept;

pub use unswept::{Unswept, markers};

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ScalarAttributeType};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ingest::aws::AwsError;
use ingest::dynamodb::{self, Item, ItemError};
use ingest::{RunId, SliceId};
use thiserror::Error;

use crate::entry::CommitId;
use crate::fold::{Beside, Tally};
use crate::partition::Partition;

/// Where an item is closed and the next begun; the service takes 400 KB. A slice that needs more is spread over items.
pub const ITEM_BYTES_MAX: usize = 300_000;
/// Bytes of a slice in an item without its partitions, at most: nine members, numbers of up to 20 digits.
const SLICE_BYTES_MAX: usize = 110;
/// Runs looked up at once.
const LOOK_UPS_AT_ONCE: usize = 16;

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

/// The port to where acknowledgements are kept.
pub trait AcknowledgementStore: Sync {
    /// Keeps one batch of acknowledgements, each slice's whole or not at all, and before it what a sweep will have to look
    /// at; `batch` is a fresh random id, so that batches never overwrite each other.
    fn acknowledge(
        &self,
        batch: CommitId,
        acknowledgements: &[Acknowledgement],
    ) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// What is acknowledged of each of these runs, in their order.
    fn of_runs(
        &self,
        runs: &[RunId],
    ) -> impl Future<Output = Result<Vec<RunAcknowledged>, AcknowledgementError>> + Send;
}

impl AcknowledgementStore for Acknowledgements {
    async fn acknowledge(&self, batch: CommitId, acknowledgements: &[Acknowledgement]) -> Result<(), AwsError> {
        self.put(batch, acknowledgements).await.map(drop)
    }

    async fn of_runs(&self, runs: &[RunId]) -> Result<Vec<RunAcknowledged>, AcknowledgementError> {
        stream::iter(runs.to_vec()).map(|run| self.of_run(run)).buffered(LOOK_UPS_AT_ONCE).try_collect().await
    }
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

    /// Writes one batch of acknowledgements, and before it what a sweep will have to look at; `batch` is a fresh random id, so
    /// that batches never overwrite each other.
    pub async fn put(&self, batch: CommitId, acknowledgements: &[Acknowledgement]) -> Result<u64, AwsError> {
        let units = self.mark(batch, acknowledgements).await?;
        let items = items(batch, acknowledgements, ITEM_BYTES_MAX);
        Ok(units + dynamodb::batch_put(&self.client, &self.table, items, self.random).await?)
    }

    /// What is acknowledged of a run.
    pub async fn of_run(&self, run: RunId) -> Result<RunAcknowledged, AcknowledgementError> {
        let key = ("run", AttributeValue::B(Blob::new(run.as_bytes().as_slice())));
        let items = dynamodb::query_all(&self.client, &self.table, key).await?;
        collect(run, &items)
    }

    /// The partitions that any acknowledgement names, each with the highest version. Reads all of them: to check, not to work.
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
                if unswept::is_marker(&item) {
                    continue;
                }
                let run = dynamodb::bytes(&item, "run")?.try_into().map_err(|_| ItemError { attribute: "run" })?;
                // A slice of which parts are missing is not acknowledged, but what it names was written.
                for part in read_item(RunId::from_bytes(run), &item)?.1 {
                    for (partition, version) in part.said.through {
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

/// What an item says of a slice: all, or one part of it.
struct Part {
    said: Acknowledgement,
    /// How many parts, in as many items of the batch, say all.
    parts: u32,
}

impl RunAcknowledged {
    /// Whether this was said of the slice before: of a redelivery that found everything known.
    pub fn says(&self, said: &Acknowledgement) -> bool {
        let before = self.slices.get(&said.slice.number);
        before.is_some_and(|before| (before.tally, before.parked) == (said.tally, said.parked))
    }
}

impl Acknowledgement {
    /// Takes in what the same batch says of the slice elsewhere.
    fn merge(&mut self, other: Self) {
        self.units = self.units.saturating_add(other.units);
        self.through.extend(other.through);
        self.through.sort_unstable();
        self.through.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                // Sorted: the later of the same partition has the higher version.
                kept.1 = later.1;
            }
            is_same
        });
    }

    /// Parts that fit an item each. The cost is with the first.
    fn parts(&self, item_bytes_max: usize) -> Vec<Part> {
        let mut throughs = cut(&self.through, item_bytes_max.saturating_sub(SLICE_BYTES_MAX), through_bytes_max);
        if throughs.is_empty() {
            throughs.push(&[]);
        }
        let parts = u32::try_from(throughs.len()).expect("a slice has far fewer identities");
        let part = |(position, through): (usize, &[_])| {
            let units = if position == 0 { self.units } else { 0 };
            Part { said: Self { units, through: through.to_vec(), ..*self }, parts }
        };
        throughs.into_iter().enumerate().map(part).collect()
    }
}

fn through_bytes_max((partition, _): &(Partition, u64)) -> usize {
    partition.to_string().len() + 12
}

/// Cuts a list where its elements would take more than `bytes_max` together.
fn cut<T>(mut rest: &[T], bytes_max: usize, element_bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|element| {
            bytes += element_bytes(element);
            bytes <= bytes_max
        });
        let (piece, later) = rest.split_at(fitting.count().max(1));
        pieces.push(piece);
        rest = later;
    }
    pieces
}

/// What a batch of acknowledgements is written as: items of one run each and of at most `item_bytes_max`, except for one that
/// cannot be smaller. They are not written as one: any of them may land while others do not.
pub fn items(batch: CommitId, acknowledgements: &[Acknowledgement], item_bytes_max: usize) -> Vec<Item> {
    let mut by_run = BTreeMap::<RunId, BTreeMap<u32, Acknowledgement>>::new();
    for said in acknowledgements {
        match by_run.entry(said.slice.run).or_default().entry(said.slice.number) {
            // Delivered twice in one batch.
            Entry::Occupied(mut merged) => merged.get_mut().merge(said.clone()),
            Entry::Vacant(place) => {
                place.insert(said.clone());
            }
        }
    }
    let mut items = Vec::new();
    for (run, slices) in by_run {
        let parts: Vec<Part> = slices.values().flat_map(|said| said.parts(item_bytes_max)).collect();
        let bytes_max = |part: &Part| SLICE_BYTES_MAX + part.said.through.iter().map(through_bytes_max).sum::<usize>();
        for (number, piece) in (0..).zip(cut(&parts, item_bytes_max, bytes_max)) {
            items.push(item(run, batch, number, piece));
        }
    }
    items
}

fn item(run: RunId, batch: CommitId, number: u32, parts: &[Part]) -> Item {
    let mut key = batch.0.to_vec();
    key.extend(number.to_be_bytes());
    Item::from([
        ("run".to_owned(), AttributeValue::B(Blob::new(run.as_bytes().as_slice()))),
        ("batch".to_owned(), AttributeValue::B(Blob::new(key))),
        ("slices".to_owned(), AttributeValue::L(parts.iter().map(slice_item).collect())),
    ])
}

fn slice_item(Part { said, parts }: &Part) -> AttributeValue {
    let number = |value: u64| AttributeValue::N(value.to_string());
    let mut members = Item::from([
        ("n".to_owned(), number(said.slice.number.into())),
        ("c".to_owned(), number(said.tally.counted)),
        ("d".to_owned(), number(said.tally.duplicates)),
        ("p".to_owned(), number(said.parked)),
        ("u".to_owned(), number(said.units)),
        ("t".to_owned(), through_item(&said.through)),
    ]);
    if 1 < *parts {
        members.insert("of".to_owned(), number((*parts).into()));
    }
    for (name, count) in [("bs", said.tally.beside.stated), ("bk", said.tally.beside.known)] {
        // Nearly no slice has any.
        if 0 < count {
            members.insert(name.to_owned(), number(count));
        }
    }
    AttributeValue::M(members)
}

/// Which batch an item is of, and what it says.
fn read_item(run: RunId, item: &Item) -> Result<(CommitId, Vec<Part>), ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let batch = *dynamodb::bytes(item, "batch")?.first_chunk().ok_or(wrong("batch"))?;
    let slices = item.get("slices").and_then(|value| value.as_l().ok()).ok_or(wrong("slices"))?;
    let parts = slices.iter().map(|slice| read_slice(run, slice.as_m().map_err(|_| wrong("slices"))?));
    Ok((CommitId(batch), parts.collect::<Result<_, _>>()?))
}

fn read_slice(run: RunId, slice: &Item) -> Result<Part, ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let small = |attribute| u32::try_from(dynamodb::number(slice, attribute)?).map_err(|_| wrong(attribute));
    let optional = |name| if slice.contains_key(name) { dynamodb::number(slice, name) } else { Ok(0) };
    let through = read_through(slice)?;
    let said = Acknowledgement {
        slice: SliceId { run, number: small("n")? },
        tally: Tally {
            counted: dynamodb::number(slice, "c")?,
            duplicates: dynamodb::number(slice, "d")?,
            beside: Beside { stated: optional("bs")?, known: optional("bk")? },
        },
        parked: dynamodb::number(slice, "p")?,
        units: dynamodb::number(slice, "u")?,
        through,
    };
    let parts = if slice.contains_key("of") { small("of")? } else { 1 };
    Ok(Part { said, parts })
}

/// The partitions under `t`, sorted.
fn read_through(item: &Item) -> Result<Vec<(Partition, u64)>, ItemError> {
    let wrong = || ItemError { attribute: "t" };
    let through = item.get("t").and_then(|value| value.as_m().ok()).ok_or_else(wrong)?;
    let through = through.iter().map(|(name, version)| {
        let partition = Partition::parse(name).map_err(|_| wrong())?;
        let version = version.as_n().ok().and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
        Ok((partition, version))
    });
    let mut through = through.collect::<Result<Vec<_>, ItemError>>()?;
    through.sort_unstable();
    Ok(through)
}

fn through_item(through: &[(Partition, u64)]) -> AttributeValue {
    let number = |version: &u64| AttributeValue::N(version.to_string());
    AttributeValue::M(through.iter().map(|(partition, version)| (partition.to_string(), number(version))).collect())
}

/// What a run's items say, in whatever order and of whichever batches they are.
pub fn collect(run: RunId, items: &[Item]) -> Result<RunAcknowledged, AcknowledgementError> {
    let mut found = RunAcknowledged::default();
    let mut deliveries = BTreeMap::<(u32, [u8; 16]), Vec<Part>>::new();
    for item in items {
        found.units += dynamodb::item_units(item);
        let (batch, parts) = read_item(run, item)?;
        for part in parts {
            deliveries.entry((part.said.slice.number, batch.0)).or_default().push(part);
        }
    }
    for ((number, _), parts) in deliveries {
        // A batch is not written as one: a slice of which a part is missing will be acknowledged again.
        if parts.iter().any(|part| parts.len() < part.parts as usize) {
            continue;
        }
        let merged = parts.into_iter().map(|part| part.said).reduce(|mut all, part| {
            all.merge(part);
            all
        });
        let Some(acknowledgement) = merged else { continue };
        // Once counted, a slice is counted, even if its partition parked it before or since: what is parked of facts beside
        // records is in no number but what their tally lacks. Of several deliveries the one that wrote entries has the
        // cost; their tallies are equal.
        let weight = |one: &Acknowledgement| (one.parked == 0, one.tally.all(), one.units);
        match found.slices.entry(number) {
            Entry::Occupied(mut kept) if weight(kept.get()) < weight(&acknowledgement) => {
                kept.insert(acknowledgement);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(acknowledgement);
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
            tally: Tally {
                counted: u64::MAX,
                duplicates: u64::MAX,
                beside: Beside { stated: u64::MAX, known: u64::MAX },
            },
            parked: 0,
            units: u64::MAX >> 1,
            through: (0..partitions).map(|child| (partition(child), u64::MAX)).collect(),
        }
    }

    #[test]
    fn items_stay_below_the_limit_however_many_partitions_a_slice_went_through() {
        for (slices, partitions) in [(1, 0), (10_000, 1), (1_000, 17), (300, 273), (3, 5_000), (2, 30_000)] {
            let all: Vec<_> = (0..slices).map(|number| acknowledgement(number, partitions)).collect();
            let items = items(CommitId([2; 16]), &all, ITEM_BYTES_MAX);
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
        let tally = Tally { counted: 9, ..Tally::default() };
        let counted = Acknowledgement { units: 0, tally, ..acknowledgement(0, 1) };
        let costly = Acknowledgement { units: 5, tally, ..acknowledgement(0, 1) };
        let parked = Acknowledgement { parked: 9, units: 0, tally: Tally::default(), ..acknowledgement(0, 0) };
        let beside = |stated| Tally { beside: Beside { stated, known: 0 }, ..Tally::default() };
        let stated = Acknowledgement { units: 0, tally: beside(3), ..acknowledgement(0, 1) };
        let all_parked = Acknowledgement { units: 0, tally: beside(0), ..acknowledgement(0, 0) };
        let some_parked = Acknowledgement { units: 7, tally: beside(2), ..acknowledgement(0, 0) };
        for (said, expected) in [
            ([&all_parked, &stated], &stated),
            ([&stated, &all_parked], &stated),
            ([&some_parked, &stated], &stated),
            ([&counted, &parked], &counted),
            ([&parked, &counted], &counted),
            ([&counted, &costly], &costly),
            ([&costly, &counted], &costly),
            ([&parked, &parked], &parked),
        ] {
            let items: Vec<Item> = (0..)
                .zip(said)
                .flat_map(|(batch, one)| items(CommitId([batch; 16]), std::slice::from_ref(one), ITEM_BYTES_MAX))
                .collect();
            assert_eq!(collect(expected.slice.run, &items).unwrap().slices[&0], *expected, "{said:?}");
        }
    }

    #[test]
    fn a_slice_spread_over_items_is_acknowledged_once_all_of_them_are_there() {
        let large = acknowledgement(0, 30_000);
        let whole = items(CommitId([2; 16]), &[large.clone(), acknowledgement(1, 1)], ITEM_BYTES_MAX);
        assert!(2 < whole.len());
        let run = large.slice.run;
        for missing in 0..whole.len() {
            let mut rest = whole.clone();
            rest.remove(missing);
            assert!(!collect(run, &rest).unwrap().slices.contains_key(&0), "item {missing} is missing");
            // The next delivery of the same batch makes no whole of two halves.
            let mut again = items(CommitId([3; 16]), std::slice::from_ref(&large), ITEM_BYTES_MAX);
            again.truncate(1);
            rest.extend(again);
            assert!(!collect(run, &rest).unwrap().slices.contains_key(&0), "item {missing} is of another delivery");
        }
    }

    #[test]
    fn a_slice_delivered_twice_in_one_batch_costs_what_both_cost() {
        let partition = |name| Partition::parse(name).unwrap();
        let (root, child) = (partition("07/2026-10-01T13"), partition("07/2026-10-01T13/a"));
        let first = Acknowledgement { units: 5, through: vec![(root.clone(), 3)], ..acknowledgement(0, 0) };
        let second =
            Acknowledgement { units: 2, through: vec![(child.clone(), 1), (root.clone(), 4)], ..first.clone() };
        let expected = Acknowledgement { units: 7, through: vec![(root, 4), (child, 1)], ..first.clone() };
        let items = items(CommitId([2; 16]), &[first, second], ITEM_BYTES_MAX);
        assert_eq!(collect(expected.slice.run, &items).unwrap().slices[&0], expected);
    }
}
