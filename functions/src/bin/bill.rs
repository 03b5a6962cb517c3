//! The Lambda function behind the schedules of billing and the notifications of the mail service: see [`functions::bill`].

use std::process::ExitCode;
use std::sync::Arc;

use billing::outbox::SesMailer;
use functions::bill::{BillSettings, Biller};
use functions::settings::SettingsError;
use functions::{Deadline, clients, edge, settings, start};
use invoice_pdf::{PdfRenderer, Typefaces};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;

fn main() -> ExitCode {
    start(
        async || {
            let mut settings = BillSettings::read(&settings::environment)?;
            // Only this program links the typesetter.
            let faces = match settings.typeface.take() {
                None => Typefaces::embedded(),
                Some(bytes) => Typefaces::with_additional(bytes).map_err(|error| SettingsError {
                    problems: vec![format!("SECUREBASE_INVOICE_TYPEFACE: {error}")],
                })?,
            };
            let renderer = Arc::new(PdfRenderer::new(faces));
            let config = clients::aws().await;
            let options = clients::database_options(&config, &settings.database).await?;
            let connections = u32::try_from(settings.workers).unwrap_or(u32::MAX).saturating_add(1);
            let pool = clients::pool_of(options, "securebase-billing", connections);
            let mailer = SesMailer::new(aws_sdk_sesv2::Client::new(&config), settings.configuration_set.clone());
            Ok(Biller { pool, settings, mailer, renderer, random: edge::random })
        },
        async |biller| {
            let answer = async |event: LambdaEvent<Box<RawValue>>| {
                let now = edge::now();
                let deadline = Deadline::new(event.context.deadline, now);
                Box::pin(biller.bill(event.payload.get(), now, deadline)).await
            };
            lambda_runtime::run(service_fn(answer)).await
        },
    )
}
