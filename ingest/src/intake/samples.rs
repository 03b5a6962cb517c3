//! Usage samples that somebody waits for: taken in whole, each with its verdict.

use std::collections::BTreeMap;
use std::convert::Infallible;

use serde::Serialize;

use super::{Edge, IntakeError, IntakeRules, Sinks};
use crate::manifest::Manifest;
use crate::object::read_samples;
use crate::sample::SampleBatch;
use crate::{Reason, Rules, Run, Verdict};

/// Takes samples in.
#[derive(Clone, Debug)]
pub struct SampleIntake {
    sinks: Sinks,
    rules: IntakeRules,
    edge: Edge,
}

/// Samples that are on the stream, or kept with a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplesTaken {
    /// The receipt.
    pub manifest: Manifest,
    /// Those set aside, by their place in the batch: kept whole as dead letters.
    pub refused: Vec<(usize, Reason)>,
}

impl SampleIntake {
    /// Takes samples in by these rules.
    pub fn new(sinks: Sinks, rules: IntakeRules, edge: Edge) -> Self {
        Self { sinks, rules, edge }
    }

    /// Puts good samples on the stream and sets broken ones aside. Fails whole: the same batch again counts nothing twice.
    pub async fn take(&self, batch: &SampleBatch) -> Result<SamplesTaken, IntakeError> {
        let now = (self.edge.now)();
        let rules = Rules { now, declared: &self.rules.declared, meters: &self.rules.meters };
        let mut run = Run::new((self.edge.run_id)(), batch.name(), None, now);
        let mut refused = Vec::new();
        let read = read_samples(batch.events(), batch.body(), rules, |judged| {
            if let Verdict::DeadLetter(reason) = judged.verdict {
                refused.push((judged.number as usize, reason));
            }
            // A sample names no object to follow.
            run.take(judged, |_| Ok::<_, Infallible>(None))
        });
        let Ok(found) = read;
        let manifest = self.sinks.end(run.end(found)).await?;
        Ok(SamplesTaken { manifest, refused })
    }
}

/// What became of a batch, as its sender is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SampleReceipt {
    /// Samples read: the others together.
    pub read: u64,
    /// On their way to be counted; a sample that is known changes nothing.
    pub usage: u64,
    /// Understood and not counted, by kind: another source is declared for the meter.
    pub not_counted: BTreeMap<&'static str, u64>,
    /// Kept as dead letters, by reason.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Each of those; absent where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<RefusedSample>,
}

/// A sample that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedSample {
    /// Its place in the batch, from 0.
    pub number: usize,
    /// Its CloudEvents id.
    pub id: Option<String>,
    /// Why, as on the command line.
    pub reason: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

impl SamplesTaken {
    /// The receipt for the sender of this batch.
    pub fn receipt(&self, batch: &SampleBatch) -> SampleReceipt {
        let Manifest { read, not_counted, dead_letters, .. } = &self.manifest;
        let refused = self.refused.iter().map(|&(number, reason)| RefusedSample {
            number,
            id: batch.id(number),
            reason: reason.as_str(),
            advice: reason.advice(),
        });
        SampleReceipt {
            read: *read,
            usage: self.manifest.usage_events(),
            not_counted: not_counted.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            dead_letters: dead_letters.iter().map(|(reason, count)| (reason.as_str(), *count)).collect(),
            events: refused.collect(),
        }
    }
}
