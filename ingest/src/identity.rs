//! What makes two copies of an event the same event.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::records::NESTING_MAX;

/// The 16 bytes that identify an event within its meter, account and hour.
///
/// Comes from the source event alone: a delivery's ids (EventBridge envelope, Kinesis, SQS) never take part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity([u8; 16]);

impl Identity {
    /// Bytes of one identity in every stored form.
    pub const BYTES: usize = 16;

    /// The identity stored as these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The identity of an event whose id is a hyphenated UUID (RFC 9562 section 4, any case); `None` for other ids.
    pub fn of_event_id(event_id: &str) -> Option<Self> {
        let hyphenated = event_id.len() == 36;
        let uuid = hyphenated.then(|| Uuid::try_parse_ascii(event_id.as_bytes()).ok()).flatten()?;
        Some(Self(*uuid.as_bytes()))
    }

    /// The identity of an event that several fields tell apart: the first 16 bytes of SHA-256 over each part behind its
    /// length in bytes (64 bits, big endian), so that no two lists of parts run together.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize()[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The identity of an event without a usable id: the first 16 bytes of SHA-256 over its canonical form, so that
    /// events of different contents stay different and copies that differ in white space or key order do not.
    pub fn of_content(event: &[u8]) -> Result<Self, NotCanonical> {
        let whole: &RawValue = serde_json::from_slice(event)?;
        let mut canonical = Vec::with_capacity(event.len());
        Reader { text: whole.get(), at: 0 }.node(1)?.write(&mut canonical)?;
        let hash = Sha256::digest(&canonical);
        Ok(Self(hash[..16].try_into().expect("SHA-256 has 32 bytes")))
    }
}

/// Why content has no canonical form. Set the record aside.
#[derive(Debug, Error)]
pub enum NotCanonical {
    /// It is no JSON, or has text that no Unicode string can hold.
    #[error("not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// It nests deeper than a record may.
    #[error("nested deeper than {NESTING_MAX} levels")]
    TooDeep,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A JSON value on its way to its canonical form: keys sorted by code point, the last of equal keys kept, no white
/// space, shortest escapes, numbers as written (a number read into binary floating point would make different contents
/// equal).
enum Node<'a> {
    Object(BTreeMap<String, Node<'a>>),
    Array(Vec<Node<'a>>),
    Text(String),
    AsWritten(&'a str),
}

impl Node<'_> {
    /// Recursion is bounded by the reader's.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match self {
            Self::Object(members) => {
                out.push(b'{');
                for (position, (key, member)) in members.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    serde_json::to_writer(&mut *out, key)?;
                    out.push(b':');
                    member.write(out)?;
                }
                out.push(b'}');
            }
            Self::Array(elements) => {
                out.push(b'[');
                for (position, element) in elements.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    element.write(out)?;
                }
                out.push(b']');
            }
            Self::Text(text) => serde_json::to_writer(&mut *out, text)?,
            Self::AsWritten(text) => out.extend_from_slice(text.as_bytes()),
        }
        Ok(())
    }
}

/// Reads text that is known to be JSON, each byte once whatever the nesting.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn node(&mut self, depth: u32) -> Result<Node<'a>, NotCanonical> {
        let first = self.next_token();
        if matches!(first, b'{' | b'[') && NESTING_MAX < depth {
            return Err(NotCanonical::TooDeep);
        }
        Ok(match first {
            b'{' => {
                let mut members = BTreeMap::new();
                while self.enters_member(b'}') {
                    let key = serde_json::from_str(self.string())?;
                    self.next_token();
                    self.at += ":".len();
                    members.insert(key, self.node(depth + 1)?);
                }
                Node::Object(members)
            }
            b'[' => {
                let mut elements = Vec::new();
                while self.enters_member(b']') {
                    elements.push(self.node(depth + 1)?);
                }
                Node::Array(elements)
            }
            b'"' => Node::Text(serde_json::from_str(self.string())?),
            _ => {
                let rest = &self.text[self.at..];
                let length = rest.find([',', '}', ']', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
                self.at += length;
                Node::AsWritten(&rest[..length])
            }
        })
    }

    /// Moves to the next token and returns its first byte.
    fn next_token(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while matches!(bytes[self.at], b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
        bytes[self.at]
    }

    /// Moves behind the opening bracket or comma to the next member; `false` behind the closing bracket.
    fn enters_member(&mut self, close: u8) -> bool {
        if self.next_token() != close {
            self.at += 1;
            if self.next_token() != close {
                return true;
            }
        }
        self.at += 1;
        false
    }

    /// The string that begins here, with its quotes.
    fn string(&mut self) -> &'a str {
        let bytes = self.text.as_bytes();
        let begin = self.at;
        self.at += 1;
        while bytes[self.at] != b'"' {
            self.at += if bytes[self.at] == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        &self.text[begin..self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_its_sixteen_bytes_in_any_case() {
        let lower = Identity::of_event_id("49dfd327-5991-4a6e-9e1c-0123456789ab").unwrap();
        assert_eq!(Identity::of_event_id("49DFD327-5991-4A6E-9E1C-0123456789AB"), Some(lower));
        for other in [
            "",
            "eventID",
            "49dfd32759914a6e9e1c0123456789ab",
            "{49dfd327-5991-4a6e-9e1c-0123456789ab}",
            "urn:uuid:49dfd327-5991-4a6e-9e1c-0123456789ab",
            "49dfd327-5991-4a6e-9e1c-0123456789ag",
        ] {
            assert_eq!(Identity::of_event_id(other), None, "{other}");
        }
    }

    #[test]
    fn parts_never_run_together() {
        let of = |parts: &[&str]| Identity::of_parts(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        assert_eq!(of(&["a"]).as_bytes(), &Sha256::digest(b"\0\0\0\0\0\0\0\x01a")[..16]);
        let lists: [&[&str]; 6] = [&["ab", "c"], &["a", "bc"], &["abc"], &["", "abc"], &["abc", ""], &[]];
        let different: std::collections::BTreeSet<_> = lists.iter().map(|list| of(list)).collect();
        assert_eq!(different.len(), lists.len());
    }

    #[test]
    fn content_is_the_same_whatever_its_layout_and_different_when_it_differs() {
        let of = |text: &str| Identity::of_content(text.as_bytes()).unwrap();
        let one = of(r#"{"a":1,"b":{"c":"é","d":[1,2]}}"#);
        assert_eq!(of("{ \"b\" : {\"d\":[1, 2],\"c\":\"\\u00e9\"},\n\"a\":1}"), one);
        assert_eq!(of(r#"{"a":0,"a":1,"b":{"c":"é","d":[1,2]}}"#), one, "the last of equal keys counts");
        for other in [
            r#"{"a":1.0,"b":{"c":"é","d":[1,2]}}"#,
            r#"{"a":1,"b":{"c":"é","d":[2,1]}}"#,
            r#"{"a":18446744073709551617,"b":{"c":"é","d":[1,2]}}"#,
        ] {
            assert_ne!(of(other), one, "{other}");
        }
        assert_ne!(of(r#"{"n":100000000000000000000000001}"#), of(r#"{"n":100000000000000000000000002}"#));
    }

    #[test]
    fn content_nested_beyond_the_limit_is_refused_and_never_followed() {
        let nested = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[ 0 , ", ", 2 ] ")] {
            assert!(Identity::of_content(nested(open, close, 100).as_bytes()).is_ok());
            for depth in [101, 50_000, 200_000] {
                let refused = Identity::of_content(nested(open, close, depth).as_bytes());
                assert!(matches!(refused, Err(NotCanonical::TooDeep)), "{depth} of {open}");
            }
        }
    }

    #[test]
    fn the_canonical_form_is_hashed_byte_for_byte() {
        let event = " { \"b\\u0062\" : [ ] , \"a\":[{ },true , -1.50e+3,null,[[\"\\/\\u001F\\\"\"]] ] ,\"b\":0 }\n";
        let canonical = "{\"a\":[{},true,-1.50e+3,null,[[\"/\\u001f\\\"\"]]],\"b\":0,\"bb\":[]}";
        let hash = Sha256::digest(canonical);
        assert_eq!(Identity::of_content(event.as_bytes()).unwrap().as_bytes(), &hash[..16]);
        for (scalar, same) in
            [("7", " 7 "), ("\"x\"", "\"\\u0078\""), ("null", "null\n"), ("[]", "[\n]"), ("{}", "{ }")]
        {
            assert_eq!(
                Identity::of_content(scalar.as_bytes()).unwrap(),
                Identity::of_content(same.as_bytes()).unwrap()
            );
        }
        for broken in ["", " ", "{", "[1,]", "{\"a\"}", "01", "\"\\ud800\"", "[1]x"] {
            assert!(matches!(Identity::of_content(broken.as_bytes()), Err(NotCanonical::NotJson(_))), "{broken}");
        }
    }
}
