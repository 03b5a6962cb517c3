//! Bootstrap keys: the first way for a customer to say who it is.
//!
//! A bootstrap key is `sk_boot_<customer id>_<64 hex digits>`, the digits being HMAC-SHA256(bootstrap secret, customer
//! id). It is stateless: nothing is stored, so one key cannot be revoked alone, has no expiry and no scopes; a new
//! secret revokes all of them. API keys that are stored, scoped and revocable replace it; nothing but this module and
//! the `Tenant` extractor knows the form of a key.

use aggregator::directory::CustomerId;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::key::{Key, KeyTooShort};

const PREFIX: &str = "sk_boot_";

/// The secret that all bootstrap keys derive from. It never prints.
#[derive(Clone, Debug)]
pub struct BootstrapSecret(Key);

/// No key, another form of key, or a key that this secret did not make. Deliberately one answer for all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no valid bootstrap key")]
pub struct NotAuthenticated;

impl BootstrapSecret {
    /// Takes at least 32 random bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, KeyTooShort> {
        Key::new(bytes).map(Self)
    }

    /// The bootstrap key of a customer.
    pub fn key_for(&self, customer: &CustomerId) -> String {
        format!("{PREFIX}{customer}_{}", hex::encode(self.0.sign(customer.as_str())))
    }

    /// The customer whose key this is. Takes the same time for every wrong key of the right form.
    pub fn authenticate(&self, key: &str) -> Result<CustomerId, NotAuthenticated> {
        let (customer, shown) =
            key.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('_')).ok_or(NotAuthenticated)?;
        let customer = CustomerId::parse(customer).map_err(|_| NotAuthenticated)?;
        let mut mac = [0; 32];
        hex::decode_to_slice(shown, &mut mac).map_err(|_| NotAuthenticated)?;
        let is_ours: bool = self.0.sign(customer.as_str()).ct_eq(&mac).into();
        if is_ours { Ok(customer) } else { Err(NotAuthenticated) }
    }

    /// The customer of an `Authorization` header, `Bearer <key>` with the scheme in any case (RFC 9110 section 11.1).
    pub(crate) fn authenticate_header(&self, header: &[u8]) -> Result<CustomerId, NotAuthenticated> {
        let text = std::str::from_utf8(header).map_err(|_| NotAuthenticated)?;
        let (scheme, key) = text.split_once(' ').ok_or(NotAuthenticated)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(NotAuthenticated);
        }
        self.authenticate(key.trim_matches(' '))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> BootstrapSecret {
        BootstrapSecret::new(*b"a bootstrap secret of 32+ bytes.").unwrap()
    }

    fn customer(id: &str) -> CustomerId {
        CustomerId::parse(id).unwrap()
    }

    #[test]
    fn a_minted_key_names_its_customer_and_no_other() {
        for id in ["acme", "acme-health-2", "0x"] {
            let key = secret().key_for(&customer(id));
            assert!(key.starts_with(&format!("sk_boot_{id}_")), "{key}");
            assert_eq!(key.len(), "sk_boot__".len() + id.len() + 64);
            assert_eq!(secret().authenticate(&key), Ok(customer(id)));
            assert_eq!(secret().authenticate_header(format!("bearer {key}").as_bytes()), Ok(customer(id)));
        }
    }

    #[test]
    fn every_other_text_is_refused() {
        let good = secret().key_for(&customer("acme"));
        let hex = good.rsplit_once('_').unwrap().1;
        let other_secret = BootstrapSecret::new([9; 32]).unwrap();
        for bad in [
            String::new(),
            "sk_boot_".to_owned(),
            "sk_boot_acme".to_owned(),
            "sk_boot_acme_".to_owned(),
            format!("sk_boot_acme_{}", "0".repeat(64)),
            format!("sk_boot_globex_{hex}"),
            format!("sk_boot_ACME_{hex}"),
            format!("sk_boot_acme_{hex}0"),
            format!("sk_boot_acme_{}", &hex[..62]),
            format!("sk_live_acme_{hex}"),
            format!("{good}_"),
            other_secret.key_for(&customer("acme")),
        ] {
            assert_eq!(secret().authenticate(&bad), Err(NotAuthenticated), "{bad}");
        }
        for bad in [format!("Basic {good}"), good.clone(), format!("Bearer{good}"), format!("Bearer {good} x")] {
            assert_eq!(secret().authenticate_header(bad.as_bytes()), Err(NotAuthenticated), "{bad}");
        }
        assert_eq!(secret().authenticate_header(b"Bearer \xff"), Err(NotAuthenticated));
    }

    #[test]
    fn the_secret_does_not_print() {
        assert_eq!(format!("{:?}", secret()), "BootstrapSecret([secret])");
    }
}
