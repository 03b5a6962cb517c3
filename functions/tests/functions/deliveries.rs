//! Deliveries as Lambda hands them to a function, in the forms that AWS documents.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A record of a Kinesis stream.
#[derive(Clone, Debug)]
pub(crate) struct KinesisRecord {
    pub(crate) sequence_number: String,
    pub(crate) partition_key: String,
    pub(crate) body: Vec<u8>,
}

/// AWS Lambda Developer Guide, "Using Lambda to process records from Amazon Kinesis Data Streams".
pub(crate) fn kinesis(stream: &str, shard: &str, records: impl IntoIterator<Item = KinesisRecord>) -> String {
    let record = |KinesisRecord { sequence_number, partition_key, body }: KinesisRecord| {
        json!({
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": partition_key,
                "sequenceNumber": sequence_number,
                "data": STANDARD.encode(body),
                "approximateArrivalTimestamp": 1_761_955_200.253,
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": format!("{shard}:{sequence_number}"),
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": "arn:aws:iam::123456789012:role/aggregate",
            "awsRegion": "eu-central-1",
            "eventSourceARN": format!("arn:aws:kinesis:eu-central-1:123456789012:stream/{stream}"),
        })
    };
    records_of(records.into_iter().map(record))
}

/// AWS Lambda Developer Guide, "Using AWS Lambda with Amazon DynamoDB": new entries of the commit log, keys only.
pub(crate) fn commit_log(entries: impl IntoIterator<Item = (String, String, u64)>) -> String {
    let record = |(sequence_number, partition, version): (String, String, u64)| {
        json!({
            "eventID": format!("{:0>32}", sequence_number),
            "eventName": "INSERT",
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": "eu-central-1",
            "dynamodb": {
                "ApproximateCreationDateTime": 1_761_955_200,
                "Keys": { "partition": { "S": partition }, "version": { "N": version.to_string() } },
                "SequenceNumber": sequence_number,
                "SizeBytes": 40,
                "StreamViewType": "KEYS_ONLY",
            },
            "eventSourceARN":
                "arn:aws:dynamodb:eu-central-1:123456789012:table/metering-commit-log/stream/2026-11-01T00:00:00.000",
        })
    };
    records_of(entries.into_iter().map(record))
}

/// Amazon EventBridge User Guide, "Creating a rule that runs on a schedule": what a target is given.
pub(crate) fn schedule(time: &str) -> String {
    json!({
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": time,
        "region": "eu-central-1",
        "resources": ["arn:aws:events:eu-central-1:123456789012:rule/sweep"],
        "detail": {},
    })
    .to_string()
}

fn records_of(records: impl Iterator<Item = Value>) -> String {
    json!({ "Records": records.collect::<Vec<_>>() }).to_string()
}
