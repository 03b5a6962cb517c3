//! The stores a command works with: joined, started here, or in AWS.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use crate::cli::{Global, StoresChoice};
#[cfg(feature = "local")]
use crate::home::Endpoints;
use crate::stores::Stores;
use crate::workers::Workers;

/// The stores, for as long as a command works with them.
pub(crate) struct Platform {
    pub(crate) stores: Stores,
    pub(crate) keys: Keys,
    part: Part,
}

/// What the API needs to vouch for tenants and to check bootstrap keys.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) tenant: [u8; 32],
    pub(crate) bootstrap: [u8; 32],
}

/// What this process is to the stores.
enum Part {
    /// It started them and does the counting.
    #[cfg(feature = "local")]
    Owner(Box<local::Owner>),
    /// Another process does both.
    #[cfg(feature = "local")]
    Client(crate::home::ClientGuard),
    /// They are in AWS; only `serve` counts.
    Aws(Option<Workers>),
}

impl Platform {
    /// Joins or starts the stores. With stores in AWS this process counts only if `counts` says so.
    pub(crate) async fn open(global: &Global, counts: bool) -> anyhow::Result<Self> {
        let flush_interval = Duration::from_millis(global.flush_ms);
        match global.stores {
            #[cfg(feature = "local")]
            StoresChoice::Local => local::open(global, flush_interval).await,
            #[cfg(not(feature = "local"))]
            StoresChoice::Local => anyhow::bail!("this build has no embedded stores: use --stores aws"),
            StoresChoice::Aws => Self::in_aws(global, counts, flush_interval).await,
        }
    }

    async fn in_aws(global: &Global, counts: bool, flush_interval: Duration) -> anyhow::Result<Self> {
        let stores = Stores::in_aws(global.name.clone(), global.database_url.clone()).await?;
        migrations::migrate(&stores.database.owner_url()).await?;
        let keys = Keys {
            tenant: key_in_environment("SECUREBASE_TENANT_KEY")?,
            bootstrap: key_in_environment("SECUREBASE_BOOTSTRAP_SECRET")?,
        };
        let workers = if counts { Some(Workers::start(&stores, 1, flush_interval, None)?) } else { None };
        Ok(Self { stores, keys, part: Part::Aws(workers) })
    }

    /// What stopped the counting in this process, once something has.
    pub(crate) fn failure(&self) -> Option<watch::Receiver<Option<String>>> {
        match &self.part {
            #[cfg(feature = "local")]
            Part::Owner(owner) => Some(owner.failure()),
            #[cfg(feature = "local")]
            Part::Client(_) => None,
            Part::Aws(workers) => workers.as_ref().map(|workers| workers.failure.clone()),
        }
    }

    /// Where the owner's Kinesis answers, when another process owns the stores.
    pub(crate) fn owner_address(&self) -> Option<&str> {
        match &self.part {
            #[cfg(feature = "local")]
            Part::Client(client) => client.endpoints().kinesis.strip_prefix("http://"),
            _ => None,
        }
    }

    /// Says where the API listens, so that other commands can tell.
    pub(crate) fn publish_api(&mut self, url: &str) -> anyhow::Result<()> {
        match &mut self.part {
            #[cfg(feature = "local")]
            Part::Owner(owner) => owner.publish_api(url),
            _ => {
                let _ = url;
                Ok(())
            }
        }
    }

    /// Leaves the stores. The process that started them waits for the others before it stops them.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self.part {
            #[cfg(feature = "local")]
            Part::Owner(owner) => owner.close().await,
            #[cfg(feature = "local")]
            Part::Client(client) => {
                drop(client);
                Ok(())
            }
            Part::Aws(workers) => {
                if let Some(workers) = workers {
                    workers.stop().await;
                }
                Ok(())
            }
        }
    }
}

fn key_in_environment(name: &'static str) -> anyhow::Result<[u8; 32]> {
    let text = std::env::var(name).with_context(|| format!("{name} is not set: 64 hexadecimal digits"))?;
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| anyhow::anyhow!("{name} is not 64 hexadecimal digits"))?;
    Ok(key)
}

#[cfg(feature = "local")]
mod local {
    //! The embedded stores of one home.

    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use aggregator::consumer::Checkpoint;
    use aws_sdk_kinesis::types::StreamStatus;
    use embedded::{Durability, DynamoDb, Kinesis, KinesisOptions, PostgreSql, PostgresOptions};
    use sqlx::{ConnectOptions, Connection};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::edge;
    use crate::home::{Home, Membership, OwnerGuard};
    use crate::stores::Database;

    /// Shards of the local stream: one a core of a small machine.
    const SHARDS: i32 = 2;

    /// This process runs the stores and counts.
    pub(super) struct Owner {
        guard: OwnerGuard,
        endpoints: Endpoints,
        workers: Workers,
        forgetting: JoinHandle<()>,
        dynamodb: DynamoDb,
        postgres: Option<PostgreSql>,
    }

    pub(super) async fn open(global: &Global, flush_interval: Duration) -> anyhow::Result<Platform> {
        let home = Home::open(&global.home)?;
        let joining = home.clone();
        let membership = tokio::task::spawn_blocking(move || joining.join()).await??;
        match membership {
            Membership::Client(client) => {
                let endpoints = client.endpoints();
                let database = match &global.database_url {
                    Some(url) => Database::Given { url: url.clone() },
                    None => Database::Private { address: endpoints.postgres.clone() },
                };
                let stores = Stores::embedded(&endpoints.kinesis, &endpoints.dynamodb, database, global.name.clone());
                let keys = keys(home.path())?;
                Ok(Platform { stores, keys, part: Part::Client(client) })
            }
            Membership::Owner(guard) => start(global, &home, guard, flush_interval).await,
        }
    }

    async fn start(
        global: &Global,
        home: &Home,
        mut guard: OwnerGuard,
        flush_interval: Duration,
    ) -> anyhow::Result<Platform> {
        let keys = keys(home.path())?;
        let (database, postgres) = match &global.database_url {
            Some(url) => (Database::Given { url: url.clone() }, None),
            None => {
                let options = PostgresOptions {
                    directory: home.path().join("postgres"),
                    durability: Durability::Durable,
                    port: None,
                };
                let postgres = PostgreSql::start(options).await?;
                (Database::Private { address: format!("127.0.0.1:{}", postgres.port()) }, Some(postgres))
            }
        };
        prepare_database(&database, &keys).await?;
        let dynamodb = DynamoDb::file(&home.path().join("dynamodb.sqlite")).await?;
        let kinesis = Kinesis::start(KinesisOptions::default()).await?;
        let stores = Stores::embedded(kinesis.endpoint(), dynamodb.endpoint(), database.clone(), global.name.clone());
        create_stores(&stores).await?;
        let endpoints = Endpoints {
            pid: std::process::id(),
            kinesis: kinesis.endpoint().to_owned(),
            dynamodb: dynamodb.endpoint().to_owned(),
            postgres: match &database {
                Database::Private { address } => address.clone(),
                Database::Given { .. } => String::new(),
            },
            api: None,
        };
        let (checkpoints, reached) = mpsc::unbounded_channel();
        let shards = usize::try_from(SHARDS).unwrap_or(1);
        let workers = Workers::start(&stores, shards, flush_interval, Some(checkpoints))?;
        let forgetting = tokio::spawn(forget(kinesis, stores.name.clone(), reached));
        guard.publish(&endpoints)?;
        let owner = Owner { guard, endpoints, workers, forgetting, dynamodb, postgres };
        Ok(Platform { stores, keys, part: Part::Owner(Box::new(owner)) })
    }

    impl Owner {
        pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
            self.workers.failure.clone()
        }

        pub(super) fn publish_api(&mut self, url: &str) -> anyhow::Result<()> {
            self.endpoints.api = Some(url.to_owned());
            Ok(self.guard.publish(&self.endpoints)?)
        }

        pub(super) async fn close(self) -> anyhow::Result<()> {
            let Self { mut guard, workers, forgetting, dynamodb, postgres, endpoints: _ } = self;
            // Others may still be counting with these stores.
            if !guard.try_retire()? {
                crate::print::note("securebase: done; waiting for other commands that use these stores");
            }
            let guard = tokio::task::spawn_blocking(move || guard.retire().map(|()| guard)).await??;
            workers.stop().await;
            // The stream ends with its task.
            forgetting.abort();
            let _ = forgetting.await;
            dynamodb.shutdown().await;
            if let Some(postgres) = postgres {
                postgres.stop().await;
            }
            drop(guard);
            Ok(())
        }
    }

    /// The stream is in memory: what is counted is let go of, so that memory does not grow with the input.
    async fn forget(kinesis: Kinesis, stream: String, mut reached: mpsc::UnboundedReceiver<Checkpoint>) {
        while let Some(Checkpoint { shard, sequence_number }) = reached.recv().await {
            kinesis.forget_through(&stream, &shard, &sequence_number).await;
        }
    }

    async fn prepare_database(database: &Database, keys: &Keys) -> anyhow::Result<()> {
        if let Some(url) = database.maintenance_url() {
            let options: sqlx::postgres::PgConnectOptions = url.parse()?;
            let mut connection = options.connect().await.context("cannot connect to the private PostgreSQL")?;
            let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
                .bind(Database::name())
                .fetch_one(&mut connection)
                .await?;
            if !exists {
                sqlx::query("create database securebase").execute(&mut connection).await?;
            }
            connection.close().await?;
        }
        migrations::migrate(&database.owner_url()).await?;
        let options: sqlx::postgres::PgConnectOptions = database.owner_url().parse()?;
        let mut connection = options.connect().await?;
        migrations::set_tenant_key(&mut connection, &keys.tenant).await?;
        connection.close().await?;
        Ok(())
    }

    async fn create_stores(stores: &Stores) -> anyhow::Result<()> {
        stores.commit_log().ensure_table().await?;
        stores.acknowledgements().ensure_table().await?;
        stores.manifests().ensure_table().await?;
        stores.dead_letters().ensure_table().await?;
        stores.kinesis.create_stream().stream_name(&stores.name).shard_count(SHARDS).send().await?;
        for _ in 0..200 {
            let summary = stores.kinesis.describe_stream_summary().stream_name(&stores.name).send().await?;
            let status = summary.stream_description_summary().map(|summary| summary.stream_status().clone());
            if status == Some(StreamStatus::Active) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("the embedded stream did not become active")
    }

    /// The home's secrets, made once. Readable by their owner only.
    fn keys(home: &Path) -> anyhow::Result<Keys> {
        Ok(Keys { tenant: key(&home.join("tenant.key"))?, bootstrap: key(&home.join("bootstrap.key"))? })
    }

    fn key(path: &Path) -> anyhow::Result<[u8; 32]> {
        match fs::read(path) {
            Ok(bytes) => bytes.try_into().map_err(|_| anyhow::anyhow!("{} does not hold 32 bytes", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = edge::random_bytes();
                // Written under another name first: a key that is half there would lock everybody out.
                let unfinished = path.with_extension("key.new");
                let mut file =
                    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
                file.write_all(&key)?;
                file.sync_all()?;
                fs::rename(&unfinished, path)?;
                Ok(key)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}
