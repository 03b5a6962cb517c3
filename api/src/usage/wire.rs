//! The parameters of `GET /v1/usage`.

use chrono::{DateTime, Datelike, TimeZone, Utc};
use ingest::{Meter, Timestamp};

use super::{GroupKey, Grouping, RangeError, UsageCursor, UsageError, UsageQuery};
use crate::parameters::Parameters;
use crate::problem::{Problem, shortened};
use crate::tenant::TenantError;

const KNOWN: [&str; 6] = ["meter", "from", "to", "group_by", "limit", "cursor"];

/// The longest range of one question.
const SPAN_DAYS_MAX: i64 = 400;

const ROWS_MAX: u32 = 10_000;
const ROWS_DEFAULT: u32 = 1_000;

const HOUR_SECS: i64 = 3_600;

/// Reads the question. Without `to` it ends with the running hour; without `from` it begins with the UTC month of its
/// last hour; a cursor brings the range of the question it belongs to.
pub(crate) fn read(parameters: &Parameters, now: Timestamp) -> Result<UsageQuery, Problem> {
    parameters.only(&KNOWN)?;
    let meter = parameters.read("meter", read_meter)?.ok_or_else(|| {
        Problem::parameter("meter", format!("query parameter `meter` is missing; give one of {}", meters()))
    })?;
    let grouping = parameters.read("group_by", read_grouping)?.unwrap_or_default();
    let cursor = parameters.read("cursor", |text| UsageCursor::parse(text).map_err(|error| error.to_string()))?;
    let from = parameters.read("from", read_instant)?;
    let to = parameters.read("to", read_instant)?;
    let limit = parameters.read_limit(ROWS_MAX, ROWS_DEFAULT)?;

    let (from, to) = match &cursor {
        Some(cursor) => {
            let (first, end) = cursor.range().ok_or_else(foreign_cursor)?;
            let is_same = from.is_none_or(|from| from == first)
                && to.is_none_or(|to| to == end)
                && cursor.meter == meter.as_str()
                && cursor.grouping == grouping;
            if !is_same {
                return Err(foreign_cursor());
            }
            (first, end)
        }
        None => {
            let to = to.unwrap_or_else(|| now.hour().start().saturating_add_secs(HOUR_SECS));
            (from.unwrap_or_else(|| month_of(to.saturating_add_secs(-HOUR_SECS))), to)
        }
    };
    let query = UsageQuery::new(meter, from, to, grouping).map_err(|error| match error {
        RangeError::FromWithinHour => Problem::parameter("from", error.to_string()),
        RangeError::ToWithinHour | RangeError::Empty => Problem::parameter("to", error.to_string()),
    })?;
    if from.saturating_add_secs(SPAN_DAYS_MAX * 24 * HOUR_SECS) < to {
        let detail = format!("from `from` to `to` are at most {SPAN_DAYS_MAX} days; ask for a shorter range");
        return Err(Problem::parameter("from", detail));
    }
    Ok(query.page(limit, cursor))
}

fn foreign_cursor() -> Problem {
    let detail = "query parameter `cursor` belongs to another question; \
                  repeat every other parameter as it was, or leave `cursor` out";
    Problem::parameter("cursor", detail)
}

fn meters() -> String {
    Meter::PRICED.map(Meter::as_str).join(", ")
}

fn unknown_meter(name: &str) -> String {
    format!("unknown meter `{}`; the meters are {}", shortened(name), meters())
}

fn read_meter(name: &str) -> Result<Meter, String> {
    // Meters that are data are looked up with the usage.
    Meter::parse_stored(name).map_err(|_| unknown_meter(name))
}

fn read_grouping(text: &str) -> Result<Grouping, String> {
    let grouping = Grouping::parse(text).map_err(|error| error.to_string())?;
    if grouping.keys().contains(&GroupKey::Customer) {
        return Err(
            "a key sees one customer only; the keys are account, region, category and one of hour, day, month".into()
        );
    }
    Ok(grouping)
}

fn read_instant(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text)
        .map_err(|_| "expected an instant such as 2026-10-01T00:00:00Z; write a `+` of an offset as %2B".into())
}

/// The first instant of the UTC month.
fn month_of(instant: Timestamp) -> Timestamp {
    let instant = DateTime::<Utc>::from(instant);
    Utc.with_ymd_and_hms(instant.year(), instant.month(), 1, 0, 0, 0).earliest().map_or(Timestamp::MIN, Into::into)
}

impl From<UsageError> for Problem {
    fn from(error: UsageError) -> Self {
        match error {
            UsageError::BadCursor => foreign_cursor(),
            UsageError::UnknownMeter(name) => Problem::parameter("meter", unknown_meter(&name)),
            UsageError::Database(error) => TenantError::from(error).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;
    use axum::http::Request;

    use super::*;

    async fn read_at(query: &str, now: &str) -> Result<UsageQuery, Problem> {
        let (mut parts, ()) = Request::get(format!("/v1/usage?{query}")).body(()).unwrap().into_parts();
        let parameters = Parameters::from_request_parts(&mut parts, &()).await.unwrap();
        read(&parameters, Timestamp::parse_rfc3339(now).unwrap())
    }

    #[tokio::test]
    async fn without_a_range_the_question_is_about_the_running_month() {
        for (query, now, from, to) in [
            ("", "2026-10-15T13:59:59.999999Z", "2026-10-01T00:00:00Z", "2026-10-15T14:00:00Z"),
            ("", "2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z"),
            ("", "2026-10-31T23:00:00Z", "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("&to=2026-11-01T00:00:00Z", "2026-12-24T08:00:00Z", "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("&from=2026-12-01T00:00:00Z", "2026-12-24T08:00:00Z", "2026-12-01T00:00:00Z", "2026-12-24T09:00:00Z"),
        ] {
            let question = read_at(&format!("meter=cloudtrail_events{query}"), now).await.unwrap();
            assert_eq!(
                (question.from.to_string().as_str(), question.to.to_string().as_str()),
                (from, to),
                "{query} {now}"
            );
        }
    }

    #[tokio::test]
    async fn a_range_before_its_default_end_is_refused_by_name() {
        let future = read_at("meter=cloudtrail_events&from=2027-01-01T00:00:00Z", "2026-12-24T08:00:00Z").await;
        assert_eq!(future.unwrap_err().parameter.as_deref(), Some("to"));
        let old = read_at("meter=cloudtrail_events&from=2020-01-01T00:00:00Z", "2026-12-24T08:00:00Z").await;
        assert_eq!(old.unwrap_err().parameter.as_deref(), Some("from"));
    }
}
