//! What is closed at once: a calendar month in UTC.

use std::fmt;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, Utc};
use ingest::{Hour, Timestamp};
use thiserror::Error;

/// One calendar month `[start, end)` in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    first_day: NaiveDate,
}

/// The text names no month.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a month: expected a form such as 2026-10")]
pub struct NotAPeriod;

impl Period {
    /// The month of this number, 1 to 12, of the years 1970 to 9998.
    pub fn new(year: i32, month: u32) -> Option<Self> {
        let first_day = NaiveDate::from_ymd_opt(year, month, 1).filter(|_| (1970..=9998).contains(&year))?;
        Some(Self { first_day })
    }

    /// Reads `2026-10`.
    pub fn parse(text: &str) -> Result<Self, NotAPeriod> {
        let is_form = text.len() == 7
            && text.bytes().enumerate().all(|(at, byte)| if at == 4 { byte == b'-' } else { byte.is_ascii_digit() });
        let number = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse().ok());
        let read = || Self::new(i32::try_from(number(0..4)?).ok()?, number(5..7)?);
        if is_form { read().ok_or(NotAPeriod) } else { Err(NotAPeriod) }
    }

    /// Its first day.
    pub fn first_day(self) -> NaiveDate {
        self.first_day
    }

    /// The first day that is no longer in it.
    pub fn end_day(self) -> NaiveDate {
        self.first_day.checked_add_months(Months::new(1)).expect("the year after 9998 exists")
    }

    /// Its first instant.
    pub fn start(self) -> Timestamp {
        midnight(self.first_day)
    }

    /// The first instant after it.
    pub fn end(self) -> Timestamp {
        midnight(self.end_day())
    }

    /// Whether an hour is in it.
    pub fn has(self, hour: Hour) -> bool {
        self.start() <= hour.start() && hour.start() < self.end()
    }
}

fn midnight(day: NaiveDate) -> Timestamp {
    DateTime::<Utc>::from_naive_utc_and_offset(day.and_time(NaiveTime::MIN), Utc).into()
}

/// Writes `2026-10`.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first_day.year(), self.first_day.month())
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_half_open_and_written_as_it_is_read() {
        let period = Period::parse("2026-12").unwrap();
        assert_eq!(
            (period.start().to_string(), period.end().to_string()),
            ("2026-12-01T00:00:00Z".to_owned(), "2027-01-01T00:00:00Z".to_owned())
        );
        assert_eq!(period.to_string(), "2026-12");
        assert!(period.has(Hour::parse_key("2026-12-31T23").unwrap()));
        assert!(!period.has(Hour::parse_key("2027-01-01T00").unwrap()));
        for bad in ["", "2026-13", "2026-00", "2026-1", "2026/10", "+026-10", "2026-10-01", "1969-12"] {
            assert_eq!(Period::parse(bad), Err(NotAPeriod), "{bad}");
        }
    }
}
