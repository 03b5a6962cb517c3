//! Commit logs that fail, and what must hold of every entry that lands.

use std::sync::Arc;

use aggregator::commit_log::{AppendError, CommitLog, ReadError, WriteUnits};
use aggregator::entry::{Content, Entry, EntryFact, EntryGroup};
use aggregator::partition::Partition;
use ingest::FactValue;
use ingest::aws::AwsErrorKind;

use super::fault::{Fault, Sabotage};
use super::world::{State, World, failure, step};

/// The logs as one process sees them.
#[derive(Clone)]
pub(super) struct Logs {
    pub(super) world: Arc<World>,
    /// Which process, for what it alone remembers.
    pub(super) process: u32,
    /// Whether it counts, or reads what is counted.
    pub(super) is_writer: bool,
}

impl CommitLog for Logs {
    async fn read_after(&self, partition: &Partition, version: u64) -> Result<Vec<Entry>, ReadError> {
        step().await;
        let (mut entries, is_torn) = {
            let mut state = self.world.lock();
            if state.strikes(Fault::Throttled, 3) {
                return Err(ReadError::Store(failure("Query", AwsErrorKind::Throttled)));
            }
            let is_torn = state.strikes(Fault::TornRead, 4);
            let mut entries = state.entries(partition, version, self);
            if is_torn {
                entries.truncate(entries.len().div_ceil(2));
            }
            (entries, is_torn)
        };
        step().await;
        if is_torn {
            let last = entries.last().map_or(version, |entry| entry.version);
            let rest = self.world.lock().entries(partition, last, self);
            entries.extend(rest);
            step().await;
        }
        Ok(entries)
    }

    async fn append(&self, partition: &Partition, entry: &Entry) -> Result<WriteUnits, AppendError> {
        step().await;
        let is_apart = self.world.lock().is(Sabotage::IdentitiesApart);
        if is_apart {
            // What is remembered has a conditional write of its own.
            if !self.world.lock().remember_apart(partition, entry) {
                return Err(AppendError::Occupied);
            }
            step().await;
        }
        let answer = self.world.lock().attempt(partition, entry, self.process);
        step().await;
        answer
    }
}

impl State {
    fn entries(&mut self, partition: &Partition, version: u64, reader: &Logs) -> Vec<Entry> {
        let is_apart = self.is(Sabotage::IdentitiesApart) && reader.is_writer;
        let logs = if is_apart { &self.remembered } else { &self.logs };
        let log = logs.get(partition).map(Vec::as_slice).unwrap_or_default();
        let mut entries: Vec<Entry> = log.iter().filter(|entry| version < entry.version).cloned().collect();
        if self.is(Sabotage::EventualLoad) && self.draws.percent(25) {
            entries.pop();
        }
        for (at, phantom) in self.phantoms.get(&reader.process).into_iter().flatten() {
            let next = entries.last().map_or(version, |entry| entry.version) + 1;
            if at == partition && phantom.version == next {
                entries.push(phantom.clone());
            }
        }
        entries
    }

    fn remember_apart(&mut self, partition: &Partition, entry: &Entry) -> bool {
        let log = self.remembered.entry(partition.clone()).or_default();
        let is_free = log.iter().all(|stored| stored.version != entry.version);
        if is_free {
            log.push(entry.clone());
        }
        is_free
    }

    fn attempt(&mut self, partition: &Partition, entry: &Entry, process: u32) -> Result<WriteUnits, AppendError> {
        let unknown = || Err(AppendError::Unknown(failure("PutItem", AwsErrorKind::Unreachable)));
        let refused = || Err(AppendError::Refused(failure("PutItem", AwsErrorKind::Throttled)));
        let said = |state: &mut Self, what: &str| {
            state.say(|| format!("entry {} of {partition} by {process}: {what}", entry.version));
        };
        if self.strikes(Fault::Throttled, 5) {
            said(self, "throttled");
            self.remember(partition, entry, process);
            return refused();
        }
        if self.strikes(Fault::WriteLost, 4) {
            said(self, "lost");
            self.remember(partition, entry, process);
            return if self.is(Sabotage::ConfirmsLost) { Ok(WriteUnits(1)) } else { unknown() };
        }
        if self.strikes(Fault::WriteLate, 4) {
            said(self, "late");
            self.late_entries.push((partition.clone(), entry.clone()));
            return unknown();
        }
        let landed = self.append(partition, entry);
        if landed && self.strikes(Fault::AnswerLost, 5) {
            said(self, "written, answer lost");
            return unknown();
        }
        if landed && self.strikes(Fault::MeetsItself, 4) {
            said(self, "written, and met by its own retry");
            return Err(AppendError::Occupied);
        }
        if landed {
            said(self, "written");
            Ok(WriteUnits(1))
        } else {
            self.meet("conflict");
            said(self, "occupied");
            Err(AppendError::Occupied)
        }
    }

    /// What a process knows that takes a put for done before it is.
    fn remember(&mut self, partition: &Partition, entry: &Entry, process: u32) {
        if self.is(Sabotage::CacheFirst) {
            self.phantoms.entry(process).or_default().push((partition.clone(), entry.clone()));
        }
    }

    /// Puts an entry under its condition and checks what must hold of every entry that lands.
    pub(super) fn append(&mut self, partition: &Partition, entry: &Entry) -> bool {
        let log = self.logs.entry(partition.clone()).or_default();
        let last = log.last().map_or(0, |last| last.version);
        if entry.version <= last {
            if self.options.sabotage != Some(Sabotage::Overwrites) {
                return false;
            }
            let log = self.logs.get_mut(partition).expect("it was just looked up");
            if let Some(stored) = log.iter_mut().find(|stored| stored.version == entry.version) {
                *stored = entry.clone();
            }
        } else {
            log.push(entry.clone());
            self.ensure(entry.version == last + 1, || format!("{partition}: entry {} follows {last}", entry.version));
        }
        self.change();
        match &entry.content {
            Content::Split => self.meet("split"),
            Content::Stated { facts, .. } => {
                for fact in facts {
                    self.check_stated(partition, fact);
                }
            }
            Content::Counted { groups, .. } => {
                for group in groups {
                    self.check_counted(partition, group);
                }
            }
        }
        true
    }
    /// What is counted was delivered, and is counted here and nowhere else; no scope comes to more than the recount.
    fn check_counted(&mut self, partition: &Partition, group: &EntryGroup) {
        let hour = partition.hour().expect("a log of counts has an hour");
        let scope = (group.counter.meter, group.counter.account, hour);
        for identity in &group.identities {
            let is_said = self.sources.produced.has(scope, *identity, self.step);
            self.ensure(is_said, || format!("{partition} counts {identity:?}, and nobody delivered it"));
            let is_new = self.counted.insert((scope.0, scope.1, hour, *identity));
            self.ensure(is_new, || format!("{partition} counts {identity:?} again"));
        }
        let gained = group.identities.len() as u64;
        let total = self.totals.entry((partition.to_string(), group.counter.clone())).or_default();
        let before = std::mem::replace(total, group.total);
        self.ensure(before + gained == group.total, || {
            format!("{partition}: {gained} more than {before} are {}", group.total)
        });
        let sum = self.sums.entry(scope).or_default();
        *sum += group.total.saturating_sub(before);
        let (sum, most) = (*sum, self.sources.produced.count(scope, self.step));
        self.ensure(sum <= most, || format!("{} of {} at {hour} is {sum}, of {most} delivered", scope.0, scope.1));
    }

    /// What is stated was delivered, and is higher than everything that was stated under its key.
    fn check_stated(&mut self, partition: &Partition, stated: &EntryFact) {
        self.stated += 1;
        let (fact, key) = (&stated.fact, stated.fact.key.identity());
        let is_said = match fact.value {
            FactValue::ExportEnd { .. } => self.sources.produced.ends(fact.revision, self.step),
            _ => {
                let said = (*key.as_bytes(), fact.revision, *stated.hash.as_bytes());
                self.sources.produced.states(&said, self.step)
            }
        };
        self.ensure(is_said, || format!("{partition} states {fact:?}, and nobody delivered it"));
        let version = (fact.revision, stated.hash);
        let before = self.last_stated.insert(key, version);
        self.ensure(before < Some(version), || format!("{partition} states {version:?} of {key:?} after {before:?}"));
    }
}
