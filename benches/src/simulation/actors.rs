//! The processes of the simulated world: each does its work over and over, and may be ended between any two steps.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use aggregator::acknowledgement::Unswept;
use aggregator::aggregator::Aggregator;
use aggregator::commit::Gain;
use aggregator::directory::{Change, Ownership, place};
use aggregator::partition::Partition;
use aggregator::records::{DeliveredRecord, Shard};
use aggregator::rollup::{RollUp, RollUpError};
use aggregator::usage_rows::{AdvanceError, DatabaseError};
use ingest::dead_letter::DeadLetter;
use ingest::manifest::Manifest;
use ingest::{
    Beside, Declarations, Identity, Meters, Packer, Reason, Rules, RunId, Slice, Statement, Timestamp, UsageEvent,
    UsageFact, Verdict, read_object, stream_format,
};

use super::fault::{Fault, Sabotage};
use super::log::Logs;
use super::receipts::{Acknowledgements, Letters};
use super::rows::Rows;
use super::source::Object;
use super::world::{Letter, State, World, next_id, step};

pub(super) type Process = Pin<Box<dyn Future<Output = ()>>>;

/// How often an operator looks whether what was replayed is counted.
const REPLAY_PATIENCE: usize = 40;

/// Begins a process with a number of its own.
type Begin = fn(Arc<World>, u32) -> Process;

/// Who there is; several of most, so that they get in each other's way.
pub(super) const CAST: &[(&str, Begin)] = &[
    ("reader", |world, _| Box::pin(read(world))),
    ("reader", |world, _| Box::pin(read(world))),
    ("consumer", |world, process| Box::pin(consume(world, process))),
    ("consumer", |world, process| Box::pin(consume(world, process))),
    ("consumer", |world, process| Box::pin(consume(world, process))),
    ("roll-up", |world, process| Box::pin(roll_up(world, process))),
    ("roll-up", |world, process| Box::pin(roll_up(world, process))),
    ("sweep", |world, process| Box::pin(sweep(world, process))),
    ("operator", |world, _| Box::pin(operate(world))),
    ("clearing", |world, _| Box::pin(clear(world))),
    ("close", |world, process| Box::pin(super::month::close(world, process))),
    ("close", |world, process| Box::pin(super::month::close(world, process))),
    ("billing", |world, _| Box::pin(super::month::bill(world))),
    ("billing", |world, _| Box::pin(super::month::bill(world))),
    ("mail", |world, _| Box::pin(super::month::mail(world))),
];

static DECLARED: LazyLock<Declarations> =
    LazyLock::new(|| Declarations::parse(super::source::DECLARED).expect("a declaration"));
pub(super) static METERS: LazyLock<Meters> = LazyLock::new(Meters::built_in);

/// Reads objects that are not done, and now and then one that is.
async fn read(world: Arc<World>) {
    loop {
        step().await;
        let Some((object, run, now)) = next_object(&world) else { continue };
        let (packed, found) = pack(&world, &object.name, &object.stored, run, now);
        world.lock().check_reading(&object, &packed, found, now);
        send(&world, packed).await;
    }
}

/// Sends what was read: slices, what is set aside, and at last that it was read to its end.
async fn send(world: &Arc<World>, packed: Packed) {
    for slices in in_records(world, packed.slices) {
        let (bucket, body) = (slices[0].bucket.number(), stream_format::encode(&slices));
        put(world, bucket, body).await;
    }
    let letters = Letters(Arc::clone(world));
    while aggregator::aggregator::DeadLetterStore::set_aside(&letters, &packed.letters).await.is_err() {}
    let manifest = packed.manifest;
    loop {
        step().await;
        let mut state = world.lock();
        if state.strikes(Fault::Throttled, 4) {
            continue;
        }
        let is_written = state.manifests.iter().any(|one| one.run == manifest.run);
        if !is_written {
            let name = &manifest.object.name;
            state.say(|| format!("manifest of {name} in run {}: {} slices", manifest.run, manifest.slices));
            state.manifests.push(manifest.clone());
            state.check_receipt(&manifest);
        }
        if !state.strikes(Fault::AnswerLost, 4) {
            break;
        }
    }
}

/// An object to read, a fresh run and the time of the reading.
fn next_object(world: &World) -> Option<(Object, RunId, Timestamp)> {
    let mut state = world.lock();
    let state = &mut *state;
    let replays = state.strikes(Fault::Replay, 6);
    let draw = state.draws.next();
    let there = state.sources.there(state.step);
    let has_manifest = |object: &Object| state.readings(object).next().is_some();
    // What was sent is on its way, unless the stream has nothing any more.
    let is_waiting = !state.stream.records.is_empty() && !draw.is_multiple_of(16);
    let wanted: Vec<&Object> = there
        .map(|(_, object)| object)
        .filter(|object| replays || !(state.is_done(object) || is_waiting && has_manifest(object)))
        .collect();
    let object = (*wanted.get(usize::try_from(draw >> 32).unwrap_or(0) % wanted.len().max(1))?).clone();
    let run = RunId::from_bytes(next_id().0);
    state.say(|| format!("reading {} in run {run}", object.name));
    Some((object, run, state.now()))
}

struct Packed {
    slices: Vec<Slice>,
    letters: Vec<DeadLetter>,
    manifest: Manifest,
}

/// Reads an object as every front end of ingest does; and how many records it has.
fn pack(world: &World, name: &str, stored: &[u8], run: RunId, now: Timestamp) -> (Packed, u64) {
    let sabotage = world.lock().options.sabotage;
    let rules = Rules { now, declared: &DECLARED, meters: &METERS };
    let (mut packer, mut slices, mut letters) = (Packer::new(run), Vec::new(), Vec::new());
    let found = read_object(name, stored, rules, |judged| {
        let letter = |reason| DeadLetter {
            object: name.to_owned(),
            offset: judged.offset,
            number: judged.number,
            reason,
            bytes: judged.bytes.to_vec(),
            is_whole: judged.is_whole,
            seen_at: now,
            resolved_at: None,
        };
        match judged.verdict {
            Verdict::Usage(event) => packer.add(spoiled(event, run, now, sabotage), &mut slices),
            Verdict::Facts(statement) => {
                let (event, facts) = statement.into_parts();
                let facts: Vec<_> = facts.into_iter().map(|fact| spoiled_fact(fact, sabotage)).collect();
                let statement = match event {
                    Some(event) => Statement::beside(event, facts),
                    None => {
                        let mut facts = facts.into_iter();
                        let first = facts.next().expect("a statement says something");
                        Statement::of_facts(first, facts)
                    }
                };
                packer.add_statement(statement, &mut slices);
            }
            Verdict::NotCounted(_) => {}
            Verdict::DeadLetter(reason) => letters.push(letter(reason)),
        }
        for beside in judged.beside {
            match beside {
                Beside::Usage(event) => packer.add_beside(event, &mut slices),
                Beside::Fact(fact) => packer.add_fact_beside(*fact, &mut slices),
                Beside::DeadLetter(reason) => letters.push(letter(reason)),
                Beside::Object(_) | Beside::Digest(_) => {}
            }
        }
        Ok::<(), std::convert::Infallible>(())
    })
    .expect("an object in memory can be read");
    slices.extend(packer.flush());
    let read = found.read;
    let manifest = Manifest::new(run, name.to_owned(), found, packer.slices(), packer.beside_slices(), now);
    (Packed { slices, letters, manifest }, read)
}

impl State {
    /// A reading found what is in the object, and set aside what nobody can read and what lies ahead of the clock.
    fn check_reading(&mut self, object: &Object, packed: &Packed, read: u64, now: Timestamp) {
        let name = &object.name;
        self.ensure(object.records.is_none_or(|records| records == read), || {
            format!("{read} records of {name} are read, not {:?}", object.records)
        });
        let ahead = object.ahead_of(now);
        if 0 < ahead {
            self.meet("ahead of the clock");
        }
        if ahead != object.ahead_of(self.right_now()) {
            self.meet("verdict of a wrong clock");
        }
        let (found, expected) = (packed.letters.len() as u64, object.poison + ahead);
        self.ensure(found == expected, || {
            let reasons: Vec<&str> = packed.letters.iter().map(|letter| letter.reason.as_str()).collect();
            format!("{found} records of {name} are dead letters, not {expected}: {reasons:?}")
        });
    }
}

fn spoiled(mut event: UsageEvent<'_>, run: RunId, now: Timestamp, sabotage: Option<Sabotage>) -> UsageEvent<'_> {
    match sabotage {
        Some(Sabotage::IdentityOfDelivery) => {
            event.identity = Identity::of_parts(&[event.identity.as_bytes(), run.as_bytes()]);
        }
        Some(Sabotage::ArrivalTime) => event.event_time = now,
        _ => {}
    }
    event
}

fn spoiled_fact(mut fact: UsageFact<'_>, sabotage: Option<Sabotage>) -> UsageFact<'_> {
    if sabotage == Some(Sabotage::RevisionIgnored) && fact.key.export.is_none() {
        fact.revision = 0;
    }
    fact
}

/// One or several slices of a bucket a record.
fn in_records(world: &World, slices: Vec<Slice>) -> Vec<Vec<Slice>> {
    let mut state = world.lock();
    let mut records = Vec::<Vec<Slice>>::new();
    for slice in slices {
        match records.last_mut() {
            Some(last) if last[0].bucket == slice.bucket && state.draws.percent(50) => last.push(slice),
            _ => records.push(vec![slice]),
        }
    }
    records
}

/// Puts a record until the stream says that it has it.
async fn put(world: &World, bucket: u16, body: Vec<u8>) {
    loop {
        step().await;
        let is_heard = {
            let mut state = world.lock();
            let state = &mut *state;
            if state.strikes(Fault::Throttled, 4) || state.strikes(Fault::WriteLost, 3) {
                false
            } else {
                state.put(bucket, body.clone(), false);
                !state.strikes(Fault::ProducerRetry, 6)
            }
        };
        step().await;
        if is_heard {
            return;
        }
    }
}

/// Counts what is on the stream: any records of a shard, in any order, whoever else has them.
async fn consume(world: Arc<World>, process: u32) {
    let logs = Logs { world: Arc::clone(&world), process, is_writer: true };
    let (limits, cache_bytes) = {
        let state = world.lock();
        (state.limits, state.cache_bytes)
    };
    let counters = Arc::default();
    let (acknowledgements, letters) = (Acknowledgements(Arc::clone(&world)), Letters(Arc::clone(&world)));
    let mut aggregator = Aggregator::new(logs, acknowledgements, letters, cache_bytes, next_id, Arc::clone(&counters))
        .with_limits(limits);
    loop {
        step().await;
        let Some((shard, taken)) = take_records(&world) else { continue };
        let sequences: Vec<u64> = taken.iter().map(|(sequence, _)| *sequence).collect();
        let now = {
            let mut state = world.lock();
            if state.is(Sabotage::CheckpointFirst) {
                state.stream.records.retain(|record| !sequences.contains(&record.sequence));
            }
            state.say(|| format!("consumer {process} has records {sequences:?} of shard {shard}"));
            state.now()
        };
        let records =
            taken.into_iter().map(|(sequence, body)| DeliveredRecord { sequence_number: sequence.to_string(), body });
        let shard = Shard { stream: "usage".to_owned(), id: shard.to_string() };
        let outcome = aggregator.count(&shard, records.collect(), now).await;
        step().await;
        let mut state = world.lock();
        let parked = counters.snapshot().parked_slices;
        state.ensure(parked == 0, || format!("{parked} slices are parked"));
        if let Some(failure) = &outcome.failure {
            let (is_passing, said) = (failure.is_passing(), failure.to_string());
            state.ensure(is_passing, || format!("counting fails for good: {said}"));
            state.say(|| format!("consumer {process} fails: {said}"));
        }
        if !outcome.gains.is_empty() && !state.strikes(Fault::TriggerLost, 15) {
            if state.strikes(Fault::TriggerRepeated, 5) {
                let again = outcome.gains.clone();
                state.triggers.push_back(again);
            }
            state.triggers.push_back(outcome.gains);
        }
        // The lowest failed one and everything behind it come again.
        let done = &sequences[..outcome.first_failed.unwrap_or(sequences.len())];
        state.stream.records.retain(|record| !done.contains(&record.sequence));
    }
}

/// A record's sequence number and body.
type Taken = (u64, Vec<u8>);

/// Records of one shard, which stay there until somebody has done them.
fn take_records(world: &World) -> Option<(usize, Vec<Taken>)> {
    let mut state = world.lock();
    let state = &mut *state;
    let owed = state.stream.records.len() as u64;
    let one = state.stream.records.get(usize::try_from(state.draws.below(owed)).unwrap_or(0))?;
    let shard = one.shard;
    let mut taken: Vec<Taken> = state
        .stream
        .records
        .iter()
        .filter(|record| record.shard == shard)
        .map(|record| (record.sequence, record.body.clone()))
        .collect();
    // Other boundaries each time, and not always from the beginning.
    let from = if state.draws.percent(50) { state.draws.below(taken.len() as u64) } else { 0 };
    let mut taken = taken.split_off(usize::try_from(from).unwrap_or(0));
    taken.truncate(usize::try_from(1 + state.draws.below(5)).unwrap_or(1));
    if state.draws.percent(20) {
        taken.reverse();
    }
    Some((shard, taken))
}

/// Whether a roll-up may go through later.
fn passes(error: &RollUpError) -> bool {
    use aggregator::commit_log::ReadError;
    use aggregator::fact_rows::FactError;
    match error {
        RollUpError::Read(ReadError::Store(error)) => error.kind.is_passing(),
        RollUpError::Database(DatabaseError::Unavailable(_))
        | RollUpError::Advance(AdvanceError::Database(DatabaseError::Unavailable(_)))
        | RollUpError::Facts(FactError::Database(DatabaseError::Unavailable(_))) => true,
        _ => false,
    }
}

/// Rolls gains up and says whether all of it is; what is refused, or fails for good, is wrong.
async fn apply(world: &World, roll_up: &RollUp<Logs, Rows>, gains: Vec<Gain>) -> bool {
    let now = world.lock().now();
    let result = roll_up.apply(gains, now).await;
    let mut state = world.lock();
    match result {
        Ok(refused) => {
            let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
            state.ensure(refused.is_empty(), || refused.join("; "));
            true
        }
        Err(error) => {
            let is_passing = passes(&error);
            state.ensure(is_passing, || format!("rolling up fails for good: {error}"));
            state.say(|| "the roll-up fails".to_owned());
            false
        }
    }
}

fn rolling(world: &Arc<World>, process: u32) -> RollUp<Logs, Rows> {
    RollUp::new(Logs { world: Arc::clone(world), process, is_writer: false }, Rows(Arc::clone(world)))
}

async fn roll_up(world: Arc<World>, process: u32) {
    let roll_up = rolling(&world, process);
    loop {
        step().await;
        let trigger = world.lock().triggers.pop_front();
        let Some(gains) = trigger else { continue };
        if !apply(&world, &roll_up, gains.clone()).await {
            world.lock().triggers.push_back(gains);
        }
    }
}

/// Brings rows up to what is acknowledged, then takes the markers away.
async fn sweep(world: Arc<World>, process: u32) {
    let roll_up = rolling(&world, process);
    loop {
        step().await;
        let markers = {
            let mut state = world.lock();
            let is_time = state.is_calm || state.draws.percent(40);
            let markers = if is_time { state.markers.clone() } else { Default::default() };
            if state.is(Sabotage::SweepForgets) {
                state.markers.retain(|key, _| !markers.contains_key(key));
            }
            markers
        };
        if markers.is_empty() {
            let is_complete = world.lock().exports_complete().is_empty();
            if !is_complete {
                let now = world.lock().now();
                // What does not go through comes with the next sweep.
                let _ = roll_up.go_on(now).await;
            }
            continue;
        }
        let unswept =
            Unswept::of_markers(markers.values().map(|marker| &marker.item)).expect("markers as they are written");
        let gain = |(partition, version): (Partition, u64)| Gain {
            partition,
            from_version: version,
            to_version: version,
            totals: None,
        };
        if !apply(&world, &roll_up, unswept.partitions.into_iter().map(gain).collect()).await {
            continue;
        }
        let mut swept: Vec<Vec<u8>> = markers.into_keys().collect();
        while !swept.is_empty() {
            step().await;
            let mut state = world.lock();
            if state.strikes(Fault::Throttled, 3) {
                break;
            }
            // So many a call, and not all of them as one.
            let some = 1 + usize::try_from(state.draws.below(25)).unwrap_or(0);
            for key in swept.drain(..some.min(swept.len())) {
                state.markers.remove(&key);
            }
            let left = swept.len();
            state.say(|| format!("markers are swept, and {left} left"));
        }
    }
}

/// Now and then deals with an open dead letter: it is dismissed, or to be read again.
fn look_at_letter(state: &mut State) -> Option<(String, Letter)> {
    if !state.is_calm && !state.draws.percent(5) {
        return None;
    }
    let open: Vec<&String> = state.letters.iter().filter(|(_, letter)| letter.is_open).map(|(id, _)| id).collect();
    let which = usize::try_from(state.draws.below(open.len() as u64)).unwrap_or(0);
    let id = (*open.get(which)?).clone();
    let is_for_good = state.is(Sabotage::FutureDismissed);
    let letter = state.letters.get_mut(&id).expect("it is open");
    if letter.reason == Reason::EventTimeInFuture && !is_for_good {
        return Some((id, letter.clone()));
    }
    letter.is_open = false;
    let line = format!("dead letter {id} of {} is dismissed: {}", letter.object, letter.reason.as_str());
    state.say(|| line);
    None
}

/// Reads a dead letter's record again, as `dead-letters replay` does: it is put right once what it says is acknowledged.
async fn replay_letter(world: &Arc<World>, id: String, letter: Letter) {
    let (run, now) = (RunId::from_bytes(next_id().0), world.lock().now());
    let bytes = [b"[", letter.bytes.as_slice(), b"]"].concat();
    let (packed, _) = pack(world, &letter.object, &bytes, run, now);
    if !packed.letters.is_empty() {
        // It still lies ahead of the clock.
        return;
    }
    world.lock().say(|| format!("dead letter {id} is read again in run {run}"));
    let manifest = packed.manifest.clone();
    send(world, packed).await;
    for _ in 0..REPLAY_PATIENCE {
        step().await;
        let mut state = world.lock();
        if state.is_acknowledged(&manifest) {
            state.meet("replayed letter");
            state.say(|| format!("dead letter {id} is put right"));
            state.letters.get_mut(&id).expect("nothing is deleted").is_open = false;
            return;
        }
    }
    // It stays open; another replay counts nothing twice.
}

/// Deals with dead letters.
async fn clear(world: Arc<World>) {
    loop {
        step().await;
        let look = look_at_letter(&mut world.lock());
        if let Some((id, letter)) = look {
            replay_letter(&world, id, letter).await;
        }
    }
}

/// Moves accounts.
async fn operate(world: Arc<World>) {
    loop {
        step().await;
        let mut state = world.lock();
        let state = &mut *state;
        if state.strikes(Fault::Move, 8) {
            let account = state.draws.pick(&state.sources.accounts);
            let customer = state.sources.customers[usize::try_from(state.draws.below(2)).unwrap_or(0)].clone();
            let from = state.draws.pick(&state.sources.hours);
            let history = state.owners.entry(account).or_default();
            let Ok(Change::Open { former }) = place(history, &customer, from) else { continue };
            if let (Some(_), Some(last)) = (former, history.last_mut()) {
                last.until = Some(from);
            }
            history.push(Ownership { customer: customer.clone(), from, until: None });
            state.directory_version += 1;
            state.change();
            state.say(|| format!("account {account} is {}'s from {from} on", customer.as_str()));
            if !state.is(Sabotage::RowsNotMoved) {
                let keys: Vec<_> = state.rows.keys().filter(|key| key.1 == account).cloned().collect();
                for key in keys {
                    let owner = state.owner(&account, key.3);
                    state.rows.get_mut(&key).expect("it is there").owner = owner;
                }
            }
        }
    }
}
