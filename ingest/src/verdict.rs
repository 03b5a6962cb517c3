//! What became of one source record.

use std::fmt;

use crate::UsageEvent;

/// What a source record turned out to be. Every record read is exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It counts, unless it is a duplicate.
    Usage(UsageEvent<'a>),
    /// Understood, and by rule not usage.
    NotCounted(NotCounted),
    /// Set aside whole, with the reason, to be replayed.
    DeadLetter(Reason),
}

/// Kinds of records that are understood and not usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotCounted {
    /// A CloudTrail digest file: it lists log objects and is no event.
    CloudTrailDigest,
}

impl NotCounted {
    /// The name used in balances and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudTrailDigest => "cloudtrail_digest",
        }
    }
}

impl fmt::Display for NotCounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($variant:ident $name:literal $advice:literal,)+) => {
        /// Why a record was set aside.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $advice] $variant,)+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in balances, manifests and on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What is wrong and what to do about it.
            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)+ }
            }
        }
    };
}

reasons! {
    NotJson "not_json" "The object does not begin like JSON; remove it from the source, or replay it once it is readable.",
    BrokenJson "broken_json" "The record is not valid JSON, or the object ends inside it; fetch the object again and replay.",
    NotRecognized "not_recognized" "Valid JSON, but no event of a known source; replay with a version that reads this source.",
    RecordsNotAnArray "records_not_an_array" "`Records` is not an array; fetch the object again and replay.",
    RecordTooLarge "record_too_large" "One record is larger than 4 MiB, far above any AWS event; look at the object.",
    NestedTooDeep "nested_too_deep" "One record nests deeper than 100 levels, far above any AWS event; look at the object.",
    GzipCorrupt "gzip_corrupt" "The gzip stream is damaged; fetch the object again and replay.",
    GzipTruncated "gzip_truncated" "The gzip stream ends early; fetch the object again and replay.",
    GzipBomb "gzip_bomb" "The object inflates beyond any log (over 64 MiB and 400 times its size); look at the object.",
    AccountMissing "account_missing" "No account in the event or in the object's name; replay under the delivered object name.",
    AccountMalformed "account_malformed" "The account is not a string of 12 digits; correct the source and replay.",
    EventTimeMissing "event_time_missing" "The event has no eventTime; correct the source and replay.",
    EventTimeMalformed "event_time_malformed" "eventTime is no UTC instant such as 2026-10-01T12:00:00Z; correct the source and replay.",
    EventTimeInFuture "event_time_in_future" "eventTime lies more than one hour ahead; check the source's clock, or replay later.",
    DimensionMalformed "dimension_malformed" "awsRegion or eventCategory is longer than 64 bytes or has control characters; correct the source and replay.",
    SliceMalformed "slice_malformed" "A stream record is not in the documented format; find its writer, then replay its object.",
    PartitionUntrusted "partition_untrusted" "The log partition these events belong to has a gap or a wrong total; repair it, then replay.",
}

impl Reason {
    /// Reads a reason's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
