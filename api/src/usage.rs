//! Usage: the sum of a meter over a range of hours, by the keys that were asked for.

pub(crate) mod wire;

use std::fmt;

use aggregator::directory::CustomerId;
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use ingest::{Meter, Timestamp};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};
use thiserror::Error;
use utoipa::ToSchema;

use crate::completeness;
use crate::tenant::Statements;

/// One key that usage is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKey {
    /// The customer that owned the account in the hour; none outside every ownership. For operators.
    Customer,
    /// The AWS account, 12 digits.
    Account,
    /// The AWS region, or `none`.
    Region,
    /// The event's category, or `none`.
    Category,
    /// The UTC hour, written as its first instant.
    Hour,
    /// The UTC day, `2023-07-10`.
    Day,
    /// The UTC month, `2023-07`.
    Month,
}

impl GroupKey {
    /// Every key.
    pub const ALL: [Self; 7] =
        [Self::Customer, Self::Account, Self::Region, Self::Category, Self::Hour, Self::Day, Self::Month];

    /// The key's name in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Account => "account",
            Self::Region => "region",
            Self::Category => "category",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    fn is_time(self) -> bool {
        matches!(self, Self::Hour | Self::Day | Self::Month)
    }

    /// The SQL of the key. Text sorts by its bytes on every server; an absent customer sorts first, as ''.
    fn expression(self) -> &'static str {
        match self {
            Self::Customer => "coalesce(u.customer_id, '') collate \"C\"",
            Self::Account => "u.account_id collate \"C\"",
            Self::Region => "u.region collate \"C\"",
            Self::Category => "u.category collate \"C\"",
            Self::Hour => "u.window_start",
            Self::Day => "date_trunc('day', u.window_start, 'UTC')",
            Self::Month => "date_trunc('month', u.window_start, 'UTC')",
        }
    }

    /// Reads the key's column as it is written in an answer.
    fn decode(self, row: &PgRow, column: usize) -> Result<Option<String>, sqlx::Error> {
        if self.is_time() {
            let start: DateTime<Utc> = row.try_get(column)?;
            return Ok(Some(match self {
                Self::Day => start.format("%Y-%m-%d").to_string(),
                Self::Month => start.format("%Y-%m").to_string(),
                _ => start.to_rfc3339_opts(SecondsFormat::Secs, true),
            }));
        }
        let text: String = row.try_get(column)?;
        Ok(if self == Self::Customer && text.is_empty() { None } else { Some(text) })
    }

    /// Binds a key as it is written in an answer; `None` when it has another form.
    fn bind(self, query: UsageStatement, value: Option<&str>) -> Option<UsageStatement> {
        if self.is_time() {
            return Some(query.bind(self.read_time(value?)?));
        }
        let text = value.unwrap_or_default();
        let is_absent_customer = self == Self::Customer && value.is_none();
        // PostgreSQL's text holds no NUL.
        ((is_absent_customer || value.is_some()) && !text.contains('\0')).then(|| query.bind(text.to_owned()))
    }

    fn read_time(self, text: &str) -> Option<DateTime<Utc>> {
        let first_of_month;
        let day = match self {
            Self::Day => text,
            Self::Month => {
                first_of_month = format!("{text}-01");
                &first_of_month
            }
            _ => return Timestamp::parse_rfc3339(text).ok().map(DateTime::from),
        };
        Some(NaiveDate::parse_from_str(day, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)?.and_utc())
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The keys of an answer's rows, in the order in which rows are written and sorted. At most one is a unit of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<GroupKey>", into = "Vec<GroupKey>")]
pub struct Grouping(Vec<GroupKey>);

/// The text names no grouping.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadGrouping {
    /// No key has this name.
    #[error("unknown key `{0}`; the keys are account, region, category and one of hour, day, month")]
    Unknown(String),
    /// A key is named twice.
    #[error("key `{0}` is named twice; name it once")]
    Repeated(GroupKey),
    /// Two units of time.
    #[error("`{0}` and `{1}` are both units of time; name one")]
    TwoUnitsOfTime(GroupKey, GroupKey),
}

impl Grouping {
    /// Reads keys separated by commas, such as `account,hour,category`.
    pub fn parse(text: &str) -> Result<Self, BadGrouping> {
        let key = |name: &str| {
            let found = GroupKey::ALL.into_iter().find(|key| key.as_str() == name);
            found.ok_or_else(|| BadGrouping::Unknown(crate::problem::shortened(name)))
        };
        Self::new(text.split(',').map(key).collect::<Result<Vec<_>, _>>()?)
    }

    /// Takes the keys in their order.
    pub fn new(keys: Vec<GroupKey>) -> Result<Self, BadGrouping> {
        for (index, key) in keys.iter().enumerate() {
            if keys[..index].contains(key) {
                return Err(BadGrouping::Repeated(*key));
            }
            if let Some(other) = keys[..index].iter().find(|other| other.is_time() && key.is_time()) {
                return Err(BadGrouping::TwoUnitsOfTime(*other, *key));
            }
        }
        Ok(Self(keys))
    }

    /// The keys in their order.
    pub fn keys(&self) -> &[GroupKey] {
        &self.0
    }
}

impl TryFrom<Vec<GroupKey>> for Grouping {
    type Error = BadGrouping;

    fn try_from(keys: Vec<GroupKey>) -> Result<Self, BadGrouping> {
        Self::new(keys)
    }
}

impl From<Grouping> for Vec<GroupKey> {
    fn from(grouping: Grouping) -> Self {
        grouping.0
    }
}

/// A question about usage: one meter, whole hours `[from, to)`, a grouping, and perhaps a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageQuery {
    meter: Meter,
    from: Timestamp,
    to: Timestamp,
    grouping: Grouping,
    rows_max: Option<u32>,
    after: Option<UsageCursor>,
}

/// The range holds no whole hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// `from` lies within an hour.
    #[error("`from` must lie on a whole UTC hour, such as 2026-10-01T00:00:00Z")]
    FromWithinHour,
    /// `to` lies within an hour.
    #[error("`to` must lie on a whole UTC hour, such as 2026-11-01T00:00:00Z")]
    ToWithinHour,
    /// `to` is not after `from`.
    #[error("`to` must be after `from`; the range is half-open")]
    Empty,
}

impl UsageQuery {
    /// The usage of a meter in the whole hours `[from, to)`, all of it in one answer.
    pub fn new(meter: Meter, from: Timestamp, to: Timestamp, grouping: Grouping) -> Result<Self, RangeError> {
        if from.hour().start() != from {
            return Err(RangeError::FromWithinHour);
        }
        if to.hour().start() != to {
            return Err(RangeError::ToWithinHour);
        }
        if to <= from {
            return Err(RangeError::Empty);
        }
        Ok(Self { meter, from, to, grouping, rows_max: None, after: None })
    }

    /// The whole UTC days within the range, half-open; `None` when there is none, or hours are asked for by themselves.
    fn whole_days(&self) -> Option<(Timestamp, Timestamp)> {
        let end = self.to.day().start();
        let first = self.from.day().start();
        let first = if first == self.from { first } else { first.saturating_add_secs(DAY_SECS) };
        (first < end && !self.grouping.keys().contains(&GroupKey::Hour)).then_some((first, end))
    }

    /// The same question, answered with at most so many rows, after the place where an earlier answer ended.
    pub(crate) fn page(self, rows_max: u32, after: Option<UsageCursor>) -> Self {
        Self { rows_max: Some(rows_max), after, ..self }
    }
}

/// The place where a page ended, and the question it belongs to. Opaque to callers; worth nothing to another tenant,
/// for it only says where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageCursor {
    #[serde(rename = "m")]
    meter: String,
    #[serde(rename = "f")]
    from_micros: i64,
    #[serde(rename = "t")]
    to_micros: i64,
    #[serde(rename = "g")]
    grouping: Grouping,
    #[serde(rename = "k")]
    last: Vec<Option<String>>,
}

/// Whose usage is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageScope {
    /// Every account, also those that no customer owned. For operators.
    AllAccounts,
    /// One customer. In a tenant's transaction row-level security says the same once more.
    Customer(CustomerId),
}

/// Where a question's hours are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hours {
    /// Each by itself, in `usage_rows`.
    Hourly,
    /// All in whole UTC days, in `usage_days`.
    Daily,
    /// Whole UTC days in `usage_days`, and the hours before the first and after the last of them by themselves.
    DailyWithin,
}

/// The rows that answer a [`UsageQuery`], sorted by its grouping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct UsageAnswer {
    /// Up to here nothing more is expected. Null while the meter's source is neither proven nor reconciled, and for
    /// operators, who ask about many customers.
    pub complete_through: Option<String>,
    /// One row for each group that has usage; exactly one when nothing is grouped.
    #[schema(value_type = Vec<crate::schemas::UsageRowSchema>)]
    pub rows: Vec<UsageRow>,
    /// Where the next page begins; absent after the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The usage of one group. Written as one flat object: the grouped keys, then `quantity` as a decimal string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// The group's keys as they are written; only a customer can be absent.
    pub keys: Vec<(GroupKey, Option<String>)>,
    /// The sum in the meter's raw unit, a whole number of any size.
    pub quantity: String,
}

impl Serialize for UsageRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.keys.len() + 1))?;
        for (key, value) in &self.keys {
            map.serialize_entry(key.as_str(), value)?;
        }
        map.serialize_entry("quantity", &self.quantity)?;
        map.end()
    }
}

/// Why usage could not be read.
#[derive(Debug, Error)]
pub enum UsageError {
    /// The cursor is not one that an answer to this question gave. Stop.
    #[error("the cursor belongs to no answer to this question")]
    BadCursor,
    /// Nobody defined a meter of this name. Stop.
    #[error("unknown meter `{0}`; `securebase meters list` shows those there are")]
    UnknownMeter(String),
    /// PostgreSQL failed. Retry when it was away, else stop.
    #[error("usage cannot be read from postgresql")]
    Database(#[from] sqlx::Error),
}

const DAY_SECS: i64 = 86_400;

type UsageStatement = Query<'static, Postgres, PgArguments>;

// Meters of samples are data, and read by every role.
pub(crate) const IS_DEFINED: &str = "select exists (select from sample_meters where meter = $1)";

/// The statement that answers a query: fixed fragments only, every value is a parameter.
///
/// $1 meter, $2 from, $3 to, $4 row limit (null: none), then the first and the end of the whole days if hours stand beside
/// them, then the customer if the scope names one, then the cursor's keys. The columns are the keys, the sum, and for one
/// customer the end of the last complete hour, the same in every row.
pub(crate) fn statement(grouping: &Grouping, scope: &UsageScope, hours: Hours, is_continued: bool) -> String {
    let keys: Vec<&str> = grouping.keys().iter().map(|key| key.expression()).collect();
    let mut parameters = if hours == Hours::DailyWithin { 6 } else { 4 };
    let mut parameter = || {
        parameters += 1;
        format!("${parameters}")
    };
    let mut of = String::from("u.meter = $1");
    let mut complete_through = String::new();
    if let UsageScope::Customer(_) = scope {
        let customer = parameter();
        of.push_str(&format!(" and u.customer_id = {customer}"));
        complete_through = format!(", ({})", completeness::of_meter_sql(&customer));
    }
    let mut sql = String::from("select ");
    for key in &keys {
        sql.push_str(key);
        sql.push_str(", ");
    }
    sql.push_str(&format!("coalesce(sum(u.total), 0)::text{complete_through} from "));
    let hourly = |from, to| format!("usage_rows u where {of} and u.window_start >= {from} and u.window_start < {to}");
    let daily = |from, to| {
        format!("usage_days u where {of} and u.window_start >= {from} and u.window_start < {to} and u.hourly_rows > 0")
    };
    match hours {
        Hours::Hourly => sql.push_str(&hourly("$2", "$3")),
        Hours::Daily => sql.push_str(&daily("$2", "$3")),
        Hours::DailyWithin => {
            const COLUMNS: &str =
                "select u.account_id, u.region, u.category, u.customer_id, u.window_start, u.total from";
            sql.push_str(&format!(
                "({COLUMNS} {} union all {COLUMNS} {} union all {COLUMNS} {}) u where true",
                daily("$5", "$6"),
                hourly("$2", "$5"),
                hourly("$6", "$3"),
            ));
        }
    }
    if !keys.is_empty() {
        let listed = keys.join(", ");
        if is_continued {
            let last: Vec<String> = keys.iter().map(|_| parameter()).collect();
            sql.push_str(&format!(" and ({listed}) > ({})", last.join(", ")));
        }
        sql.push_str(&format!(" group by {listed} order by {listed}"));
    }
    sql.push_str(" limit $4");
    sql
}

/// Reads the usage of a scope. The connection decides what can be seen: a tenant's transaction, or the operator's role.
pub async fn usage(
    connection: &mut PgConnection,
    query: &UsageQuery,
    scope: &UsageScope,
    statements: Statements,
) -> Result<UsageAnswer, UsageError> {
    if let Meter::Sample(name) = query.meter {
        let is_defined: bool = sqlx::query_scalar(IS_DEFINED).bind(name.as_str()).fetch_one(&mut *connection).await?;
        if !is_defined {
            return Err(UsageError::UnknownMeter(crate::problem::shortened(name.as_str())));
        }
    }
    let days = query.whole_days();
    let hours = match days {
        None => Hours::Hourly,
        Some(days) if days == (query.from, query.to) => Hours::Daily,
        Some(_) => Hours::DailyWithin,
    };
    let sql = statement(&query.grouping, scope, hours, query.after.is_some());
    // One row more than the page holds tells whether there is a next page.
    let limit = query.rows_max.map(|rows| i64::from(rows) + 1);
    let mut prepared = sqlx::query(AssertSqlSafe(sql))
        .persistent(statements.are_kept())
        .bind(query.meter.as_str())
        .bind(DateTime::<Utc>::from(query.from))
        .bind(DateTime::<Utc>::from(query.to))
        .bind(limit);
    if let (Hours::DailyWithin, Some((first, end))) = (hours, days) {
        prepared = prepared.bind(DateTime::<Utc>::from(first)).bind(DateTime::<Utc>::from(end));
    }
    if let UsageScope::Customer(customer) = scope {
        prepared = prepared.bind(customer.as_str().to_owned());
    }
    if let Some(cursor) = &query.after {
        if cursor.last.len() != query.grouping.keys().len() {
            return Err(UsageError::BadCursor);
        }
        for (key, value) in query.grouping.keys().iter().zip(&cursor.last) {
            prepared = key.bind(prepared, value.as_deref()).ok_or(UsageError::BadCursor)?;
        }
    }

    let mut complete_through = None;
    let read = |row: PgRow| -> Result<UsageRow, sqlx::Error> {
        let quantity_at = query.grouping.keys().len();
        if let UsageScope::Customer(_) = scope {
            complete_through = row.try_get(quantity_at + 1)?;
        }
        let keys = query.grouping.keys().iter().enumerate();
        let keys =
            keys.map(|(column, key)| Ok((*key, key.decode(&row, column)?))).collect::<Result<_, sqlx::Error>>()?;
        Ok(UsageRow { keys, quantity: row.try_get(quantity_at)? })
    };
    let rows = prepared.try_map(read).fetch_all(&mut *connection).await?;
    let complete_through = match scope {
        // No row said it.
        UsageScope::Customer(customer) if rows.is_empty() => {
            completeness::of_meter(connection, customer, query.meter, statements).await?
        }
        _ => completeness::written(complete_through),
    };
    Ok(UsageAnswer { complete_through, ..paged(query, rows) })
}

/// Cuts the rows to the page and says where the next one begins.
fn paged(query: &UsageQuery, mut rows: Vec<UsageRow>) -> UsageAnswer {
    let rows_max = query.rows_max.map_or(usize::MAX, |rows| rows as usize);
    let mut next_cursor = None;
    if rows_max < rows.len() {
        rows.truncate(rows_max);
        let last = rows.last().expect("a page holds at least one row");
        let cursor = UsageCursor {
            meter: query.meter.as_str().to_owned(),
            from_micros: query.from.micros(),
            to_micros: query.to.micros(),
            grouping: query.grouping.clone(),
            last: last.keys.iter().map(|(_, value)| value.clone()).collect(),
        };
        next_cursor = Some(cursor.encode());
    }
    UsageAnswer { complete_through: None, rows, next_cursor }
}

impl UsageCursor {
    /// Longer texts are refused before they are decoded.
    const BYTES_MAX: usize = 2_048;

    fn encode(&self) -> String {
        hex::encode(serde_json::to_vec(self).expect("a cursor is made of strings and numbers"))
    }

    /// Reads what an answer gave as `next_cursor`.
    pub(crate) fn parse(text: &str) -> Result<Self, UsageError> {
        if text.len() > Self::BYTES_MAX {
            return Err(UsageError::BadCursor);
        }
        let json = hex::decode(text).map_err(|_| UsageError::BadCursor)?;
        serde_json::from_slice(&json).map_err(|_| UsageError::BadCursor)
    }

    /// The range of the question; `None` when it was tampered with.
    fn range(&self) -> Option<(Timestamp, Timestamp)> {
        Some((Timestamp::from_micros(self.from_micros)?, Timestamp::from_micros(self.to_micros)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn a_grouping_names_each_key_once_and_one_unit_of_time() {
        use GroupKey::*;
        let check = |text, keys: &[GroupKey]| assert_eq!(Grouping::parse(text).unwrap().keys(), keys, "{text}");
        check("account", &[Account]);
        check("account,hour,category", &[Account, Hour, Category]);
        check("month,customer,region,account,category", &[Month, Customer, Region, Account, Category]);

        assert_eq!(Grouping::parse("account,account"), Err(BadGrouping::Repeated(Account)));
        assert_eq!(Grouping::parse("hour,region,day"), Err(BadGrouping::TwoUnitsOfTime(Hour, Day)));
        for bad in ["", ",", "account,", " account", "Account", "week", "account;region", "1", "u.total"] {
            assert!(matches!(Grouping::parse(bad), Err(BadGrouping::Unknown(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_range_is_whole_hours_and_not_empty() {
        let check = |from, to, expected| {
            let made = UsageQuery::new(Meter::CloudTrailEvents, at(from), at(to), Grouping::default());
            assert_eq!(made.map(|_| ()), expected, "{from} {to}");
        };
        check("2023-07-10T11:00:00Z", "2023-07-10T12:00:00Z", Ok(()));
        check("2023-07-10T13:00:00+02:00", "2023-07-10T12:00:00Z", Ok(()));
        check("2023-07-10T11:00:01Z", "2023-07-10T12:00:00Z", Err(RangeError::FromWithinHour));
        check("2023-07-10T11:00:00Z", "2023-07-10T12:00:00.000001Z", Err(RangeError::ToWithinHour));
        check("2023-07-10T11:00:00Z", "2023-07-10T11:00:00Z", Err(RangeError::Empty));
        check("2023-07-10T12:00:00Z", "2023-07-10T11:00:00Z", Err(RangeError::Empty));
        check("2023-07-10T11:00:00+05:30", "2023-07-10T12:00:00Z", Err(RangeError::FromWithinHour));
    }

    #[test]
    fn a_row_is_written_flat_in_the_order_of_its_grouping() {
        let row = UsageRow {
            keys: vec![
                (GroupKey::Account, Some("123837392027".into())),
                (GroupKey::Hour, Some("2023-07-10T11:00:00Z".into())),
                (GroupKey::Category, Some("Management".into())),
                (GroupKey::Customer, None),
            ],
            quantity: "262".into(),
        };
        let answer = UsageAnswer { complete_through: None, rows: vec![row], next_cursor: None };
        let expected = concat!(
            r#"{"complete_through":null,"rows":[{"account":"123837392027","hour":"2023-07-10T11:00:00Z","#,
            r#""category":"Management","customer":null,"quantity":"262"}]}"#
        );
        assert_eq!(serde_json::to_string(&answer).unwrap(), expected);
    }

    #[test]
    fn every_value_of_a_statement_is_a_parameter() {
        let grouping = Grouping::parse("account,day").unwrap();
        let acme = UsageScope::Customer(CustomerId::parse("acme").unwrap());
        assert_eq!(
            statement(&grouping, &acme, Hours::Hourly, true),
            "select u.account_id collate \"C\", date_trunc('day', u.window_start, 'UTC'), \
             coalesce(sum(u.total), 0)::text, (select c.complete_through + interval '1 hour' from completeness c \
             where c.customer_id = $5 and c.meter = $1 and c.source_class <> 'best effort') from usage_rows u \
             where u.meter = $1 and u.customer_id = $5 and u.window_start >= $2 and u.window_start < $3 \
             and (u.account_id collate \"C\", date_trunc('day', u.window_start, 'UTC')) > ($6, $7) \
             group by u.account_id collate \"C\", date_trunc('day', u.window_start, 'UTC') \
             order by u.account_id collate \"C\", date_trunc('day', u.window_start, 'UTC') limit $4"
        );
        let columns = "select u.account_id, u.region, u.category, u.customer_id, u.window_start, u.total";
        assert_eq!(
            statement(&Grouping::default(), &acme, Hours::DailyWithin, false),
            format!(
                "select coalesce(sum(u.total), 0)::text, \
                 (select c.complete_through + interval '1 hour' from completeness c \
                 where c.customer_id = $7 and c.meter = $1 and c.source_class <> 'best effort') from (\
                 {columns} from usage_days u where u.meter = $1 and u.customer_id = $7 \
                 and u.window_start >= $5 and u.window_start < $6 and u.hourly_rows > 0 union all \
                 {columns} from usage_rows u where u.meter = $1 and u.customer_id = $7 \
                 and u.window_start >= $2 and u.window_start < $5 union all \
                 {columns} from usage_rows u where u.meter = $1 and u.customer_id = $7 \
                 and u.window_start >= $6 and u.window_start < $3) u where true limit $4"
            )
        );
    }

    #[test]
    fn whole_days_are_read_as_days_unless_hours_are_asked_for() {
        let check = |from, to, group_by: &str, expected: Option<(&str, &str)>| {
            let grouping = if group_by.is_empty() { Grouping::default() } else { Grouping::parse(group_by).unwrap() };
            let query = UsageQuery::new(Meter::CloudTrailEvents, at(from), at(to), grouping).unwrap();
            assert_eq!(query.whole_days(), expected.map(|(first, end)| (at(first), at(end))), "{from} {to} {group_by}");
        };
        let (first, end) = ("2026-10-01T00:00:00Z", "2026-10-03T00:00:00Z");
        check(first, end, "", Some((first, end)));
        check("2026-09-30T01:00:00Z", "2026-10-03T23:00:00Z", "account,day", Some((first, end)));
        check("2026-09-30T23:00:00Z", end, "month", Some((first, end)));
        check(first, "2026-10-03T01:00:00Z", "region", Some((first, end)));
        check(first, end, "account,hour", None);
        check("2026-10-01T01:00:00Z", "2026-10-02T23:00:00Z", "", None);
        check("2026-10-01T05:00:00Z", "2026-10-01T07:00:00Z", "", None);
        check(
            "1969-12-30T23:00:00Z",
            "1970-01-01T01:00:00Z",
            "",
            Some(("1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z")),
        );
    }

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let cursor = UsageCursor {
            meter: "cloudtrail_events".into(),
            from_micros: 0,
            to_micros: 3_600_000_000,
            grouping: Grouping::parse("account,customer").unwrap(),
            last: vec![Some("123837392027".into()), None],
        };
        assert_eq!(UsageCursor::parse(&cursor.encode()).unwrap(), cursor);
        let same_unit_twice = r#"{"m":"cloudtrail_events","f":0,"t":1,"g":["hour","day"],"k":[]}"#;
        for bad in ["", "zz", "00", &hex::encode(same_unit_twice), &"0".repeat(4_000)] {
            assert!(matches!(UsageCursor::parse(bad), Err(UsageError::BadCursor)), "{bad}");
        }
    }
}
