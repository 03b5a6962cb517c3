//! The program from outside: its commands on homes of their own, as a person or a script runs them.
//!
//! Every database is real. Tests that are not about the private PostgreSQL use the server that `with-postgres` started for
//! the run, which is much faster. A command that does not end is killed and its test fails; nothing sleeps.

#![expect(clippy::unwrap_used, reason = "in a test, what is not as expected fails it")]

mod accounts;
mod aws;
mod billing;
mod chaos;
mod closing;
mod dead_letters;
mod demo;
mod digests;
mod document;
mod errors;
mod events;
mod homes;
mod landing_zone;
mod meters;
mod operations;
mod parked;
mod poison;
mod prices;
mod recounted;
mod replay;
mod samples;
mod serving;
mod sources;
mod support;
