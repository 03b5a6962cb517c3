//! A month of the whole chain in one thread, from a seed: the production code between stores that fail.
//!
//! What runs is the product: the front door and the packer of `ingest`, its stream format, the aggregator with its folds,
//! logs and roll-up, the fold of a close, and rating and corrections of `billing`. What fails is this module: stream, logs,
//! receipts and rows in memory behind the product's ports, and processes that end between any two steps. What it must come
//! to is known before anybody counts it, and is counted once more by the naive recount of `reference`.
//! `docs/simulation.md` says what is simulated, what is not, and how to play a seed again.
//!
//! Invariant: a seed decides everything. The same options give the same trace, byte for byte.

mod actors;
mod fault;
mod log;
mod month;
mod naive_money;
mod oracle;
mod produced;
mod receipts;
mod rows;
mod source;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Waker};

use actors::{CAST, Process};
pub use fault::{Fault, Sabotage};
use ingest::Timestamp;
use world::World;

/// When the simulated time begins: after the end of the month that is counted.
static START_AT: LazyLock<Timestamp> =
    LazyLock::new(|| Timestamp::parse_rfc3339("2026-11-02T00:00:00Z").expect("an instant"));
/// A clock that nothing lies ahead of.
static LATE: LazyLock<Timestamp> = LazyLock::new(|| START_AT.saturating_add_secs(10 * 86_400));
/// Steps in which everything must come to rest once faults are over.
const REST_STEPS_MAX: u64 = 60_000;
/// How often what always holds is looked at; what concerns one write is checked as it lands.
const LOOK_STEPS: u64 = 16;

/// What decides about a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that these options leave open.
    pub seed: u64,
    /// Steps with faults; afterwards everything must come to rest.
    pub steps: u64,
    /// How many objects are delivered; by the seed where it is `None`.
    pub objects: Option<u64>,
    /// Faults that do not happen.
    pub without: BTreeSet<Fault>,
    /// A deliberate bug.
    pub sabotage: Option<Sabotage>,
    /// Whether the trace is kept, and not only its hash.
    pub keeps_trace: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What did not hold; `None` where everything did.
    pub violation: Option<String>,
    /// The step it was found at, or the last one.
    pub steps: u64,
    /// SHA-256 of the trace.
    pub trace_sha256: [u8; 32],
    /// The trace, if it is kept.
    pub trace: Vec<String>,
    /// How often what was met.
    pub met: BTreeMap<&'static str, u64>,
}

impl Options {
    /// The options of a seed with so many steps, everything else by the seed.
    pub fn of_seed(seed: u64, steps: u64) -> Self {
        Self { seed, steps, objects: None, without: BTreeSet::new(), sabotage: None, keeps_trace: false }
    }
}

/// The arguments that play the run again.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--seeds 1 --first-seed {} --steps {}", self.seed, self.steps)?;
        if let Some(objects) = self.objects {
            write!(f, " --objects {objects}")?;
        }
        if !self.without.is_empty() {
            let names: Vec<&str> = self.without.iter().map(|fault| fault.as_str()).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        if let Some(sabotage) = self.sabotage {
            write!(f, " --sabotage {}", sabotage.as_str())?;
        }
        Ok(())
    }
}

struct Actor {
    process: Process,
    /// Until which step it stands still.
    frozen_until: u64,
    /// How often it began.
    lives: u32,
}

enum Turn {
    Go(usize),
    Crash(usize),
    Nobody,
}

/// Plays a run to its end, or to the first thing that does not hold.
pub fn play(options: &Options) -> Outcome {
    let world = Arc::new(World::new(options));
    let begin = |number: usize, lives: u32| {
        let process = u32::try_from(number).expect("a small cast") + 100 * lives;
        Actor { process: CAST[number].1(Arc::clone(&world), process), frozen_until: 0, lives }
    };
    let mut actors: Vec<Actor> = (0..CAST.len()).map(|number| begin(number, 0)).collect();
    loop {
        let turn = {
            let mut state = world.lock();
            let state = &mut *state;
            state.turn();
            if options.steps == state.step {
                state.is_calm = true;
                state.set_clock_right();
                while !state.late_entries.is_empty() {
                    state.land_late();
                }
                while !state.late_items.is_empty() {
                    state.keep_late();
                }
                state.change();
                state.say(|| "faults are over".to_owned());
            }
            if state.step.is_multiple_of(LOOK_STEPS) {
                state.check_always();
                if state.is_calm && state.is_at_rest() {
                    state.check_at_rest();
                    break;
                }
            }
            if state.violation.is_some() {
                break;
            }
            if options.steps + REST_STEPS_MAX < state.step {
                state.ensure(false, || "nothing comes to rest".to_owned());
                break;
            }
            let turn = usize::try_from(state.draws.below(CAST.len() as u64)).expect("a small cast");
            let actor = &mut actors[turn];
            if state.befalls(Fault::Crash, 8) {
                state.say(|| format!("{} {turn} crashes", CAST[turn].0));
                Turn::Crash(turn)
            } else {
                if state.befalls(Fault::Zombie, 3) {
                    let pause = 30 + state.draws.below(200);
                    state.say(|| format!("{} {turn} stands still", CAST[turn].0));
                    actor.frozen_until = state.step + pause;
                }
                if !state.is_calm && state.step < actor.frozen_until { Turn::Nobody } else { Turn::Go(turn) }
            }
        };
        match turn {
            Turn::Nobody => {}
            // What it had in memory is gone, and it is another process now.
            Turn::Crash(number) => actors[number] = begin(number, actors[number].lives + 1),
            Turn::Go(number) => {
                let mut context = Context::from_waker(Waker::noop());
                assert!(actors[number].process.as_mut().poll(&mut context).is_pending(), "nobody comes to an end");
            }
        }
    }
    drop(actors);
    let mut state = world.lock();
    let (trace_sha256, trace) = (state.trace.sha256(), state.trace.take_lines());
    let (violation, steps, met) = (state.violation.clone(), state.step, state.met.clone());
    Outcome { violation, steps, trace_sha256, trace, met }
}

/// Makes a failing run smaller: fewer steps, fewer objects, fewer kinds of faults, as long as something is wrong.
pub fn shrink(options: &Options) -> Options {
    let mut smallest = options.clone();
    let fails = |options: &Options| play(options).violation.is_some();
    let failed_at = play(&smallest).steps;
    for steps in [failed_at / 4, failed_at / 2, failed_at, failed_at + 1] {
        let fewer = Options { steps: steps.max(1), ..smallest.clone() };
        if fewer.steps < smallest.steps && fails(&fewer) {
            smallest = fewer;
            break;
        }
    }
    for objects in 1..8 {
        let fewer = Options { objects: Some(objects), ..smallest.clone() };
        if smallest.objects.is_none_or(|now| objects < now) && fails(&fewer) {
            smallest = fewer;
            break;
        }
    }
    for fault in Fault::ALL {
        let mut fewer = smallest.clone();
        if fewer.without.insert(*fault) && fails(&fewer) {
            smallest = fewer;
        }
    }
    smallest
}

#[cfg(test)]
mod tests;
