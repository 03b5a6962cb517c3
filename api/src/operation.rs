//! What operators ask for that takes longer than a request may: a close, a billing run, the replay of a dead letter.
//!
//! A row of `operations` says what is to be done and how far it is. A route adds it ([`crate::admin_operations`]), the host's
//! [`OperationWorker`](crate::OperationWorker) carries it out. Whatever it calls may be called again after any crash: closes have
//! unique cuts, invoices unique keys, and usage is counted once. So an operation that was cut off is simply begun again.

use aggregator::directory::CustomerId;
use billing::Month;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::problem::Problem;

/// The longest reason of an override.
pub(crate) const REASON_CHARS_MAX: usize = 2_000;
const GRACE_HOURS_MAX: u32 = 720;
/// Each holds a connection to PostgreSQL.
const WORKERS_MAX: usize = 16;
const DEAD_LETTER_ID_CHARS: usize = 32;

/// What is to be done; checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To fix a cut of a month that has ended.
    Close {
        /// Which month.
        period: Month,
        /// Whose; `None` for every customer whose contract began.
        customer: Option<CustomerId>,
        /// Why it shall be closed even if something is missing.
        override_because: Option<String>,
    },
    /// To bill a month that has ended.
    Run {
        /// Which month.
        period: Month,
        /// Whom; `None` for everyone.
        customer: Option<CustomerId>,
        /// Hours after the month in which late usage is waited for.
        grace_hours: u32,
        /// How many customers are billed at once, 1 to 16.
        workers: usize,
    },
    /// To read a record again that was set aside.
    Replay {
        /// Its id, 32 hexadecimal digits.
        dead_letter: String,
    },
}

/// An operation that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationTask {
    /// Its number.
    pub operation_id: i64,
    /// Who asked for it, as the audit trail names them.
    pub requested_by: String,
    /// What is to be done.
    pub operation: Operation,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationFailure {
    /// 409: as things stand it cannot be done. Else it was not done to its end, and may be asked for again.
    is_refusal: bool,
    detail: String,
    members: Map<String, Value>,
}

impl OperationFailure {
    /// As things stand, it cannot be done: somebody has to act. `detail` says how, to an operator.
    pub fn refused(detail: impl Into<String>) -> Self {
        Self { is_refusal: true, detail: detail.into(), members: Map::new() }
    }

    /// It was not done to its end. What was done stays; asked for again, it goes on.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self { is_refusal: false, detail: detail.into(), members: Map::new() }
    }

    /// Says more, for programs.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// The failure as a problem of the API.
    pub(crate) fn problem(self) -> Problem {
        let Self { is_refusal, detail, members } = self;
        let mut problem =
            if is_refusal { Problem::operation_refused(detail) } else { Problem::operation_failed(detail) };
        problem.members = Some(Box::new(members));
        problem
    }
}

/// The body of `POST /v1/admin/closes`, and the request of such an operation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminNewClose)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloseRequest {
    /// A month that has ended, such as `2026-10`.
    #[schema(pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$")]
    period: String,
    /// Whose; every customer's whose contract began, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// Close although something is missing.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    overriding: Option<OverrideRequest>,
}

/// Somebody's word that a close shall be made although something is missing.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminOverride)]
#[serde(deny_unknown_fields)]
pub(crate) struct OverrideRequest {
    /// Why; audited, and in the evidence.
    #[schema(min_length = 1, max_length = 2000)]
    because: String,
}

/// The body of `POST /v1/admin/runs`, and the request of such an operation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminNewRun)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunRequest {
    /// A month that has ended, such as `2026-10`.
    #[schema(pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$")]
    period: String,
    /// Whom; everyone without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// Hours after the month in which late usage is waited for, unless the month is proven complete; 72 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 720)]
    grace_hours: Option<u32>,
    /// How many customers are billed at once; 4 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16)]
    workers: Option<usize>,
}

/// The request of a replay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayRequest {
    dead_letter: String,
}

impl ReplayRequest {
    pub(crate) fn new(dead_letter: &str) -> Self {
        Self { dead_letter: dead_letter.to_owned() }
    }
}

/// A request of a kind of operation: a body, and what is stored of it.
pub(crate) trait Requested: Serialize {
    /// The kind, as the table has it.
    const KIND: &'static str;

    /// The operation, if the request makes sense.
    fn operation(&self) -> Result<Operation, Problem>;
}

impl Requested for CloseRequest {
    const KIND: &'static str = "close";

    fn operation(&self) -> Result<Operation, Problem> {
        let because = self.overriding.as_ref().map(|overriding| overriding.because.clone());
        let is_reason = |reason: &String| {
            !reason.trim().is_empty() && reason.chars().count() <= REASON_CHARS_MAX && !reason.contains('\0')
        };
        if !because.iter().all(is_reason) {
            return Err(Problem::invalid("`override.because` must say why, in at most 2000 characters"));
        }
        Ok(Operation::Close {
            period: month(&self.period)?,
            customer: customer(self.customer.as_deref())?,
            override_because: because,
        })
    }
}

impl Requested for RunRequest {
    const KIND: &'static str = "run";

    fn operation(&self) -> Result<Operation, Problem> {
        let grace_hours = self.grace_hours.unwrap_or(billing::GRACE_HOURS);
        let workers = self.workers.unwrap_or(billing::WORKERS);
        if GRACE_HOURS_MAX < grace_hours || !(1..=WORKERS_MAX).contains(&workers) {
            return Err(Problem::invalid("`grace_hours` must be at most 720, `workers` a number from 1 to 16"));
        }
        Ok(Operation::Run {
            period: month(&self.period)?,
            customer: customer(self.customer.as_deref())?,
            grace_hours,
            workers,
        })
    }
}

impl Requested for ReplayRequest {
    const KIND: &'static str = "replay";

    fn operation(&self) -> Result<Operation, Problem> {
        let is_id = |text: &str| {
            text.len() == DEAD_LETTER_ID_CHARS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !is_id(&self.dead_letter) {
            return Err(Problem::not_found("there is no such dead letter; `/v1/admin/dead-letters` lists them"));
        }
        Ok(Operation::Replay { dead_letter: self.dead_letter.clone() })
    }
}

fn month(text: &str) -> Result<Month, Problem> {
    Month::parse(text).map_err(|_| Problem::invalid("`period` must be a month such as 2026-10"))
}

fn customer(id: Option<&str>) -> Result<Option<CustomerId>, Problem> {
    id.map(CustomerId::parse).transpose().map_err(|error| Problem::invalid(&error.to_string()))
}

/// Reads a stored request back; `None` where it is none that this program knows.
pub(crate) fn stored(kind: &str, request: &str) -> Option<Operation> {
    fn read<R: Requested + for<'de> Deserialize<'de>>(request: &str) -> Option<Operation> {
        serde_json::from_str::<R>(request).ok()?.operation().ok()
    }
    match kind {
        CloseRequest::KIND => read::<CloseRequest>(request),
        RunRequest::KIND => read::<RunRequest>(request),
        ReplayRequest::KIND => read::<ReplayRequest>(request),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<R: Requested + for<'de> Deserialize<'de>>(body: &Value) -> Option<Operation> {
        serde_json::from_value::<R>(body.clone()).ok()?.operation().ok()
    }

    #[test]
    fn what_is_stored_of_a_request_is_the_same_operation() {
        let close = json!({"period": "2026-10", "customer": "acme", "override": {"because": "agreed on"}});
        let run = json!({"period": "2026-10", "grace_hours": 0, "workers": 16});
        let close: CloseRequest = serde_json::from_value(close).unwrap();
        let run: RunRequest = serde_json::from_value(run).unwrap();
        let replay = ReplayRequest::new("0123456789abcdef0123456789abcdef");
        for (kind, written, operation) in [
            ("close", serde_json::to_string(&close).unwrap(), close.operation().unwrap()),
            ("run", serde_json::to_string(&run).unwrap(), run.operation().unwrap()),
            ("replay", serde_json::to_string(&replay).unwrap(), replay.operation().unwrap()),
        ] {
            assert_eq!(stored(kind, &written), Some(operation), "{written}");
        }
        assert_eq!(stored("pay", "{}"), None);
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        for body in [
            json!({"period": "2026-13"}),
            json!({"period": "2026-10", "customer": "No"}),
            json!({"period": "2026-10", "override": {"because": " "}}),
            json!({"period": "2026-10", "override": {"because": "x".repeat(2_001)}}),
            json!({"period": "2026-10", "override": {"because": "\0"}}),
            json!({"period": "2026-10", "override": "yes"}),
            json!({"period": "2026-10", "dry_run": true}),
        ] {
            assert_eq!(read::<CloseRequest>(&body), None, "{body}");
        }
        for body in [
            json!({}),
            json!({"period": "2026-10", "workers": 0}),
            json!({"period": "2026-10", "workers": 17}),
            json!({"period": "2026-10", "grace_hours": 721}),
        ] {
            assert_eq!(read::<RunRequest>(&body), None, "{body}");
        }
        assert!(ReplayRequest::new("0123456789ABCDEF0123456789ABCDEF").operation().is_err());
    }
}
