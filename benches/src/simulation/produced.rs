//! What the sources say, identity by identity and statement by statement, as the naive recount reads it.
//!
//! It shares nothing with the product, and is known before anybody counts: whatever lands in a log is held to it at once.

use std::collections::{BTreeMap, BTreeSet};

use ingest::{AccountId, Hour, Identity, Meter, Timestamp};
use reference::{Outcome, Recount, Rules};

use super::source::{DECLARED, Object, Scope};

/// A fact's key, its revision and what it says, the first and the last hashed.
pub(super) type Stated = ([u8; 16], u64, [u8; 16]);

/// What all objects say, and from which step on one of them is there that says it.
#[derive(Debug, Default)]
pub(super) struct Produced {
    identities: BTreeMap<Scope, BTreeMap<Identity, u64>>,
    facts: BTreeMap<Stated, u64>,
    editions: BTreeMap<u64, u64>,
    by_object: BTreeMap<String, OfObject>,
}

/// What one object says.
#[derive(Debug, Default)]
pub(super) struct OfObject {
    pub(super) identities: BTreeSet<(Scope, Identity)>,
    pub(super) facts: BTreeSet<Stated>,
}

impl Produced {
    /// Reads every object, by a clock that nothing lies ahead of.
    pub(super) fn by(objects: &[Object], late: Timestamp) -> Self {
        let mut rules = Rules::default();
        rules.declare(DECLARED).expect("a declaration");
        let mut produced = Self::default();
        for object in objects {
            let from = object.arrives_at;
            let judged = Recount::under(rules.clone()).add_object(&object.name, &object.stored, late.micros());
            let mut said = OfObject::default();
            for outcome in judged.iter().flat_map(|record| std::iter::once(&record.outcome).chain(&record.beside)) {
                match outcome {
                    Outcome::Counts(unit) => {
                        let meter = Meter::parse(&unit.meter).expect("a meter that is counted");
                        let account = AccountId::parse(&unit.account).expect("12 digits");
                        let scope = (meter, account, Hour::parse_key(&unit.hour).expect("an hour"));
                        said.identities.insert((scope, Identity::from_bytes(unit.identity)));
                    }
                    Outcome::States(facts) => {
                        let stated = |fact: &reference::Fact| (fact.key.identity(), fact.revision, fact.content_hash());
                        said.facts.extend(facts.iter().map(stated));
                    }
                    Outcome::NotCounted(_) | Outcome::DeadLetter(_) => {}
                }
            }
            for (scope, identity) in &said.identities {
                let first = produced.identities.entry(*scope).or_default().entry(*identity).or_insert(from);
                *first = from.min(*first);
            }
            for stated in &said.facts {
                let first = produced.facts.entry(*stated).or_insert(from);
                *first = from.min(*first);
            }
            if let Some((edition, _)) = &object.usage.edition {
                produced.editions.insert(*edition, from);
            }
            produced.by_object.insert(object.name.clone(), said);
        }
        produced
    }

    /// Whether something that is there at a step has this identity, and it counts here.
    pub(super) fn has(&self, scope: Scope, identity: Identity, step: u64) -> bool {
        self.identities.get(&scope).and_then(|all| all.get(&identity)).is_some_and(|from| *from <= step)
    }

    /// How many identities count here, of what is there at a step.
    pub(super) fn count(&self, scope: Scope, step: u64) -> u64 {
        self.identities.get(&scope).map_or(0, |all| all.values().filter(|from| **from <= step).count() as u64)
    }

    /// Whether something that is there at a step states this.
    pub(super) fn states(&self, stated: &Stated, step: u64) -> bool {
        self.facts.get(stated).is_some_and(|from| *from <= step)
    }

    /// Whether an export of this edition is there at a step, whole.
    pub(super) fn ends(&self, edition: u64, step: u64) -> bool {
        self.editions.get(&edition).is_some_and(|from| *from <= step)
    }

    /// What an object says.
    pub(super) fn of_object(&self, name: &str) -> Option<&OfObject> {
        self.by_object.get(name)
    }

    /// How many identities each scope has in all.
    pub(super) fn counts(&self) -> BTreeMap<Scope, i128> {
        self.identities.iter().map(|(scope, all)| (*scope, i128::try_from(all.len()).expect("few"))).collect()
    }
}
