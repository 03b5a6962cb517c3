//! What is counted.

use std::fmt;

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
}

/// No meter has this name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown meter")]
pub struct UnknownMeter;

impl Meter {
    /// The meters that have a price.
    pub const PRICED: [Self; 5] = [
        Self::LogStorageGb,
        Self::NatGatewayBytes,
        Self::CloudTrailEvents,
        Self::ConfigRuleEvaluations,
        Self::GuardDutyFindings,
    ];

    /// The name used in keys, SQL, the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudTrailEvents => "cloudtrail_events",
            Self::GuardDutyFindings => "guardduty_findings",
            Self::ConfigRuleEvaluations => "config_rule_evaluations",
            Self::LogStorageGb => "log_storage_gb",
            Self::NatGatewayBytes => "nat_gateway_bytes",
        }
    }

    /// Reads a meter's name.
    pub fn parse(name: &str) -> Result<Self, UnknownMeter> {
        Self::PRICED.into_iter().find(|meter| meter.as_str() == name).ok_or(UnknownMeter)
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
