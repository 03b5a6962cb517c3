//! What a command prints: text for people, JSON for programs, progress on standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::edge;

/// How often progress is a line where no terminal shows a bar.
const PROGRESS_LINE_EVERY: Duration = Duration::from_secs(2);

/// One line that says what went wrong and what to do, and the exit code for it.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    let mut said = Vec::<String>::new();
    for cause in error.chain() {
        let cause = cause.to_string().replace('\n', " ");
        // A wrapper often repeats its cause.
        if !said.iter().any(|before| before.contains(&cause)) {
            said.push(cause);
        }
    }
    line_to(io::stderr(), &format!("securebase: {}", about_room(error, said.join(": "))));
    ExitCode::FAILURE
}

/// What the embedded tables say when they cannot be written; to their client it looks like a service that is down.
pub(crate) const TABLES_WITHOUT_ROOM: [&str; 2] = ["database or disk is full", "disk I/O error"];

/// A message, with what to do where there was no room to write.
fn about_room(error: &anyhow::Error, said: String) -> String {
    const ADVICE: &str = "make room on its disk and run the same command again: nothing is counted twice";
    let is_without_room = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    };
    if let Some(cause) = TABLES_WITHOUT_ROOM.into_iter().find(|cause| said.contains(cause)) {
        format!("the tables of the home cannot be written ({cause}): {ADVICE}")
    } else if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_without_room) {
        format!("{said}; {ADVICE}")
    } else {
        said
    }
}

/// Prints one line on standard output; a closed pipe is the reader's choice.
pub(crate) fn line(text: &str) {
    line_to(io::stdout(), text);
}

/// Prints a value as one line of JSON on standard output.
pub(crate) fn json(value: &impl Serialize) {
    line(&serde_json::to_string(value).expect("what is printed always serializes"));
}

/// Prints one line on standard error.
pub(crate) fn note(text: &str) {
    line_to(io::stderr(), text);
}

fn line_to(mut out: impl Write, text: &str) {
    // A reader that has gone away, as `head` does, is no failure of the command.
    let _ = writeln!(out, "{text}");
}

/// A table with columns as wide as their widest cell; numbers to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |cell: &str| !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '.');
    let print_row = |cells: &[&str]| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| {
            if is_number(cell) && cell.len() < 12 { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        line(cells.collect::<Vec<_>>().join("  ").trim_end());
    };
    print_row(head);
    line(&widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>().join("  "));
    for row in rows {
        print_row(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A whole number with thousands separators.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// How far a replay is: a bar with rate and time left on a terminal, otherwise a line now and then.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    started: std::time::Instant,
    last_line: std::time::Instant,
    records: u64,
    files: u64,
    files_total: u64,
    bytes_total: u64,
}

impl Progress {
    pub(crate) fn new(files_total: u64, bytes_total: u64) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(bytes_total) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template(
            "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        let started = edge::stopwatch();
        Self { bar, is_terminal, started, last_line: started, records: 0, files: 0, files_total, bytes_total }
    }

    /// One more object is read.
    pub(crate) fn object(&mut self, stored_bytes: u64, records: u64) {
        self.files += 1;
        self.records += records;
        self.bar.inc(stored_bytes);
        let rate = self.rate();
        if self.is_terminal {
            self.bar.set_message(format!("{} records, {} records/s", count(self.records), count(rate)));
        } else if PROGRESS_LINE_EVERY <= self.last_line.elapsed() {
            self.last_line = edge::stopwatch();
            note(&format!(
                "read {} of {} files ({}), {} records, {} records/s",
                self.files,
                self.files_total,
                HumanBytes(self.bytes_total),
                count(self.records),
                count(rate)
            ));
        }
    }

    /// Reading is over; what was read is being counted.
    pub(crate) fn waiting(&self, runs: usize) {
        if self.is_terminal {
            self.bar.set_message(format!("{} records read, {runs} objects to be acknowledged", count(self.records)));
            self.bar.tick();
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn rate(&self) -> u64 {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.records.saturating_mul(1_000) / millis
    }
}
