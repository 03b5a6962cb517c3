//! GuardDuty findings: each is sent when it is made and again with every update, by EventBridge, by the API and by export.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::files::{hex, lines, shuffle, uuid, write_file};
use super::{Answer, EVENTS_FOLDER, LandingZone};
use crate::cloudtrail::instant;
use crate::random::{Draws, Stream};

const TYPES: [&str; 6] = [
    "Recon:EC2/PortProbeUnprotectedPort",
    "UnauthorizedAccess:EC2/SSHBruteForce",
    "Trojan:EC2/DNSDataExfiltration",
    "CredentialAccess:IAMUser/AnomalousBehavior",
    "Discovery:S3/MaliciousIPCaller",
    "CryptoCurrency:EC2/BitcoinTool.B!DNS",
];
/// Most times a finding is sent again with something changed.
const UPDATES_MAX: u64 = 5;

struct Finding {
    account: String,
    region: &'static str,
    id: String,
    detector: String,
    kind: &'static str,
    created_at: i64,
}

pub(super) fn write(dir: &Path, zone: &LandingZone, answer: &mut Answer) -> io::Result<()> {
    let (mut envelopes, mut exported, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    for account in 0..zone.accounts() {
        for n in 0..zone.findings_each {
            let index = u64::from(account) << 32 | u64::from(n);
            let mut draws = Draws::new(zone.seed, Stream::Finding, index);
            let seconds = u64::from(zone.days) * 86_400;
            let finding = Finding {
                account: zone.account(account),
                region: zone.region(account + n),
                id: hex(&mut draws, 32),
                detector: hex(&mut Draws::new(zone.seed, Stream::Finding, u64::MAX - u64::from(account)), 32),
                kind: draws.pick(&TYPES),
                created_at: zone.begin().saturating_add_unsigned(draws.below(seconds)),
            };
            answer.add("guardduty_findings", &finding.account, finding.created_at, 1);
            let updates = draws.below(UPDATES_MAX + 1);
            for update in 0..=updates {
                let updated_at = finding.created_at.saturating_add_unsigned(update * (900 + draws.below(7_200)));
                let body = finding.camel_case(update, updated_at, &mut draws);
                envelopes.push(envelope(&finding, &body, updated_at, &mut draws));
                if draws.percent(zone.duplicates_percent) {
                    envelopes.push(envelope(&finding, &body, updated_at, &mut draws));
                }
                if update == updates {
                    listed.push(finding.pascal_case(update, updated_at));
                    exported.push(body.to_string());
                }
            }
        }
    }
    let mut draws = Draws::new(zone.seed, Stream::Finding, u64::MAX);
    shuffle(&mut envelopes, &mut draws);
    answer.read(EVENTS_FOLDER, (envelopes.len() + exported.len() + listed.len()) as u64);
    write_file(dir, &format!("{EVENTS_FOLDER}/guardduty/eventbridge.jsonl"), lines(&envelopes).as_bytes())?;
    write_file(dir, &format!("{EVENTS_FOLDER}/guardduty/export.jsonl.gz"), lines(&exported).as_bytes())?;
    let answer_of_api = json!({ "Findings": listed }).to_string();
    write_file(dir, &format!("{EVENTS_FOLDER}/guardduty/get-findings.json"), answer_of_api.as_bytes())
}

impl Finding {
    fn arn(&self) -> String {
        let Self { region, account, detector, id, .. } = self;
        format!("arn:aws:guardduty:{region}:{account}:detector/{detector}/finding/{id}")
    }

    /// As EventBridge and exports have it.
    fn camel_case(&self, update: u64, updated_at: i64, draws: &mut Draws) -> Value {
        json!({
            "schemaVersion": "2.0", "accountId": self.account, "region": self.region, "partition": "aws", "id": self.id,
            "arn": self.arn(), "type": self.kind,
            "resource": {"resourceType": "Instance", "instanceDetails": {
                "instanceId": format!("i-{}", hex(draws, 17)), "instanceType": "m6i.large",
                "availabilityZone": format!("{}a", self.region),
            }},
            "service": {
                "serviceName": "guardduty", "detectorId": self.detector, "count": update + 1, "archived": false,
                "eventFirstSeen": instant(self.created_at - 120), "eventLastSeen": instant(updated_at - 60),
                "action": {"actionType": "NETWORK_CONNECTION", "networkConnectionAction": {
                    "connectionDirection": "INBOUND", "remoteIpDetails": {"ipAddressV4": format!("198.51.100.{}", draws.below(256))},
                }},
            },
            "severity": 2 + update % 7, "createdAt": instant(self.created_at), "updatedAt": instant(updated_at),
            "title": "Unusual behaviour of an instance", "description": "What an instance did is unusual for it.",
        })
    }

    /// As the API's SDKs print it.
    fn pascal_case(&self, update: u64, updated_at: i64) -> Value {
        json!({
            "SchemaVersion": "2.0", "AccountId": self.account, "Region": self.region, "Partition": "aws", "Id": self.id,
            "Arn": self.arn(), "Type": self.kind, "Resource": {"ResourceType": "Instance"},
            "Service": {"ServiceName": "guardduty", "DetectorId": self.detector, "Count": update + 1, "Archived": false},
            "Severity": 2 + update % 7, "CreatedAt": instant(self.created_at), "UpdatedAt": instant(updated_at),
        })
    }
}

fn envelope(finding: &Finding, body: &Value, sent_at: i64, draws: &mut Draws) -> String {
    json!({
        "version": "0", "id": uuid(draws), "detail-type": "GuardDuty Finding", "source": "aws.guardduty",
        "account": finding.account, "time": instant(sent_at), "region": finding.region, "resources": [], "detail": body,
    })
    .to_string()
}
