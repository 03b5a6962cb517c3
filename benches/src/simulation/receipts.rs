//! Acknowledgements, dead letters and manifests that fail.

use std::sync::Arc;

use aggregator::acknowledgement::{
    Acknowledgement, AcknowledgementError, AcknowledgementStore, RunAcknowledged, Unswept, collect, items, markers,
};
use aggregator::aggregator::DeadLetterStore;
use aggregator::entry::CommitId;
use ingest::RunId;
use ingest::aws::{AwsError, AwsErrorKind};
use ingest::dead_letter::DeadLetter;
use ingest::dynamodb::{self, Item};
use ingest::manifest::Manifest;

use super::fault::{Fault, Sabotage};
use super::source::Object;
use super::world::{Letter, Marker, State, World, failure, step};

/// Acknowledgements as a process writes them.
pub(super) struct Acknowledgements(pub(super) Arc<World>);

/// Dead letters as a process writes them.
pub(super) struct Letters(pub(super) Arc<World>);

impl AcknowledgementStore for Acknowledgements {
    async fn acknowledge(&self, batch: CommitId, said: &[Acknowledgement]) -> Result<(), AwsError> {
        step().await;
        let (first, then) = {
            let mut state = self.0.lock();
            let bytes_max = state.item_bytes_max;
            let is_in_parts = |one| 1 < items(batch, std::slice::from_ref(one), bytes_max).len();
            if said.iter().any(is_in_parts) {
                state.meet("slice in parts");
            }
            let (markers, items) = (markers(batch, said, bytes_max), items(batch, said, bytes_max));
            if state.is(Sabotage::MarkersLast) { (items, markers) } else { (markers, items) }
        };
        self.write(first).await?;
        self.write(then).await
    }

    async fn of_runs(&self, runs: &[RunId]) -> Result<Vec<RunAcknowledged>, AcknowledgementError> {
        let mut found = Vec::new();
        // Each is a read of its own, and others write between them.
        for run in runs {
            step().await;
            let mut state = self.0.lock();
            if state.strikes(Fault::Throttled, 4) {
                return Err(failure("Query", AwsErrorKind::Throttled).into());
            }
            if state.acknowledged.contains_key(run) {
                state.meet("redelivery");
            }
            found.push(state.acknowledged.get(run).cloned().unwrap_or_default());
        }
        Ok(found)
    }
}

impl Acknowledgements {
    /// Puts items as a batch write does: each by itself and in any order, so that some are there and others are not.
    async fn write(&self, mut items: Vec<Item>) -> Result<(), AwsError> {
        let mut is_heard = true;
        while !items.is_empty() {
            step().await;
            let mut state = self.0.lock();
            let which = usize::try_from(state.draws.below(items.len() as u64)).unwrap_or(0);
            if state.strikes(Fault::Throttled, 3) {
                // What is left over is given up after the last try.
                is_heard = false;
                break;
            }
            let item = items.swap_remove(which);
            if state.strikes(Fault::WriteLost, 4) {
                is_heard = false;
            } else if state.strikes(Fault::WriteLate, 2) {
                state.late_items.push(item);
                is_heard = false;
            } else {
                state.keep(item);
                is_heard &= !state.strikes(Fault::AnswerLost, 3);
            }
        }
        step().await;
        if is_heard || self.0.lock().is(Sabotage::LeftOversDropped) {
            Ok(())
        } else {
            Err(failure("BatchWriteItem", AwsErrorKind::Unreachable))
        }
    }
}

impl DeadLetterStore for Letters {
    async fn set_aside(&self, letters: &[DeadLetter]) -> Result<(), AwsError> {
        for letter in letters {
            step().await;
            let mut state = self.0.lock();
            if state.strikes(Fault::Throttled, 4) {
                return Err(failure("PutItem", AwsErrorKind::Throttled));
            }
            if state.is(Sabotage::PoisonDropped) && letter.object.starts_with("stream:") {
                continue;
            }
            let id = letter.id();
            state.say(|| format!("dead letter {id}: {}", letter.reason.as_str()));
            let (object, bytes) = (letter.object.clone(), letter.bytes.clone());
            let kept = Letter { reason: letter.reason, object, bytes, is_open: true };
            state.letters.entry(id).or_insert(kept);
        }
        step().await;
        Ok(())
    }
}

impl State {
    /// A marker, or an item of acknowledgements, is written. What was said of a slice before must still be true.
    pub(super) fn keep(&mut self, item: Item) {
        let key = dynamodb::bytes(&item, "batch").expect("every item has a key").to_vec();
        // Markers stand under a key that no run has.
        let Ok(run) = dynamodb::bytes(&item, "run").expect("every item has a key").try_into() else {
            let named = Unswept::of_markers([&item]).expect("a marker as it is written").partitions;
            let names = named.into_iter().map(|(partition, version)| (partition.to_string(), version)).collect();
            self.markers.insert(key, Marker { item, names });
            return;
        };
        let run = RunId::from_bytes(run);
        let of_run = self.receipts.entry(run).or_default();
        of_run.push(item);
        let found = match collect(run, of_run) {
            Ok(found) => found,
            Err(error) => return self.ensure(false, || format!("run {run}: {error}")),
        };
        let before = self.acknowledged.insert(run, found.clone()).unwrap_or_default();
        for (number, said) in &before.slices {
            let now = found.slices.get(number).map(|now| now.tally);
            self.ensure(now == Some(said.tally), || {
                format!("slice {run}/{number} was {:?} and is {now:?}", said.tally)
            });
        }
        for (number, said) in found.slices.iter().filter(|(number, _)| !before.slices.contains_key(number)) {
            self.say(|| format!("slice {run}/{number} is acknowledged: {:?}", said.tally));
            self.ensure(said.parked == 0, || format!("slice {run}/{number} is parked"));
            for (partition, version) in &said.through {
                let highest = self.owed.entry(partition.to_string()).or_default();
                *highest = (*version).max(*highest);
            }
        }
        self.check_markers();
        if let Some(manifest) = self.manifests.iter().find(|manifest| manifest.run == run).cloned() {
            self.check_receipt(&manifest);
        }
    }

    /// What is acknowledged is rolled up, or a sweep will look at it.
    pub(super) fn check_markers(&mut self) {
        let cursors = &self.cursors;
        self.owed.retain(|name, version| cursors.get(name).copied().unwrap_or_default() < *version);
        let is_named = |(name, version): (&String, &u64)| {
            self.markers.values().any(|marker| marker.names.get(name).is_some_and(|named| version <= named))
        };
        let forgotten = self.owed.iter().find(|owed| !is_named(*owed)).map(|(name, version)| (name.clone(), *version));
        self.ensure(forgotten.is_none(), || format!("no sweep will roll up {forgotten:?}"));
    }

    pub(super) fn keep_late(&mut self) {
        let which = usize::try_from(self.draws.below(self.late_items.len() as u64)).unwrap_or(0);
        let item = self.late_items.swap_remove(which);
        self.say(|| "a late acknowledgement lands".to_owned());
        self.keep(item);
    }

    /// Whether an object needs no reading any more.
    pub(super) fn is_done(&self, object: &Object) -> bool {
        self.readings(object).any(|manifest| self.is_acknowledged(manifest))
    }

    /// Readings of an object to its end. A record of it that is replayed has its name, and is not it.
    pub(super) fn readings(&self, object: &Object) -> impl Iterator<Item = &Manifest> {
        let is_by_name = self.is(Sabotage::NameIsDone);
        let is_of = move |manifest: &&Manifest| {
            manifest.object.name == object.name && (is_by_name || manifest.object.sha256 == object.sha256)
        };
        self.manifests.iter().filter(is_of)
    }

    pub(super) fn is_acknowledged(&self, manifest: &Manifest) -> bool {
        if self.is(Sabotage::ManifestIsDone) {
            return true;
        }
        let none = RunAcknowledged::default();
        let acknowledged = self.acknowledged.get(&manifest.run).unwrap_or(&none);
        aggregator::receipts::is_acknowledged(manifest, acknowledged)
    }
}
