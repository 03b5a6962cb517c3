//! Checking counts from outside: a naive recount of raw logs against what was counted, closed and billed.
//!
//! Everything is in memory, about 150 bytes an event: this is for a month of a customer, not for a fleet.

mod against_evidence;
mod against_stores;
mod evidence_file;
mod excuses;
mod invoice_lines;
mod logs;

pub(crate) use against_evidence::{Findings, against_evidence};
pub(crate) use against_stores::{Difference, StoreFindings, against_stores};
pub(crate) use evidence_file::EvidenceFile;
pub(crate) use invoice_lines::{BilledLine, misbilled};
pub(crate) use logs::Logs;
