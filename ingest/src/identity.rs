//! What makes two copies of an event the same event.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

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

    /// The identity of an event without a usable id: the first 16 bytes of SHA-256 over its canonical form, so that
    /// events of different contents stay different and copies that differ in white space or key order do not.
    pub fn of_content(event: &[u8]) -> Result<Self, serde_json::Error> {
        let mut canonical = Vec::with_capacity(event.len());
        write_canonical(serde_json::from_slice(event)?, &mut canonical)?;
        let hash = Sha256::digest(&canonical);
        Ok(Self(hash[..16].try_into().expect("SHA-256 has 32 bytes")))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Keys sorted by code point, the last of equal keys kept, no white space, shortest escapes, numbers as written (a
/// number read into binary floating point would make different contents equal). Recursion is bounded by the
/// nesting limit of the record reader.
fn write_canonical(value: &RawValue, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
            out.push(b'{');
            for (position, (key, member)) in members.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, &key)?;
                out.push(b':');
                write_canonical(member, out)?;
            }
            out.push(b'}');
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(text)?;
            out.push(b'[');
            for (position, element) in elements.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_canonical(element, out)?;
            }
            out.push(b']');
        }
        Some(b'"') => serde_json::to_writer(&mut *out, &serde_json::from_str::<String>(text)?)?,
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Ok(())
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
}
