//! The real-protocol servers that the local platform and the tests run on loopback.
//!
//! **Owns** starting, watching and stopping an in-process Kinesis, DynamoDB and S3 and a private PostgreSQL cluster, and a
//! fresh PostgreSQL database for each test.
//!
//! **Does not own** streams, tables, buckets, schemas, roles or which rows live where: it knows no room. Nor does it
//! stand in for AWS in production: no binary deployed to AWS links it.
//!
//! **Promises** that every server listens on 127.0.0.1 alone, on a port that was free; that a server which cannot start
//! says in one line what to do; and that PostgreSQL ends with the process that started it, however that ends.

mod dynamodb;
mod kinesis;
mod loopback;
mod postgres;
mod s3;
pub mod testing;

pub use dynamodb::{DynamoDb, DynamoDbError};
pub use kinesis::{Kinesis, KinesisError, KinesisOptions};
pub use postgres::{Durability, OLDEST_MAJOR, PostgreSql, PostgresError, PostgresOptions};
pub use s3::{Retention, S3, S3Error, S3Options};
