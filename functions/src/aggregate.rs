//! A batch of stream records from the Kinesis event source mapping, counted.

use std::borrow::Cow;
use std::sync::Arc;

use aggregator::aggregator::{Aggregator, Counters};
use aggregator::dynamodb_log::DynamoDbLog;
use aggregator::records::{DeliveredRecord, Shard};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ingest::Timestamp;
use lambda_runtime::Diagnostic;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use thiserror::Error;

use crate::answer::{BatchAnswer, diagnostic};
use crate::clients::Tables;
use crate::deadline::{Deadline, DeadlineExceeded};
use crate::settings::{Settings, SettingsError, StoreSettings};
use crate::{edge, metric};

/// The settings of the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateSettings {
    /// The tables.
    pub stores: StoreSettings,
    /// Bytes of known identities that an environment keeps between invocations.
    pub cache_bytes_max: usize,
}

impl AggregateSettings {
    /// Reads them.
    pub fn read(read: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(read);
        let stores = settings.stores();
        // A third of the memory: identities in hash sets, beside batches and the SDK.
        let memory_mb = settings.whole("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 128..=10_240, 512);
        let cache_mb = settings.whole("SECUREBASE_CACHE_MB", 0..=8_192, memory_mb / 3);
        let cache_bytes_max = usize::try_from(cache_mb << 20).unwrap_or(usize::MAX);
        settings.finish(Self { stores, cache_bytes_max })
    }
}

/// Why a batch has no answer: Lambda delivers all of it again.
#[derive(Debug, Error)]
pub enum AggregateError {
    /// Stop: something else invokes the function.
    #[error("not a batch of the Kinesis event source mapping: {0}")]
    NotKinesis(String),
    /// Retry. Half a batch is likely to be done in time, and what was counted is known.
    #[error(transparent)]
    Deadline(#[from] DeadlineExceeded),
}

impl From<AggregateError> for Diagnostic {
    fn from(error: AggregateError) -> Self {
        let kind = match &error {
            AggregateError::NotKinesis(_) => "Delivery.NotRecognized",
            AggregateError::Deadline(_) => "Deadline.Exceeded",
        };
        diagnostic(kind, &error)
    }
}

/// The function in one execution environment. What it knows stays between invocations; only speed depends on it.
#[derive(Debug)]
pub struct Aggregate {
    aggregator: Aggregator<DynamoDbLog>,
    counters: Arc<Counters>,
}

impl Aggregate {
    /// Counts into these tables.
    pub fn new(tables: &Tables, settings: &AggregateSettings) -> Self {
        let counters = Arc::<Counters>::default();
        let (log, acknowledgements, letters) = (tables.commit_log(), tables.acknowledgements(), tables.dead_letters());
        let (cache_bytes, counting) = (settings.cache_bytes_max, counters.clone());
        let aggregator = Aggregator::new(log, acknowledgements, letters, cache_bytes, edge::commit_id, counting);
        Self { aggregator, counters }
    }

    /// Counts a batch. The answer names the first record that is not done; none means all are.
    pub async fn answer(
        &mut self,
        event: &str,
        now: Timestamp,
        deadline: Deadline,
    ) -> Result<BatchAnswer, AggregateError> {
        let (shard, records) = decode(event)?;
        let sequence_numbers: Vec<String> = records.iter().map(|record| record.sequence_number.clone()).collect();
        let before = self.counters.snapshot();
        let outcome = deadline.keep(self.aggregator.count(&shard, records, now)).await?;
        let (all, done) = (sequence_numbers.len(), outcome.first_failed.unwrap_or(sequence_numbers.len()));
        let after = self.counters.snapshot();
        let figures = [
            ("Records", all as u64),
            ("RecordsToDeliverAgain", (all - done) as u64),
            ("MalformedRecords", outcome.malformed as u64),
            ("ParkedSlices", after.parked_slices - before.parked_slices),
            ("Conflicts", after.conflicts - before.conflicts),
            ("UnknownOutcomes", after.unknown_outcomes - before.unknown_outcomes),
        ];
        metric::emit("aggregate", &figures, now);
        let Some(first_failed) = outcome.first_failed else { return Ok(BatchAnswer::done()) };
        let sequence_number = &sequence_numbers[first_failed];
        let said = outcome.failure.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            error = said,
            shard = shard.id,
            sequence_number,
            all,
            done,
            "records are to be delivered again"
        );
        Ok(BatchAnswer::again([sequence_number.clone()]))
    }
}

/// Only what is read here: a field that Lambda adds or leaves out must not stop a shard.
///
/// Source: AWS Lambda Developer Guide, "Using Lambda to process records from Amazon Kinesis Data Streams", example event.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<EventRecord<'a>>,
}

#[derive(Deserialize)]
struct EventRecord<'a> {
    /// `shardId-000000000006:49590338271490256608559692538361571095921575989136588898`.
    #[serde(rename = "eventID", borrow)]
    event_id: Cow<'a, str>,
    #[serde(rename = "eventSourceARN", borrow)]
    source_arn: Cow<'a, str>,
    #[serde(borrow)]
    kinesis: Payload<'a>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(rename = "sequenceNumber", borrow)]
    sequence_number: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// What Lambda keeps of a batch that the mapping gave up, where the on-failure destination is S3: the batch as it was
/// delivered is the payload, as JSON or as a text of it.
///
/// Source: AWS Lambda Developer Guide, "Retain discarded batch records for a Kinesis Data Streams event source in Lambda".
#[derive(Deserialize)]
struct GivenUp {
    #[serde(rename = "KinesisBatchInfo")]
    _batch: IgnoredAny,
    payload: Value,
}

/// A batch as the mapping delivers it, or what was kept of one that it gave up.
fn decode(event: &str) -> Result<(Shard, Vec<DeliveredRecord>), AggregateError> {
    decode_batch(event).or_else(|not_a_batch| match serde_json::from_str::<GivenUp>(event) {
        Ok(GivenUp { payload: Value::String(batch), .. }) => decode_batch(&batch),
        Ok(GivenUp { payload, .. }) => decode_batch(&payload.to_string()),
        Err(_) => Err(not_a_batch),
    })
}

fn decode_batch(event: &str) -> Result<(Shard, Vec<DeliveredRecord>), AggregateError> {
    let not_kinesis = |reason: &str| AggregateError::NotKinesis(reason.to_owned());
    let event: Event<'_> = serde_json::from_str(event).map_err(|error| not_kinesis(&error.to_string()))?;
    let first = event.records.first().ok_or_else(|| not_kinesis("no records"))?;
    // An invocation has records of one shard.
    let (shard, _) = first.event_id.split_once(':').ok_or_else(|| not_kinesis("eventID names no shard"))?;
    let (_, stream) = first.source_arn.rsplit_once('/').ok_or_else(|| not_kinesis("eventSourceARN names no stream"))?;
    let shard = Shard { stream: stream.to_owned(), id: shard.to_owned() };
    let records = event.records.into_iter().map(|record| DeliveredRecord {
        sequence_number: record.kinesis.sequence_number.into_owned(),
        // Lambda always encodes; anything else is set aside as it is.
        body: STANDARD.decode(record.kinesis.data.as_bytes()).unwrap_or_else(|_| record.kinesis.data.as_bytes().into()),
    });
    Ok((shard, records.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(record: &str) -> String {
        format!(r#"{{"Records":[{record}]}}"#)
    }

    #[test]
    fn a_batch_names_its_stream_its_shard_and_its_records() {
        let text = event(
            r#"{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":"07","sequenceNumber":"4959","data":"W10=",
            "approximateArrivalTimestamp":1545084650.987},"eventSource":"aws:kinesis","eventVersion":"1.0",
            "eventID":"shardId-000000000006:4959","eventName":"aws:kinesis:record","awsRegion":"us-east-2",
            "invokeIdentityArn":"arn:aws:iam::123456789012:role/lambda-role",
            "eventSourceARN":"arn:aws:kinesis:us-east-2:123456789012:stream/usage"},
            {"kinesis":{"sequenceNumber":"4960","data":"no base64"},"eventID":"shardId-000000000006:4960",
            "eventSourceARN":"arn:aws:kinesis:us-east-2:123456789012:stream/usage"}"#,
        );
        let (shard, records) = decode(&text).unwrap();
        assert_eq!(shard, Shard { stream: "usage".into(), id: "shardId-000000000006".into() });
        let record = |number: &str, body: &[u8]| DeliveredRecord { sequence_number: number.into(), body: body.into() };
        assert_eq!(records, [record("4959", b"[]"), record("4960", b"no base64")]);
    }

    #[test]
    fn what_the_mapping_gave_up_is_the_batch_it_was() {
        let batch = event(
            r#"{"kinesis":{"sequenceNumber":"4959","data":"W10="},"eventID":"shardId-000000000006:4959",
            "eventSourceARN":"arn:aws:kinesis:us-east-2:123456789012:stream/usage"}"#,
        );
        let kept = |payload: Value| {
            let record = serde_json::json!({
                "requestContext": { "requestId": "c9b8fa9f", "condition": "RetryAttemptsExhausted" },
                "version": "1.0",
                "KinesisBatchInfo": { "shardId": "shardId-000000000006", "batchSize": 1 },
                "payload": payload,
            });
            decode(&record.to_string())
        };
        let delivered = decode(&batch).unwrap();
        assert_eq!(kept(Value::String(batch.clone())).unwrap(), delivered);
        assert_eq!(kept(serde_json::from_str(&batch).unwrap()).unwrap(), delivered);
        // To a queue or a topic Lambda sends no payload.
        assert!(kept(Value::Null).unwrap_err().to_string().contains("not a batch"));
    }

    #[test]
    fn what_is_no_batch_of_kinesis_is_refused() {
        let sqs = event(r#"{"messageId":"1","body":"{}","eventSourceARN":"arn:aws:sqs:us-east-2:1:q"}"#);
        let shardless = event(r#"{"kinesis":{"sequenceNumber":"1","data":""},"eventID":"1","eventSourceARN":"a/b"}"#);
        for (text, reason) in [
            ("{}", "missing field `Records`"),
            (r#"{"Records":[]}"#, "no records"),
            (&sqs, "missing field `eventID`"),
            (&shardless, "eventID names no shard"),
        ] {
            let said = decode(text).unwrap_err().to_string();
            assert!(said.contains(reason), "{said}");
        }
    }
}
