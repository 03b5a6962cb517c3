//! The unit that is counted.

use std::borrow::Cow;

use crate::{AccountId, Identity, Meter, Timestamp};

/// One countable event: what it is, whose it is, when it happened, and what makes it itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEvent<'a> {
    /// What it counts towards.
    pub meter: Meter,
    /// The account it happened in.
    pub account: AccountId,
    /// What makes a second copy a duplicate.
    pub identity: Identity,
    /// When it happened, by its source.
    pub event_time: Timestamp,
    /// How its counter is split further.
    pub dimensions: Dimensions<'a>,
}

/// How a counter is split below its account: `none` where the event says nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dimensions<'a> {
    /// The AWS Region the event names.
    pub region: Cow<'a, str>,
    /// The event category the event names (CloudTrail: Management, Data, Insight, NetworkActivity).
    pub category: Cow<'a, str>,
}

impl Dimensions<'_> {
    /// What stands for a dimension the event does not have.
    pub const NONE: &'static str = "none";
    /// Longest value of a dimension, in bytes; every AWS Region and category is far below it.
    pub const VALUE_BYTES_MAX: usize = 64;

    /// Whether a text may be a dimension: not empty, not too long, no control characters (PostgreSQL stores no zero).
    pub fn is_value(text: &str) -> bool {
        !text.is_empty() && text.len() <= Self::VALUE_BYTES_MAX && !text.chars().any(char::is_control)
    }
}

impl Dimensions<'_> {
    /// The same dimensions, independent of the record they were read from.
    pub fn into_owned(self) -> Dimensions<'static> {
        Dimensions { region: Cow::Owned(self.region.into_owned()), category: Cow::Owned(self.category.into_owned()) }
    }
}
