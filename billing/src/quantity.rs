//! How much a line charges for: an exact number of raw units, and how many of them make one priced unit.

use ingest::{MeterDefinition, RawUnit};
use serde::{Deserialize, Serialize};

use crate::fraction::Fraction;
use crate::period::Month;

/// Seconds of the hour that a usage window has.
pub(crate) const SECONDS_PER_WINDOW: i64 = 3600;

/// Whether a total is a level times the seconds it lasted, so that it can be averaged over time.
pub(crate) fn is_level(raw_unit: RawUnit) -> bool {
    match raw_unit {
        RawUnit::ByteSecond | RawUnit::UnitSecond | RawUnit::Second => true,
        RawUnit::Each | RawUnit::Byte => false,
    }
}

/// How the windows of a period become one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// All of it: events, bytes, account-days.
    Sum,
    /// The highest window of the period, over all accounts and regions together. Of a level, its average in that hour.
    Peak,
    /// The average level over the whole month: what was stored for half of it counts half.
    TimeWeighted,
}

impl Aggregation {
    /// The name used in rate cards and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Peak => "peak",
            Self::TimeWeighted => "time_weighted",
        }
    }

    /// How a meter is aggregated unless its price says otherwise; `None` of one that cannot be priced.
    pub fn of(meter: &MeterDefinition) -> Option<Self> {
        match meter.aggregation {
            ingest::Aggregation::Count | ingest::Aggregation::Sum => Some(Self::Sum),
            ingest::Aggregation::Max => Some(Self::Peak),
            ingest::Aggregation::TimeWeighted | ingest::Aggregation::Interval => Some(Self::TimeWeighted),
            ingest::Aggregation::Marker => None,
        }
    }

    /// Whether usage in this raw unit can be aggregated so.
    pub fn suits(self, raw_unit: RawUnit) -> bool {
        self != Self::TimeWeighted || is_level(raw_unit)
    }

    /// How many of a usage row's raw units make one priced unit, where one priced unit is `raw_per_unit` counts or bytes, or
    /// bytes stored for a whole month: time-weighted prices are per month, so they divide by the seconds of that very month.
    pub(crate) fn divisor(self, raw_unit: RawUnit, raw_per_unit: i64, month: Month) -> Option<Fraction> {
        let seconds = match self {
            Self::Sum => 1,
            Self::Peak if is_level(raw_unit) => SECONDS_PER_WINDOW,
            Self::Peak => 1,
            Self::TimeWeighted => month.seconds(),
        };
        Fraction::new(i128::from(raw_per_unit).checked_mul(i128::from(seconds))?, 1)
    }
}

/// An exact quantity in priced units: `raw / raw_per_unit`, kept as these two numbers so that a line can be recounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantity {
    raw: Fraction,
    raw_per_unit: Fraction,
}

impl Quantity {
    /// So many raw units of which `raw_per_unit` make one priced unit; `None` when a number is negative or the divisor zero.
    pub fn new(raw: Fraction, raw_per_unit: Fraction) -> Option<Self> {
        let divides = !raw_per_unit.is_negative() && raw.checked_div(&raw_per_unit).is_some();
        (!raw.is_negative() && divides).then_some(Self { raw, raw_per_unit })
    }

    /// Some days of a month.
    pub(crate) fn days(days: u32, days_in_month: u32) -> Self {
        Self { raw: Fraction::whole(days.into()), raw_per_unit: Fraction::whole(days_in_month.max(1).into()) }
    }

    /// A whole number of units.
    pub(crate) fn whole(units: u32) -> Self {
        Self { raw: Fraction::whole(units.into()), raw_per_unit: Fraction::whole(1) }
    }

    /// The raw units.
    pub fn raw(&self) -> &Fraction {
        &self.raw
    }

    /// How many raw units make one priced unit.
    pub fn raw_per_unit(&self) -> &Fraction {
        &self.raw_per_unit
    }

    /// The quantity in priced units.
    pub fn exact(&self) -> Fraction {
        self.raw.checked_div(&self.raw_per_unit).expect("checked when it was made")
    }
}

#[cfg(test)]
mod tests {
    use ingest::Meters;

    use super::*;

    const GIB: i64 = 1 << 30;

    #[test]
    fn a_gigabyte_month_is_two_to_the_thirty_bytes_for_all_seconds_of_that_month() {
        for (month, seconds) in
            [("2026-10", 2_678_400), ("2026-11", 2_592_000), ("2026-02", 2_419_200), ("2028-02", 2_505_600)]
        {
            let month = Month::parse(month).unwrap();
            let divisor = Aggregation::TimeWeighted.divisor(RawUnit::ByteSecond, GIB, month).unwrap();
            let quantity = |seconds: i128| {
                Quantity::new(Fraction::whole(100 * i128::from(GIB) * seconds), divisor.clone()).unwrap().exact()
            };
            assert_eq!(quantity(seconds), Fraction::whole(100), "{month}");
            assert_eq!(quantity(seconds - 86_400), Fraction::new(100 * (seconds - 86_400), seconds).unwrap());
        }
    }

    #[test]
    fn bytes_and_counts_are_divided_by_what_makes_one_unit() {
        let month = Month::parse("2026-10").unwrap();
        let divisor = |aggregation: Aggregation, raw_unit, per| aggregation.divisor(raw_unit, per, month).unwrap();
        assert_eq!(divisor(Aggregation::Sum, RawUnit::Byte, GIB), Fraction::whole(GIB.into()));
        assert_eq!(divisor(Aggregation::Sum, RawUnit::Each, 1), Fraction::whole(1));
        assert_eq!(divisor(Aggregation::Peak, RawUnit::Each, 1), Fraction::whole(1));
        // The peak of a level is its average in the hour: byte-seconds of an hour, over 3,600.
        assert_eq!(divisor(Aggregation::Peak, RawUnit::ByteSecond, 1), Fraction::whole(3_600));
        assert_eq!(Quantity::new(Fraction::whole(-1), Fraction::whole(1)), None);
        assert_eq!(Quantity::new(Fraction::whole(1), Fraction::zero()), None);
    }

    #[test]
    fn only_a_level_is_weighted_by_time_and_each_meter_has_its_own_way() {
        assert!(
            Aggregation::TimeWeighted.suits(RawUnit::ByteSecond) && Aggregation::TimeWeighted.suits(RawUnit::Second)
        );
        assert!(!Aggregation::TimeWeighted.suits(RawUnit::Each));
        assert!(Aggregation::Peak.suits(RawUnit::Each));
        let meters = Meters::built_in();
        let way = |name: &str| Aggregation::of(meters.find(name).unwrap());
        for (name, expected) in [
            ("nat_gateway_bytes", Some(Aggregation::Sum)),
            ("log_storage_gb", Some(Aggregation::TimeWeighted)),
            ("accounts", Some(Aggregation::TimeWeighted)),
            ("export_generations", None),
        ] {
            assert_eq!(way(name), expected, "{name}");
        }
    }
}
