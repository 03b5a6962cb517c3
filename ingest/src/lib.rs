//! From a delivered AWS log to usage events on the stream.
//!
//! **Owns** the ids of usage, [`Timestamp`], [`Meter`], the usage event and the usage fact, the rules of what counts as what,
//! the sources and the stream with its format, manifests and dead letters.
//!
//! **Does not own** sums, windows' totals, customers, prices.
//!
//! **Promises** that every source record it reads ends as exactly one of: usage (an event, facts, or both), a record not
//! counted (with its kind), or a dead letter (with its reason); and that identity and event time come from the source event alone.

mod account;
pub mod aws;
pub mod backoff;
pub mod cloudtrail;
mod config;
pub mod dead_letter;
mod declared;
pub mod digest;
pub mod dynamodb;
mod eventbridge;
pub mod expectations;
mod findings;
pub mod focus;
mod front_door;
mod identity;
mod inflate;
pub mod intake;
mod json;
pub mod kinesis;
mod lists;
pub mod manifest;
mod meter;
pub mod notice;
mod object;
pub mod object_store;
mod organizations;
mod quantity;
mod records;
mod rules;
mod run;
pub mod sample;
mod slice;
pub mod stream_format;
mod time;
mod usage_event;
mod usage_fact;
mod verdict;

pub use account::{AccountId, Bucket, NotAnAccountId};
pub use declared::{Declaration, DeclarationError, Declarations, NOTHING_DECLARED, Source};
pub use identity::{Identity, NotCanonical};
pub use lists::LISTED;
pub use meter::{
    Aggregation, DefinitionError, Meter, MeterDefinition, Meters, NotAMeterName, RawUnit, SampleMeter, UnknownMeter,
};
pub use object::{Delivered, Judged, ObjectRead, ReadError, read_object};
pub use quantity::{NotAQuantity, Quantity};
pub use rules::Rules;
pub use run::{Run, RunEnd};
pub use slice::{CounterKey, Packer, RunId, Slice, SliceContent, SliceFact, SliceGroup, SliceId};
pub use time::{Day, Hour, NotAnInstant, Timestamp, Window};
pub use usage_event::{Dimensions, UsageEvent};
pub use usage_fact::{ContentHash, ExportGeneration, FactKey, FactValue, NotAFact, UsageFact};
pub use verdict::{Beside, NotCounted, Reason, Statement, Verdict};
