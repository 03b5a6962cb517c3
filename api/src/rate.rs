//! Buckets of tries and requests: so many at once, and then one every so often (the generic cell rate algorithm).

mod customers;
mod lease;
#[cfg(test)]
mod lease_tests;
mod shared;

use std::sync::{Mutex, PoisonError};

pub(crate) use customers::{CustomerRates, Refused};
pub use shared::LEASE_WAIT_MS_MAX;
pub(crate) use shared::SharedBuckets;

/// Requests of one customer in a minute; all of them may come at once.
pub const REQUESTS_PER_MINUTE: u32 = 1_000;

/// One customer's requests.
pub(crate) const PER_CUSTOMER: Rate =
    Rate { burst: REQUESTS_PER_MINUTE as i64, micros_each: 60_000_000 / REQUESTS_PER_MINUTE as i64 };

/// How much, how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// So many at once.
    pub(crate) burst: i64,
    /// One more after each.
    pub(crate) micros_each: i64,
}

impl Rate {
    /// What a bucket gives now that is full at this time.
    pub(crate) fn free(self, full_at: i64, now: i64) -> i64 {
        (now + self.burst * self.micros_each - full_at).div_euclid(self.micros_each).clamp(0, self.burst)
    }
}

/// What is left in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Requests that may come now.
    pub(crate) remaining: i64,
    /// Seconds until the bucket is full.
    pub(crate) full_in_secs: i64,
}

/// A bucket, as the time at which it is full again.
#[derive(Debug)]
pub(crate) struct Bucket(Mutex<i64>);

impl Bucket {
    pub(crate) fn full() -> Self {
        Self(Mutex::new(i64::MIN / 2))
    }

    /// Takes one, or says after how many microseconds there is one.
    pub(crate) fn take(&self, rate: Rate, now: i64) -> Result<Left, i64> {
        let mut full_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (*full_at).max(now) + rate.micros_each;
        let earliest = after - rate.burst * rate.micros_each;
        if earliest > now {
            return Err(earliest - now);
        }
        *full_at = after;
        // Both are positive: the bucket is full in the future once something was taken.
        let until_full = after - now;
        let used = (until_full + rate.micros_each - 1) / rate.micros_each;
        Ok(Left { remaining: rate.burst - used, full_in_secs: (until_full + 999_999) / 1_000_000 })
    }

    /// Seconds until it is full.
    pub(crate) fn full_in_secs(&self, now: i64) -> i64 {
        let full_at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (full_at.max(now) - now + 999_999) / 1_000_000
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, rate: Rate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= rate.micros_each;
    }
}

/// Whole seconds, at least one.
pub(crate) fn whole_seconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default().div_ceil(1_000_000).max(1)
}
