//! What a mapping makes of an invocation.

use serde_json::Value;

use crate::runtime_api::Outcome;

/// What a mapping makes of an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The whole batch is done.
    Done,
    /// These items are not: sequence numbers of a stream, message ids of a queue.
    Again(Vec<String>),
    /// Nothing of the batch counts as done.
    Failed,
}

/// Reads an invocation's outcome. `reports` is `ReportBatchItemFailures`.
///
/// "Configuring partial batch response with Kinesis Data Streams and Lambda", success and failure conditions; the same for
/// DynamoDB and SQS. An error, a timeout and a crash are failures of the invocation.
pub(crate) fn read(outcome: &Outcome, reports: bool) -> Verdict {
    match outcome {
        Outcome::Answer(_) if !reports => Verdict::Done,
        Outcome::Answer(Value::Null) => Verdict::Done,
        Outcome::Answer(Value::Object(answer)) => match answer.get("batchItemFailures") {
            // Assumed of an answer with other members only; an empty one is documented.
            None | Some(Value::Null) => Verdict::Done,
            Some(Value::Array(items)) if items.is_empty() => Verdict::Done,
            Some(Value::Array(items)) => {
                let named = |item: &Value| Some(item.get("itemIdentifier")?.as_str()?.to_owned());
                let named: Option<Vec<String>> = items.iter().map(named).collect();
                match named {
                    Some(named) if named.iter().all(|item| !item.is_empty()) => Verdict::Again(named),
                    _ => Verdict::Failed,
                }
            }
            Some(_) => Verdict::Failed,
        },
        Outcome::Answer(_) | Outcome::Error { .. } | Outcome::TimedOut | Outcome::Exited { .. } => Verdict::Failed,
    }
}
