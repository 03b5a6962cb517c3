//! The rules that every form of record shares: what counts, whose it is, and when it happened.

use std::borrow::Cow;

use crate::json::Scalar;
use crate::{AccountId, Declarations, Dimensions, Reason, Source, Timestamp, UsageEvent};

/// How far event time may lie ahead of the reader's clock, in seconds.
const AHEAD_SECONDS_MAX: i64 = 3_600;

/// What a verdict depends on beside the record.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The reader's clock: no event time lies more than an hour ahead of it.
    pub now: Timestamp,
    /// Which source each meter is counted from.
    pub declared: &'a Declarations,
}

/// Reads an event time that its source defines as UTC, and refuses one that lies too far ahead of the reader's clock.
pub(crate) fn event_time(time: &Scalar<'_>, now: Timestamp) -> Result<Timestamp, Reason> {
    let event_time = match time {
        Scalar::Absent => return Err(Reason::EventTimeMissing),
        Scalar::Other => return Err(Reason::EventTimeMalformed),
        Scalar::Text(text) => Timestamp::parse_declared_utc(text).map_err(|_| Reason::EventTimeMalformed)?,
    };
    if now.saturating_add_secs(AHEAD_SECONDS_MAX) < event_time {
        return Err(Reason::EventTimeInFuture);
    }
    Ok(event_time)
}

/// The account that a field names.
pub(crate) fn account_of(field: &Scalar<'_>) -> Result<AccountId, Reason> {
    match field {
        Scalar::Text(text) if !text.is_empty() => AccountId::parse(text).map_err(|_| Reason::AccountMalformed),
        Scalar::Other => Err(Reason::AccountMalformed),
        Scalar::Text(_) | Scalar::Absent => Err(Reason::AccountMissing),
    }
}

/// A dimension's value: `none` where the field has none.
pub(crate) fn dimension(value: Scalar<'_>) -> Result<Cow<'_, str>, Reason> {
    match value {
        Scalar::Text(text) if text.is_empty() => Ok(Cow::Borrowed(Dimensions::NONE)),
        Scalar::Text(text) if !Dimensions::is_value(&text) => Err(Reason::DimensionMalformed),
        Scalar::Text(text) => Ok(text),
        Scalar::Absent | Scalar::Other => Ok(Cow::Borrowed(Dimensions::NONE)),
    }
}

impl Rules<'_> {
    /// Whether an event counts when it comes from this source.
    pub(crate) fn counts(&self, source: Source, event: &UsageEvent<'_>) -> bool {
        self.declared.is_declared(source, event.meter, event.account, event.event_time)
    }
}
