//! Instants and hours in UTC. Nothing here reads a clock.

use std::fmt;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use thiserror::Error;

const MICROS_PER_HOUR: i64 = 3_600_000_000;
const HOURS_PER_DAY: i64 = 24;

/// One UTC instant, in microseconds since 1970-01-01T00:00:00Z; years 1 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text names no single UTC instant.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not an instant: expected RFC 3339 such as 2026-10-01T12:00:00Z")]
pub struct NotAnInstant;

impl Timestamp {
    /// The first instant that can be written.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// The last microsecond of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// The instant so many microseconds after 1970; `None` outside the years 1 to 9999.
    pub fn from_micros(micros: i64) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&micros).then_some(Self(micros))
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 with any offset; a space may stand for the `T` (RFC 3339 section 5.6).
    pub fn parse_rfc3339(text: &str) -> Result<Self, NotAnInstant> {
        let instant = DateTime::parse_from_rfc3339(text).map_err(|_| NotAnInstant)?;
        Self::from_micros(instant.timestamp_micros()).ok_or(NotAnInstant)
    }

    /// Reads a time whose source declares it to be UTC: RFC 3339, or the same without an offset.
    pub fn parse_declared_utc(text: &str) -> Result<Self, NotAnInstant> {
        Self::parse_rfc3339(text).or_else(|_| Self::parse_rfc3339(&format!("{text}Z")))
    }

    /// The hour this instant lies in.
    pub fn hour(self) -> Hour {
        Hour(self.0.div_euclid(MICROS_PER_HOUR))
    }

    /// The UTC day this instant lies in.
    pub fn day(self) -> Day {
        self.hour().day()
    }

    /// This instant plus whole seconds; stops at the first and last instant.
    pub fn saturating_add_secs(self, seconds: i64) -> Self {
        let micros = seconds.saturating_mul(1_000_000);
        Self(self.0.saturating_add(micros).clamp(Self::MIN.0, Self::MAX.0))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(instant: DateTime<Utc>) -> Self {
        Self(instant.timestamp_micros().clamp(Self::MIN.0, Self::MAX.0))
    }
}

/// Such as a file's modification time; what no year of four digits holds stops at the first and last instant.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        };
        Self(micros.clamp(Self::MIN.0, Self::MAX.0))
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(instant: Timestamp) -> Self {
        DateTime::from_timestamp_micros(instant.0).expect("years 1 to 9999 fit chrono")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&DateTime::<Utc>::from(*self).to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One UTC hour `[start, start + 1 h)`; the window of every count. Stored as whole hours since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(i64);

impl Hour {
    /// The hour that begins so many hours after 1970-01-01T00:00:00Z; `None` outside the years 1 to 9999.
    pub fn from_number(hours: i64) -> Option<Self> {
        Timestamp::from_micros(hours.checked_mul(MICROS_PER_HOUR)?).map(Timestamp::hour)
    }

    /// Whole hours since 1970-01-01T00:00:00Z.
    pub fn number(self) -> i64 {
        self.0
    }

    /// The hour's first instant.
    pub fn start(self) -> Timestamp {
        Timestamp(self.0 * MICROS_PER_HOUR)
    }

    /// The UTC day it lies in.
    pub fn day(self) -> Day {
        Day(self.0.div_euclid(HOURS_PER_DAY))
    }

    /// Reads `2026-10-01T13`, the form used in keys.
    pub fn parse_key(text: &str) -> Result<Self, NotAnInstant> {
        if text.len() != 13 {
            return Err(NotAnInstant);
        }
        Timestamp::parse_rfc3339(&format!("{text}:00:00Z")).map(Timestamp::hour)
    }
}

/// Writes `2026-10-01T13`, the form used in keys.
impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", DateTime::<Utc>::from(self.start()).format("%Y-%m-%dT%H"))
    }
}

impl fmt::Debug for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One UTC day `[start, start + 24 h)`; the window of every partition of facts. Stored as whole days since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// Whole days since 1970-01-01.
    pub fn number(self) -> i64 {
        self.0
    }

    /// The day's first instant.
    pub fn start(self) -> Timestamp {
        Timestamp(self.0 * HOURS_PER_DAY * MICROS_PER_HOUR)
    }

    /// Reads `2026-10-01`, the form used in keys.
    pub fn parse_key(text: &str) -> Result<Self, NotAnInstant> {
        if text.len() != 10 {
            return Err(NotAnInstant);
        }
        Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")).map(Timestamp::day)
    }
}

/// Writes `2026-10-01`, the form used in keys.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", DateTime::<Utc>::from(self.start()).format("%Y-%m-%d"))
    }
}

impl fmt::Debug for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The tumbling window of a log partition: counts by the hour, facts by the day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// Of counts.
    Hour(Hour),
    /// Of facts.
    Day(Day),
}

impl Window {
    /// Its first instant.
    pub fn start(self) -> Timestamp {
        match self {
            Self::Hour(hour) => hour.start(),
            Self::Day(day) => day.start(),
        }
    }

    /// Reads `2026-10-01T13` or `2026-10-01`, the forms used in keys.
    pub fn parse_key(text: &str) -> Result<Self, NotAnInstant> {
        Hour::parse_key(text).map(Self::Hour).or_else(|_| Day::parse_key(text).map(Self::Day))
    }
}

/// Writes `2026-10-01T13` or `2026-10-01`, the forms used in keys.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour(hour) => fmt::Display::fmt(hour, f),
            Self::Day(day) => fmt::Display::fmt(day, f),
        }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_instant_is_in_one_hour_and_one_day_and_their_keys_name_them(
            micros in Timestamp::MIN.micros()..=Timestamp::MAX.micros() - 86_400_000_000,
        ) {
            let at = Timestamp::from_micros(micros).unwrap();
            let (hour, day) = (at.hour(), at.day());
            for (start, seconds) in [(hour.start(), 3_600), (day.start(), 86_400)] {
                proptest::prop_assert!(start <= at && at < start.saturating_add_secs(seconds), "{} {}", start, at);
            }
            proptest::prop_assert_eq!(hour.day(), day);
            for window in [Window::Hour(hour), Window::Day(day)] {
                proptest::prop_assert_eq!(Window::parse_key(&window.to_string()), Ok(window));
            }
            proptest::prop_assert_eq!(Timestamp::parse_rfc3339(&at.to_string()), Ok(at));
        }
    }

    #[test]
    fn every_written_form_of_an_instant_is_read_and_nothing_else() {
        let noon = Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap();
        for same in [
            "2026-10-01T12:00:00Z",
            "2026-10-01T14:00:00+02:00",
            "2026-10-01 12:00:00",
            "2026-10-01T12:00:00",
            "2026-10-01 12:00:00.000000000",
            "2026-10-01T12:00:00.000Z",
            "2026-10-01 12:00:00Z",
        ] {
            assert_eq!(Timestamp::parse_declared_utc(same), Ok(noon), "{same}");
        }
        for bad in [
            "",
            "eventTime",
            "<string>",
            "...",
            "2026-10-01",
            "2026-13-01T00:00:00Z",
            "2026-10-01T25:00:00Z",
            "12026-10-01T12:00:00Z",
            "1790856000",
            "2026-02-30T00:00:00Z",
            "2026-10-01T12:00:0",
            "2026-10-1T12:00:00",
            "+2026-10-01T12:00:00",
            " 2026-10-01T12:00:00",
            "2026-10-01T12:00:00 ",
            "2026-10-01  12:00:00",
            "2026-10-01T12:00:00.",
            "2026-10-01T12:00:00+",
            "2026-10-01T12:00:00+0200",
        ] {
            assert_eq!(Timestamp::parse_declared_utc(bad), Err(NotAnInstant), "{bad}");
        }
        assert!(
            Timestamp::parse_rfc3339("2026-10-01T12:00:00").is_err(),
            "without an offset it is no instant by itself"
        );
    }

    #[test]
    fn an_hour_is_half_open_also_before_1970() {
        let at = |text| Timestamp::parse_rfc3339(text).unwrap();
        assert_eq!(at("2023-07-10T11:59:59.999999Z").hour().start(), at("2023-07-10T11:00:00Z"));
        assert_eq!(at("2023-07-10T12:00:00Z").hour().to_string(), "2023-07-10T12");
        assert_eq!(at("1969-12-31T23:30:00Z").hour().start(), at("1969-12-31T23:00:00Z"));
        assert_eq!(Hour::parse_key("2023-07-10T12"), Ok(at("2023-07-10T12:10:00Z").hour()));
        assert!(Hour::parse_key("2023-07-10").is_err());
    }

    #[test]
    fn a_day_is_half_open_also_before_1970_and_a_window_is_one_or_the_other() {
        let at = |text| Timestamp::parse_rfc3339(text).unwrap();
        assert_eq!(at("2023-07-10T23:59:59.999999Z").day().to_string(), "2023-07-10");
        assert_eq!(at("1969-12-31T23:30:00Z").day().start(), at("1969-12-31T00:00:00Z"));
        assert_eq!(at("0001-01-01T00:00:00Z").day().start(), Timestamp::MIN);
        for key in ["2026-10-01", "2026-10-01T13"] {
            assert_eq!(Window::parse_key(key).unwrap().to_string(), key);
        }
        for bad in ["", "2026-10", "2026-10-1", "2026-13-01", "2026-10-01T", "2026-10-01T13:00"] {
            assert!(Window::parse_key(bad).is_err(), "{bad}");
        }
    }
}
