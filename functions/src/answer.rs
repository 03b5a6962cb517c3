//! What Lambda reads of a batch's answer.

use lambda_runtime::Diagnostic;
use serde::Serialize;

/// Which items of a batch are to be delivered again.
///
/// Source: AWS Lambda Developer Guide, "Configuring partial batch response with Kinesis Data Streams and Lambda", and the
/// pages of the same kind for DynamoDB and SQS. Streams: an item is a sequence number, the lowest counts, everything from it
/// on is delivered again. SQS: an item is a message id, only those are. An empty list means that all is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchAnswer {
    /// The items; for a stream at most one.
    #[serde(rename = "batchItemFailures")]
    pub failures: Vec<ItemFailure>,
}

/// One item that is to be delivered again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemFailure {
    /// A sequence number or a message id; never empty, which would mean the whole batch.
    #[serde(rename = "itemIdentifier")]
    pub item: String,
}

impl BatchAnswer {
    /// Everything is done.
    pub(crate) fn done() -> Self {
        Self::default()
    }

    /// These items are not.
    pub(crate) fn again(items: impl IntoIterator<Item = String>) -> Self {
        Self { failures: items.into_iter().map(|item| ItemFailure { item }).collect() }
    }
}

/// An invocation's error as Lambda and its metrics see it: a kind that alarms can tell apart, and a message without payload.
pub(crate) fn diagnostic(kind: &str, error: &impl std::error::Error) -> Diagnostic {
    Diagnostic { error_type: kind.to_owned(), error_message: error.to_string() }
}
