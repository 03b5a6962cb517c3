//! Instants as microseconds since 1970 in UTC, read from text by hand.

/// Microseconds in an hour.
pub const HOUR: i64 = 3_600_000_000;

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar: years counted one by one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 =
        if 1970 <= year { (1970..year).map(days_in_year).sum() } else { -(year..1970).map(days_in_year).sum::<i64>() };
    years + (1..month).map(|month| days_in_month(year, month)).sum::<i64>() + day - 1
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// RFC 3339 with any offset, or without one, which then is UTC; `T` or a space. `None` if it is no instant of the years 1
/// to 9999.
pub fn instant(text: &str) -> Option<i64> {
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let digits = |text: &str| -> Option<i64> {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let (year, month, day) = (digits(date.get(..4)?)?, digits(date.get(5..7)?)?, digits(date.get(8..)?)?);
    if date.get(4..5)? != "-" || date.get(7..8)? != "-" || !matches!(rest.get(..1)?, "T" | "t" | " ") {
        return None;
    }
    let clock = rest.get(1..9)?;
    let (hour, minute, second) = (digits(clock.get(..2)?)?, digits(clock.get(3..5)?)?, digits(clock.get(6..)?)?);
    if clock.get(2..3)? != ":" || clock.get(5..6)? != ":" {
        return None;
    }
    let mut rest = rest.get(9..)?;
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return None;
        }
        let (fraction, behind) = fraction.split_at(length);
        micros = digits(&format!("{fraction:0<6}")[..6])?;
        rest = behind;
    }
    let offset = match rest {
        "" | "Z" | "z" => 0,
        _ => {
            let (sign, offset) = rest.split_at_checked(1)?;
            let sign = match sign {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            if offset.len() != 5 || offset.get(2..3)? != ":" {
                return None;
            }
            let (hours, minutes) = (digits(offset.get(..2)?)?, digits(offset.get(3..)?)?);
            if 23 < hours || 59 < minutes {
                return None;
            }
            sign * (hours * 60 + minutes) * 60
        }
    };
    // A leap second (RFC 3339 section 5.7) is the first of the next minute.
    let is_date = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if !is_date || 23 < hour || 59 < minute || 60 < second {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second - offset;
    let instant = seconds * 1_000_000 + micros;
    (first()..=last()).contains(&instant).then_some(instant)
}

fn first() -> i64 {
    days(1, 1, 1) * 24 * HOUR
}

fn last() -> i64 {
    days(10_000, 1, 1) * 24 * HOUR - 1
}

/// The hour an instant lies in, as `2026-10-01T13`.
pub fn hour(instant: i64) -> String {
    let hour = instant.rem_euclid(24 * HOUR) / HOUR;
    format!("{}T{hour:02}", date(instant))
}

/// The UTC day an instant lies in, as `2026-10-01`.
pub fn date(instant: i64) -> String {
    let mut day = instant.div_euclid(24 * HOUR);
    let (mut year, mut month) = (1970, 1);
    while day < 0 {
        year -= 1;
        day += days_in_year(year);
    }
    while days_in_year(year) <= day {
        day -= days_in_year(year);
        year += 1;
    }
    while days_in_month(year, month) <= day {
        day -= days_in_month(year, month);
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", day + 1)
}

/// RFC 3339 with no more fraction than it has, in steps of three digits.
pub fn written(instant: i64) -> String {
    let micros = instant.rem_euclid(1_000_000);
    let second = instant.rem_euclid(HOUR) / 1_000_000;
    let fraction = match (micros, micros % 1000) {
        (0, _) => String::new(),
        (_, 0) => format!(".{:03}", micros / 1000),
        _ => format!(".{micros:06}"),
    };
    format!("{}:{:02}:{:02}{fraction}Z", hour(instant), second / 60, second % 60)
}

/// The first instant of an hour written as `2026-10-01T13`.
pub fn hour_start(hour: &str) -> Option<i64> {
    if hour.len() == 13 { instant(&format!("{hour}:00:00Z")) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_and_hours_written() {
        for (text, of_hour) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00"),
            ("2026-10-01T12:59:59.999999Z", "2026-10-01T12"),
            ("2026-10-01T01:30:00+02:00", "2026-09-30T23"),
            ("2024-02-29 23:59:60", "2024-03-01T00"),
            ("1969-12-31t23:30:00z", "1969-12-31T23"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00"),
            ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23"),
        ] {
            assert_eq!(instant(text).map(hour).as_deref(), Some(of_hour), "{text}");
        }
        for bad in [
            "",
            "2026-10-01",
            "2026-02-30T00:00:00Z",
            "2026-10-01T24:00:00Z",
            "2026-10-01T12:00:00+0200",
            "0001-01-01T00:00:00+01:00",
        ] {
            assert_eq!(instant(bad), None, "{bad}");
        }
        for (text, again) in [
            ("2026-10-01T01:30:05+02:00", "2026-09-30T23:30:05Z"),
            ("2026-10-01T01:30:05.1200Z", "2026-10-01T01:30:05.120Z"),
            ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(instant(text).map(written).as_deref(), Some(again));
        }
        assert_eq!(hour_start("2026-10-01T13"), instant("2026-10-01T13:00:00Z"));
    }
}
