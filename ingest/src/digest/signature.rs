//! Whether CloudTrail signed a digest file.
//!
//! Source: AWS CloudTrail User Guide, "Custom implementations of CloudTrail log file integrity validation": RSA with SHA-256
//! (PKCS #1 v1.5) over `END\nBUCKET/KEY\nHEX(SHA-256(content))\nPREVIOUS-SIGNATURE`, with `null` where there is none. The
//! signature stands in the object's metadata, and again in the digest after it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde::Deserialize;
use thiserror::Error;

use super::Digest;

/// What is known of a digest's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignatureCheck {
    /// CloudTrail signed exactly this.
    Valid,
    /// It does not fit: the digest or the signature was altered.
    Invalid,
    /// There is no signature: neither in the object's metadata nor in a digest after it.
    NoSignature,
    /// The public key it was signed with was not given.
    NoPublicKey,
}

impl SignatureCheck {
    /// The name used on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::NoSignature => "no_signature",
            Self::NoPublicKey => "no_public_key",
        }
    }
}

/// Public keys of CloudTrail, by fingerprint.
#[derive(Clone, Debug, Default)]
pub struct PublicKeys(BTreeMap<String, Vec<u8>>);

/// The text does not hold public keys.
#[derive(Debug, Error)]
pub enum NoPublicKeys {
    /// It is not what `aws cloudtrail list-public-keys` prints.
    #[error("not the output of aws cloudtrail list-public-keys: {0}")]
    Json(#[from] serde_json::Error),
    /// A key is not base64.
    #[error("the key with fingerprint {0} is not base64")]
    Base64(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    public_key_list: Vec<ListedKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedKey {
    /// DER of the key in PKCS #1, in base64.
    value: String,
    fingerprint: String,
}

impl PublicKeys {
    /// Reads what `aws cloudtrail list-public-keys` prints.
    pub fn parse(listed: &[u8]) -> Result<Self, NoPublicKeys> {
        let listed: Listed = serde_json::from_slice(listed)?;
        let keys = listed.public_key_list.into_iter().map(|key| match STANDARD.decode(&key.value) {
            Ok(der) => Ok((key.fingerprint, der)),
            Err(_) => Err(NoPublicKeys::Base64(key.fingerprint)),
        });
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// Checks a digest of this content hash against its signature, in hexadecimal.
    pub fn check(&self, digest: &Digest, content_sha256: &[u8; 32], signature: Option<&str>) -> SignatureCheck {
        let Some(signature) = signature.filter(|signature| !signature.is_empty()) else {
            return SignatureCheck::NoSignature;
        };
        let Some(key) = self.0.get(&digest.key_fingerprint) else { return SignatureCheck::NoPublicKey };
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key);
        let signed = signed_text(digest, content_sha256);
        match hex::decode(signature) {
            Ok(signature) if key.verify(signed.as_bytes(), &signature).is_ok() => SignatureCheck::Valid,
            _ => SignatureCheck::Invalid,
        }
    }
}

/// What CloudTrail signs.
pub(super) fn signed_text(digest: &Digest, content_sha256: &[u8; 32]) -> String {
    let previous = digest.previous.as_ref().map(|previous| &*previous.signature).filter(|text| !text.is_empty());
    format!(
        "{}\n{}/{}\n{}\n{}",
        digest.end_as_written,
        digest.object.bucket,
        digest.object.key,
        hex::encode(content_sha256),
        previous.unwrap_or("null")
    )
}
