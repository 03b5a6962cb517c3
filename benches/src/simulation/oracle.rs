//! What must hold: after every step, and when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::acknowledgement::RunAcknowledged;
use ingest::manifest::Manifest;
use ingest::{ContentHash, Identity, Meter};
use reference::Recount;

use super::LATE;
use super::fault::Fault;
use super::month::{by_scope, is_of_month};
use super::naive_money::total_minor;
use super::produced::Stated;
use super::source::{Scope, is_ahead};
use super::world::State;

impl State {
    /// What holds between any two steps; what concerns one write is checked as it lands.
    pub(super) fn check_always(&mut self) {
        self.check_markers();
        self.check_charges();
        let wrong = self
            .rows
            .iter()
            .find(|(key, row)| row.owner != self.owner(&key.1, key.3))
            .map(|(key, row)| (key.clone(), row.clone()));
        self.ensure(wrong.is_none(), || format!("a row has an owner that the directory does not know: {wrong:?}"));
        let changed = self
            .month
            .closes
            .iter()
            .find(|close| close.words != format!("{:?} {} {:?}", close.customer, close.cut, close.totals))
            .map(|close| close.words.clone());
        self.ensure(changed.is_none(), || format!("a close has changed: {changed:?}"));
        let changed = self
            .month
            .invoices
            .iter()
            .find(|one| one.words != format!("{} {:?}", one.number, one.invoice))
            .map(|one| one.number);
        self.ensure(changed.is_none(), || format!("an issued invoice has changed: {changed:?}"));
        let customers: BTreeSet<_> = self.month.invoices.iter().map(|one| one.customer.clone()).collect();
        let issued = self.month.invoices.len();
        self.ensure(customers.len() == issued, || "a month is invoiced twice".to_owned());
        let numbers: Vec<u64> = self.month.invoices.iter().map(|one| one.number).collect();
        let taken = self.month.numbers;
        self.ensure(taken <= issued as u64 + 1, || format!("{taken} numbers are taken by {numbers:?}"));
    }

    /// Whether nothing is left to do.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_read = self.sources.objects.iter().all(|object| object.arrives_at <= self.step && self.is_done(object));
        let is_billed = self.sources.customers.iter().all(|customer| {
            let cut = self.month.closes.iter().rev().find(|close| close.customer == *customer).map(|close| close.cut);
            let issued = self.month.invoices.iter().find(|one| one.customer == *customer).map(|one| one.cut);
            let looked_at = self.month.looked_at.get(customer).copied().unwrap_or_default();
            cut.is_some() && cut == issued && self.changed_at < looked_at
        });
        is_read
            && is_billed
            && self.stream.records.is_empty()
            && self.late_entries.is_empty()
            && self.late_items.is_empty()
            && self.markers.is_empty()
            && self.triggers.is_empty()
            && self.exports_complete().is_empty()
            && self.month.outbox.iter().all(|(_, sent)| *sent)
            && !self.letters.values().any(|letter| letter.is_open)
    }

    /// Everything compared with a recount that shares nothing with the product.
    pub(super) fn check_at_rest(&mut self) {
        self.check_always();
        let truth = self.truth();
        self.check_counts(&truth);
        self.check_reference(&truth);
        self.check_receipts();
        self.check_money(&truth);
    }

    fn check_counts(&mut self, truth: &BTreeMap<Scope, i128>) {
        let mut rows = BTreeMap::<Scope, i128>::new();
        for ((_, account, meter, hour, ..), row) in &self.rows {
            *rows.entry((*meter, *account, *hour)).or_default() += i128::from(row.total);
        }
        for ((_, account, meter, hour, ..), total) in self.fact_rows() {
            let (whole, _) = total.parts();
            *rows.entry((meter, account, hour)).or_default() += whole;
        }
        let differing = differing(&rows, truth);
        self.ensure(differing.is_none(), || {
            format!("rows are not what was delivered: {}", differing.unwrap_or_default())
        });
        let entries = self.counted.len() as i128;
        let counts = truth.iter().filter(|((meter, ..), _)| is_count(*meter)).map(|(_, total)| total).sum::<i128>();
        self.ensure(entries == counts, || format!("logs hold {entries} identities of {counts}"));
    }

    /// The naive recount of the logs as they are delivered comes to the same.
    fn check_reference(&mut self, truth: &BTreeMap<Scope, i128>) {
        let counts: BTreeMap<Scope, i128> =
            truth.iter().filter(|((meter, ..), _)| is_count(*meter)).map(|(scope, total)| (*scope, *total)).collect();
        let produced = self.sources.produced.counts();
        let apart = differing(&produced, &counts);
        self.ensure(apart.is_none(), || {
            format!("the recount is not what was delivered: {}", apart.unwrap_or_default())
        });
        let mut recount = Recount::default();
        for object in self.sources.objects.iter().filter(|object| object.is_cloudtrail) {
            recount.add_object(&object.name, &object.stored, LATE.micros());
        }
        let counted: BTreeMap<(String, String), i128> =
            recount.totals().into_iter().map(|(line, total)| ((line.account, line.hour), i128::from(total))).collect();
        let events = truth.iter().filter(|((meter, ..), _)| *meter == Meter::CloudTrailEvents);
        let expected: BTreeMap<(String, String), i128> =
            events.map(|((_, account, hour), total)| ((account.to_string(), hour.to_string()), *total)).collect();
        self.ensure(counted == expected, || format!("the recount comes to {counted:?}, not {expected:?}"));
    }

    /// A reading that is acknowledged whole: every record of it became one thing, and what it says is in the logs.
    pub(super) fn check_receipt(&mut self, manifest: &Manifest) {
        let none = RunAcknowledged::default();
        let acknowledged = self.acknowledged.get(&manifest.run).unwrap_or(&none);
        if !aggregator::receipts::is_acknowledged(manifest, acknowledged) {
            return;
        }
        let name = &manifest.object.name;
        let of_records =
            acknowledged.slices.values().filter(|slice| !manifest.beside_slices.contains(&slice.slice.number));
        let (mut counted, mut duplicates) = (0, 0);
        for slice in of_records {
            counted += slice.tally.counted;
            duplicates += slice.tally.duplicates;
        }
        let not_counted = manifest.not_counted.values().sum::<u64>();
        let dead = manifest.dead_letters.values().sum::<u64>();
        let kept = self.letters.values().filter(|letter| letter.object == *name).count() as u64;
        // A record that is replayed says less than its object; what lay ahead of the clock may not be counted yet.
        let object = self.sources.objects.iter().find(|one| one.sha256 == manifest.object.sha256);
        let said = object.and_then(|object| self.sources.produced.of_object(&object.name));
        let near = object.into_iter().flat_map(|object| &object.near);
        let ahead: BTreeSet<_> =
            near.filter(|(_, time)| is_ahead(*time, manifest.started_at)).map(|(identity, _)| *identity).collect();
        let missing = said.into_iter().flat_map(|said| &said.identities).find(|((meter, account, hour), identity)| {
            !ahead.contains(identity) && !self.counted.contains(&(*meter, *account, *hour, *identity))
        });
        let missing = missing.map(|(scope, identity)| format!("{identity:?} of {} at {}", scope.1, scope.2));
        let is_stated = |(key, revision, hash): &Stated| {
            let version = (*revision, ContentHash::from_bytes(*hash));
            self.last_stated.get(&Identity::from_bytes(*key)).is_some_and(|last| version <= *last)
        };
        let unstated = said.into_iter().flat_map(|said| &said.facts).find(|stated| !is_stated(stated)).copied();
        let read = manifest.read;
        self.ensure(read == counted + duplicates + not_counted + dead, || {
            format!("{read} records of {name} are {counted} + {duplicates} + {not_counted} + {dead}")
        });
        self.ensure(dead <= kept, || format!("{dead} dead letters of {name} are said, {kept} kept"));
        self.ensure(missing.is_none(), || format!("{name} is acknowledged without {}", missing.unwrap_or_default()));
        self.ensure(unstated.is_none(), || format!("{name} is acknowledged without {unstated:?}"));
    }

    /// What each customer is charged is what a naive rating of the cut comes to.
    fn check_charges(&mut self) {
        let mut wrong = None;
        for issued in &self.month.invoices {
            let close = self.month.closes.iter().find(|one| one.customer == issued.customer && one.cut == issued.cut);
            let expected = close.map(|close| total_minor(&by_scope(&close.totals)));
            let corrections = issued.corrections.iter().map(|correction| i128::from(correction.totals.total.minor()));
            let charged = i128::from(issued.invoice.totals.total.minor()) + corrections.sum::<i128>();
            if expected != Some(charged) {
                wrong = Some(format!("invoice {} and its corrections: {charged}, not {expected:?}", issued.number));
            }
        }
        self.ensure(wrong.is_none(), || wrong.unwrap_or_default());
    }

    fn check_receipts(&mut self) {
        for manifest in self.manifests.clone() {
            self.check_receipt(&manifest);
        }
        let slices = self.acknowledged.values().flat_map(|run| run.slices.values());
        let said: u64 = slices.map(|slice| slice.tally.counted + slice.tally.beside.stated).sum();
        let held = self.counted.len() as u64 + self.stated;
        // What the stream forgot between its count and its acknowledgement was counted by a slice that nobody acknowledges.
        let is_whole = !self.met.contains_key(Fault::StreamLost.as_str());
        self.ensure(said == held || !is_whole && said < held, || {
            format!("slices say that {said} were new, logs hold {held}")
        });
        let poison = self.letters.values().filter(|letter| letter.object.starts_with("stream:")).count() as u64;
        let put = self.sources.stream_poison;
        self.ensure(put <= poison, || format!("{put} records that nobody can read are {poison} dead letters"));
    }

    fn check_money(&mut self, truth: &BTreeMap<Scope, i128>) {
        for customer in self.sources.customers.clone() {
            let of_customer: BTreeMap<Scope, i128> = truth
                .iter()
                .filter(|((_, account, hour), _)| {
                    is_of_month(*hour) && self.owner(account, *hour).as_ref() == Some(&customer)
                })
                .map(|(scope, total)| (*scope, *total))
                .collect();
            let close = self.month.closes.iter().rev().find(|close| close.customer == customer);
            let closed = close.map(|close| by_scope(&close.totals)).unwrap_or_default();
            let differing = differing(&closed, &of_customer);
            let who = customer.as_str();
            self.ensure(differing.is_none(), || {
                format!("the last cut of {who} is wrong: {}", differing.unwrap_or_default())
            });
            let Some(issued) = self.month.invoices.iter().find(|one| one.customer == customer) else { continue };
            let corrections = issued.corrections.iter().map(|correction| i128::from(correction.totals.total.minor()));
            let charged = i128::from(issued.invoice.totals.total.minor()) + corrections.sum::<i128>();
            let expected = total_minor(&of_customer);
            self.ensure(charged == expected, || format!("{who} is charged {charged}, not {expected}"));
        }
        let numbers: Vec<u64> = self.month.invoices.iter().map(|one| one.number).collect();
        let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
        let taken = self.month.numbers;
        self.ensure(numbers == expected && taken == numbers.len() as u64, || {
            format!("numbers have gaps: {taken} taken, issued {numbers:?}")
        });
        let unmailed = numbers.iter().find(|number| !self.month.mailed.contains_key(number)).copied();
        self.ensure(unmailed.is_none(), || format!("no mail for invoice {unmailed:?}"));
    }
}

fn is_count(meter: Meter) -> bool {
    matches!(meter, Meter::CloudTrailEvents | Meter::GuardDutyFindings)
}

/// The first scope that is not the same; what is nothing need not be said.
fn differing(found: &BTreeMap<Scope, i128>, expected: &BTreeMap<Scope, i128>) -> Option<String> {
    let scopes: BTreeSet<&Scope> = found.keys().chain(expected.keys()).collect();
    scopes.into_iter().find_map(|scope| {
        let (found, expected) =
            (found.get(scope).copied().unwrap_or_default(), expected.get(scope).copied().unwrap_or_default());
        (found != expected).then(|| format!("{} of {} at {} is {found}, not {expected}", scope.0, scope.1, scope.2))
    })
}
