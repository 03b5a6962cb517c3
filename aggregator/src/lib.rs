//! From the stream to usage rows: windows, dedupe, counters, the account directory and the roll-up.

pub mod directory;
pub mod usage_rows;
