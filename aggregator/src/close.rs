//! Closing a month: what a customer's usage came to at a cut, recomputed from the logs, with the evidence for it.
//!
//! A close asks whether everything is there: declared sources complete, everything read counted and rolled up, no open dead
//! letter of the period, and usage rows equal to one full fold of the logs. It refuses and says what is missing, or is
//! overridden by somebody with a reason. Then it fixes a *cut*: how far each log counts, and which directory says who owned
//! what. Whatever comes later is in the next cut.
//!
//! Invariant: closed totals and evidence are recomputed from the logs up to the cut, never copied from usage rows.
//!
//! Invariant: an outage never looks like zero usage: what was read and not counted, or should have been read, refuses.

mod closing;
mod evidence;
mod facts;
mod identities;
mod letters;
mod period;
mod prefix;
mod readings;
mod snapshot;
mod store;
mod totals;

pub use closing::{AccountUsage, Blocker, CloseError, Closer, CustomerClose, Outcome, Override, Request};
pub use evidence::{COUNTING_RULES, FORMAT};
pub use facts::read_day;
pub use identities::{IdentitiesError, identities};
pub use period::{NotAPeriod, Period};
pub use prefix::{CountedHour, Cut, PrefixError, read_hour};
pub use snapshot::{Owners, Snapshot, TotalKey};
pub use store::{StoredClose, closes_of, evidence_of};
pub use totals::{ClosedTotal, CustomerTotals, LineKey, totals_at};

/// Every statement of this module, for the test that prepares them against the schema.
#[doc(hidden)]
pub fn statements() -> Vec<&'static str> {
    [snapshot::STATEMENTS, store::STATEMENTS].concat()
}
