//! What was set aside, as a close looks at it and its evidence says it.

use std::collections::HashMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ingest::dead_letter::{DeadLetterError, DeadLetterHead, DeadLetters};
use ingest::{Reason, Window, stream_format};

/// Letters loaded at once.
const LOADS_AT_ONCE: usize = 8;

/// Every dead letter there is.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// Oldest first.
    pub(super) heads: Vec<DeadLetterHead>,
    /// By name, what slices hold that are not counted.
    slices: HashMap<String, Holds>,
}

/// What a slice holds: how many events or facts, and of which hour or day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) events: u64,
    pub(super) window: Window,
}

impl Letters {
    /// Reads all heads, and of slices that are not counted what they hold.
    pub(super) async fn read(store: &DeadLetters) -> Result<Self, DeadLetterError> {
        let heads = store.heads().await?;
        let is_missing = |head: &&DeadLetterHead| {
            head.reason == Reason::PartitionUntrusted && (head.is_open() || head.dismissed.is_some())
        };
        let missing: Vec<String> = heads.iter().filter(is_missing).map(|head| head.id.clone()).collect();
        let loads = stream::iter(missing).map(|id| async move {
            let letter = store.load(&id).await?;
            let slices = letter.and_then(|letter| stream_format::decode(&letter.bytes).ok()).unwrap_or_default();
            let [slice] = slices.as_slice() else { return Ok(None) };
            Ok::<_, DeadLetterError>(Some((id, Holds { events: slice.parts() as u64, window: slice.window() })))
        });
        let found: Vec<Option<(String, Holds)>> = loads.buffered(LOADS_AT_ONCE).try_collect().await?;
        Ok(Self { heads, slices: found.into_iter().flatten().collect() })
    }

    /// What a slice holds that was set aside under this name and is not counted.
    pub(super) fn holds(&self, id: &str) -> Option<Holds> {
        self.slices.get(id).copied()
    }
}
