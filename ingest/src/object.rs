//! Reading one source object: every record judged, every byte accounted for.

use std::collections::BTreeMap;
use std::io::{self, Read};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::front_door::{FrontDoor, judge_sample};
use crate::inflate::Inflate;
use crate::records::Records;
use crate::{Beside, NotCounted, Reason, Rules, Timestamp, Verdict, cloudtrail, focus};

/// One record of a source object, judged.
#[derive(Debug)]
pub struct Judged<'a> {
    /// What it turned out to be.
    pub verdict: Verdict<'a>,
    /// What it says beside; no part of the balance.
    pub beside: Vec<Beside<'a>>,
    /// What a dead letter keeps: the record, or the delivery that carries it; or the beginning of it.
    pub bytes: &'a [u8],
    /// Where it, or the outermost delivery that carries it, begins in the inflated object, in bytes.
    pub offset: u64,
    /// Its number among the records that came out of what begins there, from 0.
    pub number: u32,
    /// Whether `bytes` is all of it. Otherwise a replay needs the object itself.
    pub is_whole: bool,
}

/// What one reading of a source object found, in source records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRead {
    /// Records read: usage, not counted and dead letters together.
    pub read: u64,
    /// Understood, and not usage, by kind.
    pub not_counted: BTreeMap<NotCounted, u64>,
    /// Set aside, by reason.
    pub dead_letters: BTreeMap<Reason, u64>,
    /// Set aside beside a verdict, by reason: no part of the balance.
    pub beside_dead_letters: BTreeMap<Reason, u64>,
    /// Bytes of the object as stored.
    pub stored_bytes: u64,
    /// SHA-256 of the object as stored.
    pub sha256: [u8; 32],
    /// SHA-256 of its content, inflated: how digest files name log files.
    pub content_sha256: [u8; 32],
    /// The earliest and the latest event time of its usage; `None` without usage.
    pub event_times: Option<(Timestamp, Timestamp)>,
}

impl ObjectRead {
    fn add(&mut self, judged: &Judged<'_>) {
        self.read += 1;
        match &judged.verdict {
            Verdict::Usage(event) => self.saw(event.event_time),
            Verdict::Facts(statement) => {
                let event = statement.event().map(|event| event.event_time);
                event.into_iter().chain(statement.facts().iter().map(|fact| fact.key.time)).for_each(|at| self.saw(at));
            }
            Verdict::NotCounted(kind) => *self.not_counted.entry(*kind).or_default() += 1,
            Verdict::DeadLetter(reason) => *self.dead_letters.entry(*reason).or_default() += 1,
        }
        for beside in &judged.beside {
            match beside {
                Beside::Usage(event) => self.saw(event.event_time),
                Beside::Fact(fact) => self.saw(fact.key.time),
                Beside::Object(_) | Beside::Digest(_) => {}
                Beside::DeadLetter(reason) => *self.beside_dead_letters.entry(*reason).or_default() += 1,
            }
        }
    }

    fn saw(&mut self, event_time: Timestamp) {
        let (first, last) = self.event_times.unwrap_or((event_time, event_time));
        self.event_times = Some((first.min(event_time), last.max(event_time)));
    }
}

/// Why a reading stopped: nothing of it is done, so the object is read again.
#[derive(Debug, Error)]
pub enum ReadError<E> {
    /// The object could not be read from its store. Retry.
    #[error("cannot read the object: {0}")]
    Store(#[source] io::Error),
    /// What was read could not be passed on. As its cause says.
    #[error(transparent)]
    Sink(E),
}

/// What is known of an object beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered<'a> {
    /// The delivered name, such as an S3 URL or a file's path. Its account stands in for an event's that has none.
    pub name: &'a str,
    /// When it was last written, if that is known: which edition of an export it is.
    pub written_at: Option<Timestamp>,
}

/// An object of which nothing but its name is known.
impl<'a> From<&'a str> for Delivered<'a> {
    fn from(name: &'a str) -> Self {
        Self { name, written_at: None }
    }
}

/// An object of which nothing but its name is known.
impl<'a> From<&'a String> for Delivered<'a> {
    fn from(name: &'a String) -> Self {
        Self::from(name.as_str())
    }
}

/// Reads an object to its end and hands each record on, judged. Memory is bounded whatever the object's size.
pub fn read_object<'n, E>(
    delivered: impl Into<Delivered<'n>>,
    stored: impl Read,
    rules: Rules<'_>,
    mut each: impl FnMut(Judged<'_>) -> Result<(), E>,
) -> Result<ObjectRead, ReadError<E>> {
    let delivered = delivered.into();
    let mut content = Inflate::open(stored).map_err(ReadError::Store)?;
    let mut found = ObjectRead::default();
    let mut each = |judged: Judged<'_>| {
        found.add(&judged);
        each(judged)
    };
    let is_export = focus::is_header(content.peek().map_err(ReadError::Store)?);
    let stored = if is_export {
        focus::read_export(delivered, content, rules, &mut each)?
    } else {
        let object_account = cloudtrail::account_in_object_name(delivered.name);
        let mut records = Records::new(content);
        let mut door = FrontDoor::new(rules, object_account, &mut each);
        while let Some(piece) = records.next().map_err(ReadError::Store)? {
            door.piece(piece).map_err(ReadError::Sink)?;
        }
        records.finish().map_err(ReadError::Store)?
    };
    (found.stored_bytes, found.sha256) = (stored.bytes, stored.sha256);
    found.content_sha256 = stored.content_sha256;
    Ok(found)
}

/// Judges CloudEvents that came together, each for itself: its place among them is its number. `body` is how they came.
pub(crate) fn read_samples<'e, E>(
    events: impl IntoIterator<Item = &'e [u8]>,
    body: &[u8],
    rules: Rules<'_>,
    mut each: impl FnMut(Judged<'_>) -> Result<(), E>,
) -> Result<ObjectRead, E> {
    let sha256: [u8; 32] = Sha256::digest(body).into();
    let mut found =
        ObjectRead { stored_bytes: body.len() as u64, sha256, content_sha256: sha256, ..ObjectRead::default() };
    for (bytes, number) in events.into_iter().zip(0..) {
        let verdict = judge_sample(bytes, rules);
        let judged = Judged { verdict, beside: Vec::new(), bytes, offset: 0, number, is_whole: true };
        found.add(&judged);
        each(judged)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use std::io::Write;
    use std::path::Path;
    use std::{fs, iter};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde_json::{Value, json};

    use super::*;

    /// A store that hands out chunks of these sizes, over and over.
    struct Chunks<'a> {
        stored: &'a [u8],
        sizes: iter::Cycle<std::slice::Iter<'a, usize>>,
    }

    impl Read for Chunks<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes.next().copied().unwrap_or(1).min(buffer.len());
            self.stored.read(&mut buffer[..size])
        }
    }

    /// What a reading found, and each record as it was handed on.
    type Reading = (ObjectRead, Vec<String>);

    fn read(stored: &[u8], sizes: &[usize]) -> Reading {
        let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
        let mut handed_on = Vec::new();
        let store = Chunks { stored, sizes: sizes.iter().cycle() };
        let rules = Rules::at(now);
        let found = read_object("123456789012_CloudTrail_x.json", store, rules, |judged| {
            handed_on.push(format!("{judged:?}"));
            Ok::<_, Infallible>(())
        });
        (found.unwrap(), handed_on)
    }

    fn check(stored: &[u8], sizes: &[usize]) -> Result<(), TestCaseError> {
        let (found, handed_on) = read(stored, sizes);
        let is_usage = |judged: &&String| {
            ["Usage", "Facts"].iter().any(|kind| judged["Judged { verdict: ".len()..].starts_with(kind))
        };
        let usage = handed_on.iter().filter(is_usage).count() as u64;
        let not_counted: u64 = found.not_counted.values().sum();
        let dead_letters: u64 = found.dead_letters.values().sum();
        prop_assert_eq!(found.read, usage + not_counted + dead_letters);
        prop_assert_eq!(found.read, handed_on.len() as u64);
        prop_assert_eq!((found.stored_bytes, found.sha256), (stored.len() as u64, Sha256::digest(stored).into()));
        prop_assert!(read(stored, &[usize::MAX]) == (found, handed_on), "chunks of {:?} change what is read", sizes);
        Ok(())
    }

    fn fixtures() -> Vec<Vec<u8>> {
        let folders =
            ["cloudtrail", "events"].map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name));
        let files = folders.into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(content).unwrap();
        gzip.finish().unwrap()
    }

    /// Bytes among which JSON is likely, and broken in every way.
    fn scraps() -> impl Strategy<Value = Vec<u8>> {
        let fixed =
            ["{\"Records\":[", "{\"eventName\":\"X\",", "\"a\":", "]", "}", "[", "{", ",", "\"", "\\", "\n", "1"];
        let scrap = prop_oneof![
            8 => proptest::sample::select(fixed.map(str::as_bytes).to_vec()).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..9),
            1 => Just(b"[".repeat(101)),
            1 => Just(b"\x1f\x8b\x08".to_vec()),
        ];
        proptest::collection::vec(scrap, 0..40).prop_map(|scraps| scraps.concat())
    }

    fn chunk_sizes() -> impl Strategy<Value = Vec<usize>> {
        proptest::collection::vec(prop_oneof![1_usize..9, 9_usize..5_000, Just(1 << 18)], 1..5)
    }

    proptest! {
        #[test]
        fn any_bytes_balance_and_read_the_same_however_they_arrive(
            content in scraps(), is_gzip in any::<bool>(), sizes in chunk_sizes(),
        ) {
            check(&if is_gzip { gzip(&content) } else { content }, &sizes)?;
        }

        #[test]
        fn altered_fixtures_balance_and_read_the_same_however_they_arrive(
            which in any::<Index>(),
            changes in proptest::collection::vec((any::<Index>(), 0_usize..20, scraps()), 0..4),
            is_gzip in any::<bool>(),
            sizes in chunk_sizes(),
        ) {
            let mut stored = which.get(&fixtures()).clone();
            for (place, removed, added) in changes {
                let begin = place.index(stored.len() + 1);
                let end = stored.len().min(begin + removed);
                stored.splice(begin..end, added);
            }
            check(&if is_gzip { gzip(&stored) } else { stored }, &sizes)?;
        }
    }

    /// What each fixture comes to stands beside it (fixtures/make.py).
    #[test]
    fn every_fixture_comes_to_what_is_expected_of_it() {
        for folder in ["cloudtrail", "events"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(folder);
            let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
            let now = Timestamp::parse_rfc3339(expected["now"].as_str().unwrap()).unwrap();
            for (name, expected) in expected["files"].as_object().unwrap() {
                let stored = fs::read(folder.join(name)).unwrap();
                let mut units = BTreeMap::<_, BTreeSet<_>>::new();
                let (mut usage, mut stated) = (0_u64, 0_u64);
                let mut standing = BTreeMap::new();
                let rules = Rules::at(now);
                let found = read_object(name, stored.as_slice(), rules, |judged| {
                    let event = match judged.verdict {
                        Verdict::Usage(event) => Some(event),
                        Verdict::Facts(statement) => {
                            // A record that states facts alone counts if its first is new or higher than what stands.
                            let (event, facts) = statement.into_parts();
                            let new = facts.iter().map(|fact| {
                                let version = (fact.revision, fact.content_hash());
                                let known = standing.insert(fact.key.identity(), version);
                                if let Some(known) = known {
                                    standing.insert(fact.key.identity(), version.max(known));
                                }
                                known.is_none_or(|known| known < version)
                            });
                            let new: Vec<bool> = new.collect();
                            if event.is_none() {
                                usage += 1;
                                stated += u64::from(new[0]);
                            }
                            event
                        }
                        Verdict::NotCounted(_) | Verdict::DeadLetter(_) => None,
                    };
                    if let Some(event) = event {
                        usage += 1;
                        let hour = event.event_time.hour();
                        let line = (event.meter.to_string(), event.account.to_string(), hour.to_string());
                        units.entry(line).or_default().insert(event.identity);
                    }
                    Ok::<_, Infallible>(())
                });
                let found = found.unwrap();
                let counted = stated + units.values().map(|identities| identities.len() as u64).sum::<u64>();
                let names = |counts: Vec<(&'static str, u64)>| json!(BTreeMap::from_iter(counts));
                let got = json!({
                    "read": found.read,
                    "counted": counted,
                    "duplicates": usage - counted,
                    "not_counted": names(found.not_counted.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()),
                    "dead_letters": names(found.dead_letters.iter().map(|(of, count)| (of.as_str(), *count)).collect()),
                });
                for (key, got) in got.as_object().unwrap() {
                    assert_eq!(got, &expected[key], "{key} of {name}");
                }
                let mut lines = BTreeMap::<_, u64>::new();
                for row in expected["rows"].as_array().unwrap() {
                    let text = |key: &str| row[key].as_str().map(str::to_owned);
                    let meter = text("meter").unwrap_or_else(|| "cloudtrail_events".to_owned());
                    let line = (meter, text("account").unwrap(), text("hour").unwrap()[..13].to_owned());
                    *lines.entry(line).or_default() += text("quantity").unwrap().parse::<u64>().unwrap();
                }
                let units = BTreeMap::from_iter(units.into_iter().map(|(line, set)| (line, set.len() as u64)));
                assert_eq!(units, lines, "{name}");
            }
        }
    }
}
