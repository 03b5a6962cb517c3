//! Statements of what there should be.

use ingest::{AccountId, Hour, Identity, Meter, Timestamp};

/// One statement of what there should be, such as a CloudTrail digest file or a list of findings.
///
/// It speaks for a stretch of *delivery* time: an event may have happened as much earlier as its source's lateness allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Of which meter's usage.
    pub meter: Meter,
    /// Of which account.
    pub account: AccountId,
    /// Which of the account's separate chains: a digest's `REGION/TRAIL`.
    pub lane: String,
    /// Its delivered name. The last part of it tells it apart from the lane's other proofs.
    pub name: String,
    /// SHA-256 of its content, not compressed: what the next proof of a chain calls it by.
    pub content_sha256: [u8; 32],
    /// The stretch it speaks for, half-open.
    pub covers: (Timestamp, Timestamp),
    /// It adds objects to a stretch that another proof speaks for, and covers nothing by itself.
    pub is_backfill: bool,
    /// The proof before it in its chain; `None` where a chain begins, or where there are no chains.
    pub previous: Option<Previous>,
    /// Its signature was checked and is the service's own.
    pub is_signature_checked: bool,
    /// The objects there should be.
    pub objects: Vec<ExpectedObject>,
    /// The units there should be.
    pub usage: Vec<ExpectedUsage>,
}

/// How a proof names the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its delivered name.
    pub name: String,
    /// SHA-256 of its content, not compressed.
    pub content_sha256: [u8; 32],
}

/// An object that a proof names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedObject {
    /// Its delivered name, such as `s3://BUCKET/KEY`.
    pub name: String,
    /// SHA-256 of its content, not compressed.
    pub content_sha256: [u8; 32],
    /// The earliest and the latest event time in it, if the proof says.
    pub event_times: Option<(Timestamp, Timestamp)>,
}

/// A unit of usage that a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedUsage {
    /// The hour it happened in.
    pub hour: Hour,
    /// What makes it itself.
    pub identity: Identity,
}
