//! Logs against an evidence file: what differs, and why as far as it can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use reference::{Line, Mark, Number, identities_sha256, marks_sha256, time};

use super::evidence_file::{EvidenceFile, mark_text};
use super::excuses::{Excuses, Known};
use super::logs::{LogObject, Logs, Place};

/// Without identities: so many events are tried one by one to find the one that a dead letter holds.
const TRIED_MAX: usize = 1_000;

/// Why logs and evidence differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// It happened when the account was not the customer's. The evidence says nothing of it.
    OutsideOwnership,
    /// A dead letter that the evidence names may hold it, and holds nothing else.
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

/// Events or facts of one line that are on one side only, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) class: Class,
    pub(crate) line: Line,
    /// How many; 1 for a line of facts that cannot be told.
    pub(crate) events: u64,
    /// Which, as the evidence file names them; empty where it has no identities and they cannot be told.
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
    let mut comparison = Comparison { logs, evidence, excuses: Excuses::new(evidence) };
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
        let differences = if !is_counted || facts.contains_key(line) {
            if !stated.contains(&(line.account.as_str(), line.meter.as_str())) {
                // The logs given are of other sources.
                *findings.unchecked.entry(line.meter.clone()).or_default() += 1;
                continue;
            }
            comparison.facts(line, facts.get(line))
        } else {
            comparison.counts(line, logs.found_in.get(line).unwrap_or(&nothing))
        };
        match differences {
            None => findings.agreeing += 1,
            Some(differences) => findings.findings.extend(differences),
        }
    }
    findings
}

struct Comparison<'a> {
    logs: &'a Logs,
    evidence: &'a EvidenceFile,
    excuses: Excuses<'a>,
}

type FoundIn = BTreeMap<[u8; 16], Vec<Place>>;

impl<'a> Comparison<'a> {
    /// What differs in a line of facts; `None` if it is as in the logs.
    fn facts(&mut self, line: &Line, found: Option<&(Number, Vec<Mark>)>) -> Option<Vec<Finding>> {
        let claim = self.evidence.lines.get(line);
        if let (Some((total, marks)), Some(claim)) = (found, claim)
            && (total.to_string(), hex::encode(marks_sha256(marks.clone())))
                == (claim.total.clone(), claim.sha256.clone())
        {
            return None;
        }
        let in_logs: BTreeSet<Mark> = found.into_iter().flat_map(|(_, marks)| marks).cloned().collect();
        if claim.is_none() && !self.evidence.owns(&line.account, &line.hour) {
            return Some(vec![self.fact_finding(Class::OutsideOwnership, line, &in_logs)]);
        }
        let claimed = match (claim, &self.evidence.behind) {
            (None, _) => Some(BTreeSet::new()),
            (Some(_), Some(behind)) => Some(behind.facts.get(line).cloned().unwrap_or_default()),
            (Some(_), None) => None,
        };
        let by_class = match claimed {
            Some(claimed) => self.facts_by_class(&in_logs, &claimed),
            // What bears on an hour follows from all facts of a resource: their hash alone tells nothing of one.
            None if found.is_none() => BTreeMap::from([(Class::NotInTheLogs, BTreeSet::new())]),
            None => BTreeMap::from([(Class::Unexplained, BTreeSet::new())]),
        };
        Some(by_class.into_iter().map(|(class, marks)| self.fact_finding(class, line, &marks)).collect())
    }

    /// The facts that bear on a line on one side only.
    fn facts_by_class(
        &mut self,
        in_logs: &BTreeSet<Mark>,
        claimed: &BTreeSet<Mark>,
    ) -> BTreeMap<Class, BTreeSet<Mark>> {
        let mut by_class = BTreeMap::<Class, BTreeSet<Mark>>::new();
        for mark in in_logs.difference(claimed) {
            let places = self.logs.stated_in.get(mark).map_or(&[][..], Vec::as_slice);
            let class = self.class_of(mark_text(mark).as_bytes(), &time::hour(mark.2), places);
            by_class.entry(class).or_default().insert(mark.clone());
        }
        let are_others = !by_class.is_empty();
        for mark in claimed.difference(in_logs) {
            let class = match self.logs.stated_in.contains_key(mark) {
                false => Class::NotInTheLogs,
                // The logs have it, and something above takes its place.
                true if are_others => continue,
                true => Class::Unexplained,
            };
            by_class.entry(class).or_default().insert(mark.clone());
        }
        if by_class.is_empty() {
            // The same facts, and another total.
            by_class.insert(Class::Unexplained, BTreeSet::new());
        }
        by_class
    }

    fn fact_finding(&self, class: Class, line: &Line, marks: &BTreeSet<Mark>) -> Finding {
        let places = marks.iter().filter_map(|mark| self.logs.stated_in.get(mark)).flatten();
        Finding {
            class,
            line: line.clone(),
            events: (marks.len() as u64).max(1),
            identities: marks.iter().map(mark_text).collect(),
            objects: self.paths(places),
        }
    }

    /// What differs in a line of counts; `None` if it is as in the logs.
    fn counts(&mut self, line: &Line, found: &FoundIn) -> Option<Vec<Finding>> {
        let claim = self.evidence.lines.get(line);
        let all: Vec<[u8; 16]> = found.keys().copied().collect();
        if claim.is_none() && !self.evidence.owns(&line.account, &line.hour) {
            return Some(vec![self.finding(Class::OutsideOwnership, line, &all)]);
        }
        if claim.is_some_and(|claim| claim.sha256 == hash(all)) {
            return None;
        }
        let counted = match (claim, &self.evidence.behind) {
            (None, _) => Some(BTreeSet::new()),
            (Some(_), Some(behind)) => Some(behind.identities.get(line).cloned().unwrap_or_default()),
            (Some(_), None) => None,
        };
        let Some(counted) = counted else { return Some(self.without_identities(line, found)) };
        let mut by_class = BTreeMap::<Class, Vec<[u8; 16]>>::new();
        for (identity, places) in found.iter().filter(|(identity, _)| !counted.contains(*identity)) {
            let class = self.class_of(&named(line, identity), &line.hour, places);
            by_class.entry(class).or_default().push(*identity);
        }
        let missing: Vec<[u8; 16]> = counted.into_iter().filter(|identity| !found.contains_key(identity)).collect();
        if !missing.is_empty() {
            by_class.insert(Class::NotInTheLogs, missing);
        }
        Some(by_class.into_iter().map(|(class, identities)| self.finding(class, line, &identities)).collect())
    }

    /// Without identities: if the events of the objects that the evidence knows have its hash, the others explain the rest.
    /// If they have it but for one, and a dead letter may hold that one, it is that one.
    fn without_identities(&mut self, line: &Line, found: &FoundIn) -> Vec<Finding> {
        let claim = self.evidence.lines.get(line);
        let (inside, outside): (FoundIn, FoundIn) =
            found.clone().into_iter().partition(|(_, places)| !self.known(places).is_empty());
        let claimed = claim.map_or_else(|| hash([]), |claim| claim.sha256.clone());
        let set_aside = if hash(inside.keys().copied()) == claimed {
            Some(None)
        } else if inside.len() <= TRIED_MAX {
            let without = |one: &[u8; 16]| hash(inside.keys().copied().filter(|other| other != one)) == claimed;
            let one = inside.iter().find(|(identity, _)| without(identity));
            one.filter(|(identity, places)| {
                self.class_of(&named(line, identity), &line.hour, places) == Class::NotCounted
            })
            .map(|(identity, _)| Some(*identity))
        } else {
            None
        };
        if let Some(set_aside) = set_aside {
            let mut by_class = BTreeMap::<Class, Vec<[u8; 16]>>::new();
            for (identity, places) in &outside {
                let class = self.class_of(&named(line, identity), &line.hour, places);
                by_class.entry(class).or_default().push(*identity);
            }
            by_class.entry(Class::NotCounted).or_default().extend(set_aside);
            by_class.retain(|_, identities| !identities.is_empty());
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

    /// Of some records, those in objects that the evidence was counted from.
    fn known(&self, places: &[Place]) -> Vec<Known<'a>> {
        let evidence = self.evidence;
        let known = places.iter().map(|place| {
            let LogObject { sha256, content_sha256, .. } = &self.logs.objects[place.object as usize];
            let names = evidence.names_of([Some(*sha256), *content_sha256].into_iter().flatten());
            Known { names, content: content_sha256.unwrap_or(*sha256), record: place.record }
        });
        known.filter(|known| !known.names.is_empty()).collect()
    }

    /// Why something of an hour is not counted that is in these records.
    fn class_of(&mut self, named: &[u8], hour: &str, places: &[Place]) -> Class {
        let known = self.known(places);
        if !known.is_empty() {
            let is_excused = self.excuses.excuse(named, hour, &known);
            return if is_excused { Class::NotCounted } else { Class::Unexplained };
        }
        let mut objects = places.iter().map(|place| &self.logs.objects[place.object as usize]);
        let is_later = |object: &LogObject| delivered_at(&object.path).is_some_and(|at| self.evidence.cut_at < at);
        if objects.all(is_later) { Class::AfterTheCut } else { Class::ObjectNotInEvidence }
    }

    fn finding(&self, class: Class, line: &Line, identities: &[[u8; 16]]) -> Finding {
        let found = self.logs.found_in.get(line);
        let places = identities.iter().filter_map(|identity| found?.get(identity)).flatten();
        Finding {
            class,
            line: line.clone(),
            events: identities.len() as u64,
            identities: identities.iter().map(hex::encode).collect(),
            objects: self.paths(places),
        }
    }

    fn paths<'p>(&self, places: impl Iterator<Item = &'p Place>) -> Vec<String> {
        let paths: BTreeSet<&str> =
            places.map(|place| self.logs.objects[place.object as usize].path.as_str()).collect();
        paths.into_iter().map(str::to_owned).collect()
    }
}

/// The hash of a line of counts.
fn hash(identities: impl IntoIterator<Item = [u8; 16]>) -> String {
    hex::encode(identities_sha256(&identities.into_iter().collect()))
}

/// What names an event: its line and its identity.
fn named(line: &Line, identity: &[u8; 16]) -> Vec<u8> {
    [line.account.as_bytes(), b"/", line.meter.as_bytes(), b"/", identity].concat()
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

    use super::super::evidence_file::NotEvidence;
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
    fn evidence(logs: &Logs, with_identities: bool, letters: &[Value]) -> Vec<u8> {
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
        lines.extend_from_slice(letters);
        lines.push(json!({ "is": "end", "lines": count, "objects": logs.objects.len(), "logs": 0,
            "dead_letters": letters.len() }));
        if with_identities {
            lines.extend(behind);
        }
        lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
    }

    /// Compares logs with the evidence of other logs, with and without identities, and says each finding.
    fn check(counted: &[(String, Vec<u8>)], given: &[(String, Vec<u8>)], expected: &[(Class, u64)]) {
        for with_identities in [true, false] {
            let file = EvidenceFile::parse(&evidence(&logs(counted), with_identities, &[])).unwrap();
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

    /// Of an object of the 7th of October.
    fn letter(object: &str, reason: &str, state: &str) -> Value {
        json!({ "is": "dead_letter", "id": "6b86", "reason": reason, "object": object, "offset": 0,
            "seen_at": "2026-10-07T01:06:00Z", "state": state, "dismissed_by": null, "dismissed_because": null })
    }

    /// Of the events 1, 2, 3 of an object known to the evidence, the last ones are not counted: what is said of them, with
    /// identities and without.
    fn check_missing(missing: usize, letters: &[Value], expected: &[(Class, u64)], without: &[(Class, u64)]) {
        let whole = (name("20261007T0105", 1), object(&[1, 2, 3], "2026-10-07T01:00:00Z"));
        let mut counted = logs(std::slice::from_ref(&whole));
        for found in counted.found_in.values_mut() {
            (0..missing).for_each(|_| drop(found.pop_last()));
        }
        for (with_identities, expected) in [(true, expected), (false, without)] {
            let file = EvidenceFile::parse(&evidence(&counted, with_identities, letters)).unwrap();
            // Given twice, a record is still one.
            let found = against_evidence(&logs(&[whole.clone(), whole.clone()]), &file);
            let said: Vec<(Class, u64)> = found.findings.iter().map(|found| (found.class, found.events)).collect();
            assert_eq!(said, expected, "{letters:?}, with identities: {with_identities}");
            assert_eq!(found.agrees(), expected.iter().all(|(class, _)| !class.is_a_difference()));
            for finding in found.findings.iter().filter(|finding| !finding.identities.is_empty()) {
                assert_eq!(finding.objects, std::slice::from_ref(&whole.0));
                let is_missing = |identity: &String| missing == 3 || !identity.ends_with("01");
                assert!(finding.identities.iter().all(is_missing), "{finding:?}");
            }
        }
    }

    #[test]
    fn a_dead_letter_accounts_for_no_more_than_it_can_hold() {
        use Class::{NotCounted, Unexplained};
        let named = name("20261007T0105", 1);
        let of = |reason, state| letter(&named, reason, state);
        let slice = |events: u64, window: &str| {
            let mut slice = of("partition_untrusted", "open");
            (slice["events"], slice["window"]) = (json!(events), json!(window));
            slice
        };
        check_missing(1, &[], &[(Unexplained, 1)], &[(Unexplained, 1)]);
        for state in ["open", "dismissed"] {
            let one = of("record_too_large", state);
            check_missing(1, std::slice::from_ref(&one), &[(NotCounted, 1)], &[(NotCounted, 1)]);
            let both = [(NotCounted, 1), (Unexplained, 1)];
            check_missing(2, std::slice::from_ref(&one), &both, &[(Unexplained, 2)]);
            check_missing(2, &[one.clone(), one], &[(NotCounted, 2)], &[(Unexplained, 2)]);
        }
        // Counted when it was put right; of another object; what the recount does not count either.
        let elsewhere = letter(&format!("other/{named}"), "record_too_large", "open");
        for useless in [of("record_too_large", "resolved"), elsewhere, of("broken_json", "open")] {
            check_missing(1, std::slice::from_ref(&useless), &[(Unexplained, 1)], &[(Unexplained, 1)]);
        }
        // It was no hour ahead.
        check_missing(1, &[of("event_time_in_future", "open")], &[(Unexplained, 1)], &[(Unexplained, 1)]);
        let mut ahead = of("event_time_in_future", "open");
        ahead["seen_at"] = json!("2026-10-06T23:59:59Z");
        check_missing(1, &[ahead], &[(NotCounted, 1)], &[(NotCounted, 1)]);
        check_missing(2, &[slice(2, "2026-10-07T01")], &[(NotCounted, 2)], &[(Unexplained, 2)]);
        check_missing(2, &[slice(1, "2026-10-07T01")], &[(NotCounted, 1), (Unexplained, 1)], &[(Unexplained, 2)]);
        check_missing(1, &[slice(9, "2026-10-07T02")], &[(Unexplained, 1)], &[(Unexplained, 1)]);
        check_missing(3, &[of("gzip_bomb", "open")], &[(NotCounted, 3)], &[(Unexplained, 3)]);
    }

    /// A log object of samples of a NAT gateway: what went through it in an hour of the 7th of October.
    fn samples(values: &[(u8, u64)]) -> Vec<u8> {
        let sample = |(hour, value): &(u8, u64)| {
            json!({ "specversion": "1.0", "id": format!("{hour}-{value}"), "source": "/c", "type": "nat_gateway_bytes",
                "subject": ACCOUNT, "time": format!("2026-10-07T{hour:02}:00:00Z"),
                "data": { "resource": "nat-1", "value": value, "unit": "bytes", "revision": value } })
        };
        json!(values.iter().map(sample).collect::<Vec<Value>>()).to_string().into_bytes()
    }

    /// The evidence of the facts in some logs, which are in these objects.
    fn text_of_facts(logs: &Logs, with_identities: bool) -> String {
        let period = ["2026-10-01", "2026-11-01"];
        let [from, until] = period.map(|day| time::instant(&format!("{day}T00:00:00Z")).unwrap());
        let mut lines = vec![
            json!({ "is": "evidence", "format": 1, "customer": "acme", "period_start": period[0],
                "period_end": period[1], "cut": 1, "cut_at": "2026-11-04T00:00:00Z" }),
            json!({ "is": "meter", "meter": "nat_gateway_bytes", "aggregation": "sum" }),
            json!({ "is": "owned", "account": ACCOUNT, "from": "2026-10-05T00:00:00Z", "until": null }),
        ];
        let mut behind = Vec::new();
        for (line, (total, marks)) in logs.recount.fact_lines(from, until) {
            let [account, meter, window] = [&line.account, &line.meter, &line.hour];
            let of: Vec<String> = marks.iter().map(mark_text).collect();
            behind.push(json!({ "is": "identities", "account": account, "meter": meter, "window": window, "of": of }));
            lines.push(json!({ "is": "line", "account": account, "meter": meter, "window": window,
                "total": total.to_string(), "sha256": hex::encode(marks_sha256(marks)) }));
        }
        for object in &logs.objects {
            lines.push(json!({ "is": "object", "name": object.path, "sha256": hex::encode(object.sha256),
                "content_sha256": null }));
        }
        let (count, objects) = (behind.len(), logs.objects.len());
        lines.push(json!({ "is": "end", "lines": count, "objects": objects, "logs": 0, "dead_letters": 0 }));
        lines.extend(behind.into_iter().filter(|_| with_identities));
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn evidence_of_facts(logs: &Logs, with_identities: bool) -> EvidenceFile {
        EvidenceFile::parse(text_of_facts(logs, with_identities).as_bytes()).unwrap()
    }

    #[test]
    fn facts_on_one_side_only_are_named_and_classed_by_their_objects() {
        use Class::{AfterTheCut, NotInTheLogs, ObjectNotInEvidence};
        let first = (name("20261007T0905", 1), samples(&[(7, 70), (8, 80)]));
        let lost = (name("20261007T1005", 2), samples(&[(8, 81)]));
        let late = (name("20261104T0105", 3), samples(&[(9, 90)]));
        let whole = [first.clone(), lost.clone(), late.clone()];
        let hour = |number: u8| format!("2026-10-07T{number:02}");
        let check = |counted: &[_], given: &[_], expected: &[(Class, String, &str)]| {
            let file = evidence_of_facts(&logs(counted), true);
            let found = against_evidence(&logs(given), &file);
            let said: Vec<(Class, String, &str)> = found
                .findings
                .iter()
                .flat_map(|finding| finding.identities.iter().map(|of| (finding.class, &finding.line.hour, of)))
                .map(|(class, hour, of)| (class, hour.clone(), of.rsplit_once(' ').unwrap().1))
                .collect();
            assert_eq!(said, expected);
            assert!(found.findings.iter().all(|finding| finding.events == finding.identities.len() as u64));
            assert_eq!((found.agrees(), found.unchecked.len()), (expected.is_empty(), 0));
        };
        check(&whole, &whole, &[]);
        check(&whole[..1], &whole[..1], &[]);
        let more = [(ObjectNotInEvidence, hour(8), "81"), (AfterTheCut, hour(9), "90")];
        // What it takes the place of is in the logs too.
        check(&whole[..1], &whole, &more);
        let fewer = [(NotInTheLogs, hour(8), "81"), (NotInTheLogs, hour(9), "90")];
        let of_first = against_evidence(&logs(&whole[..1]), &evidence_of_facts(&logs(&whole), true));
        assert!(!of_first.agrees());
        for (class, hour, value) in fewer {
            let names = |of: &String| of.ends_with(&format!("amount {value}"));
            let is_named = |finding: &Finding| finding.class == class && finding.line.hour == hour;
            assert!(of_first.findings.iter().any(|one| is_named(one) && one.identities.iter().any(names)), "{value}");
        }
        // Without what is behind the hashes they differ, and nothing can be named.
        let unnamed = against_evidence(&logs(&whole), &evidence_of_facts(&logs(&whole[..1]), false));
        assert!(!unnamed.agrees());
    }

    #[test]
    fn what_is_behind_a_line_of_facts_must_have_its_hash_and_be_there() {
        let objects = [(name("20261007T0905", 1), samples(&[(7, 70), (8, 80)]))];
        let text = text_of_facts(&logs(&objects), true);
        assert!(EvidenceFile::parse(text.as_bytes()).is_ok());
        let other = text.replace("amount 70", "amount 71");
        assert!(matches!(EvidenceFile::parse(other.as_bytes()), Err(NotEvidence::Identities(8))), "{text}");
        let last = text[..text.len() - 1].rfind('\n').unwrap() + 1;
        assert!(matches!(EvidenceFile::parse(&text.as_bytes()[..last]), Err(NotEvidence::Incomplete)));
        let none = evidence_of_facts(&logs(&objects), false);
        assert!(none.behind.is_none());
    }

    #[test]
    fn a_file_that_was_changed_is_refused_or_has_another_hash() {
        let counted = logs(&[(name("20261007T0105", 1), object(&[1, 2], "2026-10-07T01:00:00Z"))]);
        let whole = evidence(&counted, true, &[]);
        let file = EvidenceFile::parse(&whole).unwrap();
        assert_eq!(file.sha256, <[u8; 32]>::from(Sha256::digest(evidence(&counted, false, &[]))));
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
        let half = evidence(
            &logs(&[
                (name("20261007T0105", 1), object(&[1], "2026-10-07T01:00:00Z")),
                (name("20261007T0205", 2), object(&[2], "2026-10-07T02:00:00Z")),
            ]),
            true,
            &[],
        );
        let cut = half[..half.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        assert!(
            matches!(EvidenceFile::parse(&half[..cut]), Err(NotEvidence::Incomplete)),
            "the last identities are gone"
        );
        let other = text.replace("\"format\":1", "\"format\":2");
        assert!(EvidenceFile::parse(other.as_bytes()).unwrap_err().to_string().contains("format 2"));
        let swapped = text.replacen("456789", "456780", 1);
        if swapped != text {
            assert!(EvidenceFile::parse(swapped.as_bytes()).is_err());
        }
    }
}
