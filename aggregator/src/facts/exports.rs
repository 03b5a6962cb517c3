//! Which generation of an export counts.
//!
//! A restated export replaces its predecessor whole: a generation takes force once it was read to its end and all its facts
//! are there, and until then the one before it stands, however much of the new one is known.

use std::collections::BTreeMap;

use ingest::{ExportGeneration, FactValue, UsageFact};

/// What is known of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its facts with different keys, its end not among them.
    pub seen: u64,
    /// How many there are, once its end was read.
    pub expected: Option<u64>,
}

impl Generation {
    /// Whether it was read to its end and everything in it is there.
    pub fn is_complete(&self) -> bool {
        self.expected.is_some_and(|expected| expected <= self.seen)
    }
}

/// Every generation of every export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generations(BTreeMap<String, BTreeMap<u64, Generation>>);

impl Generations {
    /// Takes in a fact that stands: each key once.
    pub(crate) fn add(&mut self, export: &ExportGeneration<'_>, value: FactValue) {
        let generations = self.0.entry(export.scope.clone().into_owned()).or_default();
        let generation = generations.entry(export.number).or_default();
        match value {
            FactValue::ExportEnd { facts } => generation.expected = generation.expected.max(Some(facts)),
            _ => generation.seen += 1,
        }
    }

    /// Adds what another part of the facts knows: no fact may be in both.
    pub fn merge(&mut self, other: &Self) {
        for (scope, number, part) in other.iter() {
            let generation = self.0.entry(scope.to_owned()).or_default().entry(number).or_default();
            generation.seen += part.seen;
            generation.expected = generation.expected.max(part.expected);
        }
    }

    /// The generation of an export that counts: the highest complete one.
    pub fn in_force(&self, scope: &str) -> Option<u64> {
        let generations = self.0.get(scope)?;
        generations.iter().rev().find(|(_, generation)| generation.is_complete()).map(|(number, _)| *number)
    }

    /// Whether a fact counts: one of no export always does.
    pub fn counts(&self, fact: &UsageFact<'_>) -> bool {
        fact.key.export.as_ref().is_none_or(|export| self.in_force(&export.scope) == Some(export.number))
    }

    /// Every generation, by export and number.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64, Generation)> {
        self.0.iter().flat_map(|(scope, generations)| {
            generations.iter().map(move |(number, generation)| (scope.as_str(), *number, *generation))
        })
    }
}

#[cfg(test)]
mod tests {
    use ingest::Quantity;

    use super::*;

    #[test]
    fn a_generation_takes_force_whole_once_it_is_complete() {
        let mut generations = Generations::default();
        let mut add = |number, value| {
            generations.add(&ExportGeneration { scope: "focus/2026-10".into(), number }, value);
            generations.in_force("focus/2026-10")
        };
        let row = FactValue::Amount(Quantity::ZERO);
        let end = |facts| FactValue::ExportEnd { facts };
        for (number, value, in_force) in [
            (1, row, None),
            (1, end(2), None),
            (2, row, None),
            (1, row, Some(1)),
            (2, row, Some(1)),
            (2, end(3), Some(1)),
            // One that comes late, and says nothing about the later one.
            (0, end(0), Some(1)),
            (2, row, Some(2)),
            (3, end(1), Some(2)),
            // An empty export is an export: everything in the one before is gone.
            (4, end(0), Some(4)),
            (3, row, Some(4)),
        ] {
            assert_eq!(add(number, value), in_force, "{number} {value:?}");
        }
        assert_eq!(generations.in_force("another"), None);
    }
}
