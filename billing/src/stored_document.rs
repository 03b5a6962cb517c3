//! Documents of invoices and credit notes: rendered once, apart from the issue, and the same bytes from then on.
//!
//! A renderer is a port, so that one that typesets can live in a crate of its own. The table refuses a second rendering of the
//! same kind, and every change.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use thiserror::Error;

use crate::document::InvoiceDocument;
use crate::read::{ReadError, load_credit_note, load_invoice};
use crate::render::render_text;
use crate::statements::{BILLING, READERS, Statement};

/// The media types that go with mail, the most wanted first.
const ATTACHED: [&str; 2] = ["application/pdf", TextRenderer::MEDIA_TYPE];
/// How many documents are looked for at once.
const BATCH: i64 = 200;

/// Makes the bytes of a document.
pub trait Renderer {
    /// The media type of what it makes: `application/pdf`.
    fn media_type(&self) -> &'static str;

    /// The bytes of an invoice or a credit note. The document alone decides them.
    fn render(&self, document: &InvoiceDocument) -> Result<Vec<u8>, RenderError>;
}

/// A document cannot be rendered. Stop for this one: trying again gives the same.
#[derive(Debug, Error)]
#[error("{media_type}: {reason}")]
pub struct RenderError {
    /// Of what kind.
    pub media_type: &'static str,
    /// Why.
    pub reason: String,
}

/// The table of the terminal as a file: for reading without any program, and where nothing typesets.
#[derive(Clone, Copy, Debug)]
pub struct TextRenderer;

impl TextRenderer {
    const MEDIA_TYPE: &'static str = "text/plain";
}

impl Renderer for TextRenderer {
    fn media_type(&self) -> &'static str {
        Self::MEDIA_TYPE
    }

    fn render(&self, document: &InvoiceDocument) -> Result<Vec<u8>, RenderError> {
        Ok(render_text(document).into_bytes())
    }
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDocument {
    /// What a file of it is called: `INV-2026-11-0001.pdf`.
    pub file_name: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their SHA-256.
    pub sha256: Vec<u8>,
}

/// What a document is of, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentOf<'a> {
    Invoice(&'a str),
    CreditNote(&'a str),
}

/// What a round of rendering did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenderReport {
    /// Documents rendered and stored.
    pub rendered: u64,
    /// Documents that cannot be rendered; each is in the log, with an alarm.
    pub failed: u64,
}

/// Renders every issued invoice and credit note that has no document of the renderer's kind yet. Several at once do no harm:
/// the first that stores its bytes wins.
pub async fn render_missing(
    pool: &PgPool,
    renderer: &(dyn Renderer + Sync),
    now: Timestamp,
) -> Result<RenderReport, ReadError> {
    let mut report = RenderReport::default();
    let mut connection = pool.acquire().await?;
    for (missing, store) in [(MISSING_INVOICES, STORE_INVOICE), (MISSING_NOTES, STORE_NOTE)] {
        // Ids rise from batch to batch, so that one that fails is not tried again in this round.
        let mut after = "00000000-0000-0000-0000-000000000000".to_owned();
        loop {
            let ids: Vec<String> = sqlx::query_scalar(missing)
                .bind(renderer.media_type())
                .bind(&after)
                .bind(BATCH)
                .fetch_all(&mut *connection)
                .await?;
            let Some(last) = ids.last() else { break };
            after.clone_from(last);
            for id in ids {
                let document = match store {
                    STORE_INVOICE => load_invoice(&mut connection, &id).await?,
                    _ => load_credit_note(&mut connection, &id).await?,
                };
                let Some(document) = document else { continue };
                match renderer.render(&as_issued(document)) {
                    Ok(bytes) => {
                        sqlx::query(store)
                            .bind(&id)
                            .bind(renderer.media_type())
                            .bind(Sha256::digest(&bytes).to_vec())
                            .bind(bytes)
                            .bind(DateTime::<Utc>::from(now))
                            .execute(&mut *connection)
                            .await?;
                        report.rendered += 1;
                    }
                    Err(error) => {
                        report.failed += 1;
                        tracing::error!(alarm = "rendering", id, %error, "a document cannot be rendered");
                    }
                }
            }
        }
    }
    Ok(report)
}

/// A document says what it said when it was issued, whenever it is rendered.
fn as_issued(document: InvoiceDocument) -> InvoiceDocument {
    InvoiceDocument { status: "issued".to_owned(), paid_at: None, ..document }
}

/// The stored document of an invoice's or credit note's number, in this media type; `None` where there is none that the
/// connection's role and tenant may see.
pub async fn load_document(
    connection: &mut PgConnection,
    number: &str,
    media_type: &str,
) -> Result<Option<StoredDocument>, sqlx::Error> {
    if number.contains('\0') || media_type.contains('\0') {
        return Ok(None);
    }
    let found: Option<(String, String, Vec<u8>, Vec<u8>)> =
        sqlx::query_as(LOAD).bind(number).bind(media_type).fetch_optional(connection).await?;
    Ok(found.map(stored))
}

/// What goes with mail: the best that is rendered, `None` while nothing is.
pub(crate) async fn attachment(
    connection: &mut PgConnection,
    of: DocumentOf<'_>,
) -> Result<Option<StoredDocument>, sqlx::Error> {
    let (sql, id) = match of {
        DocumentOf::Invoice(id) => (INVOICE_DOCUMENT, id),
        DocumentOf::CreditNote(id) => (NOTE_DOCUMENT, id),
    };
    let found: Option<(String, String, Vec<u8>, Vec<u8>)> =
        sqlx::query_as(sql).bind(id).bind(ATTACHED.as_slice()).fetch_optional(connection).await?;
    Ok(found.map(stored))
}

fn stored((number, media_type, bytes, sha256): (String, String, Vec<u8>, Vec<u8>)) -> StoredDocument {
    let ending = match media_type.as_str() {
        "application/pdf" => "pdf",
        "text/html" => "html",
        "text/csv" => "csv",
        "application/json" => "json",
        _ => "txt",
    };
    StoredDocument { file_name: format!("{number}.{ending}"), media_type, bytes, sha256 }
}

const MISSING_INVOICES: &str = "
    select i.invoice_id::text from invoices i
    where i.status in ('issued', 'paid') and i.invoice_id > $2::text::uuid
        and not exists (
            select from invoice_documents d where d.invoice_id = i.invoice_id and d.media_type = $1::text)
    order by i.invoice_id
    limit $3::bigint";

const MISSING_NOTES: &str = "
    select n.credit_note_id::text from credit_notes n
    where n.credit_note_id > $2::text::uuid
        and not exists (
            select from credit_note_documents d
            where d.credit_note_id = n.credit_note_id and d.media_type = $1::text)
    order by n.credit_note_id
    limit $3::bigint";

const STORE_INVOICE: &str = "
    insert into invoice_documents (invoice_id, customer_id, media_type, sha256, bytes, rendered_at)
    select invoice_id, customer_id, $2::text, $3::bytea, $4::bytea, $5::timestamptz
    from invoices where invoice_id = $1::text::uuid
    on conflict (invoice_id, media_type) do nothing";

const STORE_NOTE: &str = "
    insert into credit_note_documents (credit_note_id, customer_id, media_type, sha256, bytes, rendered_at)
    select credit_note_id, customer_id, $2::text, $3::bytea, $4::bytea, $5::timestamptz
    from credit_notes where credit_note_id = $1::text::uuid
    on conflict (credit_note_id, media_type) do nothing";

const LOAD: &str = "
    select i.invoice_number, d.media_type, d.bytes, d.sha256
    from invoices i join invoice_documents d on d.invoice_id = i.invoice_id
    where i.invoice_number = $1::text and d.media_type = $2::text
    union all
    select n.credit_note_number, d.media_type, d.bytes, d.sha256
    from credit_notes n join credit_note_documents d on d.credit_note_id = n.credit_note_id
    where n.credit_note_number = $1::text and d.media_type = $2::text";

const INVOICE_DOCUMENT: &str = "
    select i.invoice_number, d.media_type, d.bytes, d.sha256
    from invoices i join invoice_documents d on d.invoice_id = i.invoice_id
    where i.invoice_id = $1::text::uuid and d.media_type = any($2::text[])
    order by array_position($2::text[], d.media_type)
    limit 1";

const NOTE_DOCUMENT: &str = "
    select n.credit_note_number, d.media_type, d.bytes, d.sha256
    from credit_notes n join credit_note_documents d on d.credit_note_id = n.credit_note_id
    where n.credit_note_id = $1::text::uuid and d.media_type = any($2::text[])
    order by array_position($2::text[], d.media_type)
    limit 1";

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement { name: "missing documents of invoices", sql: MISSING_INVOICES, roles: BILLING },
    Statement { name: "missing documents of credit notes", sql: MISSING_NOTES, roles: BILLING },
    Statement { name: "store invoice document", sql: STORE_INVOICE, roles: BILLING },
    Statement { name: "store credit note document", sql: STORE_NOTE, roles: BILLING },
    Statement { name: "load document", sql: LOAD, roles: READERS },
    Statement { name: "document of an invoice", sql: INVOICE_DOCUMENT, roles: BILLING },
    Statement { name: "document of a credit note", sql: NOTE_DOCUMENT, roles: BILLING },
];
