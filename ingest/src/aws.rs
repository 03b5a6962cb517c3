//! What an AWS call's failure means for us, whichever service it was.

use aws_sdk_dynamodb::config::http::HttpResponse;
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
    pub fn new<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let said = match &error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or("unknown error");
                format!("{code}: {}", service.err().message().unwrap_or("no message"))
            }
            other => DisplayErrorContext(other).to_string(),
        };
        let kind = match &error {
            SdkError::ServiceError(service) => {
                kind_of(service.err().code().unwrap_or_default(), service.raw().status().as_u16())
            }
            _ if said.to_ascii_lowercase().contains("credentials") => AwsErrorKind::NotAllowed,
            SdkError::ConstructionFailure(_) => AwsErrorKind::Refused,
            _ => AwsErrorKind::Unreachable,
        };
        Self { operation, kind, said: shorten(said) }
    }
}

/// Error codes: the common errors page of each service's API reference. A code that is not listed means what its HTTP
/// status says: a service that is down answers with what is in front of it.
fn kind_of(code: &str, status: u16) -> AwsErrorKind {
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
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
        | "ExpiredTokenException"
        | "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken" => AwsErrorKind::NotAllowed,
        "ResourceNotFoundException" | "NoSuchBucket" => AwsErrorKind::NotFound,
        _ => match status {
            429 => AwsErrorKind::Throttled,
            408 | 500..=599 => AwsErrorKind::Unreachable,
            _ => AwsErrorKind::Refused,
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_means_what_its_code_says_and_an_unknown_one_what_its_status_says() {
        for (code, status, kind) in [
            ("ProvisionedThroughputExceededException", 400, AwsErrorKind::Throttled),
            ("Throttling", 400, AwsErrorKind::Throttled),
            ("", 429, AwsErrorKind::Throttled),
            ("InternalServerError", 500, AwsErrorKind::Unreachable),
            ("InternalFailureException", 500, AwsErrorKind::Unreachable),
            ("RequestTimeout", 408, AwsErrorKind::Unreachable),
            ("", 502, AwsErrorKind::Unreachable),
            ("AccessDeniedException", 400, AwsErrorKind::NotAllowed),
            ("SignatureDoesNotMatch", 403, AwsErrorKind::NotAllowed),
            ("SlowDown", 503, AwsErrorKind::Unreachable),
            ("ResourceNotFoundException", 400, AwsErrorKind::NotFound),
            ("ValidationException", 400, AwsErrorKind::Refused),
            ("ConditionalCheckFailedException", 400, AwsErrorKind::Refused),
            ("", 400, AwsErrorKind::Refused),
        ] {
            assert_eq!(kind_of(code, status), kind, "{code} {status}");
        }
    }

    #[test]
    fn what_was_said_is_one_short_line() {
        assert_eq!(shorten("a\nb".to_owned()), "a b");
        assert_eq!(shorten("é".repeat(301)), format!("{}...", "é".repeat(300)));
    }
}
