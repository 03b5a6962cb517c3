//! The billing room against a real PostgreSQL, as the roles it runs under.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod agreements;
mod desk;
mod dying;
mod fixture;
mod gallery;
mod golden;
mod issuing;
mod killed;
mod late_usage;
mod outbox;
mod permissions;
mod previewing;
mod rate_cards;
mod simulation;
mod wire;
