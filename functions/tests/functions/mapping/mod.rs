//! Event source mappings as Lambda documents them, for streams (Kinesis, DynamoDB) and queues (SQS).
//!
//! The mappings are pure: time is simulated, a seed decides everything, and one seed gives one trace. `chain` drives the
//! real programs with them. Each rule names its page of the AWS Lambda Developer Guide; where the pages are silent, a
//! comment begins with "Assumed".
//!
//! Emulators at hand do not follow these rules: one that was tried drops the rest of a batch after a partial failure.

mod answer;
mod chain;
mod deliveries_of_a_queue;
mod queue;
mod random;
mod rules;
mod stream;

/// Simulated time, in milliseconds.
pub(crate) type Millis = u64;
