//! What one process may use of the bucket that all processes share, without asking for each request.
//!
//! The shared bucket is one number, as in [`Bucket`](super::Bucket): the time at which it is full again. A process takes
//! tokens from it in lots, each with one conditional write, and a lot runs out ten seconds after the time it was asked
//! for with. So whatever the number of processes, their clocks' order and the answers that get lost:
//!
//! - **At most** as much gets through in any span as one bucket gives in that span and ten seconds more: in a minute
//!   1,000 (the burst) + 1,000 + 167.
//! - **At least** what is not held elsewhere: a process holds at most [`LEASE_MAX`] tokens and a quarter unused, for ten
//!   seconds, and a lot is no larger than twice the one before, or than what was used of one that ran out.
//!
//! Processes whose clocks differ let so much more through, once, as the bucket gives in the difference.
//! No clock is read here and nothing is sent: who asks says what became of it.

use std::collections::VecDeque;

use super::{Left, Rate};

/// Tokens of a lot at most: who asks often writes once for so many requests.
pub(crate) const LEASE_MAX: i64 = 50;

/// Tokens of the first lot.
const LEASE_FIRST: i64 = 4;

/// A lot runs out so long after it was asked for.
pub(crate) const LEASE_MICROS: i64 = 10_000_000;

/// A question that got no answer for so long is lost.
pub(crate) const ANSWER_MICROS_MAX: i64 = 1_000_000;

/// After a question that failed, the process is on its own for so long before it asks again.
const ALONE_MICROS: i64 = 5_000_000;

/// A question for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The asker's clock, in microseconds.
    pub(crate) asked_at: i64,
    /// Tokens wanted, at least one; fewer will do.
    pub(crate) tokens: i64,
    /// What the asker knows of the bucket.
    pub(crate) full_at: Option<i64>,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// So many tokens, and when the bucket will be full again now.
    Granted { tokens: i64, full_at: i64 },
    /// There were none.
    Empty { full_at: i64 },
    /// Nobody knows.
    Failed,
}

/// What a request does next. A question that comes with it is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It goes on.
    Taken(Option<Ask>),
    /// It waits until a question is answered, and tries again.
    Wait(Option<Ask>),
    /// It goes back for so many microseconds.
    Refused(i64),
    /// The shared bucket is away: the process's own decides.
    Alone(Option<Ask>),
}

#[derive(Debug)]
struct Lot {
    size: i64,
    left: i64,
    ends_at: i64,
}

/// The lots of one customer in one process, and what the process knows of the customer's bucket.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The oldest first.
    lots: VecDeque<Lot>,
    next_size: i64,
    /// Requests that found no token since the last answer: the next lot is for them.
    waiting: i64,
    asking_since: Option<i64>,
    full_at: Option<i64>,
    /// The bucket is as good as empty until then.
    refused_until: i64,
    alone_until: Option<i64>,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            lots: VecDeque::new(),
            next_size: LEASE_FIRST,
            waiting: 0,
            asking_since: None,
            full_at: None,
            refused_until: i64::MIN,
            alone_until: None,
        }
    }

    /// What a request does that comes now, or comes again.
    pub(crate) fn step(&mut self, now: i64) -> Step {
        self.lapse(now);
        if let Some(lot) = self.lots.front_mut() {
            lot.left -= 1;
            if lot.left == 0 {
                self.next_size = self.next_size.max(2 * lot.size).min(LEASE_MAX);
            }
            return Step::Taken(self.ask_ahead(now));
        }
        if now < self.refused_until {
            return Step::Refused(self.refused_until - now);
        }
        match self.alone_until {
            Some(until) if now < until => Step::Alone(None),
            Some(_) => Step::Alone(self.ask(now)),
            None => {
                self.waiting += 1;
                Step::Wait(self.ask(now))
            }
        }
    }

    /// Asks in the last quarter of a lot's tokens or time, so that no request waits. Who asks seldom does without.
    fn ask_ahead(&mut self, now: i64) -> Option<Ask> {
        let left = self.unused();
        let (size, ends_at) = self.lots.back().map_or((0, now), |lot| (lot.size, lot.ends_at));
        self.lots.retain(|lot| lot.left > 0);
        if size < LEASE_FIRST || now < self.refused_until || self.alone_until.is_some() {
            return None;
        }
        if left <= size / 4 {
            self.next_size = self.next_size.max(2 * size).min(LEASE_MAX);
        } else if ends_at - now <= LEASE_MICROS / 4 {
            self.next_size = ((size - left) * 4 / 3).clamp(1, LEASE_MAX);
        } else {
            return None;
        }
        self.ask(now)
    }

    fn ask(&mut self, now: i64) -> Option<Ask> {
        if self.asking_since.is_some_and(|since| now - since < ANSWER_MICROS_MAX) {
            return None;
        }
        self.asking_since = Some(now);
        Some(Ask { asked_at: now, tokens: self.next_size, full_at: self.full_at })
    }

    /// Forgets what has run out. The next lot is no larger than what was used of it.
    fn lapse(&mut self, now: i64) {
        for lot in self.lots.iter().filter(|lot| lot.ends_at <= now) {
            self.next_size = (lot.size - lot.left).max(1);
        }
        self.lots.retain(|lot| now < lot.ends_at);
    }

    /// Takes note of what became of a question, at any time after it.
    pub(crate) fn land(&mut self, ask: Ask, outcome: Outcome, rate: Rate, now: i64) {
        if self.asking_since == Some(ask.asked_at) {
            self.asking_since = None;
        }
        let waited = std::mem::take(&mut self.waiting);
        let full_at = match outcome {
            Outcome::Granted { tokens, full_at } => {
                // Counted from the question: the answer may have been under way for long.
                self.next_size = self.next_size.max(waited - tokens).min(LEASE_MAX);
                self.lots.push_back(Lot { size: tokens, left: tokens, ends_at: ask.asked_at + LEASE_MICROS });
                full_at
            }
            Outcome::Empty { full_at } => full_at,
            Outcome::Failed => {
                // A host may have frozen the process meanwhile: then this says nothing about the table.
                if now - ask.asked_at <= 2 * ANSWER_MICROS_MAX {
                    self.alone_until = Some(now + ALONE_MICROS);
                }
                return;
            }
        };
        self.alone_until = None;
        self.full_at = Some(full_at);
        if rate.free(full_at, ask.asked_at) < 1 {
            // Worth a write again only when there is a whole lot: else who is at the limit writes for each request.
            self.refused_until = full_at - (rate.burst - LEASE_MAX) * rate.micros_each;
        }
    }

    /// A request has waited for as long as one may: until the answer comes, others do not.
    pub(crate) fn waited_too_long(&mut self, now: i64) {
        self.alone_until.get_or_insert(now + ANSWER_MICROS_MAX);
    }

    /// What is left of the customer's requests, as far as this process knows; `None` if it knows nothing.
    pub(crate) fn left(&self, rate: Rate, now: i64) -> Option<Left> {
        let full_at = self.full_at?.max(now);
        let remaining = (self.unused() + rate.free(full_at, now)).min(rate.burst);
        Some(Left { remaining, full_in_secs: (full_at - now + 999_999) / 1_000_000 })
    }

    fn unused(&self) -> i64 {
        self.lots.iter().map(|lot| lot.left).sum()
    }
}

/// A conditional write on a shared bucket, which holds the time at which it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// If the bucket is full, or none, or full at no time of ours: full at this time.
    Restart { full_at: i64 },
    /// If the bucket is not full, and full at `highest` or before: full by so much later.
    Advance { by: i64, highest: i64 },
}

/// Tokens that a bucket is asked for, and the write that takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taking {
    pub(crate) tokens: i64,
    pub(crate) write: Write,
}

/// No bucket of ours is full later than this: a clock was wrong, or somebody else wrote it.
pub(crate) fn furthest(rate: Rate, now: i64) -> i64 {
    now + 2 * rate.burst * rate.micros_each
}

/// How to take tokens from a bucket that was seen like this; `Err` with its time if it has none.
pub(crate) fn taking(rate: Rate, ask: Ask, seen: Option<i64>) -> Result<Taking, i64> {
    let now = ask.asked_at;
    let full_at = match seen {
        Some(full_at) if now < full_at && full_at <= furthest(rate, now) => full_at,
        _ => {
            let write = Write::Restart { full_at: now + ask.tokens * rate.micros_each };
            return Ok(Taking { tokens: ask.tokens, write });
        }
    };
    let tokens = ask.tokens.min(rate.free(full_at, now));
    if tokens < 1 {
        return Err(full_at);
    }
    let by = tokens * rate.micros_each;
    Ok(Taking { tokens, write: Write::Advance { by, highest: now + rate.burst * rate.micros_each - by } })
}
