//! The routes, and the server that runs them.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router, middleware};
use billing::InvoiceDocument;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::edge::{Tenant, edge, now};
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::TenantTransaction;
use crate::usage::UsageAnswer;
use crate::{invoices, readiness, usage};

/// After the signal to stop: how long running requests may take to end.
pub const SHUTDOWN_MS_MAX: u64 = 10_000;

/// Every route of the API.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/ready", get(ready))
        .route("/v1/usage", get(read_usage))
        .route("/v1/invoices", get(list_invoices))
        .route("/v1/invoices/{invoice}", get(read_invoice))
        .fallback(async || Problem::of_status(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::of_status(StatusCode::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn(edge))
        .with_state(state)
}

/// Answers requests until `shutdown` completes, then lets the running ones end, for [`SHUTDOWN_MS_MAX`] at most.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let (stop, mut stopped) = watch::channel(false);
    let mut stopping = stopped.clone();
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(async move {
        // An error means the sender is gone: the same as a signal.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    });
    let deadline = async {
        let _ = stopped.wait_for(|is_stopping| *is_stopping).await;
        tokio::time::sleep(Duration::from_millis(SHUTDOWN_MS_MAX)).await;
    };
    let signal = async {
        shutdown.await;
        stop.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = server => result,
        () = deadline => Ok(()),
        () = signal => Ok(()),
    }
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn ready(State(state): State<ApiState>) -> Result<Json<Value>, Problem> {
    match readiness::check(&state.pool, &state.mac_key).await {
        Ok(()) => Ok(Json(json!({"status": "ready"}))),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            Err(Problem::unavailable("the database is away or not set up for this server; its log says why"))
        }
    }
}

async fn read_usage(
    Tenant(customer): Tenant,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<UsageAnswer>, Problem> {
    let query = usage::wire::read(&parameters, now())?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &customer).await?;
    let answer = usage::usage(&mut transaction, &query, &usage::UsageScope::Tenant).await?;
    transaction.end().await?;
    Ok(Json(answer))
}

async fn list_invoices(
    Tenant(customer): Tenant,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<invoices::InvoiceList>, Problem> {
    let page = invoices::Page::read(&parameters)?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &customer).await?;
    let list = invoices::list(&mut transaction, &customer, &page).await?;
    transaction.end().await?;
    Ok(Json(list))
}

async fn read_invoice(
    Tenant(customer): Tenant,
    State(state): State<ApiState>,
    Path(invoice): Path<String>,
    parameters: Parameters,
) -> Result<Json<InvoiceDocument>, Problem> {
    parameters.only(&[])?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &customer).await?;
    let document = invoices::load(&mut transaction, &customer, &invoice).await?;
    transaction.end().await?;
    Ok(Json(document))
}
