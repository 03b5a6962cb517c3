//! Findings of GuardDuty and Security Hub: one unit is one distinct finding, however often it is sent again or updated.
//!
//! Sources of the field names: Amazon GuardDuty API Reference, "Finding" (camelCase in EventBridge and exports, PascalCase as
//! some SDKs print it); AWS Security Hub User Guide, "AWS Security Finding Format (ASFF)" (PascalCase).

use crate::json::{Members, Scalar};
use crate::rules::{account_of, dimension, event_time};
use crate::{Dimensions, Identity, Meter, NotCounted, Reason, Rules, Source, UsageEvent, Verdict};

/// Whether an object is a GuardDuty finding, whole or not: its ARN or its service says so.
pub(crate) fn is_guardduty(finding: &Members<'_>) -> bool {
    let arn = finding.text_of(["arn", "Arn"]);
    let is_named = matches!(&arn, Scalar::Text(arn) if arn.split(':').nth(2) == Some("guardduty"));
    let says = |service: &str, name: &str| finding.object(service).is_some_and(|it| it.text(name).is("guardduty"));
    is_named || says("service", "serviceName") || says("Service", "ServiceName")
}

/// Judges a GuardDuty finding in either spelling.
pub(crate) fn judge_guardduty<'a>(finding: &Members<'a>, rules: Rules<'_>) -> Verdict<'a> {
    let fields = Fields {
        account: finding.text_of(["accountId", "AccountId"]),
        id: finding.text_of(["id", "Id"]),
        created_at: finding.text_of(["createdAt", "CreatedAt"]),
        region: finding.text_of(["region", "Region"]),
    };
    fields.judge(Meter::GuardDutyFindings, Source::GuardDuty, rules)
}

/// Whether an object is a Security Hub finding, whole or not: it has the schema's version, or names a product.
pub(crate) fn is_security_hub(finding: &Members<'_>) -> bool {
    let product = finding.text("ProductArn");
    let is_named = matches!(&product, Scalar::Text(arn) if arn.split(':').nth(2) == Some("securityhub"));
    is_named || finding.text("SchemaVersion").is("2018-10-08")
}

/// Judges a Security Hub finding.
pub(crate) fn judge_security_hub<'a>(finding: &Members<'a>, rules: Rules<'_>) -> Verdict<'a> {
    let fields = Fields {
        account: finding.text("AwsAccountId"),
        id: finding.text("Id"),
        created_at: finding.text("CreatedAt"),
        region: finding.text("Region"),
    };
    fields.judge(Meter::SecurityHubFindings, Source::SecurityHub, rules)
}

/// What decides; everything else of a finding may change from one update to the next.
struct Fields<'a> {
    account: Scalar<'a>,
    id: Scalar<'a>,
    created_at: Scalar<'a>,
    region: Scalar<'a>,
}

impl<'a> Fields<'a> {
    fn judge(self, meter: Meter, source: Source, rules: Rules<'_>) -> Verdict<'a> {
        match self.read(meter, rules) {
            Err(reason) => Verdict::DeadLetter(reason),
            Ok(event) if rules.counts(source, &event) => Verdict::Usage(event),
            Ok(_) => Verdict::NotCounted(NotCounted::NotTheDeclaredSource),
        }
    }

    fn read(self, meter: Meter, rules: Rules<'_>) -> Result<UsageEvent<'a>, Reason> {
        let account = account_of(&self.account)?;
        let id = self.id.into_text().ok_or(Reason::FindingIdMissing)?;
        let event_time = event_time(&self.created_at, rules.now)?;
        let dimensions = Dimensions { region: dimension(self.region)?, category: Dimensions::NONE.into() };
        Ok(UsageEvent { meter, account, identity: Identity::of_parts(&[id.as_bytes()]), event_time, dimensions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    const GUARDDUTY: &str = r#"{"accountId":"111111111111","id":"5f","createdAt":"2026-10-01T09:00:00.5Z",
        "region":"eu-west-1","arn":"arn:aws:guardduty:eu-west-1:111111111111:detector/d/finding/5f","severity":5}"#;
    const SECURITY_HUB: &str = r#"{"SchemaVersion":"2018-10-08","AwsAccountId":"111111111111","Id":"arn:5f",
        "ProductArn":"arn:aws:securityhub:eu-west-1::product/aws/guardduty","CreatedAt":"2026-10-01T09:00:00.5Z"}"#;

    fn rules() -> Rules<'static> {
        Rules::at(Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap())
    }

    fn judge(finding: &str) -> Verdict<'_> {
        let members = Members::read(finding.as_bytes()).unwrap();
        assert_ne!(is_guardduty(&members), is_security_hub(&members), "{finding}");
        let judge = if is_guardduty(&members) { judge_guardduty } else { judge_security_hub };
        judge(&members, rules())
    }

    #[track_caller]
    fn usage(finding: &str) -> UsageEvent<'_> {
        match judge(finding) {
            Verdict::Usage(event) => event,
            other => panic!("{other:?} for {finding}"),
        }
    }

    #[test]
    fn a_finding_is_itself_in_either_spelling_and_after_every_update() {
        let first = usage(GUARDDUTY);
        assert_eq!((first.meter, first.account.as_str()), (Meter::GuardDutyFindings, "111111111111"));
        assert_eq!((&*first.dimensions.region, &*first.dimensions.category), ("eu-west-1", "none"));
        let spelled = GUARDDUTY
            .replace("accountId", "AccountId")
            .replace("\"id\"", "\"Id\"")
            .replace("createdAt", "CreatedAt")
            .replace("region\"", "Region\"")
            .replace("\"arn\"", "\"Arn\"");
        assert_eq!(usage(&spelled), first);
        assert_eq!(
            usage(&GUARDDUTY.replace("\"severity\":5", "\"severity\":8,\"updatedAt\":\"2026-10-01T11:00:00Z\"")),
            first
        );
        assert_ne!(usage(&GUARDDUTY.replace("\"5f\"", "\"60\"")).identity, first.identity);
    }

    #[test]
    fn the_same_id_in_security_hub_is_a_finding_of_another_meter() {
        let event = usage(SECURITY_HUB);
        assert_eq!((event.meter, &*event.dimensions.region), (Meter::SecurityHubFindings, "none"));
        let with_region = SECURITY_HUB.replace("\"Id\"", "\"Region\":\"eu-west-1\",\"Id\"");
        assert_eq!(usage(&with_region).identity, event.identity);
    }

    #[test]
    fn a_finding_that_cannot_be_placed_is_set_aside() {
        for (from, to, reason) in [
            ("\"accountId\":\"111111111111\",", "", Reason::AccountMissing),
            ("111111111111\",\"id", "1111111111111\",\"id", Reason::AccountMalformed),
            ("\"accountId\":\"111111111111\"", "\"accountId\":111111111111", Reason::AccountMalformed),
            ("\"id\":\"5f\"", "\"id\":\"\"", Reason::FindingIdMissing),
            ("\"id\":\"5f\"", "\"id\":5", Reason::FindingIdMissing),
            ("createdAt", "created", Reason::EventTimeMissing),
            ("2026-10-01T09", "2026-10-01Z09", Reason::EventTimeMalformed),
            ("2026-10-01T09", "2026-10-01T14", Reason::EventTimeInFuture),
            ("\"region\":\"eu-west-1\"", "\"region\":\"\\u0000\"", Reason::DimensionMalformed),
        ] {
            let finding = GUARDDUTY.replacen(from, to, 1);
            assert_ne!(finding, GUARDDUTY);
            assert_eq!(judge(&finding), Verdict::DeadLetter(reason), "{finding}");
        }
    }
}
