//! The routes, and the server that runs them.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router, middleware};
use billing::InvoiceDocument;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::util::option_layer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;

use crate::caller::{ReadInvoices, ReadUsage, Tenant, address_of};
use crate::connections::{GuardedListener, Patience, Peer};
use crate::edge::{edge, now};
use crate::etag::etag;
use crate::isolation::{Foreign, report_foreign};
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::TenantTransaction;
use crate::usage::UsageAnswer;
use crate::{
    admin, admin_dead_letters, admin_directory, admin_operations, admin_rate_cards, admin_records, admin_sources,
    api_keys, audit, customer, docs_page, invoice_documents, invoice_preview, invoices, metrics, openapi, readiness,
    samples, sessions, usage, usage_stream,
};

/// After the signal to stop: how long running requests may take to end.
pub const SHUTDOWN_MS_MAX: u64 = 10_000;

/// Every route of the API.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/admin/accounts", get(admin::accounts).post(admin_directory::register))
        .route("/v1/admin/api-keys", get(admin::keys).post(admin::create_key))
        .route("/v1/admin/api-keys/{key}", delete(admin::revoke_key))
        .route("/v1/admin/closes", get(admin_records::closes).post(admin_operations::close))
        .route("/v1/admin/customers", get(admin::customers).post(admin_directory::add_customer))
        .route("/v1/admin/dead-letters", get(admin_dead_letters::list))
        .route("/v1/admin/dead-letters/{id}", get(admin_dead_letters::find))
        .route("/v1/admin/dead-letters/{id}/dismiss", post(admin_dead_letters::dismiss))
        .route("/v1/admin/dead-letters/{id}/replay", post(admin_operations::replay))
        .route("/v1/admin/operations", get(admin_operations::list))
        .route("/v1/admin/operations/{operation}", get(admin_operations::find))
        .route("/v1/admin/receipts", get(admin_records::receipts).post(admin_sources::declare))
        .route("/v1/admin/runs", get(admin_records::runs).post(admin_operations::run))
        .route("/v1/admin/runs/{run}", get(admin_records::run))
        .route("/v1/admin/rate-cards", get(admin::rate_cards).post(admin_rate_cards::load))
        .route("/v1/docs", get(docs_page::show))
        .route("/v1/openapi.json", get(openapi::show))
        .route("/v1/health", get(health))
        .route("/v1/ready", get(ready))
        .route("/v1/auth/authenticate", post(sessions::begin))
        .route("/v1/auth/session", post(sessions::begin_by_alias))
        .route("/v1/api-keys", get(api_keys::wire::list).post(api_keys::wire::create))
        .route("/v1/api-keys/{key}", delete(api_keys::wire::revoke))
        .route("/v1/api-keys/{key}/rotate", post(api_keys::wire::rotate))
        .route("/metrics", get(prometheus))
        .route("/v1/accounts", get(customer::accounts))
        .route("/v1/audit-events", get(audit::wire::list))
        .route("/v1/customers/{customer}", get(customer::find))
        .route("/v1/metrics", get(metrics::month))
        .route("/v1/metrics/history", get(metrics::history))
        .route(samples::PATH, post(samples::take))
        .route("/v1/usage/stream", get(usage_stream::watch))
        .route("/v1/usage", get(read_usage))
        .route("/v1/invoices", get(list_invoices))
        .route("/v1/invoices/preview", get(invoice_preview::preview))
        .route("/v1/invoices/{invoice}", get(read_invoice))
        .route("/v1/invoices/{invoice}/download", get(invoice_documents::download))
        .route("/v1/invoices/{invoice}/evidence", get(invoice_documents::evidence))
        .fallback(async || Problem::of_status(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::of_status(StatusCode::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn(etag))
        .layer(option_layer(cors(&state.cors_origins)))
        .layer(middleware::from_fn_with_state(state.clone(), edge))
        // Small answers and streams are left as they are.
        .layer(CompressionLayer::new())
        .with_state(state)
}

/// Lets scripts of these origins ask, with a key in a header; cookies play no part. Without origins nothing is added.
fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let asked = ["authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id", "prefer"];
    let shown = ["etag", "ratelimit", "ratelimit-policy", "retry-after", "x-next-cursor", "x-request-id", "location"];
    let cors = CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        .allow_headers(asked.map(HeaderName::from_static))
        .expose_headers(shown.map(HeaderName::from_static))
        .max_age(Duration::from_secs(600));
    Some(cors)
}

/// Answers requests until `shutdown` completes, then lets the running ones end, for [`SHUTDOWN_MS_MAX`] at most.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let (stop, mut stopped) = watch::channel(false);
    let mut stopping = stopped.clone();
    let recorder = state.recorder.clone();
    let service = router(state).into_make_service_with_connect_info::<Peer>();
    let server =
        axum::serve(GuardedListener::new(listener, Patience::default()), service).with_graceful_shutdown(async move {
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
    let outcome = tokio::select! {
        result = server => result,
        () = deadline => Ok(()),
        () = signal => Ok(()),
    };
    if let Err(error) = recorder.flush().await {
        tracing::error!(alarm = "audit", error = &error as &dyn std::error::Error, "the last calls are not recorded");
    }
    outcome
}

/// What the server measures, as Prometheus reads it; for this machine alone.
async fn prometheus(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    if !address_of(request.extensions()).is_some_and(|address| address.to_canonical().is_loopback()) {
        return Err(Problem::of_status(StatusCode::NOT_FOUND));
    }
    let text = state.telemetry.prometheus(state.authenticator.cache_counts());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// Whether the process lives.
#[utoipa::path(get, path = "/v1/health", tag = "server", security(()), responses((status = 200, description = "It does", body = Object)))]
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Whether customers can be served, and each store is there. The problem names those that are not.
#[utoipa::path(get, path = "/v1/ready", tag = "server", security(()), responses((status = 200, description = "They can, and it is", body = Object)))]
pub(crate) async fn ready(State(state): State<ApiState>) -> Result<Json<Value>, Problem> {
    let missing = readiness::check(&state.pool, &state.mac_key, state.shared_table.as_ref()).await;
    if missing.is_empty() {
        return Ok(Json(json!({"status": "ready"})));
    }
    for error in &missing {
        tracing::warn!(error = error as &dyn std::error::Error, store = error.store(), "not ready");
    }
    let stores: Vec<&str> = missing.iter().map(readiness::NotReady::store).collect();
    let detail = format!("away or not set up for this server: {}; its log says why", stores.join(" and "));
    Err(Problem::unavailable(detail))
}

/// How much of a meter was used, summed by the keys that are named.
#[utoipa::path(get, path = "/v1/usage", operation_id = "get_usage", tag = "usage", security(("key" = ["read:usage"])),
    params(
        ("meter" = String, Query, description = "What was counted"),
        ("from" = Option<String>, Query, description = "First hour, RFC 3339; the month of the last hour without", format = DateTime),
        ("to" = Option<String>, Query, description = "End of the last hour, half-open; the end of the running hour without", format = DateTime),
        ("group_by" = Option<String>, Query, description = "account, region, category and one of hour, day, month; separated by commas"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 1000 without", minimum = 1, maximum = 10000), ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of sums; each row has the keys it is grouped by, and `quantity`", body = UsageAnswer)))]
pub(crate) async fn read_usage(
    tenant: Tenant<ReadUsage>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<UsageAnswer>, Problem> {
    let query = usage::wire::read(&parameters, now())?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let scope = usage::UsageScope::Customer(tenant.customer.clone());
    let answer = usage::usage(&mut transaction, &query, &scope, state.statements).await?;
    transaction.let_go();
    Ok(Json(answer))
}

/// Issued invoices, newest first.
#[utoipa::path(get, path = "/v1/invoices", operation_id = "list_invoices", tag = "invoices", security(("key" = ["read:invoices"])),
    params(
        ("status" = Option<String>, Query, description = "Only those that are `issued`, `overdue`, `paid` or `credited`", pattern = "^(issued|overdue|paid|credited)$"),
        ("kind" = Option<String>, Query, description = "Only `monthly`, `final`, `prepayment` or `adjustment`", pattern = "^(monthly|final|prepayment|adjustment)$"),
        ("from" = Option<String>, Query, description = "Only of periods that begin in this month or later, such as 2026-10", pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$"),
        ("to" = Option<String>, Query, description = "Only of periods that begin before this month", pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 50 without", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of invoices", body = invoices::InvoiceList)))]
pub(crate) async fn list_invoices(
    tenant: Tenant<ReadInvoices>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<invoices::InvoiceList>, Problem> {
    let page = invoices::Page::read(&parameters, now())?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let list = invoices::list(&mut transaction, &tenant.customer, &page).await?;
    transaction.end().await?;
    Ok(Json(list))
}

/// One invoice with its lines.
#[utoipa::path(get, path = "/v1/invoices/{invoice}", operation_id = "get_invoice", tag = "invoices", security(("key" = ["read:invoices"])),
    params(("invoice" = String, Path, description = "Its number or id")),
    responses((status = 200, description = "The invoice", body = InvoiceDocument)))]
pub(crate) async fn read_invoice(
    tenant: Tenant<ReadInvoices>,
    State(state): State<ApiState>,
    Path(invoice): Path<String>,
    parameters: Parameters,
) -> Result<Json<InvoiceDocument>, Problem> {
    parameters.only(&[])?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let loaded = invoices::load(&mut transaction, &tenant.customer, &invoice, now()).await;
    transaction.end().await?;
    if matches!(&loaded, Err(problem) if problem.status == StatusCode::NOT_FOUND) {
        report_foreign(&state, &tenant.customer, Foreign::Invoice(&invoice)).await;
    }
    Ok(Json(loaded?))
}
