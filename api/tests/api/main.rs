//! The API from outside: real PostgreSQL, real HTTP over loopback.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod access;
mod client;
mod invoices;
mod outage;
mod stage;
mod usage;
