//! What a customer used in a month, as far as prices need it.

use std::collections::BTreeMap;

use ingest::{Meter, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::days::Days;
use crate::fraction::Fraction;

/// Digits behind the point that a total can have.
pub const USAGE_PLACES_MAX: usize = 18;

/// The windows that some usage came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// The start of the first, in microseconds since 1970.
    start: i64,
    /// The end of the last, likewise.
    end: i64,
    /// How many windows reported something.
    pub count: u64,
}

impl Windows {
    /// So many windows, of which the first starts at `start` and the last ends at `end`.
    pub fn new(start: Timestamp, end: Timestamp, count: u64) -> Self {
        Self { start: start.micros(), end: end.micros(), count }
    }

    /// The start of the first window.
    pub fn start(self) -> Timestamp {
        Timestamp::from_micros(self.start).unwrap_or(Timestamp::MIN)
    }

    /// The end of the last window.
    pub fn end(self) -> Timestamp {
        Timestamp::from_micros(self.end).unwrap_or(Timestamp::MAX)
    }

    fn join(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
            count: self.count.saturating_add(other.count),
        }
    }
}

/// Usage of one meter on some days, summed up over accounts, regions and windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsagePart {
    /// Of what.
    pub meter: Meter,
    /// The days; prices can change between days, so the finer the parts, the later they can be priced: readers give single
    /// days.
    pub days: Days,
    /// The sum, in the meter's raw unit.
    pub total: Fraction,
    /// The highest sum of one hourly window.
    pub peak: Fraction,
    /// The windows.
    pub windows: Windows,
}

/// The usage of one meter on some days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The sum, in the meter's raw unit.
    pub total: Fraction,
    /// The highest sum of one hourly window.
    pub peak: Fraction,
    /// The windows.
    pub windows: Windows,
}

/// The usage of one customer in one month. The order in which parts are added changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    parts: BTreeMap<Meter, BTreeMap<Days, Measured>>,
}

/// Usage cannot be summed. Stop for this customer: the rows are wrong, and trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UsageError {
    /// A total below zero. A day alone can be: corrections of amounts come as negative ones.
    #[error("usage of {meter} on {days} is negative: {total}")]
    Negative {
        /// The meter.
        meter: Meter,
        /// The days.
        days: Days,
        /// The total, in raw units.
        total: Fraction,
    },
    /// A sum that does not fit, or has more than [`USAGE_PLACES_MAX`] digits behind the point.
    #[error("usage of {0} is out of range")]
    OutOfRange(Meter),
    /// A part lies on days of two prices.
    #[error("usage of {meter} from {days} is not split where its price changes")]
    Undivided {
        /// The meter.
        meter: Meter,
        /// The part's days.
        days: Days,
    },
}

impl Usage {
    /// Adds the usage of a meter on some days. Another part of the same days is added to it, as different windows.
    pub fn add(&mut self, part: UsagePart) -> Result<(), UsageError> {
        let UsagePart { meter, days, total, peak, windows } = part;
        let places = Fraction::new(10_i128.pow(18), 1).expect("10^18 fits");
        let is_exact = total.checked_mul(&places).is_some_and(|scaled| scaled.denominator() == &1_u8.into());
        if !is_exact {
            return Err(UsageError::OutOfRange(meter));
        }
        let of_meter = self.parts.entry(meter).or_default();
        let measured = Measured { total, peak, windows };
        let sum = match of_meter.remove(&days) {
            None => measured,
            Some(known) => known.join(measured).ok_or(UsageError::OutOfRange(meter))?,
        };
        of_meter.insert(days, sum);
        Ok(())
    }

    /// So many times the usage, each part rounded down to whole raw units; peaks stay as they are. `None` where a total does
    /// not fit.
    pub fn scaled(&self, times: &Fraction) -> Option<Self> {
        let mut parts = self.parts.clone();
        for part in parts.values_mut().flat_map(BTreeMap::values_mut) {
            let (whole, _) = part.total.checked_mul(times)?.floor();
            part.total = Fraction::new(whole, 1)?;
        }
        Some(Self { parts })
    }

    /// What was used of a meter on these days; `None` where no window reported any, which is not the same as zero.
    pub fn of(&self, meter: Meter, days: Days) -> Result<Option<Measured>, UsageError> {
        let mut sum: Option<Measured> = None;
        for (part_days, part) in self.parts.get(&meter).into_iter().flatten() {
            if days.contains_all(*part_days) {
                sum = Some(match sum {
                    None => part.clone(),
                    Some(sum) => sum.join(part.clone()).ok_or(UsageError::OutOfRange(meter))?,
                });
            } else if days.meet(*part_days).is_some() {
                return Err(UsageError::Undivided { meter, days: *part_days });
            }
        }
        match sum {
            Some(sum) if sum.total.is_negative() || sum.peak.is_negative() => {
                Err(UsageError::Negative { meter, days, total: sum.total })
            }
            sum => Ok(sum),
        }
    }

    /// The meters that reported anything.
    pub fn meters(&self) -> impl Iterator<Item = Meter> + '_ {
        self.parts.keys().copied()
    }
}

impl Measured {
    fn join(self, other: Self) -> Option<Self> {
        Some(Self {
            total: self.total.checked_add(&other.total)?,
            peak: self.peak.max(other.peak),
            windows: self.windows.join(other.windows),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use num_bigint::BigInt;

    use super::*;
    use crate::period::Month;

    /// Usage of a meter on one day, in one window.
    pub(crate) fn on_day(meter: Meter, day: &str, total: Fraction) -> UsagePart {
        let day: chrono::NaiveDate = day.parse().unwrap();
        let days = Days::new(day, day.succ_opt().unwrap()).unwrap();
        let start = Timestamp::from(day.and_time(chrono::NaiveTime::MIN).and_utc());
        let windows = Windows::new(start, start.saturating_add_secs(3600), 1);
        UsagePart { meter, days, peak: total.clone(), total, windows }
    }

    /// Usage on the first day of a month, of whole raw units.
    pub(crate) fn in_month(month: &str, rows: &[(Meter, i128)]) -> Usage {
        let mut usage = Usage::default();
        for (meter, raw) in rows {
            usage.add(on_day(*meter, &format!("{month}-01"), Fraction::whole(*raw))).unwrap();
        }
        usage
    }

    #[test]
    fn usage_of_some_days_is_the_sum_of_their_parts_and_the_highest_window() {
        let mut usage = Usage::default();
        for (day, total) in [("2026-10-01", 5), ("2026-10-15", 7), ("2026-10-16", 11), ("2026-10-01", 3)] {
            usage.add(on_day(Meter::CloudTrailEvents, day, Fraction::whole(total))).unwrap();
        }
        let october = Month::parse("2026-10").unwrap().all_days();
        let halves = october.split_at(["2026-10-16".parse().unwrap()]);
        let totals: Vec<(String, String, u64)> = [october, halves[0], halves[1]]
            .into_iter()
            .map(|days| usage.of(Meter::CloudTrailEvents, days).unwrap().unwrap())
            .map(|measured| (measured.total.to_string(), measured.peak.to_string(), measured.windows.count))
            .collect();
        assert_eq!(
            totals,
            [("26".into(), "11".into(), 4), ("15".into(), "7".into(), 3), ("11".into(), "11".into(), 1)]
        );
        assert_eq!(usage.of(Meter::GuardDutyFindings, october).unwrap(), None);
        let measured = usage.of(Meter::CloudTrailEvents, halves[0]).unwrap().unwrap();
        assert_eq!(
            (measured.windows.start().to_string(), measured.windows.end().to_string()),
            ("2026-10-01T00:00:00Z".to_owned(), "2026-10-15T01:00:00Z".to_owned())
        );
    }

    #[test]
    fn usage_that_cannot_be_is_an_error() {
        let meter = Meter::CloudTrailEvents;
        let mut usage = Usage::default();
        let mut add = |total: Fraction| usage.add(on_day(meter, "2026-10-01", total));
        assert_eq!(add(Fraction::parse("0.0000000000000000001").unwrap()), Err(UsageError::OutOfRange(meter)));
        assert_eq!(add(Fraction::new(1, 3).unwrap()), Err(UsageError::OutOfRange(meter)));
        add(Fraction::parse("0.000000000000000001").unwrap()).unwrap();
        let beyond = Fraction::new(BigInt::from(2).pow(600), 1).unwrap();
        assert_eq!(add(beyond), Err(UsageError::OutOfRange(meter)), "18 places of it do not fit");
    }

    #[test]
    fn a_day_of_corrections_can_be_negative_but_what_is_charged_cannot() {
        let meter = Meter::NatGatewayBytes;
        let days = Days::new("2026-10-01".parse().unwrap(), "2026-10-03".parse().unwrap()).unwrap();
        let mut usage = Usage::default();
        usage.add(on_day(meter, "2026-10-01", Fraction::whole(-2))).unwrap();
        let error = usage.of(meter, days).unwrap_err();
        assert_eq!(error.to_string(), "usage of nat_gateway_bytes on 2026-10-01 to 2026-10-02 is negative: -2");
        usage.add(on_day(meter, "2026-10-02", Fraction::whole(5))).unwrap();
        assert_eq!(usage.of(meter, days).unwrap().unwrap().total, Fraction::whole(3));
    }

    #[test]
    fn usage_across_a_change_of_price_is_refused() {
        let october = Month::parse("2026-10").unwrap().all_days();
        let mut usage = Usage::default();
        let whole = UsagePart { days: october, ..on_day(Meter::CloudTrailEvents, "2026-10-01", Fraction::whole(1)) };
        usage.add(whole).unwrap();
        let halves = october.split_at(["2026-10-16".parse().unwrap()]);
        assert!(usage.of(Meter::CloudTrailEvents, october).is_ok());
        let error = usage.of(Meter::CloudTrailEvents, halves[0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "usage of cloudtrail_events from 2026-10-01 to 2026-10-31 is not split where its price changes"
        );
    }
}
