//! Secrets, read by reference when an execution environment starts.

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use serde_json::Value;
use thiserror::Error;

/// Why a secret could not be read. Nothing of its content is repeated.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Secrets Manager did not give it. Retry or stop: its words say which.
    #[error("the secret {name} cannot be read; check its name and secretsmanager:GetSecretValue ({said})")]
    Unreadable {
        /// Its name or ARN.
        name: String,
        /// What the service said.
        said: String,
    },
    /// Stop: it has another form.
    #[error("the secret {name} is neither plain text nor a JSON object with a text {member:?}")]
    Form {
        /// Its name or ARN.
        name: String,
        /// The member that was looked for.
        member: &'static str,
    },
}

/// Reads a secret that is plain text, or a JSON object whose `member` is the text, as the secrets that RDS makes are.
pub(crate) async fn read_secret(config: &SdkConfig, name: &str, member: &'static str) -> Result<String, SecretError> {
    let client = aws_sdk_secretsmanager::Client::new(config);
    let found = client.get_secret_value().secret_id(name).send().await.map_err(|error| {
        let said = DisplayErrorContext(error).to_string();
        SecretError::Unreadable { name: name.to_owned(), said: said.chars().take(300).collect() }
    })?;
    let wrong = || SecretError::Form { name: name.to_owned(), member };
    text_of(found.secret_string().unwrap_or_default(), member).ok_or_else(wrong)
}

fn text_of(secret: &str, member: &str) -> Option<String> {
    if secret.trim_start().starts_with('{') {
        let object: Value = serde_json::from_str(secret).ok()?;
        return object.get(member)?.as_str().map(str::to_owned);
    }
    (!secret.trim().is_empty()).then(|| secret.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_plain_text_or_a_member_of_an_object() {
        for (secret, found) in [
            ("s3cret\n", Some("s3cret")),
            (r#" {"username":"u","password":"p\"w","port":5432}"#, Some("p\"w")),
            (r#"{"port":5432}"#, None),
            (r#"{"password":5}"#, None),
            ("{", None),
            (" ", None),
        ] {
            assert_eq!(text_of(secret, "password").as_deref(), found, "{secret}");
        }
    }
}
