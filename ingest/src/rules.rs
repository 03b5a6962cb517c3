//! The rules that every form of record shares: what counts, whose it is, and when it happened.

use std::borrow::Cow;
use std::sync::LazyLock;

use crate::json::Scalar;
use crate::{
    AccountId, Declarations, Dimensions, Meters, NOTHING_DECLARED, Reason, Source, Timestamp, UsageEvent, UsageFact,
};

/// How far event time may lie ahead of the reader's clock, in seconds.
const AHEAD_SECONDS_MAX: i64 = 3_600;

/// What a verdict depends on beside the record.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The reader's clock: no event time lies more than an hour ahead of it.
    pub now: Timestamp,
    /// Which source each meter is counted from.
    pub declared: &'a Declarations,
    /// The meters that samples may be of.
    pub meters: &'a Meters,
}

static BUILT_IN: LazyLock<Meters> = LazyLock::new(Meters::built_in);

impl Rules<'static> {
    /// The rules where nothing is declared and no meter defined beside the built-in ones.
    pub fn at(now: Timestamp) -> Self {
        Self { now, declared: &NOTHING_DECLARED, meters: &BUILT_IN }
    }
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

    /// Whether a fact counts when it comes from this source.
    pub(crate) fn takes(&self, source: Source, fact: &UsageFact<'_>) -> bool {
        self.declared.is_declared(source, fact.key.meter, fact.key.account, fact.key.time)
    }
}
