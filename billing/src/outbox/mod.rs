//! What customers are told by mail: written with what it tells of, sent after the commit, at least once.
//!
//! **Owns** the tables `notifications`, `mail_recipients` and `mail_events`, the templates, the message, the ways out.
//!
//! Invariant: a notification is written in the transaction of what it tells of. So there is none of an invoice that was not
//! issued, and none is missing; the tables refuse both.
//!
//! Invariant: the tag of a notification is made from its occasion and nothing else. A message that leaves twice, because a
//! sender died between the mail service's answer and its commit, carries the same tag and the same message id both times.

mod compose;
mod facts;
mod feedback;
mod folder;
mod mailer;
mod notification;
mod recipients;
mod reminders;
mod sender;
mod ses;
mod template;

pub use compose::{Attachment, ComposeError, MailSettings, OutgoingMail, compose};
pub use feedback::{Feedback, FeedbackError, record_feedback};
pub use folder::FolderMailer;
pub use mailer::{Mailer, MessageId, SendError};
pub use notification::{NotATag, Notification, Tag, enqueue};
pub use recipients::{Recipient, RecipientError, add_recipient, list_recipients, suppress_recipient};
pub use reminders::{REMINDERS, ReminderReport, Reminders, remind};
pub use sender::{OutboxEntry, OutboxError, SendReport, list_outbox, retry_failed, send_due};
pub use ses::SesMailer;
pub use template::Template;

use crate::statements::Statement;

/// Every statement of the outbox.
pub(crate) const STATEMENTS: &[&[Statement]] = &[
    feedback::STATEMENTS,
    notification::STATEMENTS,
    recipients::STATEMENTS,
    reminders::STATEMENTS,
    sender::STATEMENTS,
];
