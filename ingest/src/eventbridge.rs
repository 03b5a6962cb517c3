//! EventBridge envelopes: what an event's `detail` is, by its `detail-type`.
//!
//! Envelope ids, times and resources are the delivery's and decide nothing. Sources: Amazon EventBridge User Guide, "AWS
//! service events delivered via AWS CloudTrail"; the events references of GuardDuty, Security Hub and AWS Config.

use crate::NotCounted;
use crate::json::Members;

/// What an envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// A CloudTrail event, as an S3 object would hold it.
    CloudTrail,
    GuardDutyFinding,
    /// `findings`, one or several.
    SecurityHubFindings,
    /// A notice of an S3 object.
    ObjectNotice,
    /// Understood, and not usage.
    NotCounted(NotCounted),
    /// Nothing this program knows.
    Unknown,
}

/// Services whose events may be usage in a form that is not known yet: an unknown event of theirs is set aside.
const SOURCES_OF_USAGE: [&str; 4] = ["aws.config", "aws.guardduty", "aws.organizations", "aws.securityhub"];

/// Whether an object is an envelope.
pub(crate) fn is_envelope(members: &Members<'_>) -> bool {
    members.has("detail-type")
}

/// What an envelope holds.
pub(crate) fn held(envelope: &Members<'_>) -> Held {
    let detail_type = envelope.text("detail-type").into_text().unwrap_or_default();
    match &*detail_type {
        // API calls, service events, console sign-ins and actions, insights.
        name if name.ends_with(" via CloudTrail") => Held::CloudTrail,
        "GuardDuty Finding" => Held::GuardDutyFinding,
        name if name.starts_with("GuardDuty ") => Held::NotCounted(NotCounted::GuardDutyNotice),
        "Security Hub Findings - Imported" | "Security Hub Findings - Custom Action" => Held::SecurityHubFindings,
        "Security Hub Insight Results" => Held::NotCounted(NotCounted::SecurityHubInsight),
        "Config Configuration Item Change" => Held::NotCounted(NotCounted::ConfigItem),
        name if name.starts_with("Config ") => Held::NotCounted(NotCounted::ConfigNotice),
        name if name.starts_with("Object ") && envelope.text("source").is("aws.s3") => Held::ObjectNotice,
        _ => {
            let source = envelope.text("source").into_text().unwrap_or_default();
            let is_other = source.starts_with("aws.") && !SOURCES_OF_USAGE.contains(&&*source);
            if is_other { Held::NotCounted(NotCounted::OtherEvent) } else { Held::Unknown }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_type_says_what_an_envelope_holds() {
        for (source, detail_type, expected) in [
            ("aws.ec2", "AWS API Call via CloudTrail", Held::CloudTrail),
            ("aws.organizations", "AWS Service Event via CloudTrail", Held::CloudTrail),
            ("aws.signin", "AWS Console Sign In via CloudTrail", Held::CloudTrail),
            ("aws.cloudtrail", "AWS Insight via CloudTrail", Held::CloudTrail),
            ("my.forwarder", "GuardDuty Finding", Held::GuardDutyFinding),
            ("aws.guardduty", "GuardDuty Runtime Protection Healthy", Held::NotCounted(NotCounted::GuardDutyNotice)),
            ("aws.securityhub", "Security Hub Findings - Imported", Held::SecurityHubFindings),
            ("aws.securityhub", "Security Hub Insight Results", Held::NotCounted(NotCounted::SecurityHubInsight)),
            ("aws.securityhub", "Findings Imported V2", Held::Unknown),
            ("aws.config", "Config Configuration Item Change", Held::NotCounted(NotCounted::ConfigItem)),
            ("aws.config", "Config Rules Compliance Change", Held::NotCounted(NotCounted::ConfigNotice)),
            ("aws.s3", "Object Created", Held::ObjectNotice),
            ("aws.s3", "Object Deleted", Held::ObjectNotice),
            ("my.service", "Object Created", Held::Unknown),
            ("aws.ec2", "EC2 Instance State-change Notification", Held::NotCounted(NotCounted::OtherEvent)),
            ("aws.events", "Scheduled Event", Held::NotCounted(NotCounted::OtherEvent)),
            ("my.service", "Order Placed", Held::Unknown),
            ("", "", Held::Unknown),
        ] {
            let envelope = format!(r#"{{"source":"{source}","detail-type":"{detail_type}"}}"#);
            assert_eq!(held(&Members::read(envelope.as_bytes()).unwrap()), expected, "{detail_type}");
        }
        assert_eq!(held(&Members::read(br#"{"detail-type":7}"#).unwrap()), Held::Unknown);
    }
}
