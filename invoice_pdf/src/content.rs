//! The PDF's furniture around what the document says.

use billing::{InvoiceDocument, Presentation};

/// The texts of a document, and what stands on every page.
pub(crate) struct Content {
    pub(crate) presentation: Presentation,
    /// Whether the number is one: a preview says in large letters that it is none.
    pub(crate) is_numbered: bool,
    pub(crate) footer: String,
}

impl Content {
    /// The texts of an invoice.
    pub(crate) fn of(invoice: &InvoiceDocument) -> Self {
        let presentation = Presentation::of(invoice);
        let footer = format!("{} · {} {}", presentation.seller.name, presentation.title, presentation.number);
        Self { is_numbered: invoice.number.is_some(), footer, presentation }
    }
}
