//! Deliveries from sources, read and put on the stream: S3 notices (direct, by SNS, SQS, EventBridge), EventBridge events,
//! CloudWatch Logs and Firehose, and usage samples in HTTP requests.
//!
//! What a delivery is made of, the room `ingest` tells. Here is only what differs by who invokes: which answer it reads, and
//! what stays the same when it delivers again.

mod delivery;
mod request;
mod rule_book;

use aws_config::SdkConfig;
use futures::{StreamExt, stream};
use ingest::Timestamp;
use ingest::intake::{Edge, Intake, IntakeError, SampleIntake, Sinks};
use ingest::manifest::Manifest;
use ingest::object_store::S3Objects;
use lambda_runtime::Diagnostic;
use serde::Serialize;
use thiserror::Error;

use crate::answer::{BatchAnswer, diagnostic};
use crate::clients::{self, Tables};
use crate::deadline::{Deadline, DeadlineExceeded};
use crate::settings::{DatabaseSettings, Settings, SettingsError, StoreSettings};
use crate::start::StartError;
use crate::{edge, metric};
use delivery::{Delivery, Invocation, Message};
use rule_book::{DeclaredIn, RuleBook};

pub use delivery::FirehoseAnswer;
pub use request::HttpAnswer;

/// Messages of a queue that are read at once: most of the time goes into waiting for S3.
const MESSAGES_AT_ONCE: usize = 4;

/// The settings of the function.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    stores: StoreSettings,
    declared: DeclaredIn,
    /// PostgreSQL, where sample meters are defined; without it only built-in meters are known.
    database: Option<DatabaseSettings>,
}

impl IngestSettings {
    /// Reads them.
    pub fn read(read: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(read);
        let stores = settings.stores();
        let declared = DeclaredIn::read(&mut settings);
        let has_database = settings.optional("SECUREBASE_DATABASE_URL").is_some();
        let database = has_database.then(|| settings.database("securebase_aggregator"));
        settings.finish(Self { stores, declared, database })
    }
}

/// Why a delivery has no answer: Lambda, or who invokes it, delivers it again.
#[derive(Debug, Error)]
pub enum IngestError {
    /// Retry. What is on the stream already is known then.
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

/// The answer to an invocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IngestAnswer {
    /// To a batch of SQS messages: those to deliver again.
    Messages(BatchAnswer),
    /// To Firehose: its records, as they came.
    Firehose(FirehoseAnswer),
    /// To an HTTP request.
    Http(HttpAnswer),
    /// To anything else: it is taken in.
    TakenIn(TakenIn),
}

/// What was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TakenIn {
    /// Nothing is to be delivered again: read by event source mappings, passed over by others.
    #[serde(flatten)]
    again: BatchAnswer,
    /// Objects and deliveries read.
    pub readings: u64,
    /// Records read.
    pub records: u64,
    /// Set aside, beside a verdict or as one.
    pub dead_letters: u64,
}

impl TakenIn {
    fn add(&mut self, manifests: &[Manifest]) {
        for manifest in manifests {
            self.readings += 1;
            self.records += manifest.read;
            let letters = manifest.dead_letters.values().chain(manifest.beside_dead_letters.values());
            self.dead_letters += letters.sum::<u64>();
        }
    }
}

/// The function in one execution environment.
#[derive(Debug)]
pub struct Ingest {
    sinks: Sinks,
    objects: S3Objects,
    rule_book: RuleBook,
}

const EDGE: Edge = Edge { now: edge::now, run_id: edge::run_id };

impl Ingest {
    /// Takes in to the stream and the tables; what notices name comes from S3.
    pub async fn new(config: &SdkConfig, settings: IngestSettings, now: Timestamp) -> Result<Self, StartError> {
        let IngestSettings { stores, declared, database } = settings;
        let tables = Tables::new(config, &stores);
        let sinks = Sinks {
            stream: clients::stream_writer(config, &stores),
            dead_letters: tables.dead_letters(),
            manifests: tables.manifests(),
            expectations: tables.expectations(),
        };
        let objects = S3Objects::new(clients::s3(config));
        let database = match &database {
            None => None,
            Some(settings) => {
                let options = clients::database_options(config, settings).await?;
                Some(clients::pool(options, "securebase-ingest"))
            }
        };
        let rule_book = RuleBook::open(declared, clients::s3(config), database, now).await?;
        Ok(Self { sinks, objects, rule_book })
    }

    /// Answers an invocation; `request_id` is Lambda's own, for who asked over HTTP.
    pub async fn answer(
        &self,
        event: &str,
        request_id: &str,
        now: Timestamp,
        deadline: Deadline,
    ) -> Result<IngestAnswer, IngestError> {
        let rules = self.rule_book.rules(now).await;
        let intake = || Intake::new(self.sinks.clone(), self.objects.clone(), rules.clone(), EDGE);
        match Invocation::tell(event) {
            Invocation::Messages(messages) => {
                Ok(IngestAnswer::Messages(take_messages(&intake(), messages, now, deadline).await))
            }
            Invocation::Firehose(firehose) => {
                take(&intake(), firehose.delivery(), now, deadline).await?;
                Ok(IngestAnswer::Firehose(firehose.answer()))
            }
            Invocation::Request(request) => {
                let samples = SampleIntake::new(self.sinks.clone(), rules, EDGE);
                Ok(IngestAnswer::Http(request::answer(&samples, &request, request_id, now, deadline).await))
            }
            Invocation::Other(delivery) => Ok(IngestAnswer::TakenIn(take(&intake(), delivery, now, deadline).await?)),
        }
    }
}

async fn take(
    intake: &Intake<S3Objects>,
    delivery: Delivery,
    now: Timestamp,
    deadline: Deadline,
) -> Result<TakenIn, IngestError> {
    let mut taken_in = TakenIn::default();
    taken_in.add(&deadline.keep(intake.take(delivery.name, delivery.content)).await??);
    report(&taken_in, 0, now);
    Ok(taken_in)
}

/// Each message is a delivery of its own: one whose object cannot be fetched now holds up no other.
async fn take_messages(
    intake: &Intake<S3Objects>,
    messages: Vec<Message>,
    now: Timestamp,
    deadline: Deadline,
) -> BatchAnswer {
    let mut again: Vec<Option<String>> = messages.iter().map(|message| Some(message.id.clone())).collect();
    let mut all = TakenIn::default();
    let taking = messages.into_iter().enumerate().map(|(place, message)| async move {
        let Delivery { name, content } = message.delivery;
        (place, intake.take(name, content).await)
    });
    let mut taking = stream::iter(taking).buffer_unordered(MESSAGES_AT_ONCE);
    let taken = deadline.keep(async {
        while let Some((place, taken)) = taking.next().await {
            match taken {
                Ok(manifests) => {
                    all.add(&manifests);
                    again[place] = None;
                }
                Err(error) => {
                    let message = again[place].as_deref().unwrap_or_default();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        message,
                        "a message is to be delivered again"
                    );
                }
            }
        }
    });
    if let Err(error) = taken.await {
        tracing::error!(error = &error as &dyn std::error::Error, "messages are to be delivered again");
    }
    drop(taking);
    let again: Vec<String> = again.into_iter().flatten().collect();
    report(&all, again.len() as u64, now);
    BatchAnswer::again(again)
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
