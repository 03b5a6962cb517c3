//! The way out: a port, and what it can answer.

use std::future::Future;

use thiserror::Error;

use super::compose::OutgoingMail;

/// The mail service's own id of a message it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId(pub String);

/// Why a message was not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SendError {
    /// Stop: this message will never be taken.
    #[error("refused: {0}")]
    Refused(String),
    /// Retry later: the way out is closed for now.
    #[error("not sent for now: {0}")]
    Passing(String),
}

/// A way out for mail.
pub trait Mailer: Sync {
    /// Hands one message over. May be asked for the same message again.
    fn send(&self, mail: &OutgoingMail) -> impl Future<Output = Result<MessageId, SendError>> + Send;
}
