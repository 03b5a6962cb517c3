//! Which rows count towards which meter: one table.

use crate::Meter;

use super::columns::Fields;

/// What a row's quantity measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// One by one.
    Each,
    /// Units of 2^30 bytes; AWS bills call them GB.
    Gib,
    /// 2^30 bytes stored for the whole billing period; AWS bills call them GB-Months.
    GibMonths,
}

/// Rows of this kind count towards this meter. A row counts by the first rule that fits it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The meter.
    pub meter: Meter,
    /// What the rows are, for people.
    pub rows: &'static str,
    /// `ServiceName` is one of these; any where there are none.
    pub services: &'static [&'static str],
    /// `ConsumedUnit` is one of these.
    pub units: &'static [&'static str],
    /// What one of the units is.
    pub measure: Measure,
    /// `x_UsageType` has one of these in it, where the export has that column.
    pub usage_types: &'static [&'static str],
    /// Otherwise `ChargeDescription` has one of these in it, in whatever case.
    pub descriptions: &'static [&'static str],
}

const GB: &[&str] = &["GB", "GiB"];
const GB_MONTHS: &[&str] = &["GB-Months", "GB-Mo", "GiB-Months"];

/// Every rule, in the order they are tried.
///
/// Names of services, units and usage types: AWS Data Exports ("FOCUS 1.0 with AWS columns") and the AWS price list.
pub const RULES: &[Rule] = &[
    Rule {
        meter: Meter::NatGatewayBytes,
        rows: "bytes processed by NAT gateways",
        services: &["Amazon Elastic Compute Cloud", "Amazon Virtual Private Cloud"],
        units: GB,
        measure: Measure::Gib,
        usage_types: &["NatGateway-Bytes", "NatGateway-Prvd-Bytes"],
        descriptions: &["processed by nat gateway"],
    },
    Rule {
        meter: Meter::ArchiveStorageGb,
        rows: "storage in S3 Glacier classes",
        services: &["Amazon Simple Storage Service", "Amazon Glacier", "Amazon S3 Glacier Deep Archive"],
        units: GB_MONTHS,
        measure: Measure::GibMonths,
        usage_types: &["TimedStorage-GlacierByteHrs", "TimedStorage-GDA-ByteHrs", "TimedStorage-GIR-ByteHrs"],
        descriptions: &["glacier"],
    },
    Rule {
        meter: Meter::LogStorageGb,
        rows: "storage of CloudWatch Logs",
        services: &["AmazonCloudWatch", "Amazon CloudWatch"],
        units: GB_MONTHS,
        measure: Measure::GibMonths,
        usage_types: &["TimedStorage-ByteHrs"],
        descriptions: &["of log storage"],
    },
    Rule {
        meter: Meter::LogStorageGb,
        rows: "storage in the other S3 classes",
        services: &["Amazon Simple Storage Service"],
        units: GB_MONTHS,
        measure: Measure::GibMonths,
        usage_types: &["TimedStorage-"],
        descriptions: &["of storage used"],
    },
    Rule {
        meter: Meter::DataTransferBytes,
        rows: "data transfer of any service, in and out",
        services: &[],
        units: GB,
        measure: Measure::Gib,
        usage_types: &["DataTransfer-", "-In-Bytes", "-Out-Bytes"],
        descriptions: &["data transfer", "datatransfer-", "-in-bytes", "-out-bytes"],
    },
    Rule {
        meter: Meter::ConfigRuleEvaluations,
        rows: "evaluations of Config rules",
        services: &["AWS Config"],
        units: &["ConfigRuleEvaluations", "Evaluations", "Rule Evaluations", "Count"],
        measure: Measure::Each,
        usage_types: &["ConfigRuleEvaluations"],
        descriptions: &["rule evaluation", "configruleevaluations"],
    },
    Rule {
        meter: Meter::CloudTrailEvents,
        rows: "events recorded by CloudTrail, free and paid; insight analysis is none",
        services: &["AWS CloudTrail"],
        units: &["Events"],
        measure: Measure::Each,
        usage_types: &["EventsRecorded"],
        descriptions: &["event recorded", "events recorded", "eventsrecorded"],
    },
];

/// The rule by which a row counts.
pub(super) fn rule_for(row: &Fields<'_>) -> Option<&'static Rule> {
    let description = row.charge_description.to_lowercase();
    RULES.iter().find(|rule| {
        let is_of_kind = if row.usage_type.is_empty() {
            rule.descriptions.iter().any(|part| description.contains(part))
        } else {
            rule.usage_types.iter().any(|part| row.usage_type.contains(part))
        };
        is_of_kind
            && rule.units.contains(&row.consumed_unit)
            && (rule.services.is_empty() || rule.services.contains(&row.service))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(service: &'a str, unit: &'a str, usage_type: &'a str, description: &'a str) -> Fields<'a> {
        Fields {
            provider: "AWS",
            billing_account: "",
            sub_account: "",
            billing_period_start: "",
            billing_period_end: "",
            charge_period_start: "",
            charge_period_end: "",
            charge_category: "Usage",
            charge_description: description,
            service,
            consumed_quantity: "",
            consumed_unit: unit,
            region: "",
            resource: "",
            usage_type,
        }
    }

    #[test]
    fn rows_of_real_bills_find_their_meter() {
        let meter = |service, unit, usage_type, description| {
            rule_for(&row(service, unit, usage_type, description)).map(|rule| rule.meter)
        };
        let (ec2, s3) = ("Amazon Elastic Compute Cloud", "Amazon Simple Storage Service");
        for (service, unit, description, expected) in [
            (ec2, "GB", "$0.045 per GB Data Processed by NAT Gateways", Some(Meter::NatGatewayBytes)),
            (ec2, "Hours", "$0.045 per NAT Gateway Hour", None),
            (ec2, "GB", "$0.000 per GB - data transfer in per month", Some(Meter::DataTransferBytes)),
            (ec2, "GB", "USD 0.0 per GB for USE2-AWS-In-Bytes in EU (Stockholm)", Some(Meter::DataTransferBytes)),
            (ec2, "GB-Months", "$0.05 per GB-Month of snapshot data stored - EU", None),
            (s3, "GB-Months", "$0.023 per GB - first 50 TB / month of storage used", Some(Meter::LogStorageGb)),
            (
                s3,
                "GB-Months",
                "$0.004 per GB-Month of storage used in Glacier Flexible Retrieval",
                Some(Meter::ArchiveStorageGb),
            ),
            (
                "AmazonCloudWatch",
                "GB-Months",
                "$0.03 per GB-mo of log storage - US West (Oregon)",
                Some(Meter::LogStorageGb),
            ),
            ("AmazonCloudWatch", "GB", "$0.50 per GB custom log data ingested in Standard log class", None),
            (
                "AWS CloudTrail",
                "Events",
                "0.0 per free event recorded in US East (Ohio) region",
                Some(Meter::CloudTrailEvents),
            ),
            ("AWS CloudTrail", "Events", "$0.35 per 100,000 events analyzed for Insights", None),
            (
                "AWS Config",
                "ConfigRuleEvaluations",
                "$0.001 per Config rule evaluation",
                Some(Meter::ConfigRuleEvaluations),
            ),
            ("AWS Lambda", "Requests", "AWS Lambda - Requests Free Tier", None),
        ] {
            assert_eq!(meter(service, unit, "", description), expected, "{description}");
        }
        // What AWS calls the usage is surer than what it tells people about it.
        assert_eq!(meter(ec2, "GB", "USE2-NatGateway-Bytes", "data transfer"), Some(Meter::NatGatewayBytes));
        assert_eq!(meter(ec2, "GB", "USE2-Other", "data transfer"), None);
        assert_eq!(meter(s3, "GB-Mo", "TimedStorage-GlacierByteHrs", ""), Some(Meter::ArchiveStorageGb));
        assert_eq!(meter(s3, "GB-Mo", "EUC1-TimedStorage-SIA-ByteHrs", ""), Some(Meter::LogStorageGb));
        assert_eq!(meter("AWS CloudTrail", "Events", "USE1-PaidEventsRecorded", ""), Some(Meter::CloudTrailEvents));
        assert_eq!(meter("AWS CloudTrail", "Events", "USE1-InsightsEvents", ""), None);
    }
}
