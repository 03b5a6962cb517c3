//! A notification in the outbox.

use std::fmt;

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sqlx::PgConnection;
use thiserror::Error;

use super::template::Template;
use crate::statements::{BILLING, Statement};

/// Names an occasion: the same one has the same tag, at most 200 letters, digits, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// The text is no tag.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no tag: expected 1 to {max} letters, digits, _ and -", max = Tag::LENGTH_MAX)]
pub struct NotATag(String);

impl Tag {
    /// What a tag of SES can have, with room for what comes later.
    pub const LENGTH_MAX: usize = 200;

    /// Reads a tag.
    pub fn parse(text: &str) -> Result<Self, NotATag> {
        let is_tag = (1..=Self::LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if is_tag { Ok(Self(text.to_owned())) } else { Err(NotATag(text.to_owned())) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something a customer is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What occasion it is; an occasion that is in the outbox already is not added again.
    pub tag: Tag,
    /// Who is told.
    pub customer: String,
    /// What about.
    pub template: Template,
    /// The invoice it tells of, where the template is about one.
    pub invoice_id: Option<String>,
    /// The credit note it tells of, where the template is about one.
    pub credit_note_id: Option<String>,
    /// What the template says beside them: an object of text.
    ///
    /// `api_key_ready`: `prefix` (the visible beginning of the key, at most 48 characters, never the key) and `name`.
    /// `usage_threshold`: `what`, `used`, `allowed`, `percent`, `month`.
    pub payload: serde_json::Value,
}

impl Notification {
    /// What is told of an invoice; the occasion is the invoice, and `number` of that kind.
    pub(crate) fn of_invoice(customer: &str, template: Template, invoice_id: &str, number: Option<u32>) -> Self {
        let occasion = template.as_str().replace('_', "-");
        let tag = match number {
            None => format!("{occasion}-{invoice_id}"),
            Some(number) => format!("{occasion}-{invoice_id}-{number}"),
        };
        Self {
            tag: Tag::parse(&tag).expect("a template's name and a UUID make a tag"),
            customer: customer.to_owned(),
            template,
            invoice_id: Some(invoice_id.to_owned()),
            credit_note_id: None,
            payload: serde_json::json!({}),
        }
    }

    /// What is told of a new API key: its visible beginning and its name, and never the key.
    pub fn of_api_key(customer: &str, key_id: &str, prefix: &str, name: &str) -> Result<Self, NotATag> {
        Ok(Self {
            tag: Tag::parse(&format!("api-key-ready-{key_id}"))?,
            customer: customer.to_owned(),
            template: Template::ApiKeyReady,
            invoice_id: None,
            credit_note_id: None,
            payload: serde_json::json!({ "prefix": prefix, "name": name }),
        })
    }

    /// What is told of a credit note.
    pub(crate) fn of_credit_note(customer: &str, credit_note_id: &str) -> Self {
        Self {
            tag: Tag::parse(&format!("credit-note-issued-{credit_note_id}")).expect("a UUID makes a tag"),
            customer: customer.to_owned(),
            template: Template::CreditNoteIssued,
            invoice_id: None,
            credit_note_id: Some(credit_note_id.to_owned()),
            payload: serde_json::json!({}),
        }
    }
}

/// Puts a notification into the outbox, in the caller's transaction; it is sent after the commit. Returns whether it is new:
/// an occasion that is there already is left as it is.
///
/// Roles: billing for everything, the application for `api_key_ready` of its proven tenant, the operator for
/// `api_key_ready`, the aggregator for `usage_threshold`.
pub async fn enqueue(
    connection: &mut PgConnection,
    notification: &Notification,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(ENQUEUE)
        .bind(notification.tag.as_str())
        .bind(&notification.customer)
        .bind(notification.template.as_str())
        .bind(&notification.invoice_id)
        .bind(&notification.credit_note_id)
        .bind(notification.payload.to_string())
        .bind(DateTime::<Utc>::from(now))
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

const ENQUEUE: &str = "
    insert into notifications (
        tag, customer_id, template, invoice_id, credit_note_id, payload, created_at, next_attempt_at)
    values (
        $1::text, $2::text, $3::text, $4::text::uuid, $5::text::uuid, $6::text::jsonb, $7::timestamptz, $7::timestamptz)
    on conflict do nothing";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "enqueue", sql: ENQUEUE, roles: BILLING },
    Statement {
        name: "enqueue from other rooms",
        sql: ENQUEUE,
        roles: &["securebase_app", "securebase_operator", "securebase_aggregator"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_only_what_a_mail_service_takes() {
        let id = "6a0f2b44-3c0e-4d1d-9a55-0a1b2c3d4e5f";
        let overdue = Notification::of_invoice("anna", Template::InvoiceOverdue, id, Some(2));
        assert_eq!(overdue.tag.as_str(), "invoice-overdue-6a0f2b44-3c0e-4d1d-9a55-0a1b2c3d4e5f-2");
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(201)] {
            assert!(Tag::parse(bad).is_err(), "{bad:?}");
        }
    }
}
