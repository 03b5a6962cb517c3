//! Reading an export row by row, in bounded memory, to its end or to where it is cut off.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, WriterBuilder};
use memchr::memchr_iter;

use super::columns::{Columns, Fields};
use super::origin::ExportOrigin;
use super::row::{self, Outcome, Scope};
use crate::{AccountId, Dimensions, ExportGeneration, FactKey, FactValue, Meter, NotCounted, Reason, Rules, UsageFact};

/// Largest row, in bytes; one with every tag that AWS allows is below 100 KB.
const ROW_BYTES_MAX: u64 = 4 << 20;
const BUFFER_BYTES: usize = 64 << 10;
/// Payers and periods of one file; a bill has one.
const SCOPES_MAX: usize = 1_000;

/// What became of one row.
pub(super) struct JudgedRow<'a> {
    pub(super) verdict: RowVerdict,
    /// The header and the row, each on its line.
    pub(super) bytes: &'a [u8],
    /// Where the row begins in the inflated file.
    pub(super) offset: u64,
}

/// What a row says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RowVerdict {
    /// A fact; the ends of its file's generations beside the last.
    Facts(Box<UsageFact<'static>>),
    NotCounted(NotCounted),
    DeadLetter(Reason),
}

/// Why rows stop before the end.
pub(super) enum RowsError<E> {
    Store(io::Error),
    Sink(E),
}

/// Whether a file that begins like this is an export: its first line names columns that all of them have.
pub(crate) fn is_header(beginning: &[u8]) -> bool {
    // Most objects are JSON of one long line.
    let first = beginning.trim_ascii_start().first();
    if matches!(first, None | Some(b'{' | b'[')) {
        return false;
    }
    let mut header = ByteRecord::new();
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(beginning);
    if !reader.read_byte_record(&mut header).unwrap_or(false) {
        return false;
    }
    let has = |name: &str| header.iter().any(|field| field.trim_ascii() == name.as_bytes());
    has("BillingPeriodStart") && has("ChargePeriodStart") && has("ConsumedQuantity")
}

/// Reads every row and hands it on, judged; then, if the file was read to its end, the ends of its generations.
///
/// A file that is cut off has its last piece set aside and ends no generation: what was in force stays so.
pub(super) fn read_rows<E>(
    origin: ExportOrigin<'_>,
    input: impl Read,
    rules: Rules<'_>,
    mut each: impl FnMut(JudgedRow<'_>) -> Result<(), E>,
    mut end: impl FnMut(Vec<UsageFact<'static>>) -> Result<(), E>,
) -> Result<(), RowsError<E>> {
    let mut rows = Rows::open(input);
    let header = match rows.next() {
        Next::Row(_) => rows.row.clone(),
        Next::End => return Ok(()),
        Next::Cut(reason, offset) => return set_aside(&mut each, reason, &[], offset),
        Next::Failed(error) => return Err(RowsError::Store(error)),
    };
    let columns = match Columns::read(&header) {
        Ok(columns) => columns,
        Err(_) => return set_aside(&mut each, Reason::ExportColumns, &written(&[&header]), 0),
    };
    if origin.is_later_part() {
        return set_aside(&mut each, Reason::ExportInParts, &written(&[&header]), 0);
    }
    let (export, generation) = (origin.export(), origin.generation());
    let mut scopes = BTreeMap::<Scope, Counted>::new();
    let mut number = 0;
    let mut is_torn = false;
    loop {
        let offset = match rows.next() {
            Next::Row(offset) => offset,
            Next::End => break,
            Next::Cut(reason, offset) => return set_aside(&mut each, reason, &written(&[&header]), offset),
            Next::Failed(error) => return Err(RowsError::Store(error)),
        };
        number += 1;
        let fields = columns.fields(&rows.row);
        // A row that was cut off is the last, and has too few fields.
        is_torn = fields.is_none();
        let verdict = judge(fields, number, export, generation, rules, &mut scopes);
        let bytes = match &verdict {
            RowVerdict::DeadLetter(_) => written(&[&header, &rows.row]),
            _ => Vec::new(),
        };
        each(JudgedRow { verdict, bytes: &bytes, offset }).map_err(RowsError::Sink)?;
    }
    if is_torn || rows.ended_in_quotes() {
        return Ok(());
    }
    let ends: Vec<_> = scopes.iter().map(|(scope, counted)| export_end(scope, counted, export, generation)).collect();
    if ends.is_empty() { Ok(()) } else { end(ends).map_err(RowsError::Sink) }
}

/// What was counted of a scope.
#[derive(Default)]
struct Counted {
    facts: u64,
    /// Of the first fact: the end of the generation stands with it.
    account: Option<AccountId>,
}

fn judge(
    fields: Option<Fields<'_>>,
    number: u64,
    export: &str,
    generation: u64,
    rules: Rules<'_>,
    scopes: &mut BTreeMap<Scope, Counted>,
) -> RowVerdict {
    let Some(fields) = fields else { return RowVerdict::DeadLetter(Reason::RowMalformed) };
    let row::RowRead { scope, outcome } = row::read(&fields, number, export, generation, rules);
    let Some(scope) = scope else {
        return match outcome {
            Outcome::Fact(_) => RowVerdict::DeadLetter(Reason::RowMalformed),
            Outcome::NotCounted(kind) => RowVerdict::NotCounted(kind),
            Outcome::DeadLetter(reason) => RowVerdict::DeadLetter(reason),
        };
    };
    if SCOPES_MAX <= scopes.len() && !scopes.contains_key(&scope) {
        return RowVerdict::DeadLetter(Reason::RowMalformed);
    }
    let counted = scopes.entry(scope).or_default();
    match outcome {
        Outcome::Fact(fact) => {
            counted.facts += 1;
            counted.account.get_or_insert(fact.key.account);
            RowVerdict::Facts(Box::new(fact))
        }
        Outcome::NotCounted(kind) => RowVerdict::NotCounted(kind),
        Outcome::DeadLetter(reason) => RowVerdict::DeadLetter(reason),
    }
}

/// The fact that gives a generation its force. One without rows has it too: everything in the one before is gone.
fn export_end(scope: &Scope, counted: &Counted, export: &str, generation: u64) -> UsageFact<'static> {
    let payer = AccountId::parse(&scope.billing_account).ok();
    let nobody = || AccountId::parse("000000000000").expect("twelve digits are an account id");
    let name = scope.name(export);
    UsageFact {
        key: FactKey {
            meter: Meter::ExportGenerations,
            account: counted.account.or(payer).unwrap_or_else(nobody),
            resource: name.clone().into(),
            time: scope.period,
            export: Some(ExportGeneration { scope: name.into(), number: generation }),
        },
        revision: generation,
        dimensions: Dimensions { region: Dimensions::NONE.into(), category: Dimensions::NONE.into() },
        end: None,
        value: FactValue::ExportEnd { facts: counted.facts },
    }
}

fn set_aside<E>(
    each: &mut impl FnMut(JudgedRow<'_>) -> Result<(), E>,
    reason: Reason,
    bytes: &[u8],
    offset: u64,
) -> Result<(), RowsError<E>> {
    each(JudgedRow { verdict: RowVerdict::DeadLetter(reason), bytes, offset }).map_err(RowsError::Sink)
}

fn written(rows: &[&ByteRecord]) -> Vec<u8> {
    let mut writer = WriterBuilder::new().flexible(true).from_writer(Vec::new());
    for row in rows {
        writer.write_byte_record(row).expect("memory takes every row, and rows may differ in length");
    }
    writer.into_inner().expect("memory takes what is left")
}

/// The next thing in a file.
pub(super) enum Next {
    /// A row is in `row`; where it begins.
    Row(u64),
    End,
    /// The object is at fault from here on.
    Cut(Reason, u64),
    Failed(io::Error),
}

/// Rows of a file, the header first, blank lines passed over.
pub(super) struct Rows<R> {
    reader: Reader<Bounded<R>>,
    bounds: Rc<Bounds>,
    pub(super) row: ByteRecord,
}

impl<R: Read> Rows<R> {
    pub(super) fn open(input: R) -> Self {
        let bounds = Rc::new(Bounds::default());
        let bounded = Bounded { input, bounds: bounds.clone(), given: 0, is_begun: false };
        let reader = ReaderBuilder::new()
            .has_headers(false)
            // Rows of another length are judged, not refused.
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(bounded);
        Self { reader, bounds, row: ByteRecord::new() }
    }

    pub(super) fn next(&mut self) -> Next {
        let offset = self.reader.position().byte();
        self.bounds.through.set(offset + ROW_BYTES_MAX + BUFFER_BYTES as u64);
        match self.reader.read_byte_record(&mut self.row) {
            Ok(true) => Next::Row(self.row.position().map_or(offset, csv::Position::byte)),
            Ok(false) => Next::End,
            Err(error) => match error.into_kind() {
                ErrorKind::Io(error) => match error.get_ref().and_then(|cause| cause.downcast_ref::<CutOff>()) {
                    Some(CutOff(reason)) => Next::Cut(*reason, offset),
                    None => Next::Failed(error),
                },
                // Bytes in flexible rows: there is nothing else to complain about.
                _ => Next::Cut(Reason::RowMalformed, offset),
            },
        }
    }

    /// Whether a quoted field was still open at the end.
    pub(super) fn ended_in_quotes(&self) -> bool {
        self.bounds.quotes.get() % 2 == 1
    }
}

/// The object is at fault behind what was read of it.
#[derive(Debug)]
pub(super) struct CutOff(pub(super) Reason);

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for CutOff {}

/// What a reader of rows and its input tell each other.
#[derive(Default)]
struct Bounds {
    /// How far the row that is being read may go.
    through: Cell<u64>,
    /// Quotes seen. Every field that is closed has an even number of them (RFC 4180 section 2).
    quotes: Cell<u64>,
}

/// Ends a row that is too long.
struct Bounded<R> {
    input: R,
    bounds: Rc<Bounds>,
    given: u64,
    is_begun: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bounds.through.get() < self.given {
            return Err(io::Error::other(CutOff(Reason::RecordTooLarge)));
        }
        let mut count = self.input.read(buffer)?;
        if !self.is_begun {
            self.is_begun = true;
            // The parser passes over a byte order mark only if it comes whole and not alone.
            while 0 < count && count < 4 && count < buffer.len() {
                match self.input.read(&mut buffer[count..])? {
                    0 => break,
                    more => count += more,
                }
            }
        }
        self.given += count as u64;
        let quotes = memchr_iter(b'"', &buffer[..count]).count() as u64;
        self.bounds.quotes.set(self.bounds.quotes.get() + quotes);
        Ok(count)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
