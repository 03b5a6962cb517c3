//! Samples that come over HTTP, from the API to ingest's intake.

use std::sync::Arc;
use std::time::Duration;

use aggregator::acknowledgement::Acknowledgements;
use aggregator::meters::MeterBook;
use api::SampleDoor;
use ingest::Declarations;
use ingest::aws::{AwsError, AwsErrorKind};
use ingest::intake::{Edge, IntakeError, IntakeRules, SampleIntake, SamplesTaken, Sinks};

use crate::edge;
use crate::replay::is_acknowledged;
use crate::stores::{Role, Stores};

const POLL: Duration = Duration::from_millis(20);
const EDGE: Edge = Edge { now: edge::now, run_id: edge::run_id };

/// The door of `serve` to its stores. Meters are read for each batch, so that one is known once it is defined.
pub(crate) fn door(stores: &Stores, declared: Arc<Declarations>) -> anyhow::Result<SampleDoor> {
    let sinks = Sinks {
        stream: stores.stream_writer(),
        dead_letters: stores.dead_letters(),
        manifests: stores.manifests(),
        expectations: stores.expectations(),
    };
    let meters = MeterBook::new(stores.database.pool(Role::Aggregator)?);
    // An embedded stream is memory: a sample is safe once it is counted. Kinesis keeps what it has taken.
    let acknowledgements = stores.stream_is_memory().then(|| stores.acknowledgements());
    Ok(SampleDoor::new(move |batch| {
        let (sinks, meters, declared) = (sinks.clone(), meters.clone(), declared.clone());
        let acknowledgements = acknowledgements.clone();
        Box::pin(async move {
            let meters = meters.read().await.map_err(|error| away("meters", &error))?;
            let rules = IntakeRules { declared, meters: Arc::new(meters) };
            let taken = SampleIntake::new(sinks, rules, EDGE).take(&batch).await?;
            if let Some(acknowledgements) = &acknowledgements {
                counted(acknowledgements, &taken).await?;
            }
            Ok(taken)
        })
    }))
}

/// Waits until every slice is acknowledged. Who waits for an answer gives up before this does.
async fn counted(acknowledgements: &Acknowledgements, taken: &SamplesTaken) -> Result<(), IntakeError> {
    loop {
        let acknowledged = acknowledgements.of_run(taken.manifest.run).await;
        if is_acknowledged(&taken.manifest, &acknowledged.map_err(|error| away("acknowledgements", &error))?) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn away(what: &'static str, error: &dyn std::error::Error) -> IntakeError {
    AwsError { operation: what, kind: AwsErrorKind::Unreachable, said: error.to_string() }.into()
}
