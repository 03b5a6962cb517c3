//! Reading one source object: every record judged, every byte accounted for.

use std::collections::BTreeMap;
use std::io::{self, Read};

use thiserror::Error;

use crate::inflate::Inflate;
use crate::records::{Piece, Records};
use crate::{NotCounted, Reason, Timestamp, Verdict, cloudtrail};

/// One record of a source object, judged.
#[derive(Debug)]
pub struct Judged<'a> {
    /// What it turned out to be.
    pub verdict: Verdict<'a>,
    /// Its bytes, or their beginning.
    pub bytes: &'a [u8],
    /// Where it begins in the inflated object, in bytes.
    pub offset: u64,
    /// Whether `bytes` is all of it. Otherwise a replay needs the object itself.
    pub is_whole: bool,
}

/// What one reading of a source object found, in source records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRead {
    /// Records read: usage, not counted and dead letters together.
    pub read: u64,
    /// Understood, and not usage, by kind.
    pub not_counted: BTreeMap<NotCounted, u64>,
    /// Set aside, by reason.
    pub dead_letters: BTreeMap<Reason, u64>,
    /// Bytes of the object as stored.
    pub stored_bytes: u64,
    /// SHA-256 of the object as stored.
    pub sha256: [u8; 32],
}

/// Why a reading stopped: nothing of it is done, so the object is read again.
#[derive(Debug, Error)]
pub enum ReadError<E> {
    /// The object could not be read from its store. Retry.
    #[error("cannot read the object: {0}")]
    Store(#[source] io::Error),
    /// What was read could not be passed on. As its cause says.
    #[error(transparent)]
    Sink(E),
}

/// Reads an object to its end and hands each record on, judged. Memory is bounded whatever the object's size.
///
/// `name` is the delivered name, whose account stands in for an event's that has none.
pub fn read_object<E>(
    name: &str,
    stored: impl Read,
    now: Timestamp,
    mut each: impl FnMut(Judged<'_>) -> Result<(), E>,
) -> Result<ObjectRead, ReadError<E>> {
    let object_account = cloudtrail::account_in_object_name(name);
    let mut records = Records::new(Inflate::open(stored).map_err(ReadError::Store)?);
    let mut found = ObjectRead::default();
    while let Some(piece) = records.next().map_err(ReadError::Store)? {
        let judged = match piece {
            Piece::Record { bytes, offset } => {
                Judged { verdict: cloudtrail::judge(bytes, object_account, now), bytes, offset, is_whole: true }
            }
            Piece::Broken { reason, bytes, offset, is_whole } => {
                Judged { verdict: Verdict::DeadLetter(reason), bytes, offset, is_whole }
            }
        };
        found.read += 1;
        match judged.verdict {
            Verdict::Usage(_) => {}
            Verdict::NotCounted(kind) => *found.not_counted.entry(kind).or_default() += 1,
            Verdict::DeadLetter(reason) => *found.dead_letters.entry(reason).or_default() += 1,
        }
        each(judged).map_err(ReadError::Sink)?;
    }
    let stored = records.finish().map_err(ReadError::Store)?;
    (found.stored_bytes, found.sha256) = (stored.bytes, stored.sha256);
    Ok(found)
}
