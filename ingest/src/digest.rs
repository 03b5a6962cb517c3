//! CloudTrail digest files: which log objects there must be, and whether the chain of digests is unbroken.
//!
//! Every hour CloudTrail delivers, for each account, Region and trail, a file that names the log objects it delivered in that
//! hour with their hashes, and the digest before it with its hash and signature. Objects that were late are named by a
//! backfill digest of the same period. So what is named and read is complete, and an hour without a digest is missing.
//!
//! Source: AWS CloudTrail User Guide, "CloudTrail digest file structure" and "Custom implementations of CloudTrail log file
//! integrity validation". Both hashes are of the uncompressed content.

mod chain;
mod signature;

use chrono::NaiveDateTime;
use serde::Deserialize;

use crate::{AccountId, NotAnAccountId, Timestamp};

pub use chain::{Chain, Link, SeenDigest, Stretch};
pub use signature::{NoPublicKeys, PublicKeys, SignatureCheck};

/// What is expected of whom: one trail's log objects of one account and Region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrailSource {
    /// Whose events.
    pub account: AccountId,
    /// Of which Region.
    pub region: String,
    /// By which trail; empty where the digest's name does not say.
    pub trail: String,
}

/// A digest file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Whose log objects it names.
    pub source: TrailSource,
    /// Where its hour of delivery begins.
    pub start: Timestamp,
    /// Where it ends, half-open; the next digest begins there.
    pub end: Timestamp,
    /// `digestEndTime` as written, which the signature covers.
    pub end_as_written: String,
    /// Whether it names late objects of a period that has a digest of its own.
    pub is_backfill: bool,
    /// Where it was delivered.
    pub object: ObjectName,
    /// The digest before it; `None` where a chain begins.
    pub previous: Option<PreviousDigest>,
    /// Which public key its signature is checked with, in hexadecimal.
    pub key_fingerprint: String,
    /// The log objects it names.
    pub log_objects: Vec<LogObject>,
}

/// A bucket and a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
}

/// What a digest says of the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousDigest {
    /// Where it was delivered.
    pub object: ObjectName,
    /// SHA-256 of its uncompressed content.
    pub sha256: [u8; 32],
    /// Its signature in hexadecimal, as written.
    pub signature: String,
}

/// A log object that was delivered and must be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogObject {
    /// Where it was delivered.
    pub object: ObjectName,
    /// SHA-256 of its uncompressed content.
    pub sha256: [u8; 32],
}

/// The digest does not have the documented form. It is a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum NotADigest {
    /// It is not the JSON that is expected.
    #[error("not a digest file: {0}")]
    Json(#[from] serde_json::Error),
    /// It names no account of 12 digits.
    #[error("awsAccountId: {0}")]
    Account(#[from] NotAnAccountId),
    /// A member has a value that no digest has.
    #[error("{0} has a value that no digest file has")]
    Member(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    aws_account_id: String,
    digest_start_time: String,
    digest_end_time: String,
    digest_s3_bucket: String,
    digest_s3_object: String,
    digest_public_key_fingerprint: Option<String>,
    previous_digest_s3_bucket: Option<String>,
    previous_digest_s3_object: Option<String>,
    previous_digest_hash_value: Option<String>,
    previous_digest_hash_algorithm: Option<String>,
    previous_digest_signature: Option<String>,
    log_files: Vec<WrittenLogFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLogFile {
    s3_bucket: String,
    s3_object: String,
    hash_value: String,
    hash_algorithm: String,
}

const HASH_ALGORITHM: &str = "SHA-256";

impl Digest {
    /// Reads a digest file's uncompressed content.
    pub fn parse(content: &[u8]) -> Result<Self, NotADigest> {
        use NotADigest::Member;
        let written: Written = serde_json::from_slice(content)?;
        let instant = |text: &str, member| Timestamp::parse_rfc3339(text).map_err(|_| Member(member));
        let start = instant(&written.digest_start_time, "digestStartTime")?;
        let end = instant(&written.digest_end_time, "digestEndTime")?;
        if end <= start {
            return Err(Member("digestEndTime"));
        }
        let object = ObjectName { bucket: written.digest_s3_bucket, key: written.digest_s3_object };
        let name = DigestName::parse(&object.key).ok_or(Member("digestS3Object"))?;
        let account = AccountId::parse(&written.aws_account_id)?;
        let (region, trail) = (name.region.to_owned(), name.trail.to_owned());
        let is_backfill = name.is_backfill;
        let log_objects = written.log_files.into_iter().map(log_object).collect::<Result<_, _>>()?;
        let previous = match (written.previous_digest_s3_bucket, written.previous_digest_s3_object) {
            (Some(bucket), Some(key)) => {
                if written.previous_digest_hash_algorithm.is_some_and(|algorithm| algorithm != HASH_ALGORITHM) {
                    return Err(Member("previousDigestHashAlgorithm"));
                }
                let sha256 = written.previous_digest_hash_value.as_deref().and_then(hash);
                Some(PreviousDigest {
                    object: ObjectName { bucket, key },
                    sha256: sha256.ok_or(Member("previousDigestHashValue"))?,
                    signature: written.previous_digest_signature.unwrap_or_default(),
                })
            }
            (None, None) => None,
            _ => return Err(Member("previousDigestS3Object")),
        };
        Ok(Self {
            source: TrailSource { account, region, trail },
            start,
            end,
            end_as_written: written.digest_end_time,
            is_backfill,
            object,
            previous,
            key_fingerprint: written.digest_public_key_fingerprint.unwrap_or_default(),
            log_objects,
        })
    }
}

fn log_object(written: WrittenLogFile) -> Result<LogObject, NotADigest> {
    if written.hash_algorithm != HASH_ALGORITHM {
        return Err(NotADigest::Member("hashAlgorithm"));
    }
    Ok(LogObject {
        object: ObjectName { bucket: written.s3_bucket, key: written.s3_object },
        sha256: hash(&written.hash_value).ok_or(NotADigest::Member("hashValue"))?,
    })
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// The parts of a digest file's key that matter:
/// `[PREFIX/]AWSLogs/[O-ID/]ACCOUNT/CloudTrail-Digest/REGION/YYYY/MM/DD/ACCOUNT_CloudTrail-Digest_REGION_TRAIL_HOME_END[_backfill].json.gz`.
#[derive(Debug, PartialEq, Eq)]
struct DigestName<'a> {
    region: &'a str,
    trail: &'a str,
    end: &'a str,
    is_backfill: bool,
}

impl<'a> DigestName<'a> {
    fn parse(key: &'a str) -> Option<Self> {
        let file = key.rsplit('/').next()?;
        let stem = file.strip_suffix(".gz").unwrap_or(file).strip_suffix(".json")?;
        let (stem, is_backfill) = match stem.strip_suffix("_backfill") {
            Some(stem) => (stem, true),
            None => (stem, false),
        };
        let (_, rest) = stem.split_once("_CloudTrail-Digest_")?;
        let (region, rest) = rest.split_once('_')?;
        // A trail's name may have underscores, a Region's and a time's do not.
        let mut from_end = rest.rsplitn(3, '_');
        let (end, _home) = (from_end.next()?, from_end.next());
        let trail = from_end.next().unwrap_or_default();
        (!region.is_empty()).then_some(Self { region, trail, end, is_backfill })
    }

    /// The end of its period, such as `20261001T120131Z`.
    fn end(&self) -> Option<Timestamp> {
        let end = NaiveDateTime::parse_from_str(self.end, "%Y%m%dT%H%M%SZ").ok()?;
        Some(Timestamp::from(end.and_utc()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written() -> Value {
        let key = |hour: u8| {
            format!(
                "org/AWSLogs/o-abc/111111111111/CloudTrail-Digest/eu-west-1/2026/10/01/\
                 111111111111_CloudTrail-Digest_eu-west-1_all_events_us-east-1_20261001T{hour:02}0131Z.json.gz"
            )
        };
        json!({
            "awsAccountId": "111111111111",
            "digestStartTime": "2026-10-01T11:01:31Z",
            "digestEndTime": "2026-10-01T12:01:31Z",
            "digestS3Bucket": "trail-logs",
            "digestS3Object": key(12),
            "digestPublicKeyFingerprint": "31e8b5433410dfb61a9dc45cc65b22ff",
            "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": null,
            "oldestEventTime": null,
            "previousDigestS3Bucket": "trail-logs",
            "previousDigestS3Object": key(11),
            "previousDigestHashValue": "ab".repeat(32),
            "previousDigestHashAlgorithm": "SHA-256",
            "previousDigestSignature": "0011",
            "logFiles": [{
                "s3Bucket": "trail-logs", "s3Object": "AWSLogs/x.json.gz", "hashValue": "cd".repeat(32), "hashAlgorithm": "SHA-256",
                "newestEventTime": "2026-10-01T11:50:00Z", "oldestEventTime": "2026-10-01T11:40:00Z",
            }],
        })
    }

    #[test]
    fn a_digest_says_what_must_be_there_and_what_came_before() {
        let digest = Digest::parse(written().to_string().as_bytes()).unwrap();
        assert_eq!(
            (digest.source.account.as_str(), &*digest.source.region, &*digest.source.trail),
            ("111111111111", "eu-west-1", "all_events")
        );
        assert_eq!((digest.end.to_string(), digest.is_backfill), ("2026-10-01T12:01:31Z".to_owned(), false));
        let previous = digest.previous.unwrap();
        assert_eq!((previous.sha256, &*previous.signature), ([0xab; 32], "0011"));
        assert!(previous.object.key.ends_with("T110131Z.json.gz"));
        let object = ObjectName { bucket: "trail-logs".into(), key: "AWSLogs/x.json.gz".into() };
        assert_eq!(digest.log_objects, [LogObject { object, sha256: [0xcd; 32] }]);
    }

    #[test]
    fn the_first_digest_of_a_chain_has_none_before_it() {
        let mut first = written();
        for member in ["Bucket", "Object"] {
            first[format!("previousDigestS3{member}")] = Value::Null;
        }
        first["previousDigestHashValue"] = Value::Null;
        assert_eq!(Digest::parse(first.to_string().as_bytes()).unwrap().previous, None);
    }

    #[test]
    fn a_name_tells_region_trail_and_backfill() {
        let name =
            |region, trail, is_backfill| Some(DigestName { region, trail, end: "20150817T150131Z", is_backfill });
        for (key, expected) in [
            (
                "AWSLogs/1/CloudTrail-Digest/us-east-2/2015/08/17/111122223333_CloudTrail-Digest_us-east-2_your-trail-name_us-east-2_20150817T150131Z.json.gz",
                name("us-east-2", "your-trail-name", false),
            ),
            (
                "111122223333_CloudTrail-Digest_us-east-2_t_eu-west-1_20150817T150131Z_backfill.json.gz",
                name("us-east-2", "t", true),
            ),
            ("1_CloudTrail-Digest_us-east-2_a_b__us-east-2_20150817T150131Z.json", name("us-east-2", "a_b_", false)),
            ("1_CloudTrail-Digest_us-east-2_20150817T150131Z.json.gz", name("us-east-2", "", false)),
            ("1_CloudTrail_us-east-2_20150817T1501Z_abc.json.gz", None),
            ("digest.json.gz", None),
        ] {
            assert_eq!(DigestName::parse(key), expected, "{key}");
        }
    }

    #[test]
    fn what_no_digest_has_is_refused_by_the_member_that_is_wrong() {
        for (member, value) in [
            ("digestEndTime", json!("2026-10-01T11:01:31Z")),
            ("digestEndTime", json!("noon")),
            ("digestStartTime", json!("")),
            ("digestS3Object", json!("other.json.gz")),
            ("previousDigestHashValue", json!("abc")),
            ("previousDigestHashAlgorithm", json!("MD5")),
            ("previousDigestS3Object", Value::Null),
        ] {
            let mut wrong = written();
            wrong[member] = value;
            match Digest::parse(wrong.to_string().as_bytes()) {
                Err(NotADigest::Member(named)) => assert_eq!(named, member),
                other => panic!("{member}: {other:?}"),
            }
        }
        for (member, value) in [("hashValue", "zz"), ("hashAlgorithm", "SHA-1")] {
            let mut wrong = written();
            wrong["logFiles"][0][member] = json!(value);
            assert!(
                matches!(Digest::parse(wrong.to_string().as_bytes()), Err(NotADigest::Member(named)) if named == member)
            );
        }
        let mut wrong = written();
        wrong["awsAccountId"] = json!("12345");
        assert!(matches!(Digest::parse(wrong.to_string().as_bytes()), Err(NotADigest::Account(_))));
        assert!(matches!(Digest::parse(b"{}"), Err(NotADigest::Json(_))));
    }
}
