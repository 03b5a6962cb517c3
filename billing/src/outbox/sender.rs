//! Takes what is due from the outbox, one row at a time, and hands it to the mailer.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use ingest::backoff::Backoff;
use sqlx::{Connection as _, PgConnection, PgPool};
use thiserror::Error;

use super::compose::{Attachment, ComposeError, MailSettings, compose};
use super::facts;
use super::mailer::{Mailer, SendError};
use super::notification::Tag;
use super::recipients::reachable;
use super::template::Template;
use crate::read::ReadError;
use crate::statements::{BILLING, Statement};
use crate::stored_document::{DocumentOf, attachment};

/// Tries of one message: after the last it is failed, with an alarm, until an operator has it tried again.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(60), cap: Duration::from_secs(6 * 3600), tries_max: 20 };
/// How long a message without recipient waits before it is looked at again.
const NO_RECIPIENT_SECONDS: i64 = 3600;
/// How long a message waits for its document to be rendered before it is looked at again.
const NO_DOCUMENT_SECONDS: i64 = 60;

/// What a round of sending did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Taken by the mail service.
    pub sent: u64,
    /// Not taken for now; tried again later.
    pub retried: u64,
    /// Given up; an operator has to look.
    pub failed: u64,
    /// Waiting for a recipient or a document.
    pub waiting: u64,
}

/// A round of sending did not go on. What was sent before stays sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// Retry: the database did not answer, or refused.
    #[error("outbox: {0}")]
    Database(#[from] sqlx::Error),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A row of the outbox as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct OutboxEntry {
    /// Its tag.
    pub tag: String,
    /// Who is told.
    #[sqlx(rename = "customer_id")]
    pub customer: String,
    /// What about.
    pub template: String,
    /// `pending`, `sent` or `failed`.
    pub state: String,
    /// Tries so far.
    pub attempts: i32,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it is tried next.
    pub next_attempt_at: DateTime<Utc>,
    /// When the mail service took it.
    pub sent_at: Option<DateTime<Utc>>,
    /// Why it was not sent.
    pub last_error: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Due {
    notification_id: i64,
    tag: String,
    customer_id: String,
    template: String,
    invoice_id: Option<String>,
    credit_note_id: Option<String>,
    payload: String,
    attempts: i32,
    created_at: DateTime<Utc>,
}

/// What became of one row.
enum Fate {
    Sent(String),
    Waits { seconds: i64, reason: String },
    Retried { wait: Duration, reason: String },
    Failed(String),
}

/// Sends what is due, at most `limit` messages; several senders at once share the work. `random` spreads retries.
///
/// A row stays locked while its message is handed over. When the process dies in between, the row is as it was and the
/// message may leave again, with the same tag.
pub async fn send_due<M: Mailer>(
    pool: &PgPool,
    mailer: &M,
    settings: &MailSettings,
    now: Timestamp,
    random: fn() -> u64,
    limit: u64,
) -> Result<SendReport, OutboxError> {
    let mut report = SendReport::default();
    let mut connection = pool.acquire().await?;
    for _ in 0..limit {
        let mut transaction = connection.begin().await?;
        let due: Option<Due> =
            sqlx::query_as(TAKE).bind(DateTime::<Utc>::from(now)).fetch_optional(&mut *transaction).await?;
        let Some(due) = due else { break };
        let fate = deliver(&mut transaction, mailer, settings, &due, random).await?;
        match &fate {
            Fate::Sent(_) => report.sent += 1,
            Fate::Waits { .. } => report.waiting += 1,
            Fate::Retried { .. } => report.retried += 1,
            Fate::Failed(reason) => {
                report.failed += 1;
                tracing::error!(alarm = "mail", tag = due.tag, customer = due.customer_id, reason, "mail given up");
            }
        }
        settle(&mut transaction, due.notification_id, fate, now).await?;
        transaction.commit().await?;
    }
    Ok(report)
}

async fn deliver<M: Mailer>(
    connection: &mut PgConnection,
    mailer: &M,
    settings: &MailSettings,
    due: &Due,
    random: fn() -> u64,
) -> Result<Fate, OutboxError> {
    let (Some(template), Ok(tag)) = (Template::parse(&due.template), Tag::parse(&due.tag)) else {
        return Ok(Fate::Failed(format!("no template {} or no tag {}", due.template, due.tag)));
    };
    let to = reachable(connection, &due.customer_id).await?;
    if to.is_empty() {
        let reason = format!("customer {} has no address that mail can be sent to", due.customer_id);
        return Ok(Fate::Waits { seconds: NO_RECIPIENT_SECONDS, reason });
    }
    let of = match (&due.invoice_id, &due.credit_note_id) {
        (Some(invoice_id), _) => Some(DocumentOf::Invoice(invoice_id)),
        (None, Some(credit_note_id)) => Some(DocumentOf::CreditNote(credit_note_id)),
        (None, None) => None,
    };
    let mut attachments = Vec::new();
    if let Some(of) = of {
        match attachment(connection, of).await? {
            Some(document) => {
                attachments.push(Attachment {
                    name: document.file_name,
                    media_type: document.media_type,
                    bytes: document.bytes,
                });
            }
            None => {
                let reason = "its document is not rendered yet".to_owned();
                return Ok(Fate::Waits { seconds: NO_DOCUMENT_SECONDS, reason });
            }
        }
    }
    let mail = match facts::gather(connection, template, &due.customer_id, of, &due.payload).await? {
        Ok(facts) => compose(settings, &tag, template, &facts, &to, attachments, due.created_at.into()),
        Err(error) => Err(error),
    };
    let mail = match mail {
        Ok(mail) => mail,
        Err(error @ ComposeError::Address(_)) => {
            return Ok(Fate::Waits { seconds: NO_RECIPIENT_SECONDS, reason: error.to_string() });
        }
        Err(error) => return Ok(Fate::Failed(error.to_string())),
    };
    let tries = u32::try_from(due.attempts).unwrap_or(u32::MAX).saturating_add(1);
    Ok(match mailer.send(&mail).await {
        Ok(id) => Fate::Sent(id.0),
        Err(error @ SendError::Refused(_)) => Fate::Failed(error.to_string()),
        Err(error @ SendError::Passing(_)) => match BACKOFF.wait(tries, random()) {
            // Never at once: a service that is down is given a rest.
            Some(wait) => Fate::Retried { wait: wait.max(BACKOFF.base), reason: error.to_string() },
            None => Fate::Failed(error.to_string()),
        },
    })
}

async fn settle(
    connection: &mut PgConnection,
    notification_id: i64,
    fate: Fate,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let later = |seconds: i64| DateTime::<Utc>::from(now.saturating_add_secs(seconds));
    let (state, tried, next, message_id, error) = match fate {
        Fate::Sent(id) => ("sent", 1, later(0), Some(id), None),
        Fate::Waits { seconds, reason } => ("pending", 0, later(seconds), None, Some(reason)),
        Fate::Retried { wait, reason } => {
            ("pending", 1, later(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX)), None, Some(reason))
        }
        Fate::Failed(reason) => ("failed", 1, later(0), None, Some(reason)),
    };
    sqlx::query(SETTLE)
        .bind(notification_id)
        .bind(state)
        .bind(tried)
        .bind(next)
        .bind(message_id)
        .bind(error.map(|error| error.replace('\0', " ").chars().take(2_000).collect::<String>()))
        .bind(DateTime::<Utc>::from(now))
        .execute(connection)
        .await
        .map(drop)
}

/// The outbox, newest first; with `state`, only rows in it.
pub async fn list_outbox(
    connection: &mut PgConnection,
    state: Option<&str>,
    limit: i64,
) -> Result<Vec<OutboxEntry>, sqlx::Error> {
    sqlx::query_as(LIST).bind(state).bind(limit).fetch_all(connection).await
}

/// Has given-up messages tried again; returns how many.
pub async fn retry_failed(connection: &mut PgConnection, now: Timestamp) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(RETRY).bind(DateTime::<Utc>::from(now)).execute(connection).await?.rows_affected())
}

const TAKE: &str = "
    select notification_id, tag, customer_id, template, invoice_id::text, credit_note_id::text, payload::text, attempts,
        created_at
    from notifications
    where state = 'pending' and next_attempt_at <= $1::timestamptz
    order by next_attempt_at, notification_id
    limit 1
    for update skip locked";

const SETTLE: &str = "
    update notifications
    set state = $2::text, attempts = attempts + $3::int, next_attempt_at = $4::timestamptz,
        message_id = coalesce($5::text, message_id), last_error = $6::text,
        sent_at = case when $2::text = 'sent' then $7::timestamptz end
    where notification_id = $1::bigint";

const LIST: &str = "
    select tag, customer_id, template, state, attempts, created_at, next_attempt_at, sent_at, last_error
    from notifications
    where $1::text is null or state = $1::text
    order by created_at desc, notification_id desc
    limit $2::bigint";

const RETRY: &str = "
    update notifications set state = 'pending', attempts = 0, next_attempt_at = $1::timestamptz
    where state = 'failed'";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "take from the outbox", sql: TAKE, roles: BILLING },
    Statement { name: "settle in the outbox", sql: SETTLE, roles: BILLING },
    Statement { name: "list the outbox", sql: LIST, roles: &["securebase_billing", "securebase_operator"] },
    Statement { name: "retry failed mail", sql: RETRY, roles: BILLING },
];
