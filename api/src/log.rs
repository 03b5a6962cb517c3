//! What may stand in a log, however much of it is asked for.

use tracing::{Level, Metadata};

/// Our own crates: they log names and numbers, never what a caller or a store sent.
const OURS: [&str; 11] = [
    "aggregator",
    "api",
    "api_function",
    "authorizer_function",
    "billing",
    "embedded",
    "functions",
    "ingest",
    "invoice_pdf",
    "migrations",
    "securebase",
];

/// Whether a line may be written, whatever level was asked for.
///
/// Clients of stores write statements at `debug`, and whole requests and answers at `trace`: headers with credentials,
/// bodies, the secrets that Secrets Manager gave. So everybody else's lines end at `info`.
pub fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let of_crate = target.split_once("::").map_or(target, |(name, _)| name);
    *metadata.level() <= Level::INFO || OURS.contains(&of_crate)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn other_peoples_crates_are_heard_up_to_info() {
        let lines = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_test_writer().finish();
        let filtered = lines.with(tracing_subscriber::filter::filter_fn(may_be_logged));
        tracing::subscriber::with_default(filtered, || {
            assert!(tracing::enabled!(target: "api::edge", Level::TRACE));
            assert!(tracing::enabled!(target: "securebase", Level::DEBUG));
            assert!(tracing::enabled!(target: "sqlx::query", Level::INFO));
            assert!(!tracing::enabled!(target: "sqlx::query", Level::DEBUG));
            assert!(!tracing::enabled!(target: "aws_smithy_runtime::client::http::body", Level::TRACE));
            assert!(!tracing::enabled!(target: "hyper::proto", Level::DEBUG));
            assert!(!tracing::enabled!(target: "apiary", Level::DEBUG));
        });
    }
}
