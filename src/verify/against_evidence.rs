//! Logs against an evidence file: what differs, and why as far as it can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use reference::{Line, identities_sha256, time};

use super::evidence_file::EvidenceFile;
use super::logs::{LogObject, Logs};

/// Why logs and evidence differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// It happened when the account was not the customer's. The evidence says nothing of it.
    OutsideOwnership,
    /// It was set aside as a dead letter, which the evidence names.
    NotCounted,
    /// Its object was delivered after the cut: it is in a later one.
    AfterTheCut,
    /// Its object is none of those the evidence was counted from.
    ObjectNotInEvidence,
    /// The evidence counts it, and its object is not among the logs.
    NotInTheLogs,
    /// None of these.
    Unexplained,
}

impl Class {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OutsideOwnership => "outside_ownership",
            Self::NotCounted => "not_counted",
            Self::AfterTheCut => "after_the_cut",
            Self::ObjectNotInEvidence => "object_not_in_evidence",
            Self::NotInTheLogs => "not_in_the_logs",
            Self::Unexplained => "unexplained",
        }
    }

    /// Whether the evidence claims something else than the logs say.
    pub(crate) fn is_a_difference(self) -> bool {
        !matches!(self, Self::OutsideOwnership | Self::NotCounted)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Events of one line that are on one side only, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) class: Class,
    pub(crate) line: Line,
    /// How many; 1 for a line of facts.
    pub(crate) events: u64,
    /// Which, in hexadecimal; empty where the evidence file has no identities and they cannot be told.
    pub(crate) identities: Vec<String>,
    /// The logs they are in.
    pub(crate) objects: Vec<String>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Lines of the evidence, and of them those that are exactly as in the logs.
    pub(crate) lines: u64,
    pub(crate) agreeing: u64,
    /// Lines of facts that the logs say nothing about: they are of other sources.
    pub(crate) unchecked: BTreeMap<String, u64>,
    pub(crate) findings: Vec<Finding>,
}

impl Findings {
    pub(crate) fn agrees(&self) -> bool {
        self.findings.iter().all(|finding| !finding.class.is_a_difference())
    }
}

/// Compares what logs come to with an evidence file.
pub(crate) fn against_evidence(logs: &Logs, evidence: &EvidenceFile) -> Findings {
    let comparison = Comparison { logs, evidence };
    let mut findings = Findings::default();
    let nothing = BTreeMap::new();
    let in_logs = logs.found_in.keys().filter(|line| evidence.has(&line.hour));
    let facts = logs.recount.fact_lines(evidence.period.0, evidence.period.1);
    let stated: BTreeSet<(&str, &str)> =
        logs.recount.facts.standing().map(|fact| (fact.key.account.as_str(), fact.key.meter.as_str())).collect();
    let lines: BTreeSet<&Line> = in_logs.chain(evidence.lines.keys()).chain(facts.keys()).collect();
    for line in lines {
        let claim = evidence.lines.get(line);
        findings.lines += u64::from(claim.is_some());
        let is_counted = evidence.meters.get(&line.meter).is_none_or(|aggregation| aggregation == "count");
        if !is_counted || facts.contains_key(line) {
            if !stated.contains(&(line.account.as_str(), line.meter.as_str())) {
                // The logs given are of other sources.
                *findings.unchecked.entry(line.meter.clone()).or_default() += 1;
                continue;
            }
            let found = facts.get(line).map(|(total, sha256)| (total.to_string(), hex::encode(sha256)));
            let claimed = claim.map(|claim| (claim.total.clone(), claim.sha256.clone()));
            let class = match (&found, &claimed) {
                (found, claimed) if found == claimed => {
                    findings.agreeing += 1;
                    continue;
                }
                (Some(_), None) if !evidence.owns(&line.account, &line.hour) => Class::OutsideOwnership,
                (None, _) => Class::NotInTheLogs,
                (Some(_), _) => Class::Unexplained,
            };
            let (line, identities, objects) = (line.clone(), Vec::new(), Vec::new());
            findings.findings.push(Finding { class, line, events: 1, identities, objects });
            continue;
        }
        let found = logs.found_in.get(line).unwrap_or(&nothing);
        if claim.is_none() && !evidence.owns(&line.account, &line.hour) {
            let all: Vec<[u8; 16]> = found.keys().copied().collect();
            findings.findings.push(comparison.finding(Class::OutsideOwnership, line, &all));
            continue;
        }
        let of_logs: BTreeSet<[u8; 16]> = found.keys().copied().collect();
        if claim.is_some_and(|claim| claim.sha256 == hex::encode(identities_sha256(&of_logs))) {
            findings.agreeing += 1;
            continue;
        }
        findings.findings.extend(comparison.line(line, found));
    }
    findings
}

struct Comparison<'a> {
    logs: &'a Logs,
    evidence: &'a EvidenceFile,
}

type FoundIn = BTreeMap<[u8; 16], Vec<usize>>;

impl Comparison<'_> {
    /// What differs in a line whose hashes differ.
    fn line(&self, line: &Line, found: &FoundIn) -> Vec<Finding> {
        let mut by_class = BTreeMap::<Class, Vec<[u8; 16]>>::new();
        let known = self.evidence.identities.as_ref();
        match known.map(|known| known.get(line).cloned().unwrap_or_default()) {
            Some(counted) => {
                for (identity, objects) in found.iter().filter(|(identity, _)| !counted.contains(*identity)) {
                    by_class.entry(self.class_of(objects)).or_default().push(*identity);
                }
                let missing: Vec<[u8; 16]> =
                    counted.into_iter().filter(|identity| !found.contains_key(identity)).collect();
                if !missing.is_empty() {
                    by_class.insert(Class::NotInTheLogs, missing);
                }
                by_class.into_iter().map(|(class, identities)| self.finding(class, line, &identities)).collect()
            }
            None => self.without_identities(line, found),
        }
    }

    /// Without identities: if the events of the objects that the evidence knows have its hash, the others explain the rest.
    fn without_identities(&self, line: &Line, found: &FoundIn) -> Vec<Finding> {
        let claim = self.evidence.lines.get(line);
        let (inside, outside): (FoundIn, FoundIn) =
            found.clone().into_iter().partition(|(_, objects)| self.class_of(objects) == Class::Unexplained);
        let of_inside: BTreeSet<[u8; 16]> = inside.keys().copied().collect();
        let is_explained = match claim {
            Some(claim) => claim.sha256 == hex::encode(identities_sha256(&of_inside)),
            None => of_inside.is_empty(),
        };
        if is_explained {
            let mut by_class = BTreeMap::<Class, Vec<[u8; 16]>>::new();
            for (identity, objects) in &outside {
                by_class.entry(self.class_of(objects)).or_default().push(*identity);
            }
            return by_class.into_iter().map(|(class, identities)| self.finding(class, line, &identities)).collect();
        }
        // Only the counts are known.
        let counted: u64 = claim.and_then(|claim| claim.total.parse().ok()).unwrap_or_default();
        let in_logs = found.len() as u64;
        let class = if in_logs < counted { Class::NotInTheLogs } else { Class::Unexplained };
        // Equal counts with different hashes are at least one event on each side.
        let events = in_logs.abs_diff(counted).max(1);
        vec![Finding { class, line: line.clone(), events, identities: Vec::new(), objects: Vec::new() }]
    }

    /// Why events in these objects are not counted.
    fn class_of(&self, objects: &[usize]) -> Class {
        let objects = || objects.iter().map(|position| &self.logs.objects[*position]);
        let is_known = |object: &LogObject| {
            self.evidence.knows([Some(object.sha256), object.content_sha256].into_iter().flatten())
        };
        if objects().any(is_known) {
            let has_letters = |object: &LogObject| {
                self.evidence.dead_letter_objects.iter().any(|name| file_name(name) == file_name(&object.path))
            };
            return if objects().any(has_letters) { Class::NotCounted } else { Class::Unexplained };
        }
        let is_later = |object: &LogObject| delivered_at(&object.path).is_some_and(|at| self.evidence.cut_at < at);
        if objects().all(is_later) { Class::AfterTheCut } else { Class::ObjectNotInEvidence }
    }

    fn finding(&self, class: Class, line: &Line, identities: &[[u8; 16]]) -> Finding {
        let found = self.logs.found_in.get(line);
        let positions = identities.iter().filter_map(|identity| found?.get(identity)).flatten();
        let objects: BTreeSet<&str> = positions.map(|position| self.logs.objects[*position].path.as_str()).collect();
        Finding {
            class,
            line: line.clone(),
            events: identities.len() as u64,
            identities: identities.iter().map(hex::encode).collect(),
            objects: objects.into_iter().map(str::to_owned).collect(),
        }
    }
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// When a log object was delivered, by its name: `..._20261001T1240Z_...`.
fn delivered_at(path: &str) -> Option<i64> {
    file_name(path).split('_').find_map(|part| {
        let part = part.strip_suffix('Z').filter(|part| part.len() == 13 && part.is_ascii())?;
        let (day, clock) = part.split_once('T').filter(|(day, _)| day.len() == 8)?;
        let (year, month, day) = (&day[..4], &day[4..6], &day[6..]);
        time::instant(&format!("{year}-{month}-{day}T{}:{}:00Z", &clock[..2], &clock[2..]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};

    use super::*;

    const NOW: &str = "2026-11-22T08:00:00Z";
    const ACCOUNT: &str = "111122223333";

    fn now() -> i64 {
        time::instant(NOW).unwrap()
    }

    fn name(minute: &str, which: u32) -> String {
        format!("logs/{ACCOUNT}_CloudTrail_eu-west-1_{minute}Z_{which:016}.json")
    }

    fn record(id: u8, time: &str) -> Value {
        let id = format!("49dfd327-5991-4a6e-9e1c-0123456789{id:02x}");
        json!({ "eventID": id, "eventName": "X", "eventTime": time, "recipientAccountId": ACCOUNT })
    }

    fn object(ids: &[u8], time: &str) -> Vec<u8> {
        let records: Vec<Value> = ids.iter().map(|id| record(*id, time)).collect();
        json!({ "Records": records }).to_string().into_bytes()
    }

    fn logs(objects: &[(String, Vec<u8>)]) -> Logs {
        let mut logs = Logs::default();
        for (name, stored) in objects {
            logs.add(name, stored, None, now());
        }
        logs
    }

    /// The evidence of everything in some logs, the account owned from the 5th of October on, a cut on the 4th of November.
    fn evidence(logs: &Logs, with_identities: bool, dead_letter: Option<&str>) -> Vec<u8> {
        let mut lines = vec![
            json!({ "is": "evidence", "format": 1, "customer": "acme", "period_start": "2026-10-01",
                "period_end": "2026-11-01", "cut": 1, "cut_at": "2026-11-04T00:00:00Z" }),
            json!({ "is": "meter", "meter": "cloudtrail_events", "aggregation": "count" }),
            json!({ "is": "owned", "account": ACCOUNT, "from": "2026-10-05T00:00:00Z", "until": null }),
        ];
        let mut behind = Vec::new();
        for (line, found) in &logs.found_in {
            if line.hour.as_str() < "2026-10-05T00" || !line.hour.starts_with("2026-10") {
                continue;
            }
            let identities: BTreeSet<[u8; 16]> = found.keys().copied().collect();
            lines.push(json!({ "is": "line", "account": line.account, "meter": line.meter, "window": line.hour,
                "total": identities.len().to_string(), "sha256": hex::encode(identities_sha256(&identities)) }));
            let of: Vec<String> = identities.iter().map(hex::encode).collect();
            behind.push(json!({ "is": "identities", "account": line.account, "meter": line.meter,
                "window": line.hour, "of": of }));
        }
        let count = behind.len();
        for object in &logs.objects {
            lines.push(json!({ "is": "object", "name": object.path, "sha256": hex::encode(object.sha256),
                "content_sha256": null }));
        }
        lines.extend(dead_letter.map(|object| json!({ "is": "dead_letter", "object": object })));
        lines.push(json!({ "is": "end", "lines": count, "objects": logs.objects.len(), "logs": 0,
            "dead_letters": usize::from(dead_letter.is_some()) }));
        if with_identities {
            lines.extend(behind);
        }
        lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
    }

    /// Compares logs with the evidence of other logs, with and without identities, and says each finding.
    fn check(counted: &[(String, Vec<u8>)], given: &[(String, Vec<u8>)], expected: &[(Class, u64)]) {
        for with_identities in [true, false] {
            let file = EvidenceFile::parse(&evidence(&logs(counted), with_identities, None)).unwrap();
            let found = against_evidence(&logs(given), &file);
            let said: Vec<(Class, u64)> = found.findings.iter().map(|found| (found.class, found.events)).collect();
            assert_eq!(said, expected, "with identities: {with_identities}");
            assert_eq!(found.agrees(), expected.iter().all(|(class, _)| !class.is_a_difference()));
        }
    }

    #[test]
    fn the_same_logs_agree_however_they_are_cut_and_repeated() {
        let first = (name("20261007T0105", 1), object(&[1, 2, 3], "2026-10-07T01:00:00Z"));
        let second = (name("20261007T0110", 2), object(&[3, 4], "2026-10-07T01:00:00Z"));
        let before = (name("20261003T0110", 3), object(&[9], "2026-10-03T01:00:00Z"));
        check(&[first.clone(), second.clone()], &[second.clone(), first.clone(), first.clone()], &[]);
        let november = (name("20261107T0110", 4), object(&[9], "2026-11-01T00:00:00Z"));
        check(std::slice::from_ref(&first), &[first.clone(), november, before], &[(Class::OutsideOwnership, 1)]);
    }

    #[test]
    fn what_differs_is_classed_by_its_objects() {
        let first = (name("20261007T0105", 1), object(&[1, 2, 3], "2026-10-07T01:00:00Z"));
        let late = (name("20261104T0105", 2), object(&[4, 5], "2026-10-07T01:00:00Z"));
        let lost = (name("20261007T0110", 3), object(&[6, 3], "2026-10-07T01:00:00Z"));
        let idle = (name("20261009T0110", 4), object(&[7], "2026-10-09T01:00:00Z"));
        check(std::slice::from_ref(&first), &[first.clone(), late.clone()], &[(Class::AfterTheCut, 2)]);
        check(std::slice::from_ref(&first), &[first.clone(), lost.clone()], &[(Class::ObjectNotInEvidence, 1)]);
        let all = [first.clone(), late.clone(), lost.clone(), idle.clone()];
        let expected = [(Class::AfterTheCut, 2), (Class::ObjectNotInEvidence, 1), (Class::ObjectNotInEvidence, 1)];
        check(std::slice::from_ref(&first), &all, &expected);
        check(&[first.clone(), lost.clone()], std::slice::from_ref(&first), &[(Class::NotInTheLogs, 1)]);
        check(&[first.clone(), idle], &[first], &[(Class::NotInTheLogs, 1)]);
    }

    #[test]
    fn an_event_of_a_known_object_that_is_not_counted_is_unexplained_unless_it_was_set_aside() {
        let whole = (name("20261007T0105", 1), object(&[1, 2, 3], "2026-10-07T01:00:00Z"));
        let mut counted = logs(std::slice::from_ref(&whole));
        for found in counted.found_in.values_mut() {
            found.pop_last();
        }
        for (dead_letter, class) in [(None, Class::Unexplained), (Some(whole.0.as_str()), Class::NotCounted)] {
            let file = EvidenceFile::parse(&evidence(&counted, true, dead_letter)).unwrap();
            let found = against_evidence(&logs(std::slice::from_ref(&whole)), &file);
            assert_eq!(found.findings.len(), 1);
            let finding = &found.findings[0];
            assert_eq!((finding.class, finding.identities[0].ends_with("03")), (class, true));
            assert_eq!(finding.objects, std::slice::from_ref(&whole.0));
        }
    }

    #[test]
    fn a_file_that_was_changed_is_refused_or_has_another_hash() {
        let counted = logs(&[(name("20261007T0105", 1), object(&[1, 2], "2026-10-07T01:00:00Z"))]);
        let whole = evidence(&counted, true, None);
        let file = EvidenceFile::parse(&whole).unwrap();
        assert_eq!(file.sha256, <[u8; 32]>::from(Sha256::digest(evidence(&counted, false, None))));
        let text = String::from_utf8(whole).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let without = |skipped: usize| {
            let kept = lines.iter().enumerate().filter(|(position, _)| *position != skipped);
            kept.map(|(_, line)| *line).collect::<String>()
        };
        for skipped in 0..lines.len() - 1 {
            let parsed = EvidenceFile::parse(without(skipped).as_bytes());
            assert!(parsed.is_err() || parsed.unwrap().sha256 != file.sha256, "without line {skipped}");
        }
        assert!(EvidenceFile::parse(&text.as_bytes()[..text.len() - 1]).is_err());
        let other = text.replace("\"format\":1", "\"format\":2");
        assert!(EvidenceFile::parse(other.as_bytes()).unwrap_err().to_string().contains("format 2"));
        let swapped = text.replacen("456789", "456780", 1);
        if swapped != text {
            assert!(EvidenceFile::parse(swapped.as_bytes()).is_err());
        }
    }
}
