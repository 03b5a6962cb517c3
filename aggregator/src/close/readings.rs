//! What was read of a period, and what of it is not counted yet.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt, stream};
use ingest::RunId;
use ingest::manifest::{Manifest, ObjectVersion};

use super::evidence::ObjectEvidence;
use super::period::Period;
use crate::receipts::{ReceiptError, Receipts};

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
}

/// Whether a reading sent usage that may be of the period; one that does not say when may be of any.
fn touches(manifest: &Manifest, period: Period) -> bool {
    let in_period = manifest.event_times.is_none_or(|(first, last)| first < period.end() && period.start() <= last);
    0 < manifest.slices && in_period
}
