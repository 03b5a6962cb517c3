//! What the digests of one source prove: which stretches of time are covered, and which are missing.

use std::collections::BTreeMap;

use super::{Digest, DigestName, ObjectName, PublicKeys, SignatureCheck};
use crate::Timestamp;

/// A digest file that was read, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenDigest {
    /// What it says.
    pub digest: Digest,
    /// SHA-256 of its uncompressed content.
    pub content_sha256: [u8; 32],
    /// The signature that stood beside it, in hexadecimal; the digest after it has it too.
    pub signature: Option<String>,
    /// When it was read.
    pub seen_at: Timestamp,
}

/// How a digest hangs together with the one before it and the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// A chain begins here: validation was turned on.
    First,
    /// The digest before it was seen and has the hash that it says.
    Unbroken,
    /// The digest before it was not seen: it is missing, or lies before the time looked at.
    PreviousNotSeen,
    /// A digest after it says another hash, its signature does not fit, or there are two contents under its name.
    Altered,
}

impl Link {
    /// The name used on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Unbroken => "unbroken",
            Self::PreviousNotSeen => "previous_not_seen",
            Self::Altered => "altered",
        }
    }
}

/// A stretch of time, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    /// Its first instant.
    pub start: Timestamp,
    /// The first instant behind it.
    pub end: Timestamp,
}

/// The digests of one source, checked against each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// What is known of each digest, in the order given.
    pub checked: Vec<(Link, SignatureCheck)>,
    /// Deliveries of these stretches are named by trusted digests; in order, none touching the next.
    pub covered: Vec<Stretch>,
    /// Digests that others name as the one before, not seen and not before the first that was: each may name log objects
    /// that nothing else does. In order of their keys.
    pub not_seen: Vec<ObjectName>,
}

impl Chain {
    /// Checks the digests of one source. Their order does not matter, nor how often each is given.
    pub fn of(digests: &[SeenDigest], keys: &PublicKeys) -> Self {
        let mut by_name = BTreeMap::<&ObjectName, Vec<&SeenDigest>>::new();
        let mut said_of = BTreeMap::<&ObjectName, Vec<&SeenDigest>>::new();
        for seen in digests {
            let contents = by_name.entry(&seen.digest.object).or_default();
            if contents.iter().all(|other| other.content_sha256 != seen.content_sha256) {
                contents.push(seen);
            }
            if let Some(previous) = &seen.digest.previous {
                said_of.entry(&previous.object).or_default().push(seen);
            }
        }
        let checked: Vec<_> = digests.iter().map(|seen| check(seen, &by_name, &said_of, keys)).collect();
        let trusted = digests.iter().zip(&checked).filter(|(_, (link, _))| *link != Link::Altered);
        let covered = merge(
            trusted
                .filter(|(seen, _)| !seen.digest.is_backfill)
                .map(|(seen, _)| Stretch { start: seen.digest.start, end: seen.digest.end })
                .collect(),
        );
        let first = digests.iter().map(|seen| seen.digest.start).min();
        let not_seen = said_of.keys().filter(|name| {
            let end = DigestName::parse(&name.key).and_then(|name| name.end());
            !by_name.contains_key(**name) && end.is_none_or(|end| first.is_some_and(|first| first < end))
        });
        Self { checked, covered, not_seen: not_seen.map(|name| (*name).clone()).collect() }
    }

    /// What of a stretch no trusted digest covers: missing, not idle.
    pub fn missing(&self, stretch: Stretch) -> Vec<Stretch> {
        let mut missing = Vec::new();
        let mut from = stretch.start;
        for covered in &self.covered {
            if stretch.end <= covered.start {
                break;
            }
            if from < covered.start {
                missing.push(Stretch { start: from, end: covered.start });
            }
            from = from.max(covered.end);
        }
        if from < stretch.end {
            missing.push(Stretch { start: from, end: stretch.end });
        }
        missing
    }
}

type ByName<'a> = BTreeMap<&'a ObjectName, Vec<&'a SeenDigest>>;

fn check(seen: &SeenDigest, by_name: &ByName<'_>, said_of: &ByName<'_>, keys: &PublicKeys) -> (Link, SignatureCheck) {
    let digest = &seen.digest;
    let after = said_of.get(&digest.object).map(Vec::as_slice).unwrap_or_default();
    let said = || after.iter().filter_map(|after| after.digest.previous.as_ref());
    let handed_on = said().map(|previous| &*previous.signature).find(|signature| !signature.is_empty());
    let signature = keys.check(digest, &seen.content_sha256, seen.signature.as_deref().or(handed_on));
    let contradicted = said().any(|previous| previous.sha256 != seen.content_sha256);
    let vouched_for = said().any(|previous| previous.sha256 == seen.content_sha256);
    let contents = by_name.get(&digest.object).map_or(1, Vec::len);
    if contradicted || signature == SignatureCheck::Invalid || (1 < contents && !vouched_for) {
        return (Link::Altered, signature);
    }
    let link = match &digest.previous {
        None => Link::First,
        Some(previous) => match by_name.get(&previous.object) {
            Some(contents) if contents.iter().any(|before| before.content_sha256 == previous.sha256) => Link::Unbroken,
            // One that was seen with another content is altered itself; this one says the truth about it.
            _ => Link::PreviousNotSeen,
        },
    };
    (link, signature)
}

/// Joins stretches that touch or overlap.
fn merge(mut stretches: Vec<Stretch>) -> Vec<Stretch> {
    stretches.sort_unstable();
    let mut merged: Vec<Stretch> = Vec::new();
    for stretch in stretches {
        match merged.last_mut() {
            Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
            _ => merged.push(stretch),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::digest::{PreviousDigest, TrailSource};
    use crate::{AccountId, Hour};

    fn at(hour: i64) -> Timestamp {
        // Digests begin at any second, not on the hour.
        Hour::from_number(496_000 + hour).unwrap().start().saturating_add_secs(91)
    }

    fn name(hour: i64, backfill: &str) -> ObjectName {
        let end = chrono::DateTime::<chrono::Utc>::from(at(hour + 1)).format("%Y%m%dT%H%M%SZ");
        let key = format!("111111111111_CloudTrail-Digest_eu-west-1_t_eu-west-1_{end}{backfill}.json.gz");
        ObjectName { bucket: "b".into(), key }
    }

    fn content(hour: i64) -> [u8; 32] {
        [u8::try_from(hour).unwrap() + 1; 32]
    }

    fn seen(hour: i64, previous: Option<i64>) -> SeenDigest {
        let account = AccountId::parse("111111111111").unwrap();
        let previous = previous.map(|hour| PreviousDigest {
            object: name(hour, ""),
            sha256: content(hour),
            signature: String::new(),
        });
        SeenDigest {
            digest: Digest {
                source: TrailSource { account, region: "eu-west-1".into(), trail: "t".into() },
                start: at(hour),
                end: at(hour + 1),
                end_as_written: String::new(),
                is_backfill: false,
                object: name(hour, ""),
                previous,
                key_fingerprint: String::new(),
                log_objects: Vec::new(),
            },
            content_sha256: content(hour),
            signature: None,
            seen_at: at(hour + 2),
        }
    }

    fn links(digests: &[SeenDigest]) -> Vec<Link> {
        Chain::of(digests, &PublicKeys::default()).checked.into_iter().map(|(link, _)| link).collect()
    }

    fn hours(stretches: &[Stretch]) -> Vec<(i64, i64)> {
        let hour = |instant: Timestamp| instant.hour().number() - 496_000;
        stretches.iter().map(|stretch| (hour(stretch.start), hour(stretch.end))).collect()
    }

    #[test]
    fn an_unbroken_chain_covers_all_its_time_and_a_missing_hour_is_missing() {
        let digests = [seen(0, None), seen(1, Some(0)), seen(2, Some(1)), seen(4, Some(3)), seen(5, Some(4))];
        use Link::{First, PreviousNotSeen, Unbroken};
        assert_eq!(links(&digests), [First, Unbroken, Unbroken, PreviousNotSeen, Unbroken]);
        let chain = Chain::of(&digests, &PublicKeys::default());
        assert_eq!(hours(&chain.covered), [(0, 3), (4, 6)]);
        assert_eq!(chain.not_seen, [name(3, "")]);
        assert_eq!(hours(&chain.missing(Stretch { start: at(0), end: at(6) })), [(3, 4)]);
        assert_eq!(hours(&chain.missing(Stretch { start: at(-2), end: at(8) })), [(-2, 0), (3, 4), (6, 8)]);
        assert_eq!(chain.missing(Stretch { start: at(1), end: at(3) }), []);
        assert_eq!(hours(&Chain::default().missing(Stretch { start: at(1), end: at(3) })), [(1, 3)]);
    }

    #[test]
    fn a_digest_that_another_contradicts_covers_nothing() {
        let mut altered = seen(1, Some(0));
        altered.content_sha256 = [99; 32];
        let digests = [seen(0, None), altered.clone(), seen(2, Some(1))];
        assert_eq!(links(&digests), [Link::First, Link::Altered, Link::PreviousNotSeen]);
        let chain = Chain::of(&digests, &PublicKeys::default());
        assert_eq!(hours(&chain.covered), [(0, 1), (2, 3)]);

        // The true one is found later: it is the one that the next digest means.
        let digests = [seen(0, None), altered.clone(), seen(2, Some(1)), seen(1, Some(0))];
        assert_eq!(links(&digests), [Link::First, Link::Altered, Link::Unbroken, Link::Unbroken]);
        // Without a digest after them nobody can tell which of two contents is the true one.
        assert_eq!(links(&[seen(0, None), altered, seen(1, Some(0))]), [Link::First, Link::Altered, Link::Altered]);
    }

    #[test]
    fn a_chain_that_begins_again_leaves_its_gap_missing() {
        let chain = Chain::of(&[seen(0, None), seen(5, None)], &PublicKeys::default());
        assert_eq!(hours(&chain.missing(Stretch { start: at(0), end: at(6) })), [(1, 5)]);
    }

    #[test]
    fn a_backfill_covers_no_time_and_one_that_is_not_seen_is_named() {
        let backfill = |hour, previous: Option<i64>| {
            let mut digest = seen(hour, None);
            digest.digest.is_backfill = true;
            digest.digest.object = name(hour, "_backfill");
            digest.digest.previous = previous.map(|hour| PreviousDigest {
                object: name(hour, "_backfill"),
                sha256: content(hour),
                signature: String::new(),
            });
            digest
        };
        let digests = [seen(0, None), seen(1, Some(0)), backfill(1, Some(0)), backfill(3, None)];
        let chain = Chain::of(&digests, &PublicKeys::default());
        assert_eq!(hours(&chain.covered), [(0, 2)]);
        assert_eq!(chain.not_seen, [name(0, "_backfill")]);
        // What lies before the first digest looked at is not in question.
        let chain = Chain::of(&[seen(4, Some(3)), backfill(4, Some(1))], &PublicKeys::default());
        assert_eq!(chain.not_seen, []);
    }

    proptest! {
        #[test]
        fn order_and_repetition_change_nothing_and_what_is_covered_is_what_a_naive_look_says(
            hours_seen in prop::collection::vec(0_i64..30, 0..40),
            restarts in prop::collection::btree_set(0_i64..30, 0..4),
        ) {
            let digests: Vec<_> = hours_seen
                .iter()
                .map(|&hour| seen(hour, (!restarts.contains(&hour)).then_some(hour - 1).filter(|hour| 0 <= *hour)))
                .collect();
            let chain = Chain::of(&digests, &PublicKeys::default());
            let distinct: BTreeSet<i64> = hours_seen.iter().copied().collect();
            let sorted: Vec<_> = distinct.iter().map(|hour| {
                digests[hours_seen.iter().position(|seen| seen == hour).unwrap()].clone()
            }).collect();
            let again = Chain::of(&sorted, &PublicKeys::default());
            prop_assert_eq!((&chain.covered, &chain.not_seen), (&again.covered, &again.not_seen));
            let missing = chain.missing(Stretch { start: at(0), end: at(30) });
            for hour in 0..30 {
                let instant = at(hour).saturating_add_secs(1_000);
                let is_missing = missing.iter().any(|stretch| stretch.start <= instant && instant < stretch.end);
                prop_assert_eq!(is_missing, !distinct.contains(&hour), "hour {}", hour);
            }
        }
    }
}
