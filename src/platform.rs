//! The stores a command works with: joined, started here, or in AWS.

use std::time::Duration;

use aggregator::deployment::{DeploymentId, bind};
use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;

use crate::cli::{Global, StoresChoice};
use crate::edge;
#[cfg(feature = "local")]
use crate::home::Endpoints;
use crate::session_keys::SessionKeys;
use crate::stores::{Database, Role, Stores};
use crate::workers::Workers;

/// The stores, for as long as a command works with them.
pub(crate) struct Platform {
    pub(crate) stores: Stores,
    keys: Option<Keys>,
    part: Part,
}

/// What the API needs to vouch for tenants and to sign sessions.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) tenant: [u8; 32],
    pub(crate) session: SessionKeys,
}

/// What a command does with the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It asks the database and nothing else.
    Database,
    /// It uses the stream, the tables and the database.
    Stores,
    /// It counts, and vouches for tenants to the database.
    Serving,
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
    /// Joins or starts the stores. Embedded stores are started whole, whatever the work.
    pub(crate) async fn open(global: &Global, work: Work) -> anyhow::Result<Self> {
        let flush_interval = Duration::from_millis(global.flush_ms);
        match global.stores {
            #[cfg(feature = "local")]
            StoresChoice::Local => local::open(global, flush_interval).await,
            #[cfg(not(feature = "local"))]
            StoresChoice::Local => anyhow::bail!("this build has no embedded stores: use --stores aws"),
            StoresChoice::Aws => Self::in_aws(global, work, flush_interval).await,
        }
    }

    /// Everything is looked at before the first thing is changed.
    async fn in_aws(global: &Global, work: Work, flush_interval: Duration) -> anyhow::Result<Self> {
        let stores =
            Stores::in_aws(global.deployment.clone(), global.database_url.clone(), global.app_database_url.clone())
                .await?;
        let keys = match work {
            Work::Database | Work::Stores => None,
            // With the login that migrates, SQL that slips in could take on its rights.
            Work::Serving if global.app_database_url.is_none() => anyhow::bail!(
                "SECUREBASE_APP_DATABASE_URL is not set: the API needs a login of its own that is securebase_app alone"
            ),
            Work::Serving => Some(Keys {
                tenant: key_in_environment("SECUREBASE_TENANT_KEY")?,
                session: SessionKeys::from_environment(
                    stores.secrets.clone().context("no client of Secrets Manager")?,
                )?,
            }),
        };
        if work != Work::Database {
            stores.check().await?;
        }
        migrations::migrate(&stores.database.owner_url()).await?;
        if work != Work::Database {
            bind_database(&stores).await?;
        }
        let workers = match &keys {
            None => None,
            Some(keys) => {
                store_tenant_key(&stores.database, keys).await?;
                Some(Workers::start(&stores, 1, flush_interval, None).await?)
            }
        };
        Ok(Self { stores, keys, part: Part::Aws(workers) })
    }

    /// The keys of a platform that was opened for serving.
    pub(crate) fn keys(&self) -> &Keys {
        self.keys.as_ref().expect("a platform opened for serving has keys")
    }

    /// What stops the work here, each once there is something: the counting in this process, the tables of a home.
    pub(crate) fn failures(&self) -> Vec<watch::Receiver<Option<String>>> {
        let counting = match &self.part {
            #[cfg(feature = "local")]
            Part::Owner(owner) => Some(owner.failure()),
            #[cfg(feature = "local")]
            Part::Client(_) => None,
            Part::Aws(workers) => workers.as_ref().map(|workers| workers.failure.clone()),
        };
        counting.into_iter().chain(self.stores.trouble.clone()).collect()
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

    /// Leaves the stores. The process that started them waits for the others before it stops them, unless it cannot count
    /// any more, or is interrupted.
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

/// Refuses a database whose rows were rolled up from other logs.
async fn bind_database(stores: &Stores) -> anyhow::Result<()> {
    let deployment = stores.commit_log().deployment(DeploymentId::from_bytes(edge::random_bytes())).await?;
    Ok(bind(&stores.database.pool(Role::Aggregator)?, deployment, edge::now()).await?)
}

/// Lets the database check who vouches for a tenant.
async fn store_tenant_key(database: &Database, keys: &Keys) -> anyhow::Result<()> {
    let options: PgConnectOptions = database.owner_url().parse()?;
    let mut connection = options.connect().await?;
    migrations::set_tenant_key(&mut connection, &keys.tenant).await?;
    connection.close().await?;
    Ok(())
}

fn key_in_environment(name: &'static str) -> anyhow::Result<[u8; 32]> {
    let text = std::env::var(name).unwrap_or_default();
    let mut key = [0; 32];
    let form = "it must be 64 hexadecimal digits, such as `openssl rand -hex 32` prints";
    anyhow::ensure!(!text.is_empty(), "{name} is not set: {form}");
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| anyhow::anyhow!("{name} is malformed: {form}"))?;
    Ok(key)
}

#[cfg(feature = "local")]
mod local {
    //! The embedded stores of one home.

    use std::fs;
    use std::io::{ErrorKind, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::{Path, PathBuf};

    use aggregator::consumer::Checkpoint;
    use aws_sdk_kinesis::types::StreamStatus;
    use embedded::{Durability, DynamoDb, Kinesis, KinesisOptions, PostgreSql, PostgresOptions};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::home::{Home, Membership, OwnerGuard};

    /// Shards of the local stream: one a core of a small machine.
    const SHARDS: i32 = 2;

    /// This process runs the stores and counts.
    ///
    /// The order of the fields is the order in which an unfinished command lets go of them: the right to the stores last.
    pub(super) struct Owner {
        endpoints: Endpoints,
        workers: Workers,
        forgetting: JoinHandle<()>,
        dynamodb: DynamoDb,
        postgres: Option<PostgreSql>,
        guard: OwnerGuard,
    }

    /// How often an owner that is done asks whether the others are.
    const RETIRE_POLL: Duration = Duration::from_millis(50);

    pub(super) async fn open(global: &Global, flush_interval: Duration) -> anyhow::Result<Platform> {
        let home = Home::open(&global.home)?;
        let joining = home.clone();
        let membership = tokio::task::spawn_blocking(move || joining.join()).await??;
        match membership {
            Membership::Client(client) => {
                let endpoints = client.endpoints();
                let database = database_of(endpoints, global)?;
                let stores =
                    Stores::embedded(&endpoints.kinesis, &endpoints.dynamodb, database, global.deployment.clone());
                let keys = keys(home.path())?;
                Ok(Platform { stores, keys: Some(keys), part: Part::Client(client) })
            }
            Membership::Owner(guard) => start(global, &home, guard, flush_interval).await,
        }
    }

    /// The database that the owner rolls up to. A client that looked into another one would wait there for ever.
    fn database_of(endpoints: &Endpoints, global: &Global) -> anyhow::Result<Database> {
        let Endpoints { pid, postgres, .. } = endpoints;
        // Only the place of a given database names what is inside the server.
        match (global.database_url.as_deref(), postgres.contains('/')) {
            (None, false) => Ok(Database::Private { address: postgres.clone() }),
            (Some(url), true) if place(url)? == *postgres => {
                Ok(Database::Given { url: url.to_owned(), app_url: global.app_database_url.clone() })
            }
            (_, true) => anyhow::bail!(
                "process {pid} owns the stores of this home and uses the database {postgres}: set DATABASE_URL to it"
            ),
            (Some(_), false) => anyhow::bail!(
                "process {pid} owns the stores of this home and uses a private PostgreSQL: unset DATABASE_URL, or stop it"
            ),
        }
    }

    /// `HOST:PORT/DATABASE` of an address, without its login.
    fn place(url: &str) -> anyhow::Result<String> {
        let options: sqlx::postgres::PgConnectOptions =
            url.parse().map_err(|_| migrations::MigrateError::NotAnAddress)?;
        let database = options.get_database().unwrap_or(options.get_username());
        Ok(format!("{}:{}/{database}", options.get_host(), options.get_port()))
    }

    async fn start(
        global: &Global,
        home: &Home,
        mut guard: OwnerGuard,
        flush_interval: Duration,
    ) -> anyhow::Result<Platform> {
        let keys = keys(home.path())?;
        let (database, postgres) = match &global.database_url {
            Some(url) => (Database::Given { url: url.clone(), app_url: global.app_database_url.clone() }, None),
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
        let tables = Tables::of(home.path());
        let dynamodb = tables.open().await?;
        let kinesis = Kinesis::start(KinesisOptions::default()).await?;
        let stores =
            Stores::embedded(kinesis.endpoint(), dynamodb.endpoint(), database.clone(), global.deployment.clone());
        create_stores(&stores).await?;
        bind_database(&stores).await?;
        tables.finished()?;
        let endpoints = Endpoints {
            pid: std::process::id(),
            kinesis: kinesis.endpoint().to_owned(),
            dynamodb: dynamodb.endpoint().to_owned(),
            postgres: match &database {
                Database::Private { address } => address.clone(),
                Database::Given { url, .. } => place(url)?,
            },
            api: None,
        };
        let (checkpoints, reached) = mpsc::unbounded_channel();
        let shards = usize::try_from(SHARDS).unwrap_or(1);
        let workers = Workers::start(&stores, shards, flush_interval, Some(checkpoints)).await?;
        let forgetting = tokio::spawn(forget(kinesis, stores.name.clone(), reached));
        guard.publish(&endpoints)?;
        let owner = Owner { endpoints, workers, forgetting, dynamodb, postgres, guard };
        Ok(Platform { stores, keys: Some(keys), part: Part::Owner(Box::new(owner)) })
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
            // Others may still be counting with these stores. One that counts no more only keeps them waiting: they find
            // out when its servers end, and take over.
            let mut has_said = false;
            while workers.failure.borrow().is_none() && !guard.try_retire()? {
                if !has_said {
                    crate::print::note("securebase: done; waiting for other commands that use these stores");
                    has_said = true;
                }
                tokio::select! {
                    () = tokio::time::sleep(RETIRE_POLL) => {}
                    _ = tokio::signal::ctrl_c() => break,
                }
            }
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
            let options: PgConnectOptions = url.parse()?;
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
        store_tenant_key(database, keys).await
    }

    async fn create_stores(stores: &Stores) -> anyhow::Result<()> {
        stores.commit_log().ensure_table().await?;
        stores.acknowledgements().ensure_table().await?;
        stores.manifests().ensure_table().await?;
        stores.dead_letters().ensure_table().await?;
        stores.ensure_verified_table().await?;
        stores.expectations().ensure_table().await?;
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

    /// The file of the home's tables, and a mark that stands beside it until all of them are made.
    ///
    /// The embedded store makes a table in several steps. A table that is half there, because the disk was full or the
    /// process was killed, can neither be used nor made again; nothing was ever stored in it.
    struct Tables {
        file: PathBuf,
        unfinished: PathBuf,
    }

    impl Tables {
        fn of(home: &Path) -> Self {
            Self { file: home.join("dynamodb.sqlite"), unfinished: home.join("dynamodb.unfinished") }
        }

        async fn open(&self) -> anyhow::Result<DynamoDb> {
            let cannot = || format!("cannot make {}", self.file.display());
            if self.unfinished.exists() {
                for suffix in ["", "-wal", "-shm", "-journal"] {
                    let mut left = self.file.clone().into_os_string();
                    left.push(suffix);
                    match fs::remove_file(left) {
                        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(cannot),
                        _ => {}
                    }
                }
            } else if !self.file.exists() {
                fs::File::create(&self.unfinished).and_then(|mark| mark.sync_all()).with_context(cannot)?;
            }
            Ok(DynamoDb::file(&self.file).await?)
        }

        fn finished(&self) -> anyhow::Result<()> {
            match fs::remove_file(&self.unfinished) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("cannot remove {}", self.unfinished.display()))
                }
                _ => Ok(()),
            }
        }
    }

    /// The home's secrets, made once. Readable by their owner only.
    fn keys(home: &Path) -> anyhow::Result<Keys> {
        Ok(Keys { tenant: key(&home.join("tenant.key"))?, session: SessionKeys::Home(key(&home.join("session.key"))?) })
    }

    fn key(path: &Path) -> anyhow::Result<[u8; 32]> {
        match fs::read(path) {
            Ok(bytes) => bytes.try_into().map_err(|_| anyhow::anyhow!("{} does not hold 32 bytes", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
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
