//! Write units that requests to DynamoDB ask for, read off the wire before the server: what was refused, sent again, or deleted
//! later costs as much as what stands at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

/// Units by table, of all requests that arrived whole.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<BTreeMap<String, u64>>);

impl Asked {
    /// Of the tables whose names end so.
    pub(crate) fn of(&self, tables: &[&str]) -> u64 {
        let asked = self.0.lock().unwrap();
        let is_one = |name: &str| tables.iter().any(|table| name.ends_with(table));
        asked.iter().filter(|(name, _)| is_one(name)).map(|(_, units)| units).sum()
    }

    /// Of every table.
    pub(crate) fn all(&self) -> u64 {
        self.of(&[""])
    }

    fn add(&self, table: &str, units: u64) {
        *self.0.lock().unwrap().entry(table.to_owned()).or_default() += units;
    }
}

/// Reads the requests of one connection as their bytes go by.
pub(crate) struct Requests {
    asked: Arc<Asked>,
    bytes: Vec<u8>,
}

impl Requests {
    pub(crate) fn new(asked: Arc<Asked>) -> Self {
        Self { asked, bytes: Vec::new() }
    }

    /// Takes bytes that went to the server.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while let Some((operation, body, length)) = first(&self.bytes) {
            note(&self.asked, &operation, &serde_json::from_slice(body).expect("a request of the SDK is JSON"));
            self.bytes.drain(..length);
        }
    }
}

/// The operation and body of the first request, and how long it is, if all of it is here.
fn first(bytes: &[u8]) -> Option<(String, &[u8], usize)> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let lines = std::str::from_utf8(&bytes[..head]).expect("a head of the SDK is text").lines();
    let headers: BTreeMap<String, &str> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let length: usize = headers.get("content-length").expect("the SDK says how long its requests are").parse().unwrap();
    let end = head + 4 + length;
    let operation = headers.get("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default();
    Some((operation.to_owned(), bytes.get(head + 4..end)?, end))
}

fn note(asked: &Asked, operation: &str, request: &Value) {
    let table = request["TableName"].as_str().unwrap_or_default();
    match operation {
        "PutItem" => asked.add(table, units(&request["Item"])),
        // What is deleted or changed is small here, and its size is not in the request.
        "DeleteItem" | "UpdateItem" => asked.add(table, 1),
        "BatchWriteItem" => {
            for (table, writes) in request["RequestItems"].as_object().unwrap() {
                let of_one = |write: &Value| write.get("PutRequest").map_or(1, |put| units(&put["Item"]));
                asked.add(table, writes.as_array().unwrap().iter().map(of_one).sum());
            }
        }
        other => assert!(!other.contains("Transact"), "{other} costs in another way"),
    }
}

/// One for each begun 1,024 bytes (Amazon DynamoDB Developer Guide, "DynamoDB item sizes and formats").
fn units(item: &Value) -> u64 {
    (members(item.as_object().unwrap()) as u64).div_ceil(1_024).max(1)
}

fn members(item: &Map<String, Value>) -> usize {
    item.iter().map(|(name, value)| name.len() + bytes(value)).sum()
}

fn bytes(value: &Value) -> usize {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let of_text = |kind: &str, text: &Value| {
        let text = text.as_str().unwrap();
        match kind {
            "N" => text.len().div_ceil(2) + 1,
            "B" => text.trim_end_matches('=').len() * 3 / 4,
            _ => text.len(),
        }
    };
    match kind.as_str() {
        kind @ ("S" | "N" | "B") => of_text(kind, value),
        "SS" | "NS" | "BS" => value.as_array().unwrap().iter().map(|one| of_text(&kind[..1], one)).sum(),
        "L" => 3 + value.as_array().unwrap().iter().map(|one| 1 + bytes(one)).sum::<usize>(),
        "M" => 3 + value.as_object().unwrap().len() + members(value.as_object().unwrap()),
        _ => 1,
    }
}

#[test]
fn units_are_read_off_the_wire_however_it_is_cut() {
    let put = r#"{"TableName":"x-commit-log","Item":{"p":{"S":"ab"},"n":{"N":"12"},"b":{"B":"AAAA"}}}"#;
    let large = format!(r#"{{"TableName":"x-commit-log","Item":{{"p":{{"S":"{}"}}}}}}"#, "x".repeat(1_024));
    let batch = r#"{"RequestItems":{"x-manifests":[{"PutRequest":{"Item":{"p":{"S":"a"}}}},{"DeleteRequest":{"Key":{"p":{"S":"a"}}}}]}}"#;
    let request = |operation: &str, body: &str| {
        let length = body.len();
        format!(
            "POST / HTTP/1.1\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let wire = [
        ("PutItem", put),
        ("PutItem", &large),
        ("Query", r#"{"TableName":"x-commit-log"}"#),
        ("BatchWriteItem", batch),
    ]
    .map(|(operation, body)| request(operation, body))
    .concat();
    for piece in [1, 7, 100, usize::MAX] {
        let asked = Arc::<Asked>::default();
        let mut requests = Requests::new(Arc::clone(&asked));
        wire.as_bytes().chunks(piece.min(wire.len())).for_each(|bytes| requests.take(bytes));
        assert_eq!((asked.of(&["commit-log"]), asked.of(&["manifests"]), asked.all()), (3, 2, 5), "{piece}");
    }
}
