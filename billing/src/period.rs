//! The billing period: one calendar month in UTC.

use std::fmt;

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use ingest::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::days::Days;

const SECONDS_PER_DAY: i64 = 86_400;

/// One calendar month `[start, end)` in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    first_day: NaiveDate,
}

/// The text names no month.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a month: expected a form such as 2026-10, of the years 1970 to 9998")]
pub struct NotAMonth;

impl Month {
    /// The month with this number, 1 to 12, of the years 1970 to 9998.
    pub fn new(year: i32, month: u32) -> Option<Self> {
        if !(1970..=9998).contains(&year) {
            return None;
        }
        NaiveDate::from_ymd_opt(year, month, 1).map(|first_day| Self { first_day })
    }

    /// Reads `2026-10`.
    pub fn parse(text: &str) -> Result<Self, NotAMonth> {
        let (year, month) = match text.as_bytes() {
            [y @ .., b'-', m1, m2] if y.len() == 4 && y.iter().chain([m1, m2]).all(u8::is_ascii_digit) => {
                (&text[..4], &text[5..])
            }
            _ => return Err(NotAMonth),
        };
        let year = year.parse().map_err(|_| NotAMonth)?;
        Self::new(year, month.parse().map_err(|_| NotAMonth)?).ok_or(NotAMonth)
    }

    /// The month this instant lies in; `None` outside the years 1970 to 9998.
    pub fn containing(instant: Timestamp) -> Option<Self> {
        let day = DateTime::<Utc>::from(instant).date_naive();
        Self::new(day.year(), day.month())
    }

    /// The month that begins on this day; `None` for another day of a month.
    pub fn beginning(first_day: NaiveDate) -> Option<Self> {
        if first_day.day() == 1 { Self::new(first_day.year(), first_day.month()) } else { None }
    }

    /// The month before.
    pub fn previous(self) -> Option<Self> {
        Self::beginning(self.first_day.checked_sub_months(Months::new(1))?)
    }

    /// The month's first day.
    pub fn first_day(self) -> NaiveDate {
        self.first_day
    }

    /// The first day of the next month, which is no longer in this one.
    pub fn end_day(self) -> NaiveDate {
        self.first_day.checked_add_months(Months::new(1)).expect("the year after 9998 exists")
    }

    /// The month's first instant.
    pub fn start(self) -> Timestamp {
        midnight(self.first_day)
    }

    /// The first instant after the month.
    pub fn end(self) -> Timestamp {
        midnight(self.end_day())
    }

    /// How many days the month has.
    pub fn days(self) -> u32 {
        self.first_day.num_days_in_month().into()
    }

    /// How many seconds the month has. UTC here has no leap seconds, as in the time stamps of AWS.
    pub fn seconds(self) -> i64 {
        i64::from(self.days()) * SECONDS_PER_DAY
    }

    /// The month's days.
    pub fn all_days(self) -> Days {
        Days::new(self.first_day, self.end_day()).expect("a month has days")
    }

    /// How many of the month's days lie before this one: 0 before the month, [`Month::days`] after it.
    pub fn days_before(self, day: NaiveDate) -> u32 {
        let before = day.signed_duration_since(self.first_day).num_days().clamp(0, i64::from(self.days()));
        u32::try_from(before).expect("clamped to the days of a month")
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn midnight(day: NaiveDate) -> Timestamp {
    day.and_time(chrono::NaiveTime::MIN).and_utc().into()
}

/// The end of the day that lies so many days after this instant's day, in UTC: when an invoice is due.
pub fn end_of_day_after(instant: Timestamp, days: u64) -> Option<Timestamp> {
    let day = DateTime::<Utc>::from(instant).date_naive().checked_add_days(chrono::Days::new(days + 1))?;
    Timestamp::from_micros(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
        .map(|next| next.saturating_add_secs(-1))
}

/// Writes `2026-10`.
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first_day.year(), self.first_day.month())
    }
}

impl fmt::Debug for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn a_month_is_half_open_in_utc() {
        for (text, start, end, days) in [
            ("2026-10", "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z", 31),
            ("2026-12", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", 31),
            ("2024-02", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z", 29),
            ("2100-02", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z", 28),
        ] {
            let month = Month::parse(text).unwrap();
            assert_eq!((month.start(), month.end(), month.days()), (at(start), at(end), days));
            assert_eq!(month.end().micros() - month.start().micros(), month.seconds() * 1_000_000);
            assert_eq!(month.to_string(), text);
        }
        assert_eq!(Month::containing(at("2026-10-31T23:59:59.999999Z")), Month::new(2026, 10));
        assert_eq!(Month::containing(at("2026-11-01T00:00:00Z")), Month::new(2026, 11));
    }

    #[test]
    fn only_a_year_and_a_month_name_a_month() {
        for bad in [
            "",
            "2026",
            "2026-1",
            "2026-13",
            "2026-00",
            "26-10",
            "2026-10-01",
            "1969-12",
            "9999-01",
            "2026/10",
            "２０26-10",
        ] {
            assert_eq!(Month::parse(bad), Err(NotAMonth), "{bad:?}");
        }
    }

    #[test]
    fn days_before_a_day_are_the_months_own() {
        let month = Month::parse("2026-10").unwrap();
        for (day, days) in [
            ("2026-09-30", 0),
            ("2026-10-01", 0),
            ("2026-10-15", 14),
            ("2026-10-31", 30),
            ("2026-11-01", 31),
            ("2027-05-05", 31),
        ] {
            assert_eq!(month.days_before(day.parse().unwrap()), days, "{day}");
        }
        assert_eq!(month.all_days().count(), 31);
    }

    #[test]
    fn an_invoice_is_due_at_the_end_of_a_day() {
        assert_eq!(end_of_day_after(at("2026-11-01T00:00:00Z"), 30), Some(at("2026-12-01T23:59:59Z")));
        assert_eq!(end_of_day_after(at("2026-11-01T23:59:59Z"), 30), Some(at("2026-12-01T23:59:59Z")));
        assert_eq!(end_of_day_after(Timestamp::MAX, 30), None);
    }
}
