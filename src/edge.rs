//! The clock and the dice: read here, passed on as values.

use aggregator::entry::CommitId;
use anyhow::Context;
use ingest::{RunId, Timestamp};
use rand::TryRngCore as _;
use rand::rngs::OsRng;

#[expect(clippy::disallowed_methods, reason = "the one place where the program reads the calendar")]
pub(crate) fn now() -> Timestamp {
    Timestamp::from(chrono::Utc::now())
}

/// Who runs the program, for the audit trail.
pub(crate) fn operator() -> String {
    let named = ["SECUREBASE_OPERATOR", "USER"].into_iter().find_map(|name| std::env::var(name).ok());
    format!("operator:{}", named.filter(|name| !name.is_empty()).as_deref().unwrap_or("unknown"))
}

/// A monotonic instant, for rates and waits.
#[expect(clippy::disallowed_methods, reason = "the one place where the program reads the stopwatch")]
pub(crate) fn stopwatch() -> std::time::Instant {
    std::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the one place where the program throws dice")]
pub(crate) fn random() -> u64 {
    rand::random()
}

pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// Bytes for a secret, from the operating system.
pub(crate) fn secret_bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).context("the operating system gives no random bytes")?;
    Ok(bytes)
}

pub(crate) fn commit_id() -> CommitId {
    CommitId(random_bytes())
}

pub(crate) fn run_id() -> RunId {
    RunId::from_bytes(random_bytes())
}
