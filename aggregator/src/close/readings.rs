//! What was read of a period, and what of it is not counted yet.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt, stream};
use ingest::manifest::{Manifest, ObjectVersion};
use ingest::{RunId, SliceId};

use super::evidence::ObjectEvidence;
use super::period::Period;
use crate::receipts::{ReceiptError, Receipts};

/// How often a slice may have been set aside and sent again before its source object is no longer looked for.
const SENT_AGAIN_MAX: usize = 64;
/// Objects looked up at once.
const LOOK_UPS_AT_ONCE: usize = 32;

/// The readings that a period's usage may come from.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// What each run read.
    pub(super) objects: HashMap<RunId, ObjectEvidence>,
    /// Objects that were read to their end by runs of which none is counted and rolled up.
    pub(super) not_counted: Vec<String>,
}

impl Readings {
    /// Looks at every reading whose usage touches the period.
    pub(super) async fn of(receipts: &Receipts, period: Period) -> Result<Self, ReceiptError> {
        let mut manifests = Vec::new();
        receipts
            .manifests
            .scan(|manifest| {
                if touches(&manifest, period) {
                    manifests.push(manifest);
                }
            })
            .await?;
        let mut by_object = BTreeMap::<ObjectVersion, Vec<Manifest>>::new();
        let mut readings = Self::default();
        for manifest in manifests {
            let evidence = ObjectEvidence {
                name: manifest.object.name.clone(),
                sha256: manifest.object.sha256,
                content_sha256: manifest.content_sha256,
                read: manifest.read,
                event_times: manifest.event_times,
            };
            readings.objects.insert(manifest.run, evidence);
            by_object.entry(manifest.object.clone()).or_default().push(manifest);
        }
        readings.name_sources();
        let looked_at: Vec<(ObjectVersion, bool)> = stream::iter(by_object)
            .map(|(object, manifests)| async move {
                for manifest in &manifests {
                    if receipts.is_done(manifest).await? {
                        return Ok::<_, ReceiptError>((object, true));
                    }
                }
                Ok((object, false))
            })
            .buffered(LOOK_UPS_AT_ONCE)
            .try_collect()
            .await?;
        let open = looked_at.into_iter().filter(|(_, is_done)| !is_done);
        readings.not_counted = open.map(|(object, _)| object.name).collect();
        Ok(readings)
    }

    /// The name of the source object behind a name: of a slice that was set aside it is what its run read.
    pub(super) fn source_of<'a>(&'a self, name: &'a str) -> &'a str {
        self.source(name).map_or(name, |object| object.name.as_str())
    }

    /// What was read first of what a slice's name stands for; `None`: it is an object's, or nothing is known of its run.
    fn source(&self, name: &str) -> Option<&ObjectEvidence> {
        let of_slice = |name: &str| self.objects.get(&SliceId::of_letter_name(name)?.run);
        let mut source = of_slice(name);
        for _ in 0..SENT_AGAIN_MAX {
            match source.and_then(|object| of_slice(&object.name)) {
                None => break,
                earlier => source = earlier,
            }
        }
        source
    }

    /// A run that sent a slice again is of the object that the slice is from.
    fn name_sources(&mut self) {
        let sent_again =
            self.objects.iter().filter_map(|(run, object)| Some((*run, self.source(&object.name)?.clone())));
        let sent_again: Vec<(RunId, ObjectEvidence)> = sent_again.collect();
        self.objects.extend(sent_again);
    }
}

/// Whether a reading sent usage that may be of the period; one that does not say when may be of any.
fn touches(manifest: &Manifest, period: Period) -> bool {
    let in_period = manifest.event_times.is_none_or(|(first, last)| first < period.end() && period.start() <= last);
    0 < manifest.slices && in_period
}
