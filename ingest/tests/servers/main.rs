//! Ingest's stores and its stream against servers that speak the real protocols.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod clients;
mod expectations;
mod intake;
mod objects;
mod stores;
mod stream;
