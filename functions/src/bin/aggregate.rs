//! The Lambda function behind the Kinesis stream: see [`functions::aggregate`].

use std::process::ExitCode;

use functions::aggregate::{Aggregate, AggregateSettings};
use functions::clients::Tables;
use functions::{Deadline, clients, edge, settings, start};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

fn main() -> ExitCode {
    start(
        async || {
            let settings = AggregateSettings::read(&settings::environment)?;
            Ok(Aggregate::new(&Tables::new(&clients::aws().await, &settings.stores), &settings))
        },
        async |function| {
            let function = Mutex::new(function);
            let answer = async |event: LambdaEvent<Box<RawValue>>| {
                let now = edge::now();
                let deadline = Deadline::new(event.context.deadline, now);
                // Boxed: the futures of the SDK within each other are deeper than the compiler follows.
                let mut function = function.lock().await;
                Box::pin(function.answer(event.payload.get(), now, deadline)).await
            };
            lambda_runtime::run(service_fn(answer)).await
        },
    )
}
