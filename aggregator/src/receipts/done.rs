//! Whether an object is counted: a run that read it to its end, with all its slices acknowledged and rolled up.

use ingest::RunId;
use ingest::manifest::{Manifest, ManifestError, Manifests};
use thiserror::Error;

use crate::acknowledgement::{AcknowledgementError, Acknowledgements, RunAcknowledged};
use crate::usage_rows::{DatabaseError, UsageRows};

/// Why it could not be found out. Retry if passing.
#[derive(Debug, Error)]
pub enum ReceiptError {
    /// Manifests could not be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Acknowledgements could not be read.
    #[error(transparent)]
    Acknowledgement(#[from] AcknowledgementError),
    /// Cursors could not be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Where it is written what was read, counted and rolled up.
#[derive(Clone, Debug)]
pub struct Receipts {
    /// What was read.
    pub manifests: Manifests,
    /// What was counted.
    pub acknowledgements: Acknowledgements,
    /// What was rolled up.
    pub rows: UsageRows,
}

/// Whether every slice of a run is acknowledged: its counts are final.
pub fn is_acknowledged(manifest: &Manifest, acknowledged: &RunAcknowledged) -> bool {
    (0..manifest.slices).all(|number| acknowledged.slices.contains_key(&number))
}

impl Receipts {
    /// The run by which an object of this file name and content is done, if it is.
    pub async fn done_by(&self, file_name: &str, content_sha256: &[u8; 32]) -> Result<Option<RunId>, ReceiptError> {
        for manifest in self.manifests.of_file_name(file_name).await? {
            if manifest.content_sha256.as_ref() == Some(content_sha256) && self.is_done(&manifest).await? {
                return Ok(Some(manifest.run));
            }
        }
        Ok(None)
    }

    /// Whether everything that a run sent is acknowledged and rolled up.
    pub async fn is_done(&self, manifest: &Manifest) -> Result<bool, ReceiptError> {
        let acknowledged = self.acknowledgements.of_run(manifest.run).await?;
        if !is_acknowledged(manifest, &acknowledged) {
            return Ok(false);
        }
        let through = acknowledged.slices.values().flat_map(|slice| &slice.through);
        let through: Vec<(String, u64)> = through.map(|(partition, at)| (partition.to_string(), *at)).collect();
        let names: Vec<String> = through.iter().map(|(name, _)| name.clone()).collect();
        let cursors = self.rows.cursors(&names).await?;
        Ok(through.iter().all(|(name, version)| *version <= cursors.get(name).copied().unwrap_or_default()))
    }
}
