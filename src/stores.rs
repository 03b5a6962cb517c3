//! Where the stream, the tables and the database are, and clients for them.

use std::str::FromStr;
use std::time::Duration;

use aggregator::acknowledgement::Acknowledgements;
use aggregator::dynamodb_log::DynamoDbLog;
use anyhow::Context;
use aws_config::BehaviorVersion;
#[cfg(feature = "local")]
use aws_config::{Region, SdkConfig};
#[cfg(feature = "local")]
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_http_client::{Builder, tls};
#[cfg(feature = "local")]
use aws_smithy_types::retry::RetryConfig;
use ingest::aws::AwsError;
use ingest::dead_letter::DeadLetters;
use ingest::expectations::Expectations;
use ingest::kinesis::StreamWriter;
use ingest::manifest::Manifests;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::watch;

use crate::edge;

/// How long an AWS call may take before it is tried again.
const AWS_ATTEMPT_SECONDS_MAX: u64 = 20;
const DATABASE_WAIT_SECONDS_MAX: u64 = 10;
/// Connections of a command, where it does not say how many it needs.
const CONNECTIONS: u32 = 4;

const COMMIT_LOG: &str = "commit-log";
const ACKNOWLEDGEMENTS: &str = "acknowledgements";
const MANIFESTS: &str = "manifests";
const DEAD_LETTERS: &str = "dead-letters";
/// Secrets that bcrypt has accepted, and customers' buckets of requests; a deployment may do without.
const AUTH_CACHE: &str = "auth-cache";
const SOURCE_EXPECTATIONS: &str = "source-expectations";
/// The tables, each named after the deployment and this.
const TABLES: [&str; 5] = [COMMIT_LOG, ACKNOWLEDGEMENTS, MANIFESTS, DEAD_LETTERS, SOURCE_EXPECTATIONS];

/// The stores of one deployment.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    pub(crate) kinesis: aws_sdk_kinesis::Client,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    /// Only in AWS: a home keeps its keys in files.
    pub(crate) secrets: Option<aws_sdk_secretsmanager::Client>,
    /// Only in AWS: what is archived, which a home keeps in a folder, and the objects that notices name.
    pub(crate) objects: Option<aws_sdk_s3::Client>,
    pub(crate) database: Database,
    pub(crate) name: String,
    /// Mail, where the stores are in AWS; locally messages are files.
    ses: Option<aws_sdk_sesv2::Client>,
    /// What only a person can put right, once the embedded tables have said so.
    pub(crate) trouble: Option<watch::Receiver<Option<String>>>,
}

/// A database role of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    App,
    Aggregator,
    Billing,
    Operator,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::App => "securebase_app",
            Self::Aggregator => "securebase_aggregator",
            Self::Billing => "securebase_billing",
            Self::Operator => "securebase_operator",
        }
    }
}

/// How the database is reached.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    /// A private cluster on loopback: every role logs in by itself.
    #[cfg(feature = "local")]
    Private {
        /// `HOST:PORT`.
        address: String,
    },
    /// A given login, which takes each role on with `set role` as it connects.
    Given {
        url: String,
        /// The API's own login, where there is one.
        app_url: Option<String>,
    },
}

/// The database of a private cluster.
#[cfg(feature = "local")]
const PRIVATE_DATABASE: &str = "securebase";

impl Database {
    /// The login that migrates.
    pub(crate) fn owner_url(&self) -> String {
        match self {
            #[cfg(feature = "local")]
            Self::Private { address } => format!("postgres://postgres@{address}/{PRIVATE_DATABASE}"),
            Self::Given { url, .. } => url.clone(),
        }
    }

    /// The superuser's maintenance database of a private cluster.
    #[cfg(feature = "local")]
    pub(crate) fn maintenance_url(&self) -> Option<String> {
        match self {
            Self::Private { address } => Some(format!("postgres://postgres@{address}/postgres")),
            Self::Given { .. } => None,
        }
    }

    #[cfg(feature = "local")]
    pub(crate) fn name() -> &'static str {
        PRIVATE_DATABASE
    }

    fn options(&self, role: Role) -> anyhow::Result<PgConnectOptions> {
        match self {
            #[cfg(feature = "local")]
            Self::Private { address } => {
                let url = format!("postgres://{}@{address}/{PRIVATE_DATABASE}", role.as_str());
                Ok(PgConnectOptions::from_str(&url)?)
            }
            Self::Given { url, app_url } => {
                let (setting, url, own) = match (role, app_url) {
                    (Role::App, Some(app_url)) => ("SECUREBASE_APP_DATABASE_URL", app_url, true),
                    _ => ("DATABASE_URL", url, false),
                };
                // The cause may show the password.
                let options = PgConnectOptions::from_str(url).map_err(|_| {
                    anyhow::anyhow!("{setting} is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
                })?;
                Ok(if own { options } else { options.options([("role", role.as_str())]) })
            }
        }
    }

    /// Connections as one of our roles; they connect when first used.
    pub(crate) fn pool(&self, role: Role) -> anyhow::Result<PgPool> {
        if role == Role::App {
            return Ok(api::pool(self.options(role)?.application_name("securebase")));
        }
        let options = PgPoolOptions::new().max_connections(CONNECTIONS);
        // Operators' requests come and go as customers' do.
        let options = if role == Role::Operator { api::returned_in_time(options) } else { options };
        self.pool_with(role, options)
    }

    /// The same with so many connections at most.
    pub(crate) fn pool_of(&self, role: Role, connections: u32) -> anyhow::Result<PgPool> {
        self.pool_with(role, PgPoolOptions::new().max_connections(connections))
    }

    fn pool_with(&self, role: Role, pool: PgPoolOptions) -> anyhow::Result<PgPool> {
        let options = self.options(role)?.application_name("securebase");
        let wait = Duration::from_secs(DATABASE_WAIT_SECONDS_MAX);
        Ok(pool.acquire_timeout(wait).connect_lazy_with(options))
    }
}

impl Stores {
    /// Stores in AWS, by the usual settings (environment, profile, instance role).
    pub(crate) async fn in_aws(
        name: String,
        database_url: Option<String>,
        app_url: Option<String>,
    ) -> anyhow::Result<Self> {
        let url = database_url
            .context("stores in AWS need DATABASE_URL, the address of Aurora PostgreSQL (or --database-url)")?;
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client())
            .timeout_config(timeouts())
            .load()
            .await;
        anyhow::ensure!(config.region().is_some(), "no AWS region: set AWS_REGION, or region in the AWS profile");
        Ok(Self {
            kinesis: aws_sdk_kinesis::Client::new(&config),
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            secrets: Some(aws_sdk_secretsmanager::Client::new(&config)),
            objects: Some(aws_sdk_s3::Client::new(&config)),
            database: Database::Given { url, app_url },
            name,
            ses: Some(aws_sdk_sesv2::Client::new(&config)),
            trouble: None,
        })
    }

    /// Embedded stores at these loopback addresses.
    #[cfg(feature = "local")]
    pub(crate) fn embedded(kinesis: &str, dynamodb: &str, database: Database, name: String) -> Self {
        let config = |endpoint: &str| {
            let credentials = Credentials::new("local", "local", None, None, "securebase-local");
            SdkConfig::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("us-east-1"))
                .credentials_provider(SharedCredentialsProvider::new(credentials))
                .http_client(http_client())
                .timeout_config(timeouts())
                // Nothing is lost on the way here. What fails, such as a full disk, is tried again by those who count.
                .retry_config(RetryConfig::disabled())
                .endpoint_url(endpoint)
                .build()
        };
        let (full_disk, trouble) = crate::full_disk::FullDisk::new();
        let tables = aws_sdk_dynamodb::config::Builder::from(&config(dynamodb)).interceptor(full_disk);
        Self {
            kinesis: aws_sdk_kinesis::Client::new(&config(kinesis)),
            dynamodb: aws_sdk_dynamodb::Client::from_conf(tables.build()),
            secrets: None,
            objects: None,
            database,
            name,
            ses: None,
            trouble: Some(trouble),
        }
    }

    /// Whether the stream and the tables are there and answer: a command must not find out half way.
    pub(crate) async fn check(&self) -> Result<(), AwsError> {
        let summary = self.kinesis.describe_stream_summary().stream_name(&self.name).send();
        summary.await.map_err(|error| AwsError::new("DescribeStreamSummary", error))?;
        for table in TABLES {
            let described = self.dynamodb.describe_table().table_name(self.table(table)).send();
            described.await.map_err(|error| AwsError::new("DescribeTable", error))?;
        }
        Ok(())
    }

    /// The table that the servers of the API share, if there is one: a client and its name.
    pub(crate) async fn shared_table(&self) -> Result<Option<(aws_sdk_dynamodb::Client, String)>, AwsError> {
        let name = self.table(AUTH_CACHE);
        match self.dynamodb.describe_table().table_name(&name).send().await {
            Ok(_) => Ok(Some((self.dynamodb.clone(), name))),
            Err(error) if error.as_service_error().is_some_and(|cause| cause.is_resource_not_found_exception()) => {
                tracing::warn!(
                    table = name,
                    "no such table: each server remembers accepted secrets, and counts customers' requests, by itself"
                );
                Ok(None)
            }
            Err(error) => Err(AwsError::new("DescribeTable", error)),
        }
    }

    /// Makes the table that the servers of the API share; for stores that no infrastructure code has made.
    #[cfg(feature = "local")]
    pub(crate) async fn ensure_verified_table(&self) -> Result<(), AwsError> {
        api::auth::create_verified_table(&self.dynamodb, &self.table(AUTH_CACHE)).await
    }

    /// Whether what is on the stream ends with the process that has it.
    pub(crate) fn stream_is_memory(&self) -> bool {
        // Only stores in AWS have a bucket beside them.
        self.objects.is_none()
    }

    fn table(&self, table: &str) -> String {
        format!("{}-{table}", self.name)
    }

    /// The way out for mail in AWS; `None` where messages are files.
    pub(crate) fn ses(&self) -> Option<aws_sdk_sesv2::Client> {
        self.ses.clone()
    }

    pub(crate) fn stream_writer(&self) -> StreamWriter {
        StreamWriter::new(self.kinesis.clone(), self.name.clone(), edge::random)
    }

    pub(crate) fn commit_log(&self) -> DynamoDbLog {
        DynamoDbLog::new(self.dynamodb.clone(), self.table(COMMIT_LOG))
    }

    pub(crate) fn acknowledgements(&self) -> Acknowledgements {
        Acknowledgements::new(self.dynamodb.clone(), self.table(ACKNOWLEDGEMENTS), edge::random)
    }

    pub(crate) fn manifests(&self) -> Manifests {
        Manifests::new(self.dynamodb.clone(), self.table(MANIFESTS), edge::random)
    }

    pub(crate) fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.dynamodb.clone(), self.table(DEAD_LETTERS), edge::random)
    }

    pub(crate) fn expectations(&self) -> Expectations {
        Expectations::new(self.dynamodb.clone(), self.table(SOURCE_EXPECTATIONS), edge::random)
    }
}

fn http_client() -> aws_smithy_runtime_api::client::http::SharedHttpClient {
    Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https()
}

fn timeouts() -> aws_smithy_types::timeout::TimeoutConfig {
    aws_smithy_types::timeout::TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(Duration::from_secs(AWS_ATTEMPT_SECONDS_MAX))
        .build()
}
