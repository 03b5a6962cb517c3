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
pub(crate) use rows::is_header;

use std::io::{self, Read};

use crate::inflate::{Inflate, InflateError, Stored};
use crate::{Beside, Delivered, Judged, ReadError, Rules, Statement, Verdict};
use origin::ExportOrigin;
use rows::{CutOff, JudgedRow, RowVerdict, RowsError, read_rows};

/// Reads an export to its end, one record a row. The ends of its generations go beside the last row.
pub(crate) fn read_export<R: Read, E>(
    delivered: Delivered<'_>,
    mut content: Inflate<R>,
    rules: Rules<'_>,
    mut each: impl FnMut(Judged<'_>) -> Result<(), E>,
) -> Result<Stored, ReadError<E>> {
    let mut ends = Vec::new();
    let mut last: Option<Row> = None;
    let read = read_rows(
        ExportOrigin(delivered),
        Inflated(&mut content),
        rules,
        |JudgedRow { verdict, bytes, offset }| {
            let row = Row { verdict, bytes: bytes.to_vec(), offset };
            last.replace(row).map_or(Ok(()), |before| before.hand_on(Vec::new(), &mut each))
        },
        |facts| {
            ends = facts;
            Ok(())
        },
    );
    match read {
        Ok(()) => {}
        Err(RowsError::Store(error)) => return Err(ReadError::Store(error)),
        Err(RowsError::Sink(error)) => return Err(ReadError::Sink(error)),
    }
    if let Some(last) = last {
        let beside = ends.into_iter().map(|end| Beside::Fact(Box::new(end))).collect();
        last.hand_on(beside, &mut each).map_err(ReadError::Sink)?;
    }
    content.finish().map_err(ReadError::Store)
}

/// A row that waits to be known as the last or not.
struct Row {
    verdict: RowVerdict,
    bytes: Vec<u8>,
    offset: u64,
}

impl Row {
    fn hand_on<E>(self, beside: Vec<Beside<'_>>, each: &mut impl FnMut(Judged<'_>) -> Result<(), E>) -> Result<(), E> {
        let verdict = match self.verdict {
            RowVerdict::Facts(fact) => Verdict::of(Statement::of_facts(*fact, [])),
            RowVerdict::NotCounted(kind) => Verdict::NotCounted(kind),
            RowVerdict::DeadLetter(reason) => Verdict::DeadLetter(reason),
        };
        // A row by itself would be a whole edition: to put it right its object is read again.
        each(Judged { verdict, beside, bytes: &self.bytes, offset: self.offset, number: 0, is_whole: false })
    }
}

/// A content as a stream of bytes, whose own faults end it.
struct Inflated<'a, R>(&'a mut Inflate<R>);

impl<R: Read> Read for Inflated<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error {
            InflateError::Io(error) => error,
            InflateError::Fault(reason) => io::Error::other(CutOff(reason)),
        })
    }
}
