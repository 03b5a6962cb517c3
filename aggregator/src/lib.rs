//! From the stream to usage rows.
//!
//! **Owns** windows, dedupe, the commit log and its counters, acknowledgements, the account directory, the roll-up to
//! usage rows.
//!
//! **Does not own** money, AWS field names, what counts as what.
//!
//! **Promises** that remembering what was counted and counting it are one conditional write, so that every event counts
//! once however often, in whatever order and by however many writers it is delivered.

pub mod acknowledgement;
pub mod aggregator;
pub mod audit;
pub mod close;
pub mod commit;
pub mod commit_log;
pub mod consumer;
pub mod deployment;
pub mod directory;
pub mod dynamodb_log;
pub mod entry;
pub mod fact_rows;
pub mod facts;
pub mod fold;
pub mod known;
pub mod memory_log;
pub mod meters;
pub mod partition;
pub mod receipts;
pub mod records;
pub mod rollup;
pub mod sweep;
pub mod usage_rows;
pub mod worker_record;
