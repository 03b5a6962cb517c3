//! Raw logs, recounted: which identities each line has, and which objects each is in.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context;
use flate2::read::MultiGzDecoder;
use reference::{Line, Outcome, Recount};
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
    /// Reads files, one by one. `now` in microseconds since 1970.
    pub(crate) fn read(files: &[PathBuf], now: i64) -> anyhow::Result<Self> {
        let mut logs = Self::default();
        for file in files {
            let stored = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            logs.add(&file.to_string_lossy(), &stored, now);
        }
        Ok(logs)
    }

    /// Reads one object.
    pub(crate) fn add(&mut self, name: &str, stored: &[u8], now: i64) {
        let position = self.objects.len();
        let sha256 = Sha256::digest(stored).into();
        let content_sha256 = if stored.starts_with(&[0x1f, 0x8b]) { inflated_sha256(stored) } else { Some(sha256) };
        self.objects.push(LogObject { path: name.to_owned(), sha256, content_sha256 });
        for outcome in self.recount.add_object(name, stored, now) {
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
