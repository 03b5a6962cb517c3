//! Which missing usage dead letters account for: never more than they can hold.
//!
//! The recount sets poison aside as the program does, so hardly any letter accounts for what it counts: a record above a
//! size that the recount does not know, one whose time lay ahead when it was read and no longer does, a gzip bomb that it
//! inflates to the end, and slices of a log that cannot be trusted. A letter that was put right is counted.

use std::collections::BTreeSet;

use reference::time;

use super::evidence_file::{EvidenceFile, Letter};

/// What a dead letter can hold of its object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holds {
    /// One record, whose time lay ahead then (microseconds since 1970).
    RecordAhead(i64),
    /// So many events or facts of an hour or day.
    Slice(u64, String),
    /// One record, whatever it says.
    Record,
    /// All there is behind some place.
    Rest,
}

impl Holds {
    fn of(letter: &Letter) -> Option<Self> {
        match letter.reason.as_str() {
            "event_time_in_future" => Some(Self::RecordAhead(letter.seen_at)),
            "partition_untrusted" => letter.holds.clone().map(|(events, window)| Self::Slice(events, window)),
            "record_too_large" => Some(Self::Record),
            "gzip_bomb" => Some(Self::Rest),
            _ => None,
        }
    }

    /// The strictest is tried first.
    fn order(&self) -> u8 {
        match self {
            Self::RecordAhead(_) => 0,
            Self::Slice(..) => 1,
            Self::Record => 2,
            Self::Rest => 3,
        }
    }
}

/// What a letter was used for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spent {
    /// A record of a content, by its hash and number.
    Record([u8; 32], u32),
    /// Something that a line counts, by the text or hash that names it.
    Usage(Vec<u8>),
}

/// Where something is: a record of an object, under the names that the evidence has of it.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    pub(super) names: BTreeSet<&'a str>,
    pub(super) content: [u8; 32],
    pub(super) record: u32,
}

/// The letters, and what each of them was used for.
#[derive(Debug)]
pub(super) struct Excuses<'a> {
    letters: Vec<(&'a Letter, Holds, BTreeSet<Spent>)>,
}

impl<'a> Excuses<'a> {
    pub(super) fn new(evidence: &'a EvidenceFile) -> Self {
        let letters = evidence.letters.iter().filter_map(|letter| Some((letter, Holds::of(letter)?, BTreeSet::new())));
        let mut letters: Vec<_> = letters.collect();
        letters.sort_by_key(|(_, holds, _)| holds.order());
        Self { letters }
    }

    /// Uses letters up for something of an hour: one of each object that has it and was counted from. `false`, and none is
    /// used up, if one of them has no letter left that can hold it.
    pub(super) fn excuse(&mut self, named: &[u8], hour: &str, places: &[Known<'_>]) -> bool {
        let mut used = Vec::new();
        for place in places {
            let found = self.letters.iter().position(|(letter, holds, spent)| {
                let is_of_it = place.names.contains(letter.object.as_str()) && may_hold(holds, hour);
                let spends = spends(holds, named, place);
                let left = match holds {
                    Holds::Rest => true,
                    Holds::Slice(events, _) => (spent.len() as u64) < *events,
                    Holds::RecordAhead(_) | Holds::Record => spent.is_empty(),
                };
                is_of_it && (left || spent.contains(&spends))
            });
            let Some(position) = found else {
                for (position, spends) in used {
                    let (_, _, spent): &mut (_, _, BTreeSet<Spent>) = &mut self.letters[position];
                    spent.remove(&spends);
                }
                return false;
            };
            let (_, holds, spent) = &mut self.letters[position];
            let spends = spends(holds, named, place);
            if spent.insert(spends.clone()) {
                used.push((position, spends));
            }
        }
        !places.is_empty()
    }
}

fn may_hold(holds: &Holds, hour: &str) -> bool {
    match holds {
        // More than one hour ahead: the hour it is of had not begun.
        Holds::RecordAhead(seen_at) => time::hour_start(hour).is_some_and(|start| *seen_at < start),
        Holds::Slice(_, window) => hour.starts_with(window.as_str()),
        Holds::Record | Holds::Rest => true,
    }
}

fn spends(holds: &Holds, named: &[u8], place: &Known<'_>) -> Spent {
    match holds {
        Holds::RecordAhead(_) | Holds::Record => Spent::Record(place.content, place.record),
        Holds::Slice(..) | Holds::Rest => Spent::Usage(named.to_vec()),
    }
}
