//! The text of a key: `sk_live_<customer>_<key id><secret>`, and `sk_admin_<key id><secret>` for an operator.
//!
//! A customer's id holds hyphens but never an underscore, and a key id and secret are letters and digits: the last
//! underscore is the only possible border.

use std::fmt;

use aggregator::directory::CustomerId;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::base62;

const CUSTOMER_PREFIX: &str = "sk_live_";
const ADMIN_PREFIX: &str = "sk_admin_";
/// Letters and digits of a key id: about 95 bits, so that ids do not collide.
const KEY_ID_CHARS: usize = 16;
/// Letters and digits that hold 256 bits.
const SECRET_CHARS: usize = 43;

/// The public name of a key: 16 letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

/// The text is not 16 letters and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a key id is 16 letters and digits")]
pub struct NotAKeyId;

impl KeyId {
    /// Reads 16 letters and digits.
    pub fn parse(text: &str) -> Result<Self, NotAKeyId> {
        if text.len() == KEY_ID_CHARS && base62::is_base62(text) { Ok(Self(text.to_owned())) } else { Err(NotAKeyId) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret part of a key. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// SHA-256 of the secret's characters: what bcrypt is fed with, and the name of what was found out about it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A key as it is shown once and sent ever after. `Debug` shows all but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyToken {
    /// Whose key it says it is; `None` for an operator's.
    pub customer: Option<CustomerId>,
    /// Which key it says it is.
    pub key_id: KeyId,
    pub(crate) secret: Secret,
}

/// The text has not the form of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is not the form of a key")]
pub struct NotAKey;

impl KeyToken {
    /// A new key from random bytes.
    pub fn mint(customer: Option<CustomerId>, id: [u8; 16], secret: [u8; 32]) -> Self {
        Self {
            customer,
            key_id: KeyId(base62::encode(&id, KEY_ID_CHARS)),
            secret: Secret(base62::encode(&secret, SECRET_CHARS)),
        }
    }

    /// SHA-256 of the secret: what is hashed to be stored.
    pub fn secret_digest(&self) -> [u8; 32] {
        self.secret.digest()
    }

    /// Reads a key; says nothing about what was wrong with it.
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let (customer, tail) = if let Some(tail) = text.strip_prefix(ADMIN_PREFIX) {
            (None, tail)
        } else {
            let (customer, tail) =
                text.strip_prefix(CUSTOMER_PREFIX).and_then(|rest| rest.rsplit_once('_')).ok_or(NotAKey)?;
            (Some(CustomerId::parse(customer).map_err(|_| NotAKey)?), tail)
        };
        if tail.len() != KEY_ID_CHARS + SECRET_CHARS || !base62::is_base62(tail) {
            return Err(NotAKey);
        }
        let (key_id, secret) = tail.split_at(KEY_ID_CHARS);
        Ok(Self { customer, key_id: KeyId(key_id.to_owned()), secret: Secret(secret.to_owned()) })
    }

    /// The whole key, secret included: for the one time that it is shown.
    pub fn reveal(&self) -> String {
        let Self { customer, key_id, secret } = self;
        match customer {
            Some(customer) => format!("{CUSTOMER_PREFIX}{customer}_{key_id}{}", secret.0),
            None => format!("{ADMIN_PREFIX}{key_id}{}", secret.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(customer: Option<&str>) -> KeyToken {
        KeyToken::mint(customer.map(|id| CustomerId::parse(id).unwrap()), [7; 16], [0xfe; 32])
    }

    #[test]
    fn a_minted_key_reads_back_also_for_ids_with_hyphens() {
        for customer in [Some("acme"), Some("acme-health-2"), Some("sk-live"), Some("0x"), None] {
            let minted = token(customer);
            let text = minted.reveal();
            assert_eq!(KeyToken::parse(&text), Ok(minted), "{text}");
        }
        assert!(token(Some("acme-2")).reveal().starts_with("sk_live_acme-2_"));
        assert!(token(None).reveal().starts_with("sk_admin_"));
    }

    #[test]
    fn every_other_text_is_no_key() {
        let good = token(Some("acme")).reveal();
        let tail = good.rsplit_once('_').unwrap().1;
        for bad in [
            String::new(),
            "sk_live_".into(),
            "sk_live_acme".into(),
            "sk_live_acme_".into(),
            format!("sk_live_{tail}"),
            format!("sk_live_ACME_{tail}"),
            format!("sk_live_acme_x_{tail}"),
            format!("sk_live_acme_{}", &tail[1..]),
            format!("sk_live_acme_{tail}0"),
            format!("sk_live_acme_{}-", &tail[1..]),
            format!("sk_live_acme_{}ü", &tail[2..]),
            format!("sk_test_acme_{tail}"),
            format!("sk_admin_acme_{tail}"),
            format!("sk_admin__{tail}"),
            format!(" {good}"),
            format!("{good}\n"),
        ] {
            assert_eq!(KeyToken::parse(&bad), Err(NotAKey), "{bad:?}");
        }
    }

    #[test]
    fn the_secret_does_not_print() {
        let minted = token(Some("acme"));
        let shown = format!("{minted:?}");
        assert!(shown.contains("[secret]") && !shown.contains(&minted.secret.0), "{shown}");
    }
}
