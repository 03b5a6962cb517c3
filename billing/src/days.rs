//! Ranges of UTC days.

use std::fmt;

use chrono::NaiveDate;
use ingest::Timestamp;
use serde::{Deserialize, Serialize};

/// Some whole UTC days `[start, end)`; never none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bounds", into = "Bounds")]
pub struct Days {
    start: NaiveDate,
    end: NaiveDate,
}

#[derive(Serialize, Deserialize)]
struct Bounds {
    start: NaiveDate,
    end: NaiveDate,
}

impl Days {
    /// The days from the first to the one before `end`; `None` when there are none.
    pub fn new(start: NaiveDate, end: NaiveDate) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The first day.
    pub fn start(self) -> NaiveDate {
        self.start
    }

    /// The first day that is no longer among them.
    pub fn end(self) -> NaiveDate {
        self.end
    }

    /// The last day.
    pub fn last(self) -> NaiveDate {
        self.end.pred_opt().expect("a day lies after the start")
    }

    /// How many days.
    pub fn count(self) -> u32 {
        u32::try_from(self.end.signed_duration_since(self.start).num_days()).expect("a calendar has fewer days")
    }

    /// Whether the day is among them.
    pub fn contains(self, day: NaiveDate) -> bool {
        self.start <= day && day < self.end
    }

    /// Whether all of the other days are among them.
    pub fn contains_all(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The days in both.
    pub fn meet(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The days in both, of a range that may have no end.
    pub fn meet_open(self, start: NaiveDate, end: Option<NaiveDate>) -> Option<Self> {
        Self::new(self.start.max(start), end.map_or(self.end, |end| self.end.min(end)))
    }

    /// The parts these days fall into at the given days, each of which begins a new part if it lies inside.
    pub fn split_at(self, cuts: impl IntoIterator<Item = NaiveDate>) -> Vec<Self> {
        let mut bounds: Vec<NaiveDate> = cuts.into_iter().filter(|cut| self.start < *cut && *cut < self.end).collect();
        bounds.extend([self.start, self.end]);
        bounds.sort_unstable();
        bounds.dedup();
        bounds.windows(2).filter_map(|pair| Self::new(pair[0], pair[1])).collect()
    }
}

impl From<Days> for Bounds {
    fn from(days: Days) -> Self {
        Self { start: days.start, end: days.end }
    }
}

impl TryFrom<Bounds> for Days {
    type Error = &'static str;

    fn try_from(bounds: Bounds) -> Result<Self, Self::Error> {
        Self::new(bounds.start, bounds.end).ok_or("the end of a range of days lies after its start")
    }
}

/// Writes the first and the last day: `2026-10-01 to 2026-10-31`.
impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.start, self.last())
    }
}

impl fmt::Debug for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The UTC day this instant lies in.
pub fn day_of(instant: Timestamp) -> NaiveDate {
    chrono::DateTime::<chrono::Utc>::from(instant).date_naive()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(start: &str, end: &str) -> Days {
        Days::new(start.parse().unwrap(), end.parse().unwrap()).unwrap()
    }

    #[test]
    fn days_are_half_open_and_never_none() {
        let october = days("2026-10-01", "2026-11-01");
        assert_eq!((october.count(), october.to_string().as_str()), (31, "2026-10-01 to 2026-10-31"));
        assert!(october.contains("2026-10-31".parse().unwrap()) && !october.contains("2026-11-01".parse().unwrap()));
        assert_eq!(Days::new(october.start(), october.start()), None);
        assert_eq!(october.meet(days("2026-11-01", "2026-12-01")), None);
        assert_eq!(october.meet(days("2026-10-20", "2026-12-01")), Some(days("2026-10-20", "2026-11-01")));
        assert_eq!(october.meet_open("2026-10-31".parse().unwrap(), None), Some(days("2026-10-31", "2026-11-01")));
    }

    #[test]
    fn days_fall_into_parts_at_the_cuts_inside_them() {
        let cuts = ["2026-10-16", "2026-10-01", "2026-11-01", "2026-10-16", "2026-10-02"];
        let parts = days("2026-10-01", "2026-11-01").split_at(cuts.map(|cut| cut.parse().unwrap()));
        assert_eq!(
            parts,
            [days("2026-10-01", "2026-10-02"), days("2026-10-02", "2026-10-16"), days("2026-10-16", "2026-11-01")]
        );
    }
}
