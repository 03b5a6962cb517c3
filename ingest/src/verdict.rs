//! What became of one source record.

use std::fmt;

use crate::digest::Digest;
use crate::notice::NamedObject;
use crate::{UsageEvent, UsageFact};

/// What a source record turned out to be. Every record read is exactly one of these, and the balance is made of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It counts, unless it is a duplicate.
    Usage(UsageEvent<'a>),
    /// It states facts, beside a usage event or alone.
    Facts(Box<Statement<'a>>),
    /// Understood, and by rule not usage.
    NotCounted(NotCounted),
    /// Set aside whole, with the reason, to be replayed.
    DeadLetter(Reason),
}

/// Everything one source record says, where that is more than one usage event.
///
/// One part of it stands for the record in the balance: the event where it has one, otherwise the first fact. The others
/// are counted, or known, beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    event: Option<UsageEvent<'a>>,
    facts: Vec<UsageFact<'a>>,
}

impl<'a> Statement<'a> {
    /// An event and the facts it says beside, such as an Organizations event in CloudTrail.
    pub fn beside(event: UsageEvent<'a>, facts: Vec<UsageFact<'a>>) -> Self {
        Self { event: Some(event), facts }
    }

    /// Facts alone, at least one: a sample, a row of an export, a list.
    pub fn of_facts(first: UsageFact<'a>, others: impl IntoIterator<Item = UsageFact<'a>>) -> Self {
        Self { event: None, facts: std::iter::once(first).chain(others).collect() }
    }

    /// Its event.
    pub fn event(&self) -> Option<&UsageEvent<'a>> {
        self.event.as_ref()
    }

    /// Its facts.
    pub fn facts(&self) -> &[UsageFact<'a>] {
        &self.facts
    }

    /// Event and facts.
    pub fn into_parts(self) -> (Option<UsageEvent<'a>>, Vec<UsageFact<'a>>) {
        (self.event, self.facts)
    }
}

impl<'a> Verdict<'a> {
    /// The verdict on a record that says this.
    pub fn of(statement: Statement<'a>) -> Self {
        match statement {
            Statement { event: Some(event), facts } if facts.is_empty() => Self::Usage(event),
            statement => Self::Facts(Box::new(statement)),
        }
    }
}

/// What a record says beside its verdict; it takes no part in the balance of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beside<'a> {
    /// A further usage event, of another meter than the record's own.
    Usage(UsageEvent<'a>),
    /// A fact that is no record's own, such as the end of an export behind its last row.
    Fact(Box<UsageFact<'static>>),
    /// An object that the record, a notice, names: it is to be fetched and read.
    Object(Box<NamedObject>),
    /// What the record, a digest file, says must be there.
    Digest(Box<Digest>),
    /// Something beside the verdict cannot be read: the record is kept as a dead letter for it, although it has its verdict.
    DeadLetter(Reason),
}

macro_rules! kinds {
    ($($variant:ident $name:literal $meaning:literal,)+) => {
        /// Kinds of records that are understood and not usage.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum NotCounted {
            $(#[doc = $meaning] $variant,)+
        }

        impl NotCounted {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used in balances and manifests.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What such a record is.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }
    };
}

kinds! {
    CloudTrailDigest "cloudtrail_digest" "A CloudTrail digest file: it lists log objects and is no event.",
    CloudWatchLogsControl "cloudwatch_logs_control" "A control message by which CloudWatch Logs tries whether a subscription's destination answers.",
    ConfigItem "config_item" "An AWS Config configuration item, or the notice of one: what a resource was like, and no evaluation of a rule.",
    ConfigNotice "config_notice" "An AWS Config notice about compliance, a delivery or a re-evaluation: evaluations are counted from their declared source.",
    EmptyDelivery "empty_delivery" "A delivery with nothing in it.",
    FocusNoMeter "focus_no_meter" "A row of a FOCUS export with usage that no meter counts.",
    FocusNotUsage "focus_not_usage" "A row of a FOCUS export that is money and no usage: a credit, a tax, a purchase, an adjustment.",
    FocusOtherProvider "focus_other_provider" "A row of a FOCUS export about another provider than AWS.",
    GuardDutyNotice "guardduty_notice" "A GuardDuty event about coverage or a malware scan: it is no finding.",
    NotTheDeclaredSource "not_the_declared_source" "Usage of a meter that is counted from another source, as declared.",
    ObjectNotice "object_notice" "A notice of a new object: what the object holds counts.",
    OtherPolicy "other_policy" "A listed policy of another kind than service control policies, or one that AWS manages.",
    OtherEvent "other_event" "An EventBridge event of an AWS service that no meter counts.",
    S3OtherNotice "s3_other_notice" "A notice of anything but a new object: a removal, a restore, a tag.",
    S3TestEvent "s3_test_event" "What S3 sends when notices are set up.",
    SecurityHubInsight "security_hub_insight" "The results of a Security Hub insight: sums over findings, and no findings.",
    SnsConfirmation "sns_confirmation" "A topic asks whether it may send.",
}

impl NotCounted {
    /// Reads a kind's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
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
    PayloadMalformed "payload_malformed" "What a delivery carries is missing or not base64; look at its producer, then replay.",
    WrappedTooDeep "wrapped_too_deep" "One delivery is wrapped in more than 8 others; unwrap it, then replay.",
    DetailMissing "detail_missing" "The EventBridge event has no detail, or an empty one; send it again from its source.",
    AccountMissing "account_missing" "No account in the event or in the object's name; replay under the delivered object name.",
    AccountMalformed "account_malformed" "The account is not a string of 12 digits; correct the source and replay.",
    EventTimeMissing "event_time_missing" "The record does not say when it happened; correct the source and replay.",
    EventTimeMalformed "event_time_malformed" "The event time is no UTC instant such as 2026-10-01T12:00:00Z; correct the source and replay.",
    EventTimeInFuture "event_time_in_future" "The event time lies more than one hour ahead; check the source's clock, or replay later.",
    DimensionMalformed "dimension_malformed" "The Region or category is longer than 64 bytes or has control characters; correct the source and replay.",
    FindingIdMissing "finding_id_missing" "The finding has no id; correct the source and replay.",
    RuleMissing "rule_missing" "The rule invocation does not name its rule; replay the whole event that the rule's function received.",
    ResourceMissing "resource_missing" "The rule invocation does not name the resource; replay the whole event that the rule's function received.",
    InvokingEventMalformed "invoking_event_malformed" "invokingEvent is not the JSON text of a known message type; replay the whole event that the rule's function received.",
    LifeCycleMalformed "life_cycle_malformed" "The Organizations event does not say what began or ended; correct it and replay, or dismiss it and let the next list say.",
    ListMalformed "list_malformed" "An element of an Organizations list lacks its id, ARN or state; list again and replay.",
    ListTimeMissing "list_time_missing" "The list does not say when it was made; add \"listedAt\" with the time in RFC 3339, then replay.",
    EvaluationsMalformed "evaluations_malformed" "PutEvaluations is the declared source and this call's evaluations cannot be read; dismiss it, or replay the event with its requestParameters.",
    MeterUnknown "meter_unknown" "No meter has this name; define it with `securebase meters define`, then replay.",
    FactMalformed "fact_malformed" "Its value, resource or time is not what its meter takes; correct the source and replay.",
    ExportColumns "export_columns" "The export lacks a column that every FOCUS export has, or has one twice; export it again, then replay.",
    ExportInParts "export_in_parts" "The file is a later part of an export in several files, which are read as one only; join them in order (one header) and replay.",
    RowMalformed "row_malformed" "The row has another number of fields than the header, or no billing period; export it again, then replay.",
    QuantityMalformed "quantity_malformed" "ConsumedQuantity is no decimal number with at most 18 digits before and behind the point; correct the export, then replay.",
    CloudEventMalformed "cloud_event_malformed" "The CloudEvent lacks specversion 1.0, id, source or type; correct its producer, then replay.",
    SampleMalformed "sample_malformed" "The sample's data is not an object with resource, value and unit; correct its producer, then replay.",
    UnitUnknown "unit_unknown" "The meter takes no values in this unit (GB is doubtful: say GiB); correct the source, then replay.",
    NoticeMalformed "notice_malformed" "The notice names no readable bucket and key, or wraps too deep; find its sender, or replay the object itself.",
    NoticeVersion "notice_version" "The notice has a major version that this program does not know; replay with a version that does.",
    ObjectMissing "object_missing" "The object of the notice is gone; bring it back under its name, then replay.",
    ObjectDenied "object_denied" "Reading the object is denied (or it is missing and listing is denied); correct the policies of bucket and key, then replay.",
    ObjectArchived "object_archived" "The object is in an archive class; restore it, then replay.",
    ObjectChanged "object_changed" "The object was written again since the notice; replay its versions from the bucket.",
    DigestMalformed "digest_malformed" "The digest file has not the form that CloudTrail documents, so what it names is not known to be expected; fetch it again and replay.",
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
