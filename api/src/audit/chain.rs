//! A chain of hashes, computed again. Pure: events in, the first break out.
//!
//! An event's hash is `sha256(previous_hash || field(chain) || field(sequence) || field(occurred_at) || field(recorded_by)
//! || field(actor) || field(action) || field(subject) || field(details))`, where `field(text)` is the number of its UTF-8
//! bytes as four bytes, most significant first, and the bytes; numbers are decimal digits, `occurred_at` is microseconds
//! since 1970, `details` the text PostgreSQL prints for the jsonb value. The hash before the first event is 32 zero bytes.
//! The same words stand at the top of the migration that made the table.

use sha2::{Digest, Sha256};
use thiserror::Error;

/// The hash before a chain's first event.
pub const FIRST_HASH: [u8; 32] = [0; 32];

/// One event as it is stored, or archived.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainedEvent {
    /// The customer, or '' for the platform.
    pub chain: String,
    /// 1, 2, 3, ...
    pub sequence: i64,
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub occurred_at: i64,
    /// The database role that recorded it.
    pub recorded_by: String,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// JSON, exactly as hashed.
    pub details: String,
    /// 64 hexadecimal digits.
    pub previous_hash: String,
    /// 64 hexadecimal digits.
    pub hash: String,
}

impl ChainedEvent {
    /// The hash that the event's contents have after the given one.
    pub fn hash_after(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(previous);
        let (sequence, occurred_at) = (self.sequence.to_string(), self.occurred_at.to_string());
        for field in [
            self.chain.as_str(),
            &sequence,
            &occurred_at,
            &self.recorded_by,
            &self.actor,
            &self.action,
            &self.subject,
            &self.details,
        ] {
            let length = u32::try_from(field.len()).expect("a field is bounded by a constraint of the table");
            hash.update(length.to_be_bytes());
            hash.update(field.as_bytes());
        }
        hash.finalize().into()
    }
}

/// Where a chain is not what it was. Each names the chain, a customer or the platform, or the archive's object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Break {
    /// An event is missing, or there twice.
    #[error("chain {chain}: event {expected} is missing; event {found} stands in its place")]
    Gap {
        /// The chain.
        chain: String,
        /// What should come.
        expected: i64,
        /// What came.
        found: i64,
    },
    /// An event does not follow the one before it: that one, or this one's link, was changed.
    #[error("chain {chain}: event {sequence} does not follow the event before it")]
    Unlinked {
        /// The chain.
        chain: String,
        /// The event.
        sequence: i64,
    },
    /// An event's contents are not those that were hashed.
    #[error("chain {chain}: event {sequence} was changed")]
    Changed {
        /// The chain.
        chain: String,
        /// The event.
        sequence: i64,
    },
    /// The end is missing: something knows of a later event.
    #[error("chain {chain}: it ends at event {found}, but {witness} knows event {expected}")]
    CutTail {
        /// The chain.
        chain: String,
        /// The last event that is there.
        found: i64,
        /// The last event that should be there.
        expected: i64,
        /// Who knows.
        witness: String,
    },
    /// There are events after the end: they were added without the one function that adds.
    #[error("chain {chain}: it goes on to event {found}, but {witness} ends at event {expected}")]
    Beyond {
        /// The chain.
        chain: String,
        /// The last event that is there.
        found: i64,
        /// The last event that should be there.
        expected: i64,
        /// Who knows.
        witness: String,
    },
    /// The whole chain was written anew: a witness remembers another hash.
    #[error("chain {chain}: event {sequence} has another hash than {witness} remembers")]
    Rewritten {
        /// The chain.
        chain: String,
        /// The event.
        sequence: i64,
        /// Who remembers.
        witness: String,
    },
    /// The archive is not what was written.
    #[error("archive: {object} {what}")]
    Archive {
        /// The object.
        object: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The name of a chain in messages.
pub(super) fn shown(chain: &str) -> String {
    if chain.is_empty() { "of the platform".to_owned() } else { chain.to_owned() }
}

/// A chain as far as it was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The customer, or '' for the platform.
    pub chain: String,
    /// The last event.
    pub sequence: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Followed {
    /// Before a chain's first event.
    pub fn new(chain: &str) -> Self {
        Self { chain: chain.to_owned(), sequence: 0, hash: FIRST_HASH }
    }

    /// Goes one event further, or says what is wrong with it.
    pub fn follow(&mut self, event: &ChainedEvent) -> Result<(), Break> {
        let chain = || shown(&self.chain);
        if event.sequence != self.sequence + 1 || event.chain != self.chain {
            return Err(Break::Gap { chain: chain(), expected: self.sequence + 1, found: event.sequence });
        }
        if event.previous_hash != hex::encode(self.hash) {
            return Err(Break::Unlinked { chain: chain(), sequence: event.sequence });
        }
        let hash = event.hash_after(&self.hash);
        if event.hash != hex::encode(hash) {
            return Err(Break::Changed { chain: chain(), sequence: event.sequence });
        }
        (self.sequence, self.hash) = (event.sequence, hash);
        Ok(())
    }

    /// Compares the end with the one a witness knows.
    pub fn ends_at(&self, sequence: i64, hash: &[u8], witness: &str) -> Result<(), Break> {
        let (chain, witness) = (shown(&self.chain), witness.to_owned());
        if self.sequence < sequence {
            return Err(Break::CutTail { chain, found: self.sequence, expected: sequence, witness });
        }
        if self.sequence > sequence {
            return Err(Break::Beyond { chain, found: self.sequence, expected: sequence, witness });
        }
        if self.hash[..] != *hash {
            return Err(Break::Rewritten { chain, sequence, witness });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: i64) -> Vec<ChainedEvent> {
        let mut previous = FIRST_HASH;
        let mut events = Vec::new();
        for sequence in 1..=length {
            let mut event = ChainedEvent {
                chain: "acme".to_owned(),
                sequence,
                occurred_at: 1_800_000_000_000_000 + sequence,
                recorded_by: "securebase_app".to_owned(),
                actor: "key:x".to_owned(),
                action: "test.done".to_owned(),
                subject: "ü".to_owned(),
                details: r#"{"a": 1}"#.to_owned(),
                previous_hash: hex::encode(previous),
                hash: String::new(),
            };
            previous = event.hash_after(&previous);
            event.hash = hex::encode(previous);
            events.push(event);
        }
        events
    }

    fn follow(events: &[ChainedEvent]) -> Result<Followed, Break> {
        let mut followed = Followed::new("acme");
        events.iter().try_for_each(|event| followed.follow(event))?;
        Ok(followed)
    }

    #[test]
    fn an_untouched_chain_is_followed_to_its_end() {
        let followed = follow(&chain(5)).unwrap();
        assert_eq!(followed.sequence, 5);
        let hash = hex::decode(&chain(5)[4].hash).unwrap();
        assert_eq!(followed.ends_at(5, &hash, "the head"), Ok(()));
        assert!(matches!(followed.ends_at(6, &hash, "the head"), Err(Break::CutTail { .. })));
        assert!(matches!(followed.ends_at(4, &hash, "the head"), Err(Break::Beyond { .. })));
        assert!(matches!(followed.ends_at(5, &[1; 32], "the head"), Err(Break::Rewritten { .. })));
    }

    #[test]
    fn any_change_of_any_field_shows() {
        type Change = fn(&mut ChainedEvent);
        let changes: [(&str, Change); 9] = [
            ("chain", |event| event.chain.push('x')),
            ("sequence", |event| event.sequence += 1),
            ("occurred_at", |event| event.occurred_at += 1),
            ("recorded_by", |event| event.recorded_by.push('x')),
            // A byte that moves over a border is another text.
            ("actor", |event| {
                event.actor.push('t');
                event.action.remove(0);
            }),
            ("subject", |event| event.subject.clear()),
            ("details", |event| event.details = r#"{"a": 2}"#.to_owned()),
            ("previous_hash", |event| event.previous_hash = hex::encode([9; 32])),
            ("hash", |event| event.hash = hex::encode([9; 32])),
        ];
        for (field, change) in changes {
            for place in 0..4 {
                let mut events = chain(4);
                change(&mut events[place]);
                assert!(follow(&events).is_err(), "{field} of event {}", place + 1);
            }
        }
    }

    #[test]
    fn a_missing_a_doubled_and_a_swapped_event_show() {
        for place in 0..3 {
            let mut missing = chain(4);
            missing.remove(place);
            assert!(follow(&missing).is_err());
            let mut doubled = chain(4);
            doubled.insert(place, doubled[place].clone());
            assert!(follow(&doubled).is_err());
            let mut swapped = chain(4);
            swapped.swap(place, place + 1);
            assert!(follow(&swapped).is_err());
        }
    }
}
