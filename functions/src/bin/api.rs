//! The Lambda function behind an API of API Gateway: see [`functions::api`].

use std::process::ExitCode;

use functions::api::{Api, ApiSettings};
use functions::{clients, edge, settings, start};
use lambda_http::{Request, service_fn};

fn main() -> ExitCode {
    start(
        async || {
            let settings = ApiSettings::read(&settings::environment)?;
            Api::new(&clients::aws().await, settings, edge::now()).await
        },
        async |api| lambda_http::run(service_fn(|request: Request| Box::pin(api.answer(request, edge::now())))).await,
    )
}
