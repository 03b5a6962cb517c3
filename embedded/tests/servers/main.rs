//! The servers as their users meet them: through the AWS SDK, through SQL, and through kills.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod dynamodb;
mod kinesis;
mod postgres;
mod s3;
mod test_database;
