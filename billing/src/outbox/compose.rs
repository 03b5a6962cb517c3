//! From a notification to the bytes of a message (RFC 5322, MIME).

use std::time::{Duration, SystemTime};

use ingest::Timestamp;
use lettre::Message;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as Part, Mailbox, MultiPart, MultiPartKind, SinglePart};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::notification::Tag;
use super::template::{Facts, Template, fill};

/// The most recipients of one message; SES takes 50.
pub(super) const RECIPIENTS_MAX: usize = 50;

/// How mail leaves.
#[derive(Clone, Debug)]
pub struct MailSettings {
    from: Mailbox,
    reply_to: Option<Mailbox>,
}

/// A file that goes with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMail {
    /// The tag of its notification.
    pub tag: Tag,
    /// The address it comes from.
    pub from: String,
    /// The addresses it goes to.
    pub to: Vec<String>,
    /// Header and body.
    pub raw: Vec<u8>,
}

/// A message cannot be formed. Stop: trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ComposeError {
    /// A template lacks a fact, or is broken.
    #[error("template {template}: {reason}")]
    Template {
        /// Which.
        template: &'static str,
        /// Why.
        reason: String,
    },
    /// An address cannot be written.
    #[error("{0:?} is no mail address")]
    Address(String),
    /// What the notification carries is not what its template needs.
    #[error("the payload of a {template} notification: {reason}")]
    Payload {
        /// Which.
        template: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The message cannot be built.
    #[error("message: {0}")]
    Message(String),
}

impl MailSettings {
    /// Mail comes from this address, `Name <billing@example.com>` or the address alone; answers go to `reply_to`.
    pub fn new(from: &str, reply_to: Option<&str>) -> Result<Self, ComposeError> {
        let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|_| ComposeError::Address(text.to_owned()));
        Ok(Self { from: mailbox(from)?, reply_to: reply_to.map(mailbox).transpose()? })
    }
}

/// Forms the message of a notification; the same arguments give the same bytes.
pub fn compose(
    settings: &MailSettings,
    tag: &Tag,
    template: Template,
    facts: &Facts,
    to: &[String],
    attachments: Vec<Attachment>,
    date: Timestamp,
) -> Result<OutgoingMail, ComposeError> {
    let filled = fill(template, facts)?;
    let broken = |error: &dyn std::fmt::Display| ComposeError::Message(error.to_string());
    let domain = settings.from.email.domain();
    let tag_header = HeaderName::new_from_ascii_str("X-SecureBase-Notification");
    // RFC 3834: nobody's absence note answers it.
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    let mut message = Message::builder()
        .from(settings.from.clone())
        .subject(one_line(&filled.subject))
        .date(system_time(date))
        .message_id(Some(format!("<{tag}@{domain}>")))
        .raw_header(HeaderValue::new(tag_header, tag.to_string()))
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
    if let Some(reply_to) = &settings.reply_to {
        message = message.reply_to(reply_to.clone());
    }
    for address in to {
        message = message.to(address.parse().map_err(|_| ComposeError::Address(address.clone()))?);
    }
    // Boundaries are random by default, and then no message would be the same twice.
    let boundary = |part: &str| {
        let hash = Sha256::digest(format!("{tag} {part}"));
        hash[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let alternative = MultiPart::builder()
        .kind(MultiPartKind::Alternative)
        .boundary(boundary("alternative"))
        .singlepart(SinglePart::plain(filled.text))
        .singlepart(SinglePart::html(filled.html));
    let mut body = MultiPart::builder().kind(MultiPartKind::Mixed).boundary(boundary("mixed")).multipart(alternative);
    for attachment in attachments {
        // Text without its encoding is read as ASCII.
        let charset = if attachment.media_type.starts_with("text/") { "; charset=utf-8" } else { "" };
        let media_type = format!("{}{charset}", attachment.media_type);
        let media_type = ContentType::parse(&media_type).map_err(|error| broken(&error))?;
        body = body.singlepart(Part::new(attachment.name).body(attachment.bytes, media_type));
    }
    let message = message.multipart(body).map_err(|error| broken(&error))?;
    Ok(OutgoingMail { tag: tag.clone(), from: settings.from.to_string(), to: to.to_vec(), raw: message.formatted() })
}

/// A name in a subject cannot begin another header.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn system_time(instant: Timestamp) -> SystemTime {
    let micros = u64::try_from(instant.micros()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}
