//! Invocations of Config rules: one evaluation each, some sent again.

use std::io;
use std::path::Path;

use serde_json::json;

use super::files::{hex, lines, shuffle, uuid, write_file};
use super::{Answer, EVENTS_FOLDER, LandingZone};
use crate::cloudtrail::instant;
use crate::random::{Draws, Stream};

const RULES: [&str; 5] =
    ["encrypted-volumes", "restricted-ssh", "s3-bucket-logging", "iam-password-policy", "required-tags"];

pub(super) fn write(dir: &Path, zone: &LandingZone, answer: &mut Answer) -> io::Result<()> {
    let mut invocations = Vec::new();
    for account in 0..zone.accounts() {
        let id = zone.account(account);
        for n in 0..zone.evaluations_each {
            let mut draws = Draws::new(zone.seed, Stream::Evaluation, u64::from(account) << 32 | u64::from(n));
            let at = zone.begin().saturating_add_unsigned(draws.below(u64::from(zone.days) * 86_400));
            let region = zone.region(account + n);
            let rule = draws.pick(&RULES);
            let invoking = json!({
                "configurationItem": {
                    "configurationItemVersion": "1.3", "configurationItemCaptureTime": instant(at - 30), "awsAccountId": id,
                    "configurationItemStatus": "OK", "resourceType": "AWS::EC2::Volume",
                    // One of its own, so that no two evaluations are one.
                    "resourceId": format!("vol-{}", hex(&mut draws, 17)), "awsRegion": region,
                },
                "notificationCreationTime": instant(at), "messageType": "ConfigurationItemChangeNotification", "recordVersion": "1.3",
            });
            let invocation = json!({
                "version": "1.0", "invokingEvent": invoking.to_string(), "ruleParameters": "{}", "resultToken": uuid(&mut draws),
                "eventLeftScope": false, "executionRoleArn": format!("arn:aws:iam::{id}:role/config"),
                "configRuleArn": format!("arn:aws:config:{region}:{id}:config-rule/config-rule-{}", rule.len()),
                "configRuleName": rule, "configRuleId": format!("config-rule-{}", rule.len()), "accountId": id,
            });
            answer.add("config_rule_evaluations", &id, at, 1);
            let copies = 1 + usize::from(draws.percent(zone.duplicates_percent));
            invocations.extend(std::iter::repeat_n(invocation.to_string(), copies));
        }
    }
    shuffle(&mut invocations, &mut Draws::new(zone.seed, Stream::Evaluation, u64::MAX));
    answer.read(EVENTS_FOLDER, invocations.len() as u64);
    write_file(dir, &format!("{EVENTS_FOLDER}/config/rule-invocations.jsonl.gz"), lines(&invocations).as_bytes())
}
