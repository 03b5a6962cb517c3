//! What is counted, how its values add up, and in which raw unit.
//!
//! The built-in meters are code, because rules of counting belong to them. Everything else that can be sampled is data: a
//! [`MeterDefinition`] names it, and a name that nobody defined is a dead letter, never a guess.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

/// What one unit of usage is. The five of [`Meter::PRICED`] are charged; the others are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meter {
    /// One CloudTrail event logged for an account.
    CloudTrailEvents,
    /// One distinct GuardDuty finding.
    GuardDutyFindings,
    /// One evaluation of a Config rule for a resource.
    ConfigRuleEvaluations,
    /// One GB-month (2^30 bytes over a month) of log storage.
    LogStorageGb,
    /// One byte processed by a NAT gateway.
    NatGatewayBytes,
    /// One distinct Security Hub finding.
    SecurityHubFindings,
    /// One live member account.
    Accounts,
    /// One live organizational unit.
    OrganizationalUnits,
    /// One live service control policy.
    ServiceControlPolicies,
    /// One GB-month (2^30 bytes over a month) of archive storage.
    ArchiveStorageGb,
    /// One byte of data transfer.
    DataTransferBytes,
    /// No usage: the end of one generation of an export, which gives its rows their force.
    ExportGenerations,
    /// A sample meter that is data.
    Sample(SampleMeter),
}

/// The name of a sample meter: 2 to [`SampleMeter::BYTES_MAX`] of `a-z`, `0-9` and `_`, a letter first.
///
/// Cheap to copy: each name is kept once, for the life of the process. That is bounded by [`SampleMeter::NAMES_MAX`], and
/// names are read from definitions and from what this program wrote, never from a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleMeter(&'static str);

static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// No meter has this name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown meter")]
pub struct UnknownMeter;

/// The text is no name of a sample meter.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAMeterName {
    /// It has another form.
    #[error("a meter's name has 2 to 40 lower-case letters, digits and underscores, a letter first")]
    Form,
    /// A built-in meter has it.
    #[error("a built-in meter has this name")]
    BuiltIn,
    /// There are more names than any deployment has.
    #[error("more than 4,096 sample meters")]
    TooMany,
}

impl SampleMeter {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 40;
    /// Most names in one process.
    pub const NAMES_MAX: usize = 4_096;

    /// Reads a name; the names of built-in meters are none.
    pub fn parse(name: &str) -> Result<Self, NotAMeterName> {
        let part = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
        let is_name = (2..=Self::BYTES_MAX).contains(&name.len())
            && name.as_bytes()[0].is_ascii_lowercase()
            && name.as_bytes().iter().all(part);
        if !is_name {
            return Err(NotAMeterName::Form);
        }
        if Meter::parse(name).is_ok() {
            return Err(NotAMeterName::BuiltIn);
        }
        // A set is whole after every call, so a panic elsewhere does not spoil it.
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = names.get(name) {
            return Ok(Self(kept));
        }
        if Self::NAMES_MAX <= names.len() {
            return Err(NotAMeterName::TooMany);
        }
        let kept: &'static str = Box::leak(name.into());
        names.insert(kept);
        Ok(Self(kept))
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Debug for SampleMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How what is reported becomes the total of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aggregation {
    /// Distinct events are counted.
    Count,
    /// Amounts are added, each in the hour it begins in.
    Sum,
    /// The highest level of the hour, for each resource.
    Max,
    /// Levels times the seconds they lasted, for each resource.
    TimeWeighted,
    /// The seconds each resource was live.
    Interval,
    /// Nothing: these facts say what becomes of others.
    Marker,
}

impl Aggregation {
    /// Those a sample meter may have.
    pub const OF_SAMPLES: [Self; 3] = [Self::Sum, Self::Max, Self::TimeWeighted];

    /// The name used in definitions and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Max => "max",
            Self::TimeWeighted => "time_weighted",
            Self::Interval => "interval",
            Self::Marker => "marker",
        }
    }

    /// Reads the name of one that a sample meter may have.
    pub fn parse_of_samples(name: &str) -> Option<Self> {
        Self::OF_SAMPLES.into_iter().find(|aggregation| aggregation.as_str() == name)
    }
}

/// What the totals of usage rows are in. Totals are exact numbers of these, never rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RawUnit {
    /// Events, findings, evaluations, units of a sample: one by one.
    Each,
    /// Bytes.
    Byte,
    /// Bytes times the seconds they were stored.
    ByteSecond,
    /// Units of a time-weighted sample times the seconds they lasted.
    UnitSecond,
    /// Seconds a resource was live.
    Second,
}

impl RawUnit {
    /// The name used on the command line and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Byte => "byte",
            Self::ByteSecond => "byte_second",
            Self::UnitSecond => "unit_second",
            Self::Second => "second",
        }
    }
}

impl Meter {
    /// The meters that have a price.
    pub const PRICED: [Self; 5] = [
        Self::LogStorageGb,
        Self::NatGatewayBytes,
        Self::CloudTrailEvents,
        Self::ConfigRuleEvaluations,
        Self::GuardDutyFindings,
    ];

    /// Every meter that is code.
    pub const BUILT_IN: [Self; 12] = [
        Self::CloudTrailEvents,
        Self::GuardDutyFindings,
        Self::SecurityHubFindings,
        Self::ConfigRuleEvaluations,
        Self::Accounts,
        Self::OrganizationalUnits,
        Self::ServiceControlPolicies,
        Self::LogStorageGb,
        Self::ArchiveStorageGb,
        Self::NatGatewayBytes,
        Self::DataTransferBytes,
        Self::ExportGenerations,
    ];

    /// The name used in keys, SQL, the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudTrailEvents => "cloudtrail_events",
            Self::GuardDutyFindings => "guardduty_findings",
            Self::ConfigRuleEvaluations => "config_rule_evaluations",
            Self::LogStorageGb => "log_storage_gb",
            Self::NatGatewayBytes => "nat_gateway_bytes",
            Self::SecurityHubFindings => "security_hub_findings",
            Self::Accounts => "accounts",
            Self::OrganizationalUnits => "organizational_units",
            Self::ServiceControlPolicies => "service_control_policies",
            Self::ArchiveStorageGb => "archive_storage_gb",
            Self::DataTransferBytes => "data_transfer_bytes",
            Self::ExportGenerations => "export_generations",
            Self::Sample(name) => name.as_str(),
        }
    }

    /// Reads the name of a built-in meter.
    pub fn parse(name: &str) -> Result<Self, UnknownMeter> {
        Self::BUILT_IN.into_iter().find(|meter| meter.as_str() == name).ok_or(UnknownMeter)
    }

    /// Reads a name that was written by this program: a built-in meter, or the sample meter of that name, defined or not.
    ///
    /// For stores and the stream. What comes from a source is looked up in [`Meters`].
    pub fn parse_stored(name: &str) -> Result<Self, UnknownMeter> {
        Self::parse(name).or_else(|_| SampleMeter::parse(name).map(Self::Sample).map_err(|_| UnknownMeter))
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A meter and the rules of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterDefinition {
    /// Which meter.
    pub meter: Meter,
    /// How its values become an hour's total.
    pub aggregation: Aggregation,
    /// What totals are in.
    pub raw_unit: RawUnit,
    /// How far apart two samples of a resource may lie, in seconds, so that the first is known to have lasted until the
    /// second. A longer gap is missing: it counts as nothing and is reported. Only for time-weighted meters.
    pub gap_seconds_max: Option<u32>,
    /// What it is, for people.
    pub description: String,
}

impl MeterDefinition {
    /// Longest gap that can be defined: a leap year.
    pub const GAP_SECONDS_MAX: u32 = 366 * 24 * 3_600;

    /// Longest gap of stored bytes: CloudWatch has one sample a day, and one of them may be missing.
    ///
    /// Source: Amazon S3 User Guide, "Amazon S3 daily storage metrics for buckets in CloudWatch".
    pub const STORAGE_GAP_SECONDS_MAX: u32 = 48 * 3_600;

    /// The definition of a sample meter; the raw unit follows from the aggregation.
    pub fn of_samples(
        name: SampleMeter,
        aggregation: Aggregation,
        gap_seconds_max: Option<u32>,
        description: String,
    ) -> Result<Self, DefinitionError> {
        let raw_unit = match aggregation {
            Aggregation::Sum | Aggregation::Max => RawUnit::Each,
            Aggregation::TimeWeighted => RawUnit::UnitSecond,
            other => return Err(DefinitionError::NotOfSamples(other.as_str())),
        };
        match (aggregation, gap_seconds_max) {
            (Aggregation::TimeWeighted, None | Some(0)) => return Err(DefinitionError::NeedsGap),
            (Aggregation::TimeWeighted, Some(gap)) if Self::GAP_SECONDS_MAX < gap => {
                return Err(DefinitionError::GapTooLong);
            }
            (Aggregation::Sum | Aggregation::Max, Some(_)) => return Err(DefinitionError::HasNoGap),
            _ => {}
        }
        Ok(Self { meter: Meter::Sample(name), aggregation, raw_unit, gap_seconds_max, description })
    }

    fn built_in(meter: Meter) -> Option<Self> {
        let storage = Some(Self::STORAGE_GAP_SECONDS_MAX);
        let (aggregation, raw_unit, gap_seconds_max, description) = match meter {
            Meter::CloudTrailEvents => (Aggregation::Count, RawUnit::Each, None, "CloudTrail events logged"),
            Meter::GuardDutyFindings => (Aggregation::Count, RawUnit::Each, None, "distinct GuardDuty findings"),
            Meter::SecurityHubFindings => (Aggregation::Count, RawUnit::Each, None, "distinct Security Hub findings"),
            Meter::ConfigRuleEvaluations => {
                (Aggregation::Count, RawUnit::Each, None, "evaluations of a Config rule for a resource")
            }
            Meter::Accounts => (Aggregation::Interval, RawUnit::Second, None, "live member accounts"),
            Meter::OrganizationalUnits => (Aggregation::Interval, RawUnit::Second, None, "live organizational units"),
            Meter::ServiceControlPolicies => {
                (Aggregation::Interval, RawUnit::Second, None, "live service control policies")
            }
            Meter::LogStorageGb => (Aggregation::TimeWeighted, RawUnit::ByteSecond, storage, "bytes of logs stored"),
            Meter::ArchiveStorageGb => {
                (Aggregation::TimeWeighted, RawUnit::ByteSecond, storage, "bytes stored in the archive")
            }
            Meter::NatGatewayBytes => (Aggregation::Sum, RawUnit::Byte, None, "bytes processed by NAT gateways"),
            Meter::DataTransferBytes => (Aggregation::Sum, RawUnit::Byte, None, "bytes transferred"),
            Meter::ExportGenerations => {
                (Aggregation::Marker, RawUnit::Each, None, "ends of exports, which give their rows their force")
            }
            Meter::Sample(_) => return None,
        };
        Some(Self { meter, aggregation, raw_unit, gap_seconds_max, description: description.to_owned() })
    }
}

/// Why a sample meter cannot be defined so.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DefinitionError {
    /// Its values cannot be samples.
    #[error("a sample meter is sum, max or time_weighted, not {0}")]
    NotOfSamples(&'static str),
    /// Nobody could tell missing from unchanged.
    #[error("a time_weighted meter needs the longest gap between two samples, in seconds")]
    NeedsGap,
    /// Nothing is known for so long.
    #[error("the longest gap between two samples is at most 366 days")]
    GapTooLong,
    /// It has no use.
    #[error("only a time_weighted meter has a longest gap between samples")]
    HasNoGap,
}

/// Every meter that is known: the built-in ones and the sample meters that are defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meters {
    definitions: BTreeMap<&'static str, MeterDefinition>,
}

impl Meters {
    /// The built-in meters.
    pub fn built_in() -> Self {
        let definitions = Meter::BUILT_IN.into_iter().filter_map(MeterDefinition::built_in);
        Self { definitions: definitions.map(|definition| (definition.meter.as_str(), definition)).collect() }
    }

    /// The built-in meters and these. A definition of a built-in meter is left out: those are code.
    pub fn with_samples(samples: impl IntoIterator<Item = MeterDefinition>) -> Self {
        let mut meters = Self::built_in();
        for definition in samples {
            if matches!(definition.meter, Meter::Sample(_)) {
                meters.definitions.insert(definition.meter.as_str(), definition);
            }
        }
        meters
    }

    /// The meter of this name; `None` for a name that nobody defined.
    pub fn find(&self, name: &str) -> Option<&MeterDefinition> {
        self.definitions.get(name)
    }

    /// A meter's definition; `None` for a sample meter that nobody defined.
    pub fn get(&self, meter: Meter) -> Option<&MeterDefinition> {
        self.definitions.get(meter.as_str())
    }

    /// All of them, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &MeterDefinition> {
        self.definitions.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_one_that_nobody_defined_is_unknown() {
        let meters = Meters::built_in();
        for meter in Meter::BUILT_IN {
            assert_eq!(Meter::parse(meter.as_str()), Ok(meter));
            assert_eq!(meters.find(meter.as_str()).map(|definition| definition.meter), Some(meter));
        }
        for bad in ["", "Accounts", "vpn", "custom rds", "_a", "1a", "a", "é2", &"a".repeat(41)] {
            assert_eq!(meters.find(bad), None, "{bad}");
        }
        let name = SampleMeter::parse("custom_lambda_invocations").unwrap();
        let defined = MeterDefinition::of_samples(name, Aggregation::Sum, None, "calls".to_owned()).unwrap();
        let meters = Meters::with_samples([defined.clone()]);
        assert_eq!(meters.find("custom_lambda_invocations"), Some(&defined));
        assert_eq!(Meter::parse_stored("custom_lambda_invocations"), Ok(Meter::Sample(name)));
        assert_eq!(Meter::parse("custom_lambda_invocations"), Err(UnknownMeter));
        assert_eq!(SampleMeter::parse("accounts"), Err(NotAMeterName::BuiltIn));
        for bad in ["", "Vpn", "custom rds", "_a", "1a", "a", "é2", &"a".repeat(41)] {
            assert_eq!(SampleMeter::parse(bad), Err(NotAMeterName::Form), "{bad}");
        }
        assert_eq!(SampleMeter::parse(&"a".repeat(40)).unwrap().as_str().len(), 40);
    }

    #[test]
    fn a_definition_says_all_its_aggregation_needs_and_no_more() {
        let name = SampleMeter::parse("queue_bytes").unwrap();
        for (aggregation, gap, expected) in [
            (Aggregation::Sum, None, Ok(RawUnit::Each)),
            (Aggregation::Max, None, Ok(RawUnit::Each)),
            (Aggregation::TimeWeighted, Some(3_600), Ok(RawUnit::UnitSecond)),
            (Aggregation::TimeWeighted, None, Err(DefinitionError::NeedsGap)),
            (Aggregation::TimeWeighted, Some(0), Err(DefinitionError::NeedsGap)),
            (Aggregation::TimeWeighted, Some(366 * 86_400 + 1), Err(DefinitionError::GapTooLong)),
            (Aggregation::Max, Some(1), Err(DefinitionError::HasNoGap)),
            (Aggregation::Count, None, Err(DefinitionError::NotOfSamples("count"))),
            (Aggregation::Interval, None, Err(DefinitionError::NotOfSamples("interval"))),
        ] {
            let defined = MeterDefinition::of_samples(name, aggregation, gap, String::new());
            assert_eq!(defined.map(|definition| definition.raw_unit), expected, "{aggregation:?} {gap:?}");
        }
    }
}
