//! The Lambda functions of the pipeline.
//!
//! **Owns** what stands between Lambda and the rooms: the forms of deliveries, the answers Lambda reads, settings from the
//! environment, clients, logging, the clock.
//!
//! **Does not own** any rule. A function decodes a delivery, reads the clock once, calls one function of a room and encodes
//! its answer.
//!
//! **Promises** that settings are read before anything else and every problem with them is reported at once; that a record
//! which is bad is set aside by the function itself, so that a failure means infrastructure and a retry may help; and that
//! an invocation gives up, and says from which record on it is to be repeated, before Lambda would end it.

pub mod aggregate;
mod answer;
pub mod api;
pub mod bill;
pub mod clients;
mod deadline;
pub mod edge;
pub mod ingest;
mod metric;
pub mod rollup;
mod secret;
pub mod settings;
mod start;

pub use answer::{BatchAnswer, ItemFailure};
pub use deadline::{Deadline, DeadlineExceeded};
pub use secret::SecretError;
pub use start::{StartError, start};
