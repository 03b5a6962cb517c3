//! What reading goes by: declared sources and defined meters, read at the start and looked at again now and then.

use std::sync::{Arc, Mutex, PoisonError};

use aggregator::meters::MeterBook;
use aws_sdk_s3::Client;
use ingest::intake::IntakeRules;
use ingest::{Declarations, Meters, Timestamp};
use sqlx::PgPool;

use crate::settings::Settings;
use crate::start::StartError;

/// A meter that was defined, or a source that was declared, is known after this long.
const RULES_SECONDS: i64 = 300;

/// Where declared sources are written down.
#[derive(Clone, Debug)]
pub(super) enum DeclaredIn {
    /// In the setting itself. Variables of a function come to 4 KB in all.
    Setting(Declarations),
    /// In an object of S3.
    Object { bucket: String, key: String },
}

impl DeclaredIn {
    pub(super) fn read(settings: &mut Settings<'_>) -> Self {
        const NAME: &str = "SECUREBASE_SOURCES";
        let text = settings.optional(NAME).unwrap_or_default();
        if let Some(place) = text.strip_prefix("s3://") {
            if let Some((bucket, key)) =
                place.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
            {
                return Self::Object { bucket: bucket.to_owned(), key: key.to_owned() };
            }
            settings.problem(format!("{NAME} is {text:?}: give s3://BUCKET/KEY, or the declarations themselves"));
            return Self::Setting(Declarations::default());
        }
        Self::Setting(Declarations::parse(&text).unwrap_or_else(|error| {
            settings.problem(format!("{NAME}: {error}"));
            Declarations::default()
        }))
    }
}

/// The rules, as they were when they were last read.
#[derive(Debug)]
pub(super) struct RuleBook {
    declared: DeclaredIn,
    objects: Client,
    meters: Option<MeterBook>,
    current: Mutex<(Timestamp, IntakeRules)>,
}

impl RuleBook {
    /// Reads the rules; without a database built-in meters are all there are.
    pub(super) async fn open(
        declared: DeclaredIn,
        objects: Client,
        database: Option<PgPool>,
        now: Timestamp,
    ) -> Result<Self, StartError> {
        let meters = database.map(MeterBook::new);
        let rules = read(&declared, &objects, meters.as_ref()).await.map_err(StartError::Store)?;
        Ok(Self { declared, objects, meters, current: Mutex::new((now, rules)) })
    }

    /// The rules, read again if they are old. Where that fails they stay as they are, and are tried again as late.
    pub(super) async fn rules(&self, now: Timestamp) -> IntakeRules {
        let may_change = matches!(self.declared, DeclaredIn::Object { .. }) || self.meters.is_some();
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if !may_change || now < current.0.saturating_add_secs(RULES_SECONDS) {
                return current.1.clone();
            }
            current.0 = now;
        }
        let read = read(&self.declared, &self.objects, self.meters.as_ref()).await;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(rules) => current.1 = rules,
            Err(error) => tracing::error!(error, "declared sources and meters stay as they are"),
        }
        current.1.clone()
    }
}

async fn read(declared: &DeclaredIn, objects: &Client, meters: Option<&MeterBook>) -> Result<IntakeRules, String> {
    let declared = match declared {
        DeclaredIn::Setting(declarations) => declarations.clone(),
        DeclaredIn::Object { bucket, key } => {
            let named = |reason: String| format!("s3://{bucket}/{key}: {reason}");
            let answer = objects.get_object().bucket(bucket).key(key).send().await;
            let answer = answer.map_err(|error| named(ingest::aws::AwsError::new("GetObject", error).to_string()))?;
            let bytes = answer.body.collect().await.map_err(|error| named(error.to_string()))?.into_bytes();
            let text = std::str::from_utf8(&bytes).map_err(|error| named(error.to_string()))?;
            Declarations::parse(text).map_err(|error| named(error.to_string()))?
        }
    };
    let meters = match meters {
        None => Meters::built_in(),
        Some(book) => book.read().await.map_err(|error| format!("meters cannot be read: {error}"))?,
    };
    Ok(IntakeRules { declared: Arc::new(declared), meters: Arc::new(meters) })
}
