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

/// A piece of a source object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// One JSON value, delimited but not parsed.
    Record { bytes: &'a [u8], offset: u64 },
    /// A stretch that is no record. `is_whole` says whether `bytes` is all of it, or only its beginning.
    Broken { reason: Reason, bytes: &'a [u8], offset: u64, is_whole: bool },
}

/// Cuts an inflated object into pieces.
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
    /// Every value so far began and ended on one line: a newline ends a broken one.
    is_lines: bool,
    saw_newline: bool,
    /// Bytes cut out of the value being scanned, because it is too large to keep.
    dropped_bytes: u64,
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
        }
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
                        None => self.place = Place::TopLevel,
                        Some(b'{' | b'[') => self.place = Place::TopLevel,
                        Some(_) => return self.rest(Reason::NotJson).map(Some),
                    }
                }
                Place::TopLevel => match self.skip_blanks(true)? {
                    None => {
                        self.place = Place::Done;
                        if let Some(Err(fault)) = self.ended {
                            return Ok(Some(self.broken(fault, self.start, false)));
                        }
                    }
                    Some(b'[') => self.enter(1, Place::Elements { in_wrapper: false }),
                    Some(b'{') => match self.open_object()? {
                        Opened::Entered => {}
                        Opened::Value(cut, not_an_array) => {
                            let is_one_line = memchr(b'\n', self.cut_bytes(&cut)).is_none();
                            self.is_lines |= is_one_line && matches!(cut, Cut::Complete { .. });
                            return Ok(Some(self.take(cut, not_an_array)));
                        }
                    },
                    Some(_) => {
                        let cut = self.cut_line()?;
                        return Ok(Some(self.take(cut, false)));
                    }
                },
                Place::Elements { in_wrapper } => match self.skip_element_separators()? {
                    Separated::End => return self.rest(Reason::BrokenJson).map(Some),
                    Separated::Line => {
                        self.place = Place::TopLevel;
                        return Ok(Some(self.broken(Reason::BrokenJson, self.start, true)));
                    }
                    Separated::Close => {
                        self.start += 1;
                        self.place = if in_wrapper { Place::WrapperTail } else { Place::TopLevel };
                        self.is_lines |= !in_wrapper && !self.saw_newline;
                    }
                    Separated::Element(first) => {
                        let cut = match first {
                            b'{' | b'[' => self.cut_value(Scan::new(self.newline_in_container()))?,
                            _ => self.cut_scalar()?,
                        };
                        if let Cut::Line { .. } = cut {
                            self.place = Place::TopLevel;
                        }
                        self.saw_newline |= memchr(b'\n', self.cut_bytes(&cut)).is_some();
                        return Ok(Some(self.take(cut, false)));
                    }
                },
                Place::WrapperTail => match self.cut_value(Scan::inside(self.newline_in_container()))? {
                    Cut::Complete { end } => {
                        self.saw_newline |= memchr(b'\n', &self.buffer[self.start..end]).is_some();
                        self.start = end;
                        self.is_lines |= !self.saw_newline;
                        self.place = Place::TopLevel;
                    }
                    // What stands behind the records is no record, however large.
                    cut @ (Cut::TooLarge { .. } | Cut::TooDeep { .. }) => {
                        self.take(cut, false);
                        self.place = Place::TopLevel;
                    }
                    cut @ (Cut::Line { .. } | Cut::End) => {
                        self.place = Place::TopLevel;
                        return Ok(Some(self.take(cut, false)));
                    }
                },
                Place::Done => return Ok(None),
            }
        }
    }

    fn enter(&mut self, consumed: usize, place: Place) {
        self.start += consumed;
        self.place = place;
        self.saw_newline = false;
    }

    fn newline_in_container(&self) -> Newline {
        if self.is_lines { Newline::Breaks } else { Newline::Passes }
    }

    /// Enters a wrapper with `Records`, or cuts the object as one value.
    fn open_object(&mut self) -> Result<Opened, io::Error> {
        let newline = if self.is_lines { Newline::Breaks } else { Newline::BreaksInString };
        let not_an_array = loop {
            match walk_object(&self.buffer[self.start..], newline) {
                Walk::Records { elements } => {
                    self.enter(elements, Place::Elements { in_wrapper: true });
                    return Ok(Opened::Entered);
                }
                Walk::Object { end, deepest } => {
                    return Ok(Opened::Value(Cut::closed(self.start + end, deepest), false));
                }
                Walk::RecordsNotAnArray => break true,
                Walk::Unusual => break false,
                Walk::NeedsMore if self.buffer.len() - self.start > RECORD_BYTES_MAX => break false,
                Walk::NeedsMore => {
                    if !self.fill()? {
                        break false;
                    }
                }
            }
        };
        Ok(Opened::Value(self.cut_value(Scan::new(newline))?, not_an_array))
    }

    /// Finds the end of a value by its brackets. Keeps at most [`RECORD_BYTES_MAX`] of it.
    fn cut_value(&mut self, mut scan: Scan) -> Result<Cut, io::Error> {
        let mut scanned = self.start;
        let mut is_too_large = false;
        let cut = loop {
            if let Some((at, stop)) = scan.advance(&self.buffer[scanned..]) {
                let end = scanned + at;
                break match stop {
                    Stop::Newline => Cut::Line { end },
                    Stop::Closed if is_too_large => Cut::TooLarge { end },
                    Stop::Closed => Cut::closed(end, scan.deepest),
                };
            }
            scanned = self.buffer.len();
            if RECORD_BYTES_MAX < scanned - self.start {
                // Only the beginning of something this large is kept; the brackets are still followed to its end.
                is_too_large = true;
                let dropped = scanned - self.start - EXCERPT_BYTES;
                self.buffer.truncate(self.start + EXCERPT_BYTES);
                self.dropped_bytes += dropped as u64;
                scanned = self.buffer.len();
            }
            let consumed = self.start;
            if !self.fill()? {
                break Cut::End;
            }
            scanned -= consumed - self.start;
        };
        Ok(match cut {
            Cut::Line { end } if is_too_large => Cut::TooLarge { end },
            other => other,
        })
    }

    /// Cuts a number, word or garbage among the elements of an array.
    fn cut_scalar(&mut self) -> Result<Cut, io::Error> {
        let mut length = 0;
        let mut in_string = false;
        let mut is_escaped = false;
        loop {
            while let Some(&byte) = self.buffer.get(self.start + length) {
                match byte {
                    _ if is_escaped => is_escaped = false,
                    b'\\' if in_string => is_escaped = true,
                    b'"' => in_string = !in_string,
                    b'\n' if self.is_lines => return Ok(Cut::Line { end: self.start + length }),
                    b',' | b']' if !in_string => return Ok(Cut::Complete { end: self.start + length }),
                    _ => {}
                }
                length += 1;
            }
            if RECORD_BYTES_MAX < length || !self.fill()? {
                return Ok(Cut::End);
            }
        }
    }

    /// Cuts to the end of the line: at top level, what begins with no bracket is no record.
    fn cut_line(&mut self) -> Result<Cut, io::Error> {
        self.cut_value(Scan::line())
    }

    /// The piece a cut stands for; consumes it.
    fn take(&mut self, cut: Cut, not_an_array: bool) -> Piece<'_> {
        let begin = self.start;
        let offset = self.buffer_offset + begin as u64;
        let (end, broken) = match cut {
            Cut::Complete { end } if not_an_array => (end, Some((Reason::RecordsNotAnArray, true))),
            Cut::Complete { end } => (end, None),
            Cut::Line { end } => (end, Some((Reason::BrokenJson, true))),
            Cut::TooDeep { end } => (end, Some((Reason::NestedTooDeep, true))),
            Cut::TooLarge { end } => (end, Some((Reason::RecordTooLarge, false))),
            Cut::End => {
                self.place = Place::Done;
                (self.buffer.len(), Some((self.end_reason(), false)))
            }
        };
        self.start = end;
        self.buffer_offset += std::mem::take(&mut self.dropped_bytes);
        let bytes = &self.buffer[begin..end];
        match broken {
            None => Piece::Record { bytes: bytes.trim_ascii_end(), offset },
            Some((reason, is_whole)) => {
                let kept = if is_whole { bytes } else { &bytes[..bytes.len().min(EXCERPT_BYTES)] };
                Piece::Broken { reason, bytes: kept, offset, is_whole }
            }
        }
    }

    fn cut_bytes(&self, cut: &Cut) -> &[u8] {
        match cut {
            Cut::Complete { end } | Cut::Line { end } | Cut::TooLarge { end } | Cut::TooDeep { end } => {
                &self.buffer[self.start..*end]
            }
            Cut::End => &[],
        }
    }

    fn end_reason(&self) -> Reason {
        match self.ended {
            Some(Err(fault)) => fault,
            _ => Reason::BrokenJson,
        }
    }

    /// Everything that is left is one broken piece; only its beginning is kept, and read.
    fn rest(&mut self, reason: Reason) -> Result<Piece<'_>, io::Error> {
        while self.buffer.len() - self.start < EXCERPT_BYTES && self.fill()? {}
        self.place = Place::Done;
        let reason = match self.ended {
            Some(Err(fault)) => fault,
            _ => reason,
        };
        Ok(self.broken(reason, self.buffer.len(), false))
    }

    fn broken(&mut self, reason: Reason, end: usize, is_whole: bool) -> Piece<'_> {
        let begin = self.start;
        self.start = end;
        let kept = end.min(begin + EXCERPT_BYTES);
        let offset = self.buffer_offset + begin as u64;
        Piece::Broken { reason, bytes: &self.buffer[begin..kept], offset, is_whole }
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
            }
            if !self.fill()? {
                return Ok(Separated::End);
            }
        }
    }

    /// Reads more behind what is there, dropping what is consumed; `false` at the end.
    fn fill(&mut self) -> Result<bool, io::Error> {
        if self.ended.is_some() {
            return Ok(false);
        }
        if 0 < self.start {
            self.buffer.drain(..self.start);
            self.buffer_offset += self.start as u64;
            self.start = 0;
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_BYTES, 0);
        let read = self.input.read(&mut self.buffer[filled..]);
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.ended = Some(Ok(())),
            Ok(_) => return Ok(true),
            Err(InflateError::Fault(reason)) => self.ended = Some(Err(reason)),
            Err(InflateError::Io(error)) => return Err(error),
        }
        Ok(false)
    }
}

enum Opened {
    /// The elements of `Records` come next.
    Entered,
    /// One value; `true` when its `Records` is no array.
    Value(Cut, bool),
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
    Complete {
        end: usize,
    },
    Line {
        end: usize,
    },
    TooLarge {
        end: usize,
    },
    TooDeep {
        end: usize,
    },
    /// The object ended inside the value.
    End,
}

impl Cut {
    /// A value whose brackets are closed: complete, unless it nests too deep.
    fn closed(end: usize, deepest: u32) -> Self {
        if NESTING_MAX < deepest { Self::TooDeep { end } } else { Self::Complete { end } }
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
    ends_at_newline_only: bool,
}

impl Scan {
    fn new(newline: Newline) -> Self {
        Self { newline, depth: 0, deepest: 0, in_string: false, is_escaped: false, ends_at_newline_only: false }
    }

    /// Begins inside an object instead of before it.
    fn inside(newline: Newline) -> Self {
        Self { depth: 1, deepest: 1, ..Self::new(newline) }
    }

    fn line() -> Self {
        Self { ends_at_newline_only: true, ..Self::new(Newline::Breaks) }
    }

    /// Scans on; the position behind the closing bracket, or of the newline.
    fn advance(&mut self, bytes: &[u8]) -> Option<(usize, Stop)> {
        if self.ends_at_newline_only {
            return memchr(b'\n', bytes).map(|at| (at, Stop::Newline));
        }
        let mut at = 0;
        while at < bytes.len() {
            if self.is_escaped {
                self.is_escaped = false;
                at += 1;
                continue;
            }
            if self.in_string {
                let rest = &bytes[at..];
                let found = match self.newline {
                    Newline::Passes => memchr2(b'"', b'\\', rest),
                    Newline::BreaksInString | Newline::Breaks => memchr3(b'"', b'\\', b'\n', rest),
                }?;
                at += found;
                match bytes[at] {
                    b'"' => self.in_string = false,
                    b'\\' => self.is_escaped = true,
                    _ => return Some((at, Stop::Newline)),
                }
                at += 1;
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
                    if self.depth == 0 {
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
}

enum Walk {
    /// `Records` is an array; its elements begin here.
    Records {
        elements: usize,
    },
    RecordsNotAnArray,
    /// The object has no `Records` and ends here.
    Object {
        end: usize,
        deepest: u32,
    },
    NeedsMore,
    /// Not an object as JSON has it; only its brackets can tell where it ends.
    Unusual,
}

/// Walks the keys of the object that `bytes` begins with, looking for `Records`.
fn walk_object(bytes: &[u8], newline: Newline) -> Walk {
    let mut at = 1;
    let mut deepest = 1;
    loop {
        match next_token(bytes, &mut at, newline) {
            Token::Byte(b'}') => return Walk::Object { end: at + 1, deepest },
            Token::Byte(b'"') => {}
            other => return other.unexpected(),
        }
        let key_begin = at + 1;
        at += 1;
        match skip_string(bytes, &mut at, newline) {
            Token::Byte(_) => {}
            other => return other.unexpected(),
        }
        let is_records = is_records_key(&bytes[key_begin..at - 1]);
        match next_token(bytes, &mut at, newline) {
            Token::Byte(b':') => at += 1,
            other => return other.unexpected(),
        }
        let first = match next_token(bytes, &mut at, newline) {
            Token::Byte(first) => first,
            other => return other.unexpected(),
        };
        match (is_records, first) {
            (true, b'[') => return Walk::Records { elements: at + 1 },
            (true, _) => return Walk::RecordsNotAnArray,
            (false, b'"') => {
                at += 1;
                match skip_string(bytes, &mut at, newline) {
                    Token::Byte(_) => {}
                    other => return other.unexpected(),
                }
            }
            (false, b'{' | b'[') => {
                let mut scan = Scan::new(newline);
                match scan.advance(&bytes[at..]) {
                    Some((length, Stop::Closed)) => at += length,
                    Some((_, Stop::Newline)) => return Walk::Unusual,
                    None => return Walk::NeedsMore,
                }
                deepest = deepest.max(1 + scan.deepest);
            }
            (false, b',' | b'}' | b']' | b':') => return Walk::Unusual,
            (false, _) => {
                while bytes.get(at).is_some_and(|byte| !matches!(byte, b',' | b'}' | b'\n' | b'"' | b'{' | b'[')) {
                    at += 1;
                }
            }
        }
        match next_token(bytes, &mut at, newline) {
            Token::Byte(b',') => at += 1,
            Token::Byte(b'}') => return Walk::Object { end: at + 1, deepest },
            other => return other.unexpected(),
        }
    }
}

/// A key may be written with escapes; one that is not is compared as it stands.
fn is_records_key(key: &[u8]) -> bool {
    const LONGEST: usize = "Records".len() * "\\u0052".len();
    key == b"Records"
        || memchr(b'\\', key).is_some()
            && key.len() <= LONGEST
            && serde_json::from_slice::<String>(&[b"\"", key, b"\""].concat()).is_ok_and(|key| key == "Records")
}

enum Token {
    Byte(u8),
    Newline,
    NeedsMore,
}

impl Token {
    fn unexpected(self) -> Walk {
        match self {
            Self::NeedsMore => Walk::NeedsMore,
            Self::Byte(_) | Self::Newline => Walk::Unusual,
        }
    }
}

fn next_token(bytes: &[u8], at: &mut usize, newline: Newline) -> Token {
    while let Some(&byte) = bytes.get(*at) {
        match byte {
            b'\n' if newline == Newline::Breaks => return Token::Newline,
            b' ' | b'\t' | b'\r' | b'\n' => *at += 1,
            other => return Token::Byte(other),
        }
    }
    Token::NeedsMore
}

/// Moves behind the closing quote of a string whose opening quote is passed.
fn skip_string(bytes: &[u8], at: &mut usize, newline: Newline) -> Token {
    loop {
        let Some(found) = memchr3(b'"', b'\\', b'\n', &bytes[*at..]) else { return Token::NeedsMore };
        *at += found;
        match bytes[*at] {
            b'"' => {
                *at += 1;
                return Token::Byte(b'"');
            }
            b'\\' if *at + 2 <= bytes.len() => *at += 2,
            b'\\' => return Token::NeedsMore,
            _ if newline == Newline::Passes => *at += 1,
            _ => return Token::Newline,
        }
        if bytes.len() < *at {
            return Token::NeedsMore;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every piece as text, read in steps of `step` bytes: records as they are, broken stretches as `reason: beginning`.
    fn pieces(content: &[u8], step: usize) -> Vec<String> {
        struct Steps<'a>(&'a [u8], usize);
        impl Read for Steps<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.1.min(self.0.len()).min(buffer.len());
                buffer[..count].copy_from_slice(&self.0[..count]);
                self.0 = &self.0[count..];
                Ok(count)
            }
        }
        let mut records = Records::new(Inflate::open(Steps(content, step)).unwrap());
        let mut found = Vec::new();
        while let Some(piece) = records.next().unwrap() {
            found.push(match piece {
                Piece::Record { bytes, offset } => {
                    let begin = usize::try_from(offset).unwrap();
                    assert_eq!(&content[begin..begin + bytes.len()], bytes, "the offset names the record");
                    String::from_utf8_lossy(bytes).into_owned()
                }
                Piece::Broken { reason, bytes, .. } => {
                    format!("{reason}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]))
                }
            });
        }
        found
    }

    #[track_caller]
    fn check(content: &str, expected: &[&str]) {
        for step in [1, 7, 1 << 20] {
            assert_eq!(pieces(content.as_bytes(), step), expected, "in steps of {step}");
        }
    }

    #[test]
    fn every_container_gives_its_records() {
        check(r#"{"Records":[{"a":1},{"b":[2]}]}"#, &[r#"{"a":1}"#, r#"{"b":[2]}"#]);
        check(
            "{ \"x\": {\"y\":[1]}, \"z\": \"}\", \"n\": -1.5e3, \"Records\" : [ {\"a\":1} , 7, \"t,]\" ] , \"more\": {} }",
            &[r#"{"a":1}"#, "7", r#""t,]""#],
        );
        check(r#"{"\u0052ecords":[{"a":1}]}"#, &[r#"{"a":1}"#]);
        check("[{\"a\":1},\n {\"b\":2}]\n", &[r#"{"a":1}"#, r#"{"b":2}"#]);
        check("{\"a\":1}\r\n{\"b\":2}\n\n{\"c\":3}", &[r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
        check("{\"Records\":[{\"a\":1}]}\n{\"Records\":[{\"b\":2}]}\n{\"Records\":[]}", &[r#"{"a":1}"#, r#"{"b":2}"#]);
        let pretty = "{\n  \"a\": 1,\n  \"b\": {\n \"c\": \"}\\\"{\" }\n}";
        check(&format!("{pretty}\n"), &[pretty]);
        check("\u{feff}{\"a\":1}", &[r#"{"a":1}"#]);
        for empty in ["{\"Records\":[]}", "", " \n"] {
            check(empty, &[]);
        }
        check(r#"{"a":1}{"b":2},{"c":3}"#, &[r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
    }

    #[test]
    fn a_broken_line_leaves_the_lines_around_it_alone() {
        for (line, found) in [
            ("{\"b\":", "broken_json: {\"b\":"),
            ("{\"b\":\"x", "broken_json: {\"b\":\"x"),
            ("garbage }", "broken_json: garbage }"),
        ] {
            check(&format!("{{\"a\":1}}\n{line}\n{{\"c\":3}}"), &[r#"{"a":1}"#, found, r#"{"c":3}"#]);
        }
        check("{\"a\n{\"c\":3}", &["broken_json: {\"a", r#"{"c":3}"#]);
        check(
            "{\"Records\":[{\"a\":1}]}\n{\"Records\":[{\"b\":2},\n{\"Records\":[{\"c\":3}]}",
            &[r#"{"a":1}"#, r#"{"b":2}"#, "broken_json: ", r#"{"c":3}"#],
        );
    }

    #[test]
    fn an_element_is_delimited_even_when_it_does_not_parse() {
        check(
            r#"{"Records":[{"a":1},{"b":,},nonsense,{"c":3}]}"#,
            &[r#"{"a":1}"#, r#"{"b":,}"#, "nonsense", r#"{"c":3}"#],
        );
    }

    #[test]
    fn a_structure_that_ends_early_is_one_broken_piece() {
        check(r#"{"Records":[{"a":1},{"b":2"#, &[r#"{"a":1}"#, r#"broken_json: {"b":2"#]);
        check(r#"{"Records":[{"a":1},"#, &[r#"{"a":1}"#, "broken_json: "]);
        check(r#"{"Records":[{"a":1}]"#, &[r#"{"a":1}"#, "broken_json: "]);
        check(r#"[{"a":1}"#, &[r#"{"a":1}"#, "broken_json: "]);
        check(r#"{"a":"#, &[r#"broken_json: {"a":"#]);
    }

    #[test]
    fn what_is_no_json_is_one_piece() {
        check("line\tvalue\n1\t2\n", &["not_json: line\tvalue\n1\t2\n"]);
        check(r#"{"Records":"none","a":[1]}"#, &[r#"records_not_an_array: {"Records":"none","a":[1]}"#]);
    }

    #[test]
    fn too_large_and_too_deep_are_refused_and_the_neighbours_stay() {
        let large = "x".repeat(RECORD_BYTES_MAX * 3);
        let content = format!("{{\"Records\":[{{\"a\":1}},{{\"b\":\"{large}\"}},{{\"c\":3}}]}}");
        let found = pieces(content.as_bytes(), 1 << 20);
        assert_eq!((found.len(), &*found[0], &*found[2]), (3, r#"{"a":1}"#, r#"{"c":3}"#));
        assert!(found[1].starts_with("record_too_large: {\"b\":\"xxx"));

        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let found = pieces(format!("[{{\"a\":1}},{deep},{{\"c\":3}}]").as_bytes(), 1 << 20);
        assert_eq!((found.len(), &*found[0], &*found[2]), (3, r#"{"a":1}"#, r#"{"c":3}"#));
        assert!(found[1].starts_with("nested_too_deep: [[["));
    }

    #[test]
    fn no_container_lets_a_record_nest_deeper_than_the_limit() {
        let at_once = |content: &str, expected: &[&str]| assert_eq!(pieces(content.as_bytes(), 1 << 20), expected);
        let record = |depth: u32| {
            let inner = depth as usize - 1;
            format!("{{\"a\":{}1{}}}", "[".repeat(inner), "]".repeat(inner))
        };
        for (depth, is_refused) in [(100, false), (101, true), (50_000, true)] {
            let record = record(depth);
            let found = if is_refused { format!("nested_too_deep: {}", &record[..40]) } else { record.clone() };
            let pretty = format!("{{\n  \"b\": 1,\n  {}\n}}", &record[1..record.len() - 1]);
            let pretty_found = if is_refused { format!("nested_too_deep: {}", &pretty[..40]) } else { pretty.clone() };
            at_once(&format!("{record}\n{{\"c\":3}}\n"), &[&found, r#"{"c":3}"#]);
            at_once(&format!("{{\"c\":3}}\n{record}"), &[r#"{"c":3}"#, &found]);
            at_once(&format!("{{\"Records\":[{record},{{\"c\":3}}]}}"), &[&found, r#"{"c":3}"#]);
            at_once(&format!("[{record},{{\"c\":3}}]"), &[&found, r#"{"c":3}"#]);
            at_once(&format!("[\n{record}\n]\n[{{\"c\":3}}]"), &[&found, r#"{"c":3}"#]);
            at_once(&format!("{pretty}\n{pretty}\n{{\"c\":3}}"), &[&pretty_found, &pretty_found, r#"{"c":3}"#]);
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::Write::write_all(&mut gzip, record.as_bytes()).unwrap();
            let gzip = gzip.finish().unwrap();
            let mut records = Records::new(Inflate::open(gzip.as_slice()).unwrap());
            let refused =
                Piece::Broken { reason: Reason::NestedTooDeep, bytes: record.as_bytes(), offset: 0, is_whole: true };
            let kept = Piece::Record { bytes: record.as_bytes(), offset: 0 };
            assert_eq!(records.next().unwrap(), Some(if is_refused { refused } else { kept }));
            assert_eq!(records.next().unwrap(), None);
        }
    }

    #[test]
    fn a_line_without_end_is_refused_in_bounded_memory() {
        let mut records = Records::new(Inflate::open(io::repeat(b'x').take(300 << 20)).unwrap());
        assert!(matches!(records.next(), Ok(Some(Piece::Broken { reason: Reason::NotJson, is_whole: false, .. }))));
        let line = io::Cursor::new(b"{\"a\":\"").chain(io::repeat(b'x').take(300 << 20));
        let mut records = Records::new(Inflate::open(line).unwrap());
        assert!(matches!(records.next(), Ok(Some(Piece::Broken { reason: Reason::BrokenJson, is_whole: false, .. }))));
        assert!(records.buffer.capacity() < 4 * RECORD_BYTES_MAX);
    }
}
