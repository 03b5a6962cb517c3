//! The templates of mail: text and HTML of each, and the subject.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};

use super::compose::ComposeError;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Template {
    /// An invoice was issued.
    InvoiceIssued,
    /// A credit note was issued.
    CreditNoteIssued,
    /// An invoice is due soon.
    InvoiceReminder,
    /// An invoice is overdue.
    InvoiceOverdue,
    /// An API key can be used; its prefix is named, never the key.
    ApiKeyReady,
    /// Usage has reached a share of what the tier allows.
    UsageThreshold,
}

impl Template {
    /// Every template.
    pub const ALL: [Self; 6] = [
        Self::InvoiceIssued,
        Self::CreditNoteIssued,
        Self::InvoiceReminder,
        Self::InvoiceOverdue,
        Self::ApiKeyReady,
        Self::UsageThreshold,
    ];

    /// The name used in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvoiceIssued => "invoice_issued",
            Self::CreditNoteIssued => "credit_note_issued",
            Self::InvoiceReminder => "invoice_reminder",
            Self::InvoiceOverdue => "invoice_overdue",
            Self::ApiKeyReady => "api_key_ready",
            Self::UsageThreshold => "usage_threshold",
        }
    }

    /// Reads the name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|template| template.as_str() == name)
    }

    /// Text (its first line is the subject, its second empty) and HTML.
    fn sources(self) -> (&'static str, &'static str) {
        macro_rules! of {
            ($name:literal) => {
                (
                    include_str!(concat!("../../templates/mail/", $name, ".txt")),
                    include_str!(concat!("../../templates/mail/", $name, ".html")),
                )
            };
        }
        match self {
            Self::InvoiceIssued => of!("invoice_issued"),
            Self::CreditNoteIssued => of!("credit_note_issued"),
            Self::InvoiceReminder => of!("invoice_reminder"),
            Self::InvoiceOverdue => of!("invoice_overdue"),
            Self::ApiKeyReady => of!("api_key_ready"),
            Self::UsageThreshold => of!("usage_threshold"),
        }
    }
}

/// What templates say, by name.
pub(super) type Facts = BTreeMap<&'static str, Value>;

/// A filled template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// Fills a template. A fact it asks for and does not get is an error, so that no message has a hole.
pub(super) fn fill(template: Template, facts: &Facts) -> Result<Filled, ComposeError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let whole_lines = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(whole_lines.expect("the delimiters are the usual ones"));
    let facts = Value::from_pairs(facts.iter().map(|(name, value)| (*name, value.clone())));
    let (text, html) = template.sources();
    // Escaped by the name's ending.
    let written = |name: &str, source: &str| {
        environment.render_named_str(name, source, &facts).map_err(|error| ComposeError::Template {
            template: template.as_str(),
            reason: format!("{error:#}").replace('\n', " "),
        })
    };
    let text = written("mail.txt", text)?;
    let html = written("mail.html", html)?;
    let (subject, body) = text.split_once("\n\n").ok_or(ComposeError::Template {
        template: template.as_str(),
        reason: "its first line is no subject followed by an empty line".to_owned(),
    })?;
    let subject = subject.strip_prefix("Subject: ").unwrap_or(subject).trim().to_owned();
    Ok(Filled { subject, text: ended(body), html: ended(&html) })
}

/// With exactly one line end at the end.
fn ended(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_fact_is_an_error_and_never_a_hole() {
        for template in Template::ALL {
            assert_eq!(Template::parse(template.as_str()), Some(template));
            let error = fill(template, &Facts::new()).unwrap_err().to_string();
            assert!(error.contains(template.as_str()) && error.contains("undefined"), "{error}");
        }
    }
}
