//! What became of messages: the events that Amazon SES publishes by SNS.
//!
//! Source: Amazon SES developer guide, "Contents of event data that Amazon SES publishes to Amazon SNS". The events arrive
//! as the text of an SNS notification, or bare when the subscription delivers raw messages.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use thiserror::Error;

use super::ses::TAG_NAME;
use crate::audit::{Recorded, record};
use crate::statements::{BILLING, Statement};

/// Who records what a mail service said.
const ACTOR: &str = "mail-feedback";

/// What one event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// It was recorded; `suppressed` addresses get no more mail.
    Recorded {
        /// How many addresses it told of.
        addresses: usize,
        /// Addresses of ours that get no more mail.
        suppressed: u64,
    },
    /// It was recorded before: SNS delivers at least once.
    Known,
    /// It is of a kind that is not kept (sends, opens, clicks).
    NotKept {
        /// The kind.
        kind: String,
    },
}

/// An event was not recorded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FeedbackError {
    /// Stop: it is no event of SES; it goes to the dead letters of its queue.
    #[error("not an event of Amazon SES: {0}")]
    NotAnEvent(String),
    /// Retry: the database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// What SNS wraps around a message.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Message")]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    // Event publishing says `eventType`, feedback notifications of an identity say `notificationType`.
    #[serde(alias = "notificationType")]
    event_type: String,
    mail: Mail,
    bounce: Option<Bounce>,
    complaint: Option<Complaint>,
    delivery: Option<Delivery>,
    reject: Option<Value>,
    delivery_delay: Option<Delay>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mail {
    timestamp: String,
    message_id: String,
    #[serde(default)]
    destination: Vec<String>,
    #[serde(default)]
    tags: std::collections::BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bounce {
    bounce_type: String,
    bounced_recipients: Vec<Address>,
    timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Complaint {
    complained_recipients: Vec<Address>,
    timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivery {
    recipients: Vec<String>,
    timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delay {
    delayed_recipients: Vec<Address>,
    timestamp: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    email_address: String,
}

/// What an event says, in our words.
struct Told {
    kind: &'static str,
    is_permanent: bool,
    addresses: Vec<String>,
    occurred_at: String,
}

/// Records one event, and suppresses addresses that bounced for good or whose owner complained. The same event again changes
/// nothing.
pub async fn record_feedback(
    connection: &mut PgConnection,
    text: &str,
    now: Timestamp,
) -> Result<Feedback, FeedbackError> {
    let invalid = |error: &dyn std::fmt::Display| FeedbackError::NotAnEvent(error.to_string());
    let inner = match serde_json::from_str::<Envelope>(text) {
        Ok(envelope) if envelope.kind == "Notification" => envelope.message,
        Ok(envelope) => return Ok(Feedback::NotKept { kind: format!("SNS {}", envelope.kind) }),
        Err(_) => text.to_owned(),
    };
    let details: Value = serde_json::from_str(&inner).map_err(|error| invalid(&error))?;
    let event: Event = serde_json::from_str(&inner).map_err(|error| invalid(&error))?;
    let Some(told) = told(&event) else { return Ok(Feedback::NotKept { kind: event.event_type }) };
    let occurred_at = Timestamp::parse_rfc3339(&told.occurred_at).map_err(|error| invalid(&error))?;

    let mut transaction = connection.begin().await?;
    let tag = event.mail.tags.get(TAG_NAME).and_then(|values| values.first());
    let found: Option<(i64, String)> =
        sqlx::query_as(FIND).bind(tag).bind(&event.mail.message_id).fetch_optional(&mut *transaction).await?;
    let (notification, customer) = found.unzip();
    let mut is_new = false;
    for address in &told.addresses {
        let done = sqlx::query(RECORD)
            .bind(notification)
            .bind(&customer)
            .bind(&event.mail.message_id)
            .bind(told.kind)
            .bind(told.is_permanent)
            .bind(address)
            .bind(DateTime::<Utc>::from(occurred_at))
            .bind(DateTime::<Utc>::from(now))
            .bind(details.to_string())
            .execute(&mut *transaction)
            .await?;
        is_new |= done.rows_affected() == 1;
    }
    if !is_new && !told.addresses.is_empty() {
        return Ok(Feedback::Known);
    }
    let mut suppressed = 0;
    if told.is_permanent {
        for address in &told.addresses {
            let customers: Vec<String> = sqlx::query_scalar(SUPPRESS)
                .bind(address)
                .bind(DateTime::<Utc>::from(now))
                .bind(told.kind)
                .fetch_all(&mut *transaction)
                .await?;
            for customer in customers {
                suppressed += 1;
                let details = serde_json::json!({ "address": address, "because": told.kind });
                let action = "mail_recipient.suppressed";
                let event = Recorded { customer: Some(&customer), actor: ACTOR, action, subject: address, details };
                record(&mut transaction, event).await?;
            }
        }
    }
    transaction.commit().await?;
    Ok(Feedback::Recorded { addresses: told.addresses.len(), suppressed })
}

/// `None` for kinds that are not kept.
fn told(event: &Event) -> Option<Told> {
    let addresses = |found: &[Address]| found.iter().map(|one| one.email_address.clone()).collect();
    let told = match event.event_type.as_str() {
        "Bounce" => {
            let bounce = event.bounce.as_ref()?;
            Told {
                kind: "bounce",
                is_permanent: bounce.bounce_type == "Permanent",
                addresses: addresses(&bounce.bounced_recipients),
                occurred_at: bounce.timestamp.clone(),
            }
        }
        "Complaint" => {
            let complaint = event.complaint.as_ref()?;
            Told {
                kind: "complaint",
                is_permanent: true,
                addresses: addresses(&complaint.complained_recipients),
                occurred_at: complaint.timestamp.clone(),
            }
        }
        "Delivery" => {
            let delivery = event.delivery.as_ref()?;
            Told {
                kind: "delivery",
                is_permanent: false,
                addresses: delivery.recipients.clone(),
                occurred_at: delivery.timestamp.clone(),
            }
        }
        "DeliveryDelay" => {
            let delay = event.delivery_delay.as_ref()?;
            Told {
                kind: "delay",
                is_permanent: false,
                addresses: addresses(&delay.delayed_recipients),
                occurred_at: delay.timestamp.clone(),
            }
        }
        "Reject" => {
            event.reject.as_ref()?;
            Told {
                kind: "reject",
                is_permanent: false,
                addresses: event.mail.destination.clone(),
                occurred_at: event.mail.timestamp.clone(),
            }
        }
        _ => return None,
    };
    Some(told)
}

/// By our tag, which the service gives back; by the service's id where it does not.
const FIND: &str = "
    select notification_id, customer_id from notifications
    where tag = $1::text or ($1::text is null and message_id = $2::text)
    order by notification_id
    limit 1";

const RECORD: &str = "
    insert into mail_events (
        notification_id, customer_id, message_id, kind, is_permanent, address, occurred_at, recorded_at, details)
    values (
        $1::bigint, $2::text, $3::text, $4::text, $5::boolean, $6::text, $7::timestamptz, $8::timestamptz, $9::text::jsonb)
    on conflict (message_id, kind, address, occurred_at) do nothing";

/// In the order of customers, as the audit trail wants it.
const SUPPRESS: &str = "
    with gone as (
        update mail_recipients set suppressed_at = $2::timestamptz, suppressed_because = $3::text
        where lower(address) = lower($1::text) and suppressed_at is null
        returning customer_id)
    select customer_id from gone order by customer_id";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "find notification of a message", sql: FIND, roles: BILLING },
    Statement { name: "record mail event", sql: RECORD, roles: BILLING },
    Statement { name: "suppress address", sql: SUPPRESS, roles: BILLING },
];
