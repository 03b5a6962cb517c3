//! Notices of what is in the bucket of logs, as a queue hands them out: ten messages at a time, by several routes.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::files::{hex, uuid, write_file};
use super::{Answer, LandingZone, NOTICES_FOLDER, TRAIL_BUCKET};
use crate::cloudtrail::{DigestsWritten, instant};
use crate::random::{Draws, Stream};

/// Most messages that Lambda gets of a queue at once, unless told otherwise.
const MESSAGES_TOGETHER: usize = 10;

pub(super) fn write(dir: &Path, zone: &LandingZone, digests: &DigestsWritten, answer: &mut Answer) -> io::Result<()> {
    let trail = zone.trail();
    let keys = (0..trail.file_count()).map(|k| trail.log_object(k).key).chain(digests.keys.iter().cloned());
    let mut messages = Vec::new();
    for (n, key) in (0_u64..).zip(keys) {
        let mut draws = Draws::new(zone.seed, Stream::Envelope, n + 1);
        let body = match n % 3 {
            0 => json!({ "Records": [record(&key, &mut draws)] }),
            1 => json!({
                "Type": "Notification", "MessageId": uuid(&mut draws), "TopicArn": "arn:aws:sns:us-east-1:111122223333:logs",
                "Message": json!({ "Records": [record(&key, &mut draws)] }).to_string(),
            }),
            _ => event_bridge(&key, zone, &mut draws),
        };
        messages.push(json!({
            "messageId": uuid(&mut draws), "body": body.to_string(), "eventSource": "aws:sqs", "awsRegion": "us-east-1",
            "eventSourceARN": "arn:aws:sqs:us-east-1:111122223333:logs", "attributes": {"ApproximateReceiveCount": "1"},
        }));
    }
    answer.read(NOTICES_FOLDER, messages.len() as u64);
    for (n, batch) in messages.chunks(MESSAGES_TOGETHER).enumerate() {
        let name = format!("{NOTICES_FOLDER}/{:03}/sqs-{n:06}.json", n / 1_000);
        write_file(dir, &name, json!({ "Records": batch }).to_string().as_bytes())?;
    }
    Ok(())
}

/// S3 encodes keys in its own notices; what these keys have needs no encoding.
fn record(key: &str, draws: &mut Draws) -> Value {
    json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventTime": "2026-10-01T00:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": TRAIL_BUCKET}, "object": {"key": key, "sequencer": hex(draws, 16)}},
    })
}

fn event_bridge(key: &str, zone: &LandingZone, draws: &mut Draws) -> Value {
    json!({
        "version": "0", "id": uuid(draws), "detail-type": "Object Created", "source": "aws.s3", "account": "111122223333",
        "time": instant(zone.begin()), "region": "us-east-1", "resources": [format!("arn:aws:s3:::{TRAIL_BUCKET}")],
        "detail": {"version": "0", "bucket": {"name": TRAIL_BUCKET}, "object": {"key": key, "sequencer": hex(draws, 16)},
                   "reason": "PutObject"},
    })
}
