//! Receipts: what there should be, what of it is counted, and through which hour all of it is.
//!
//! Counting cannot tell an hour without usage from an hour nobody delivered. A *source* is declared for a customer's meter,
//! and its class says what it promises: *proven* (a chain of digest files names every object, so an hour without a digest is
//! missing, not idle), *reconciled* (a list says what there should be), *best effort* (nothing). A [`Proof`] is one such
//! statement, with what it expects; what it expects is *done* once it is acknowledged and rolled up.
//!
//! Invariant: `complete_through` is never later than a missing proof or an expected object that is not done.

mod completeness;
mod coverage;
mod digests;
mod done;
mod lists;
mod proof;
mod proofs;
mod source;

pub use completeness::{AccountReport, Completeness, LaneReport, SourceReport};
pub use coverage::{AccountScope, LaneState, Through, Waiting, complete_until};
pub use digests::{ImportError, import_digests};
pub use done::{ReceiptError, Receipts, is_acknowledged};
pub use lists::import_lists;
pub use proof::{ExpectedObject, ExpectedUsage, Previous, Proof};
pub use proofs::{Proofs, RecordError, RefreshError, Refreshed};
pub use source::{DeclareError, Source, SourceClass, Sources};

/// Every statement of this module, for the test that prepares them against the schema.
#[doc(hidden)]
pub fn statements() -> Vec<&'static str> {
    [source::STATEMENTS, proofs::STATEMENTS, completeness::STATEMENTS, lists::STATEMENTS].concat()
}
