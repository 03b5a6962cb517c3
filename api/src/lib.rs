//! The HTTP face of the pipeline: a customer's own usage and invoices.
//!
//! **Owns** HTTP, authentication, the tenant of a request, wire types, problems, paging and the usage query.
//!
//! **Does not own** counting, prices, any sum of money, or any store: it reads PostgreSQL and writes nothing.
//!
//! **Promises** that every query of a customer runs in a read-only transaction whose first statement names that
//! customer with a MAC that PostgreSQL checks; that every answer arrives within [`REQUEST_MS_MAX`]; that every error is
//! a problem document (RFC 9457) that says what to do and carries the request's id; and that no key, body or
//! authorization header is ever logged.

mod bootstrap;
mod edge;
mod invoices;
mod key;
mod parameters;
mod problem;
mod readiness;
mod server;
mod state;
#[cfg(test)]
mod statements;
mod tenant;
mod usage;

pub use bootstrap::{BootstrapSecret, NotAuthenticated};
pub use edge::{BODY_BYTES_MAX, REQUEST_MS_MAX};
pub use key::KeyTooShort;
pub use readiness::NotReady;
pub use server::{SHUTDOWN_MS_MAX, router, serve};
pub use state::{ApiState, pool};
pub use tenant::{DATABASE_WAIT_MS_MAX, TenantError, TenantMac, TenantTransaction};
pub use usage::{
    BadGrouping, GroupKey, Grouping, RangeError, UsageAnswer, UsageCursor, UsageError, UsageQuery, UsageRow,
    UsageScope, usage,
};
