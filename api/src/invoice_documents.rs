//! `GET /v1/invoices/{invoice}/download` and `/evidence`: an invoice as a file, and what it was counted from.

use std::io::Read as _;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use billing::{InvoiceDocument, render_csv, render_html};
use flate2::read::GzDecoder;
use sqlx::PgConnection;

use crate::caller::{ReadInvoices, Tenant};
use crate::edge::now;
use crate::invoices;
use crate::isolation::{Foreign, report_foreign};
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::{TenantError, TenantTransaction};

/// The PDF as it was rendered once after the issue.
const STORED_PDF: &str = "select bytes from invoice_documents \
     where invoice_id = $1::uuid and media_type = 'application/pdf' and customer_id = (select current_tenant())";

/// The evidence file that an invoice names.
pub(crate) const EVIDENCE: &str = "select document from evidence_records where sha256 = decode($1, 'hex') and customer_id = (select current_tenant())";

/// An evidence file, inflated.
const EVIDENCE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A form of an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Pdf,
    Html,
    Csv,
}

impl Form {
    const ALL: [Self; 4] = [Self::Json, Self::Pdf, Self::Html, Self::Csv];

    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Pdf => "application/pdf",
            Self::Html => "text/html",
            Self::Csv => "text/csv",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Pdf => "pdf",
            Self::Html => "html",
            Self::Csv => "csv",
        }
    }

    /// The form that an `Accept` header prefers (RFC 9110 section 12.5.1); what it does not weigh is as good as the first.
    fn preferred(accept: &str) -> Option<Self> {
        let mut best: Option<(u32, Self)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1_000), per_mille)?;
            let form = Self::ALL.into_iter().find(|form| {
                let kind = form.media_type();
                name == "*/*" || name.eq_ignore_ascii_case(kind) || name.strip_suffix("/*") == kind.split('/').next()
            });
            if let Some(form) = form.filter(|_| weight > 0 && best.is_none_or(|(other, _)| other < weight)) {
                best = Some((weight, form));
            }
        }
        best.map(|(_, form)| form)
    }
}

/// A weight such as `0.8`, in thousandths.
fn per_mille(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{part:0<3}");
    let known = part.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = whole.parse::<u32>().ok().filter(|whole| known && *whole <= 1)? * 1_000 + digits.parse::<u32>().ok()?;
    Some(value.min(1_000))
}

/// The invoice as a file, in the form that `Accept` prefers.
#[utoipa::path(get, path = "/v1/invoices/{invoice}/download", operation_id = "download_invoice", tag = "invoices",
    security(("key" = ["read:invoices"])), params(("invoice" = String, Path, description = "Its number or id")),
    responses(
        (status = 200, description = "The file", content((InvoiceDocument = "application/json"), (Vec<u8> = "application/pdf"), (String = "text/html"), (String = "text/csv"))),
        (status = 406, description = "No such form of an invoice"),
    ))]
pub(crate) async fn download(
    tenant: Tenant<ReadInvoices>,
    State(state): State<ApiState>,
    Path(invoice): Path<String>,
    headers: HeaderMap,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let accept = headers.get(header::ACCEPT).map_or(Ok("*/*"), |accept| accept.to_str());
    let form = accept.ok().and_then(Form::preferred).ok_or_else(|| {
        let detail = "accept application/json, application/pdf, text/html or text/csv";
        Problem::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "There is no such form of an invoice", detail)
    })?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let loaded = load(&mut transaction, &state, &tenant, &invoice).await?;
    let bytes = match form {
        Form::Json => serde_json::to_vec(&loaded).map_err(|error| broken(&error))?,
        Form::Html => render_html(&loaded).map_err(|error| broken(&error))?.into_bytes(),
        Form::Csv => render_csv(&loaded).map_err(|error| broken(&error))?,
        Form::Pdf => stored_pdf(&mut transaction, &loaded).await?,
    };
    transaction.end().await?;
    let name = loaded.number.as_deref().unwrap_or("invoice");
    let disposition = format!("attachment; filename=\"{name}.{}\"", form.extension());
    let headers = [(header::CONTENT_TYPE, form.media_type().to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, [(header::VARY, "accept")], bytes).into_response())
}

/// What the invoice was counted from: the evidence file whose hash it carries.
#[utoipa::path(get, path = "/v1/invoices/{invoice}/evidence", operation_id = "get_invoice_evidence", tag = "invoices",
    security(("key" = ["read:invoices"])), params(("invoice" = String, Path, description = "Its number or id")),
    responses((status = 200, description = "The evidence file, byte for byte as it was hashed", body = Object)))]
pub(crate) async fn evidence(
    tenant: Tenant<ReadInvoices>,
    State(state): State<ApiState>,
    Path(invoice): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let loaded = load(&mut transaction, &state, &tenant, &invoice).await?;
    let none = || Problem::not_found("this invoice was issued without an evidence file");
    let named = loaded.evidence.ok_or_else(none)?;
    let compressed: Option<Vec<u8>> = sqlx::query_scalar(EVIDENCE)
        .bind(&named.sha256)
        .persistent(false)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(TenantError::from)?;
    transaction.end().await?;
    let mut file = Vec::new();
    let compressed = compressed.ok_or_else(none)?;
    GzDecoder::new(compressed.as_slice())
        .take(EVIDENCE_BYTES_MAX)
        .read_to_end(&mut file)
        .map_err(|error| broken(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], file).into_response())
}

async fn load(
    connection: &mut PgConnection,
    state: &ApiState,
    tenant: &Tenant<ReadInvoices>,
    invoice: &str,
) -> Result<InvoiceDocument, Problem> {
    let loaded = invoices::load(connection, &tenant.customer, invoice, now()).await;
    if matches!(&loaded, Err(problem) if problem.status == StatusCode::NOT_FOUND) {
        report_foreign(state, &tenant.customer, Foreign::Invoice(invoice)).await;
    }
    loaded
}

async fn stored_pdf(connection: &mut PgConnection, invoice: &InvoiceDocument) -> Result<Vec<u8>, Problem> {
    let found = sqlx::query_scalar(STORED_PDF).bind(&invoice.id).persistent(false).fetch_optional(connection).await;
    let stored: Option<Vec<u8>> = match found {
        // A schema without stored documents: none is rendered.
        Err(error) if error.as_database_error().is_some_and(|cause| cause.code().as_deref() == Some("42P01")) => None,
        found => found.map_err(TenantError::from)?,
    };
    stored.ok_or_else(|| {
        Problem::not_found("the PDF of this invoice is not rendered yet; ask again later, or accept text/html")
    })
}

fn broken(error: &dyn std::error::Error) -> Problem {
    tracing::error!(error = error.to_string(), "an invoice's file cannot be made");
    Problem::internal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_is_preferred() {
        for (accept, form) in [
            ("*/*", Some(Form::Json)),
            ("application/pdf", Some(Form::Pdf)),
            ("text/*", Some(Form::Html)),
            ("text/html;q=0.5, text/csv", Some(Form::Csv)),
            ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", Some(Form::Html)),
            ("application/pdf;q=0", None),
            ("image/png", None),
            ("", None),
            ("text/csv;q=2", None),
            ("text/csv;q=x", None),
        ] {
            assert_eq!(Form::preferred(accept), form, "{accept}");
        }
    }
}
