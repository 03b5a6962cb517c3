//! How often a secret may be tried: per address and key; and per address for ids that no key has.
//!
//! Only tries that cost a bcrypt are counted, and those that turn out right are given back. No bound covers all keys of
//! an address: behind a load balancer one address is everybody, and who tries wrong secrets there must not shut out the
//! others. Ids that no key has are nobody's, so a bound on them shuts out nobody; it keeps one address from filling the
//! threads with ids it makes up.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ingest::Timestamp;
use moka::sync::Cache;

use super::token::KeyId;
use crate::rate::{Bucket, Rate, whole_seconds};

/// Wrong secrets for one key from one address: so many at once, and then one every six seconds.
const PER_KEY: Rate = Rate { burst: 10, micros_each: 6_000_000 };

/// Tries from one address for ids that no key has.
const OF_NOBODY: Rate = Rate { burst: 100, micros_each: 600_000 };

/// Addresses and pairs that are remembered. Who would make us forget one must come from that many others meanwhile.
const REMEMBERED_MAX: u64 = 100_000;

/// Tries of every address, in this process.
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    pairs: Cache<(IpAddr, KeyId), Arc<Bucket>>,
    /// Those for ids that no key has.
    of_nobody: Cache<IpAddr, Arc<Bucket>>,
}

/// A try that was taken; [`Attempt::was_right`] gives it back.
#[derive(Debug)]
pub(crate) struct Attempt(Arc<Bucket>);

impl Attempt {
    /// The secret was right: it counts as no try.
    pub(crate) fn was_right(self) {
        self.0.give_back(PER_KEY);
    }
}

impl Attempts {
    pub(crate) fn new() -> Self {
        // A bucket that nobody used for ten minutes is full.
        let idle = Duration::from_secs(600);
        Self {
            pairs: Cache::builder().max_capacity(REMEMBERED_MAX).time_to_idle(idle).build(),
            of_nobody: Cache::builder().max_capacity(REMEMBERED_MAX).time_to_idle(idle).build(),
        }
    }

    /// Takes a try for a key, or says in how many seconds the next one is free.
    pub(crate) fn take(&self, address: IpAddr, key_id: &KeyId, now: Timestamp) -> Result<Attempt, u64> {
        let of_pair = self.pairs.get_with((network(address), key_id.clone()), || Arc::new(Bucket::full()));
        of_pair.take(PER_KEY, now.micros()).map_err(whole_seconds)?;
        Ok(Attempt(of_pair))
    }

    /// The same for an id that no key has, which nobody can be right about.
    pub(crate) fn take_of_nobody(&self, address: IpAddr, key_id: &KeyId, now: Timestamp) -> Result<(), u64> {
        // As for a key, so that ten tries do not tell the two apart.
        let attempt = self.take(address, key_id, now)?;
        let of_address = self.of_nobody.get_with(network(address), || Arc::new(Bucket::full()));
        if let Err(wait) = of_address.take(OF_NOBODY, now.micros()) {
            attempt.was_right();
            return Err(whole_seconds(wait));
        }
        Ok(())
    }
}

/// The address itself; for IPv6 its /64, which one subscriber has whole (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> KeyId {
        KeyId::parse(text).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const A: &str = "AAAAAAAAAAAAAAAA";
    const B: &str = "BBBBBBBBBBBBBBBB";

    #[test]
    fn a_pair_has_ten_tries_and_one_more_every_six_seconds() {
        let attempts = Attempts::new();
        let attacker = address("192.0.2.1");
        for _ in 0..10 {
            drop(attempts.take(attacker, &key(A), at(0)).unwrap());
        }
        assert_eq!(attempts.take(attacker, &key(A), at(0)).unwrap_err(), 6);
        assert_eq!(attempts.take(attacker, &key(A), at(5)).unwrap_err(), 1);
        drop(attempts.take(attacker, &key(A), at(6)).unwrap());
        assert!(attempts.take(attacker, &key(A), at(6)).is_err());
        assert!(attempts.take(address("192.0.2.2"), &key(A), at(6)).is_ok(), "the victim is not locked out");
        assert!(attempts.take(attacker, &key(B), at(6)).is_ok());
    }

    #[test]
    fn right_secrets_count_as_no_try() {
        let attempts = Attempts::new();
        for _ in 0..1_000 {
            attempts.take(address("192.0.2.1"), &key(A), at(0)).unwrap().was_right();
        }
    }

    #[test]
    fn wrong_secrets_of_many_keys_shut_out_no_other_key_of_the_address() {
        let attempts = Attempts::new();
        let balancer = address("192.0.2.1");
        for number in 0..1_000_u16 {
            drop(attempts.take(balancer, &key(&format!("{number:016}")), at(0)).unwrap());
        }
        assert!(attempts.take(balancer, &key(A), at(0)).is_ok());
    }

    #[test]
    fn ids_that_no_key_has_are_bounded_by_address_and_shut_out_nobody() {
        let attempts = Attempts::new();
        let mut taken = 0;
        for number in 0..1_000_u16 {
            let attacker = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, number, 0, 0, 1));
            let id = key(&format!("{number:016}"));
            taken += u32::from(attempts.take_of_nobody(attacker, &id, at(0)).is_ok());
        }
        assert_eq!(taken, 100, "also within its IPv6 network");
        let attacker = address("2001:db8:0:1::1");
        assert_eq!(attempts.take_of_nobody(attacker, &key(A), at(0)).unwrap_err(), 1);
        assert!(attempts.take(attacker, &key(A), at(0)).is_ok(), "a key is not concerned");
        assert!(attempts.take_of_nobody(address("2001:db8:0:2::1"), &key(B), at(0)).is_ok());
    }

    #[test]
    fn an_ipv4_address_is_the_same_in_both_of_its_forms() {
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
