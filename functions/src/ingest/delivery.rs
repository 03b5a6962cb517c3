//! Who invokes, as far as the answer and the name of the delivery depend on it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::request::SampleEvent;

/// An invocation of the function.
#[derive(Debug)]
pub(super) enum Invocation<'a> {
    /// A batch of the SQS event source mapping.
    Messages(Vec<Message>),
    /// A batch of Firehose's data transformation.
    Firehose(Firehose<'a>),
    /// A request to the function's URL, or of an HTTP API.
    Request(SampleEvent<'a>),
    /// Anything else.
    Other(Delivery),
}

/// What is taken in under one name. Name and content are the same when it is delivered again, so that what is set aside is
/// set aside once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

impl Delivery {
    /// A delivery without a name of its own has that of its content.
    fn of_content(content: &str) -> Self {
        let name = format!("delivery:{}", hex::encode(&Sha256::digest(content)[..16]));
        Self { name, content: content.as_bytes().to_vec() }
    }
}

/// A message of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Its id, by which the mapping delivers it again.
    pub(super) id: String,
    pub(super) delivery: Delivery,
}

impl<'a> Invocation<'a> {
    pub(super) fn tell(event: &'a str) -> Self {
        if let Some(messages) = sqs_messages(event) {
            return Self::Messages(messages);
        }
        if let Ok(firehose) = serde_json::from_str(event) {
            return Self::Firehose(firehose);
        }
        if let Ok(request) = serde_json::from_str(event) {
            return Self::Request(request);
        }
        Self::Other(Delivery::of_content(event))
    }
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<SqsRecord<'a>>,
}

/// What of a record stays the same each time it is delivered: handle, counts and times do not.
///
/// Source: AWS Lambda Developer Guide, "Using Lambda with Amazon SQS", example event.
#[derive(Deserialize, Serialize)]
struct SqsRecord<'a> {
    #[serde(rename = "messageId", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "eventSource", borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// The messages of a batch from SQS; `None` for any other invocation.
fn sqs_messages(event: &str) -> Option<Vec<Message>> {
    let batch: Batch<'_> = serde_json::from_str(event).ok()?;
    let is_queue = !batch.records.is_empty() && batch.records.iter().all(|record| record.source == "aws:sqs");
    is_queue.then(|| {
        let message = |record: SqsRecord<'_>| {
            let content = serde_json::to_vec(&record).expect("two texts and JSON are JSON");
            let delivery = Delivery { name: format!("sqs:{}", record.id), content };
            Message { id: record.id.into_owned(), delivery }
        };
        batch.records.into_iter().map(message).collect()
    })
}

/// A batch that Firehose asks to be transformed.
///
/// Source: Amazon Data Firehose Developer Guide, "Required parameters for data transformation".
#[derive(Debug, Deserialize)]
pub(super) struct Firehose<'a> {
    #[serde(rename = "deliveryStreamArn", borrow)]
    stream: &'a RawValue,
    #[serde(rename = "invocationId")]
    _invocation: serde::de::IgnoredAny,
    #[serde(borrow)]
    records: Vec<FirehoseRecord<'a>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct FirehoseRecord<'a> {
    #[serde(rename = "recordId", borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The answer to Firehose: each record as it came, so that the delivery stream keeps it where it keeps what it delivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FirehoseAnswer {
    records: Vec<TransformedRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TransformedRecord {
    #[serde(rename = "recordId")]
    id: serde_json::Value,
    result: &'static str,
    data: serde_json::Value,
}

impl Firehose<'_> {
    pub(super) fn delivery(&self) -> Delivery {
        #[derive(Serialize)]
        struct Stable<'a> {
            #[serde(rename = "deliveryStreamArn")]
            stream: &'a RawValue,
            records: &'a [FirehoseRecord<'a>],
        }
        let stable = Stable { stream: self.stream, records: &self.records };
        Delivery::of_content(&serde_json::to_string(&stable).expect("JSON is JSON"))
    }

    pub(super) fn answer(&self) -> FirehoseAnswer {
        let value = |raw: &RawValue| serde_json::from_str(raw.get()).expect("it was read as JSON");
        let records = self.records.iter().map(|record| TransformedRecord {
            id: value(record.id),
            result: "Ok",
            data: value(record.data),
        });
        FirehoseAnswer { records: records.collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_that_is_delivered_again_is_the_same_delivery() {
        let event = |handle: &str, count: u32| {
            json!({ "Records": [{
                "messageId": "059f36b4", "receiptHandle": handle, "body": "{\"Records\":[]}",
                "attributes": { "ApproximateReceiveCount": count.to_string(), "SentTimestamp": "1545082649183" },
                "messageAttributes": {}, "md5OfBody": "e4e68fb7", "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue", "awsRegion": "us-east-2",
            }]})
            .to_string()
        };
        let messages = |event: &str| match Invocation::tell(event) {
            Invocation::Messages(messages) => messages,
            other => panic!("{other:?}"),
        };
        let first = messages(&event("AQEBwJnK", 1));
        assert_eq!(first, messages(&event("BZXc", 2)));
        let Message { id, delivery } = &first[0];
        assert_eq!((id.as_str(), delivery.name.as_str()), ("059f36b4", "sqs:059f36b4"));
        let content = r#"{"messageId":"059f36b4","eventSource":"aws:sqs","body":"{\"Records\":[]}"}"#;
        assert_eq!(std::str::from_utf8(&delivery.content).unwrap(), content);
    }

    #[test]
    fn invocations_are_told_apart() {
        let kind = |event: &str| match Invocation::tell(event) {
            Invocation::Messages(_) => "messages",
            Invocation::Firehose(_) => "firehose",
            Invocation::Request(_) => "request",
            Invocation::Other(_) => "other",
        };
        let firehose =
            r#"{"invocationId":"1","deliveryStreamArn":"a","region":"r","records":[{"recordId":"1","data":"e30="}]}"#;
        // What Firehose sends to an HTTP endpoint, and what lies in files.
        let endpoint = r#"{"requestId":"1","timestamp":1,"records":[{"data":"e30="}]}"#;
        let request =
            r#"{"version":"2.0","headers":{},"requestContext":{"http":{"method":"POST"}},"isBase64Encoded":false}"#;
        let s3 = r#"{"Records":[{"eventSource":"aws:s3","s3":{}}]}"#;
        for (event, expected) in [
            (firehose, "firehose"),
            (endpoint, "other"),
            (request, "request"),
            (s3, "other"),
            (r#"{"Records":[]}"#, "other"),
            (r#"{"awslogs":{"data":""}}"#, "other"),
            (r#"{"detail-type":"x","source":"aws.ec2","detail":{}}"#, "other"),
            ("null", "other"),
        ] {
            assert_eq!(kind(event), expected, "{event}");
        }
    }

    #[test]
    fn firehose_gets_its_records_back() {
        let event = r#"{"invocationId":"1","deliveryStreamArn":"a","records":[{"recordId":"r1","approximateArrivalTimestamp":1,"data":"e30="}]}"#;
        let Invocation::Firehose(firehose) = Invocation::tell(event) else { panic!() };
        let expected = json!({ "records": [{ "recordId": "r1", "result": "Ok", "data": "e30=" }] });
        assert_eq!(serde_json::to_value(firehose.answer()).unwrap(), expected);
        let again = event.replace("\"invocationId\":\"1\"", "\"invocationId\":\"2\"");
        let Invocation::Firehose(again) = Invocation::tell(&again) else { panic!() };
        assert_eq!(firehose.delivery(), again.delivery());
    }
}
