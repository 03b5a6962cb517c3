//! The AWS account a usage event belongs to.

use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// An AWS account id: exactly 12 decimal digits, leading zeros kept.
///
/// Source: AWS Account Management Reference Guide, "View AWS account identifiers".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId([u8; 12]);

/// The text is not exactly 12 decimal digits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an account id has exactly 12 digits")]
pub struct NotAnAccountId;

impl AccountId {
    /// Reads an account id from exactly 12 ASCII digits; nothing is trimmed or padded.
    pub fn parse(text: &str) -> Result<Self, NotAnAccountId> {
        let digits: [u8; 12] = text.as_bytes().try_into().map_err(|_| NotAnAccountId)?;
        if digits.iter().all(u8::is_ascii_digit) { Ok(Self(digits)) } else { Err(NotAnAccountId) }
    }

    /// The 12 digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an account id holds ASCII digits only")
    }

    /// The bucket this account's counts live in.
    ///
    /// Part of the storage format: the first two bytes of SHA-256 over the digits, big endian, modulo [`Bucket::COUNT`].
    pub fn bucket(&self) -> Bucket {
        let hash = Sha256::digest(self.0);
        Bucket(u16::from_be_bytes([hash[0], hash[1]]) % Bucket::COUNT)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One of [`Bucket::COUNT`] groups of accounts; the stream's partition key and half of a log partition's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

impl Bucket {
    /// How many buckets there are. Constant for the life of a deployment: another number would count known events again.
    pub const COUNT: u16 = 32;

    /// The bucket with this number; `None` from [`Bucket::COUNT`] on.
    pub fn new(number: u16) -> Option<Self> {
        (number < Self::COUNT).then_some(Self(number))
    }

    /// The bucket's number, from 0.
    pub fn number(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_twelve_digits_are_an_account_id() {
        for good in ["123837392027", "000000000001", "017622104382"] {
            assert_eq!(AccountId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "12383739202", "1238373920277", " 23837392027", "12383739202x", "recipientAcc", "１２３４"]
        {
            assert_eq!(AccountId::parse(bad), Err(NotAnAccountId), "{bad:?}");
        }
    }

    #[test]
    fn the_bucket_of_an_account_never_changes() {
        let bucket = |id: &str| AccountId::parse(id).unwrap().bucket().number();
        assert_eq!((bucket("123837392027"), bucket("000000000001")), (16, 22));
        let used: std::collections::BTreeSet<_> = (0..1000).map(|n| bucket(&format!("{n:012}"))).collect();
        assert_eq!(used.len(), usize::from(Bucket::COUNT), "a thousand accounts spread over every bucket");
    }
}
