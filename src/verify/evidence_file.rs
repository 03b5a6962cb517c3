//! An evidence file, read as its documentation says and no other way.

use std::collections::{BTreeMap, BTreeSet};

use reference::{Adds, Line, Rules, is_built_in, time};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The format that is understood.
const FORMAT: u32 = 1;

/// Why a file cannot be used. Stop: get the file again.
#[derive(Debug, Error)]
pub(crate) enum NotEvidence {
    #[error("line {0} of the evidence file cannot be read: export it again with securebase evidence export")]
    Line(usize),
    #[error("the evidence file is of format {0}, this program knows format {FORMAT}: use a newer securebase")]
    Format(u32),
    #[error("the evidence file ends early or has lines taken out: export it again")]
    Incomplete,
    #[error("the identities behind line {0} of the evidence file do not have the hash that the file says")]
    Identities(usize),
}

/// A total and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) total: String,
    pub(crate) sha256: String,
}

/// An evidence file.
#[derive(Clone, Debug, Default)]
pub(crate) struct EvidenceFile {
    /// Over the evidence itself, without identities behind it.
    pub(crate) sha256: [u8; 32],
    pub(crate) customer: String,
    /// The hours of the period, `[first, end)`, in microseconds since 1970.
    pub(crate) period: (i64, i64),
    pub(crate) cut: i64,
    pub(crate) cut_at: i64,
    /// By account: half-open intervals in microseconds since 1970.
    pub(crate) owned: BTreeMap<String, Vec<(i64, Option<i64>)>>,
    /// The aggregation of each meter.
    pub(crate) meters: BTreeMap<String, String>,
    /// The meters that are data, as the file says they add up.
    pub(crate) rules: Rules,
    pub(crate) lines: BTreeMap<Line, Claim>,
    /// Hashes of the source objects, as stored and of their content, and how they are named.
    pub(crate) objects: BTreeMap<[u8; 32], String>,
    /// Names of objects with dead letters.
    pub(crate) dead_letter_objects: BTreeSet<String>,
    /// Every identity of each line, where the file has them.
    pub(crate) identities: Option<BTreeMap<Line, BTreeSet<[u8; 16]>>>,
}

#[derive(Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Written {
    Evidence {
        format: u32,
        customer: String,
        period_start: String,
        period_end: String,
        cut: i64,
        cut_at: String,
    },
    Meter {
        meter: String,
        aggregation: String,
        #[serde(default)]
        gap_seconds_max: Option<i64>,
    },
    Source,
    Owned {
        account: String,
        from: String,
        until: Option<String>,
    },
    Line {
        account: String,
        meter: String,
        window: String,
        total: String,
        sha256: String,
    },
    Object {
        name: String,
        sha256: String,
        content_sha256: Option<String>,
    },
    Log,
    DeadLetter {
        object: Option<String>,
    },
    End {
        lines: usize,
        objects: usize,
        logs: usize,
        dead_letters: usize,
    },
    Identities {
        account: String,
        meter: String,
        window: String,
        of: Vec<String>,
    },
}

impl EvidenceFile {
    /// Reads a file as it was exported.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, NotEvidence> {
        let mut file = Self::default();
        let (mut counts, mut ended) = ([0; 4], false);
        let mut read_bytes = 0;
        for (line, number) in bytes.split_inclusive(|byte| *byte == b'\n').zip(1..) {
            let broken = || NotEvidence::Line(number);
            if !line.ends_with(b"\n") {
                return Err(NotEvidence::Incomplete);
            }
            let written: Written = serde_json::from_slice(line).map_err(|_| broken())?;
            let is_first = matches!(written, Written::Evidence { .. });
            let is_behind = matches!(written, Written::Identities { .. });
            if is_first != (number == 1) || is_behind != ended {
                return Err(broken());
            }
            read_bytes += line.len();
            match written {
                Written::Log => counts[2] += 1,
                Written::End { lines, objects, logs, dead_letters } => {
                    if counts != [lines, objects, logs, dead_letters] {
                        return Err(NotEvidence::Incomplete);
                    }
                    ended = true;
                    file.sha256 = Sha256::digest(&bytes[..read_bytes]).into();
                }
                Written::Identities { account, meter, window, of } => {
                    let line = Line { meter, account, hour: window };
                    file.add_identities(line, &of, number)?;
                }
                written => {
                    match &written {
                        Written::Line { .. } => counts[0] += 1,
                        Written::Object { .. } => counts[1] += 1,
                        Written::DeadLetter { .. } => counts[3] += 1,
                        _ => {}
                    }
                    if let Written::Evidence { format, .. } = &written
                        && *format != FORMAT
                    {
                        return Err(NotEvidence::Format(*format));
                    }
                    file.add(written).ok_or_else(broken)?;
                }
            }
        }
        if ended { Ok(file) } else { Err(NotEvidence::Incomplete) }
    }

    fn add(&mut self, written: Written) -> Option<()> {
        match written {
            Written::Evidence { customer, period_start, period_end, cut, cut_at, .. } => {
                let midnight = |day: &str| time::instant(&format!("{day}T00:00:00Z"));
                self.period = (midnight(&period_start)?, midnight(&period_end)?);
                self.cut_at = time::instant(&cut_at)?;
                (self.customer, self.cut) = (customer, cut);
            }
            Written::Meter { meter, aggregation, gap_seconds_max } => {
                let adds = match aggregation.as_str() {
                    "sum" | "count" => Some(Adds::Sum),
                    "max" => Some(Adds::Max),
                    "time_weighted" => gap_seconds_max.map(|gap_seconds| Adds::OverTime { gap_seconds }),
                    _ => None,
                };
                self.rules
                    .meters
                    .extend(adds.map(|adds| (meter.clone(), adds)).filter(|(meter, _)| !is_built_in(meter)));
                self.meters.insert(meter, aggregation);
            }
            Written::Owned { account, from, until } => {
                let until = until.map(|until| time::instant(&until).ok_or(())).transpose().ok()?;
                self.owned.entry(account).or_default().push((time::instant(&from)?, until));
            }
            Written::Line { account, meter, window, total, sha256 } => {
                self.lines.insert(Line { meter, account, hour: window }, Claim { total, sha256 });
            }
            Written::Object { name, sha256, content_sha256 } => {
                for hash in [Some(sha256), content_sha256].into_iter().flatten() {
                    self.objects.insert(hex::decode(hash).ok()?.try_into().ok()?, name.clone());
                }
            }
            Written::DeadLetter { object } => self.dead_letter_objects.extend(object),
            Written::Source | Written::Log | Written::End { .. } | Written::Identities { .. } => {}
        }
        Some(())
    }

    /// Takes in the identities of a line of counts, if they have the hash of the line.
    fn add_identities(&mut self, line: Line, of: &[String], number: usize) -> Result<(), NotEvidence> {
        let all = self.identities.get_or_insert_default();
        if self.meters.get(&line.meter).is_none_or(|aggregation| aggregation != "count") {
            return Ok(());
        }
        let parsed = of.iter().map(|hex| hex::decode(hex).ok()?.try_into().ok());
        let identities: Option<BTreeSet<[u8; 16]>> = parsed.collect();
        let identities = identities.ok_or(NotEvidence::Line(number))?;
        let sha256 = hex::encode(reference::identities_sha256(&identities));
        if self.lines.get(&line).is_none_or(|claim| claim.sha256 != sha256) {
            return Err(NotEvidence::Identities(number));
        }
        all.insert(line, identities);
        Ok(())
    }

    /// Whether an hour of an account is the customer's.
    pub(crate) fn owns(&self, account: &str, hour: &str) -> bool {
        let Some(at) = time::hour_start(hour) else { return false };
        let owned = self.owned.get(account).into_iter().flatten();
        owned.into_iter().any(|(from, until)| *from <= at && until.is_none_or(|until| at < until))
    }

    /// Whether an hour is in the period.
    pub(crate) fn has(&self, hour: &str) -> bool {
        time::hour_start(hour).is_some_and(|at| self.period.0 <= at && at < self.period.1)
    }

    /// Whether an object with one of these hashes was counted from.
    pub(crate) fn knows(&self, hashes: impl IntoIterator<Item = [u8; 32]>) -> bool {
        hashes.into_iter().any(|hash| self.objects.contains_key(&hash))
    }
}
