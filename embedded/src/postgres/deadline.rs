//! The end of a wait for another process.

use std::time::{Duration, Instant};

/// An instant after which a wait is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

#[expect(clippy::disallowed_methods, reason = "an adapter that waits for processes measures how long")]
impl Deadline {
    pub(super) fn after(longest: Duration) -> Self {
        Self(Instant::now() + longest)
    }

    pub(super) fn has_passed(self) -> bool {
        self.0 <= Instant::now()
    }
}
