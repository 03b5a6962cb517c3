//! From the digest files that ingest keeps to proofs.

use ingest::digest::{Chain, Link, PublicKeys, SeenDigest, SignatureCheck, Stretch};
use ingest::expectations::{ExpectationError, Expectations};
use ingest::{Meter, Timestamp};
use thiserror::Error;

use super::proof::{ExpectedObject, Previous, Proof};
use super::proofs::{Proofs, RecordError};

/// Proofs recorded in one transaction.
const TOGETHER: usize = 64;

/// Why digests were not taken over. What was recorded before stays; the same call again does the rest.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The digests could not be read.
    #[error(transparent)]
    Read(#[from] ExpectationError),
    /// They could not be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Records every trusted digest whose period ends in a stretch, of every source; returns how many were new.
///
/// One that was altered, or whose signature is not the service's, proves nothing: its hour stays missing.
pub async fn import_digests(
    digests: &Expectations,
    proofs: &Proofs,
    keys: &PublicKeys,
    stretch: Stretch,
    now: Timestamp,
) -> Result<usize, ImportError> {
    let mut new = 0;
    for source in digests.sources().await? {
        let seen = digests.of_source(&source, stretch).await?;
        let checked = Chain::of(&seen, keys).checked;
        let mut trusted = Vec::new();
        for (seen, (link, signature)) in seen.iter().zip(checked) {
            if link == Link::Altered {
                tracing::error!(name = seen.digest.object.key, ?signature, "a digest was altered; it proves nothing");
            } else {
                trusted.push(proof(seen, signature == SignatureCheck::Valid));
            }
        }
        for together in trusted.chunks(TOGETHER) {
            new += proofs.record(together, now).await?;
        }
    }
    Ok(new)
}

fn proof(seen: &SeenDigest, is_signature_checked: bool) -> Proof {
    let digest = &seen.digest;
    let name = |object: &ingest::digest::ObjectName| format!("s3://{}/{}", object.bucket, object.key);
    let previous = digest
        .previous
        .as_ref()
        .map(|previous| Previous { name: name(&previous.object), content_sha256: previous.sha256 });
    let objects = digest.log_objects.iter().map(|log| ExpectedObject {
        name: name(&log.object),
        content_sha256: log.sha256,
        event_times: None,
    });
    Proof {
        meter: Meter::CloudTrailEvents,
        account: digest.source.account,
        lane: format!("{}/{}", digest.source.region, digest.source.trail),
        name: name(&digest.object),
        content_sha256: seen.content_sha256,
        covers: (digest.start, digest.end),
        is_backfill: digest.is_backfill,
        previous,
        is_signature_checked,
        objects: objects.collect(),
        usage: Vec::new(),
    }
}
