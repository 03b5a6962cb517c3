//! Raw logs, recounted: which identities each line has, and which objects each is in.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use flate2::read::MultiGzDecoder;
use reference::{Judged, Line, Outcome, Recount, Rules};
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

/// Logs and what they come to.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pub(crate) objects: Vec<LogObject>,
    pub(crate) recount: Recount,
    /// The objects that each identity of a line is in, by their position.
    pub(crate) found_in: BTreeMap<Line, BTreeMap<[u8; 16], Vec<usize>>>,
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
        let position = self.objects.len();
        let sha256 = Sha256::digest(stored).into();
        let content_sha256 = if stored.starts_with(&[0x1f, 0x8b]) { inflated_sha256(stored) } else { Some(sha256) };
        self.objects.push(LogObject { path: name.to_owned(), sha256, content_sha256 });
        let judged = self.recount.add_object_written_at(name, stored, written_at, now);
        let outcomes = judged.into_iter().flat_map(|Judged { outcome, beside }| [outcome].into_iter().chain(beside));
        for outcome in outcomes {
            let Outcome::Counts(unit) = outcome else { continue };
            let line = Line { meter: unit.meter, account: unit.account, hour: unit.hour };
            let objects = self.found_in.entry(line).or_default().entry(unit.identity).or_default();
            if objects.last() != Some(&position) {
                objects.push(position);
            }
        }
    }
}

fn inflated_sha256(stored: &[u8]) -> Option<[u8; 32]> {
    let mut content = Vec::new();
    MultiGzDecoder::new(stored).read_to_end(&mut content).ok()?;
    Some(Sha256::digest(content).into())
}
