//! The real-protocol servers that the local platform and the tests run on loopback.
//!
//! **Owns** starting, watching and stopping an in-process Kinesis and DynamoDB and a private PostgreSQL cluster, and a
//! fresh PostgreSQL database for each test.
//!
//! **Does not own** streams, tables, schemas, roles or which rows live where: it knows no room. Nor does it stand in for
//! AWS in production: no binary deployed to AWS links it.
//!
//! **Promises** that every server listens on 127.0.0.1 alone, on a port that was free; that a server which cannot start
//! says in one line what to do; and that PostgreSQL ends with the process that started it, however that ends.

mod dynamodb;
mod kinesis;
mod loopback;
mod postgres;
pub mod testing;

pub use dynamodb::{DynamoDb, DynamoDbError};
pub use kinesis::{Kinesis, KinesisError, KinesisOptions};
pub use postgres::{Durability, OLDEST_MAJOR, PostgreSql, PostgresError, PostgresOptions};
