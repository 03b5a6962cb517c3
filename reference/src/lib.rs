//! A second, naive count of the same logs: what the product's counts are compared with.
//!
//! **Owns** the rules of counting once more, as plainly as they can be said: whole objects in memory, a set of everything
//! seen, a map of what it came to.
//!
//! **Does not own** speed, bounded memory, stores; and shares no line with the product, whose mistakes it would repeat.
//!
//! **Promises** the answer that a patient person would come to with the rules in `docs/counting.md` and a pencil. Limits of
//! the product's reader that are no rules of counting (records over 4 MiB, gzip bombs) are not in it.

mod declared;
mod event;
mod exports;
mod facts;
mod forms;
mod json;
mod number;
mod object;
mod organizations;
mod recount;
mod samples;
pub mod time;

pub use declared::Rules;
pub use event::Unit;
pub use facts::{Adds, Fact, Facts, Key, Mark, Says, is_built_in, marks_sha256};
pub use forms::{Judged, Outcome};
pub use json::{Broken, Json};
pub use number::Number;
pub use recount::{Line, Recount, identities_sha256};
