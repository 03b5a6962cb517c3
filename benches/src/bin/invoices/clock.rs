//! The stopwatch, and how long each customer spends between the points of its transaction.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use billing::{Interruptions, Point};

/// A stopwatch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the stopwatch")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Time between points, summed over customers. Cuts nothing.
#[derive(Debug, Default)]
pub(crate) struct Times {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: BTreeMap<String, (Point, Stopwatch)>,
    sums: BTreeMap<Point, (Duration, u64)>,
}

impl Interruptions for Times {
    fn is_cut(&self, customer: &str, point: Point) -> bool {
        let Ok(mut state) = self.state.lock() else { return false };
        if point != Point::Claimed
            && let Some((_, since)) = state.last.get(customer)
        {
            let spent = since.elapsed();
            let sum = state.sums.entry(point).or_default();
            *sum = (sum.0 + spent, sum.1 + 1);
        }
        if point == Point::Committed {
            state.last.remove(customer);
        } else {
            state.last.insert(customer.to_owned(), (point, Stopwatch::start()));
        }
        false
    }
}

impl Times {
    /// What a customer spends on average before each point, in their order.
    pub(crate) fn steps(&self) -> Vec<(Point, Duration)> {
        let Ok(state) = self.state.lock() else { return Vec::new() };
        let mean = |(sum, count): &(Duration, u64)| *sum / u32::try_from((*count).max(1)).unwrap_or(u32::MAX);
        state.sums.iter().map(|(point, sum)| (*point, mean(sum))).collect()
    }
}
