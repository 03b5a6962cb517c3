//! The API from outside: real PostgreSQL, real HTTP over loopback.

mod access;
mod client;
mod invoices;
mod outage;
mod stage;
mod usage;
