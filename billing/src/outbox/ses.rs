//! Mail through Amazon SES, API version 2, as raw messages.

use aws_sdk_sesv2::Client;
use aws_sdk_sesv2::error::{DisplayErrorContext, SdkError};
use aws_sdk_sesv2::operation::send_email::SendEmailError;
use aws_sdk_sesv2::primitives::Blob;
use aws_sdk_sesv2::types::{Destination, EmailContent, MessageTag, RawMessage};

use super::compose::OutgoingMail;
use super::mailer::{Mailer, MessageId, SendError};

/// The name of the message tag that carries a notification's own tag; SES gives it back in its events.
pub(super) const TAG_NAME: &str = "notification";

/// Sends through SES, whose events (bounces, complaints) go to the configuration set's destination.
#[derive(Clone, Debug)]
pub struct SesMailer {
    client: Client,
    configuration_set: Option<String>,
}

impl SesMailer {
    /// Sends with this client; events are published for messages sent with a configuration set.
    pub fn new(client: Client, configuration_set: Option<String>) -> Self {
        Self { client, configuration_set }
    }
}

impl Mailer for SesMailer {
    async fn send(&self, mail: &OutgoingMail) -> Result<MessageId, SendError> {
        let invalid = |error: aws_sdk_sesv2::error::BuildError| SendError::Refused(error.to_string());
        let raw = RawMessage::builder().data(Blob::new(mail.raw.clone())).build().map_err(invalid)?;
        let tag = MessageTag::builder().name(TAG_NAME).value(mail.tag.as_str()).build().map_err(invalid)?;
        let sent = self
            .client
            .send_email()
            .from_email_address(&mail.from)
            .destination(Destination::builder().set_to_addresses(Some(mail.to.clone())).build())
            .content(EmailContent::builder().raw(raw).build())
            .email_tags(tag)
            .set_configuration_set_name(self.configuration_set.clone())
            .send()
            .await
            .map_err(|error| judge(&error))?;
        let id = sent.message_id().ok_or_else(|| SendError::Passing("SES named no message id".to_owned()))?;
        Ok(MessageId(id.to_owned()))
    }
}

/// Only what is wrong with this very message ends it; an account that is paused or not verified is put right by people.
fn judge(error: &SdkError<SendEmailError>) -> SendError {
    let said = DisplayErrorContext(error).to_string();
    match error.as_service_error() {
        Some(SendEmailError::MessageRejected(_) | SendEmailError::BadRequestException(_)) => SendError::Refused(said),
        _ => SendError::Passing(said),
    }
}
