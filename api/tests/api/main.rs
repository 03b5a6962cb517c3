//! The API from outside: real PostgreSQL, real HTTP over loopback.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod access;
mod attacks;
mod audit;
mod client;
mod crash;
mod document;
mod encryption;
mod invoices;
mod isolation;
mod keys;
mod operations;
mod operators;
mod outage;
mod pooler;
mod rates;
mod rotation;
mod stage;
mod stores;
mod usage;
mod wire;
