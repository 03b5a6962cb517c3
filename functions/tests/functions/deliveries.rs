//! Deliveries as Lambda hands them to a function, in the forms that AWS documents.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
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

/// AWS Lambda Developer Guide, "Retain discarded batch records for a Kinesis Data Streams event source in Lambda": what the
/// on-failure destination gets of a batch, if it is S3.
pub(crate) fn given_up(stream: &str, shard: &str, [first, last]: [&str; 2], records: usize, batch: &str) -> String {
    json!({
        "requestContext": {
            "requestId": "c9b8fa9f-5a7f-xmpl-af9c-0c604cde93a5",
            "functionArn": "arn:aws:lambda:eu-central-1:123456789012:function:aggregate",
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 1,
        },
        "responseContext": { "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" },
        "version": "1.0",
        "timestamp": "2026-11-01T00:38:06.021Z",
        "KinesisBatchInfo": {
            "shardId": shard,
            "startSequenceNumber": first,
            "endSequenceNumber": last,
            "approximateArrivalOfFirstRecord": "2026-11-01T00:38:04.835Z",
            "approximateArrivalOfLastRecord": "2026-11-01T00:38:05.580Z",
            "batchSize": records,
            "streamArn": format!("arn:aws:kinesis:eu-central-1:123456789012:stream/{stream}"),
        },
        "payload": batch,
    })
    .to_string()
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

/// Amazon S3 User Guide, "Event message structure". Keys are as the notice has them: URL-encoded.
pub(crate) fn s3(bucket: &str, keys: &[&str]) -> String {
    let record = |key: &&str| {
        json!({
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "eu-central-1",
            "eventTime": "2026-10-24T00:10:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": { "principalId": "AWS:AIDAJDPLRKLG7UEXAMPLE" },
            "requestParameters": { "sourceIPAddress": "127.0.0.1" },
            "responseElements": { "x-amz-request-id": "C3D13FE58DE4C810" },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "logs",
                "bucket": { "name": bucket, "arn": format!("arn:aws:s3:::{bucket}") },
                "object": { "key": key, "size": 1024, "sequencer": "0055AED6DCD90281E5" },
            },
        })
    };
    records_of(keys.iter().map(record))
}

/// Amazon S3 User Guide, "Granting permissions to publish event notification messages": what S3 sends once.
pub(crate) fn s3_test(bucket: &str) -> String {
    json!({
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2014-10-13T15:57:02.089Z",
        "Bucket": bucket,
        "RequestId": "5582815E1AEA5ADF",
        "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
    })
    .to_string()
}

/// Amazon S3 User Guide, "Using EventBridge", event message structure.
pub(crate) fn object_created(bucket: &str, key: &str) -> String {
    json!({
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "111111111111",
        "time": "2026-10-24T00:10:00Z",
        "region": "eu-central-1",
        "resources": [format!("arn:aws:s3:::{bucket}")],
        "detail": {
            "version": "0",
            "bucket": { "name": bucket },
            "object": { "key": key, "size": 5, "sequencer": "617f08299329d189" },
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "reason": "PutObject",
        },
    })
    .to_string()
}

/// AWS Lambda Developer Guide, "Using Lambda with Amazon SNS".
pub(crate) fn sns(message: &str) -> String {
    records_of(std::iter::once(json!({
        "EventVersion": "1.0",
        "EventSubscriptionArn": "arn:aws:sns:eu-central-1:123456789012:logs:21be56ed",
        "EventSource": "aws:sns",
        "Sns": notification(message),
    })))
}

/// Amazon SNS Developer Guide, "Parsing Amazon SNS message formats": what a queue is sent.
pub(crate) fn notification(message: &str) -> Value {
    json!({
        "Type": "Notification",
        "MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e",
        "TopicArn": "arn:aws:sns:eu-central-1:123456789012:logs",
        "Subject": "Amazon S3 Notification",
        "Timestamp": "2026-10-24T00:10:01.000Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLE",
        "Message": message,
    })
}

/// AWS Lambda Developer Guide, "Using Lambda with Amazon SQS": messages by id and body. Received for the nth time.
pub(crate) fn sqs<'a>(messages: impl IntoIterator<Item = (&'a str, &'a str)>, receives: u32) -> String {
    let record = |(id, body): (&str, &str)| {
        json!({
            "messageId": id,
            "receiptHandle": format!("AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a-{receives}"),
            "body": body,
            "attributes": {
                "ApproximateReceiveCount": receives.to_string(),
                "SentTimestamp": "1545082649183",
                "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": "1545082649185",
            },
            "messageAttributes": {},
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:logs",
            "awsRegion": "eu-central-1",
        })
    };
    records_of(messages.into_iter().map(record))
}

/// AWS CloudTrail User Guide, "Sending CloudTrail events to Amazon EventBridge".
pub(crate) fn api_call(event: &Value) -> String {
    json!({
        "version": "0",
        "id": "6f87d04b-9f74-4f04-a780-7acf4b0a9b38",
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.ec2",
        "account": "123456789012",
        "time": "2026-10-24T00:20:49Z",
        "region": "eu-central-1",
        "resources": [],
        "detail": event,
    })
    .to_string()
}

/// AWS Lambda Developer Guide, "Using Lambda with CloudWatch Logs".
pub(crate) fn cloudwatch_logs(events: &[&Value]) -> String {
    let messages = events.iter().zip(0..).map(|(event, number): (_, u32)| {
        json!({ "id": format!("eventId{number}"), "timestamp": 1_440_442_987_000_u64, "message": event.to_string() })
    });
    let sent = json!({
        "messageType": "DATA_MESSAGE",
        "owner": "123456789012",
        "logGroup": "CloudTrail/logs",
        "logStream": "123456789012_CloudTrail_eu-central-1",
        "subscriptionFilters": ["metering"],
        "logEvents": messages.collect::<Vec<_>>(),
    });
    json!({ "awslogs": { "data": STANDARD.encode(gzip(sent.to_string().as_bytes())) } }).to_string()
}

/// Amazon Data Firehose Developer Guide, "Transform source data": records by id and content.
pub(crate) fn firehose<'a>(records: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let record = |(id, content): (&str, &[u8])| json!({ "recordId": id, "approximateArrivalTimestamp": 1_495_072_949_453_u64, "data": STANDARD.encode(content) });
    json!({
        "invocationId": "invocationIdExample",
        "deliveryStreamArn": "arn:aws:firehose:eu-central-1:123456789012:deliverystream/logs",
        "region": "eu-central-1",
        "records": records.into_iter().map(record).collect::<Vec<_>>(),
    })
    .to_string()
}

/// AWS Lambda Developer Guide, "Invoking Lambda function URLs": a signed request.
pub(crate) fn function_url(headers: &Value, body: &[u8], is_base64: bool) -> Value {
    let text = || String::from_utf8(body.to_vec()).expect("text");
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "urlid",
            "authorizer": { "iam": {
                "accessKey": "AKIAIOSFODNN7EXAMPLE",
                "accountId": "111122223333",
                "callerId": "AIDACKCEVSQ6C2EXAMPLE",
                "cognitoIdentity": null,
                "principalOrgId": "o-exampleorg",
                "userArn": "arn:aws:iam::111122223333:user/collector",
                "userId": "AIDACOSFODNN7EXAMPLE2",
            }},
            "domainName": "urlid.lambda-url.eu-central-1.on.aws",
            "http": { "method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "123.123.123.123", "userAgent": "agent" },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "time": "24/Oct/2026:00:20:49 +0000",
            "timeEpoch": 1_761_955_200_253_u64,
        },
        "body": if is_base64 { STANDARD.encode(body) } else { text() },
        "isBase64Encoded": is_base64,
    })
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

fn records_of(records: impl Iterator<Item = Value>) -> String {
    json!({ "Records": records.collect::<Vec<_>>() }).to_string()
}
