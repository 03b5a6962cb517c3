//! The real programs, driven over the Lambda Runtime API against embedded stores.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, also in a helper")]

mod aggregating;
mod billing;
mod deliveries;
mod faults;
mod mail_service;
mod mapping;
mod report;
mod requesting;
mod rolling_up;
mod runtime_api;
mod secrets;
mod stage;
mod starting;
mod taking_in;
