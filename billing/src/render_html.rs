//! An invoice or credit note as one HTML page that needs nothing from elsewhere: no script, no outside style, no font.

use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use thiserror::Error;

use crate::document::InvoiceDocument;
use crate::presentation::Presentation;

/// The page; names end in `.html`, so that every value is escaped.
const TEMPLATE: &str = include_str!("../templates/invoice.html");

/// The template and the document do not fit: a fault of this program, not of the document.
#[derive(Debug, Error)]
#[error("the invoice's page cannot be written")]
pub struct HtmlError(#[from] minijinja::Error);

/// Writes a document as an HTML page.
pub fn render_html(invoice: &InvoiceDocument) -> Result<String, HtmlError> {
    let mut environment = Environment::new();
    environment.add_template("invoice.html", TEMPLATE)?;
    let shown = Presentation::of(invoice);
    Ok(environment.get_template("invoice.html")?.render(context! { invoice => Value::from(Serde(&shown)) })?)
}
