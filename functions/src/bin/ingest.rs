//! The Lambda function behind sources: see [`functions::ingest`].

use std::process::ExitCode;

use functions::ingest::{Ingest, IngestSettings};
use functions::{Deadline, clients, edge, settings, start};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;

fn main() -> ExitCode {
    start(
        async || {
            let settings = IngestSettings::read(&settings::environment)?;
            Ingest::new(&clients::aws().await, settings, edge::now()).await
        },
        async |function| {
            let answer = async |event: LambdaEvent<Box<RawValue>>| {
                let now = edge::now();
                let deadline = Deadline::new(event.context.deadline, now);
                let request_id = &event.context.request_id;
                Box::pin(function.answer(event.payload.get(), request_id, now, deadline)).await
            };
            lambda_runtime::run(service_fn(answer)).await
        },
    )
}
