//! How long to wait before trying again.

use std::time::Duration;

/// Exponential backoff with full jitter: a wait is uniform between zero and a ceiling that doubles.
///
/// Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first ceiling.
    pub base: Duration,
    /// The highest ceiling.
    pub cap: Duration,
    /// Tries before giving up, the first included.
    pub tries_max: u32,
}

impl Backoff {
    /// The wait after try number `tries` (from 1) has failed; `None` once there is no next try. `random` is uniform.
    pub fn wait(&self, tries: u32, random: u64) -> Option<Duration> {
        if self.tries_max <= tries {
            return None;
        }
        let ceiling = self.base.saturating_mul(1 << (tries - 1).min(20)).min(self.cap);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Some(Duration::from_nanos(((u128::from(random) * u128::from(nanos)) >> 64) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap_and_tries_end() {
        let backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_millis(300), tries_max: 5 };
        let ceilings: Vec<_> = (1..6).map(|tries| backoff.wait(tries, u64::MAX).map(|wait| wait.as_millis())).collect();
        assert_eq!(ceilings, [Some(49), Some(99), Some(199), Some(299), None]);
        assert_eq!(backoff.wait(1, 0), Some(Duration::ZERO));
    }
}
