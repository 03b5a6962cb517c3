//! Stores in AWS: what is missing is said at once and before anything is changed, and the same program works there.

use std::net::TcpListener;
use std::process::Command;

use aggregator::acknowledgement::Acknowledgements;
use aggregator::dynamodb_log::DynamoDbLog;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use embedded::{DynamoDb, Kinesis, KinesisOptions};
use ingest::dead_letter::DeadLetters;
use ingest::expectations::Expectations;
use ingest::manifest::Manifests;
use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};

use crate::events::{ACCOUNT, object};
use crate::support::{Serving, Site, block_on, now, run};

pub(crate) const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// The program with stores in AWS and no setting of them.
fn in_aws(site: &Site, arguments: &[&str]) -> Command {
    let mut command = site.command(arguments);
    command
        .env("SECUREBASE_STORES", "aws")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command
}

fn with_region(site: &Site, arguments: &[&str]) -> Command {
    let mut command = in_aws(site, arguments);
    command.env("AWS_REGION", "eu-central-1");
    command
}

fn with_credentials(site: &Site, arguments: &[&str]) -> Command {
    let mut command = with_region(site, arguments);
    command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "s3cret");
    command
}

fn check(mut command: Command, says: &[&str]) {
    let ran = run(&mut command);
    for word in says {
        assert!(ran.refusal().contains(word), "{ran:?} does not say {word:?}");
    }
    assert!(!ran.err.contains("s3cret"), "{ran:?}");
    assert_eq!(ran.out, "");
}

#[test]
fn each_missing_setting_is_named() {
    let site = Site::new();
    let log = site.write("log.json", &object(0..3));
    let replay: &[&str] = &["replay", &log];
    let mut without_database = with_credentials(&site, replay);
    without_database.env_remove("DATABASE_URL");
    check(without_database, &["DATABASE_URL"]);
    check(in_aws(&site, replay), &["AWS_REGION"]);
    for command in [replay, &["status"], &["dead-letters", "list"] as &[&str]] {
        check(with_region(&site, command), &["credentials"]);
    }
    let app = ("SECUREBASE_APP_DATABASE_URL", site.database.as_ref().unwrap().url("securebase_app"));
    let tenant = ("SECUREBASE_TENANT_KEY", KEY.to_owned());
    let malformed = ("SECUREBASE_TENANT_KEY", "abc".to_owned());
    for (settings, says) in [
        (vec![], ["SECUREBASE_APP_DATABASE_URL", "login"]),
        (vec![app.clone()], ["SECUREBASE_TENANT_KEY", "64 hexadecimal digits"]),
        (vec![app.clone(), malformed], ["SECUREBASE_TENANT_KEY", "64 hexadecimal digits"]),
        (vec![app, tenant], ["SECUREBASE_SESSION_SECRET", "Secrets Manager"]),
    ] {
        let mut serve = with_credentials(&site, &["serve", "--listen", "127.0.0.1:0"]);
        serve.envs(settings);
        check(serve, &says);
    }
    assert!(!site.home().exists(), "stores in AWS need no home");
}

/// What serving needs beside stores.
fn with_keys(site: &Site, command: &mut Command) {
    command
        .env("SECUREBASE_APP_DATABASE_URL", site.database.as_ref().unwrap().url("securebase_app"))
        .env("SECUREBASE_TENANT_KEY", KEY)
        .env("SECUREBASE_SESSION_KEYS", format!(r#"{{"keys":[{{"id":"test","secret":"{KEY}"}}]}}"#));
}

#[test]
fn an_endpoint_that_does_not_answer_ends_a_command_in_seconds_and_before_the_database_is_changed() {
    let site = Site::new();
    let url = site.database.as_ref().unwrap().superuser_url();
    // A database that no program has migrated.
    block_on(async {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query("drop table _sqlx_migrations").execute(&mut connection).await.unwrap();
    });
    let log = site.write("log.json", &object(0..3));
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let serve: &[&str] = &["serve", "--listen", "127.0.0.1:0"];
    for command in [
        &["replay", &log] as &[&str],
        &["replay", "--resume", &log],
        &["dead-letters", "replay"],
        &["status"] as &[&str],
        serve,
    ] {
        let mut command = with_credentials(&site, command);
        command.env("AWS_ENDPOINT_URL", format!("http://{unused}"));
        with_keys(&site, &mut command);
        let started = now();
        check(command, &["endpoint", "AWS_REGION"]);
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
    block_on(async {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let migrated: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert!(!migrated, "the database was migrated though the stores did not answer");
    });
}

/// The services of a region on loopback.
struct Services {
    kinesis: Kinesis,
    dynamodb: DynamoDb,
}

impl Services {
    fn start() -> Self {
        block_on(async {
            Self {
                kinesis: Kinesis::start(KinesisOptions::default()).await.unwrap(),
                dynamodb: DynamoDb::in_memory().await.unwrap(),
            }
        })
    }

    fn surround(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL_KINESIS", self.kinesis.endpoint())
            .env("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb.endpoint());
    }

    fn create_stream_and_tables(&self, name: &str) {
        create_stream_and_tables(&self.kinesis, &self.dynamodb, name);
    }
}

pub(crate) fn config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("a", "b", None, None, "tests");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint)
        .build()
}

/// What the infrastructure makes before the program runs.
pub(crate) fn create_stream_and_tables(kinesis: &Kinesis, dynamodb: &DynamoDb, name: &str) {
    block_on(async {
        let kinesis = aws_sdk_kinesis::Client::new(&config(kinesis.endpoint()));
        kinesis.create_stream().stream_name(name).shard_count(1).send().await.unwrap();
        let dynamodb = aws_sdk_dynamodb::Client::new(&config(dynamodb.endpoint()));
        let named = |table: &str| format!("{name}-{table}");
        DynamoDbLog::new(dynamodb.clone(), named("commit-log")).ensure_table().await.unwrap();
        Acknowledgements::new(dynamodb.clone(), named("acknowledgements"), || 0).ensure_table().await.unwrap();
        Manifests::new(dynamodb.clone(), named("manifests"), || 0).ensure_table().await.unwrap();
        DeadLetters::new(dynamodb.clone(), named("dead-letters"), || 0).ensure_table().await.unwrap();
        Expectations::new(dynamodb, named("source-expectations"), || 0).ensure_table().await.unwrap();
    });
}

#[test]
fn a_region_without_the_stream_and_the_tables_is_said() {
    let site = Site::new();
    let services = Services::start();
    let log = site.write("log.json", &object(0..3));
    for arguments in [&["replay", &log] as &[&str], &["status"], &["dead-letters", "list"]] {
        let mut command = with_credentials(&site, arguments);
        services.surround(&mut command);
        check(command, &["not found", "AWS_REGION"]);
    }
    services.create_stream_and_tables("securebase");
    let mut command = with_credentials(&site, &["status", "--deployment", "another"]);
    services.surround(&mut command);
    check(command, &["not found", "names"]);
    let mut command = with_credentials(&site, &["status", "--json"]);
    services.surround(&mut command);
    assert_eq!(run(&mut command).json()["partitions"], 0);
}

#[test]
fn replay_feeds_a_stream_in_aws_and_serve_counts_it() {
    let site = Site::new();
    let services = Services::start();
    services.create_stream_and_tables("billing-test");
    let program = |arguments: &[&str]| {
        let mut command = with_credentials(&site, arguments);
        services.surround(&mut command);
        command.env("SECUREBASE_NAME", "billing-test");
        with_keys(&site, &mut command);
        command
    };
    let log = site.write("log.json", &object(0..100));
    let serving = Serving::start(program(&["serve", "--listen", "127.0.0.1:0", "--json"]));
    assert_eq!(run(&mut program(&["replay", &log, "--json"])).json()["counted"], 100);
    assert_eq!(run(&mut program(&["replay", &log, "--json"])).json()["duplicates"], 100);
    assert_eq!(run(&mut program(&["replay", &log, "--resume", "--json"])).json()["skipped_files"], 1);
    let usage = run(&mut program(&["usage", "--all", "--group-by", "account", "--json"])).json();
    assert_eq!(usage["rows"][0]["quantity"], "100");
    let add =
        ["customers", "add", "acme", "--name", "A", "--tier", "standard", "--contract-start", "2024-01-01T00:00:00Z"];
    run(&mut program(&add)).succeeded();
    let register = ["accounts", "register", ACCOUNT, "--customer", "acme", "--from", "2024-01-01T00:00:00Z"];
    run(&mut program(&register)).succeeded();
    let made = run(&mut program(&["keys", "create", "--customer", "acme", "--name", "a test", "--json"])).json();
    assert_eq!(serving.quantity(made["key"].as_str().unwrap()), 100);
    assert_eq!(serving.end_by(Signal::SIGTERM).code, Some(0));
    assert!(!site.home().exists(), "stores in AWS need no home");
}
