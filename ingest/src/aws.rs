//! What an AWS call's failure means for us, whichever service it was.

use std::fmt::Debug;

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use thiserror::Error;

/// A failed AWS call: what to do about it, and what the service said.
#[derive(Debug, Error)]
#[error("{operation}: {kind} ({said})")]
pub struct AwsError {
    /// The call, such as `PutItem`.
    pub operation: &'static str,
    /// What it means.
    pub kind: AwsErrorKind,
    /// What the service or the client said.
    pub said: String,
}

/// What a failed call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AwsErrorKind {
    /// Too fast: retry after a wait.
    #[error("throttled; retried too often")]
    Throttled,
    /// No answer: retry after a wait. Whether the call took effect is unknown.
    #[error("no answer; check the endpoint, the network and AWS_REGION")]
    Unreachable,
    /// No credentials, or they do not allow it: stop.
    #[error("not allowed; check the AWS credentials and their policy")]
    NotAllowed,
    /// The stream or table does not exist: stop.
    #[error("not found; check AWS_REGION and the stream and table names, or apply the infrastructure")]
    NotFound,
    /// The store says no for another reason: stop.
    #[error("refused")]
    Refused,
}

impl AwsErrorKind {
    /// Whether the same call may go through later.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Throttled | Self::Unreachable)
    }
}

impl AwsError {
    /// Reads the meaning of an SDK error.
    pub fn new<E, R>(operation: &'static str, error: SdkError<E, R>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
        R: Debug,
    {
        let said = match &error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or("unknown error");
                format!("{code}: {}", service.err().message().unwrap_or("no message"))
            }
            other => DisplayErrorContext(other).to_string(),
        };
        let kind = match &error {
            SdkError::ServiceError(service) => kind_of_code(service.err().code().unwrap_or_default()),
            _ if said.to_ascii_lowercase().contains("credentials") => AwsErrorKind::NotAllowed,
            SdkError::ConstructionFailure(_) => AwsErrorKind::Refused,
            _ => AwsErrorKind::Unreachable,
        };
        Self { operation, kind, said: shorten(said) }
    }
}

/// Error codes: the common errors page of each service's API reference.
fn kind_of_code(code: &str) -> AwsErrorKind {
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "KMSThrottlingException" => AwsErrorKind::Throttled,
        "InternalServerError" | "InternalFailure" | "ServiceUnavailable" | "ServiceUnavailableException" => {
            AwsErrorKind::Unreachable
        }
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "ExpiredTokenException" => AwsErrorKind::NotAllowed,
        "ResourceNotFoundException" => AwsErrorKind::NotFound,
        _ => AwsErrorKind::Refused,
    }
}

/// A nested SDK error repeats itself; its beginning says what happened.
fn shorten(said: String) -> String {
    let line = said.replace('\n', " ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
