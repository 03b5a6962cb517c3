//! The Lambda function behind the stream of the commit log's table and a schedule: see [`functions::rollup`].

use std::process::ExitCode;

use aggregator::deployment::bind;
use aggregator::directory::AccountDirectory;
use aggregator::rollup::RollUp;
use aggregator::sweep::Sweep;
use aggregator::usage_rows::UsageRows;
use functions::clients::Tables;
use functions::rollup::{RollupSettings, roll_up};
use functions::{Deadline, StartError, clients, edge, settings, start};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;

fn main() -> ExitCode {
    start(
        async || {
            let settings = RollupSettings::read(&settings::environment)?;
            let config = clients::aws().await;
            let tables = Tables::new(&config, &settings.stores);
            let options = clients::database_options(&config, &settings.database).await?;
            let pool = clients::pool(options, "securebase-rollup");
            let log = tables.commit_log();
            // Cursors of other logs would pass over usage.
            let deployment = log.deployment(edge::deployment_id()).await.map_err(StartError::store)?;
            bind(&pool, deployment, edge::now()).await.map_err(StartError::store)?;
            let roll_up = RollUp::new(log, UsageRows::new(pool.clone()));
            Ok(Sweep::new(roll_up, tables.acknowledgements(), AccountDirectory::new(pool)))
        },
        async |sweep| {
            let answer = async |event: LambdaEvent<Box<RawValue>>| {
                let now = edge::now();
                let deadline = Deadline::new(event.context.deadline, now);
                Box::pin(roll_up(&sweep, event.payload.get(), now, deadline)).await
            };
            lambda_runtime::run(service_fn(answer)).await
        },
    )
}
