//! Digest files beside the log objects: each account's and Region's chain, hour by hour.
//!
//! The hashes are true; the signatures are made up and fit no public key.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use chrono::DateTime;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tree::gzip;
use super::{Plan, REGIONS, instant};
use crate::random::{Draws, Stream};

/// Digest files go on for so many hours behind the plan's, until what was late is named.
const HOURS_BEHIND: i64 = 12;
/// Log objects that their hour's digest leaves out and a backfill digest names, in a thousand.
const BACKFILLED_PER_THOUSAND: u64 = 10;
/// The trail's name and home.
const TRAIL: &str = "organization_events";
const HOME: &str = "us-east-1";

/// What was written of digest files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DigestsWritten {
    /// Digest files, backfills among them.
    pub digests: u64,
    /// Backfill digest files.
    pub backfills: u64,
    /// Log objects named.
    pub log_objects: u64,
    /// Keys of all of them, in order.
    pub keys: Vec<String>,
}

/// One object to be named.
struct Named {
    delivered_at: i64,
    k: u64,
    is_late: bool,
}

/// Writes the digest files of every account and Region of a plan below `dir`, as delivered to `bucket`.
///
/// `content_sha256` are the hashes of the log objects by number, as writing them gave.
pub fn write_digests(dir: &Path, plan: &Plan, bucket: &str, content_sha256: &[[u8; 32]]) -> io::Result<DigestsWritten> {
    let mut by_source = BTreeMap::<(u32, usize), Vec<Named>>::new();
    for k in 0..plan.file_count() {
        let owner = plan.owner(k);
        let is_late = Draws::new(plan.seed, Stream::Digest, k).below(1_000) < BACKFILLED_PER_THOUSAND;
        by_source.entry(owner).or_default().push(Named { delivered_at: plan.log_object(k).delivered_at, k, is_late });
    }
    let mut written = DigestsWritten::default();
    for account in 0..plan.accounts {
        for region in 0..plan.regions {
            let mut named = by_source.remove(&(account, region)).unwrap_or_default();
            named.sort_by_key(|named| (named.delivered_at, named.k));
            let chain = ChainOf { dir, plan, bucket, content_sha256, account, region };
            chain.write(&named, &mut written)?;
        }
    }
    written.keys.sort_unstable();
    Ok(written)
}

struct ChainOf<'a> {
    dir: &'a Path,
    plan: &'a Plan,
    bucket: &'a str,
    content_sha256: &'a [[u8; 32]],
    account: u32,
    region: usize,
}

/// A digest file that was written, as the next one names it.
struct Before {
    key: String,
    sha256: String,
    signature: String,
}

impl ChainOf<'_> {
    fn write(&self, named: &[Named], written: &mut DigestsWritten) -> io::Result<()> {
        let source = u64::from(self.account) * REGIONS.len() as u64 + self.region as u64;
        let mut draws = Draws::new(self.plan.seed, Stream::Digest, u64::MAX - source);
        // Digests begin at any second of the hour, each chain at its own.
        let begin = self.plan.from.timestamp() - 3600 - i64::try_from(draws.below(3600)).expect("below an hour");
        let end = self.plan.from.timestamp() + (i64::from(self.plan.hours) + HOURS_BEHIND) * 3600;
        let (mut before, mut backfill_before) = (None, None);
        let mut rest = named;
        let mut start = begin;
        while start < end {
            let of_hour = rest.partition_point(|named| named.delivered_at < start + 3600);
            let (now, later) = rest.split_at(of_hour);
            rest = later;
            let late: Vec<&Named> = now.iter().filter(|named| named.is_late).collect();
            let on_time: Vec<&Named> = now.iter().filter(|named| !named.is_late).collect();
            before = Some(self.digest(start, &on_time, before.as_ref(), "", &mut draws, written)?);
            if !late.is_empty() {
                let backfill = self.digest(start, &late, backfill_before.as_ref(), "_backfill", &mut draws, written)?;
                backfill_before = Some(backfill);
                written.backfills += 1;
            }
            start += 3600;
        }
        Ok(())
    }

    fn digest(
        &self,
        start: i64,
        named: &[&Named],
        before: Option<&Before>,
        suffix: &str,
        draws: &mut Draws,
        written: &mut DigestsWritten,
    ) -> io::Result<Before> {
        let account = self.plan.account(self.account);
        let region = REGIONS[self.region];
        let end = DateTime::from_timestamp(start + 3600, 0).expect("a checked plan ends before the year 9000");
        let key = format!(
            "AWSLogs/{account}/CloudTrail-Digest/{region}/{}/{account}_CloudTrail-Digest_{region}_{TRAIL}_{HOME}_{}{suffix}.json.gz",
            end.format("%Y/%m/%d"),
            end.format("%Y%m%dT%H%M%SZ"),
        );
        let log_files: Vec<Value> = named.iter().map(|named| self.log_file(named)).collect();
        let times = |newest: bool| {
            let times = named.iter().map(|named| named.delivered_at - if newest { 300 } else { 600 });
            let time = if newest { times.max() } else { times.min() };
            time.map(instant)
        };
        let digest = json!({
            "awsAccountId": account,
            "digestStartTime": instant(start),
            "digestEndTime": instant(start + 3600),
            "digestS3Bucket": self.bucket,
            "digestS3Object": key,
            "digestPublicKeyFingerprint": "00000000000000000000000000000000",
            "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": times(true),
            "oldestEventTime": times(false),
            "previousDigestS3Bucket": before.map(|_| self.bucket),
            "previousDigestS3Object": before.map(|before| &before.key),
            "previousDigestHashValue": before.map(|before| &before.sha256),
            "previousDigestHashAlgorithm": before.map(|_| "SHA-256"),
            "previousDigestSignature": before.map(|before| &before.signature),
            "logFiles": log_files,
        });
        let text = digest.to_string();
        let path = self.dir.join(&key);
        fs::create_dir_all(path.parent().expect("a key has folders"))?;
        fs::write(path, gzip(text.as_bytes())?)?;
        written.digests += 1;
        written.log_objects += named.len() as u64;
        written.keys.push(key.clone());
        let mut signature = String::with_capacity(512);
        draws.push_hex(&mut signature, 512);
        Ok(Before { key, sha256: hex::encode(Sha256::digest(&text)), signature })
    }

    fn log_file(&self, named: &Named) -> Value {
        let hash = self.content_sha256[usize::try_from(named.k).expect("objects are counted by the machine")];
        json!({
            "s3Bucket": self.bucket,
            "s3Object": self.plan.log_object(named.k).key,
            "hashValue": hex::encode(hash),
            "hashAlgorithm": "SHA-256",
            "newestEventTime": instant(named.delivered_at - 300),
            "oldestEventTime": instant(named.delivered_at - 600),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::Value;

    use super::super::write_objects;
    use super::*;

    fn text(path: &Path) -> String {
        let mut text = String::new();
        GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn every_log_object_is_named_once_with_its_hash_and_every_chain_is_unbroken() {
        let dir = tempfile::tempdir().unwrap();
        let from = DateTime::parse_from_rfc3339("2026-10-01T00:00:00Z").unwrap().to_utc();
        let plan = Plan { files: Some(300), regions: 2, late_percent: 5, ..Plan::new(3, 3_000, 2, from, 24) };
        let objects = write_objects(dir.path(), &plan).unwrap();
        let written = write_digests(dir.path(), &plan, "trail-logs", &objects.content_sha256).unwrap();
        assert_eq!(written.log_objects, 300);
        // One or two hours more than those of the plan and those behind it.
        let hourly = written.digests - written.backfills;
        assert!((4 * 37..=4 * 38).contains(&hourly), "{hourly}");
        assert!(0 < written.backfills, "some are late");

        let mut named = BTreeMap::new();
        let mut hash_of = BTreeMap::new();
        let mut previous = Vec::new();
        for key in &written.keys {
            let text = text(&dir.path().join(key));
            hash_of.insert(key.clone(), hex::encode(Sha256::digest(&text)));
            let digest: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(digest["digestS3Object"], key.as_str());
            for file in digest["logFiles"].as_array().unwrap() {
                let hash = file["hashValue"].as_str().unwrap().to_owned();
                assert_eq!(named.insert(file["s3Object"].as_str().unwrap().to_owned(), hash), None, "named twice");
            }
            if let Some(key) = digest["previousDigestS3Object"].as_str() {
                previous.push((key.to_owned(), digest["previousDigestHashValue"].as_str().unwrap().to_owned()));
            }
        }
        for (key, hash) in previous {
            assert_eq!(hash_of[&key], hash);
        }
        let expected: BTreeSet<String> = (0..300).map(|k| plan.log_object(k).key).collect();
        assert_eq!(named.keys().cloned().collect::<BTreeSet<_>>(), expected);
        for (key, hash) in named {
            assert_eq!(hex::encode(Sha256::digest(text(&dir.path().join(key)))), hash);
        }
    }
}
