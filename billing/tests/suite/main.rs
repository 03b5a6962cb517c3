//! The billing room against a real PostgreSQL, as the roles it runs under.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod fixture;
mod golden;
mod issuing;
mod permissions;
