//! From the facts of one resource to its share of each hour's total.
//!
//! What lies between two samples is known only if they are not too far apart: a longer gap is missing, which is not zero, and
//! is reported. Nothing here is rounded.

use std::collections::BTreeMap;
use std::ops::Range;

use ingest::{Aggregation, Dimensions, FactValue, Hour, MeterDefinition, Quantity, Timestamp, UsageFact};
use thiserror::Error;

/// What a resource adds to one total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// How much, in raw units.
    pub value: Quantity,
    /// How many amounts are in it; 1 for a resource with levels or transitions. A total of no parts is no total: missing,
    /// not zero.
    pub parts: u64,
}

/// Contributions by hour and dimensions.
pub type Hourly = BTreeMap<(Hour, Dimensions<'static>), Contribution>;

/// A stretch of which nothing is known: its samples lie too far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gap {
    /// Until when it is known.
    pub from: Timestamp,
    /// From when on it is known again.
    pub until: Timestamp,
}

/// What the facts of one resource come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// Its share of each total.
    pub hours: Hourly,
    /// What is missing, in order of time.
    pub gaps: Vec<Gap>,
}

/// A resource's values cannot be computed exactly. Stop with its partition: someone has to look at its source.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EvaluationError {
    /// A product or sum that does not fit.
    #[error("the value of {meter} of resource {resource} in account {account} at {hour} is out of range")]
    OutOfRange {
        /// The meter.
        meter: &'static str,
        /// The account.
        account: String,
        /// The resource.
        resource: String,
        /// The hour.
        hour: Hour,
    },
}

/// Evaluates the standing facts of one resource, in order of time, over these hours. What they say of other hours is left
/// out; the facts before and after that bear on these hours must be among them.
///
/// `through` is the first hour that is not over: what is live counts until there.
pub fn evaluate(
    definition: &MeterDefinition,
    facts: &[UsageFact<'static>],
    hours: Range<Hour>,
    through: Hour,
) -> Result<Evaluated, EvaluationError> {
    let Some(first) = facts.first() else { return Ok(Evaluated::default()) };
    debug_assert!(facts.is_sorted_by_key(|fact| fact.key.time), "facts come in order of time");
    let mut series =
        Series { about: first, hours: hours.start.start()..hours.end.start(), evaluated: Evaluated::default() };
    series.add_amounts(facts)?;
    match definition.aggregation {
        Aggregation::TimeWeighted => series.add_levels(facts, definition.gap_seconds_max.unwrap_or_default())?,
        Aggregation::Max => series.add_maxima(facts),
        Aggregation::Interval => series.add_live(facts, through.start())?,
        Aggregation::Sum | Aggregation::Count | Aggregation::Marker => {}
    }
    Ok(series.evaluated)
}

struct Series<'a> {
    about: &'a UsageFact<'static>,
    hours: Range<Timestamp>,
    evaluated: Evaluated,
}

impl Series<'_> {
    /// Each amount counts in the hour it begins in.
    fn add_amounts(&mut self, facts: &[UsageFact<'static>]) -> Result<(), EvaluationError> {
        for fact in facts {
            let FactValue::Amount(value) = fact.value else { continue };
            if self.hours.contains(&fact.key.time) {
                let hour = fact.key.time.hour();
                let total = self.total(hour, &fact.dimensions);
                total.parts += 1;
                match total.value.checked_add(value) {
                    Some(sum) => total.value = sum,
                    None => return Err(self.out_of_range(hour)),
                }
            }
        }
        Ok(())
    }

    /// A level lasts until the next sample, if that is near enough, or until its own end. Zero lasts however long: what is
    /// gone is not sampled any more.
    fn add_levels(&mut self, facts: &[UsageFact<'static>], gap_seconds_max: u32) -> Result<(), EvaluationError> {
        let levels: Vec<_> = facts
            .iter()
            .filter_map(|fact| match fact.value {
                FactValue::Level(level) => Some((fact, level)),
                _ => None,
            })
            .collect();
        for (position, (fact, level)) in levels.iter().enumerate() {
            let next = levels.get(position + 1).map(|(next, _)| next.key.time);
            let time = fact.key.time;
            let stated = fact.end.map_or(time, |end| next.map_or(end, |next| end.min(next)));
            let known = match next {
                Some(next)
                    if *level == Quantity::ZERO || next <= stated.saturating_add_secs(gap_seconds_max.into()) =>
                {
                    next
                }
                _ => stated,
            };
            self.add_stretch(*level, &fact.dimensions, time..known)?;
            if let Some(next) = next.filter(|next| known < *next) {
                self.add_gap(known..next);
            }
        }
        Ok(())
    }

    /// The highest sample of an hour; of equal ones the last sets the dimensions.
    fn add_maxima(&mut self, facts: &[UsageFact<'static>]) {
        let mut highest = BTreeMap::<Hour, (Quantity, &Dimensions<'static>)>::new();
        for fact in facts.iter().filter(|fact| self.hours.contains(&fact.key.time)) {
            let FactValue::Level(level) = fact.value else { continue };
            let of_hour = highest.entry(fact.key.time.hour()).or_insert((level, &fact.dimensions));
            if of_hour.0 <= level {
                *of_hour = (level, &fact.dimensions);
            }
        }
        for (hour, (value, dimensions)) in highest {
            *self.total(hour, dimensions) = Contribution { value, parts: 1 };
        }
    }

    /// Seconds the resource was live. Saying the same state again changes nothing. Dimensions do not split them, so that an
    /// hour has one row whatever the sources said beside.
    fn add_live(&mut self, facts: &[UsageFact<'static>], through: Timestamp) -> Result<(), EvaluationError> {
        let none = || Dimensions { region: Dimensions::NONE.into(), category: Dimensions::NONE.into() };
        let mut since = None;
        for fact in facts {
            match (fact.value, since) {
                (FactValue::Live, None) => since = Some(fact.key.time),
                (FactValue::Gone, Some(start)) => {
                    self.add_stretch(Quantity::whole(1), &none(), start..fact.key.time.min(through))?;
                    since = None;
                }
                _ => {}
            }
        }
        match since {
            Some(start) => self.add_stretch(Quantity::whole(1), &none(), start..through),
            None => Ok(()),
        }
    }

    fn add_stretch(
        &mut self,
        level: Quantity,
        dimensions: &Dimensions<'static>,
        stretch: Range<Timestamp>,
    ) -> Result<(), EvaluationError> {
        let mut at = stretch.start.max(self.hours.start);
        let end = stretch.end.min(self.hours.end);
        while at < end {
            let hour = at.hour();
            let until = end.min(hour.start().saturating_add_secs(3_600));
            // The last hour of the year 9999 ends a microsecond early; nothing is measured there.
            if until <= at {
                break;
            }
            let value = level.checked_mul_micros(until.micros() - at.micros());
            let total = self.total(hour, dimensions);
            total.parts = 1;
            match value.and_then(|value| total.value.checked_add(value)) {
                Some(sum) => total.value = sum,
                None => return Err(self.out_of_range(hour)),
            }
            at = until;
        }
        Ok(())
    }

    /// A gap belongs to the window if any of it does, whole: it is named by where it begins.
    fn add_gap(&mut self, gap: Range<Timestamp>) {
        if gap.start < self.hours.end && self.hours.start < gap.end {
            self.evaluated.gaps.push(Gap { from: gap.start, until: gap.end });
        }
    }

    fn total(&mut self, hour: Hour, dimensions: &Dimensions<'static>) -> &mut Contribution {
        let nothing = Contribution { value: Quantity::ZERO, parts: 0 };
        self.evaluated.hours.entry((hour, dimensions.clone())).or_insert(nothing)
    }

    fn out_of_range(&self, hour: Hour) -> EvaluationError {
        let key = &self.about.key;
        let (account, resource) = (key.account.to_string(), key.resource.clone().into_owned());
        EvaluationError::OutOfRange { meter: key.meter.as_str(), account, resource, hour }
    }
}

#[cfg(test)]
mod tests {
    use ingest::{AccountId, FactKey, Meter, Meters, SampleMeter};

    use super::*;

    fn at(time: &str) -> Timestamp {
        Timestamp::parse_rfc3339(&format!("2026-10-{time}Z")).unwrap()
    }

    fn fact(meter: Meter, time: &str, value: FactValue) -> UsageFact<'static> {
        UsageFact {
            key: FactKey {
                meter,
                account: AccountId::parse("000000000001").unwrap(),
                resource: "r".into(),
                time: at(time),
                export: None,
            },
            revision: 0,
            dimensions: Dimensions { region: "eu-west-1".into(), category: "none".into() },
            end: None,
            value,
        }
    }

    fn level(number: &str) -> FactValue {
        FactValue::Level(number.parse().unwrap())
    }

    /// Evaluates over all of October and writes `DDThh region value parts`, then gaps.
    fn check(definition: &MeterDefinition, facts: &[UsageFact<'static>], through: &str, expected: &[&str]) {
        let hours = at("01T00:00:00").hour()..at("31T23:00:00").hour();
        let evaluated = evaluate(definition, facts, hours, at(through).hour()).unwrap();
        let mut got: Vec<String> = Vec::new();
        for ((hour, dimensions), Contribution { value, parts }) in &evaluated.hours {
            got.push(format!("{} {} {value} {parts}", &hour.to_string()[8..], dimensions.region));
        }
        for Gap { from, until } in &evaluated.gaps {
            got.push(format!("gap {} {}", &from.to_string()[8..19], &until.to_string()[8..19]));
        }
        assert_eq!(got, expected);
    }

    #[test]
    fn a_level_lasts_until_the_next_sample_unless_that_is_too_far() {
        let meters = Meters::built_in();
        let storage = meters.get(Meter::LogStorageGb).unwrap();
        let sample = |time: &str, number: &str| fact(Meter::LogStorageGb, time, level(number));
        check(storage, &[sample("01T10:00:00", "5")], "02T00:00:00", &[]);
        check(
            storage,
            &[sample("01T10:30:00", "2"), sample("01T12:15:00", "4"), sample("01T12:30:00", "0")],
            "02T00:00:00",
            &["01T10 eu-west-1 3600 1", "01T11 eu-west-1 7200 1", "01T12 eu-west-1 5400 1"],
        );
        // Exactly as far apart as may be, and a second farther.
        let hours = |value: &FactValue, last: &str| {
            let facts = [fact(Meter::LogStorageGb, "01T00:00:00", *value), sample(last, "1")];
            let hours = at("01T00:00:00").hour()..at("31T00:00:00").hour();
            let evaluated = evaluate(storage, &facts, hours, at("31T00:00:00").hour()).unwrap();
            (evaluated.hours.len(), evaluated.gaps)
        };
        assert_eq!(hours(&level("1"), "03T00:00:00"), (48, vec![]));
        let gap = Gap { from: at("01T00:00:00"), until: at("03T00:00:01") };
        assert_eq!(hours(&level("1"), "03T00:00:01"), (0, vec![gap]));
        assert_eq!(hours(&level("0"), "05T00:00:00"), (96, vec![]), "zero lasts");
    }

    #[test]
    fn a_level_with_an_end_needs_no_other_sample() {
        let meters = Meters::built_in();
        let storage = meters.get(Meter::LogStorageGb).unwrap();
        let sample = |time, end, number| {
            let fact = fact(Meter::LogStorageGb, time, level(number));
            UsageFact { end: Some(at(end)), ..fact }
        };
        check(
            storage,
            &[sample("01T10:00:00", "01T11:00:00", "1"), sample("01T10:30:00", "01T11:30:00", "3")],
            "02T00:00:00",
            &["01T10 eu-west-1 7200 1", "01T11 eu-west-1 5400 1"],
        );
        check(
            storage,
            &[sample("01T10:00:00", "01T11:00:00", "1"), sample("09T00:00:00", "09T01:00:00", "1")],
            "10T00:00:00",
            &["01T10 eu-west-1 3600 1", "09T00 eu-west-1 3600 1", "gap 01T11:00:00 09T00:00:00"],
        );
    }

    #[test]
    fn amounts_are_added_in_the_hour_they_begin_in() {
        let meters = Meters::built_in();
        let nat = meters.get(Meter::NatGatewayBytes).unwrap();
        let amount = |time, number: &str, region: &'static str| {
            let mut fact = fact(Meter::NatGatewayBytes, time, FactValue::Amount(number.parse().unwrap()));
            fact.dimensions.region = region.into();
            fact
        };
        check(
            nat,
            &[
                amount("01T10:00:00", "0.1", "a"),
                amount("01T10:59:59", "0.2", "a"),
                amount("01T10:59:59.5", "7", "b"),
                amount("01T11:00:00", "-1", "a"),
            ],
            "02T00:00:00",
            &["01T10 a 0.3 2", "01T10 b 7 1", "01T11 a -1 1"],
        );
    }

    #[test]
    fn the_highest_level_of_an_hour_is_its_maximum() {
        let name = SampleMeter::parse("queue_depth").unwrap();
        let definition = MeterDefinition::of_samples(name, Aggregation::Max, None, String::new()).unwrap();
        let sample = |time, number, region: &'static str| {
            let mut fact = fact(Meter::Sample(name), time, level(number));
            fact.dimensions.region = region.into();
            fact
        };
        check(
            &definition,
            &[
                sample("01T10:00:00", "3", "a"),
                sample("01T10:10:00", "5", "b"),
                sample("01T10:20:00", "5", "c"),
                sample("01T10:30:00", "1", "a"),
                sample("01T11:00:00", "0", "a"),
            ],
            "02T00:00:00",
            &["01T10 c 5 1", "01T11 a 0 1"],
        );
    }

    #[test]
    fn live_counts_in_seconds_until_gone_or_until_now() {
        let meters = Meters::built_in();
        let accounts = meters.get(Meter::Accounts).unwrap();
        let (live, gone) =
            (|time| fact(Meter::Accounts, time, FactValue::Live), |time| fact(Meter::Accounts, time, FactValue::Gone));
        check(accounts, &[live("01T10:30:00")], "01T12:00:00", &["01T10 none 1800 1", "01T11 none 3600 1"]);
        check(accounts, &[live("01T10:30:00")], "01T10:00:00", &[]);
        check(
            accounts,
            &[
                gone("01T09:00:00"),
                live("01T10:30:00.25"),
                live("01T10:40:00"),
                gone("01T10:50:00"),
                gone("01T10:55:00"),
                live("01T10:59:00"),
                gone("01T11:01:00"),
            ],
            "02T00:00:00",
            &["01T10 none 1259.75 1", "01T11 none 60 1"],
        );
        check(accounts, &[live("01T10:30:00"), gone("01T12:30:00")], "01T11:00:00", &["01T10 none 1800 1"]);
    }

    #[test]
    fn a_product_that_does_not_fit_is_an_error_and_never_another_number() {
        let meters = Meters::built_in();
        let nat = meters.get(Meter::NatGatewayBytes).unwrap();
        let huge = FactValue::Amount(Quantity::whole(i128::MAX));
        let facts =
            [fact(Meter::NatGatewayBytes, "01T10:00:00", huge), fact(Meter::NatGatewayBytes, "01T10:00:01", huge)];
        let hours = at("01T00:00:00").hour()..at("31T00:00:00").hour();
        let refused = evaluate(nat, &facts, hours, at("31T00:00:00").hour()).unwrap_err();
        assert!(
            refused.to_string().contains("nat_gateway_bytes of resource r in account 000000000001 at 2026-10-01T10")
        );
    }
}
