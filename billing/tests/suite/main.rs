//! The billing room against a real PostgreSQL, as the roles it runs under.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod agreements;
mod fixture;
mod gallery;
mod golden;
mod issuing;
mod permissions;
mod rate_cards;
mod simulation;
