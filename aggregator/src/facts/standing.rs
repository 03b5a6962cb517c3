//! The keyed map of facts, and what all of it comes to.
//!
//! The reference for the roll-up, which does the same a little at a time: folding whole logs into a [`Standing`] and
//! evaluating it gives the usage rows of facts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ingest::{AccountId, ContentHash, Dimensions, FactKey, FactValue, Hour, Meter, Meters, UsageFact};
use thiserror::Error;

use super::{Contribution, EvaluationError, Gap, Generations, evaluate};

/// Decides between two facts with one key: the higher revision, then the higher content hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactVersion {
    /// The source's own number.
    pub revision: u64,
    /// What the fact says.
    pub hash: ContentHash,
}

impl FactVersion {
    /// The version a fact has.
    pub fn of(fact: &UsageFact<'_>) -> Self {
        Self { revision: fact.revision, hash: fact.content_hash() }
    }
}

/// The facts that stand: of each key the one with the highest version, whatever the order they came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    facts: BTreeMap<FactKey<'static>, (FactVersion, UsageFact<'static>)>,
}

/// Names a total of facts: one usage row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HourlyKey {
    /// Whose usage.
    pub account: AccountId,
    /// What was measured.
    pub meter: Meter,
    /// When.
    pub window: Hour,
    /// How it is split.
    pub dimensions: Dimensions<'static>,
}

/// What all standing facts come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullEvaluation {
    /// The totals.
    pub rows: BTreeMap<HourlyKey, Contribution>,
    /// What is missing, by account, meter and resource.
    pub gaps: BTreeMap<(AccountId, Meter, String), Vec<Gap>>,
}

/// Why standing facts cannot be evaluated. Stop: someone has to look.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FullEvaluationError {
    /// A sample meter that nobody defined.
    #[error("meter {0} is not defined")]
    MeterUnknown(Meter),
    /// A value that does not fit.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}

impl Standing {
    /// Takes a fact in; says whether it stands now and did not before.
    pub fn add(&mut self, fact: UsageFact<'static>) -> bool {
        let version = FactVersion::of(&fact);
        match self.facts.entry(fact.key.clone()) {
            Entry::Vacant(place) => {
                place.insert((version, fact));
                true
            }
            Entry::Occupied(mut standing) if standing.get().0 < version => {
                standing.insert((version, fact));
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// The facts that stand, in order of their keys, in force or not.
    pub fn facts(&self) -> impl Iterator<Item = &UsageFact<'static>> {
        self.facts.values().map(|(_, fact)| fact)
    }

    /// The exports among them.
    pub fn generations(&self) -> Generations {
        let mut generations = Generations::default();
        for fact in self.facts() {
            if let Some(export) = &fact.key.export {
                generations.add(export, fact.value);
            }
        }
        generations
    }

    /// How many facts stand.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether none stands.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// The facts that count, those of one resource together, in order of time.
    pub fn series(&self) -> Vec<Vec<UsageFact<'static>>> {
        self.series_under(&self.generations())
    }

    /// [`Standing::series`], where the exports' other facts stand elsewhere.
    pub fn series_under(&self, generations: &Generations) -> Vec<Vec<UsageFact<'static>>> {
        let counts: Vec<_> = self
            .facts()
            .filter(|fact| !matches!(fact.value, FactValue::ExportEnd { .. }) && generations.counts(fact))
            .cloned()
            .collect();
        let of_one = |a: &UsageFact<'_>, b: &UsageFact<'_>| {
            (a.key.meter, a.key.account, &a.key.resource) == (b.key.meter, b.key.account, &b.key.resource)
        };
        counts.chunk_by(of_one).map(<[_]>::to_vec).collect()
    }

    /// Every total and every gap of these hours; `through` is the first hour that is not over.
    pub fn evaluate(
        &self,
        meters: &Meters,
        hours: Range<Hour>,
        through: Hour,
    ) -> Result<FullEvaluation, FullEvaluationError> {
        let mut all = FullEvaluation::default();
        for facts in self.series() {
            let FactKey { meter, account, resource, .. } = facts[0].key.clone();
            let definition = meters.get(meter).ok_or(FullEvaluationError::MeterUnknown(meter))?;
            let evaluated = evaluate(definition, &facts, hours.clone(), through)?;
            for ((window, dimensions), contribution) in evaluated.hours {
                match all.rows.entry(HourlyKey { account, meter, window, dimensions }) {
                    Entry::Vacant(place) => {
                        place.insert(contribution);
                    }
                    Entry::Occupied(mut total) => {
                        let total = total.get_mut();
                        let sum = total.value.checked_add(contribution.value);
                        total.value = sum.ok_or_else(|| EvaluationError::OutOfRange {
                            meter: meter.as_str(),
                            account: account.to_string(),
                            resource: resource.clone().into_owned(),
                            hour: window,
                        })?;
                        total.parts += contribution.parts;
                    }
                }
            }
            if !evaluated.gaps.is_empty() {
                all.gaps.insert((account, meter, resource.into_owned()), evaluated.gaps);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use ingest::Timestamp;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn life_cycle(resource: u8, minute: i64, value: FactValue, revision: u64) -> UsageFact<'static> {
        let start = Timestamp::parse_rfc3339("2026-10-01T00:00:00Z").unwrap();
        let account = AccountId::parse(&format!("{resource:012}")).unwrap();
        let time = start.saturating_add_secs(minute * 60);
        UsageFact {
            key: FactKey { meter: Meter::Accounts, account, resource: account.to_string().into(), time, export: None },
            revision,
            dimensions: Dimensions { region: "none".into(), category: "none".into() },
            end: None,
            value,
        }
    }

    fn evaluation(facts: impl IntoIterator<Item = UsageFact<'static>>) -> FullEvaluation {
        let mut standing = Standing::default();
        for fact in facts {
            standing.add(fact);
        }
        let hour = |day: &str| Timestamp::parse_rfc3339(&format!("2026-10-{day}T00:00:00Z")).unwrap().hour();
        standing.evaluate(&Meters::built_in(), hour("01")..hour("03"), hour("03")).unwrap()
    }

    /// Every order of a list.
    fn permutations<T: Clone>(list: &[T]) -> Vec<Vec<T>> {
        let Some((last, rest)) = list.split_last() else { return vec![Vec::new()] };
        let mut all = Vec::new();
        for order in permutations(rest) {
            for place in 0..=order.len() {
                let mut longer = order.clone();
                longer.insert(place, last.clone());
                all.push(longer);
            }
        }
        all
    }

    #[test]
    fn every_order_of_an_accounts_life_gives_the_same_intervals_duplicates_or_not() {
        use FactValue::{Gone, Live};
        // Made, said again by a list, suspended, made live again, closed; and a correction of the suspension.
        let life = [
            life_cycle(1, 7, Live, 0),
            life_cycle(1, 30, Live, 0),
            life_cycle(1, 60, Gone, 0),
            life_cycle(1, 60, Live, 1),
            life_cycle(1, 200, Live, 0),
            life_cycle(1, 300, Gone, 0),
        ];
        let seconds: Vec<String> =
            evaluation(life.clone()).rows.values().map(|total| total.value.to_string()).collect();
        assert_eq!(seconds, ["3180", "3600", "3600", "3600", "3600"], "from 00:07 to 05:00");
        let orders = permutations(&life);
        assert_eq!(orders.len(), 720);
        for mut order in orders {
            let once = evaluation(order.clone());
            assert_eq!(once, evaluation(life.clone()), "{order:?}");
            let again = order.clone();
            order.extend(again);
            assert_eq!(evaluation(order), once);
        }
    }

    /// The same fact in the words of the naive recount.
    fn told(fact: &UsageFact<'_>) -> reference::Fact {
        let number = |quantity: ingest::Quantity| reference::Number::read(&quantity.to_string()).unwrap();
        reference::Fact {
            key: reference::Key {
                meter: fact.key.meter.to_string(),
                account: fact.key.account.to_string(),
                resource: fact.key.resource.to_string(),
                time: fact.key.time.micros(),
                export: None,
            },
            revision: fact.revision,
            region: fact.dimensions.region.to_string(),
            category: fact.dimensions.category.to_string(),
            end: fact.end.map(Timestamp::micros),
            says: match fact.value {
                FactValue::Amount(quantity) => reference::Says::Amount(number(quantity)),
                FactValue::Level(quantity) => reference::Says::Level(number(quantity)),
                FactValue::Live => reference::Says::Live,
                FactValue::Gone => reference::Says::Gone,
                FactValue::ExportEnd { .. } => unreachable!("no export is told here"),
            },
        }
    }

    /// What may be said of a meter: amounts of 18 decimals, levels of 12, and nothing.
    fn statements() -> impl Strategy<Value = (Meter, FactValue, Option<i64>)> {
        let number = |decimals: u8| {
            (0..4_i128, 0..10_i128.pow(decimals.into())).prop_map(move |(whole, part)| {
                ingest::Quantity::new(whole * 10_i128.pow(decimals.into()) + part, decimals).unwrap()
            })
        };
        let stored = prop_oneof![Just(Meter::LogStorageGb), Just(Meter::ArchiveStorageGb)];
        prop_oneof![
            1 => (number(18), any::<bool>()).prop_map(|(amount, is_nat)| {
                let meter = if is_nat { Meter::NatGatewayBytes } else { Meter::LogStorageGb };
                (meter, FactValue::Amount(amount), None)
            }),
            3 => (stored, prop_oneof![2 => number(12), 1 => Just(ingest::Quantity::ZERO)], prop::option::of(1..200_000_i64))
                .prop_map(|(meter, level, lasts)| (meter, FactValue::Level(level), lasts)),
            1 => any::<bool>().prop_map(|is_live| (Meter::Accounts, if is_live { FactValue::Live } else { FactValue::Gone }, None)),
        ]
    }

    proptest! {
        #[test]
        fn totals_are_those_of_the_naive_recount(
            said in prop::collection::vec((statements(), 1..3_u8, 0..6_000_i64, 0..3_600_000_000_i64, 0..2_u64), 0..40),
        ) {
            let mut naive = reference::Facts::default();
            let mut facts = Vec::new();
            for ((meter, value, lasts), resource, minute, micros, revision) in said {
                let mut fact = life_cycle(resource, minute, value, revision);
                fact.key.meter = meter;
                // Most say it on a whole minute, so that some say something else of the same.
                if micros % 3 == 0 {
                    fact.key.time = Timestamp::from_micros(fact.key.time.micros() + micros).unwrap();
                }
                fact.end = lasts.map(|seconds| fact.key.time.saturating_add_secs(seconds));
                naive.add(told(&fact));
                facts.push(fact);
            }
            let mut totals = BTreeMap::<_, ingest::Quantity>::new();
            for (key, total) in evaluation(facts).rows {
                let line = reference::Line {
                    meter: key.meter.to_string(), account: key.account.to_string(), hour: key.window.to_string(),
                };
                let sum = totals.entry(line).or_insert(ingest::Quantity::ZERO);
                *sum = sum.checked_add(total.value).unwrap();
            }
            let at = |day: &str| reference::time::instant(&format!("2026-10-{day}T00:00:00Z")).unwrap();
            let lines = naive.lines(at("01"), at("03"), &BTreeMap::new());
            let wanted: BTreeMap<_, String> = lines.into_iter().map(|(line, (total, _))| (line, total.to_string())).collect();
            let got: BTreeMap<_, String> = totals.into_iter().map(|(line, total)| (line, total.to_string())).collect();
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn the_standing_facts_are_those_of_a_naive_model_in_any_order(
            said in prop::collection::vec((1..3_u8, 0..60_i64, any::<bool>(), 0..3_u64), 0..60),
            shuffle in prop::collection::vec(any::<Index>(), 60),
        ) {
            let facts: Vec<_> = said
                .iter()
                .map(|&(resource, ten_minutes, is_live, revision)| {
                    let value = if is_live { FactValue::Live } else { FactValue::Gone };
                    life_cycle(resource, ten_minutes * 10, value, revision)
                })
                .collect();
            // The model: of all that was said about a key, the last in order of version.
            let mut sorted = facts.clone();
            sorted.sort_by_key(|fact| (fact.key.clone(), FactVersion::of(fact)));
            let model: Vec<_> = sorted.chunk_by(|a, b| a.key == b.key).map(|said| said.last().unwrap()).collect();
            let mut shuffled = facts.clone();
            for (place, index) in shuffle.iter().take(facts.len()).enumerate() {
                let other = index.index(facts.len());
                shuffled.swap(place, other);
            }
            for order in [facts, shuffled] {
                let mut standing = Standing::default();
                for fact in order {
                    standing.add(fact);
                }
                prop_assert_eq!(standing.facts().collect::<Vec<_>>(), model.clone());
            }
        }
    }
}
