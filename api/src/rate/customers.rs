//! The buckets of all customers, as one process keeps them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ingest::Timestamp;
use moka::sync::Cache;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::lease::{Ask, Lease, Step};
use super::{Bucket, Left, PER_CUSTOMER, SharedBuckets, whole_seconds};

/// Customers whose buckets are remembered; one that is forgotten is full.
const REMEMBERED_MAX: u64 = 100_000;

/// A request too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// When the next one is free.
    pub(crate) retry_after_secs: u64,
    /// Seconds until the bucket is full.
    pub(crate) full_in_secs: i64,
}

/// The buckets of all customers: each process's own, and behind them those that all processes share, if there are any.
#[derive(Clone, Debug)]
pub(crate) struct CustomerRates {
    customers: Cache<String, Arc<Customer>>,
    shared: Option<SharedBuckets>,
}

/// One customer's requests in this process.
#[derive(Debug)]
struct Customer {
    own: Bucket,
    lease: Mutex<Lease>,
    /// A question was answered, or failed.
    landed: Notify,
}

impl Customer {
    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the shared bucket says of a request.
enum Verdict {
    Taken,
    Refused(i64),
    Alone,
}

impl CustomerRates {
    /// Without shared buckets each process lets a customer's thousand through.
    pub(crate) fn new(shared: Option<SharedBuckets>) -> Self {
        // A bucket that nobody used for two minutes is full.
        let customers = Cache::builder().max_capacity(REMEMBERED_MAX).time_to_idle(Duration::from_secs(120)).build();
        Self { customers, shared }
    }

    /// The same with another bound on how long a request waits for a shared bucket.
    pub(crate) fn with_wait(self, wait: Duration) -> Self {
        Self { shared: self.shared.map(|shared| shared.with_wait(wait)), ..self }
    }

    /// Takes a request of an owner, or says when the next one is free.
    ///
    /// Waits for the shared bucket when no leased token is left, and no longer than its bound. While it is away, the
    /// process's own bucket decides.
    pub(crate) async fn take(&self, owner: &str, now: Timestamp) -> Result<Left, Refused> {
        let now = now.micros();
        let customer = self.customers.get_with_by_ref(owner, || {
            let lease = Mutex::new(Lease::new());
            Arc::new(Customer { own: Bucket::full(), lease, landed: Notify::new() })
        });
        let refused = |after: i64, full_in_secs| Refused { retry_after_secs: whole_seconds(after), full_in_secs };
        let own = customer.own.take(PER_CUSTOMER, now);
        let own = own.map_err(|after| refused(after, customer.own.full_in_secs(now)))?;
        let Some(shared) = &self.shared else { return Ok(own) };
        match ask(shared, &customer, owner, now).await {
            Verdict::Taken => {
                // Both hold, so what is left is what is left in the emptier one.
                let left = customer.lease().left(PER_CUSTOMER, now).unwrap_or(own);
                Ok(Left {
                    remaining: own.remaining.min(left.remaining),
                    full_in_secs: own.full_in_secs.max(left.full_in_secs),
                })
            }
            Verdict::Refused(after) => {
                customer.own.give_back(PER_CUSTOMER);
                let left = customer.lease().left(PER_CUSTOMER, now).unwrap_or(own);
                Err(refused(after, left.full_in_secs))
            }
            Verdict::Alone => {
                shared.went_alone();
                Ok(own)
            }
        }
    }
}

async fn ask(shared: &SharedBuckets, customer: &Arc<Customer>, owner: &str, now: i64) -> Verdict {
    // Most requests find a token, and need no timer.
    let (verdict, question) = decide(customer.lease().step(now));
    question.into_iter().for_each(|question| send(shared, customer, owner, question));
    match verdict {
        Some(verdict) => verdict,
        None => {
            let waited = timeout(shared.wait(), wait(shared, customer, owner, now)).await;
            waited.unwrap_or_else(|_| {
                customer.lease().waited_too_long(now);
                Verdict::Alone
            })
        }
    }
}

async fn wait(shared: &SharedBuckets, customer: &Arc<Customer>, owner: &str, now: i64) -> Verdict {
    loop {
        let mut landed = std::pin::pin!(customer.landed.notified());
        // From here on no answer is missed; one that came before shows in the next step.
        landed.as_mut().enable();
        let (verdict, question) = decide(customer.lease().step(now));
        question.into_iter().for_each(|question| send(shared, customer, owner, question));
        match verdict {
            Some(verdict) => return verdict,
            None => landed.await,
        }
    }
}

/// `None`: an answer has to come first.
fn decide(step: Step) -> (Option<Verdict>, Option<Ask>) {
    match step {
        Step::Taken(question) => (Some(Verdict::Taken), question),
        Step::Refused(after) => (Some(Verdict::Refused(after)), None),
        Step::Alone(question) => (Some(Verdict::Alone), question),
        Step::Wait(question) => (None, question),
    }
}

/// Asks in a task of its own: the answer counts for all that wait, and after the request that asked is over.
fn send(shared: &SharedBuckets, customer: &Arc<Customer>, owner: &str, question: Ask) {
    let (shared, customer, key) = (shared.clone(), Arc::clone(customer), shared.key(owner));
    tokio::spawn(async move {
        let outcome = shared.ask(&key, question).await;
        customer.lease().land(question, outcome, PER_CUSTOMER, shared.now().micros());
        customer.landed.notify_waiters();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + millis * 1_000).unwrap()
    }

    #[tokio::test]
    async fn a_customer_has_a_thousand_requests_at_once_and_a_thousand_a_minute() {
        let rates = CustomerRates::new(None);
        for number in 0..1_000 {
            let left = rates.take("acme", at(0)).await.unwrap();
            assert_eq!(left.remaining, 999 - number);
        }
        let refused = |full_in_secs| Err(Refused { retry_after_secs: 1, full_in_secs });
        assert_eq!(rates.take("acme", at(0)).await, refused(60));
        assert_eq!(rates.take("acme", at(59)).await, refused(60));
        assert_eq!(rates.take("acme", at(60)).await, Ok(Left { remaining: 0, full_in_secs: 60 }));
        let other = rates.take("globex", at(60)).await;
        assert_eq!(other.map(|left| left.remaining), Ok(999), "others are not concerned");
        assert_eq!(rates.take("acme", at(60_060)).await.map(|left| left.remaining), Ok(999));
    }

    #[tokio::test]
    async fn over_any_minute_no_more_than_two_bursts_pass() {
        let rates = CustomerRates::new(None);
        let mut passed = 0;
        for millis in 0..60_000 {
            passed += u32::from(rates.take("acme", at(millis)).await.is_ok());
        }
        assert!((1_999..=2_001).contains(&passed), "{passed}");
    }
}
