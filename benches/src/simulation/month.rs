//! The end of a month: closes, invoices, what corrects them, and mail.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use aggregator::close::{CustomerTotals, Period, Snapshot, TotalKey, totals_at};
use aggregator::directory::CustomerId;
use aggregator::partition::Partition;
use billing::{
    Correction, Days, Fraction, Invoice, Month as BilledMonth, RateCard, Share, Standing, Stretch, TaxRate, Terms,
    Usage, UsagePart, Windows, day_of, draft,
};
use ingest::{Hour, Quantity, Reason, Window};

use super::actors::METERS;
use super::fault::{Fault, Sabotage};
use super::log::Logs;
use super::naive_money::CARD;
use super::source::Scope;
use super::world::{Letter, State, World, step};

pub(super) const MONTH: &str = "2026-10";

/// What is fixed of the month, customer by customer.
#[derive(Debug, Default)]
pub(super) struct Month {
    pub(super) closes: Vec<Close>,
    /// When each customer was last looked at and nothing was missing: the step its snapshot is of.
    pub(super) looked_at: BTreeMap<CustomerId, u64>,
    pub(super) invoices: Vec<Issued>,
    /// Numbers that are taken.
    pub(super) numbers: u64,
    /// Documents whose mail waits, and whether it was sent.
    pub(super) outbox: Vec<(u64, bool)>,
    /// Mail that went out, by document.
    pub(super) mailed: BTreeMap<u64, u64>,
}

#[derive(Debug)]
pub(super) struct Close {
    pub(super) customer: CustomerId,
    pub(super) cut: u64,
    /// The step its snapshot is of.
    pub(super) looked_at: u64,
    pub(super) totals: BTreeMap<TotalKey, Quantity>,
    /// What it said when it was written; it must say so for ever.
    pub(super) words: String,
}

#[derive(Debug)]
pub(super) struct Issued {
    pub(super) customer: CustomerId,
    pub(super) number: u64,
    pub(super) invoice: Invoice,
    pub(super) words: String,
    pub(super) corrections: Vec<Correction>,
    /// The newest cut it is corrected to.
    pub(super) cut: u64,
}

/// Closes the month whenever nothing is missing and something has changed.
pub(super) async fn close(world: Arc<World>, process: u32) {
    let period = Period::parse(MONTH).expect("a month");
    let log = Logs { world: Arc::clone(&world), process, is_writer: false };
    loop {
        step().await;
        // Read before the cut: what is acknowledged here must be rolled up there.
        let (demand, acknowledged) = {
            let mut state = world.lock();
            let percent = if state.is_calm { 30 } else { 6 };
            let is_time = state.draws.percent(percent);
            // Somebody closes whatever is missing, and says why.
            let is_overridden = state.draws.percent(15) && !state.is_calm;
            if !is_time || state.needs_no_close() || !(is_overridden || state.is_all_read()) {
                continue;
            }
            let slices = state.acknowledged.values().flat_map(|run| run.slices.values());
            let acknowledged: Vec<_> = slices.flat_map(|slice| slice.through.iter().cloned()).collect();
            if is_overridden { (None, Vec::new()) } else { (Some(state.truth()), acknowledged) }
        };
        step().await;
        let (snapshot, rows, looked_at) = {
            let state = world.lock();
            if acknowledged.iter().any(|(log, version)| state.cursor(&log.to_string()) < *version)
                || !state.exports_complete().is_empty()
            {
                continue;
            }
            let cursors =
                state.cursors.iter().map(|(name, version)| (Partition::parse(name).expect("a name"), *version));
            let (owners, directory_version) = (state.owners.clone(), state.directory_version);
            let mut cursors: BTreeMap<Partition, u64> = cursors.collect();
            if state.is(Sabotage::FoldToTheEnd) {
                for (partition, log) in &state.logs {
                    cursors.insert(partition.clone(), log.len() as u64);
                }
            }
            (Snapshot { directory_version, owners, cursors }, state.totals_by_customer(), state.step)
        };
        step().await;
        let customers = world.lock().sources.customers.clone();
        let folded = match totals_at(&log, &snapshot, &METERS, period, &customers).await {
            Ok(folded) => folded,
            Err(error) => {
                let (is_passing, said) = (!error.is_of_the_logs(), error.to_string());
                world.lock().ensure(is_passing, || format!("the month cannot be folded: {said}"));
                continue;
            }
        };
        for (customer, totals) in folded {
            step().await;
            let mut state = world.lock();
            let known = rows.get(&customer).cloned().unwrap_or_default();
            state.add_close(&customer, &totals, &known, &snapshot, demand.as_ref(), looked_at);
        }
    }
}

impl State {
    pub(super) fn truth(&self) -> BTreeMap<Scope, i128> {
        self.sources.truth(self.step).totals()
    }

    /// Whether the last look at everybody is newer than the last change.
    fn needs_no_close(&self) -> bool {
        let looked_at = |customer| self.month.looked_at.get(customer).copied().unwrap_or_default();
        self.sources.customers.iter().all(|customer| self.changed_at < looked_at(customer))
    }

    /// Whether everything that is there is done, and nothing waits for somebody.
    fn is_all_read(&self) -> bool {
        let there = self.sources.there(self.step);
        // What lies ahead of the clock is not of the month, and holds up another.
        let holds_up = |letter: &Letter| letter.is_open && letter.reason != Reason::EventTimeInFuture;
        there.into_iter().all(|(_, object)| self.is_done(object)) && !self.letters.values().any(holds_up)
    }

    /// Usage rows by customer, as a close sees them.
    pub(super) fn totals_by_customer(&self) -> BTreeMap<CustomerId, BTreeMap<TotalKey, Quantity>> {
        let counts = self.rows.iter().map(|(key, row)| (key, Quantity::whole(row.total.into()), row.owner.clone()));
        let facts = self.fact_rows();
        let facts = facts.iter().map(|(key, total)| (key, *total, self.owner(&key.1, key.3)));
        let mut by_customer = BTreeMap::<CustomerId, BTreeMap<TotalKey, Quantity>>::new();
        for ((_, account, meter, window, region, category), total, owner) in counts.chain(facts) {
            let Some(owner) = owner.filter(|_| is_of_month(*window)) else { continue };
            let key = TotalKey {
                account: *account,
                meter: *meter,
                window: *window,
                region: region.clone(),
                category: category.clone(),
            };
            let sum = by_customer.entry(owner).or_default().entry(key).or_insert(Quantity::ZERO);
            *sum = sum.checked_add(total).expect("small totals");
        }
        by_customer
    }

    fn take_number(&mut self) -> u64 {
        self.month.numbers += 1;
        self.month.numbers
    }

    fn queue_next_mail(&mut self) {
        let number = self.month.numbers + 1;
        self.month.outbox.push((number, false));
    }

    fn add_close(
        &mut self,
        customer: &CustomerId,
        totals: &CustomerTotals,
        rows: &BTreeMap<TotalKey, Quantity>,
        snapshot: &Snapshot,
        demand: Option<&BTreeMap<Scope, i128>>,
        looked_at: u64,
    ) {
        self.ensure(totals.untrusted.is_empty(), || format!("logs are not trusted: {:?}", totals.untrusted));
        let folded: BTreeMap<TotalKey, Quantity> =
            totals.totals.iter().map(|(key, closed)| (key.clone(), closed.total)).collect();
        self.ensure(folded == *rows, || format!("rows of {} are {rows:?}, logs come to {folded:?}", customer.as_str()));
        let closed = by_scope(&folded);
        // Exact for counts: they only grow. Facts may be restated meanwhile, and are compared at the end.
        let owns = |scope: &Scope| {
            let owners = snapshot.owners.get(&scope.1);
            owners.is_some_and(|all| {
                all.iter().any(|one| {
                    one.customer == *customer && one.from <= scope.2 && one.until.is_none_or(|until| scope.2 < until)
                })
            })
        };
        let is_count =
            |scope: &Scope| matches!(scope.0, ingest::Meter::CloudTrailEvents | ingest::Meter::GuardDutyFindings);
        let missing = demand.into_iter().flatten().find(|(scope, total)| {
            is_count(scope)
                && is_of_month(scope.2)
                && owns(scope)
                && closed.get(scope).copied().unwrap_or_default() < **total
        });
        self.ensure(missing.is_none(), || format!("{} is closed without {missing:?}", customer.as_str()));
        if demand.is_some() {
            let looked = self.month.looked_at.entry(customer.clone()).or_default();
            *looked = looked_at.max(*looked);
        } else {
            self.meet("override");
        }
        let last = self.month.closes.iter().rev().find(|close| close.customer == *customer);
        // Closes of a customer come one after the other: a look that is older than the last one says nothing new.
        if last.is_some_and(|last| last.totals == folded || looked_at <= last.looked_at) {
            return;
        }
        let cut = last.map_or(1, |last| last.cut + 1);
        let logs: u64 = totals
            .cut
            .iter()
            .filter(|(log, _)| matches!(log.window, Window::Hour(_)))
            .map(|(_, version)| *version)
            .sum();
        self.say(|| format!("cut {cut} of {}: {} totals, {logs} entries", customer.as_str(), folded.len()));
        self.meet("close");
        let words = format!("{customer:?} {cut} {folded:?}");
        self.month.closes.push(Close { customer: customer.clone(), cut, looked_at, totals: folded, words });
    }
}

/// Whether an hour is of the month that is closed.
pub(super) fn is_of_month(hour: Hour) -> bool {
    hour.to_string().starts_with(MONTH)
}

pub(super) fn by_scope(totals: &BTreeMap<TotalKey, Quantity>) -> BTreeMap<Scope, i128> {
    let mut scopes = BTreeMap::new();
    for (key, total) in totals {
        let (whole, places) = total.parts();
        assert_eq!(places, 0, "the simulated usage is whole");
        *scopes.entry((key.meter, key.account, key.window)).or_default() += whole;
    }
    scopes
}

static RATES: LazyLock<RateCard> =
    LazyLock::new(|| RateCard::parse(CARD, "simulated", Some(&*METERS)).expect("a card"));

fn terms(customer: &CustomerId) -> Terms {
    let month = BilledMonth::parse(MONTH).expect("a month");
    Terms {
        customer: customer.as_str().to_owned(),
        month,
        contract_start: "2026-01-01".parse().expect("a day"),
        contract_end: None,
        currency: RATES.currency(),
        stretches: vec![Stretch { days: month.all_days(), rate_card_id: None, card: RATES.clone() }],
        promotions: Vec::new(),
        prepaid: Vec::new(),
        coupons: Vec::new(),
        taxes: vec![TaxRate::of_customer(Share::new("0.08".parse().expect("a number")).expect("a share"))],
    }
}

/// The invoice that closed totals come to.
fn rated(customer: &CustomerId, totals: &BTreeMap<TotalKey, Quantity>) -> Invoice {
    let mut usage = Usage::default();
    for (key, total) in totals {
        let (mantissa, scale) = total.parts();
        let total = Fraction::new(mantissa, 10_i128.pow(scale.into())).expect("not zero");
        let day = day_of(key.window.start());
        let days = Days::new(day, day.succ_opt().expect("not the last day")).expect("one day");
        let start = key.window.start();
        let windows = Windows::new(start, start.saturating_add_secs(3_600), 1);
        usage.add(UsagePart { meter: key.meter, days, peak: total.clone(), total, windows }).expect("small totals");
    }
    draft(&terms(customer), &usage).expect("terms and usage that fit")
}

/// Issues an invoice from the first close, and corrects it to every later one.
pub(super) async fn bill(world: Arc<World>) {
    loop {
        step().await;
        let Some((customer, cut, totals, standing, number)) = to_bill(&world) else { continue };
        let invoice = rated(&customer, &totals);
        step().await;
        let Some((standing, at)) = standing else {
            issue(&world, customer, cut, invoice).await;
            continue;
        };
        let correction =
            standing.correction_to(&invoice, &format!("INV-{number}"), "late usage").expect("one currency");
        step().await;
        let mut state = world.lock();
        let state = &mut *state;
        if state.strikes(Fault::Rollback, 6) {
            continue;
        }
        let issued = state.month.invoices.iter_mut().find(|one| one.customer == customer).expect("it was there");
        if issued.cut != at {
            continue;
        }
        issued.cut = cut;
        let amount = correction.as_ref().map(|correction| correction.totals.total.minor());
        issued.corrections.extend(correction);
        state.say(|| format!("invoice {number} is corrected to cut {cut}: {amount:?}"));
        if amount.is_some() {
            state.meet("correction");
        }
    }
}

type ToBill = (CustomerId, u64, BTreeMap<TotalKey, Quantity>, Option<(Standing, u64)>, u64);

fn to_bill(world: &World) -> Option<ToBill> {
    let mut state = world.lock();
    let state = &mut *state;
    let customer = state.sources.customers[usize::try_from(state.draws.below(2)).unwrap_or(0)].clone();
    let close = state.month.closes.iter().rev().find(|close| close.customer == customer)?;
    let issued = state.month.invoices.iter().find(|one| one.customer == customer);
    let Some(issued) = issued else { return Some((customer, close.cut, close.totals.clone(), None, 0)) };
    if close.cut <= issued.cut {
        return None;
    }
    let mut standing = Standing::of(&issued.invoice).expect("small amounts");
    if !state.is(Sabotage::AdjustFromInvoice) {
        for correction in &issued.corrections {
            standing = standing.corrected(correction).expect("small amounts");
        }
    }
    Some((customer, close.cut, close.totals.clone(), Some((standing, issued.cut)), issued.number))
}

/// Number, invoice and mail in one transaction, whose answer may be lost.
async fn issue(world: &World, customer: CustomerId, cut: u64, invoice: Invoice) {
    let (is_number_first, is_mail_first) = {
        let state = world.lock();
        (state.is(Sabotage::NumberFirst), state.is(Sabotage::MailFirst))
    };
    let mut taken = None;
    if is_number_first {
        taken = Some(world.lock().take_number());
        step().await;
    }
    if is_mail_first {
        world.lock().queue_next_mail();
        step().await;
    }
    {
        let mut state = world.lock();
        let state = &mut *state;
        let is_issued = state.month.invoices.iter().any(|one| one.customer == customer);
        if state.strikes(Fault::Rollback, 8) || is_issued && !state.is(Sabotage::IssueTwice) {
            return;
        }
        let number = taken.unwrap_or_else(|| state.take_number());
        state.say(|| format!("invoice {number} for {}: {}", customer.as_str(), invoice.totals.total.minor()));
        let words = format!("{number} {invoice:?}");
        state.month.invoices.push(Issued { customer, number, invoice, words, corrections: Vec::new(), cut });
        if !is_mail_first {
            state.month.outbox.push((number, false));
        }
    }
    step().await;
}

/// Sends what waits, at least once.
pub(super) async fn mail(world: Arc<World>) {
    loop {
        step().await;
        let Some(number) = world.lock().month.outbox.iter().find(|(_, sent)| !sent).map(|(number, _)| *number) else {
            continue;
        };
        step().await;
        {
            let mut state = world.lock();
            let is_issued = state.month.invoices.iter().any(|one| one.number == number);
            state.ensure(is_issued, || format!("mail goes out for invoice {number}, which is not issued"));
            *state.month.mailed.entry(number).or_default() += 1;
            state.say(|| format!("mail for invoice {number}"));
        }
        step().await;
        let mut state = world.lock();
        if let Some(row) = state.month.outbox.iter_mut().find(|(waiting, _)| *waiting == number) {
            row.1 = true;
        }
    }
}
