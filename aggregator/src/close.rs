//! Closing a month: what a customer's usage came to at a cut, recomputed from the logs, with the evidence for it.

mod prefix;

pub use prefix::{CountedHour, Cut, PrefixError, read_hour};
