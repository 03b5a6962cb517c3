//! Documents of invoices and credit notes: rendered once, apart from the issue, and the same bytes from then on.
//!
//! A renderer is a port, so that one that typesets can live in a crate of its own. The table refuses a second rendering of the
//! same kind, and every change.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection, PgPool};
use thiserror::Error;
use tokio::task::JoinSet;

use crate::document::InvoiceDocument;
use crate::read::{ReadError, load_credit_note, load_invoice};
use crate::render::render_text;
use crate::statements::{BILLING, READERS, Statement};

/// The media types that go with mail, the most wanted first.
const ATTACHED: [&str; 2] = ["application/pdf", TextRenderer::MEDIA_TYPE];
/// How many documents a worker has at once: what a kill lets it do again.
const BATCH: i64 = 8;

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
    /// Documents that cannot be rendered; each is in the log, with an alarm, and tried again in the next round.
    pub failed: u64,
}

/// What cannot be rendered or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Retry or stop, as it says.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Stop: the document cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// Retry: the database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// A document that is to be rendered, its row locked by the transaction that took it.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Due {
    id: String,
    is_credit_note: bool,
}

/// Renders what was issued and has no document yet, by so many workers on a connection each; several processes share the work.
///
/// A row of `documents_due` stays locked while its document is rendered, and goes in the transaction that stores the bytes: a
/// worker that dies lets go of what it had, and each document is stored once. The run never waits for any of this.
pub async fn render_due<R: Renderer + Send + Sync + 'static>(
    pool: &PgPool,
    renderer: &Arc<R>,
    workers: usize,
    now: Timestamp,
) -> Result<RenderReport, DocumentError> {
    let mut rendering = JoinSet::new();
    for _ in 0..workers.max(1) {
        let (pool, renderer) = (pool.clone(), Arc::clone(renderer));
        rendering.spawn(async move { work(&pool, &renderer, now).await });
    }
    let mut report = RenderReport::default();
    while let Some(done) = rendering.join_next().await {
        // A worker that panicked has rolled back; what it had is due as before.
        let done = done.map_err(|_| sqlx::Error::WorkerCrashed)??;
        report.rendered += done.rendered;
        report.failed += done.failed;
    }
    Ok(report)
}

async fn work<R: Renderer + Send + Sync + 'static>(
    pool: &PgPool,
    renderer: &Arc<R>,
    now: Timestamp,
) -> Result<RenderReport, DocumentError> {
    let mut report = RenderReport::default();
    let mut connection = pool.acquire().await?;
    // Ids rise from batch to batch, so that what fails is tried once a round.
    let mut after = "00000000-0000-0000-0000-000000000000".to_owned();
    loop {
        let mut transaction = connection.begin().await?;
        let taken: Vec<Due> = sqlx::query_as(TAKE).bind(&after).bind(BATCH).fetch_all(&mut *transaction).await?;
        let Some(last) = taken.last() else { break };
        after.clone_from(&last.id);
        for due in taken {
            match store(&mut transaction, renderer, &due, now).await {
                Ok(()) => report.rendered += 1,
                Err(DocumentError::Render(error)) => {
                    report.failed += 1;
                    tracing::error!(alarm = "rendering", id = due.id, %error, "a document cannot be rendered");
                    let why = error.to_string().replace('\0', " ");
                    sqlx::query(FAILED).bind(&due.id).bind(why).execute(&mut *transaction).await?;
                }
                Err(error) => return Err(error),
            }
        }
        transaction.commit().await?;
    }
    Ok(report)
}

/// Renders one document and stores it, in the transaction that has its row.
async fn store<R: Renderer + Send + Sync + 'static>(
    connection: &mut PgConnection,
    renderer: &Arc<R>,
    due: &Due,
    now: Timestamp,
) -> Result<(), DocumentError> {
    let document = match due.is_credit_note {
        true => load_credit_note(connection, &due.id).await?,
        false => load_invoice(connection, &due.id).await?,
    };
    let document = as_issued(document.ok_or(sqlx::Error::RowNotFound)?);
    let media_type = renderer.media_type();
    let rendering = Arc::clone(renderer);
    // Typesetting is work for a processor, not for the thread that waits for sockets.
    let rendered = tokio::task::spawn_blocking(move || rendering.render(&document)).await;
    let bytes =
        rendered.unwrap_or_else(|error| Err(RenderError { media_type, reason: format!("it stopped: {error}") }))?;
    sqlx::query(if due.is_credit_note { STORE_NOTE } else { STORE_INVOICE })
        .bind(&due.id)
        .bind(media_type)
        .bind(Sha256::digest(&bytes).to_vec())
        .bind(bytes)
        .bind(DateTime::<Utc>::from(now))
        .execute(&mut *connection)
        .await?;
    sqlx::query(DONE).bind(&due.id).execute(connection).await?;
    Ok(())
}

/// The stored document of an issued invoice's or credit note's number, rendered now where nobody has rendered it yet; `None`
/// where nothing of that number was issued. As `securebase_billing`.
pub async fn stored_or_rendered<R: Renderer + Send + Sync + 'static>(
    connection: &mut PgConnection,
    renderer: &Arc<R>,
    number: &str,
    now: Timestamp,
) -> Result<Option<StoredDocument>, DocumentError> {
    if number.contains('\0') {
        return Ok(None);
    }
    let mut transaction = connection.begin().await?;
    // Waits for a worker that has it right now; then it is stored and no longer due.
    let due: Option<Due> = sqlx::query_as(TAKE_ONE).bind(number).fetch_optional(&mut *transaction).await?;
    if let Some(due) = due {
        store(&mut transaction, renderer, &due, now).await?;
    }
    let stored = load_document(&mut transaction, number, renderer.media_type()).await?;
    transaction.commit().await?;
    Ok(stored)
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

const TAKE: &str = "
    select document_id::text as id, credit_note_id is not null as is_credit_note
    from documents_due
    where document_id > $1::text::uuid
    order by document_id
    limit $2::bigint
    for update skip locked";

const TAKE_ONE: &str = "
    select d.document_id::text as id, d.credit_note_id is not null as is_credit_note
    from documents_due d
    where d.document_id in (
        select invoice_id from invoices where invoice_number = $1::text
        union all
        select credit_note_id from credit_notes where credit_note_number = $1::text)
    for update";

const FAILED: &str = "
    update documents_due set attempts = attempts + 1, last_error = $2::text where document_id = $1::text::uuid";

const DONE: &str = "delete from documents_due where document_id = $1::text::uuid";

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
    Statement { name: "take documents", sql: TAKE, roles: BILLING },
    Statement { name: "take a document", sql: TAKE_ONE, roles: BILLING },
    Statement { name: "document that fails", sql: FAILED, roles: BILLING },
    Statement { name: "document that is done", sql: DONE, roles: BILLING },
    Statement { name: "store invoice document", sql: STORE_INVOICE, roles: BILLING },
    Statement { name: "store credit note document", sql: STORE_NOTE, roles: BILLING },
    Statement { name: "load document", sql: LOAD, roles: READERS },
    Statement { name: "document of an invoice", sql: INVOICE_DOCUMENT, roles: BILLING },
    Statement { name: "document of a credit note", sql: NOTE_DOCUMENT, roles: BILLING },
];
