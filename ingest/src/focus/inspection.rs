//! What an export holds, before anything of it is counted: exact sums to compare with the bill.

use std::collections::BTreeMap;
use std::io::{self, Read};

use thiserror::Error;

use super::Inflated;
use super::columns::Columns;
use super::row;
use super::rows::{Next, Rows};
use crate::inflate::Inflate;
use crate::{Meter, Quantity, Reason};

/// Rows and the sum of their quantities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// How many rows.
    pub rows: u64,
    /// Their sum, exact.
    pub quantity: Quantity,
}

/// What an export holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Rows of the file.
    pub rows: u64,
    /// Rows by provider.
    pub providers: BTreeMap<String, u64>,
    /// Rows of AWS by sub-account, as written.
    pub sub_accounts: BTreeMap<String, u64>,
    /// Of AWS: `ConsumedQuantity` by `ServiceName` and `ConsumedUnit`, both as written; rows without a quantity left out.
    pub sums: BTreeMap<(String, String), Sum>,
    /// What the rules make of it, whatever is declared: by meter, in raw units.
    pub meters: BTreeMap<Meter, Sum>,
    /// Rows that cannot be read: too few fields, or a quantity that is no number.
    pub malformed: u64,
    /// Why it ends before its end, if it does.
    pub cut_off: Option<Reason>,
}

/// A file cannot be inspected.
#[derive(Debug, Error)]
pub enum InspectionError {
    /// It is no FOCUS export.
    #[error("no FOCUS export: it needs the columns {}", Columns::REQUIRED.join(", "))]
    NoExport,
    /// It lacks a column, or has it twice.
    #[error("the column {0} is missing, or there twice")]
    Column(String),
    /// A sum has more digits than are kept.
    #[error("the sum of {0} is out of range")]
    OutOfRange(String),
    /// It cannot be read. Retry.
    #[error("cannot read the export: {0}")]
    Store(#[from] io::Error),
}

/// Sums up an export, gzip or not.
pub fn inspect(stored: impl Read) -> Result<Inspection, InspectionError> {
    let mut content = Inflate::open(stored)?;
    let mut rows = Rows::open(Inflated(&mut content));
    let header = match rows.next() {
        Next::Row(_) => rows.row.clone(),
        Next::Failed(error) => return Err(error.into()),
        Next::End | Next::Cut(..) => return Err(InspectionError::NoExport),
    };
    let columns = Columns::read(&header).map_err(InspectionError::Column)?;
    let mut found = Inspection::default();
    loop {
        match rows.next() {
            Next::Row(_) => {}
            Next::End => break,
            Next::Failed(error) => return Err(error.into()),
            Next::Cut(reason, _) => {
                found.cut_off = Some(reason);
                break;
            }
        }
        found.rows += 1;
        let Some(fields) = columns.fields(&rows.row) else {
            found.malformed += 1;
            continue;
        };
        *found.providers.entry(fields.provider.to_owned()).or_default() += 1;
        if fields.provider != "AWS" {
            continue;
        }
        *found.sub_accounts.entry(fields.sub_account.to_owned()).or_default() += 1;
        if fields.consumed_quantity.is_empty() {
            continue;
        }
        match fields.consumed_quantity.parse() {
            Ok(quantity) => {
                let of = (fields.service.to_owned(), fields.consumed_unit.to_owned());
                add(&mut found.sums, of, quantity, |(service, unit)| format!("{service} in {unit}"))?;
            }
            Err(_) => found.malformed += 1,
        }
        if let Some((meter, value)) = row::measured(&fields) {
            add(&mut found.meters, meter, value, Meter::to_string)?;
        }
    }
    Ok(found)
}

fn add<K: Ord>(
    sums: &mut BTreeMap<K, Sum>,
    of: K,
    quantity: Quantity,
    name: impl FnOnce(&K) -> String,
) -> Result<(), InspectionError> {
    let known = sums.get(&of).copied().unwrap_or(Sum { rows: 0, quantity: Quantity::ZERO });
    let sum = known.quantity.checked_add(quantity);
    let quantity = sum.ok_or_else(|| InspectionError::OutOfRange(name(&of)))?;
    sums.insert(of, Sum { rows: known.rows + 1, quantity });
    Ok(())
}
