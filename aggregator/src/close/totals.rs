//! What customers' usage of a period came to at a cut, recomputed from the logs.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use ingest::{AccountId, Bucket, Hour, Identity, Meter, Meters, Quantity, RunId, Window};
use sha2::{Digest, Sha256};

use super::facts::{self, FactTotals, Keep};
use super::period::Period;
use super::prefix::{CountedHour, Cut, PrefixError, read_hour};
use super::snapshot::{Snapshot, TotalKey};
use crate::commit_log::CommitLog;
use crate::directory::CustomerId;
use crate::partition::Partition;

/// Logs read at once.
const READS_AT_ONCE: usize = 16;

/// A total and what makes it checkable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedTotal {
    /// In raw units, exact.
    pub total: Quantity,
    /// SHA-256 over the sorted identities, 16 bytes each; of facts, over what bears on the line the total is part of.
    pub identities_sha256: [u8; 32],
}

/// Names a line of evidence. Regions and categories do not tell usage apart, so a line is over all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineKey {
    /// Whose usage.
    pub account: AccountId,
    /// Of what.
    pub meter: Meter,
    /// The hour it happened in.
    pub window: Hour,
}

/// What one customer's period came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomerTotals {
    /// Every counter, as billing rates it.
    pub totals: BTreeMap<TotalKey, ClosedTotal>,
    /// Every line, as evidence has it.
    pub lines: BTreeMap<LineKey, ClosedTotal>,
    /// How far the logs were read that its accounts are counted in.
    pub cut: BTreeMap<Partition, u64>,
    /// The readings its usage was counted from.
    pub runs: BTreeSet<RunId>,
    /// Entries of those logs behind the cut: of whoever, and in the next one.
    pub entries_after: u64,
    /// Logs that cannot be trusted; what they hold is in no total.
    pub untrusted: Vec<String>,
}

/// SHA-256 over identities in the order given, 16 bytes each.
pub(super) fn identities_sha256<'a>(sorted: impl IntoIterator<Item = &'a Identity>) -> [u8; 32] {
    let hash = sorted.into_iter().fold(Sha256::new(), |hash, identity| hash.chain_update(identity.as_bytes()));
    hash.finalize().into()
}

/// What customers' usage of a period comes to, recomputed from the logs up to where the snapshot says that they are rolled
/// up: counts and facts, by customer. Passes over whatever the logs hold behind that.
pub async fn totals_at<L: CommitLog>(
    log: &L,
    snapshot: &Snapshot,
    meters: &Meters,
    period: Period,
    customers: &[CustomerId],
) -> Result<BTreeMap<CustomerId, CustomerTotals>, PrefixError> {
    let facts = facts::fold(log, snapshot, meters, period, Keep::Hashes).await?;
    let mut folded = fold(log, snapshot, period, customers).await?;
    add_facts(&mut folded, &facts, snapshot);
    Ok(folded)
}

/// Folds every log of the period that the customers' accounts are counted in, up to where it is rolled up.
pub(super) async fn fold<L: CommitLog>(
    log: &L,
    snapshot: &Snapshot,
    period: Period,
    customers: &[CustomerId],
) -> Result<BTreeMap<CustomerId, CustomerTotals>, PrefixError> {
    let mut folded: BTreeMap<CustomerId, CustomerTotals> =
        customers.iter().map(|customer| (customer.clone(), CustomerTotals::default())).collect();
    let mut buckets = BTreeMap::<Bucket, BTreeSet<&CustomerId>>::new();
    for customer in customers {
        for (account, _) in snapshot.owned_by(customer) {
            buckets.entry(account.bucket()).or_default().insert(customer);
        }
    }
    let roots: BTreeSet<(Bucket, Hour)> = snapshot
        .cursors
        .keys()
        .filter_map(|partition| Some((partition.bucket, partition.hour()?)))
        .filter(|(bucket, hour)| buckets.contains_key(bucket) && period.has(*hour))
        .collect();
    let cut = Cut::At(&snapshot.cursors);
    let mut hours = stream::iter(roots)
        .map(|(bucket, hour)| async move {
            (bucket, hour, read_hour(log, Partition::root(bucket, Window::Hour(hour)), cut).await)
        })
        .buffered(READS_AT_ONCE);
    while let Some((bucket, hour, read)) = hours.next().await {
        let of_bucket = &buckets[&bucket];
        match read {
            Ok(counted) => add_hour(&mut folded, snapshot, of_bucket, hour, counted),
            Err(error) if error.is_of_the_logs() => {
                for customer in of_bucket {
                    of(&mut folded, customer).untrusted.push(error.to_string());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(folded)
}

/// Adds what facts come to. A line has the sum of its totals.
pub(super) fn add_facts(folded: &mut BTreeMap<CustomerId, CustomerTotals>, facts: &FactTotals, snapshot: &Snapshot) {
    for (key, total) in &facts.totals {
        let Some(totals) = snapshot.owner(&key.account, key.window).and_then(|owner| folded.get_mut(owner)) else {
            continue;
        };
        let line = LineKey { account: key.account, meter: key.meter, window: key.window };
        // Without one, something of the bucket could not be evaluated, and nothing is closed.
        let Some(&identities_sha256) = facts.lines.get(&line) else { continue };
        let of_line = totals.lines.entry(line).or_insert(ClosedTotal { total: Quantity::ZERO, identities_sha256 });
        match of_line.total.checked_add(*total) {
            Some(sum) => of_line.total = sum,
            None => totals.untrusted.push(format!("{} of account {} is out of range", key.meter, key.account)),
        }
        totals.totals.insert(key.clone(), ClosedTotal { total: *total, identities_sha256 });
    }
    for (customer, totals) in folded {
        let accounts: BTreeSet<AccountId> =
            snapshot.owned_by(customer).into_iter().map(|(account, _)| account).collect();
        for account in &accounts {
            totals.runs.extend(facts.runs.get(account).into_iter().flatten());
        }
        for bucket in accounts.iter().map(AccountId::bucket).collect::<BTreeSet<_>>() {
            let logs = facts.cut.get(&bucket).into_iter().flatten();
            totals.cut.extend(logs.map(|(log, version)| (log.clone(), *version)));
            totals.entries_after += facts.entries_after.get(&bucket).copied().unwrap_or_default();
            totals.untrusted.extend(facts.untrusted.get(&bucket).into_iter().flatten().cloned());
        }
    }
}

fn of<'a>(folded: &'a mut BTreeMap<CustomerId, CustomerTotals>, customer: &CustomerId) -> &'a mut CustomerTotals {
    folded.get_mut(customer).expect("every customer has totals, empty ones at first")
}

fn add_hour(
    folded: &mut BTreeMap<CustomerId, CustomerTotals>,
    snapshot: &Snapshot,
    of_bucket: &BTreeSet<&CustomerId>,
    hour: Hour,
    counted: CountedHour,
) {
    for customer in of_bucket {
        let totals = of(folded, customer);
        totals.cut.extend(counted.versions.iter().map(|(partition, version)| (partition.clone(), *version)));
        totals.entries_after += counted.entries_after;
    }
    let mut lines = BTreeMap::<LineKey, Vec<Identity>>::new();
    for (counter, identities) in counted.counters {
        let Some(customer) = snapshot.owner(&counter.account, hour).filter(|owner| of_bucket.contains(owner)) else {
            continue;
        };
        let totals = of(folded, customer);
        if let Some(runs) = counted.runs.get(&counter.account) {
            totals.runs.extend(runs);
        }
        let key = TotalKey {
            account: counter.account,
            meter: counter.meter,
            window: hour,
            region: counter.dimensions.region.into_owned(),
            category: counter.dimensions.category.into_owned(),
        };
        totals.totals.insert(key, closed(&identities));
        let line = LineKey { account: counter.account, meter: counter.meter, window: hour };
        lines.entry(line).or_default().extend(identities);
    }
    for (line, mut identities) in lines {
        identities.sort_unstable();
        let customer = snapshot.owner(&line.account, hour).expect("it was just looked up");
        of(folded, customer).lines.insert(line, closed(&identities));
    }
}

fn closed(sorted: &[Identity]) -> ClosedTotal {
    let count = i128::try_from(sorted.len()).expect("a count fits");
    ClosedTotal { total: Quantity::whole(count), identities_sha256: identities_sha256(sorted) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use futures::FutureExt as _;
    use ingest::{CounterKey, Dimensions, RunId, Slice, SliceGroup, SliceId};
    use proptest::prelude::*;
    use reference::{Line, Recount, Unit};

    use super::*;
    use crate::commit::{Limits, Loaded, commit};
    use crate::directory::Ownership;
    use crate::entry::{CommitId, Content};
    use crate::memory_log::MemoryLog;

    /// Entries of a few identities, logs that split soon.
    const SMALL: Limits = Limits { entry_bytes_max: 600, split_at_identities: 6 };

    /// One event: account, hour, region, identity.
    type Event = (u8, u8, u8, u8);

    fn period() -> Period {
        Period::parse("2026-10").unwrap()
    }

    fn account(number: u8) -> AccountId {
        AccountId::parse(&format!("{number:012}")).unwrap()
    }

    fn hour(number: u8) -> Hour {
        // The last hours of September, and the first of October.
        Hour::from_number(period().start().hour().number() - 2 + i64::from(number)).unwrap()
    }

    fn identity(number: u8) -> Identity {
        Identity::from_bytes([number; 16])
    }

    fn customer(name: &str) -> CustomerId {
        CustomerId::parse(name).unwrap()
    }

    /// Account 0 is anna's, account 1 goes from anna to berta in the fourth hour, account 2 is nobody's.
    fn snapshot(cursors: BTreeMap<Partition, u64>) -> Snapshot {
        let owned = |name: &str, from: u8, until: Option<u8>| Ownership {
            customer: customer(name),
            from: hour(from),
            until: until.map(hour),
        };
        let owners = [
            (account(0), vec![owned("anna", 0, None)]),
            (account(1), vec![owned("anna", 0, Some(4)), owned("berta", 4, None)]),
        ];
        Snapshot { directory_version: 1, owners: owners.into(), cursors }
    }

    fn owner(account: u8, hour: u8) -> Option<&'static str> {
        match account {
            0 => Some("anna"),
            1 if hour < 4 => Some("anna"),
            1 => Some("berta"),
            _ => None,
        }
    }

    /// One slice for each event, in a run of its own.
    fn slice(run: u8, (number, of_hour, region, id): Event) -> Slice {
        let account = account(number);
        let dimensions = Dimensions { region: format!("r{region}").into(), category: "c".into() };
        let counter = CounterKey { meter: Meter::CloudTrailEvents, account, dimensions };
        let at = hour(of_hour).start();
        let groups = vec![SliceGroup { counter, identities: vec![identity(id)], first: at, last: at }];
        let id = SliceId { run: RunId::from_bytes([run; 16]), number: u32::from(id) };
        Slice::of_counts(id, account.bucket(), hour(of_hour), groups)
    }

    /// Commits deliveries one by one, by writers that know nothing of each other.
    fn count(log: &MemoryLog, deliveries: &[(u8, Event)]) {
        let mut caches = [HashMap::new(), HashMap::new()];
        let next = std::sync::atomic::AtomicU64::new(1);
        let id = || CommitId(u128::from(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).to_be_bytes());
        for (position, (run, event)) in deliveries.iter().enumerate() {
            let slice = slice(*run, *event);
            let place = (slice.bucket, hour(event.1));
            let loaded = caches[position % 2].entry(place).or_insert_with(Loaded::new);
            commit(log, loaded, &[slice], &id, SMALL).now_or_never().expect("a log in memory never waits").unwrap();
        }
    }

    type Lines = BTreeMap<(&'static str, LineKey), (Quantity, [u8; 32])>;

    fn folded(log: &MemoryLog, cursors: BTreeMap<Partition, u64>) -> Lines {
        let customers = [customer("anna"), customer("berta")];
        let snapshot = snapshot(cursors);
        let folded = fold(log, &snapshot, period(), &customers);
        let folded = folded.now_or_never().expect("a log in memory never waits").unwrap();
        let mut lines = Lines::new();
        for (name, customer) in ["anna", "berta"].into_iter().zip(&customers) {
            let totals = &folded[customer];
            let mut by_line = BTreeMap::<LineKey, i128>::new();
            for (key, closed) in &totals.totals {
                let line = LineKey { account: key.account, meter: key.meter, window: key.window };
                *by_line.entry(line).or_default() += closed.total.parts().0;
            }
            for (line, closed) in &totals.lines {
                assert_eq!(closed.total, Quantity::whole(by_line[line]), "counters add up to their line");
                lines.insert((name, line.clone()), (closed.total, closed.identities_sha256));
            }
        }
        lines
    }

    /// The naive recount's lines, by owner, of the period.
    fn expected(recount: &Recount) -> Lines {
        let mut lines = Lines::new();
        for number in 0..3 {
            for of_hour in 2..6 {
                let line = Line {
                    meter: Meter::CloudTrailEvents.to_string(),
                    account: account(number).to_string(),
                    hour: hour(of_hour).to_string(),
                };
                let count = recount.identities(&line).len();
                if let (Some(owner), 1..) = (owner(number, of_hour), count) {
                    let key =
                        LineKey { account: account(number), meter: Meter::CloudTrailEvents, window: hour(of_hour) };
                    let total = Quantity::whole(i128::try_from(count).unwrap());
                    lines.insert((owner, key), (total, recount.identities_sha256(&line)));
                }
            }
        }
        lines
    }

    fn unit((number, of_hour, region, id): Event) -> Unit {
        Unit {
            meter: Meter::CloudTrailEvents.to_string(),
            account: account(number).to_string(),
            hour: hour(of_hour).to_string(),
            identity: [id; 16],
            region: format!("r{region}"),
            category: "c".to_owned(),
        }
    }

    proptest! {
        #[test]
        fn closed_totals_are_the_naive_recount_whatever_the_interleaving_and_the_cut(
            events in proptest::collection::vec((0..3_u8, 0..6_u8, 0..2_u8, 0..12_u8), 0..80),
            order in proptest::collection::vec((0..4_u8, any::<proptest::sample::Index>()), 0..160),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 1..40),
        ) {
            // Each delivery is of some event, by some run: most come twice, in any order.
            let chosen = order.iter().filter(|_| !events.is_empty()).map(|(run, which)| (*run, *which.get(&events)));
            let deliveries: Vec<(u8, Event)> = chosen.collect();
            let log = MemoryLog::default();
            count(&log, &deliveries);
            let logs = log.logs();

            let mut all = Recount::default();
            for (_, event) in &deliveries {
                all.add(unit(*event));
            }
            let ends = logs.iter().map(|(partition, entries)| (partition.clone(), entries.len() as u64)).collect();
            prop_assert_eq!(folded(&log, ends), expected(&all));

            // A cut anywhere: what stands before it in each log, and nothing else.
            let mut cursors = BTreeMap::new();
            let mut before = Recount::default();
            for ((partition, entries), cut) in logs.iter().zip(cuts.iter().cycle()) {
                let at = cut.index(entries.len() + 1);
                cursors.insert(partition.clone(), at as u64);
                for entry in &entries[..at] {
                    let Content::Counted { groups, .. } = &entry.content else { continue };
                    for group in groups {
                        for id in &group.identities {
                            before.add(Unit {
                                identity: *id.as_bytes(),
                                hour: partition.hour().unwrap().to_string(),
                                account: group.counter.account.to_string(),
                                ..unit((0, 0, 0, 0))
                            });
                        }
                    }
                }
            }
            cursors.retain(|_, at| 0 < *at);
            prop_assert_eq!(folded(&log, cursors), expected(&before));
        }
    }
}
