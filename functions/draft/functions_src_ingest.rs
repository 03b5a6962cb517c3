//! Deliveries from sources: S3 notices, EventBridge events, CloudWatch Logs, directly or by SQS and SNS; read and put on the
//! stream.

use std::borrow::Cow;
use std::sync::Arc;

use aggregator::meters::MeterBook;
use aws_config::SdkConfig;
use ingest::intake::{Intake, IntakeError, IntakeRules, TakenIn};
use ingest::object_store::S3Objects;
use ingest::{Declarations, Meters, Timestamp};
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::answer::{BatchAnswer, diagnostic};
use crate::clients::{self, Tables};
use crate::deadline::{Deadline, DeadlineExceeded};
use crate::settings::{DatabaseSettings, Settings, SettingsError, StoreSettings};
use crate::start::StartError;
use crate::{edge, metric};

/// The settings of the function.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    /// The stream and the tables.
    pub stores: StoreSettings,
    /// Which source each meter is counted from.
    pub declared: Declarations,
    /// PostgreSQL, where sample meters are defined; without it only built-in meters are known.
    pub database: Option<DatabaseSettings>,
}

impl IngestSettings {
    /// Reads them.
    pub fn read(read: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(read);
        let stores = settings.stores();
        let declared = Declarations::parse(&settings.optional("SECUREBASE_SOURCES").unwrap_or_default());
        let declared = declared.unwrap_or_else(|error| {
            settings.problem(format!("SECUREBASE_SOURCES: {error}"));
            Declarations::default()
        });
        let has_database = settings.optional("SECUREBASE_DATABASE_URL").is_some();
        let database = has_database.then(|| settings.database("securebase_aggregator"));
        settings.finish(Self { stores, declared, database })
    }
}

/// Why a delivery has no answer: Lambda, or who invokes it, delivers it again.
#[derive(Debug, Error)]
pub enum IngestError {
    /// Retry. What was sent is known.
    #[error(transparent)]
    Deadline(#[from] DeadlineExceeded),
    /// Retry if passing.
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

impl From<IngestError> for Diagnostic {
    fn from(error: IngestError) -> Self {
        let kind = match &error {
            IngestError::Deadline(_) => "Deadline.Exceeded",
            IngestError::Intake(_) => "Store.Failed",
        };
        diagnostic(kind, &error)
    }
}

/// The answer to a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IngestAnswer {
    /// To a batch of SQS messages: those to deliver again.
    Batch(BatchAnswer),
    /// To anything else: it is taken in.
    TakenIn {
        /// Objects and deliveries read.
        readings: u64,
        /// Records read.
        records: u64,
    },
}

/// The function in one execution environment.
#[derive(Debug)]
pub struct Ingest {
    intake: Intake<S3Objects>,
}

impl Ingest {
    /// Takes in from S3 what notices name, to the stream and the tables.
    pub async fn new(config: &SdkConfig, settings: IngestSettings) -> Result<Self, StartError> {
        let tables = Tables::new(config, &settings.stores);
        let meters = match &settings.database {
            None => Meters::built_in(),
            Some(database) => {
                let options = clients::database_options(config, database).await?;
                MeterBook::new(clients::pool(options, "securebase-ingest")).read().await.map_err(StartError::store)?
            }
        };
        let rules =
            IntakeRules { declared: Arc::new(settings.declared), meters: Arc::new(meters), run_id: edge::run_id };
        let intake = Intake::new(
            clients::stream_writer(config, &settings.stores),
            tables.dead_letters(),
            tables.manifests(),
            tables.expectations(),
            S3Objects::new(aws_sdk_s3::Client::new(config)),
            rules,
        );
        Ok(Self { intake })
    }

    /// Takes a delivery in. `request_id` names it where it has no name of its own; asked again, Lambda gives the same.
    pub async fn answer(
        &self,
        event: &str,
        request_id: &str,
        now: Timestamp,
        deadline: Deadline,
    ) -> Result<IngestAnswer, IngestError> {
        if let Some(messages) = sqs_messages(event) {
            return Ok(IngestAnswer::Batch(self.messages(messages, now, deadline).await));
        }
        let name = format!("delivery:{request_id}");
        let taken_in = deadline.keep(self.intake.take_in(name, event.as_bytes().to_vec(), now)).await??;
        report(&taken_in, 0, now);
        Ok(IngestAnswer::TakenIn { readings: taken_in.readings, records: taken_in.records })
    }

    /// Each message is a delivery of its own: one whose object cannot be fetched now holds up no other.
    async fn messages(&self, messages: Vec<SqsMessage<'_>>, now: Timestamp, deadline: Deadline) -> BatchAnswer {
        let mut again = Vec::new();
        let mut all = TakenIn::default();
        for SqsMessage { id, text } in messages {
            let name = format!("sqs:{id}");
            let taken_in = deadline.keep(self.intake.take_in(name, text.as_bytes().to_vec(), now)).await;
            match taken_in.map_err(IngestError::from).and_then(|taken_in| taken_in.map_err(IngestError::from)) {
                Ok(taken_in) => {
                    all.readings += taken_in.readings;
                    all.records += taken_in.records;
                    all.dead_letters += taken_in.dead_letters;
                }
                Err(error) => {
                    tracing::error!(%error, message = &*id, "a message is to be delivered again");
                    again.push(id.into_owned());
                }
            }
        }
        report(&all, again.len() as u64, now);
        BatchAnswer::again(again)
    }
}

fn report(taken_in: &TakenIn, again: u64, now: Timestamp) {
    let figures = [
        ("Readings", taken_in.readings),
        ("Records", taken_in.records),
        ("DeadLetters", taken_in.dead_letters),
        ("MessagesToDeliverAgain", again),
    ];
    metric::emit("ingest", &figures, now);
}

struct SqsMessage<'a> {
    id: Cow<'a, str>,
    /// The whole record, wrapping included.
    text: &'a str,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct SqsRecord<'a> {
    #[serde(rename = "messageId", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "eventSource", borrow)]
    source: Cow<'a, str>,
}

/// The messages of a batch from SQS; `None` for any other delivery.
///
/// Source: AWS Lambda Developer Guide, "Using Lambda with Amazon SQS", example event.
fn sqs_messages(event: &str) -> Option<Vec<SqsMessage<'_>>> {
    let batch: Batch<'_> = serde_json::from_str(event).ok()?;
    let message = |record: &'_ RawValue| -> Option<SqsMessage<'_>> {
        let SqsRecord { id, source } = serde_json::from_str(record.get()).ok()?;
        (source == "aws:sqs").then(|| SqsMessage { id, text: record.get() })
    };
    let messages: Option<Vec<SqsMessage<'_>>> = batch.records.into_iter().map(message).collect();
    messages.filter(|messages| !messages.is_empty())
}
