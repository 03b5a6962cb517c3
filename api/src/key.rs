//! Keyed hashes whose keys never print.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;

/// A key for HMAC-SHA256 that shows nothing of itself in `Debug`.
#[derive(Clone)]
pub(crate) struct Key(Vec<u8>);

/// The key holds fewer than 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a key has at least 32 bytes")]
pub struct KeyTooShort;

impl Key {
    /// RFC 2104 section 3: a key shorter than the hash weakens it.
    const BYTES_MIN: usize = 32;

    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, KeyTooShort> {
        let bytes = bytes.into();
        if bytes.len() < Self::BYTES_MIN { Err(KeyTooShort) } else { Ok(Self(bytes)) }
    }

    /// HMAC-SHA256 of the text's UTF-8 bytes.
    pub(crate) fn sign(&self, text: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_the_one_of_rfc_4231() {
        let key = Key::new(vec![0xaa; 131]).unwrap();
        let mac = key.sign("Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex::encode(mac), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn a_key_below_32_bytes_is_refused_and_no_key_prints() {
        assert_eq!(Key::new(vec![7; 31]).unwrap_err(), KeyTooShort);
        assert_eq!(format!("{:?}", Key::new(vec![7; 32]).unwrap()), "[secret]");
    }
}
