//! What the server measures: requests and their latencies by route, what the caches spare, whom the limits turn away.
//!
//! Two forms of the same: Prometheus text for a server that someone looks at, and CloudWatch's embedded metric format for
//! one whose log is all there is. No customer, key or path is a label: their number has no bound, and they are nobody's
//! business here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use ingest::Timestamp;
use serde_json::json;

use crate::auth::CacheCounts;

/// Latencies are told apart to three digits, up to a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
const LATENCY_DIGITS: u8 = 3;

/// What is shown of a latency's distribution.
const QUANTILES: [(f64, &str); 4] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (1.0, "1")];

const NAMESPACE: &str = "SecureBase/API";

/// Values of one metric in a line (CloudWatch embedded metric format specification).
const EMF_VALUES_MAX: usize = 100;

/// Writing to a text cannot fail.
const WRITES: &str = "memory takes what is written";

/// What was measured since the start, and since it was last handed out.
#[derive(Clone, Debug, Default)]
pub struct Telemetry(Arc<Mutex<Measured>>);

#[derive(Debug, Default)]
struct Measured {
    /// By route and method.
    routes: BTreeMap<(String, String), OfRoute>,
}

#[derive(Debug)]
struct OfRoute {
    /// By status.
    answers: BTreeMap<u16, u64>,
    latency: Histogram<u64>,
    since: OfInterval,
}

/// What was not yet handed out as embedded metrics.
#[derive(Debug, Default)]
struct OfInterval {
    latencies: BTreeMap<u64, u64>,
    server_errors: u64,
    client_errors: u64,
    limited: u64,
}

impl Default for OfRoute {
    fn default() -> Self {
        let latency = Histogram::new_with_max(LATENCY_MICROS_MAX, LATENCY_DIGITS);
        let latency = latency.expect("the bounds are within what a histogram can hold");
        Self { answers: BTreeMap::new(), latency, since: OfInterval::default() }
    }
}

impl Telemetry {
    /// One answer. The route is the pattern, such as `/v1/invoices/{invoice}`, and never the path.
    pub(crate) fn answered(&self, route: &str, method: &str, status: u16, micros: u64) {
        let micros = micros.min(LATENCY_MICROS_MAX);
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_route = measured.routes.entry((route.to_owned(), method.to_owned())).or_default();
        *of_route.answers.entry(status).or_default() += 1;
        of_route.latency.saturating_record(micros);
        let since = &mut of_route.since;
        // A tenth of a millisecond is near enough, and bounds the number of different values.
        *since.latencies.entry(micros / 100 * 100).or_default() += 1;
        since.server_errors += u64::from(status >= 500);
        since.client_errors += u64::from((400..500).contains(&status));
        since.limited += u64::from(status == 429);
    }

    /// Everything since the start, as Prometheus reads it (text format 0.0.4).
    pub fn prometheus(&self, caches: CacheCounts) -> String {
        let measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from(
            "# HELP securebase_api_requests_total Answers by route, method and status.\n\
             # TYPE securebase_api_requests_total counter\n",
        );
        for ((route, method), of_route) in &measured.routes {
            for (status, count) in &of_route.answers {
                writeln!(
                    text,
                    "securebase_api_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}"
                )
                .expect(WRITES);
            }
        }
        text.push_str(
            "# HELP securebase_api_latency_microseconds From a request's last header byte to its answer.\n\
             # TYPE securebase_api_latency_microseconds summary\n",
        );
        for ((route, method), of_route) in &measured.routes {
            for (quantile, name) in QUANTILES {
                let value = of_route.latency.value_at_quantile(quantile);
                writeln!(
                    text,
                    "securebase_api_latency_microseconds{{route=\"{route}\",method=\"{method}\",quantile=\"{name}\"}} {value}"
                )
                .expect(WRITES);
            }
            let count = of_route.latency.len();
            writeln!(
                text,
                "securebase_api_latency_microseconds_count{{route=\"{route}\",method=\"{method}\"}} {count}"
            )
            .expect(WRITES);
        }
        text.push_str(
            "# HELP securebase_api_secrets_total Right secrets by who knew them.\n\
             # TYPE securebase_api_secrets_total counter\n",
        );
        for (who, count) in [("memory", caches.memory), ("table", caches.table), ("bcrypt", caches.missed)] {
            writeln!(text, "securebase_api_secrets_total{{known_by=\"{who}\"}} {count}").expect(WRITES);
        }
        text
    }

    /// What was measured since the last time, as lines in CloudWatch's embedded metric format, one a route.
    pub fn embedded_metrics(&self, now: Timestamp) -> Vec<String> {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        for ((route, method), of_route) in &mut measured.routes {
            let since = std::mem::take(&mut of_route.since);
            let latencies: Vec<(u64, u64)> = since.latencies.into_iter().collect();
            for (part, some) in latencies.chunks(EMF_VALUES_MAX).enumerate() {
                let (values, counts): (Vec<u64>, Vec<u64>) = some.iter().copied().unzip();
                // Counts of the whole interval are on its first line.
                let once = |count: u64| if part == 0 { count } else { 0 };
                let line = json!({
                    "_aws": {
                        "Timestamp": now.micros().div_euclid(1_000),
                        "CloudWatchMetrics": [{
                            "Namespace": NAMESPACE,
                            "Dimensions": [["Route", "Method"], []],
                            "Metrics": [
                                {"Name": "Latency", "Unit": "Microseconds"},
                                {"Name": "ServerErrors", "Unit": "Count"},
                                {"Name": "ClientErrors", "Unit": "Count"},
                                {"Name": "Limited", "Unit": "Count"},
                            ],
                        }],
                    },
                    "Route": route,
                    "Method": method,
                    "Latency": {"Values": values, "Counts": counts},
                    "ServerErrors": once(since.server_errors),
                    "ClientErrors": once(since.client_errors),
                    "Limited": once(since.limited),
                });
                lines.push(line.to_string());
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let telemetry = Telemetry::default();
        for (status, micros) in [(200, 1_000), (200, 1_040), (503, 9_000), (429, 100)] {
            telemetry.answered("/v1/usage", "GET", status, micros);
        }
        let text = telemetry.prometheus(CacheCounts { memory: 9, table: 1, missed: 2 });
        for line in [
            "securebase_api_requests_total{route=\"/v1/usage\",method=\"GET\",status=\"200\"} 2",
            "securebase_api_requests_total{route=\"/v1/usage\",method=\"GET\",status=\"503\"} 1",
            "securebase_api_latency_microseconds_count{route=\"/v1/usage\",method=\"GET\"} 4",
            "securebase_api_secrets_total{known_by=\"bcrypt\"} 2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        let now = Timestamp::from_micros(1_800_000_000_123_456).unwrap();
        let lines = telemetry.embedded_metrics(now);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["_aws"]["Timestamp"], 1_800_000_000_123_i64);
        assert_eq!(line["Latency"], json!({"Values": [100, 1_000, 9_000], "Counts": [1, 2, 1]}));
        assert_eq!((&line["ServerErrors"], &line["ClientErrors"], &line["Limited"]), (&json!(1), &json!(1), &json!(1)));
        assert_eq!(telemetry.embedded_metrics(now), Vec::<String>::new(), "each answer is handed out once");
    }

    #[test]
    fn a_line_holds_as_many_values_as_the_format_allows() {
        let telemetry = Telemetry::default();
        for number in 0..250 {
            telemetry.answered("/v1/usage", "GET", 500, number * 100);
        }
        let lines = telemetry.embedded_metrics(Timestamp::from_micros(0).unwrap());
        let errors: u64 = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["ServerErrors"].as_u64().unwrap())
            .sum();
        assert_eq!((lines.len(), errors), (3, 250));
    }
}
