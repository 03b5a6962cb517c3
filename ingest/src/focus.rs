//! FOCUS exports: the bill's own rows of usage, as CSV.
//!
//! Versions 1.0 to 1.2 of the FinOps Open Cost and Usage Specification, in any order of columns, with or without the
//! columns of AWS (`x_UsageType`); gzip or not. A row becomes an amount of the meter that [`RULES`] give it. All rows of
//! one payer and billing period form one generation of the export; its end, written when the file was read to its end,
//! gives it force, and until then the generation before it stands.
//!
//! Sources: FOCUS 1.0, 1.1 and 1.2, "Columns"; RFC 4180; AWS Data Exports User Guide, "FOCUS 1.0 with AWS columns".

mod columns;
mod inspection;
mod mapping;
mod origin;
mod row;
mod rows;

pub use inspection::{Inspection, InspectionError, Sum, inspect};
pub use mapping::{Measure, RULES, Rule};
pub use origin::ExportOrigin;
pub(crate) use rows::{is_header, read_rows};
