//! One door for every form of record and delivery: what it is, what is in it, and what becomes of each.
//!
//! A delivery is no record: the records are what it carries, at whatever depth. So one CloudWatch Logs message with forty
//! events is forty records, an EventBridge event with three findings is three, and each gets one verdict. A delivery that
//! carries nothing is one record that is not counted.
//!
//! What a dead letter keeps is the smallest JSON value that can be judged again by itself: the record, with the EventBridge
//! envelope its account may come from. Where a delivery's content has no whole record to keep (it is cut off, damaged, or no
//! JSON), the delivery that carries it is kept, and judging it again finds its other records known.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;

use crate::cloudtrail::{self, Consequence, Fallback, Reading};
use crate::digest::Digest;
use crate::eventbridge::{self, Held};
use crate::inflate::{INFLATE_RATIO_MAX, INFLATED_BYTES_FREE, Inflate};
use crate::json::{Members, Scalar};
use crate::lists::List;
use crate::notice::{self, Entry};
use crate::records::{Piece, Records};
use crate::{AccountId, Beside, Judged, NotCounted, Reason, Rules, Source, Statement, Verdict};
use crate::{config, findings, organizations, sample};

/// Most deliveries around a record. Real ones reach four: SNS in SQS around EventBridge or CloudWatch Logs.
const LAYERS_MAX: u32 = 8;

/// Judges the pieces of an object and hands on every record in them.
pub(crate) struct FrontDoor<'r, F> {
    rules: Rules<'r>,
    /// The account in the object's name.
    object_account: Option<AccountId>,
    /// Where the piece begins in the inflated object.
    offset: u64,
    /// Records that came out of the piece so far.
    number: u32,
    /// Bytes that deliveries in the piece may still inflate to, all together.
    inflatable_bytes: u64,
    each: F,
}

/// What an object with members is, as far as its keys tell.
enum Form<'a> {
    Envelope,
    /// Carries content as base64.
    Encoded(Scalar<'a>),
    /// Carries content as text.
    Text(Scalar<'a>),
    /// Carries records or deliveries in an array.
    Elements(Vec<&'a [u8]>),
    LogMessages,
    /// A record of an S3 notice.
    ObjectNotice,
    /// A CloudEvent.
    Sample,
    RuleInvocation,
    GuardDutyFinding,
    SecurityHubFinding,
    OrganizationsList(List<'a>),
    NotCounted(NotCounted),
    Unknown,
}

impl<'r, E, F: FnMut(Judged<'_>) -> Result<(), E>> FrontDoor<'r, F> {
    pub(crate) fn new(rules: Rules<'r>, object_account: Option<AccountId>, each: F) -> Self {
        Self { rules, object_account, offset: 0, number: 0, inflatable_bytes: 0, each }
    }

    /// Judges what an object was cut into.
    pub(crate) fn piece(&mut self, piece: Piece<'_>) -> Result<(), E> {
        self.number = 0;
        match piece {
            Piece::Record { bytes, offset } => {
                self.offset = offset;
                self.inflatable_bytes = INFLATED_BYTES_FREE.max(bytes.len() as u64 * INFLATE_RATIO_MAX);
                self.record(bytes, 0)
            }
            Piece::Broken { reason, bytes, offset, is_whole } => {
                self.offset = offset;
                self.hand_on(Verdict::DeadLetter(reason), Vec::new(), bytes, is_whole)
            }
        }
    }

    /// Judges one JSON value inside so many deliveries.
    fn record(&mut self, bytes: &[u8], layer: u32) -> Result<(), E> {
        let fallback = Fallback { envelope: Scalar::Absent, object: self.object_account };
        match cloudtrail::read(bytes, &fallback, self.rules.now) {
            Reading::Event(event @ Ok(_)) => self.cloudtrail_event(bytes, event, bytes),
            Reading::Event(Err(_)) | Reading::Digest | Reading::Other if is_broken_list(bytes) => {
                self.verdict(Verdict::DeadLetter(Reason::RecordsNotAnArray), bytes)
            }
            Reading::Event(event) => self.cloudtrail_event(bytes, event, bytes),
            Reading::Digest => self.digest(bytes),
            Reading::Broken => self.verdict(Verdict::DeadLetter(Reason::BrokenJson), bytes),
            Reading::Other => self.other(bytes, layer),
        }
    }

    fn other(&mut self, bytes: &[u8], layer: u32) -> Result<(), E> {
        let Some(members) = Members::read(bytes) else {
            return self.verdict(Verdict::DeadLetter(Reason::NotRecognized), bytes);
        };
        match form(&members) {
            Form::Envelope => self.envelope(bytes, &members),
            Form::Encoded(Scalar::Text(base64)) => match STANDARD.decode(&*base64) {
                Ok(content) => self.content(&content, bytes, layer),
                Err(_) => self.verdict(Verdict::DeadLetter(Reason::PayloadMalformed), bytes),
            },
            Form::Text(Scalar::Text(text)) => self.text(&text, bytes, layer),
            Form::Encoded(_) | Form::Text(_) => self.verdict(Verdict::DeadLetter(Reason::PayloadMalformed), bytes),
            Form::Elements(elements) => self.elements(&elements, bytes, layer),
            Form::LogMessages => self.log_messages(bytes, &members, layer),
            Form::ObjectNotice => self.entry(notice::judge_s3_record(bytes), bytes),
            Form::Sample => self.sample(bytes),
            Form::RuleInvocation => self.verdict(config::judge_invocation(&members, self.rules), bytes),
            Form::GuardDutyFinding => self.verdict(findings::judge_guardduty(&members, self.rules), bytes),
            Form::SecurityHubFinding => self.verdict(findings::judge_security_hub(&members, self.rules), bytes),
            Form::OrganizationsList(list) => self.list(&list, bytes),
            Form::NotCounted(kind) => self.verdict(Verdict::NotCounted(kind), bytes),
            Form::Unknown => self.verdict(Verdict::DeadLetter(Reason::NotRecognized), bytes),
        }
    }

    fn envelope(&mut self, bytes: &[u8], envelope: &Members<'_>) -> Result<(), E> {
        let held = eventbridge::held(envelope);
        match held {
            Held::NotCounted(kind) => return self.verdict(Verdict::NotCounted(kind), bytes),
            Held::Unknown => return self.verdict(Verdict::DeadLetter(Reason::NotRecognized), bytes),
            Held::ObjectNotice => return self.entry(notice::judge_event(bytes), bytes),
            Held::CloudTrail | Held::GuardDutyFinding | Held::SecurityHubFindings => {}
        }
        let detail = envelope.raw("detail").unwrap_or_default();
        let members = match Members::read(detail) {
            Some(members) if !members.is_empty() => members,
            _ => return self.verdict(Verdict::DeadLetter(Reason::DetailMissing), bytes),
        };
        match held {
            Held::CloudTrail => {
                let fallback = Fallback { envelope: envelope.text("account"), object: self.object_account };
                match cloudtrail::read(detail, &fallback, self.rules.now) {
                    Reading::Event(event) => self.cloudtrail_event(detail, event, bytes),
                    Reading::Broken => self.verdict(Verdict::DeadLetter(Reason::BrokenJson), bytes),
                    Reading::Digest | Reading::Other => self.verdict(Verdict::DeadLetter(Reason::NotRecognized), bytes),
                }
            }
            Held::GuardDutyFinding => self.verdict(findings::judge_guardduty(&members, self.rules), bytes),
            _ => match members.array("findings") {
                None => self.verdict(Verdict::DeadLetter(Reason::NotRecognized), bytes),
                Some(elements) if elements.is_empty() => {
                    self.verdict(Verdict::NotCounted(NotCounted::EmptyDelivery), bytes)
                }
                Some(elements) => {
                    for finding in elements {
                        let verdict = Members::read(finding)
                            .filter(|members| !members.is_empty())
                            .map(|members| findings::judge_security_hub(&members, self.rules));
                        self.verdict(verdict.unwrap_or(Verdict::DeadLetter(Reason::NotRecognized)), finding)?;
                    }
                    Ok(())
                }
            },
        }
    }

    /// Hands on a digest file and what it says must be there.
    fn digest(&mut self, bytes: &[u8]) -> Result<(), E> {
        let beside = match Digest::parse(bytes) {
            Ok(digest) => Beside::Digest(Box::new(digest)),
            Err(_) => Beside::DeadLetter(Reason::DigestMalformed),
        };
        self.hand_on(Verdict::NotCounted(NotCounted::CloudTrailDigest), vec![beside], bytes, true)
    }

    /// Hands on a notice and the object it names.
    fn entry(&mut self, entry: Entry, bytes: &[u8]) -> Result<(), E> {
        match entry {
            Entry::Object(object) => {
                let beside = vec![Beside::Object(Box::new(object))];
                self.hand_on(Verdict::NotCounted(NotCounted::ObjectNotice), beside, bytes, true)
            }
            Entry::NotCounted(kind) => self.verdict(Verdict::NotCounted(kind), bytes),
            Entry::DeadLetter(reason) => self.verdict(Verdict::DeadLetter(reason), bytes),
        }
    }

    fn sample(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.verdict(judge_sample(bytes, self.rules), bytes)
    }

    /// Hands on a CloudTrail event and what it says beside; `whole` is kept if it cannot be counted.
    fn cloudtrail_event(
        &mut self,
        bytes: &[u8],
        event: Result<cloudtrail::Event<'_>, Reason>,
        whole: &[u8],
    ) -> Result<(), E> {
        let event = match event {
            Ok(event) => event,
            Err(reason) => return self.verdict(Verdict::DeadLetter(reason), whole),
        };
        let (mut facts, mut beside) = (Vec::new(), Vec::new());
        match event.consequence {
            Consequence::None => {}
            Consequence::LifeCycle => match organizations::life_cycle(bytes, &event.usage, self.rules) {
                Ok(found) => facts = found,
                Err(reason) => beside.push(Beside::DeadLetter(reason)),
            },
            Consequence::Evaluations => beside = config::put_evaluations(bytes, &event.usage, self.rules),
        }
        let mut others = facts.into_iter();
        let verdict = if self.rules.counts(Source::CloudTrail, &event.usage) {
            Verdict::of(Statement::beside(event.usage, others.collect()))
        } else if let Some(first) = others.next() {
            Verdict::of(Statement::of_facts(first, others))
        } else {
            Verdict::NotCounted(NotCounted::NotTheDeclaredSource)
        };
        self.hand_on(verdict, beside, whole, true)
    }

    /// Each element of a list is a record of its own; one that is set aside is kept as a list of one.
    fn list(&mut self, list: &List<'_>, whole: &[u8]) -> Result<(), E> {
        if list.elements.is_empty() {
            return self.verdict(Verdict::NotCounted(NotCounted::EmptyDelivery), whole);
        }
        list.elements.iter().try_for_each(|element| match list.judge(element, self.rules) {
            dead @ Verdict::DeadLetter(_) => self.verdict(dead, &list.with_only(element)),
            verdict => self.verdict(verdict, element),
        })
    }

    fn elements(&mut self, elements: &[&[u8]], whole: &[u8], layer: u32) -> Result<(), E> {
        if LAYERS_MAX <= layer {
            return self.verdict(Verdict::DeadLetter(Reason::WrappedTooDeep), whole);
        }
        if elements.is_empty() {
            return self.verdict(Verdict::NotCounted(NotCounted::EmptyDelivery), whole);
        }
        elements.iter().try_for_each(|element| self.record(element, layer + 1))
    }

    /// The messages of a CloudWatch Logs subscription, each a record of its own.
    fn log_messages(&mut self, whole: &[u8], members: &Members<'_>, layer: u32) -> Result<(), E> {
        if members.text("messageType").is("CONTROL_MESSAGE") {
            return self.verdict(Verdict::NotCounted(NotCounted::CloudWatchLogsControl), whole);
        }
        let Some(messages) = members.array("logEvents") else {
            return self.verdict(Verdict::DeadLetter(Reason::PayloadMalformed), whole);
        };
        if messages.is_empty() {
            return self.verdict(Verdict::NotCounted(NotCounted::EmptyDelivery), whole);
        }
        for element in messages {
            let message = Members::read(element).map_or(Scalar::Absent, |members| members.text("message"));
            match message {
                Scalar::Text(text) => self.text(&text, text.as_bytes(), layer)?,
                Scalar::Absent | Scalar::Other => {
                    self.verdict(Verdict::DeadLetter(Reason::PayloadMalformed), element)?;
                }
            }
        }
        Ok(())
    }

    /// Text that a delivery carries: one JSON value, or a dead letter as a whole.
    fn text(&mut self, text: &str, whole: &[u8], layer: u32) -> Result<(), E> {
        if serde_json::from_str::<IgnoredAny>(text).is_ok() || text.trim_ascii().is_empty() {
            return self.content(text.as_bytes(), whole, layer);
        }
        let is_begun = text.trim_ascii_start().starts_with(['{', '[']);
        let reason = if is_begun { Reason::BrokenJson } else { Reason::NotJson };
        self.verdict(Verdict::DeadLetter(reason), whole)
    }

    /// What a delivery carries: read like an object, gzip or not, one record or many.
    fn content(&mut self, content: &[u8], whole: &[u8], layer: u32) -> Result<(), E> {
        if LAYERS_MAX <= layer {
            return self.verdict(Verdict::DeadLetter(Reason::WrappedTooDeep), whole);
        }
        let inflate = Inflate::within(content, self.inflatable_bytes);
        let mut records = Records::of_delivery(inflate.expect("bytes in memory can be read"));
        let (mut is_empty, mut spent) = (true, 0);
        while let Some(piece) = records.next().expect("bytes in memory can be read") {
            is_empty = false;
            match piece {
                Piece::Record { bytes, .. } => self.record(bytes, layer + 1)?,
                Piece::Broken { reason, bytes, is_whole, .. } => {
                    let kept = if is_whole { bytes } else { whole };
                    self.verdict(Verdict::DeadLetter(reason), kept)?;
                }
            }
            let inflated = records.inflated_bytes();
            self.inflatable_bytes = self.inflatable_bytes.saturating_sub(inflated - spent);
            spent = inflated;
        }
        // Blanks are no piece, and cost as much to inflate.
        self.inflatable_bytes = self.inflatable_bytes.saturating_sub(records.inflated_bytes() - spent);
        if is_empty { self.verdict(Verdict::NotCounted(NotCounted::EmptyDelivery), whole) } else { Ok(()) }
    }

    fn verdict(&mut self, verdict: Verdict<'_>, bytes: &[u8]) -> Result<(), E> {
        self.hand_on(verdict, Vec::new(), bytes, true)
    }

    fn hand_on(
        &mut self,
        verdict: Verdict<'_>,
        beside: Vec<Beside<'_>>,
        bytes: &[u8],
        is_whole: bool,
    ) -> Result<(), E> {
        let judged = Judged { verdict, beside, bytes, offset: self.offset, number: self.number, is_whole };
        self.number += 1;
        (self.each)(judged)
    }
}

/// Judges a JSON object that is a CloudEvent.
pub(crate) fn judge_sample(event: &[u8], rules: Rules<'_>) -> Verdict<'static> {
    match sample::fact(event, rules.meters, rules.now) {
        Ok(fact) if rules.takes(Source::UsageSamples, &fact) => Verdict::of(Statement::of_facts(fact, [])),
        Ok(_) => Verdict::NotCounted(NotCounted::NotTheDeclaredSource),
        Err(reason) => Verdict::DeadLetter(reason),
    }
}

/// Whether a value calls itself a list of records and is none: judged like the same value at the top of an object.
fn is_broken_list(bytes: &[u8]) -> bool {
    Members::read(bytes).is_some_and(|members| members.has("Records") && members.array("Records").is_none())
}

/// Tells an object's form by its keys. Sources: AWS Lambda Developer Guide, "Using Lambda with Kinesis", "with CloudWatch
/// Logs"; Amazon Data Firehose Developer Guide, "Data transformation" and "HTTP endpoint delivery specifications"; Amazon
/// Kinesis API Reference, `GetRecords`; Amazon CloudWatch Logs User Guide, "Log group-level subscription filters".
fn form<'a>(members: &Members<'a>) -> Form<'a> {
    let has = |key: &str| members.has(key);
    if eventbridge::is_envelope(members) {
        return Form::Envelope;
    }
    if let Some(logs) = members.object("awslogs") {
        return Form::Encoded(logs.text("data"));
    }
    if has("messageType") && has("logEvents") {
        return Form::LogMessages;
    }
    if let Some(kinesis) = members.object("kinesis") {
        return Form::Encoded(kinesis.text("data"));
    }
    // An element of a Firehose event; the HTTP form has nothing beside its data.
    if has("data") && (has("recordId") || members.len() == 1) {
        return Form::Encoded(members.text("data"));
    }
    if has("Data") && has("PartitionKey") {
        return Form::Encoded(members.text("Data"));
    }
    if has("records") && (has("deliveryStreamArn") || has("requestId")) {
        return members.array("records").map_or(Form::Encoded(Scalar::Absent), Form::Elements);
    }
    if members.text("eventSource").is("aws:s3") {
        return Form::ObjectNotice;
    }
    if has("specversion") {
        return Form::Sample;
    }
    if members.text("Event").is("s3:TestEvent") {
        return Form::NotCounted(NotCounted::S3TestEvent);
    }
    let topic = members.text("Type");
    if topic.is("SubscriptionConfirmation") || topic.is("UnsubscribeConfirmation") {
        return Form::NotCounted(NotCounted::SnsConfirmation);
    }
    if members.text("eventSource").is("aws:sqs") {
        return Form::Text(members.text("body"));
    }
    if let Some(sns) = members.object("Sns") {
        return Form::Text(sns.text("Message"));
    }
    if members.text("Type").is("Notification") && has("Message") {
        return Form::Text(members.text("Message"));
    }
    if has("invokingEvent") {
        return Form::RuleInvocation;
    }
    if config::is_item(members) {
        return Form::NotCounted(NotCounted::ConfigItem);
    }
    if let Some(kind) = members.text("messageType").into_text().and_then(|name| config::notice(&name)) {
        return Form::NotCounted(kind);
    }
    if findings::is_guardduty(members) {
        return Form::GuardDutyFinding;
    }
    if findings::is_security_hub(members) {
        return Form::SecurityHubFinding;
    }
    if let Some(list) = List::of(members) {
        return Form::OrganizationsList(list);
    }
    // What GetFindings and BatchGetResourceConfig return, and the objects that AWS Config delivers.
    let of_api = ["Findings", "findings", "configurationItems", "baseConfigurationItems"];
    of_api.into_iter().find_map(|key| members.array(key)).map_or(Form::Unknown, Form::Elements)
}

#[cfg(test)]
#[path = "front_door/tests.rs"]
mod tests;
