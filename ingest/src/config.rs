//! AWS Config: invocations of rules, results that are put, and what is no evaluation.
//!
//! Sources: AWS Config Developer Guide, "Example events for AWS Config rules", "Notifications that AWS Config sends";
//! AWS Config API Reference, `PutEvaluations`.

use std::borrow::Cow;

use crate::json::{Members, Scalar};
use crate::rules::{account_of, dimension, event_time};
use crate::{Beside, Dimensions, Identity, Meter, NotCounted, Reason, Rules, Source, UsageEvent, Verdict};

/// The resource type of what a rule that runs on a schedule evaluates: its account, as AWS's own such rules report it.
const ACCOUNT_TYPE: &str = "AWS::::Account";

/// Judges the event by which AWS Config invokes the function of a custom rule: one evaluation of a rule for a resource.
pub(crate) fn judge_invocation(invocation: &Members<'_>, rules: Rules<'_>) -> Verdict<'static> {
    match evaluation(invocation, rules) {
        Err(reason) => Verdict::DeadLetter(reason),
        Ok(event) if rules.counts(Source::RuleInvocations, &event) => Verdict::Usage(event),
        Ok(_) => Verdict::NotCounted(NotCounted::NotTheDeclaredSource),
    }
}

fn evaluation(invocation: &Members<'_>, rules: Rules<'_>) -> Result<UsageEvent<'static>, Reason> {
    let text = invocation.text("invokingEvent");
    let invoking = match &text {
        Scalar::Text(text) => Members::read(text.as_bytes()),
        // Some tools unfold the text.
        Scalar::Absent | Scalar::Other => invocation.object("invokingEvent"),
    };
    let invoking = invoking.ok_or(Reason::InvokingEventMalformed)?;
    let item = match invoking.text("messageType").into_text().as_deref() {
        Some("ConfigurationItemChangeNotification") => Some("configurationItem"),
        Some("OversizedConfigurationItemChangeNotification") => Some("configurationItemSummary"),
        Some("ScheduledNotification" | "ConfigurationSnapshotDeliveryCompleted") => None,
        _ => return Err(Reason::InvokingEventMalformed),
    };
    let item = match item {
        None => None,
        Some(key) => Some(invoking.object(key).ok_or(Reason::InvokingEventMalformed)?),
    };
    let rule = invocation.text("configRuleName").into_text().ok_or(Reason::RuleMissing)?;
    let given = invocation.text("accountId");
    let in_item = item.as_ref().unwrap_or(&invoking).text("awsAccountId");
    let account = account_of(if given.says_nothing() { &in_item } else { &given })?;
    let (resource_type, resource_id) = match &item {
        None => (Cow::Borrowed(ACCOUNT_TYPE), Cow::Owned(account.to_string())),
        Some(item) => {
            let text = |key| item.text(key).into_text().ok_or(Reason::ResourceMissing);
            (text("resourceType")?, text("resourceId")?)
        }
    };
    let captured = item.as_ref().map_or(Scalar::Absent, |item| item.text("configurationItemCaptureTime"));
    let notified = invoking.text("notificationCreationTime");
    let event_time = event_time(if notified.says_nothing() { &captured } else { &notified }, rules.now)?;
    let region = dimension(region(invocation, item.as_ref()))?.into_owned();
    let identity = Identity::of_parts(&[
        region.as_bytes(),
        rule.as_bytes(),
        resource_type.as_bytes(),
        resource_id.as_bytes(),
        event_time.to_string().as_bytes(),
    ]);
    let dimensions = Dimensions { region: Cow::Owned(region), category: Cow::Borrowed(Dimensions::NONE) };
    Ok(UsageEvent { meter: Meter::ConfigRuleEvaluations, account, identity, event_time, dimensions })
}

/// The rule's Region, which its ARN names; a global resource is recorded in several. Else the resource's.
fn region<'a>(invocation: &Members<'a>, item: Option<&Members<'a>>) -> Scalar<'a> {
    if let Scalar::Text(arn) = invocation.text("configRuleArn")
        && let Some(region) = arn.split(':').nth(3).filter(|region| !region.is_empty())
    {
        return Scalar::Text(Cow::Owned(region.to_owned()));
    }
    item.map_or(Scalar::Absent, |item| item.text("awsRegion"))
}

/// The evaluations that a `PutEvaluations` call brought, where that is the declared source: one for each position. A call that
/// failed, or that was a test, brought none.
pub(crate) fn put_evaluations<'a>(event: &'a [u8], call: &UsageEvent<'a>, rules: Rules<'_>) -> Vec<Beside<'a>> {
    let each = |position: usize| UsageEvent {
        meter: Meter::ConfigRuleEvaluations,
        identity: Identity::of_parts(&[call.identity.as_bytes(), position.to_string().as_bytes()]),
        dimensions: Dimensions { category: Cow::Borrowed(Dimensions::NONE), ..call.dimensions.clone() },
        ..call.clone()
    };
    if !rules.counts(Source::PutEvaluations, &each(0)) {
        return Vec::new();
    }
    let members = Members::read(event);
    if members.as_ref().is_some_and(|members| !members.text("errorCode").says_nothing()) {
        return Vec::new();
    }
    let Some(parameters) = members.and_then(|members| members.object("requestParameters")) else {
        return vec![Beside::DeadLetter(Reason::EvaluationsMalformed)];
    };
    if parameters.raw("testMode") == Some(b"true") {
        return Vec::new();
    }
    match parameters.array("evaluations") {
        Some(evaluations) => (0..evaluations.len()).map(|position| Beside::Usage(each(position))).collect(),
        None => vec![Beside::DeadLetter(Reason::EvaluationsMalformed)],
    }
}

/// Whether an object is a configuration item, as the history of a resource and its API give them.
pub(crate) fn is_item(members: &Members<'_>) -> bool {
    members.has("configurationItemCaptureTime") && members.has("resourceType")
}

/// What a notice of AWS Config is, by its `messageType`; `None` if it is none.
pub(crate) fn notice(message_type: &str) -> Option<NotCounted> {
    match message_type {
        "ConfigurationItemChangeNotification" | "OversizedConfigurationItemChangeNotification" => {
            Some(NotCounted::ConfigItem)
        }
        "ComplianceChangeNotification"
        | "ConfigRulesEvaluationStarted"
        | "ConfigurationSnapshotDeliveryStarted"
        | "ConfigurationSnapshotDeliveryCompleted"
        | "ConfigurationSnapshotDeliveryFailed"
        | "ConfigurationHistoryDeliveryCompleted"
        | "ConfigurationHistoryDeliveryFailed"
        | "ScheduledNotification" => Some(NotCounted::ConfigNotice),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Declarations, NOTHING_DECLARED, Timestamp};

    const ITEM: &str = r#""configurationItem":{"awsAccountId":"111111111111","resourceType":"AWS::EC2::Instance",
        "resourceId":"i-1","awsRegion":"us-east-1","configurationItemCaptureTime":"2026-09-01T00:00:00Z"}"#;

    fn invocation(invoking: &str) -> String {
        let invoking = serde_json::to_string(invoking).unwrap();
        format!(
            r#"{{"invokingEvent":{invoking},"configRuleName":"encrypted","configRuleId":"config-rule-1","accountId":"111111111111",
            "configRuleArn":"arn:aws:config:eu-west-1:111111111111:config-rule/config-rule-1","resultToken":"t"}}"#
        )
    }

    fn changed() -> String {
        invocation(&format!(
            r#"{{{ITEM},"messageType":"ConfigurationItemChangeNotification","notificationCreationTime":"2026-10-01T09:00:00.5Z"}}"#
        ))
    }

    fn rules(declared: &Declarations) -> Rules<'_> {
        Rules { declared, ..Rules::at(Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap()) }
    }

    fn judge(record: &str) -> Verdict<'static> {
        judge_invocation(&Members::read(record.as_bytes()).unwrap(), rules(&NOTHING_DECLARED))
    }

    #[track_caller]
    fn usage(record: &str) -> UsageEvent<'static> {
        match judge(record) {
            Verdict::Usage(event) => event,
            other => panic!("{other:?} for {record}"),
        }
    }

    #[test]
    fn an_invocation_is_one_evaluation_when_it_was_sent_in_the_region_of_its_rule() {
        let event = usage(&changed());
        assert_eq!((event.account.as_str(), &*event.dimensions.region), ("111111111111", "eu-west-1"));
        assert_eq!(event.event_time.to_string(), "2026-10-01T09:00:00.500Z");
        // A retry brings another token, and is the same evaluation; another resource, rule or time is not.
        assert_eq!(usage(&changed().replace("\"t\"", "\"u\"")), event);
        assert_eq!(usage(&changed().replace("00.5Z", "00.500Z")), event);
        for (from, to) in
            [("i-1", "i-2"), ("AWS::EC2::Instance", "AWS::EC2::Volume"), ("encrypted", "tagged"), ("00.5Z", "01Z")]
        {
            assert_ne!(usage(&changed().replace(from, to)).identity, event.identity, "{to}");
        }
        let oversized = changed().replace("configurationItem\\\"", "configurationItemSummary\\\"");
        let oversized = oversized.replace("ConfigurationItemChange", "OversizedConfigurationItemChange");
        assert_eq!(usage(&oversized), event);
    }

    #[test]
    fn a_scheduled_invocation_evaluates_the_account() {
        let scheduled = invocation(
            r#"{"awsAccountId":"111111111111","notificationCreationTime":"2026-10-01T09:00:00Z","messageType":"ScheduledNotification"}"#,
        );
        let event = usage(&scheduled);
        let parts: [&[u8]; 5] =
            [b"eu-west-1", b"encrypted", b"AWS::::Account", b"111111111111", b"2026-10-01T09:00:00Z"];
        assert_eq!(event.identity, Identity::of_parts(&parts));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (from, to, reason) in [
            ("encrypted", "", Reason::RuleMissing),
            ("\"accountId\":\"1", "\"accountId\":\"01", Reason::AccountMalformed),
            ("\\\"i-1\\\"", "null", Reason::ResourceMissing),
            ("messageType", "messageKind", Reason::InvokingEventMalformed),
            ("\"{", "\"[", Reason::InvokingEventMalformed),
            ("notificationCreationTime\\\":\\\"2026", "notificationCreationTime\\\":\\\"x", Reason::EventTimeMalformed),
            (
                "notificationCreationTime\\\":\\\"2026",
                "notificationCreationTime\\\":\\\"2027",
                Reason::EventTimeInFuture,
            ),
        ] {
            let record = changed().replacen(from, to, 1);
            assert_ne!(record, changed(), "{from}");
            assert_eq!(judge(&record), Verdict::DeadLetter(reason), "{record}");
        }
        let without_time = changed().replace("notificationCreationTime", "sentAt");
        assert_eq!(
            usage(&without_time).event_time.to_string(),
            "2026-09-01T00:00:00Z",
            "the item's, if there is no other"
        );
    }

    #[test]
    fn a_put_counts_each_position_once_where_it_is_the_declared_source() {
        let declared = Declarations::parse(
            "[[declared]]\nmeter = \"config_rule_evaluations\"\nsource = \"put_evaluations\"\naccounts = [\"111111111111\"]",
        )
        .unwrap();
        let call = UsageEvent {
            meter: Meter::CloudTrailEvents,
            account: crate::AccountId::parse("111111111111").unwrap(),
            identity: Identity::from_bytes([7; 16]),
            event_time: rules(&declared).now,
            dimensions: Dimensions { region: "eu-west-1".into(), category: "Management".into() },
        };
        let put = |event: &str, declared| {
            let mut found = Vec::new();
            for beside in put_evaluations(event.as_bytes(), &call, rules(declared)) {
                found.push(match beside {
                    Beside::Usage(event) => Ok((event.identity, event.dimensions.category.into_owned())),
                    Beside::DeadLetter(reason) => Err(reason),
                    other => panic!("{other:?}"),
                });
            }
            found
        };
        let two = r#"{"requestParameters":{"evaluations":[{},{}],"resultToken":"t","testMode":false}}"#;
        let identity = |position: &[u8]| Identity::of_parts(&[&[7; 16], position]);
        let each = |position| Ok((identity(position), "none".to_owned()));
        assert_eq!(put(two, &declared), [each(b"0"), each(b"1")]);
        assert_eq!(put(two, &NOTHING_DECLARED), []);
        assert_eq!(put(&two.replace("false", "true"), &declared), []);
        assert_eq!(put(r#"{"errorCode":"InvalidResultTokenException","requestParameters":null}"#, &declared), []);
        for unreadable in [r#"{"requestParameters":null}"#, r#"{"requestParameters":{"evaluations":{}}}"#] {
            assert_eq!(put(unreadable, &declared), [Err(Reason::EvaluationsMalformed)]);
        }
        let other = r#"[[declared]]
            meter = "config_rule_evaluations"
            source = "put_evaluations""#;
        let other = Declarations::parse(other).unwrap();
        let verdict = judge_invocation(&Members::read(changed().as_bytes()).unwrap(), rules(&other));
        assert_eq!(verdict, Verdict::NotCounted(NotCounted::NotTheDeclaredSource));
    }
}
