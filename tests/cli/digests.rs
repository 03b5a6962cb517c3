//! What digest files prove.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::Site;

const FINGERPRINT: &str = "31e8b5433410dfb61a9dc45cc65b22ff";
/// What PKCS #1 v1.5 writes before a SHA-256 (RFC 8017, section 9.2, note 1).
const SHA256_PREFIX: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];

/// Dice that fall the same in every run: keys of a test are no secret.
struct Loaded(u64);

impl RngCore for Loaded {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Loaded {}

/// A digest file and what the one after it says of it.
struct Delivered {
    key: String,
    content: String,
    signature: String,
}

fn sha256(content: &str) -> String {
    hex::encode(Sha256::digest(content))
}

/// The digest of an hour of 2026-10-01, signed as CloudTrail signs.
fn digest(hour: u8, previous: Option<&Delivered>, key: &RsaPrivateKey) -> Delivered {
    let folder = "AWSLogs/111122223333/CloudTrail-Digest/eu-west-1/2026/10/01";
    let object = format!(
        "{folder}/111122223333_CloudTrail-Digest_eu-west-1_events_eu-west-1_20261001T{:02}0131Z.json",
        hour + 1
    );
    let end = format!("2026-10-01T{:02}:01:31Z", hour + 1);
    let content = json!({
        "awsAccountId": "111122223333",
        "digestStartTime": format!("2026-10-01T{hour:02}:01:31Z"),
        "digestEndTime": end,
        "digestS3Bucket": "trail-logs",
        "digestS3Object": object,
        "digestPublicKeyFingerprint": FINGERPRINT,
        "digestSignatureAlgorithm": "SHA256withRSA",
        "previousDigestS3Bucket": previous.map(|_| "trail-logs"),
        "previousDigestS3Object": previous.map(|previous| &previous.key),
        "previousDigestHashValue": previous.map(|previous| sha256(&previous.content)),
        "previousDigestHashAlgorithm": previous.map(|_| "SHA-256"),
        "previousDigestSignature": previous.map(|previous| &previous.signature),
        "logFiles": [{ "s3Bucket": "trail-logs", "s3Object": format!("a-{hour}.json.gz"),
            "hashValue": "ab".repeat(32), "hashAlgorithm": "SHA-256" }],
    })
    .to_string();
    let before = previous.map_or("null", |previous| previous.signature.as_str());
    let signed = format!("{end}\ntrail-logs/{object}\n{}\n{before}", sha256(&content));
    let scheme = Pkcs1v15Sign { hash_len: Some(32), prefix: SHA256_PREFIX.into() };
    let signature = hex::encode(key.sign(scheme, &Sha256::digest(signed)).unwrap());
    Delivered { key: object, content, signature }
}

/// What `aws cloudtrail list-public-keys` prints.
fn public_keys(site: &Site, name: &str, key: &RsaPrivateKey) -> String {
    let der = key.to_public_key().to_pkcs1_der().unwrap();
    let listed = json!({ "PublicKeyList": [{
        "Value": STANDARD.encode(der.as_bytes()), "Fingerprint": FINGERPRINT,
        "ValidityStartTime": "2026-09-01T00:00:00+00:00", "ValidityEndTime": "2026-12-01T00:00:00+00:00",
    }]});
    site.write(name, listed.to_string().as_bytes())
}

fn source(shown: &Value) -> &Value {
    let [source] = &shown["sources"].as_array().unwrap()[..] else { panic!("one source: {shown}") };
    source
}

#[test]
fn digests_show_what_is_covered_missing_altered_and_signed() {
    let site = Site::new();
    let key = RsaPrivateKey::new(&mut Loaded(1), 2_048).unwrap();
    let mut chain: Vec<Delivered> = Vec::new();
    for hour in 10..16 {
        chain.push(digest(hour, chain.last(), &key));
    }
    // The digest of 13:01 is never delivered.
    for (hour, delivered) in (10..).zip(&chain).filter(|(hour, _)| *hour != 13) {
        site.write(&format!("logs/{hour}/{}", delivered.key), delivered.content.as_bytes());
    }
    assert_eq!(site.json(["replay", "logs"])["not_counted"], json!({ "cloudtrail_digest": 5 }));

    let shown = site.json(["digests"]);
    let proof = source(&shown);
    assert_eq!((&proof["account"], &proof["trail"]), (&json!("111122223333"), &json!("events")));
    assert_eq!((&proof["digests"], &proof["log_objects"]), (&json!(5), &json!(5)));
    let gap = json!([{ "from": "2026-10-01T13:01:31Z", "to": "2026-10-01T14:01:31Z" }]);
    assert_eq!((&proof["missing"], &proof["altered"]), (&gap, &json!([])));
    assert_eq!(proof["not_seen"], json!([chain[3].key]), "the digest after the gap names it");
    // A signature stands in the digest behind: two have none that was seen.
    assert_eq!(proof["signatures"], json!({ "no_public_key": 3, "no_signature": 2 }));

    let keys = public_keys(&site, "keys.json", &key);
    let shown = site.json(["digests", "--public-keys", &keys]);
    assert_eq!(source(&shown)["signatures"], json!({ "valid": 3, "no_signature": 2 }));
    assert_eq!(source(&shown)["missing"], gap);
    let ran = site.run(["digests", "--public-keys", &keys]);
    let line = "111122223333 eu-west-1 events: no digest from 2026-10-01T13:01:31Z to 2026-10-01T14:01:31Z";
    assert!(ran.succeeded().out.contains(line) && ran.out.contains("valid 3"), "{ran:?}");

    // Asked for a time: what lies outside is not in question, what lies inside and has no digest is missing.
    let shown = site.json(["digests", "--from", "2026-10-01T09:01:31Z", "--to", "2026-10-01T12:01:31Z"]);
    let before = json!([{ "from": "2026-10-01T09:01:31Z", "to": "2026-10-01T10:01:31Z" }]);
    assert_eq!((&source(&shown)["missing"], &source(&shown)["digests"]), (&before, &json!(2)));

    // Somebody else's key under the fingerprint: nothing that is signed is covered.
    let other = public_keys(&site, "other.json", &RsaPrivateKey::new(&mut Loaded(2), 2_048).unwrap());
    let shown = site.json(["digests", "--public-keys", &other]);
    assert_eq!(source(&shown)["signatures"], json!({ "invalid": 3, "no_signature": 2 }));
    assert_eq!(source(&shown)["altered"].as_array().unwrap().len(), 3);
    for (name, said) in [("logs/10", "cannot read"), ("none.json", "cannot read")] {
        assert!(site.run(["digests", "--public-keys", name]).refusal().contains(said));
    }
    let nonsense = site.write("nonsense.json", b"{}");
    assert!(site.run(["digests", "--public-keys", &nonsense]).refusal().contains("list-public-keys"));
}

#[test]
fn a_digest_that_was_altered_covers_nothing_and_its_signature_says_so() {
    let site = Site::new();
    let key = RsaPrivateKey::new(&mut Loaded(3), 2_048).unwrap();
    let first = digest(10, None, &key);
    let second = digest(11, Some(&first), &key);
    // Whoever alters the first and makes the second fit needs to sign it, too.
    let altered = Delivered { content: first.content.replace("a-10.json.gz", "b-10.json.gz"), ..first };
    let fitted = Delivered { signature: second.signature.clone(), ..digest(11, Some(&altered), &key) };
    let third = digest(12, Some(&fitted), &key);
    for (name, delivered) in [("a", &altered), ("b", &fitted), ("c", &third)] {
        site.write(&format!("logs/{name}/{}", delivered.key), delivered.content.as_bytes());
    }
    site.json(["replay", "logs"]);
    let keys = public_keys(&site, "keys.json", &key);
    let shown = site.json(["digests"]);
    assert_eq!(source(&shown)["altered"], json!([]), "their hashes fit each other");
    let shown = site.json(["digests", "--public-keys", &keys]);
    assert_eq!(source(&shown)["altered"], json!([altered.key, fitted.key]));
    assert_eq!(source(&shown)["signatures"], json!({ "invalid": 2, "no_signature": 1 }));
    assert_eq!(source(&shown)["covered"], json!([{ "from": "2026-10-01T12:01:31Z", "to": "2026-10-01T13:01:31Z" }]));
}
