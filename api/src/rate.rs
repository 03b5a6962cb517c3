//! Buckets of tries and requests: so many at once, and then one every so often (the generic cell rate algorithm).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ingest::Timestamp;
use moka::sync::Cache;

/// Requests of one customer in a minute; all of them may come at once.
pub const REQUESTS_PER_MINUTE: u32 = 1_000;

/// One customer's requests.
pub(crate) const PER_CUSTOMER: Rate =
    Rate { burst: REQUESTS_PER_MINUTE as i64, micros_each: 60_000_000 / REQUESTS_PER_MINUTE as i64 };

/// Customers whose buckets are remembered; one that is forgotten is full.
const REMEMBERED_MAX: u64 = 100_000;

/// How much, how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// So many at once.
    pub(crate) burst: i64,
    /// One more after each.
    pub(crate) micros_each: i64,
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

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, rate: Rate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= rate.micros_each;
    }
}

/// Whole seconds, at least one.
pub(crate) fn whole_seconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default().div_ceil(1_000_000).max(1)
}

/// The buckets of all customers in this process.
#[derive(Clone, Debug)]
pub(crate) struct CustomerRates(Cache<String, Arc<Bucket>>);

impl CustomerRates {
    pub(crate) fn new() -> Self {
        // A bucket that nobody used for two minutes is full.
        Self(Cache::builder().max_capacity(REMEMBERED_MAX).time_to_idle(Duration::from_secs(120)).build())
    }

    /// Takes a request of an owner, or says in how many seconds the next one is free.
    pub(crate) fn take(&self, owner: &str, now: Timestamp) -> Result<Left, u64> {
        let bucket = self.0.get_with_by_ref(owner, || Arc::new(Bucket::full()));
        bucket.take(PER_CUSTOMER, now.micros()).map_err(whole_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + millis * 1_000).unwrap()
    }

    #[test]
    fn a_customer_has_a_thousand_requests_at_once_and_a_thousand_a_minute() {
        let rates = CustomerRates::new();
        for number in 0..1_000 {
            let left = rates.take("acme", at(0)).unwrap();
            assert_eq!(left.remaining, 999 - number);
        }
        assert_eq!(rates.take("acme", at(0)), Err(1));
        assert_eq!(rates.take("acme", at(59)), Err(1));
        assert_eq!(rates.take("acme", at(60)), Ok(Left { remaining: 0, full_in_secs: 60 }));
        assert_eq!(rates.take("globex", at(60)).map(|left| left.remaining), Ok(999), "others are not concerned");
        assert_eq!(rates.take("acme", at(60_060)).map(|left| left.remaining), Ok(999));
    }

    #[test]
    fn over_any_minute_no_more_than_two_bursts_pass() {
        let rates = CustomerRates::new();
        let passed = (0..60_000).filter(|millis| rates.take("acme", at(*millis)).is_ok()).count();
        assert!((1_999..=2_001).contains(&passed), "{passed}");
    }
}
