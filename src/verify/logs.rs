//! Raw logs, recounted: which identities each line has, and which objects each is in.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use flate2::read::MultiGzDecoder;
use reference::{Judged, Line, Mark, Outcome, Recount, Rules};
use sha2::{Digest, Sha256};

/// A log object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogObject {
    pub(crate) path: String,
    /// As stored.
    pub(crate) sha256: [u8; 32],
    /// Inflated; `None` where it cannot be.
    pub(crate) content_sha256: Option<[u8; 32]>,
}

/// A record of a log object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The position of the object.
    pub(crate) object: u32,
    /// The number of the record in it, from 0.
    pub(crate) record: u32,
}

/// Logs and what they come to.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) objects: Vec<LogObject>,
    pub(crate) recount: Recount,
    /// The records that each identity of a line is in.
    pub(crate) found_in: BTreeMap<Line, BTreeMap<[u8; 16], Vec<Place>>>,
    /// The records that state each fact, whether it stands or not.
    pub(crate) stated_in: BTreeMap<Mark, Vec<Place>>,
}

impl Logs {
    /// Reads files, one by one, by these rules. `now` in microseconds since 1970.
    pub(crate) fn read(files: &[PathBuf], rules: Rules, now: i64) -> anyhow::Result<Self> {
        let mut logs = Self { recount: Recount::under(rules), ..Self::default() };
        for file in files {
            let at = || format!("cannot read {}", file.display());
            let stored = fs::read(file).with_context(at)?;
            let written = fs::metadata(file).and_then(|metadata| metadata.modified()).with_context(at)?;
            let written_at = written.duration_since(UNIX_EPOCH).ok().and_then(|age| age.as_micros().try_into().ok());
            logs.add(&file.to_string_lossy(), &stored, written_at, now);
        }
        Ok(logs)
    }

    /// Reads one object.
    pub(crate) fn add(&mut self, name: &str, stored: &[u8], written_at: Option<i64>, now: i64) {
        let object = u32::try_from(self.objects.len()).expect("far fewer files fit in memory");
        let sha256 = Sha256::digest(stored).into();
        let content_sha256 = if stored.starts_with(&[0x1f, 0x8b]) { inflated_sha256(stored) } else { Some(sha256) };
        self.objects.push(LogObject { path: name.to_owned(), sha256, content_sha256 });
        let judged = self.recount.add_object_written_at(name, stored, written_at, now);
        for (record, Judged { outcome, beside }) in (0..).zip(judged) {
            let place = Place { object, record };
            for outcome in [outcome].into_iter().chain(beside) {
                self.place(outcome, place);
            }
        }
    }

    fn place(&mut self, outcome: Outcome, place: Place) {
        match outcome {
            Outcome::Counts(unit) => {
                let line = Line { meter: unit.meter, account: unit.account, hour: unit.hour };
                add(self.found_in.entry(line).or_default().entry(unit.identity).or_default(), place);
            }
            Outcome::States(facts) => {
                for fact in facts {
                    add(self.stated_in.entry(fact.mark()).or_default(), place);
                }
            }
            Outcome::NotCounted(_) | Outcome::DeadLetter(_) => {}
        }
    }
}

fn add(places: &mut Vec<Place>, place: Place) {
    if places.last() != Some(&place) {
        places.push(place);
    }
}

fn inflated_sha256(stored: &[u8]) -> Option<[u8; 32]> {
    let mut content = Vec::new();
    MultiGzDecoder::new(stored).read_to_end(&mut content).ok()?;
    Some(Sha256::digest(content).into())
}
