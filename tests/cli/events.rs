//! Synthetic CloudTrail log objects.

use std::io::Write;
use std::ops::Range;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

pub(crate) const ACCOUNT: &str = "012345678901";
/// An instant of a month that has ended, in which every seeded rate card is in force.
pub(crate) const TIME: &str = "2024-03-05T10:20:30Z";

/// One management event of an account; the same number is the same event.
pub(crate) fn record(account: &str, number: u32, time: &str) -> Value {
    json!({
        "eventVersion": "1.08",
        "userIdentity": { "type": "IAMUser", "accountId": account },
        "eventTime": time,
        "eventSource": "s3.amazonaws.com",
        "eventName": "ListBuckets",
        "awsRegion": "eu-central-1",
        "eventID": format!("{number:08x}-0000-4000-8000-{number:012x}"),
        "eventType": "AwsApiCall",
        "managementEvent": true,
        "recipientAccountId": account,
        "eventCategory": "Management",
    })
}

/// A log object of `ACCOUNT`'s events with these numbers.
pub(crate) fn object(numbers: Range<u32>) -> Vec<u8> {
    object_of(ACCOUNT, numbers, TIME)
}

pub(crate) fn object_of(account: &str, numbers: Range<u32>, time: &str) -> Vec<u8> {
    let records: Vec<Value> = numbers.map(|number| record(account, number, time)).collect();
    json!({ "Records": records }).to_string().into_bytes()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
