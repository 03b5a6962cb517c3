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
use serde_json::{Value, json};

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
    /// What the authentication cache had done when it was last handed out.
    caches: CacheCounts,
    leases: LeaseCounts,
    /// The same when it was last handed out.
    leases_before: LeaseCounts,
}

/// What shared buckets of requests cost, and how often they were missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LeaseCounts {
    /// Writes to the table.
    writes: u64,
    /// Requests that a process's own bucket let through, because the shared one was away.
    alone: u64,
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

    /// A write that asks for leased requests.
    pub(crate) fn asked_for_lease(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).leases.writes += 1;
    }

    /// A request that went on without the shared bucket.
    pub(crate) fn went_alone(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).leases.alone += 1;
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
        for (name, help, count) in [
            ("lease_writes", "Writes to shared buckets of requests.", measured.leases.writes),
            ("unshared_requests", "Requests let through while the shared bucket was away.", measured.leases.alone),
        ] {
            let name = format!("securebase_api_{name}_total");
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}").expect(WRITES);
        }
        text
    }

    /// What was measured since the last time, as lines in CloudWatch's embedded metric format: one a route or more, and one
    /// of the authentication cache. A latency is a histogram as AWS's own exporters write it: values, how often each, and
    /// their statistics.
    pub fn embedded_metrics(&self, caches: CacheCounts, now: Timestamp) -> Vec<String> {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::new();
        let before = std::mem::replace(&mut measured.caches, caches);
        if before != caches {
            lines.push(of_caches(before, caches, now));
        }
        let leases = measured.leases;
        let before = std::mem::replace(&mut measured.leases_before, leases);
        if before != leases {
            lines.push(of_leases(before, leases, now));
        }
        for ((route, method), of_route) in &mut measured.routes {
            let since = std::mem::take(&mut of_route.since);
            let latencies: Vec<(u64, u64)> = since.latencies.into_iter().collect();
            for (part, some) in latencies.chunks(EMF_VALUES_MAX).enumerate() {
                let (values, counts): (Vec<u64>, Vec<u64>) = some.iter().copied().unzip();
                let sum: u64 = some.iter().map(|(value, count)| value * count).sum();
                let latency = json!({
                    "Values": values,
                    "Counts": counts,
                    "Min": values.first(),
                    "Max": values.last(),
                    "Count": counts.iter().sum::<u64>(),
                    "Sum": sum,
                });
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
                    "Latency": latency,
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

/// How often bcrypt was spared, and how often not.
fn of_caches(before: CacheCounts, now_counted: CacheCounts, now: Timestamp) -> String {
    of_counts(
        &[
            ("SecretsFromMemory", now_counted.memory.saturating_sub(before.memory)),
            ("SecretsFromTable", now_counted.table.saturating_sub(before.table)),
            ("SecretsFromBcrypt", now_counted.missed.saturating_sub(before.missed)),
        ],
        now,
    )
}

/// What shared buckets cost, and how often they were away.
fn of_leases(before: LeaseCounts, now_counted: LeaseCounts, now: Timestamp) -> String {
    of_counts(
        &[
            ("LeaseWrites", now_counted.writes.saturating_sub(before.writes)),
            ("UnsharedRequests", now_counted.alone.saturating_sub(before.alone)),
        ],
        now,
    )
}

/// A line of counts without dimensions.
fn of_counts(counts: &[(&str, u64)], now: Timestamp) -> String {
    let metrics: Vec<Value> = counts.iter().map(|(name, _)| json!({"Name": name, "Unit": "Count"})).collect();
    let mut line = json!({
        "_aws": {
            "Timestamp": now.micros().div_euclid(1_000),
            "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [[]], "Metrics": metrics}],
        },
    });
    for (name, count) in counts {
        line[*name] = json!(count);
    }
    line.to_string()
}

#[cfg(test)]
mod tests {

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
        let caches = CacheCounts { memory: 9, table: 1, missed: 2 };
        let lines = telemetry.embedded_metrics(caches, now);
        let [of_cache, line] = [0, 1].map(|line| serde_json::from_str::<Value>(&lines[line]).unwrap());
        assert_eq!(line["_aws"]["Timestamp"], 1_800_000_000_123_i64);
        let latency = json!({
            "Values": [100, 1_000, 9_000], "Counts": [1, 2, 1], "Min": 100, "Max": 9_000, "Count": 4, "Sum": 11_100,
        });
        assert_eq!(line["Latency"], latency);
        assert_eq!((&line["ServerErrors"], &line["ClientErrors"], &line["Limited"]), (&json!(1), &json!(1), &json!(1)));
        let spared = ["SecretsFromMemory", "SecretsFromTable", "SecretsFromBcrypt"].map(|name| of_cache[name].as_u64());
        assert_eq!(spared, [Some(9), Some(1), Some(2)]);
        assert_eq!(telemetry.embedded_metrics(caches, now), Vec::<String>::new(), "each answer is handed out once");
        let more = telemetry.embedded_metrics(CacheCounts { memory: 12, ..caches }, now);
        assert_eq!(serde_json::from_str::<Value>(&more[0]).unwrap()["SecretsFromMemory"], 3);
    }

    #[test]
    fn requests_that_went_on_without_their_shared_bucket_are_counted_in_both_forms() {
        let telemetry = Telemetry::default();
        telemetry.asked_for_lease();
        telemetry.went_alone();
        telemetry.went_alone();
        let caches = CacheCounts::default();
        let text = telemetry.prometheus(caches);
        for line in ["securebase_api_lease_writes_total 1", "securebase_api_unshared_requests_total 2"] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        let now = Timestamp::from_micros(0).unwrap();
        let lines = telemetry.embedded_metrics(caches, now);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        check_form(line);
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["LeaseWrites"], &line["UnsharedRequests"]), (&json!(1), &json!(2)));
        telemetry.went_alone();
        let lines = telemetry.embedded_metrics(caches, now);
        assert_eq!(serde_json::from_str::<Value>(&lines[0]).unwrap()["UnsharedRequests"], 1, "once each");
    }

    /// Amazon CloudWatch User Guide, "Specification: Embedded metric format": what a line must have to become metrics.
    #[track_caller]
    fn check_form(line: &str) {
        const UNITS: [&str; 2] = ["Microseconds", "Count"];
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["_aws"]["Timestamp"].is_u64(), "{line}");
        let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        assert_eq!(directives.len(), 1);
        let namespace = directives[0]["Namespace"].as_str().unwrap();
        assert!((1..=1_024).contains(&namespace.len()));
        let sets = directives[0]["Dimensions"].as_array().unwrap();
        assert!(!sets.is_empty());
        for name in sets.iter().flat_map(|set| set.as_array().unwrap()) {
            // A dimension's value is a text in the line itself, of 1 to 1024 characters.
            let value = line[name.as_str().unwrap()].as_str().unwrap();
            assert!((1..=1_024).contains(&value.len()), "{line}");
        }
        let metrics = directives[0]["Metrics"].as_array().unwrap();
        assert!((1..=100).contains(&metrics.len()));
        for metric in metrics {
            assert!(UNITS.contains(&metric["Unit"].as_str().unwrap()), "{metric}");
            let value = &line[metric["Name"].as_str().unwrap()];
            let Some(histogram) = value.as_object() else {
                assert!(value.is_number(), "{metric} {line}");
                continue;
            };
            let numbers = |name: &str| -> Vec<u64> {
                histogram[name].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
            };
            let (values, counts) = (numbers("Values"), numbers("Counts"));
            assert!((1..=100).contains(&values.len()) && values.len() == counts.len(), "{line}");
            assert_eq!(histogram["Count"].as_u64(), Some(counts.iter().sum()));
            assert_eq!(
                (histogram["Min"].as_u64(), histogram["Max"].as_u64()),
                (values.first().copied(), values.last().copied())
            );
        }
        assert!(line.to_string().len() < 256 * 1_024);
    }

    #[test]
    fn a_line_holds_as_many_values_as_the_format_allows() {
        let telemetry = Telemetry::default();
        for number in 0..250 {
            telemetry.answered("/v1/usage", "GET", 500, number * 100);
        }
        let caches = CacheCounts { memory: 1, ..CacheCounts::default() };
        let lines = telemetry.embedded_metrics(caches, Timestamp::from_micros(0).unwrap());
        lines.iter().for_each(|line| check_form(line));
        let of = |name: &str| -> u64 {
            let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.map(|line| line.pointer(name).and_then(Value::as_u64).unwrap_or_default()).sum()
        };
        assert_eq!((lines.len(), of("/ServerErrors"), of("/Latency/Count")), (4, 250, 250));
    }
}
