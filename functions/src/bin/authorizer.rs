//! The Lambda authorizer in front of the API: see [`functions::api`].

use std::process::ExitCode;

use functions::api::{Api, ApiSettings};
use functions::{clients, edge, settings, start};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;

fn main() -> ExitCode {
    start(
        async || {
            let settings = ApiSettings::read(&settings::environment)?;
            Api::new(&clients::aws().await, settings, edge::now()).await
        },
        async |api| {
            let answer = async |event: LambdaEvent<Box<RawValue>>| {
                Box::pin(api.authorize(event.payload.get(), edge::now())).await
            };
            lambda_runtime::run(service_fn(answer)).await
        },
    )
}
