//! Ingest's stores and its stream against servers that speak the real protocols.

mod clients;
mod stores;
mod stream;
