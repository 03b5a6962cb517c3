//! A log object to its records: everything in memory, a text that is cut where JSON says.

use std::io::Read as _;

use flate2::bufread::GzDecoder;

use crate::json::{Json, skip_blanks, value_at};

/// A record of an object, or the reason it is none.
pub(crate) type Record = Result<Json, &'static str>;

const NESTING_MAX: usize = 100;
const BROKEN: &str = "broken_json";
const TOO_DEEP: &str = "nested_too_deep";
const NOT_AN_ARRAY: &str = "records_not_an_array";

/// What is stored, inflated if it is gzip, and the reason if it is not whole.
pub(crate) fn content(stored: &[u8]) -> (Vec<u8>, Option<&'static str>) {
    if stored.starts_with(&[0x1f, 0x8b]) { gunzip(stored) } else { (stored.to_vec(), None) }
}

/// Every record of an object, or of what a delivery carries, as stored.
pub(crate) fn records(stored: &[u8]) -> Vec<Record> {
    let (content, fault) = content(stored);
    records_of_content(&content, fault)
}

/// Every record of a text that ends early for this reason, if it does.
pub(crate) fn records_of_content(content: &[u8], fault: Option<&'static str>) -> Vec<Record> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let (mut found, ends_open) = cut(content);
    if let Some(fault) = fault
        && !found.contains(&Err("not_json"))
    {
        // One dead letter for what is missing, not a second one for the record it was cut in.
        if ends_open {
            found.pop();
        }
        found.push(Err(fault));
    }
    found
}

/// The content of one or more gzip members, and the reason if it is not whole.
fn gunzip(stored: &[u8]) -> (Vec<u8>, Option<&'static str>) {
    let mut content = Vec::new();
    let mut rest = stored;
    while !rest.is_empty() {
        if !rest.starts_with(&[0x1f, 0x8b][..rest.len().min(2)]) {
            return (content, Some("gzip_corrupt"));
        }
        let mut member = GzDecoder::new(rest);
        let mut byte = [0];
        // A byte at a time, so that what comes before a fault still stands.
        loop {
            match member.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => content.push(byte[0]),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return (content, Some("gzip_truncated"));
                }
                Err(_) => return (content, Some("gzip_corrupt")),
            }
        }
        rest = member.into_inner();
    }
    (content, None)
}

/// Every record of a text, and whether the last one is a tail that does not end.
fn cut(text: &[u8]) -> (Vec<Record>, bool) {
    let mut at = skip_blanks(text, 0);
    if at == text.len() {
        return (Vec::new(), false);
    }
    if !matches!(text[at], b'{' | b'[') {
        return (vec![Err("not_json")], false);
    }
    let mut found = Vec::new();
    // Once a value began and ended on one line, these are JSON lines: each line is for itself.
    let mut are_lines = false;
    loop {
        while at < text.len() && matches!(text[at], b' ' | b'\t' | b'\r' | b'\n' | b',') {
            at += 1;
        }
        if at == text.len() {
            return (found, false);
        }
        let line_end = text[at..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |length| at + length);
        if !matches!(text[at], b'{' | b'[') {
            found.push(parse(&text[at..line_end]));
            if line_end == text.len() {
                return (found, true);
            }
            at = line_end;
            continue;
        }
        let limit = if are_lines { line_end } else { text.len() };
        let behind = match value_at(&text[..limit], at) {
            Ok((value, behind)) => {
                found.extend(records_of(value));
                behind
            }
            Err(_) => {
                let (salvaged, behind) = salvage(&text[..limit], at);
                found.extend(salvaged);
                match behind {
                    Some(behind) => behind,
                    None if limit == text.len() => return (found, true),
                    None => {
                        at = limit;
                        continue;
                    }
                }
            }
        };
        are_lines |= behind <= line_end;
        at = behind;
    }
}

/// The records a whole JSON value at top level holds: every `Records` of a wrapper counts.
fn records_of(value: Json) -> Vec<Record> {
    match value {
        Json::Array(elements) => elements.into_iter().map(Ok).collect(),
        Json::Object(members) if members.iter().any(|(key, _)| key.as_deref() == Some("Records")) => {
            let mut found = Vec::new();
            for (key, member) in members {
                match member {
                    _ if key.as_deref() != Some("Records") => {}
                    Json::Array(elements) => found.extend(elements.into_iter().map(Ok)),
                    _ => {
                        found.push(Err(NOT_AN_ARRAY));
                        return found;
                    }
                }
            }
            found
        }
        other => vec![Ok(other)],
    }
}

/// The JSON value that a stretch is, or the reason it is none: one that nests too deep is not looked into any further.
fn parse(text: &[u8]) -> Record {
    Json::parse(text).map_err(|_| not_parsed(text))
}

fn not_parsed(text: &[u8]) -> &'static str {
    let is_too_deep = matches!(text.first(), Some(b'{' | b'[')) && NESTING_MAX < bracket_depth(text);
    if is_too_deep { TOO_DEEP } else { BROKEN }
}

/// Behind the string that begins at `at`; `None` if it does not end.
fn skip_string(text: &[u8], mut at: usize) -> Option<usize> {
    at += 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            b'"' => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Behind the bracket that closes what is open; `None` if there is none.
fn skip_balanced(text: &[u8], mut at: usize, mut depth: i64) -> Option<usize> {
    while at < text.len() {
        match text[at] {
            b'"' => {
                at = skip_string(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// How deep brackets nest, whether or not they match.
fn bracket_depth(text: &[u8]) -> usize {
    let (mut at, mut depth, mut deepest) = (0, 0_usize, 0);
    while at < text.len() {
        match text[at] {
            b'"' => match skip_string(text, at) {
                Some(behind) => {
                    at = behind;
                    continue;
                }
                None => return deepest,
            },
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// The first newline inside a string of the object at `at`; `None` if it closes, or the text ends, before one.
fn newline_in_string(text: &[u8], mut at: usize) -> Option<usize> {
    let (mut depth, mut in_string) = (0_i64, false);
    while at < text.len() {
        match (in_string, text[at]) {
            (true, b'\n') => return Some(at),
            (true, b'\\') if text.get(at + 1) != Some(&b'\n') => at += 1,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => {
                depth -= 1;
                if depth == 0 {
                    return None;
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The elements of an array whose opening bracket is before `at`, and where it closed (`None`: it did not).
fn elements(text: &[u8], mut at: usize) -> (Vec<Record>, Option<usize>) {
    let mut found = Vec::new();
    loop {
        at = skip_blanks(text, at);
        let behind = match text.get(at) {
            None => None,
            Some(b']') => return (found, Some(at + 1)),
            Some(b',') => {
                at += 1;
                continue;
            }
            Some(b'{' | b'[') => skip_balanced(text, at, 0),
            Some(_) => skip_scalar(text, at),
        };
        let Some(behind) = behind else {
            found.push(Err(BROKEN));
            return (found, None);
        };
        found.push(parse(&text[at..behind]));
        at = behind;
    }
}

/// The comma or bracket that ends an element without brackets.
fn skip_scalar(text: &[u8], mut at: usize) -> Option<usize> {
    while at < text.len() && !matches!(text[at], b',' | b']') {
        at = if text[at] == b'"' { skip_string(text, at)? } else { at + 1 };
    }
    (at < text.len()).then_some(at)
}

/// What stops the members of an object.
enum Met {
    /// `Records` is an array; behind its opening bracket.
    Records(usize),
    /// `Records` is something else; at its first byte.
    NotAnArray(usize),
    /// Behind the closing brace.
    Close(usize),
    /// Something that no object has there; at it.
    Unusual(usize),
    End,
}

/// Follows the members of an object from inside it on; `expects_key` is false behind a member's value.
fn follow_members(text: &[u8], mut at: usize, mut expects_key: bool) -> Met {
    loop {
        at = skip_blanks(text, at);
        match text.get(at) {
            None => return Met::End,
            Some(b'}') => return Met::Close(at + 1),
            Some(b',') if !expects_key => {
                expects_key = true;
                at += 1;
                continue;
            }
            Some(b'"') if expects_key => {}
            Some(_) => return Met::Unusual(at),
        }
        let Some(behind) = skip_string(text, at) else { return Met::End };
        let is_records = parse(&text[at..behind]).is_ok_and(|key| key.text() == Some("Records"));
        at = skip_blanks(text, behind);
        match text.get(at) {
            None => return Met::End,
            Some(b':') => {}
            Some(_) => return Met::Unusual(at),
        }
        at = skip_blanks(text, at + 1);
        let behind = match text.get(at) {
            None => return Met::End,
            Some(b'[') if is_records => return Met::Records(at + 1),
            Some(_) if is_records => return Met::NotAnArray(at),
            Some(b',' | b'}' | b']' | b':') => return Met::Unusual(at),
            Some(b'"') => skip_string(text, at),
            Some(b'{' | b'[') => skip_balanced(text, at, 0),
            Some(_) => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b'\n' | b'"' | b'{' | b'[');
                Some(text[at..].iter().position(ends).map_or(text.len(), |length| at + length))
            }
        };
        let Some(behind) = behind else { return Met::End };
        at = behind;
        expects_key = false;
    }
}

/// The records of a value that does not parse as a whole, and where reading goes on (`None`: there is no more).
fn salvage(text: &[u8], at: usize) -> (Vec<Record>, Option<usize>) {
    if text[at] == b'[' {
        return elements(text, at + 1);
    }
    let mut met = follow_members(text, at + 1, true);
    // No string holds a newline as it is: an object that breaks there was one of JSON lines.
    if let Some(newline) = newline_in_string(text, at)
        && !matches!(met, Met::Records(place) if place < newline)
    {
        return (vec![Err(BROKEN)], Some(newline));
    }
    if let Met::Close(place) = met {
        return (vec![Err(not_parsed(&text[at..place]))], Some(place));
    }
    let mut found = Vec::new();
    loop {
        let (fault, place) = match met {
            Met::Records(place) => {
                let (inside, behind) = elements(text, place);
                found.extend(inside);
                let Some(behind) = behind else { return (found, None) };
                met = follow_members(text, behind, false);
                continue;
            }
            Met::Close(place) => return (found, Some(place)),
            Met::End => (BROKEN, None),
            Met::Unusual(place) => (BROKEN, skip_balanced(text, place, 1)),
            Met::NotAnArray(place) => (NOT_AN_ARRAY, skip_balanced(text, place, 1)),
        };
        // What does not end is broken, whatever else is wrong with it.
        found.push(Err(if place.is_none() { BROKEN } else { fault }));
        return (found, place);
    }
}
