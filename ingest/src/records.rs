//! Cutting a source object into its records, in bounded memory.
//!
//! Reads `{"Records": [..]}`, arrays, JSON lines, concatenated and pretty-printed objects, without being told which. A
//! record is delimited by its brackets, so one that does not parse leaves its neighbours alone.

use std::io::{self, Read};

use memchr::{memchr, memchr2, memchr3};

use crate::Reason;
use crate::inflate::{Inflate, InflateError, Stored};

/// Largest record kept, in bytes. CloudTrail's own limit is 256 KB an event.
pub(crate) const RECORD_BYTES_MAX: usize = 4 << 20;
/// Deepest nesting of a record. The JSON parser behind it stops at 128.
pub(crate) const NESTING_MAX: u32 = 100;
/// How much of something too large, or without end, is kept to look at.
const EXCERPT_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 256 << 10;
/// The same for the content of a delivery, of which there may be thousands in a batch.
const DELIVERY_READ_BYTES: usize = 16 << 10;

/// A piece of a source object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// One JSON value, delimited but not parsed.
    Record { bytes: &'a [u8], offset: u64 },
    /// A stretch that is no record. `is_whole` says whether `bytes` is all of it, or only its beginning.
    Broken { reason: Reason, bytes: &'a [u8], offset: u64, is_whole: bool },
}

/// Cuts an inflated object into pieces. Every byte is followed once: work and memory are bounded whatever it holds.
pub(crate) struct Records<R> {
    input: Inflate<R>,
    buffer: Vec<u8>,
    /// What lies before it is consumed.
    start: usize,
    /// Offset of `buffer[0]` in the inflated object.
    buffer_offset: u64,
    /// Set once no more bytes come; the reason if the object is at fault.
    ended: Option<Result<(), Reason>>,
    place: Place,
    /// A value so far began and ended on one line: a newline ends a broken one.
    is_lines: bool,
    /// A newline was passed since the value at top level began.
    saw_newline: bool,
    /// Bytes cut out of the value being followed, because it is too large to keep.
    dropped_bytes: u64,
    /// How much one fill reads: [`READ_BYTES`], and less where a test wants every place to be a boundary.
    read_bytes: usize,
    /// Bytes followed, moved or cleared so far.
    #[cfg(test)]
    work_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    TopLevel,
    /// Among the elements of a top-level array, or of `Records`.
    Elements {
        in_wrapper: bool,
    },
    /// Behind `Records`, before the wrapper's closing brace.
    WrapperTail,
    Done,
}

impl<R: Read> Records<R> {
    pub(crate) fn new(input: Inflate<R>) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            buffer_offset: 0,
            ended: None,
            place: Place::Start,
            is_lines: false,
            saw_newline: false,
            dropped_bytes: 0,
            read_bytes: READ_BYTES,
            #[cfg(test)]
            work_bytes: 0,
        }
    }

    /// The same for the content of a delivery, which is in memory.
    pub(crate) fn of_delivery(input: Inflate<R>) -> Self {
        Self { read_bytes: DELIVERY_READ_BYTES, ..Self::new(input) }
    }

    /// Bytes that came out of gzip so far.
    pub(crate) fn inflated_bytes(&self) -> u64 {
        self.input.inflated_bytes()
    }

    /// What the object is, as stored; reads it to its end.
    pub(crate) fn finish(self) -> Result<Stored, io::Error> {
        self.input.finish()
    }

    /// The next piece; `None` at the end. An error is the store's, never the content's.
    pub(crate) fn next(&mut self) -> Result<Option<Piece<'_>>, io::Error> {
        loop {
            match self.place {
                Place::Start => {
                    self.skip_byte_order_mark()?;
                    match self.skip_blanks(false)? {
                        None | Some(b'{' | b'[') => self.place = Place::TopLevel,
                        Some(_) => return self.not_json().map(Some),
                    }
                }
                Place::TopLevel => {
                    let first = self.skip_blanks(true)?;
                    self.saw_newline = false;
                    match first {
                        None if matches!(self.ended, Some(Err(_))) => return Ok(Some(self.take(Cut::End, None))),
                        None => self.place = Place::Done,
                        Some(b'[') => {
                            self.consume(self.start + 1);
                            self.place = Place::Elements { in_wrapper: false };
                        }
                        Some(b'{') => {
                            let newline = if self.is_lines { Newline::Breaks } else { Newline::BreaksInString };
                            if let Some((cut, fault)) = self.follow_members(Members::new(newline), self.start + 1)? {
                                self.is_lines |= !self.saw_newline;
                                return Ok(Some(self.take(cut, fault)));
                            }
                        }
                        Some(_) => {
                            let cut = self.cut_line()?;
                            return Ok(Some(self.take(cut, None)));
                        }
                    }
                }
                Place::Elements { in_wrapper } => match self.skip_element_separators()? {
                    Separated::End => return Ok(Some(self.take(Cut::End, None))),
                    Separated::Line => {
                        self.place = Place::TopLevel;
                        return Ok(Some(self.take(Cut::Line { end: self.start }, None)));
                    }
                    Separated::Close => {
                        self.consume(self.start + 1);
                        self.place = if in_wrapper { Place::WrapperTail } else { Place::TopLevel };
                        self.is_lines |= !in_wrapper && !self.saw_newline;
                    }
                    Separated::Element(first) => {
                        let scan = Scan::new(self.newline_in_container());
                        let cut = match first {
                            b'{' | b'[' => self.cut_value(scan, self.start)?,
                            _ => self.cut_scalar(scan)?,
                        };
                        if let Cut::Line { .. } = cut {
                            self.place = Place::TopLevel;
                        }
                        return Ok(Some(self.take(cut, None)));
                    }
                },
                // Other members behind `Records` are no records, however large or deep: they are passed over.
                Place::WrapperTail => {
                    let members = Members::behind_value(self.newline_in_container());
                    match self.follow_members(members, self.start)? {
                        None => {}
                        Some((cut, fault)) => {
                            self.is_lines |= !self.saw_newline;
                            self.place = Place::TopLevel;
                            match (cut, fault) {
                                (Cut::Closed { end, .. }, None) => self.consume(end),
                                (cut, fault) => return Ok(Some(self.take(cut, fault))),
                            }
                        }
                    }
                }
                Place::Done => return Ok(None),
            }
        }
    }

    fn newline_in_container(&self) -> Newline {
        if self.is_lines { Newline::Breaks } else { Newline::Passes }
    }

    /// Follows the members of an object, and enters `Records` if it meets it (`None`). Otherwise finds where the object
    /// ends, and what is wrong with it although it does.
    fn follow_members(
        &mut self,
        mut members: Members,
        from: usize,
    ) -> Result<Option<(Cut, Option<Reason>)>, io::Error> {
        let Some((at, met)) = self.follow(from, |bytes| members.advance(bytes))? else {
            return Ok(Some((Cut::End, None)));
        };
        Ok(Some(match met {
            Met::Records => {
                self.consume(at);
                self.place = Place::Elements { in_wrapper: true };
                return Ok(None);
            }
            Met::Close => (Cut::Closed { end: at, deepest: members.scan.deepest }, None),
            Met::Newline => (Cut::Line { end: at }, None),
            Met::NotAnArray => (self.cut_value(members.scan, at)?, Some(Reason::RecordsNotAnArray)),
            // Only its brackets can tell where it ends.
            Met::Unusual => (self.cut_value(members.scan, at)?, Some(Reason::BrokenJson)),
        }))
    }

    /// Finds the end of a value by its brackets, followed from `from` on.
    fn cut_value(&mut self, mut scan: Scan, from: usize) -> Result<Cut, io::Error> {
        let stopped = self.follow(from, |bytes| scan.advance(bytes, 0))?;
        Ok(Cut::new(stopped, scan.deepest))
    }

    /// Cuts a number, word or garbage among the elements of an array.
    fn cut_scalar(&mut self, mut scan: Scan) -> Result<Cut, io::Error> {
        let stopped = self.follow(self.start, |bytes| scan.advance_scalar(bytes))?;
        Ok(Cut::new(stopped, 0))
    }

    /// Cuts to the end of the line: at top level, what begins with no bracket is no record but may be JSON.
    fn cut_line(&mut self) -> Result<Cut, io::Error> {
        let stopped = self.follow(self.start, |bytes| memchr(b'\n', bytes).map(|at| (at, Stop::Closed)))?;
        let is_last_line = stopped.is_none() && self.ended == Some(Ok(()));
        Ok(if is_last_line { Cut::Closed { end: self.buffer.len(), deepest: 0 } } else { Cut::new(stopped, 0) })
    }

    /// Passes the bytes from `from` on, each once, until `advance` stops; where, or `None` at the end.
    ///
    /// Keeps at most [`RECORD_BYTES_MAX`] and a read of what is not consumed, beyond that only its beginning.
    fn follow<T>(
        &mut self,
        from: usize,
        mut advance: impl FnMut(&[u8]) -> Option<(usize, T)>,
    ) -> Result<Option<(usize, T)>, io::Error> {
        let mut passed = from;
        loop {
            let ahead = &self.buffer[passed..];
            let found = advance(ahead);
            let length = found.as_ref().map_or(ahead.len(), |(at, _)| *at);
            let needs_newline = !self.is_lines && !self.saw_newline;
            self.saw_newline |= needs_newline && memchr(b'\n', &ahead[..length]).is_some();
            self.count_work(length);
            passed += length;
            if let Some((_, stop)) = found {
                return Ok(Some((passed, stop)));
            }
            if RECORD_BYTES_MAX < passed - self.start {
                let kept = self.start + EXCERPT_BYTES;
                self.dropped_bytes += (passed - kept) as u64;
                self.buffer.truncate(kept);
                passed = kept;
            }
            let consumed = self.start;
            if !self.fill()? {
                return Ok(None);
            }
            passed -= consumed - self.start;
        }
    }

    /// The piece a cut stands for; consumes it. `fault` is what is wrong with a value that is closed.
    fn take(&mut self, cut: Cut, fault: Option<Reason>) -> Piece<'_> {
        let begin = self.start;
        let offset = self.buffer_offset + begin as u64;
        let (end, mut reason, mut is_whole) = match cut {
            Cut::Closed { end, deepest } => {
                let too_deep = (NESTING_MAX < deepest).then_some(Reason::NestedTooDeep);
                (end, fault.or(too_deep), true)
            }
            Cut::Line { end } => (end, Some(Reason::BrokenJson), true),
            Cut::End => {
                self.place = Place::Done;
                let fault = self.ended.and_then(Result::err);
                (self.buffer.len(), Some(fault.unwrap_or(Reason::BrokenJson)), false)
            }
        };
        let length = (end - begin) as u64 + self.dropped_bytes;
        if is_whole && (RECORD_BYTES_MAX as u64) < length {
            (reason, is_whole) = (Some(Reason::RecordTooLarge), false);
        }
        self.consume(end);
        let bytes = &self.buffer[begin..end];
        match reason {
            None => Piece::Record { bytes: bytes.trim_ascii_end(), offset },
            Some(reason) => {
                let kept = if is_whole { bytes } else { &bytes[..bytes.len().min(EXCERPT_BYTES)] };
                Piece::Broken { reason, bytes: kept, offset, is_whole }
            }
        }
    }

    fn consume(&mut self, end: usize) {
        self.start = end;
        self.buffer_offset += std::mem::take(&mut self.dropped_bytes);
    }

    /// All of the object is one piece; only its beginning is kept, and read.
    fn not_json(&mut self) -> Result<Piece<'_>, io::Error> {
        while self.buffer.len() - self.start < EXCERPT_BYTES && self.fill()? {}
        self.place = Place::Done;
        let bytes = &self.buffer[self.start..];
        let offset = self.buffer_offset + self.start as u64;
        let kept = &bytes[..bytes.len().min(EXCERPT_BYTES)];
        Ok(Piece::Broken { reason: Reason::NotJson, bytes: kept, offset, is_whole: false })
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), io::Error> {
        while self.buffer.len() - self.start < 3 && self.fill()? {}
        if self.buffer[self.start..].starts_with(b"\xef\xbb\xbf") {
            self.start += 3;
        }
        Ok(())
    }

    /// Skips white space, and commas where they may separate values; returns the next byte.
    fn skip_blanks(&mut self, commas: bool) -> Result<Option<u8>, io::Error> {
        loop {
            while let Some(&byte) = self.buffer.get(self.start) {
                match byte {
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    b',' if commas => {}
                    _ => return Ok(Some(byte)),
                }
                self.start += 1;
                self.count_work(1);
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn skip_element_separators(&mut self) -> Result<Separated, io::Error> {
        loop {
            while let Some(&byte) = self.buffer.get(self.start) {
                match byte {
                    b'\n' if self.is_lines => return Ok(Separated::Line),
                    b'\n' => self.saw_newline = true,
                    b' ' | b'\t' | b'\r' | b',' => {}
                    b']' => return Ok(Separated::Close),
                    first => return Ok(Separated::Element(first)),
                }
                self.start += 1;
                self.count_work(1);
            }
            if !self.fill()? {
                return Ok(Separated::End);
            }
        }
    }

    /// Reads [`READ_BYTES`] more behind what is there, fewer only at the end, dropping what is consumed; `false` if
    /// there are none.
    ///
    /// However the bytes trickle in, what the buffer holds depends on the object alone.
    fn fill(&mut self) -> Result<bool, io::Error> {
        if self.ended.is_some() {
            return Ok(false);
        }
        if 0 < self.start {
            self.buffer.drain(..self.start);
            self.buffer_offset += self.start as u64;
            self.start = 0;
            self.count_work(self.buffer.len());
        }
        let full = self.buffer.len() + self.read_bytes;
        let before = self.buffer.len();
        let mut filled = before;
        self.buffer.resize(full, 0);
        self.count_work(self.read_bytes);
        while filled < full && self.ended.is_none() {
            match self.input.read(&mut self.buffer[filled..]) {
                Ok(0) => self.ended = Some(Ok(())),
                Ok(count) => filled += count,
                Err(InflateError::Fault(reason)) => self.ended = Some(Err(reason)),
                Err(InflateError::Io(error)) => return Err(error),
            }
        }
        self.buffer.truncate(filled);
        Ok(before < filled)
    }

    #[cfg(test)]
    fn count_work(&mut self, bytes: usize) {
        self.work_bytes += bytes as u64;
    }

    #[cfg(not(test))]
    fn count_work(&mut self, _: usize) {}
}

enum Separated {
    Element(u8),
    Close,
    /// A newline where every value had been on one line.
    Line,
    End,
}

/// Where a value ends in the buffer, and how.
enum Cut {
    Closed {
        end: usize,
        deepest: u32,
    },
    Line {
        end: usize,
    },
    /// The object ended inside the value.
    End,
}

impl Cut {
    fn new(stopped: Option<(usize, Stop)>, deepest: u32) -> Self {
        match stopped {
            Some((end, Stop::Closed)) => Self::Closed { end, deepest },
            Some((end, Stop::Newline)) => Self::Line { end },
            None => Self::End,
        }
    }
}

/// What a newline means inside a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newline {
    Passes,
    /// A raw newline in a string is no JSON; in a file of lines it is the end of a broken one.
    BreaksInString,
    Breaks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Closed,
    Newline,
}

/// Follows brackets and strings; resumes where the bytes ended.
struct Scan {
    newline: Newline,
    depth: u32,
    deepest: u32,
    in_string: bool,
    is_escaped: bool,
}

impl Scan {
    fn new(newline: Newline) -> Self {
        Self { newline, depth: 0, deepest: 0, in_string: false, is_escaped: false }
    }

    /// Begins inside an object instead of before it.
    fn inside(newline: Newline) -> Self {
        Self { depth: 1, deepest: 1, ..Self::new(newline) }
    }

    /// Scans on; the position behind the bracket that closes down to `depth`, or of the newline.
    fn advance(&mut self, bytes: &[u8], depth: u32) -> Option<(usize, Stop)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string {
                match self.advance_in_string(bytes, at)? {
                    (behind, Stop::Closed) => at = behind,
                    broken => return Some(broken),
                }
                continue;
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    self.deepest = self.deepest.max(self.depth);
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == depth {
                        return Some((at + 1, Stop::Closed));
                    }
                }
                b'\n' if self.newline == Newline::Breaks => return Some((at, Stop::Newline)),
                _ => {}
            }
            at += 1;
        }
        None
    }

    /// Scans on; the position of the comma or bracket that ends an element without brackets, or of the newline.
    fn advance_scalar(&mut self, bytes: &[u8]) -> Option<(usize, Stop)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string {
                match self.advance_in_string(bytes, at)? {
                    (behind, Stop::Closed) => at = behind,
                    broken => return Some(broken),
                }
                continue;
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b',' | b']' => return Some((at, Stop::Closed)),
                b'\n' if self.newline == Newline::Breaks => return Some((at, Stop::Newline)),
                _ => {}
            }
            at += 1;
        }
        None
    }

    /// Scans on inside a string from `at` on; the position behind its closing quote, or of the newline.
    fn advance_in_string(&mut self, bytes: &[u8], mut at: usize) -> Option<(usize, Stop)> {
        loop {
            if self.is_escaped {
                // An escaped newline is no JSON either: a line that was cut behind a backslash.
                if *bytes.get(at)? == b'\n' && self.newline != Newline::Passes {
                    return Some((at, Stop::Newline));
                }
                self.is_escaped = false;
                at += 1;
            }
            let rest = &bytes[at..];
            at += match self.newline {
                Newline::Passes => memchr2(b'"', b'\\', rest),
                Newline::BreaksInString | Newline::Breaks => memchr3(b'"', b'\\', b'\n', rest),
            }?;
            match bytes[at] {
                b'"' => {
                    self.in_string = false;
                    return Some((at + 1, Stop::Closed));
                }
                b'\\' => self.is_escaped = true,
                _ => return Some((at, Stop::Newline)),
            }
            at += 1;
        }
    }
}

/// What stops following an object's members, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// `Records` is an array; behind its opening bracket.
    Records,
    /// `Records` is something else; at its first byte.
    NotAnArray,
    /// The object ends; behind its closing brace.
    Close,
    /// A newline that ends a broken line; at it.
    Newline,
    /// Not an object as JSON has it; at the first byte that is not.
    Unusual,
}

/// Follows the members of an object, looking for `Records`; resumes where the bytes ended.
struct Members {
    expected: Expected,
    /// Follows strings and nested values; everywhere else it stands one level deep, outside of strings.
    scan: Scan,
    /// The beginning of a key that the bytes ended in.
    key: Vec<u8>,
    is_records: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Key,
    KeyEnd,
    Colon,
    Value,
    StringEnd,
    NestedEnd,
    ScalarEnd,
    Comma,
}

impl Members {
    /// Longest key that can be `Records`: every letter escaped.
    const KEY_BYTES_MAX: usize = "Records".len() * "\\u0052".len();

    /// Begins behind the object's opening brace.
    fn new(newline: Newline) -> Self {
        Self { expected: Expected::Key, scan: Scan::inside(newline), key: Vec::new(), is_records: false }
    }

    /// Begins behind the value of a member.
    fn behind_value(newline: Newline) -> Self {
        Self { expected: Expected::Comma, ..Self::new(newline) }
    }

    /// Follows on until something is met.
    fn advance(&mut self, bytes: &[u8]) -> Option<(usize, Met)> {
        let mut at = 0;
        while at < bytes.len() {
            match self.expected {
                Expected::KeyEnd | Expected::StringEnd => {
                    let begin = at;
                    let is_key = self.expected == Expected::KeyEnd;
                    match self.scan.advance_in_string(bytes, at) {
                        Some((behind, Stop::Closed)) => at = behind,
                        Some((at, Stop::Newline)) => return Some((at, Met::Newline)),
                        None => {
                            if is_key {
                                self.keep_key(&bytes[begin..]);
                            }
                            return None;
                        }
                    }
                    if is_key {
                        self.is_records = self.ends_records_key(&bytes[begin..at - 1]);
                    }
                    self.expected = if is_key { Expected::Colon } else { Expected::Comma };
                }
                Expected::NestedEnd => match self.scan.advance(&bytes[at..], 1)? {
                    (length, Stop::Closed) => {
                        at += length;
                        self.expected = Expected::Comma;
                    }
                    (length, Stop::Newline) => return Some((at + length, Met::Newline)),
                },
                Expected::ScalarEnd => {
                    let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b'\n' | b'"' | b'{' | b'[');
                    at += bytes[at..].iter().position(ends)?;
                    self.expected = Expected::Comma;
                }
                Expected::Key | Expected::Colon | Expected::Value | Expected::Comma => {
                    match bytes[at] {
                        b'\n' if self.scan.newline == Newline::Breaks => return Some((at, Met::Newline)),
                        b' ' | b'\t' | b'\r' | b'\n' => {}
                        byte => match self.token(byte) {
                            Ok(expected) => {
                                self.expected = expected;
                                if matches!(expected, Expected::NestedEnd | Expected::ScalarEnd) {
                                    continue;
                                }
                            }
                            Err(met @ (Met::Close | Met::Records)) => return Some((at + 1, met)),
                            Err(met) => return Some((at, met)),
                        },
                    }
                    at += 1;
                }
            }
        }
        None
    }

    /// What is expected behind a token where another begins, or what it means that it stands there.
    fn token(&mut self, byte: u8) -> Result<Expected, Met> {
        match (self.expected, byte) {
            (Expected::Key, b'"') => {
                self.scan.in_string = true;
                self.key.clear();
                Ok(Expected::KeyEnd)
            }
            (Expected::Key | Expected::Comma, b'}') => Err(Met::Close),
            (Expected::Colon, b':') => Ok(Expected::Value),
            (Expected::Value, b'[') if self.is_records => Err(Met::Records),
            (Expected::Value, _) if self.is_records => Err(Met::NotAnArray),
            (Expected::Value, b'"') => {
                self.scan.in_string = true;
                Ok(Expected::StringEnd)
            }
            (Expected::Value, b'{' | b'[') => Ok(Expected::NestedEnd),
            (Expected::Value, b',' | b'}' | b']' | b':') => Err(Met::Unusual),
            (Expected::Value, _) => Ok(Expected::ScalarEnd),
            (Expected::Comma, b',') => Ok(Expected::Key),
            _ => Err(Met::Unusual),
        }
    }

    fn keep_key(&mut self, part: &[u8]) {
        let room = (Self::KEY_BYTES_MAX + 1).saturating_sub(self.key.len());
        self.key.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// A key may be written with escapes; one that is not is compared as it stands.
    fn ends_records_key(&mut self, part: &[u8]) -> bool {
        let key = if self.key.is_empty() {
            part
        } else {
            self.keep_key(part);
            &self.key
        };
        key == b"Records"
            || memchr(b'\\', key).is_some()
                && key.len() <= Self::KEY_BYTES_MAX
                && serde_json::from_slice::<String>(&[b"\"", key, b"\""].concat()).is_ok_and(|key| key == "Records")
    }
}

#[cfg(test)]
mod tests;
