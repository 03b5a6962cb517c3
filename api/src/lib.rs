//! The HTTP face of the pipeline: a customer's own usage and invoices.
//!
//! **Owns** HTTP, API keys and sessions, the tenant of a request, wire types, problems, paging and the usage query.
//!
//! **Does not own** counting, prices or any sum of money. It reads PostgreSQL; it writes keys, idempotent answers and the
//! audit trail; for operators also what they ask for. Usage samples it hands to ingest's intake, where its host has opened a
//! door to one; closes, billing runs and replays it writes down, for its host to carry out.
//!
//! **Promises** that every query of a customer runs in a transaction whose first statement names that customer with a MAC
//! that PostgreSQL checks; that a revoked key is out with the next request; that every authenticated call is recorded;
//! that every answer arrives within [`REQUEST_MS_MAX`]; that every error is a problem document (RFC 9457) that says what
//! to do and carries the request's id; and that no key, body or header, and nothing else that a caller wrote, is ever logged.

mod admin;
mod admin_dead_letters;
mod admin_directory;
mod admin_operations;
mod admin_rate_cards;
mod admin_records;
mod admin_sources;
pub mod api_keys;
pub mod audit;
pub mod auth;
mod body;
mod caller;
mod completeness;
mod connections;
mod customer;
mod docs_page;
mod edge;
mod etag;
mod idempotency;
mod invoice_documents;
mod invoice_preview;
mod invoices;
mod isolation;
mod key;
mod lease;
mod log;
mod metrics;
mod openapi;
mod operation;
mod operation_worker;
mod parameters;
mod problem;
mod rate;
mod readiness;
mod samples;
mod schemas;
mod server;
mod sessions;
mod state;
#[cfg(test)]
mod statements;
mod telemetry;
mod tenant;
mod usage;
mod usage_stream;
mod watchers;
mod write;

/// The types of HTTP that [`ApiParts`] names.
pub use axum::http;

pub use caller::{CallerAddress, Identity};
pub use connections::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, IDLE_MS_MAX, STALL_MS_MAX};
pub use edge::{BODY_BYTES_MAX, REQUEST_MS_MAX, not_recorded};
pub use idempotency::ANSWERS_KEPT_SECS;
pub use key::KeyTooShort;
pub use lease::returned_in_time;
pub use log::may_be_logged;
pub use openapi::openapi;
pub use operation::{Operation, OperationFailure, OperationTask};
pub use operation_worker::{OperationQueue, OperationWorker};
pub use rate::{LEASE_WAIT_MS_MAX, REQUESTS_PER_MINUTE};
pub use readiness::NotReady;
pub use samples::{SampleDoor, Taking};
pub use server::{SHUTDOWN_MS_MAX, router, serve};
pub use state::{ApiParts, ApiState, Operations, pool};
pub use telemetry::Telemetry;
pub use tenant::{DATABASE_WAIT_MS_MAX, Statements, TenantError, TenantMac, TenantTransaction};
pub use usage::{
    BadGrouping, GroupKey, Grouping, RangeError, UsageAnswer, UsageCursor, UsageError, UsageQuery, UsageRow,
    UsageScope, usage,
};
pub use usage_stream::{POLL_SECS_MAX, STREAM_CHECK_SECS, STREAM_SECS_MAX};
