//! Leases against one bucket that nobody leases from.

use proptest::prelude::*;

use super::PER_CUSTOMER;
use super::lease::{Ask, LEASE_MICROS, Lease, Outcome, Step, Write, furthest, taking};

const START: i64 = 1_800_000_000_000_000;
const SECOND: i64 = 1_000_000;
const EACH: i64 = PER_CUSTOMER.micros_each;

/// The table's side: one item, and the conditional writes on it.
#[derive(Debug, Default)]
struct Table {
    full_at: Option<i64>,
    writes: u64,
}

impl Table {
    fn write(&mut self, now: i64, write: Write) -> Result<i64, Option<i64>> {
        self.writes += 1;
        let after = match (write, self.full_at) {
            (Write::Restart { full_at }, seen)
                if seen.is_none_or(|seen| seen <= now || furthest(PER_CUSTOMER, now) < seen) =>
            {
                full_at
            }
            (Write::Advance { by, highest }, Some(seen)) if now < seen && seen <= highest => seen + by,
            (_, seen) => return Err(seen),
        };
        self.full_at = Some(after);
        Ok(after)
    }

    /// A question as the adapter puts it.
    fn ask(&mut self, ask: Ask) -> Outcome {
        let mut seen = ask.full_at;
        loop {
            let taking = match taking(PER_CUSTOMER, ask, seen) {
                Ok(taking) => taking,
                Err(full_at) => return Outcome::Empty { full_at },
            };
            match self.write(ask.asked_at, taking.write) {
                Ok(full_at) => return Outcome::Granted { tokens: taking.tokens, full_at },
                Err(found) => seen = found,
            }
        }
    }
}

/// One request of a process whose questions are answered at once. Whether it went on.
fn request(table: &mut Table, lease: &mut Lease, now: i64) -> bool {
    loop {
        let (went_on, question) = match lease.step(now) {
            Step::Taken(question) => (Some(true), question),
            Step::Wait(question) => (None, question),
            Step::Refused(_) => (Some(false), None),
            Step::Alone(_) => panic!("the table is not away"),
        };
        if let Some(question) = question {
            let outcome = table.ask(question);
            lease.land(question, outcome, PER_CUSTOMER, now);
        }
        if let Some(went_on) = went_on {
            return went_on;
        }
    }
}

/// What happens to one question.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// The table takes the write, and the answer gets lost.
    AnswerLost,
    QuestionLost,
}

/// Requests that come to a process at once, and the time until the next event.
#[derive(Clone, Copy, Debug)]
struct Event {
    process: usize,
    requests: usize,
    pause: i64,
    /// The process forgets all it knows first.
    restarts: bool,
    fate: Fate,
    /// Events until the question reaches the table, and from then until the answer is back.
    delays: (usize, usize),
}

const PROCESSES: usize = 5;

fn event() -> impl Strategy<Value = Event> {
    let pause = prop_oneof![3 => 0..20_000_i64, 2 => 0..SECOND, 1 => 0..15 * SECOND];
    let fate = prop_oneof![8 => Just(Fate::Answered), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::QuestionLost)];
    let delays = (0..3_usize, 0..3_usize);
    (0..PROCESSES, 0..200_usize, pause, prop::bool::weighted(0.02), fate, delays).prop_map(
        |(process, requests, pause, restarts, fate, delays)| Event { process, requests, pause, restarts, fate, delays },
    )
}

#[derive(Debug)]
struct Flight {
    process: usize,
    /// An answer to a process that is no more goes nowhere.
    life: u32,
    ask: Ask,
    fate: Fate,
    arrives: usize,
    lands: usize,
    outcome: Option<Outcome>,
}

/// When requests went on with leased tokens; those that a process let through by itself are not among them. After the
/// events and a rest, when the bucket has come in again, everybody uses all there is.
fn admitted(events: &[Event], rest: i64) -> Vec<i64> {
    let mut table = Table::default();
    let mut now = START;
    let mut processes: Vec<(u32, Lease)> = (0..PROCESSES).map(|_| (0, Lease::new())).collect();
    let mut flights: Vec<Flight> = Vec::new();
    let mut times = Vec::new();
    for (number, event) in events.iter().enumerate() {
        for flight in &mut flights {
            if flight.outcome.is_none() && flight.arrives <= number {
                let ask = flight.ask;
                flight.outcome = Some(match flight.fate {
                    Fate::Answered => table.ask(ask),
                    Fate::AnswerLost => {
                        table.ask(ask);
                        Outcome::Failed
                    }
                    Fate::QuestionLost => Outcome::Failed,
                });
            }
            let (life, lease) = &mut processes[flight.process];
            if let Some(outcome) = flight.outcome.filter(|_| flight.lands <= number && flight.life == *life) {
                lease.land(flight.ask, outcome, PER_CUSTOMER, now);
            }
        }
        flights.retain(|flight| number < flight.lands);
        let (life, lease) = &mut processes[event.process];
        if event.restarts {
            (*life, *lease) = (*life + 1, Lease::new());
        }
        for _ in 0..event.requests {
            let step = lease.step(now);
            times.extend(matches!(step, Step::Taken(_)).then_some(now));
            let (Step::Taken(question) | Step::Wait(question) | Step::Alone(question)) = step else { break };
            flights.extend(question.map(|ask| Flight {
                process: event.process,
                life: *life,
                ask,
                fate: event.fate,
                arrives: number + 1 + event.delays.0,
                lands: number + 1 + event.delays.0 + event.delays.1,
                outcome: None,
            }));
        }
        now += event.pause;
    }
    now += rest;
    for (_, lease) in &mut processes {
        loop {
            let step = lease.step(now);
            times.extend(matches!(step, Step::Taken(_)).then_some(now));
            match step {
                Step::Taken(None) => {}
                Step::Taken(Some(ask)) | Step::Wait(Some(ask)) => {
                    lease.land(ask, table.ask(ask), PER_CUSTOMER, now);
                }
                // Refused, without the table, or with a question that is still under way.
                _ => break,
            }
        }
    }
    times
}

/// The most, over all spans, by which more got through than one bucket gives in the span, in microseconds of refill.
fn excess(times: &[i64]) -> i64 {
    // Requests i to j come to (j - i + 1) tokens; one bucket gives its burst and what comes in from i to j.
    let mut lowest = i64::MAX;
    let mut most = i64::MIN;
    for (number, at) in times.iter().enumerate() {
        let taken = i64::try_from(number).unwrap() * EACH - at;
        lowest = lowest.min(taken);
        most = most.max(taken + EACH - lowest - PER_CUSTOMER.burst * EACH);
    }
    most
}

proptest! {
    #[test]
    fn no_more_gets_through_than_one_bucket_gives_in_ten_seconds_more(
        events in prop::collection::vec(event(), 1..300), rest in prop_oneof![0..SECOND, 0..70 * SECOND]
    ) {
        let times = admitted(&events, rest);
        prop_assert!(excess(&times) <= LEASE_MICROS, "{} too many", (excess(&times) - LEASE_MICROS) / EACH);
    }

    #[test]
    fn who_asks_for_less_than_half_is_never_refused_by_up_to_ten_processes(
        requests in prop::collection::vec((0..10_usize, 0..2 * 125_000_i64), 1..2_000)
    ) {
        let mut table = Table::default();
        let mut leases: Vec<Lease> = (0..10).map(|_| Lease::new()).collect();
        let mut now = START;
        for (process, pause) in requests {
            prop_assert!(request(&mut table, &mut leases[process], now), "after {} s", (now - START) / SECOND);
            now += pause;
        }
    }
}

/// The simulation above reaches the limit, so that its bound says something.
#[test]
fn the_bound_is_near_what_can_happen() {
    // One process takes a lot and keeps it while the bucket fills up; then all is used at once.
    let mut table = Table::default();
    let mut leases = [Lease::new(), Lease::new()];
    let mut times = Vec::new();
    for _ in 0..60 {
        assert!(request(&mut table, &mut leases[0], START));
    }
    for process in [0, 1] {
        let now = START + 9 * SECOND;
        while request(&mut table, &mut leases[process], now) {
            times.push(now);
        }
    }
    assert!(times.len() > 1_000, "{}", times.len());
    assert!((1..=LEASE_MICROS).contains(&excess(&times)), "{}", excess(&times));
}

#[test]
fn one_process_gets_a_thousand_at_once_and_then_a_lot_every_three_seconds() {
    let (mut table, mut lease) = (Table::default(), Lease::new());
    let passed = (0..1_500).filter(|_| request(&mut table, &mut lease, START)).count();
    assert_eq!(passed, 1_000);
    assert_eq!(lease.step(START), Step::Refused(3 * SECOND), "and this is when the next lot is there");
    assert_eq!(lease.left(PER_CUSTOMER, START).map(|left| (left.remaining, left.full_in_secs)), Some((0, 60)));
    let passed = (0..100).filter(|_| request(&mut table, &mut lease, START + 3 * SECOND)).count();
    assert_eq!(passed, 50);
    // Four, eight, sixteen and thirty-two, then fifty each: 60 in four writes.
    assert!(table.writes <= 4 + 19 + 1, "{}", table.writes);
}

#[test]
fn who_asks_often_writes_once_for_fifty_requests_and_who_asks_nothing_does_not_write() {
    let (mut table, mut lease) = (Table::default(), Lease::new());
    let mut now = START;
    for _ in 0..6_000 {
        assert!(request(&mut table, &mut lease, now));
        now += 100_000;
    }
    assert!(table.writes <= 6_000 / 50 + 6, "{}", table.writes);
    let before = table.writes;
    now += 3_600 * SECOND;
    assert_eq!(table.writes, before);
    assert!(request(&mut table, &mut lease, now), "what was leased has run out, and is asked for again");
    assert_eq!(table.writes, before + 1);
}

#[test]
fn who_asks_seldom_writes_once_in_seven_seconds() {
    let (mut table, mut lease) = (Table::default(), Lease::new());
    for second in 0..600 {
        assert!(request(&mut table, &mut lease, START + second * SECOND));
    }
    assert!(table.writes <= 600 / 7 + 10, "{}", table.writes);
}

#[test]
fn a_lot_that_is_not_used_runs_out_ten_seconds_after_its_question() {
    let mut lease = Lease::new();
    let Step::Wait(Some(question)) = lease.step(START) else { panic!("there is no lot yet") };
    // The answer took long, and that does not prolong it.
    lease.land(question, Outcome::Granted { tokens: 4, full_at: START }, PER_CUSTOMER, START + 7 * SECOND);
    assert_eq!(lease.step(START + 7 * SECOND), Step::Taken(None));
    let Step::Wait(Some(next)) = lease.step(START + LEASE_MICROS) else { panic!("three ran out") };
    assert_eq!(next.tokens, 1, "as many as were used of it");
}

#[test]
fn a_table_that_is_away_holds_up_nobody_and_is_asked_every_five_seconds() {
    let mut lease = Lease::new();
    let Step::Wait(Some(question)) = lease.step(START) else { panic!("nobody has asked") };
    assert_eq!(lease.step(START), Step::Wait(None), "one question at a time");
    lease.land(question, Outcome::Failed, PER_CUSTOMER, START + SECOND);
    assert_eq!(lease.step(START + SECOND), Step::Alone(None));
    assert_eq!(lease.step(START + 6 * SECOND - 1), Step::Alone(None));
    let Step::Alone(Some(question)) = lease.step(START + 6 * SECOND) else { panic!("it is time to ask again") };
    assert_eq!(lease.step(START + 6 * SECOND), Step::Alone(None));
    lease.land(question, Outcome::Granted { tokens: 4, full_at: START }, PER_CUSTOMER, START + 6 * SECOND);
    assert!(matches!(lease.step(START + 6 * SECOND), Step::Taken(_)), "it is back");
}

#[test]
fn a_question_that_froze_with_its_process_does_not_make_the_table_away() {
    let mut lease = Lease::new();
    let Step::Wait(Some(question)) = lease.step(START) else { panic!("nobody has asked") };
    let thawed = START + 300 * SECOND;
    let Step::Wait(Some(next)) = lease.step(thawed) else { panic!("the first question is lost") };
    lease.land(question, Outcome::Failed, PER_CUSTOMER, thawed);
    lease.land(next, Outcome::Granted { tokens: 4, full_at: thawed }, PER_CUSTOMER, thawed);
    assert!(matches!(lease.step(thawed), Step::Taken(_)));
}

#[test]
fn a_bucket_that_is_full_at_no_time_of_ours_is_begun_anew() {
    for strange in [START + 3_600 * SECOND, i64::MAX, i64::MIN] {
        let mut table = Table { full_at: Some(strange), writes: 0 };
        let mut lease = Lease::new();
        assert!(request(&mut table, &mut lease, START), "{strange}");
        assert_eq!(table.full_at, Some(START + 4 * EACH), "{strange}");
    }
}

#[test]
fn what_waits_is_asked_for_at_once() {
    let mut lease = Lease::new();
    let Step::Wait(Some(first)) = lease.step(START) else { panic!("nobody has asked") };
    (1..40).for_each(|_| assert_eq!(lease.step(START), Step::Wait(None)));
    lease.land(first, Outcome::Granted { tokens: 4, full_at: START }, PER_CUSTOMER, START);
    let questions: Vec<Ask> = (0..40)
        .filter_map(|_| match lease.step(START) {
            Step::Taken(question) | Step::Wait(question) => question,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(questions.iter().map(|question| question.tokens).collect::<Vec<_>>(), [36]);
}
