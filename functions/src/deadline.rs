//! Giving up before Lambda does.

use std::future::Future;
use std::time::Duration;

use ingest::Timestamp;
use thiserror::Error;

/// When an invocation must have answered. What Lambda ends instead of the function costs a cold start and everything that
/// was known, and says nothing of the records that were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    left: Duration,
}

/// The work was not done in time. Retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not done within {} ms", .0.as_millis())]
pub struct DeadlineExceeded(Duration);

impl Deadline {
    /// Kept for the answer and its way, in milliseconds.
    pub const MARGIN_MS: u64 = 500;

    /// The deadline of an invocation, as Lambda gives it in milliseconds since 1970.
    pub fn new(deadline_ms: u64, now: Timestamp) -> Self {
        let now_ms = u64::try_from(now.micros() / 1_000).unwrap_or_default();
        Self { left: Duration::from_millis(deadline_ms.saturating_sub(now_ms).saturating_sub(Self::MARGIN_MS)) }
    }

    /// Works for as long as there is time. What is dropped in the middle must be work that may end anywhere.
    pub async fn keep<T>(self, work: impl Future<Output = T>) -> Result<T, DeadlineExceeded> {
        tokio::time::timeout(self.left, work).await.map_err(|_| DeadlineExceeded(self.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_time_to_the_deadline_without_the_margin() {
        let now = Timestamp::parse_rfc3339("2026-11-22T08:00:00.250Z").unwrap();
        let now_ms = u64::try_from(now.micros() / 1_000).unwrap();
        for (deadline_ms, left) in [(now_ms + 60_000, 59_500), (now_ms + 500, 0), (now_ms, 0), (0, 0)] {
            assert_eq!(Deadline::new(deadline_ms, now).left, Duration::from_millis(left));
        }
    }
}
