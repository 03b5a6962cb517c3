//! Usage rows and cursors as PostgreSQL keeps them: transactions that happen whole, not at all, or without an answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use aggregator::directory::CustomerId;
use aggregator::fact_rows::{FactAdvance, FactError, FactsAdvanced, rows_partition};
use aggregator::rollup::RollUpStore;
use aggregator::usage_rows::{Advance, AdvanceError, AdvanceOutcome, DatabaseError};
use ingest::{AccountId, Bucket, CounterKey, Dimensions, FactValue, Hour, Quantity, Timestamp};

use super::fault::{Fault, Sabotage};
use super::world::{Row, RowKey, State, World, step};

/// The rows as a process sees them.
#[derive(Clone)]
pub(super) struct Rows(pub(super) Arc<World>);

pub(super) fn unavailable() -> DatabaseError {
    DatabaseError::Unavailable(sqlx::Error::PoolTimedOut)
}

impl RollUpStore for Rows {
    async fn cursors(&self, partitions: &[String]) -> Result<HashMap<String, u64>, DatabaseError> {
        step().await;
        let cursors = {
            let mut state = self.0.lock();
            if state.strikes(Fault::Rollback, 3) {
                return Err(unavailable());
            }
            partitions.iter().map(|name| (name.clone(), state.cursor(name))).collect()
        };
        step().await;
        Ok(cursors)
    }

    async fn advance(&self, batch: &[Advance], _now: Timestamp) -> Result<Vec<AdvanceOutcome>, AdvanceError> {
        step().await;
        if self.0.lock().strikes(Fault::Rollback, 6) {
            return Err(unavailable().into());
        }
        let early = self.0.lock().owners_of(batch);
        if self.0.lock().is(Sabotage::DirectoryEarly) {
            step().await;
            step().await;
        }
        if self.0.lock().is(Sabotage::CursorFirst) {
            // A transaction of its own: what stands where it should is moved, and the rows follow.
            let moving: Vec<Advance> = {
                let state = self.0.lock();
                batch.iter().filter(|one| state.cursor(&one.partition) == one.from_version).cloned().collect()
            };
            for advance in &moving {
                self.0.lock().move_cursor(&advance.partition, advance.to_version);
            }
            step().await;
            if self.0.lock().strikes(Fault::Rollback, 6) {
                return Err(unavailable().into());
            }
        }
        let outcomes = {
            let mut state = self.0.lock();
            let outcomes = state.advance(batch, &early);
            if state.strikes(Fault::CommitAnswerLost, 6) {
                return Err(unavailable().into());
            }
            outcomes
        };
        step().await;
        Ok(outcomes)
    }

    async fn advance_facts(
        &self,
        _bucket: Bucket,
        batch: &[FactAdvance],
        _now: Timestamp,
    ) -> Result<FactsAdvanced, FactError> {
        step().await;
        let advanced = {
            let mut state = self.0.lock();
            if state.strikes(Fault::Rollback, 6) {
                return Err(unavailable().into());
            }
            let mut outcomes = Vec::new();
            for advance in batch {
                let name = advance.partition.to_string();
                let at = state.cursor(&name);
                if at != advance.from_version {
                    outcomes.push(AdvanceOutcome::Stale { at });
                    continue;
                }
                for fact in &advance.facts {
                    state.standing.add(fact.clone());
                }
                state.move_cursor(&name, advance.to_version);
                outcomes.push(AdvanceOutcome::Moved);
            }
            let exports_complete = state.exports_complete();
            if state.strikes(Fault::CommitAnswerLost, 6) {
                return Err(unavailable().into());
            }
            FactsAdvanced { outcomes, exports_complete }
        };
        step().await;
        Ok(advanced)
    }

    async fn go_on(&self, _now: Timestamp) -> Result<(), FactError> {
        step().await;
        Ok(())
    }

    async fn exports_complete(&self) -> Result<BTreeSet<String>, FactError> {
        step().await;
        Ok(self.0.lock().exports_complete())
    }

    async fn put_in_force(&self, export: &str, _now: Timestamp) -> Result<bool, FactError> {
        step().await;
        let changed = {
            let mut state = self.0.lock();
            if state.strikes(Fault::Rollback, 6) {
                return Err(unavailable().into());
            }
            let latest = state.latest_generation(export);
            let before = state.in_force.get(export).copied();
            state.ensure(before <= latest, || format!("export {export} goes back from {before:?} to {latest:?}"));
            if let Some(latest) = latest {
                state.in_force.insert(export.to_owned(), latest);
            }
            if before != latest {
                state.change();
                state.say(|| format!("export {export} in force: {latest:?}"));
            }
            before != latest
        };
        step().await;
        Ok(changed)
    }
}

type OwnersOf = BTreeMap<(AccountId, Hour), Option<CustomerId>>;

impl State {
    pub(super) fn cursor(&self, partition: &str) -> u64 {
        self.cursors.get(partition).copied().unwrap_or_default()
    }

    fn move_cursor(&mut self, partition: &str, to: u64) {
        let at = self.cursor(partition);
        self.ensure(at < to, || format!("the cursor of {partition} goes from {at} to {to}"));
        self.cursors.insert(partition.to_owned(), to);
        self.change();
        self.say(|| format!("rows of {partition} at {to}"));
    }

    /// Who owned an account in an hour.
    pub(super) fn owner(&self, account: &AccountId, hour: Hour) -> Option<CustomerId> {
        let owners = self.owners.get(account)?;
        let owned = owners.iter().find(|one| one.from <= hour && one.until.is_none_or(|until| hour < until))?;
        Some(owned.customer.clone())
    }

    fn owners_of(&self, batch: &[Advance]) -> OwnersOf {
        let counters = batch.iter().flat_map(|advance| &advance.counters);
        counters.map(|one| ((one.account, one.window), self.owner(&one.account, one.window))).collect()
    }

    fn advance(&mut self, batch: &[Advance], early: &OwnersOf) -> Vec<AdvanceOutcome> {
        let mut outcomes = Vec::new();
        for advance in batch {
            let at = self.cursor(&advance.partition);
            let is_late = self.is(Sabotage::CursorFirst) && at == advance.to_version;
            let is_unchecked = self.is(Sabotage::CursorUnchecked);
            if at != advance.from_version && !is_late && !is_unchecked {
                self.meet("stale roll-up");
                outcomes.push(AdvanceOutcome::Stale { at });
                continue;
            }
            for counter in &advance.counters {
                let owner = match early.get(&(counter.account, counter.window)) {
                    Some(early) if self.is(Sabotage::DirectoryEarly) => early.clone(),
                    _ => self.owner(&counter.account, counter.window),
                };
                let key: RowKey = (
                    advance.partition.clone(),
                    counter.account,
                    counter.meter,
                    counter.window,
                    counter.region.clone(),
                    counter.category.clone(),
                );
                let before = self.rows.get(&key).map_or(0, |row| row.total);
                let total = counter.total;
                self.ensure(before <= total, || format!("the row {key:?} goes back from {before} to {total}"));
                let (region, category) = (counter.region.clone().into(), counter.category.clone().into());
                let dimensions = Dimensions { region, category };
                let counter_key = CounterKey { meter: counter.meter, account: counter.account, dimensions };
                let held = self.totals.get(&(advance.partition.clone(), counter_key)).copied().unwrap_or_default();
                self.ensure(total <= held, || format!("the row {key:?} is {total}, its log {held}"));
                self.rows.insert(key, Row { total, owner });
            }
            if !is_late {
                self.move_cursor(&advance.partition, advance.to_version);
            }
            outcomes.push(AdvanceOutcome::Moved);
        }
        outcomes
    }

    fn latest_generation(&self, export: &str) -> Option<u64> {
        let generations = self.standing.generations();
        if self.is(Sabotage::ExportEarly) {
            return generations.iter().filter(|(scope, ..)| *scope == export).map(|(_, number, _)| number).max();
        }
        generations.in_force(export)
    }

    pub(super) fn exports_complete(&self) -> BTreeSet<String> {
        let generations = self.standing.generations();
        let scopes: BTreeSet<String> = generations.iter().map(|(scope, ..)| scope.to_owned()).collect();
        scopes.into_iter().filter(|scope| self.latest_generation(scope) != self.in_force.get(scope).copied()).collect()
    }

    /// What facts come to, by row: sums of the amounts that stand and are in force.
    pub(super) fn fact_rows(&self) -> BTreeMap<RowKey, Quantity> {
        let mut rows = BTreeMap::<RowKey, Quantity>::new();
        for fact in self.standing.facts() {
            let FactValue::Amount(amount) = fact.value else { continue };
            let counts = fact.key.export.as_ref().is_none_or(|of| self.in_force.get(&*of.scope) == Some(&of.number));
            if counts {
                let (region, category) = (fact.dimensions.region.to_string(), fact.dimensions.category.to_string());
                let partition = rows_partition(fact.key.account.bucket());
                let key = (partition, fact.key.account, fact.key.meter, fact.key.time.hour(), region, category);
                let total = rows.entry(key).or_insert(Quantity::ZERO);
                *total = total.checked_add(amount).expect("small amounts");
            }
        }
        rows
    }
}
