//! A full disk below the embedded tables.
//!
//! To those who write it looks like a service that is down for a while, and they would try again for ever. Their client
//! hears what the tables say and passes it on, so that the command ends and tells a person.

use aws_sdk_dynamodb::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use tokio::sync::watch;

use crate::print::TABLES_WITHOUT_ROOM;

/// Listens to the answers of the embedded tables.
#[derive(Debug)]
pub(crate) struct FullDisk(watch::Sender<Option<String>>);

impl FullDisk {
    /// The listener, and what it hears.
    pub(crate) fn new() -> (Self, watch::Receiver<Option<String>>) {
        let (heard, trouble) = watch::channel(None);
        (Self(heard), trouble)
    }
}

impl Intercept for FullDisk {
    fn name(&self) -> &'static str {
        "FullDisk"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Err(error) = context.output_or_error() {
            let said = format!("{error:?}");
            if let Some(cause) = TABLES_WITHOUT_ROOM.into_iter().find(|cause| said.contains(cause)) {
                self.0.send_replace(Some(cause.to_owned()));
            }
        }
        Ok(())
    }
}
