//! Clients of AWS and PostgreSQL, built once in each execution environment.

use std::str::FromStr;
use std::time::Duration;

use aggregator::acknowledgement::Acknowledgements;
use aggregator::dynamodb_log::DynamoDbLog;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_types::timeout::TimeoutConfig;
use ingest::dead_letter::DeadLetters;
use ingest::expectations::Expectations;
use ingest::kinesis::StreamWriter;
use ingest::manifest::Manifests;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::edge;
use crate::secret::read_secret;
use crate::settings::{DatabaseSettings, StoreSettings};
use crate::start::StartError;

/// How long one try of an AWS call may take: several fit an invocation.
const ATTEMPT_SECONDS_MAX: u64 = 5;
const CONNECT_SECONDS_MAX: u64 = 2;
/// How long a function waits for a connection to PostgreSQL: Lambda gives a start ten seconds.
const DATABASE_WAIT_SECONDS_MAX: u64 = 5;
/// An environment has one invocation at a time; the roll-up uses one connection, and another while it begins.
const CONNECTIONS_MAX: u32 = 2;

/// The settings of every AWS client: region and credentials as Lambda gives them, `AWS_ENDPOINT_URL_*` where they are set.
pub async fn aws() -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .operation_attempt_timeout(Duration::from_secs(ATTEMPT_SECONDS_MAX))
        .build();
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(Builder::new().tls_provider(ring).build_https())
        .timeout_config(timeouts)
        .load()
        .await
}

/// The tables of a deployment.
#[derive(Clone, Debug)]
pub struct Tables {
    client: aws_sdk_dynamodb::Client,
    name: String,
}

impl Tables {
    /// The tables whose names begin with the deployment's.
    pub fn new(config: &SdkConfig, settings: &StoreSettings) -> Self {
        Self { client: aws_sdk_dynamodb::Client::new(config), name: settings.name.clone() }
    }

    fn table(&self, table: &str) -> String {
        format!("{}-{table}", self.name)
    }

    /// The commit logs.
    pub fn commit_log(&self) -> DynamoDbLog {
        DynamoDbLog::new(self.client.clone(), self.table("commit-log"))
    }

    /// The acknowledgements.
    pub fn acknowledgements(&self) -> Acknowledgements {
        Acknowledgements::new(self.client.clone(), self.table("acknowledgements"), edge::random)
    }

    /// The manifests.
    pub fn manifests(&self) -> Manifests {
        Manifests::new(self.client.clone(), self.table("manifests"), edge::random)
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.client.clone(), self.table("dead-letters"), edge::random)
    }

    /// What digest files say must be there.
    pub fn expectations(&self) -> Expectations {
        Expectations::new(self.client.clone(), self.table("source-expectations"), edge::random)
    }
}

/// The writer to a deployment's stream.
pub fn stream_writer(config: &SdkConfig, settings: &StoreSettings) -> StreamWriter {
    StreamWriter::new(aws_sdk_kinesis::Client::new(config), settings.name.clone(), edge::random)
}

/// S3. An endpoint that was set, such as one inside a private network, is asked with the bucket in the path.
pub fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    let has_endpoint = crate::settings::environment("AWS_ENDPOINT_URL_S3").is_some();
    let settings = aws_sdk_s3::config::Builder::from(config).force_path_style(has_endpoint);
    aws_sdk_s3::Client::from_conf(settings.build())
}

/// How to reach PostgreSQL, with the password where one is needed.
pub async fn database_options(config: &SdkConfig, settings: &DatabaseSettings) -> Result<PgConnectOptions, StartError> {
    // The cause may repeat the address.
    let options = PgConnectOptions::from_str(&settings.url).map_err(|_| {
        StartError::Store("SECUREBASE_DATABASE_URL is not of the form postgresql://USER@HOST:PORT/DATABASE".to_owned())
    })?;
    let Some(name) = &settings.password_secret else { return Ok(options) };
    Ok(options.password(&read_secret(config, name, "password").await?))
}

/// Connections for a function that has one invocation at a time; they connect when first used.
pub fn pool(options: PgConnectOptions, application: &str) -> PgPool {
    pool_of(options, application, CONNECTIONS_MAX)
}

/// The same with so many connections at most.
pub fn pool_of(options: PgConnectOptions, application: &str, connections_max: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(Duration::from_secs(DATABASE_WAIT_SECONDS_MAX))
        // An environment sleeps between invocations, and a proxy or the server may have hung up meanwhile.
        .test_before_acquire(true)
        .connect_lazy_with(options.application_name(application))
}
