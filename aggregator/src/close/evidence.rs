//! The evidence file of a cut: canonical bytes that say what was counted, for whom, from what, and what was missing.
//!
//! The format is in `docs/evidence.md`: JSON objects, one a line, members and lines in one fixed order, so that equal
//! evidence is equal bytes. The hash of a close is SHA-256 over them.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use ingest::dead_letter::DeadLetterHead;
use ingest::{Hour, Meter, MeterDefinition, Timestamp};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::letters::Holds;
use super::period::Period;
use super::totals::{ClosedTotal, LineKey};
use crate::directory::{CustomerId, Ownership};
use crate::partition::Partition;
use crate::receipts::SourceClass;

/// The form of the file; a reader refuses another.
pub const FORMAT: u32 = 1;
/// The rules of counting (`docs/counting.md`). Raised with every change of what counts as what.
pub const COUNTING_RULES: u32 = 1;

/// Everything a cut has evidence of. Lists are written in their own order, maps in the order of their keys.
pub(super) struct Evidence<'a> {
    pub(super) customer: &'a CustomerId,
    pub(super) period: Period,
    pub(super) cut: i32,
    pub(super) cut_at: Timestamp,
    pub(super) class: SourceClass,
    pub(super) directory_version: i64,
    pub(super) overridden: Option<&'a super::Override>,
    pub(super) meters: Vec<&'a MeterDefinition>,
    pub(super) sources: Vec<SourceEvidence>,
    pub(super) owned: Vec<(ingest::AccountId, &'a Ownership)>,
    pub(super) lines: &'a BTreeMap<LineKey, ClosedTotal>,
    pub(super) objects: &'a [ObjectEvidence],
    /// Readings that counted something and left no manifest: their objects were read again by others.
    pub(super) runs_without_manifest: u64,
    pub(super) logs: &'a BTreeMap<Partition, u64>,
    pub(super) dead_letters: Vec<LetterEvidence<'a>>,
}

/// A record or slice that was set aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct LetterEvidence<'a> {
    pub(super) head: &'a DeadLetterHead,
    /// The source object it is from; `None` unless it is known to be the customer's own, so that it may be named.
    pub(super) object: Option<&'a str>,
    /// What it holds, if it is a slice that is not counted.
    pub(super) holds: Option<Holds>,
}

/// What fed a meter, and whether all of it was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceEvidence {
    pub(super) meter: Meter,
    /// `None` where no source is declared.
    pub(super) kind: Option<String>,
    pub(super) class: SourceClass,
    pub(super) since: Option<Hour>,
    pub(super) is_complete: bool,
    pub(super) waits_for: String,
}

/// A source object that usage was counted from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectEvidence {
    pub(super) name: String,
    pub(super) sha256: [u8; 32],
    pub(super) content_sha256: Option<[u8; 32]>,
    pub(super) read: u64,
    pub(super) event_times: Option<(Timestamp, Timestamp)>,
}

#[derive(Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[expect(
    clippy::enum_variant_names,
    reason = "a line of the file that is a line of the evidence: both words are the format's"
)]
enum Line<'a> {
    Evidence {
        format: u32,
        customer: &'a str,
        period_start: String,
        period_end: String,
        cut: i32,
        cut_at: String,
        source_class: &'a str,
        directory_version: i64,
        rules: u32,
        overridden_by: Option<&'a str>,
        override_reason: Option<&'a str>,
    },
    Meter {
        meter: &'a str,
        aggregation: &'a str,
        raw_unit: &'a str,
        gap_seconds_max: Option<u32>,
    },
    Source {
        meter: &'a str,
        kind: Option<&'a str>,
        class: &'a str,
        since: Option<String>,
        is_complete: bool,
        waits_for: &'a str,
    },
    Owned {
        account: &'a str,
        from: String,
        until: Option<String>,
    },
    Line {
        account: &'a str,
        meter: &'a str,
        window: String,
        total: String,
        sha256: String,
    },
    Object {
        name: &'a str,
        sha256: String,
        content_sha256: Option<String>,
        records: u64,
        first_event_at: Option<String>,
        last_event_at: Option<String>,
    },
    Log {
        log: String,
        version: u64,
    },
    DeadLetter {
        id: &'a str,
        reason: &'a str,
        object: Option<&'a str>,
        offset: u64,
        seen_at: String,
        state: &'a str,
        dismissed_by: Option<&'a str>,
        dismissed_because: Option<&'a str>,
        events: Option<u64>,
        window: Option<String>,
    },
    End {
        lines: usize,
        objects: usize,
        runs_without_manifest: u64,
        logs: usize,
        dead_letters: usize,
    },
}

impl Evidence<'_> {
    /// The canonical bytes.
    pub(super) fn document(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in self.lines() {
            serde_json::to_writer(&mut bytes, &line).expect("strings and numbers are always JSON");
            bytes.push(b'\n');
        }
        bytes
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let head = Line::Evidence {
            format: FORMAT,
            customer: self.customer.as_str(),
            period_start: self.period.first_day().to_string(),
            period_end: self.period.end_day().to_string(),
            cut: self.cut,
            cut_at: self.cut_at.to_string(),
            source_class: self.class.as_str(),
            directory_version: self.directory_version,
            rules: COUNTING_RULES,
            overridden_by: self.overridden.map(|overridden| overridden.by.as_str()),
            override_reason: self.overridden.map(|overridden| overridden.because.as_str()),
        };
        let meters = self.meters.iter().map(|definition| Line::Meter {
            meter: definition.meter.as_str(),
            aggregation: definition.aggregation.as_str(),
            raw_unit: definition.raw_unit.as_str(),
            gap_seconds_max: definition.gap_seconds_max,
        });
        let sources = self.sources.iter().map(|source| Line::Source {
            meter: source.meter.as_str(),
            kind: source.kind.as_deref(),
            class: source.class.as_str(),
            since: source.since.map(|hour| hour.start().to_string()),
            is_complete: source.is_complete,
            waits_for: &source.waits_for,
        });
        let owned = self.owned.iter().map(|(account, ownership)| Line::Owned {
            account: account.as_str(),
            from: ownership.from.start().to_string(),
            until: ownership.until.map(|until| until.start().to_string()),
        });
        let lines = self.lines.iter().map(|(line, closed)| Line::Line {
            account: line.account.as_str(),
            meter: line.meter.as_str(),
            window: line.window.to_string(),
            total: closed.total.to_string(),
            sha256: hex::encode(closed.identities_sha256),
        });
        let objects = self.objects.iter().map(|object| Line::Object {
            name: &object.name,
            sha256: hex::encode(object.sha256),
            content_sha256: object.content_sha256.map(hex::encode),
            records: object.read,
            first_event_at: object.event_times.map(|(first, _)| first.to_string()),
            last_event_at: object.event_times.map(|(_, last)| last.to_string()),
        });
        let logs = self.logs.iter().map(|(log, version)| Line::Log { log: log.to_string(), version: *version });
        let dead_letters =
            self.dead_letters.iter().map(|&LetterEvidence { head: letter, object, holds }| Line::DeadLetter {
                id: &letter.id,
                reason: letter.reason.as_str(),
                object,
                offset: letter.offset,
                seen_at: letter.seen_at.to_string(),
                state: state(letter),
                dismissed_by: letter.dismissed.as_ref().map(|dismissal| dismissal.by.as_str()),
                dismissed_because: letter.dismissed.as_ref().map(|dismissal| dismissal.because.as_str()),
                events: holds.map(|holds| holds.events),
                window: holds.map(|holds| holds.window.to_string()),
            });
        let end = Line::End {
            lines: self.lines.len(),
            objects: self.objects.len(),
            runs_without_manifest: self.runs_without_manifest,
            logs: self.logs.len(),
            dead_letters: self.dead_letters.len(),
        };
        let body = meters.chain(sources).chain(owned).chain(lines).chain(objects).chain(logs).chain(dead_letters);
        std::iter::once(head).chain(body).chain(std::iter::once(end))
    }
}

fn state(letter: &DeadLetterHead) -> &'static str {
    match (&letter.dismissed, letter.is_open()) {
        (Some(_), _) => "dismissed",
        (None, true) => "open",
        (None, false) => "resolved",
    }
}

/// SHA-256 of a document.
pub(super) fn sha256(document: &[u8]) -> [u8; 32] {
    Sha256::digest(document).into()
}

/// A document as it is stored.
pub(super) fn compressed(document: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(document).and_then(|()| gzip.finish()).expect("memory takes every byte")
}
