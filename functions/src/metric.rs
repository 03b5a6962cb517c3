//! Figures for alarms: one line of JSON an invocation, which CloudWatch takes apart into metrics.
//!
//! Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format".

use std::io::{self, Write};

use ingest::Timestamp;
use serde_json::{Map, Value, json};

/// The namespace of every metric.
const NAMESPACE: &str = "SecureBase";

/// Writes counts of one invocation to standard output, under the function's role in the pipeline.
pub(crate) fn emit(function: &str, counts: &[(&str, u64)], now: Timestamp) {
    // Nobody reading the log is no reason to fail an invocation.
    let _ = writeln!(io::stdout().lock(), "{}", line(function, counts, now));
}

fn line(function: &str, counts: &[(&str, u64)], now: Timestamp) -> Value {
    let metrics: Vec<Value> = counts.iter().map(|(name, _)| json!({ "Name": name, "Unit": "Count" })).collect();
    let described = json!({
        "Timestamp": now.micros() / 1_000,
        "CloudWatchMetrics": [{ "Namespace": NAMESPACE, "Dimensions": [["Function"]], "Metrics": metrics }],
    });
    let mut line = Map::from_iter([("_aws".to_owned(), described), ("Function".to_owned(), json!(function))]);
    line.extend(counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))));
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_describes_its_metrics_and_holds_their_values() {
        let now = Timestamp::parse_rfc3339("2026-11-22T08:00:00Z").unwrap();
        let expected = json!({
            "_aws": {
                "Timestamp": 1_795_334_400_000_i64,
                "CloudWatchMetrics": [{
                    "Namespace": "SecureBase",
                    "Dimensions": [["Function"]],
                    "Metrics": [{ "Name": "Records", "Unit": "Count" }, { "Name": "Conflicts", "Unit": "Count" }],
                }],
            },
            "Function": "aggregate",
            "Records": 20,
            "Conflicts": 0,
        });
        assert_eq!(line("aggregate", &[("Records", 20), ("Conflicts", 0)], now), expected);
    }
}
