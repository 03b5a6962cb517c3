//! The servers as their users meet them: through the AWS SDK, through SQL, and through kills.

mod dynamodb;
mod kinesis;
mod postgres;
mod test_database;
