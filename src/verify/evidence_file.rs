//! An evidence file, read as its documentation says and no other way.

use std::collections::{BTreeMap, BTreeSet};

use reference::{Adds, Line, Mark, Rules, is_built_in, time};
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

/// A record that was set aside and is not counted: open, or dismissed on somebody's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) id: String,
    pub(crate) reason: String,
    /// The name of the source object.
    pub(crate) object: String,
    /// In microseconds since 1970.
    pub(crate) seen_at: i64,
    /// Of a slice: how many events or facts, and of which hour or day.
    pub(crate) holds: Option<(u64, String)>,
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
    pub(crate) objects: BTreeMap<[u8; 32], BTreeSet<String>>,
    /// What was set aside of objects that may be named, and is not counted.
    pub(crate) letters: Vec<Letter>,
    /// What is behind each line, where the file has it.
    pub(crate) behind: Option<Behind>,
}

/// What the hashes of the lines are over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behind {
    pub(crate) identities: BTreeMap<Line, BTreeSet<[u8; 16]>>,
    pub(crate) facts: BTreeMap<Line, BTreeSet<Mark>>,
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
        id: String,
        reason: String,
        object: Option<String>,
        seen_at: String,
        state: String,
        #[serde(default)]
        events: Option<u64>,
        #[serde(default)]
        window: Option<String>,
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
        if ended && file.behind.as_ref().is_none_or(|behind| file.lines.keys().all(|line| behind.has(line))) {
            Ok(file)
        } else {
            Err(NotEvidence::Incomplete)
        }
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
                    let named: &mut BTreeSet<String> =
                        self.objects.entry(hex::decode(hash).ok()?.try_into().ok()?).or_default();
                    named.insert(name.clone());
                }
            }
            Written::DeadLetter { id, reason, object, seen_at, state, events, window } => {
                let seen_at = time::instant(&seen_at)?;
                // What was put right is counted, and accounts for nothing that is missing.
                if let (Some(object), "open" | "dismissed") = (object, state.as_str()) {
                    self.letters.push(Letter { id, reason, object, seen_at, holds: events.zip(window) });
                }
            }
            Written::Source | Written::Log | Written::End { .. } | Written::Identities { .. } => {}
        }
        Some(())
    }

    /// Takes in what is behind a line, if it has the hash of the line.
    fn add_identities(&mut self, line: Line, of: &[String], number: usize) -> Result<(), NotEvidence> {
        let behind = self.behind.get_or_insert_default();
        let claimed = self.lines.get(&line).map(|claim| &claim.sha256).ok_or(NotEvidence::Identities(number))?;
        let sha256 = if self.meters.get(&line.meter).is_some_and(|aggregation| aggregation == "count") {
            let parsed = of.iter().map(|hex| hex::decode(hex).ok()?.try_into().ok());
            let identities: Option<BTreeSet<[u8; 16]>> = parsed.collect();
            let identities = identities.ok_or(NotEvidence::Line(number))?;
            let sha256 = reference::identities_sha256(&identities);
            behind.identities.insert(line, identities);
            sha256
        } else {
            let marks: Option<Vec<Mark>> = of.iter().map(|text| mark(text)).collect();
            let marks = marks.ok_or(NotEvidence::Line(number))?;
            behind.facts.insert(line, marks.iter().cloned().collect());
            reference::marks_sha256(marks)
        };
        if *claimed == hex::encode(sha256) { Ok(()) } else { Err(NotEvidence::Identities(number)) }
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

    /// The names under which an object with one of these hashes was counted from; none if it was not.
    pub(crate) fn names_of(&self, hashes: impl IntoIterator<Item = [u8; 32]>) -> BTreeSet<&str> {
        hashes.into_iter().filter_map(|hash| self.objects.get(&hash)).flatten().map(String::as_str).collect()
    }
}

impl Behind {
    fn has(&self, line: &Line) -> bool {
        self.identities.contains_key(line) || self.facts.contains_key(line)
    }
}

/// Reads `KEY REVISION TIME VALUE`.
fn mark(text: &str) -> Option<Mark> {
    let mut parts = text.splitn(4, ' ');
    let key = hex::decode(parts.next()?).ok()?.try_into().ok()?;
    let (revision, time) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((key, revision, time, parts.next()?.to_owned()))
}

/// Writes it.
pub(crate) fn mark_text((key, revision, time, value): &Mark) -> String {
    format!("{} {revision} {time} {value}", hex::encode(key))
}
