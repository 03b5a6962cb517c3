//! Deliveries opened, and what is in them judged: everything parsed, one function a form.
//!
//! A delivery is no record; the records are what it carries, at whatever depth.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::declared::Rules;
use crate::event::{self, Unit, account_of, dimension, event_time, identity_of, said, says_nothing};
use crate::facts::Fact;
use crate::json::Json;
use crate::object::records;
use crate::time::{hour, written};
use crate::{organizations, samples};

const NESTING_MAX: usize = 100;
const LAYERS_MAX: usize = 8;
const ACCOUNT_TYPE: &str = "AWS::::Account";
/// What EventBridge tells of these is usage, or ought to be known.
const SOURCES_OF_USAGE: [&str; 4] = ["aws.config", "aws.guardduty", "aws.organizations", "aws.securityhub"];
const DEAD_BROKEN: &str = "broken_json";
const NOT_RECOGNIZED: &str = "not_recognized";
const LIFE_CYCLE_MALFORMED: &str = "life_cycle_malformed";
const PAYLOAD_MALFORMED: &str = "payload_malformed";

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It counts, unless it is a duplicate.
    Counts(Unit),
    /// It states facts; it counts if the first of them is new or higher than what stands.
    States(Vec<Fact>),
    /// Understood, and by rule not usage; the kind.
    NotCounted(&'static str),
    /// Set aside; the reason.
    DeadLetter(&'static str),
}

/// A record and what it says beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What became of it.
    pub outcome: Outcome,
    /// What it says beside: no part of the balance.
    pub beside: Vec<Outcome>,
}

impl From<Outcome> for Judged {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, beside: Vec::new() }
    }
}

/// Whether it is an object with members, each with a key that is text.
fn has_members(value: &Json) -> bool {
    matches!(value, Json::Object(members) if !members.is_empty() && members.iter().all(|(key, _)| key.is_some()))
}

type Opened = Result<(), &'static str>;

/// Judges what an object holds, record by record.
pub(crate) struct Door<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) now: i64,
    pub(crate) object_account: Option<&'a str>,
    pub(crate) judged: Vec<Judged>,
}

impl Door<'_> {
    /// One record or delivery, inside so many deliveries.
    pub(crate) fn judge(&mut self, record: &Result<Json, &'static str>, layer: usize) {
        let opened = match record {
            Ok(record) => self.open(record, layer),
            Err(reason) => Err(*reason),
        };
        self.dead(opened);
    }

    fn dead(&mut self, opened: Opened) {
        if let Err(reason) = opened {
            self.judged.push(Outcome::DeadLetter(reason).into());
        }
    }

    fn not_counted(&mut self, kind: &'static str) -> Opened {
        self.judged.push(Outcome::NotCounted(kind).into());
        Ok(())
    }

    fn open(&mut self, record: &Json, layer: usize) -> Opened {
        if NESTING_MAX < record.nesting() {
            return Err("nested_too_deep");
        }
        let Json::Object(members) = record else {
            return Err(if record.is_no_text() { DEAD_BROKEN } else { NOT_RECOGNIZED });
        };
        if event::is_undecidable(members) {
            return Err(DEAD_BROKEN);
        }
        // An event is told by a few fields; anything else has to be JSON throughout.
        let is_utf8 = record.is_utf8();
        let has = |key: &str| record.get(key).is_some();
        let text = |key: &str| record.get(key).and_then(Json::text);
        if has("digestStartTime") && has("logFiles") {
            return self.not_counted("cloudtrail_digest");
        }
        let is_broken_list = is_utf8 && record.get("Records").is_some_and(|list| !matches!(list, Json::Array(_)));
        if event::is_event(record) {
            return self
                .cloudtrail(record, None)
                .map_err(|reason| if is_broken_list { "records_not_an_array" } else { reason });
        }
        if is_broken_list {
            return Err("records_not_an_array");
        }
        if !is_utf8 {
            return Err(NOT_RECOGNIZED);
        }
        if has("detail-type") {
            return self.envelope(record);
        }
        if let Some(logs @ Json::Object(_)) = record.get("awslogs") {
            return self.encoded(logs.get("data"), layer);
        }
        if has("messageType") && has("logEvents") {
            return self.log_messages(record, layer);
        }
        if let Some(kinesis @ Json::Object(_)) = record.get("kinesis") {
            return self.encoded(kinesis.get("data"), layer);
        }
        if has("data") && (has("recordId") || members.len() == 1) {
            return self.encoded(record.get("data"), layer);
        }
        if has("Data") && has("PartitionKey") {
            return self.encoded(record.get("Data"), layer);
        }
        if has("records") && (has("deliveryStreamArn") || has("requestId")) {
            return self.elements(record.get("records"), PAYLOAD_MALFORMED, layer);
        }
        if text("eventSource") == Some("aws:s3") {
            return self.object_notice(record);
        }
        if has("specversion") {
            let fact = samples::fact(record, &self.rules.meters, self.now)?;
            return self.states("usage_samples", vec![fact]);
        }
        if text("Event") == Some("s3:TestEvent") {
            return self.not_counted("s3_test_event");
        }
        if matches!(text("Type"), Some("SubscriptionConfirmation" | "UnsubscribeConfirmation")) {
            return self.not_counted("sns_confirmation");
        }
        if text("eventSource") == Some("aws:sqs") {
            return self.text(record.get("body"), layer);
        }
        if let Some(sns @ Json::Object(_)) = record.get("Sns") {
            return self.text(sns.get("Message"), layer);
        }
        if text("Type") == Some("Notification") && has("Message") {
            return self.text(record.get("Message"), layer);
        }
        if has("invokingEvent") {
            return self.invocation(record);
        }
        if has("configurationItemCaptureTime") && has("resourceType") {
            return self.not_counted("config_item");
        }
        if let Some(kind) = said(record.get("messageType")).and_then(config_notice) {
            return self.not_counted(kind);
        }
        if is_of_service(record, "guardduty") {
            return self.guardduty(record);
        }
        let is_hub = arn_part(record.get("ProductArn"), 2) == Some("securityhub");
        if is_hub || text("SchemaVersion") == Some("2018-10-08") {
            return self.security_hub(record);
        }
        if let Some(list) = organizations::list_of(record) {
            return self.list(&list);
        }
        let lists = ["Findings", "findings", "configurationItems", "baseConfigurationItems"];
        match lists.into_iter().find(|key| matches!(record.get(key), Some(Json::Array(_)))) {
            Some(key) => self.elements(record.get(key), NOT_RECOGNIZED, layer),
            None => Err(NOT_RECOGNIZED),
        }
    }

    fn encoded(&mut self, payload: Option<&Json>, layer: usize) -> Opened {
        let decoded = payload.and_then(Json::text).and_then(|text| STANDARD.decode(text).ok());
        self.content(&decoded.ok_or(PAYLOAD_MALFORMED)?, layer)
    }

    /// Text that a delivery carries: one JSON value, or a dead letter as a whole.
    fn text(&mut self, text: Option<&Json>, layer: usize) -> Opened {
        let text = text.and_then(Json::text).ok_or(PAYLOAD_MALFORMED)?;
        let bare = text.trim_matches([' ', '\t', '\r', '\n']);
        if !bare.is_empty() && !bare.starts_with(['{', '[']) {
            return Err("not_json");
        }
        if !bare.is_empty() && Json::parse(bare.as_bytes()).is_err() {
            // What nests too deep to be followed is said to.
            let found = records(bare.as_bytes());
            let is_too_deep = found.first() == Some(&Err("nested_too_deep")) && found.len() == 1;
            return Err(if is_too_deep { "nested_too_deep" } else { DEAD_BROKEN });
        }
        self.content(text.as_bytes(), layer)
    }

    fn content(&mut self, content: &[u8], layer: usize) -> Opened {
        if LAYERS_MAX <= layer {
            return Err("wrapped_too_deep");
        }
        let found = records(content);
        for record in &found {
            self.judge(record, layer + 1);
        }
        if found.is_empty() { self.not_counted("empty_delivery") } else { Ok(()) }
    }

    fn elements(&mut self, elements: Option<&Json>, otherwise: &'static str, layer: usize) -> Opened {
        let Some(Json::Array(elements)) = elements else { return Err(otherwise) };
        if LAYERS_MAX <= layer {
            return Err("wrapped_too_deep");
        }
        for element in elements {
            self.judge(&Ok(element.clone()), layer + 1);
        }
        if elements.is_empty() { self.not_counted("empty_delivery") } else { Ok(()) }
    }

    fn log_messages(&mut self, delivery: &Json, layer: usize) -> Opened {
        if delivery.get("messageType").and_then(Json::text) == Some("CONTROL_MESSAGE") {
            return self.not_counted("cloudwatch_logs_control");
        }
        let Some(Json::Array(messages)) = delivery.get("logEvents") else { return Err(PAYLOAD_MALFORMED) };
        for message in messages {
            let opened = self.text(message.get("message"), layer);
            self.dead(opened);
        }
        if messages.is_empty() { self.not_counted("empty_delivery") } else { Ok(()) }
    }

    fn envelope(&mut self, envelope: &Json) -> Opened {
        let kind = said(envelope.get("detail-type")).unwrap_or_default();
        let source = said(envelope.get("source")).unwrap_or_default();
        let detail = || match envelope.get("detail") {
            Some(detail) if has_members(detail) => Ok(detail),
            _ => Err("detail_missing"),
        };
        match kind {
            "GuardDuty Finding" => self.guardduty(detail()?),
            "Security Hub Findings - Imported" | "Security Hub Findings - Custom Action" => {
                let Some(Json::Array(findings)) = detail()?.get("findings") else { return Err(NOT_RECOGNIZED) };
                for finding in findings {
                    let opened = if has_members(finding) { self.security_hub(finding) } else { Err(NOT_RECOGNIZED) };
                    self.dead(opened);
                }
                if findings.is_empty() { self.not_counted("empty_delivery") } else { Ok(()) }
            }
            _ if kind.ends_with(" via CloudTrail") => {
                let detail = detail()?;
                if matches!(detail, Json::Object(members) if event::is_undecidable(members)) {
                    return Err(DEAD_BROKEN);
                }
                if event::is_event(detail) {
                    self.cloudtrail(detail, envelope.get("account"))
                } else {
                    Err(NOT_RECOGNIZED)
                }
            }
            _ if kind.starts_with("GuardDuty ") => self.not_counted("guardduty_notice"),
            "Security Hub Insight Results" => self.not_counted("security_hub_insight"),
            "Config Configuration Item Change" => self.not_counted("config_item"),
            _ if kind.starts_with("Config ") => self.not_counted("config_notice"),
            _ if kind.starts_with("Object ") && source == "aws.s3" => {
                if kind == "Object Created" {
                    self.created(envelope)
                } else {
                    self.not_counted("s3_other_notice")
                }
            }
            _ if source.starts_with("aws.") && !SOURCES_OF_USAGE.contains(&source) => self.not_counted("other_event"),
            _ => Err(NOT_RECOGNIZED),
        }
    }

    fn object_notice(&mut self, record: &Json) -> Opened {
        let version = record.get("eventVersion").and_then(Json::text).ok_or("notice_malformed")?;
        if version.split('.').next() != Some("2") {
            return Err("notice_version");
        }
        let name = record.get("eventName").and_then(Json::text).ok_or("notice_malformed")?;
        match name.strip_prefix("s3:").unwrap_or(name) {
            "TestEvent" => self.not_counted("s3_test_event"),
            name if !name.starts_with("ObjectCreated:") => self.not_counted("s3_other_notice"),
            _ => {
                let key = record.at(&["s3", "object", "key"]).and_then(Json::text).and_then(decoded_key);
                self.named(record.at(&["s3", "bucket", "name"]), key)
            }
        }
    }

    fn created(&mut self, envelope: &Json) -> Opened {
        let detail = envelope.get("detail");
        if let Some(version) = detail.and_then(|detail| detail.get("event-version"))
            && version.text().and_then(|version| version.split('.').next()) != Some("1")
        {
            return Err("notice_version");
        }
        let at = |path: &[&str]| detail.and_then(|detail| detail.at(path));
        self.named(at(&["bucket", "name"]), at(&["object", "key"]).and_then(Json::text).map(str::to_owned))
    }

    /// A notice names an object; what the object holds is in the object.
    fn named(&mut self, bucket: Option<&Json>, key: Option<String>) -> Opened {
        let is_bucket = |name: &str| {
            (3..=255).contains(&name.len())
                && !name.starts_with('.')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let is_named = bucket.and_then(Json::text).is_some_and(is_bucket)
            && key.is_some_and(|key| (1..=1024).contains(&key.len()));
        if is_named { self.not_counted("object_notice") } else { Err("notice_malformed") }
    }

    fn cloudtrail(&mut self, event: &Json, envelope_account: Option<&Json>) -> Opened {
        let (unit, at) = event::event(event, envelope_account, self.object_account, self.now)?;
        let mut beside = Vec::new();
        let mut facts = Vec::new();
        let source = event.get("eventSource").and_then(Json::text);
        if source == Some("organizations.amazonaws.com") {
            let found = if event.is_utf8() {
                organizations::life_cycle(event, &unit.account, at)
            } else {
                Err(LIFE_CYCLE_MALFORMED)
            };
            match found {
                Ok(found) => facts.extend(found),
                Err(reason) => beside.push(Outcome::DeadLetter(reason)),
            }
            facts.retain(|fact| self.rules.counts("organizations", &fact.key.meter, &fact.key.account, at));
        }
        if source == Some("config.amazonaws.com")
            && event.get("eventName").and_then(Json::text) == Some("PutEvaluations")
        {
            beside.extend(self.evaluations(event, &unit, at));
        }
        let outcome = if self.rules.counts("cloudtrail", &unit.meter, &unit.account, at) {
            beside.extend((!facts.is_empty()).then_some(Outcome::States(facts)));
            Outcome::Counts(unit)
        } else if facts.is_empty() {
            Outcome::NotCounted("not_the_declared_source")
        } else {
            Outcome::States(facts)
        };
        self.judged.push(Judged { outcome, beside });
        Ok(())
    }

    /// The evaluations of a call that puts them: one for each place in its list.
    fn evaluations(&self, event: &Json, unit: &Unit, at: i64) -> Vec<Outcome> {
        let meter = "config_rule_evaluations";
        let parameters = event.get("requestParameters");
        let is_test = parameters.and_then(|all| all.get("testMode")) == Some(&Json::Bool(true));
        let counts = self.rules.counts("put_evaluations", meter, &unit.account, at);
        if !counts {
            return Vec::new();
        }
        if !event.is_utf8() {
            return vec![Outcome::DeadLetter("evaluations_malformed")];
        }
        if !says_nothing(event.get("errorCode")) || is_test {
            return Vec::new();
        }
        let Some(Json::Array(all)) = parameters.and_then(|all| all.get("evaluations")) else {
            return vec![Outcome::DeadLetter("evaluations_malformed")];
        };
        let of = |position: usize| {
            let identity = identity_of(&[&unit.identity, position.to_string().as_bytes()]);
            let (meter, category) = (meter.to_owned(), "none".to_owned());
            Outcome::Counts(Unit { meter, identity, category, ..unit.clone() })
        };
        (0..all.len()).map(of).collect()
    }

    fn guardduty(&mut self, finding: &Json) -> Opened {
        let of = |keys: [&str; 2]| {
            keys.into_iter().map(|key| finding.get(key)).find(|value| !says_nothing(*value)).flatten()
        };
        let fields =
            [["accountId", "AccountId"], ["id", "Id"], ["createdAt", "CreatedAt"], ["region", "Region"]].map(of);
        self.finding("guardduty", "guardduty_findings", fields)
    }

    fn security_hub(&mut self, finding: &Json) -> Opened {
        let fields = ["AwsAccountId", "Id", "CreatedAt", "Region"].map(|key| finding.get(key));
        self.finding("security_hub", "security_hub_findings", fields)
    }

    fn finding(&mut self, source: &str, meter: &str, fields: [Option<&Json>; 4]) -> Opened {
        let [account, id, created_at, region] = fields;
        let account = account_of(account)?;
        let id = said(id).ok_or("finding_id_missing")?;
        let at = event_time(created_at, self.now)?;
        let identity = identity_of(&[id.as_bytes()]);
        self.unit(source, meter, account, identity, at, dimension(region)?)
    }

    fn unit(
        &mut self,
        source: &str,
        meter: &str,
        account: String,
        identity: [u8; 16],
        at: i64,
        region: String,
    ) -> Opened {
        let outcome = if self.rules.counts(source, meter, &account, at) {
            let (meter, category) = (meter.to_owned(), "none".to_owned());
            Outcome::Counts(Unit { meter, account, hour: hour(at), identity, region, category })
        } else {
            Outcome::NotCounted("not_the_declared_source")
        };
        self.judged.push(outcome.into());
        Ok(())
    }

    /// The event by which AWS Config invokes the function of a rule: one evaluation.
    fn invocation(&mut self, invocation: &Json) -> Opened {
        let malformed = "invoking_event_malformed";
        let unfolded;
        let invoking = match invocation.get("invokingEvent") {
            Some(Json::Text(text)) => {
                unfolded = Json::parse(text.as_deref().unwrap_or_default().as_bytes()).map_err(|_| malformed)?;
                &unfolded
            }
            other => other.ok_or(malformed)?,
        };
        let item = match said(invoking.get("messageType")) {
            Some("ConfigurationItemChangeNotification") => Some("configurationItem"),
            Some("OversizedConfigurationItemChangeNotification") => Some("configurationItemSummary"),
            Some("ScheduledNotification" | "ConfigurationSnapshotDeliveryCompleted") => None,
            _ => return Err(malformed),
        };
        let item = match item.map(|key| invoking.get(key)) {
            None => None,
            Some(Some(item @ Json::Object(_))) => Some(item),
            Some(_) => return Err(malformed),
        };
        let rule = said(invocation.get("configRuleName")).ok_or("rule_missing")?;
        let given = invocation.get("accountId");
        let account =
            account_of(if says_nothing(given) { item.unwrap_or(invoking).get("awsAccountId") } else { given })?;
        let (kind, id) = match item {
            None => (ACCOUNT_TYPE, account.as_str()),
            Some(item) => said(item.get("resourceType")).zip(said(item.get("resourceId"))).ok_or("resource_missing")?,
        };
        let notified = invoking.get("notificationCreationTime");
        let captured = item.and_then(|item| item.get("configurationItemCaptureTime"));
        let at = event_time(if says_nothing(notified) { captured } else { notified }, self.now)?;
        let of_arn = arn_part(invocation.get("configRuleArn"), 3).filter(|region| !region.is_empty());
        let region = match of_arn {
            Some(region) => dimension(Some(&Json::Text(Some(region.to_owned()))))?,
            None => dimension(item.and_then(|item| item.get("awsRegion")))?,
        };
        let identity = identity_of(&[&region, rule, kind, id, &written(at)].map(str::as_bytes));
        self.unit("rule_invocations", "config_rule_evaluations", account.clone(), identity, at, region)
    }

    /// The facts of one record, as far as they count from this source.
    fn states(&mut self, source: &str, mut facts: Vec<Fact>) -> Opened {
        facts.retain(|fact| {
            let key = &fact.key;
            self.rules.counts(source, &key.meter, &key.account, key.time)
        });
        let outcome =
            if facts.is_empty() { Outcome::NotCounted("not_the_declared_source") } else { Outcome::States(facts) };
        self.judged.push(outcome.into());
        Ok(())
    }

    fn list(&mut self, list: &organizations::List<'_>) -> Opened {
        for element in list.elements {
            let opened = match list.facts(element, self.now) {
                Ok(None) => self.not_counted("other_policy"),
                Ok(Some(facts)) => self.states("organizations", facts),
                Err(reason) => Err(reason),
            };
            self.dead(opened);
        }
        if list.elements.is_empty() { self.not_counted("empty_delivery") } else { Ok(()) }
    }
}

fn config_notice(message_type: &str) -> Option<&'static str> {
    Some(match message_type {
        "ConfigurationItemChangeNotification" | "OversizedConfigurationItemChangeNotification" => "config_item",
        "ComplianceChangeNotification"
        | "ConfigRulesEvaluationStarted"
        | "ConfigurationSnapshotDeliveryStarted"
        | "ConfigurationSnapshotDeliveryCompleted"
        | "ConfigurationSnapshotDeliveryFailed"
        | "ConfigurationHistoryDeliveryCompleted"
        | "ConfigurationHistoryDeliveryFailed"
        | "ScheduledNotification" => "config_notice",
        _ => return None,
    })
}

fn is_of_service(record: &Json, name: &str) -> bool {
    let service = |path: &[&str]| record.at(path).and_then(Json::text) == Some(name);
    let arn = if says_nothing(record.get("arn")) { record.get("Arn") } else { record.get("arn") };
    arn_part(arn, 2) == Some(name) || service(&["service", "serviceName"]) || service(&["Service", "ServiceName"])
}

fn arn_part(arn: Option<&Json>, number: usize) -> Option<&str> {
    arn.and_then(Json::text)?.split(':').nth(number)
}

/// A key as S3 encodes it in its notices: blanks are plus signs, bytes may be `%20`.
fn decoded_key(key: &str) -> Option<String> {
    let mut decoded = Vec::new();
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { return None };
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}
