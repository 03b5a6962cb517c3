//! `securebase serve`: the stores, the aggregator, the roll-up and the API until Ctrl-C.

mod operations;

use std::net::SocketAddr;
use std::process::ExitCode;

use aggregator::directory::AccountDirectory;
use aggregator::receipts::Sources;
use anyhow::Context;
use api::auth::Authenticator;
use api::http::HeaderValue;
use api::{ApiParts, ApiState, Identity, OperationQueue, Operations, Statements, Telemetry, TenantMac};
use tokio::net::TcpListener;

use crate::cli::{self, Global, StoresChoice};
use crate::mail::Mail;
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{declared, edge, print, samples};

/// Between two lines of measurements.
const MEASURED_SECONDS: u64 = 60;

pub(super) async fn run(global: &Global, arguments: cli::Serve) -> anyhow::Result<ExitCode> {
    let listener = listen(arguments.listen).await?;
    let platform = Platform::open(global, Work::Serving).await?;
    serve(global, platform, listener).await?;
    Ok(ExitCode::SUCCESS)
}

/// Listens, or says what is in the way.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let taken = || format!("cannot listen on {address}: choose another address with --listen");
    TcpListener::bind(address).await.with_context(taken)
}

/// Serves the API until Ctrl-C or until the counting stops for good, then leaves the stores in order.
pub(super) async fn serve(global: &Global, mut platform: Platform, listener: TcpListener) -> anyhow::Result<()> {
    let url = format!("http://{}", listener.local_addr()?);
    platform.publish_api(&url)?;
    let queue = OperationQueue::default();
    let state = state(global, &platform, listener.local_addr()?, queue.clone()).await?;
    let authenticator = state.authenticator().clone();
    let telemetry = state.telemetry().clone();
    platform.keys().session.clone().keep_fresh(authenticator.sessions(), edge::now());
    let place = std::env::var("SECUREBASE_AUDIT_ARCHIVE").ok().or_else(|| super::audit::default_place(global));
    let stores = platform.stores.clone();
    let archiving = tokio::spawn(async move {
        match place {
            Some(place) => super::audit::keep_archiving(stores, place).await,
            None => {
                tracing::warn!("no SECUREBASE_AUDIT_ARCHIVE: the heads of the audit trail are written down nowhere")
            }
        }
    });
    if global.json {
        print::json(&serde_json::json!({ "api": url, "pid": std::process::id() }));
    } else {
        print::line(&format!("The API listens on {url} until Ctrl-C."));
    }
    let operating = operations::start(&platform.stores, declared::load(global)?, queue)?;
    let measuring = tokio::spawn(measure(global.stores, telemetry, authenticator.clone()));
    let failures = platform.failures();
    let (failed, reason) = tokio::sync::oneshot::channel();
    let shutdown = async move {
        tokio::select! {
            // Without signals there is nothing to wait for but the end of the counting.
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated() => {}
            reason = super::failed(failures) => drop(failed.send(reason)),
        }
    };
    let mailing = Mail::of(global, &platform.stores)?.map(|mail| tokio::spawn(mail.keep_sending()));
    let served = api::serve(listener, state, shutdown).await;
    archiving.abort();
    measuring.abort();
    mailing.iter().for_each(tokio::task::JoinHandle::abort);
    // An operation that is under way is begun again by the next server.
    operating.abort();
    let _ = operating.await;
    let counts = authenticator.cache_counts();
    if let Some(per_mille) = counts.hits_per_mille() {
        tracing::info!(
            memory = counts.memory,
            table = counts.table,
            missed = counts.missed,
            "the authentication cache answered {}.{} %",
            per_mille / 10,
            per_mille % 10
        );
    }
    let closed = platform.close().await;
    served?;
    closed?;
    match reason.await {
        Ok(reason) => Err(anyhow::anyhow!(reason)),
        Err(_) => Ok(()),
    }
}

/// In AWS, says now and then what was measured, in the format that CloudWatch reads from logs. Elsewhere `/metrics` does.
async fn measure(stores: StoresChoice, telemetry: Telemetry, authenticator: Authenticator) {
    if stores != StoresChoice::Aws {
        return;
    }
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(MEASURED_SECONDS)).await;
        for line in telemetry.embedded_metrics(authenticator.cache_counts(), edge::now()) {
            print::line(&line);
        }
    }
}

/// Origins whose scripts may ask the API, separated by commas.
fn cors_origins() -> anyhow::Result<Vec<HeaderValue>> {
    const NAME: &str = "SECUREBASE_CORS_ORIGINS";
    let given = std::env::var(NAME).unwrap_or_default();
    let origins = given.split(',').map(str::trim).filter(|origin| !origin.is_empty());
    let origin = |text: &str| {
        // `*` would let every page in the browser ask; a list names those that may.
        anyhow::ensure!(
            text.split_once("://")
                .is_some_and(|(scheme, rest)| ["http", "https"].contains(&scheme) && !rest.contains(['/', '*'])),
            "{NAME}: {text:?} is no origin such as https://portal.example.com"
        );
        HeaderValue::from_str(text).with_context(|| format!("{NAME}: {text:?}"))
    };
    origins.map(origin).collect()
}

/// Whether a pooler that changes connections between transactions stands before PostgreSQL.
fn statements() -> anyhow::Result<Statements> {
    const NAME: &str = "SECUREBASE_DATABASE_POOLER";
    match std::env::var(NAME).as_deref() {
        Err(_) | Ok("" | "none") => Ok(Statements::Prepared),
        Ok("transaction") => Ok(Statements::Unnamed),
        Ok(other) => anyhow::bail!("{NAME}: {other:?} is neither none nor transaction"),
    }
}

/// The parts of the API over these stores.
async fn state(
    global: &Global,
    platform: &Platform,
    address: SocketAddr,
    queue: OperationQueue,
) -> anyhow::Result<ApiState> {
    let stores = &platform.stores;
    let signing_keys = platform.keys().session.load(address).await?;
    let state = ApiState::new(ApiParts {
        pool: stores.database.pool(Role::App)?,
        operator_pool: Some(stores.database.pool(Role::Operator)?),
        operations: Some(Operations {
            directory: AccountDirectory::new(stores.database.pool(Role::Aggregator)?),
            sources: Sources::new(stores.database.pool(Role::Aggregator)?),
            dead_letters: stores.dead_letters(),
            queue,
        }),
        seller: super::invoice::seller(),
        statements: statements()?,
        mac_key: TenantMac::new(platform.keys().tenant)?,
        signing_keys,
        shared_table: stores.shared_table().await?,
        // A home has one server; a second one on it has buckets of its own.
        serves_alone: stores.stream_is_memory(),
        hashing_threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        identity: Identity::OfHeader,
        cors_origins: cors_origins()?,
    });
    Ok(state.with_samples(samples::door(stores, declared::load(global)?)?))
}

/// Resolves when the process is asked to end.
async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}
