//! What the lines of an invoice bill, against what was used on their days.

use std::collections::BTreeMap;

use reference::{Line, Number, time};
use serde_json::Value;

/// How the hours of a line's days become what it bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bills {
    /// All of them together.
    Sum,
    /// The highest hour, all accounts together.
    HighestHour,
}

/// A line of usage, as the invoice's document says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BilledLine {
    meter: String,
    /// Half-open, in microseconds since 1970; `None` where the document does not say it: the whole period.
    days: Option<(i64, i64)>,
    bills: Bills,
    /// In raw units.
    raw: Number,
    words: String,
}

/// A line that bills something else than was used, or usage that no line bills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misbilled {
    pub(crate) meter: String,
    /// On which days, or which hour of them.
    pub(crate) when: String,
    pub(crate) billed: Number,
    pub(crate) used: Number,
}

impl BilledLine {
    /// The lines of usage of an invoice's document; those that do not say what they bill in raw units are left out, unless they
    /// are of a meter that counts, whose quantity is.
    pub(crate) fn all(lines: &[Value], is_counted: impl Fn(&str) -> bool) -> Vec<Self> {
        let line = |line: &Value| {
            let meter = line["meter"].as_str()?;
            let raw = line["quantity_raw"].as_str().or_else(|| line["quantity"].as_str().filter(|_| is_counted(meter)));
            let day = |name: &str| line["days"][name].as_str();
            let days = day("start").zip(day("end"));
            let is_peak = line["aggregation"] == "peak";
            Some(Self {
                meter: meter.to_owned(),
                days: days.and_then(|(start, end)| midnight(start).zip(midnight(end))),
                bills: if is_peak { Bills::HighestHour } else { Bills::Sum },
                raw: Number::read_sum(raw?)?,
                words: match (days, is_peak) {
                    (None, false) => String::new(),
                    (None, true) => "the highest hour".to_owned(),
                    (Some((start, end)), false) => format!("{start} to before {end}"),
                    (Some((start, end)), true) => format!("the highest hour from {start} to before {end}"),
                },
            })
        };
        lines.iter().filter_map(line).collect()
    }

    fn has(&self, hour: i64) -> bool {
        self.days.is_none_or(|(start, end)| start <= hour && hour < end)
    }
}

fn midnight(day: &str) -> Option<i64> {
    time::instant(&format!("{day}T00:00:00Z"))
}

/// Every difference between lines and what was used, by account and hour. Usage of meters without a line is priced nowhere.
pub(crate) fn misbilled<'a>(
    lines: &[BilledLine],
    used: impl IntoIterator<Item = (&'a Line, &'a Number)>,
) -> Vec<Misbilled> {
    let mut hours = BTreeMap::<&str, BTreeMap<i64, Number>>::new();
    for (line, total) in used {
        let Some(hour) = time::hour_start(&line.hour) else { continue };
        *hours.entry(&line.meter).or_default().entry(hour).or_default() += total;
    }
    let nothing = BTreeMap::new();
    let mut found = Vec::new();
    for line in lines {
        let of_days = hours.get(line.meter.as_str()).unwrap_or(&nothing).iter();
        let of_days = of_days.filter(|(hour, _)| line.has(**hour)).map(|(_, total)| total);
        let used = match line.bills {
            Bills::Sum => sum(of_days),
            Bills::HighestHour => of_days.fold(Number::default(), |highest, total| highest.max(total.clone())),
        };
        if line.raw != used {
            let (meter, when) = (line.meter.clone(), line.words.clone());
            found.push(Misbilled { meter, when, billed: line.raw.clone(), used });
        }
    }
    for (meter, hours) in hours {
        let of_meter: Vec<&BilledLine> = lines.iter().filter(|line| line.meter == meter).collect();
        let is_billed = |hour: i64| of_meter.iter().any(|line| line.has(hour));
        let unbilled = sum(hours.iter().filter(|(hour, _)| !is_billed(**hour)).map(|(_, total)| total));
        if !of_meter.is_empty() && !unbilled.is_zero() {
            let when = "days without a line".to_owned();
            found.push(Misbilled { meter: meter.to_owned(), when, billed: Number::default(), used: unbilled });
        }
    }
    found
}

fn sum<'a>(totals: impl Iterator<Item = &'a Number>) -> Number {
    totals.fold(Number::default(), |mut sum, total| {
        sum += total;
        sum
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn usage(hours: &[(&str, &str, &str, u64)]) -> BTreeMap<Line, Number> {
        let line = |(meter, account, hour, total): &(&str, &str, &str, u64)| {
            let line = Line { meter: (*meter).into(), account: (*account).into(), hour: (*hour).into() };
            (line, Number::whole(*total))
        };
        hours.iter().map(line).collect()
    }

    fn line(meter: &str, aggregation: &str, days: Option<(&str, &str)>, raw: &str) -> Value {
        let days = days.map(|(start, end)| json!({ "start": start, "end": end }));
        json!({ "meter": meter, "aggregation": aggregation, "days": days, "quantity_raw": raw })
    }

    fn check(lines: &[Value], expected: &[(&str, &str, &str)]) {
        let used = usage(&[
            ("seats", "1", "2026-10-01T05", 7),
            ("seats", "2", "2026-10-01T05", 5),
            ("seats", "1", "2026-10-01T06", 9),
            ("seats", "1", "2026-10-20T00", 10),
            ("bytes", "1", "2026-10-02T00", 100),
            ("unpriced", "1", "2026-10-02T00", 100),
        ]);
        let lines = BilledLine::all(lines, |_| false);
        let found = misbilled(&lines, &used);
        let said: Vec<(String, String, String)> = found
            .iter()
            .map(|one| (format!("{} {}", one.meter, one.when), one.billed.to_string(), one.used.to_string()))
            .collect();
        let said: Vec<(&str, &str, &str)> = said.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_highest_hour_is_of_all_accounts_together_and_of_its_own_days() {
        let october = Some(("2026-10-01", "2026-11-01"));
        let halves = [Some(("2026-10-01", "2026-10-16")), Some(("2026-10-16", "2026-11-01"))];
        let bytes = line("bytes", "sum", october, "100");
        check(&[line("seats", "peak", october, "12"), bytes.clone()], &[]);
        check(&[line("seats", "peak", None, "12.0"), bytes.clone()], &[]);
        check(&[line("seats", "peak", halves[0], "12"), line("seats", "peak", halves[1], "10"), bytes.clone()], &[]);
        // The sum, the highest of one account, and the highest of other days are none of them.
        for wrong in ["31", "9", "10"] {
            let said = "seats the highest hour from 2026-10-01 to before 2026-11-01";
            check(&[line("seats", "peak", october, wrong), bytes.clone()], &[(said, wrong, "12")]);
        }
        let said = "seats the highest hour from 2026-10-16 to before 2026-11-01";
        check(
            &[line("seats", "peak", halves[0], "12"), line("seats", "peak", halves[1], "12"), bytes],
            &[(said, "12", "10")],
        );
    }

    #[test]
    fn a_sum_is_of_its_own_days_and_what_no_line_bills_is_named() {
        let (first, rest) = (Some(("2026-10-01", "2026-10-02")), Some(("2026-10-02", "2026-11-01")));
        check(&[line("seats", "sum", first, "21"), line("seats", "sum", rest, "10")], &[]);
        check(
            &[line("seats", "sum", first, "10"), line("seats", "sum", rest, "21")],
            &[
                ("seats 2026-10-01 to before 2026-10-02", "10", "21"),
                ("seats 2026-10-02 to before 2026-11-01", "21", "10"),
            ],
        );
        check(&[line("seats", "sum", first, "21")], &[("seats days without a line", "0", "10")]);
        check(&[line("nothing", "sum", None, "1")], &[("nothing ", "1", "0")]);
    }
}
