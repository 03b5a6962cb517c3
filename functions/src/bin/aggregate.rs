//! The Lambda function behind the Kinesis stream: see [`functions::aggregate`].

use std::process::ExitCode;
use std::sync::Arc;

use aggregator::aggregator::Aggregator;
use functions::aggregate::{AggregateSettings, aggregate};
use functions::clients::Tables;
use functions::{Deadline, clients, edge, settings, start};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

fn main() -> ExitCode {
    start(
        async || {
            let settings = AggregateSettings::read(&settings::environment)?;
            let tables = Tables::new(&clients::aws().await, &settings.stores);
            let (log, acknowledgements, letters) =
                (tables.commit_log(), tables.acknowledgements(), tables.dead_letters());
            let (cache_bytes, counters) = (settings.cache_bytes_max, Arc::default());
            Ok(Aggregator::new(log, acknowledgements, letters, cache_bytes, edge::commit_id, counters))
        },
        async |aggregator| {
            let aggregator = Mutex::new(aggregator);
            let answer = async |event: LambdaEvent<Box<RawValue>>| {
                let now = edge::now();
                let deadline = Deadline::new(event.context.deadline, now);
                // Boxed: the futures of the SDK within each other are deeper than the compiler follows.
                let mut aggregator = aggregator.lock().await;
                Box::pin(aggregate(&mut aggregator, event.payload.get(), now, deadline)).await
            };
            lambda_runtime::run(service_fn(answer)).await
        },
    )
}
