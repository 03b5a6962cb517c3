//! Acknowledgements, dead letters and manifests that fail.

use std::sync::Arc;

use aggregator::acknowledgement::{Acknowledgement, AcknowledgementError, AcknowledgementStore, RunAcknowledged};
use aggregator::aggregator::DeadLetterStore;
use aggregator::entry::CommitId;
use ingest::RunId;
use ingest::aws::{AwsError, AwsErrorKind};
use ingest::dead_letter::DeadLetter;
use ingest::manifest::Manifest;

use super::fault::{Fault, Sabotage};
use super::world::{Letter, State, World, failure, step};

/// Acknowledgements as a process writes them.
pub(super) struct Acknowledgements(pub(super) Arc<World>);

/// Dead letters as a process writes them.
pub(super) struct Letters(pub(super) Arc<World>);

impl AcknowledgementStore for Acknowledgements {
    async fn acknowledge(&self, batch: CommitId, said: &[Acknowledgement]) -> Result<(), AwsError> {
        step().await;
        {
            let mut state = self.0.lock();
            if state.strikes(Fault::Throttled, 4) {
                return Err(failure("BatchWriteItem", AwsErrorKind::Throttled));
            }
            let through = said.iter().flat_map(|one| one.through.iter().cloned()).collect();
            state.markers.insert(batch.0, through);
        }
        // Markers and acknowledgements are writes of their own.
        step().await;
        {
            let mut state = self.0.lock();
            if state.strikes(Fault::WriteLost, 4) {
                return Err(failure("BatchWriteItem", AwsErrorKind::Unreachable));
            }
            for one in said {
                state.acknowledge(one);
            }
            if state.strikes(Fault::AnswerLost, 4) {
                return Err(failure("BatchWriteItem", AwsErrorKind::Unreachable));
            }
        }
        step().await;
        Ok(())
    }

    async fn of_runs(&self, runs: &[RunId]) -> Result<Vec<RunAcknowledged>, AcknowledgementError> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        step().await;
        let mut state = self.0.lock();
        if state.strikes(Fault::Throttled, 4) {
            return Err(failure("Query", AwsErrorKind::Throttled).into());
        }
        if runs.iter().any(|run| state.acknowledged.contains_key(run)) {
            state.meet("redelivery");
        }
        Ok(runs.iter().map(|run| state.acknowledged.get(run).cloned().unwrap_or_default()).collect())
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
            let kept = Letter { reason: letter.reason, object: letter.object.clone(), is_open: true };
            state.letters.entry(id).or_insert(kept);
        }
        step().await;
        Ok(())
    }
}

impl State {
    fn acknowledge(&mut self, said: &Acknowledgement) {
        let known = self.acknowledged.entry(said.slice.run).or_default();
        let before = known.slices.get(&said.slice.number).cloned();
        match before {
            None => {
                known.slices.insert(said.slice.number, said.clone());
                self.say(|| {
                    format!("slice {}/{} is acknowledged: {:?}", said.slice.run, said.slice.number, said.tally)
                });
            }
            Some(before) => {
                // Most redeliveries find this said, and say nothing.
                self.meet("redelivery");
                self.ensure(before.tally == said.tally, || {
                    format!("slice {:?} was {:?} and is {:?}", said.slice, before.tally, said.tally)
                });
            }
        }
        self.ensure(said.parked == 0, || format!("slice {:?} is parked", said.slice));
    }

    /// Whether an object of this name needs no reading any more.
    pub(super) fn is_done(&self, object: &str) -> bool {
        let of_object = self.manifests.iter().filter(|manifest| manifest.object.name == object);
        let mut of_object = of_object.filter(|manifest| self.is_acknowledged(manifest));
        of_object.next().is_some()
    }

    pub(super) fn is_acknowledged(&self, manifest: &Manifest) -> bool {
        if self.is(Sabotage::ManifestIsDone) {
            return true;
        }
        let none = aggregator::acknowledgement::RunAcknowledged::default();
        let acknowledged = self.acknowledged.get(&manifest.run).unwrap_or(&none);
        aggregator::receipts::is_acknowledged(manifest, acknowledged)
    }
}
