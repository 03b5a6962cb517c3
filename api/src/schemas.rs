//! How the document describes answers that other rooms write: the same members, in words for callers.
//!
//! Nothing is made of these types; the test of the running server against the document holds them to what is answered.

use utoipa::ToSchema;

/// The usage of one group: the keys that were asked for, and how much.
#[derive(ToSchema)]
#[schema(as = UsageRow)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct UsageRowSchema {
    /// 12 digits, when grouped by `account`.
    #[schema(required = false, nullable = false, pattern = "^[0-9]{12}$")]
    account: Option<String>,
    /// When grouped by `region`; `none` where there is none.
    #[schema(required = false, nullable = false)]
    region: Option<String>,
    /// When grouped by `category`; `none` where there is none.
    #[schema(required = false, nullable = false)]
    category: Option<String>,
    /// Such as `2026-10-01T12:00:00Z`, when grouped by `hour`.
    #[schema(required = false, nullable = false)]
    hour: Option<String>,
    /// Such as `2026-10-01`, when grouped by `day`.
    #[schema(required = false, nullable = false)]
    day: Option<String>,
    /// Such as `2026-10`, when grouped by `month`.
    #[schema(required = false, nullable = false)]
    month: Option<String>,
    /// In the meter's raw unit: a decimal of any size.
    quantity: String,
}

/// What is billed, half-open.
#[derive(ToSchema)]
#[schema(as = Period)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct PeriodSchema {
    /// The first day.
    start: String,
    /// The first day no longer billed.
    end: String,
}

/// An invoice in a list.
#[derive(ToSchema)]
#[schema(as = InvoiceSummary)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct InvoiceSummarySchema {
    #[schema(format = "uuid")]
    id: String,
    /// Such as `INV-2026-11-0001`.
    number: String,
    /// `monthly`, `final`, `prepayment` or `adjustment`.
    kind: String,
    /// Counts the invoices of one kind and period, from 1.
    revision: i32,
    /// `issued`, `overdue`, `paid` or `credited`.
    status: String,
    customer: String,
    #[schema(value_type = PeriodSchema)]
    period: PeriodSchema,
    /// ISO 4217.
    currency: String,
    /// Its own total, a decimal in whole currency.
    total: String,
    /// What is to be paid: the total with the late usage of other periods that it carries.
    payable: String,
    issued_at: String,
    /// The last second in which it is paid in time.
    due_at: String,
}

/// A usage sample in its envelope (CloudEvents 1.0, structured mode).
#[derive(ToSchema)]
#[schema(as = CloudEvent)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct CloudEventSchema {
    /// `1.0`.
    specversion: String,
    id: String,
    source: String,
    /// The meter.
    r#type: String,
    /// The account, 12 digits.
    subject: String,
    /// RFC 3339: when it was measured.
    time: String,
    /// `resource`, `value` and `unit`, and what else the meter takes.
    #[schema(value_type = Object)]
    data: String,
}
