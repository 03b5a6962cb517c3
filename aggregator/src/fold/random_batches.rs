//! Any events in any slices, folded in any portions, against a set.

use std::collections::BTreeSet;

use ingest::{AccountId, CounterKey, Dimensions, Hour, Identity, Meter, RunId, Slice, SliceGroup, SliceId, Window};
use proptest::prelude::*;

use super::{Tally, fold};
use crate::entry::{CommitId, Entry};
use crate::known::Known;
use crate::partition::Partition;

const REGIONS: [&str; 3] = ["eu-west-1", "us-east-1", "none"];

fn slice(number: usize, events: &[(usize, u8)]) -> Slice {
    let account = AccountId::parse("000000000012").unwrap();
    let hour = Hour::parse_key("2026-10-01T13").unwrap();
    let group = |region: usize| {
        let identities = events.iter().filter(|(of, _)| *of == region).map(|(_, id)| Identity::from_bytes([*id; 16]));
        let dimensions = Dimensions { region: REGIONS[region].into(), category: "Management".into() };
        let counter = CounterKey { meter: Meter::CloudTrailEvents, account, dimensions };
        SliceGroup { counter, identities: identities.collect(), first: hour.start(), last: hour.start() }
    };
    let groups: Vec<_> = (0..REGIONS.len()).map(group).filter(|group| !group.identities.is_empty()).collect();
    let id = SliceId { run: RunId::from_bytes([1; 16]), number: u32::try_from(number).unwrap() };
    Slice::of_counts(id, account.bucket(), hour, groups)
}

/// Folds a batch and takes in its entries, each of which is checked as it is.
fn count(known: &mut Known, batch: &[Slice], entry_bytes_max: usize) -> Vec<Tally> {
    let folded = fold(known, batch, entry_bytes_max);
    assert!(folded.to_children.is_empty(), "nothing is split");
    for content in folded.contents {
        let entry = Entry { version: known.version() + 1, commit: CommitId([7; 16]), content };
        known.apply(&entry).unwrap();
    }
    folded.tallies
}

proptest! {
    #[test]
    fn however_a_batch_is_cut_each_event_counts_once_and_a_redelivery_says_the_same(
        slices in prop::collection::vec(prop::collection::vec((0..REGIONS.len(), 0..20_u8), 1..30), 1..7),
        cut in 0..7_usize,
        entry_bytes_max in 1..3_000_usize,
    ) {
        let distinct: BTreeSet<u8> = slices.iter().flatten().map(|(_, id)| *id).collect();
        let slices: Vec<Slice> = slices.iter().enumerate().map(|(number, events)| slice(number, events)).collect();
        let mut known = Known::empty(Partition::root(slices[0].bucket, Window::Hour(Hour::parse_key("2026-10-01T13").unwrap())));
        let (first, second) = slices.split_at(cut.min(slices.len()));
        let mut tallies = count(&mut known, first, entry_bytes_max);
        tallies.extend(count(&mut known, second, entry_bytes_max));
        prop_assert_eq!(known.identities(), distinct.len());
        prop_assert_eq!(tallies.iter().map(|tally| tally.counted).sum::<u64>(), distinct.len() as u64);
        for (slice, tally) in slices.iter().zip(&tallies) {
            prop_assert_eq!(tally.all(), slice.events() as u64);
        }
        let version = known.version();
        prop_assert_eq!(count(&mut known, &slices, entry_bytes_max), tallies);
        prop_assert_eq!(known.version(), version, "a redelivery writes nothing");
    }
}
