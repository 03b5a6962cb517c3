//! The stores of a deployment on embedded servers, the functions deployed on them, and the naive count they must agree with.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use aggregator::commit_log::CommitLog as _;
use aggregator::known::Known;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_kinesis::types::ShardIteratorType;
use aws_smithy_http_client::tls;
use embedded::testing::TestDatabase;
use embedded::{DynamoDb, Kinesis, KinesisOptions, S3, S3Options};
use functions::clients::Tables;
use functions::settings::StoreSettings;
use ingest::{AccountId, Dimensions, Hour, Identity, Meter, Packer, RunId, Slice, UsageEvent};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use sqlx::types::Decimal;

use crate::deliveries::{self, KinesisRecord};
use crate::runtime_api::{Environment, Function};

pub(crate) const NAME: &str = "metering";
/// Where logs are delivered.
pub(crate) const BUCKET: &str = "trail-logs";

/// What a function's program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    Ingest,
    Aggregate,
    Rollup,
    Bill,
    Api,
    Authorizer,
}

impl Program {
    pub(crate) const ALL: [Self; 6] =
        [Self::Ingest, Self::Aggregate, Self::Rollup, Self::Bill, Self::Api, Self::Authorizer];

    /// Those behind event source mappings of streams.
    pub(crate) const MAPPED: [Self; 2] = [Self::Aggregate, Self::Rollup];

    /// The program built with the tests, or the one of the same name in `SECUREBASE_FUNCTIONS`.
    pub(crate) fn path(self) -> PathBuf {
        let built = PathBuf::from(match self {
            Self::Ingest => env!("CARGO_BIN_EXE_ingest-function"),
            Self::Aggregate => env!("CARGO_BIN_EXE_aggregate-function"),
            Self::Rollup => env!("CARGO_BIN_EXE_rollup-function"),
            Self::Bill => env!("CARGO_BIN_EXE_bill-function"),
            Self::Api => env!("CARGO_BIN_EXE_api-function"),
            Self::Authorizer => env!("CARGO_BIN_EXE_authorizer-function"),
        });
        match std::env::var_os("SECUREBASE_FUNCTIONS") {
            Some(folder) => PathBuf::from(folder).join(built.file_name().expect("a program has a name")),
            None => built,
        }
    }
}

pub(crate) struct Stage {
    pub(crate) dynamodb: DynamoDb,
    pub(crate) kinesis: Kinesis,
    pub(crate) s3: S3,
    database: TestDatabase,
    /// As the superuser: tests look at everything.
    pub(crate) pool: PgPool,
    pub(crate) tables: Tables,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let dynamodb = DynamoDb::in_memory().await.unwrap();
        let kinesis = Kinesis::start(KinesisOptions::default()).await.unwrap();
        let denied = vec![format!("/{BUCKET}/secret/")];
        let s3 = S3::start(S3Options { directory: None, denied }).await.unwrap();
        let migrate = async |url: String| migrations::migrate(&url).await;
        let database = TestDatabase::create(&migrations::fingerprint(), migrate).await.unwrap();
        let pool = PgPoolOptions::new().max_connections(2).connect(&database.superuser_url()).await.unwrap();
        let tables = Tables::new(&sdk(dynamodb.endpoint()), &StoreSettings { name: NAME.to_owned() });
        tables.commit_log().ensure_table().await.unwrap();
        tables.acknowledgements().ensure_table().await.unwrap();
        tables.manifests().ensure_table().await.unwrap();
        tables.dead_letters().ensure_table().await.unwrap();
        tables.expectations().ensure_table().await.unwrap();
        Self { dynamodb, kinesis, s3, database, pool, tables }
    }

    /// The stream with one shard, and the bucket of delivered logs.
    pub(crate) async fn create_stream_and_bucket(&self) {
        let stream = aws_sdk_kinesis::Client::new(&sdk(self.kinesis.endpoint()));
        stream.create_stream().stream_name(NAME).shard_count(1).send().await.unwrap();
        until_active(&stream).await;
        self.objects().create_bucket().bucket(BUCKET).send().await.unwrap();
    }

    /// A client of the store of delivered logs.
    pub(crate) fn objects(&self) -> aws_sdk_s3::Client {
        let settings = aws_sdk_s3::config::Builder::from(&sdk(self.s3.endpoint())).force_path_style(true);
        aws_sdk_s3::Client::from_conf(settings.build())
    }

    /// Counts what is on the stream and was not counted yet, with the function that does so.
    pub(crate) async fn count(&self, environment: &mut Environment) {
        let stream = aws_sdk_kinesis::Client::new(&sdk(self.kinesis.endpoint()));
        let shard = "shardId-000000000000";
        let asked = stream.get_shard_iterator().stream_name(NAME).shard_id(shard);
        let mut iterator =
            asked.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap().shard_iterator;
        while let Some(next) = iterator {
            let read = stream.get_records().shard_iterator(next).send().await.unwrap();
            if read.records.is_empty() {
                return;
            }
            let records = read.records.iter().map(|record| KinesisRecord {
                sequence_number: record.sequence_number().to_owned(),
                partition_key: record.partition_key().unwrap_or_default().to_owned(),
                body: record.data().as_ref().to_vec(),
            });
            let answer = environment.invoke(&deliveries::kinesis(NAME, shard, records)).await.answer();
            assert_eq!(answer, serde_json::json!({ "batchItemFailures": [] }));
            iterator = read.next_shard_iterator;
        }
    }

    /// A function with the settings it has in AWS, and the stores' endpoints.
    pub(crate) fn function(&self, program: Program) -> Function {
        let mut variables: BTreeMap<String, String> = [
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
            ("SECUREBASE_NAME", NAME),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.endpoint()),
            ("AWS_ENDPOINT_URL_KINESIS", self.kinesis.endpoint()),
            ("AWS_ENDPOINT_URL_S3", self.s3.endpoint()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let role = match program {
            Program::Aggregate | Program::Ingest => None,
            Program::Rollup => Some("securebase_aggregator"),
            Program::Bill => Some("securebase_billing"),
            Program::Api | Program::Authorizer => Some("securebase_app"),
        };
        if let Some(role) = role {
            variables.insert("SECUREBASE_DATABASE_URL".to_owned(), self.database.url(role));
        }
        if program == Program::Ingest {
            // The embedded S3 checks signatures.
            for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
                variables.insert(name.to_owned(), "any".to_owned());
            }
        }
        Function { program: program.path(), variables, timeout: Duration::from_secs(30) }
    }

    /// What the logs say, by account, hour and meter, whoever acknowledged what.
    pub(crate) async fn in_logs(&self) -> Counts {
        let mut counts = Counts::new();
        for known in self.logs().await {
            for (counter, total) in known.totals() {
                let key = (counter.account.to_string(), known.partition().window.to_string());
                *counts.entry(key).or_default() += total;
            }
        }
        counts
    }

    /// How many versions of facts the logs hold.
    pub(crate) async fn facts(&self) -> u64 {
        let facts = |known: &Known| known.identities() as u64 - known.totals().map(|(_, total)| total).sum::<u64>();
        self.logs().await.iter().map(facts).sum()
    }

    async fn logs(&self) -> Vec<Known> {
        let (log, mut logs) = (self.tables.commit_log(), Vec::new());
        for (partition, version) in self.tables.acknowledgements().partitions().await.unwrap() {
            let mut known = Known::empty(partition.clone());
            for entry in log.read_after(&partition, 0).await.unwrap() {
                known.apply(&entry).unwrap();
            }
            assert!(version <= known.version(), "{partition} is acknowledged up to {version}");
            logs.push(known);
        }
        logs
    }

    /// What the usage rows say.
    pub(crate) async fn in_rows(&self) -> Counts {
        let rows: Vec<(String, String, Decimal)> = sqlx::query_as(
            "select account_id, to_char(window_start at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24'), sum(total)
            from usage_rows where meter = 'cloudtrail_events' group by 1, 2",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        rows.into_iter().map(|(account, hour, total)| ((account, hour), total.try_into().unwrap())).collect()
    }

    /// Where a role finds the database.
    pub(crate) fn database_url(&self, role: &str) -> String {
        self.database.url(role)
    }

    pub(crate) async fn close(self) {
        self.pool.close().await;
        self.s3.shutdown().await;
        self.kinesis.shutdown().await;
        self.dynamodb.shutdown().await;
    }
}

/// SDK settings for an embedded server.
pub(crate) fn sdk(endpoint: &str) -> SdkConfig {
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("any", "any", None, None, "test")))
        .http_client(aws_smithy_http_client::Builder::new().tls_provider(ring).build_https())
        .endpoint_url(endpoint)
        .build()
}

/// Waits until the stream takes records.
pub(crate) async fn until_active(kinesis: &aws_sdk_kinesis::Client) {
    loop {
        let stream = kinesis.describe_stream_summary().stream_name(NAME).send().await.unwrap();
        if stream.stream_description_summary.unwrap().stream_status.as_str() == "ACTIVE" {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Events by account and hour.
pub(crate) type Counts = BTreeMap<(String, String), u64>;

/// One event as its source has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    pub(crate) account: u64,
    pub(crate) hour: i64,
    pub(crate) identity: u32,
}

/// The first hour of the tests: 2026-10-24T00.
pub(crate) const HOUR: i64 = 498_000;

/// What these events must come to: a set, and nothing else.
pub(crate) fn recount(events: impl IntoIterator<Item = Event>) -> Counts {
    let distinct: BTreeSet<Event> = events.into_iter().collect();
    let mut counts = Counts::new();
    for Event { account, hour, .. } in distinct {
        let hour = Hour::from_number(hour).unwrap().to_string();
        *counts.entry((format!("{account:012}"), hour)).or_default() += 1;
    }
    counts
}

/// The slices of one run.
pub(crate) fn slices(run: u64, events: &[Event]) -> Vec<Slice> {
    let mut name = [0; 16];
    name[8..].copy_from_slice(&run.to_be_bytes());
    let mut packer = Packer::new(RunId::from_bytes(name));
    let mut slices = Vec::new();
    for event in events {
        let mut identity = [7; 16];
        identity[..4].copy_from_slice(&event.identity.to_be_bytes());
        let event = UsageEvent {
            meter: Meter::CloudTrailEvents,
            account: AccountId::parse(&format!("{:012}", event.account)).unwrap(),
            identity: Identity::from_bytes(identity),
            event_time: Hour::from_number(event.hour).unwrap().start(),
            dimensions: Dimensions { region: Cow::Borrowed("eu-central-1"), category: Cow::Borrowed("Management") },
        };
        packer.add(event, &mut slices);
    }
    slices.extend(packer.flush());
    slices
}
