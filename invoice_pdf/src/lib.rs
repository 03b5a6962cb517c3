//! Invoices as PDF.
//!
//! **Owns** the layout, the typefaces and the PDF format of a printed invoice or credit note.
//!
//! **Does not own** what an invoice says (`billing::InvoiceDocument`) or where its bytes are kept. A crate of its own, so
//! that only what prints invoices links the typefaces and the PDF writer.
//!
//! **Promises** the same bytes for the same document; PDF/A-3u (ISO 19005-3) with embedded fonts and the machine-readable
//! document attached as `invoice.json`; every text of the document printed, none cut.

mod content;
mod layout;
mod sheet;
mod typeface;

use billing::{InvoiceDocument, Renderer};
use krilla::configure::{Archival, ConfigurationBuilder};
use krilla::embed::{AssociationKind, EmbeddedFile, MimeType};
use krilla::metadata::{DateTime, Metadata};
use krilla::{Document, SerializeSettings};
use thiserror::Error;

pub use typeface::{NotATypeface, Typefaces};

/// The media type of a PDF (RFC 8118).
const MEDIA_TYPE: &str = "application/pdf";

/// Why a document could not be printed. Printing it again will not help: stop, and look at the document.
#[derive(Debug, Error)]
pub enum RenderError {
    /// The document is not a value of JSON.
    #[error("the document cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The PDF writer refuses the document: `0` names why.
    #[error("the PDF cannot be written: {0}")]
    Pdf(String),
}

/// Prints an invoice; A4, UTF-8 names, as many pages as it takes.
pub fn render(invoice: &InvoiceDocument, faces: &Typefaces) -> Result<Vec<u8>, RenderError> {
    let content = content::Content::of(invoice);
    let configuration = ConfigurationBuilder::new()
        .with_archival_validator(Archival::A3_U)
        .finish()
        .map_err(|error| RenderError::Pdf(format!("{error:?}")))?;
    let mut document = Document::new_with(SerializeSettings { configuration, ..SerializeSettings::default() });
    let date = date(invoice.issued_at.as_deref().unwrap_or(&invoice.period.end));
    document.set_metadata(
        Metadata::new()
            .title(format!("{} {}", content.presentation.title, content.presentation.number))
            .authors(vec![content.presentation.seller.name.clone()])
            .language("en".to_owned())
            .document_id(content.presentation.number.clone())
            .creation_date(date),
    );
    for sheet in layout::lay_out(faces, &content) {
        sheet.draw(&mut document);
    }
    let attachment = EmbeddedFile {
        path: "invoice.json".to_owned(),
        mime_type: MimeType::new("application/json"),
        description: Some("The same document for programs".to_owned()),
        association_kind: AssociationKind::Alternative,
        data: serde_json::to_vec_pretty(invoice)?.into(),
        modification_date: Some(date),
        compress: None,
        location: None,
    };
    document.embed_file(attachment).ok_or_else(|| RenderError::Pdf("the attachment's name is taken".to_owned()))?;
    document.finish().map_err(|error| RenderError::Pdf(format!("{error:?}")))
}

/// Prints what billing stores: [`render`] with the same faces each time.
pub struct PdfRenderer {
    faces: Typefaces,
}

impl PdfRenderer {
    /// Prints with these faces.
    pub fn new(faces: Typefaces) -> Self {
        Self { faces }
    }
}

impl Renderer for PdfRenderer {
    fn media_type(&self) -> &'static str {
        MEDIA_TYPE
    }

    fn render(&self, document: &InvoiceDocument) -> Result<Vec<u8>, billing::RenderError> {
        render(document, &self.faces)
            .map_err(|error| billing::RenderError { media_type: MEDIA_TYPE, reason: error.to_string() })
    }
}

/// The day of an RFC 3339 instant or date, in UTC: the file's date is the document's, never the clock's. A year alone where
/// there is none, which no document of ours has.
fn date(text: &str) -> DateTime {
    let part = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse::<u16>().ok());
    let small = |range| part(range).and_then(|number| u8::try_from(number).ok()).unwrap_or(1);
    DateTime::new(part(0..4).unwrap_or(1970))
        .month(small(5..7))
        .day(small(8..10))
        .hour(0)
        .minute(0)
        .second(0)
        .utc_offset_hour(0)
        .utc_offset_minute(0)
}
