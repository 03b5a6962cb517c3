//! What must have been read: the digests seen of each source, and the log objects they name.
//!
//! The close computes from it how far a source is complete: its trusted digests cover the time (`digest::Chain`), and each
//! log object they name was read with the content hash they give and is done. A table of DynamoDB and not of PostgreSQL,
//! because ingest writes it: readers of objects have no other connection, and it grows with deliveries as manifests do.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ScalarAttributeType};
use thiserror::Error;

use crate::aws::AwsError;
use crate::digest::{Digest, LogObject, ObjectName, PreviousDigest, SeenDigest, Stretch, TrailSource};
use crate::dynamodb::{self, Item, ItemError};
use crate::{AccountId, Timestamp};

/// Bytes of log objects in one item; the item limit is 400 KB.
const PART_BYTES: usize = 300_000;
/// The partition that lists every source.
const SOURCES: &str = "sources";

/// Why expectations could not be read.
#[derive(Debug, Error)]
pub enum ExpectationError {
    /// The store failed. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
    /// An item is not one of ours. Stop.
    #[error("source expectations: {0}")]
    Item(#[from] ItemError),
}

/// The table of expectations: partition key `source`, sort key `at`. Ingest is its only writer.
///
/// A digest is an item under its source, at the end of its period, its name and its content's hash; further items hold the
/// log objects that do not fit. Items are never changed: reading a digest again writes the same.
#[derive(Clone, Debug)]
pub struct Expectations {
    client: Client,
    table: String,
    random: fn() -> u64,
}

impl Expectations {
    /// The table of this name; `random` feeds the jitter of its waits.
    pub fn new(client: Client, table: String, random: fn() -> u64) -> Self {
        Self { client, table, random }
    }

    /// Creates the table unless it exists.
    pub async fn ensure_table(&self) -> Result<(), AwsError> {
        let sort_key = Some(("at", ScalarAttributeType::S));
        dynamodb::ensure_table(&self.client, &self.table, ("source", ScalarAttributeType::S), sort_key).await
    }

    /// Keeps digests; returns the write units. The head of a digest is written behind its other parts.
    pub async fn put(&self, digests: &[SeenDigest]) -> Result<u64, AwsError> {
        let mut sources: Vec<&TrailSource> = digests.iter().map(|seen| &seen.digest.source).collect();
        sources.sort_unstable();
        sources.dedup();
        let (heads, rest): (Vec<_>, Vec<_>) =
            digests.iter().flat_map(items_of_digest).partition(|(part, _)| *part == 0);
        let listed = sources.into_iter().map(source_item);
        let mut units = 0;
        // A digest without all its parts, or without its source in the list, is not there.
        for items in [
            rest.into_iter().map(|(_, item)| item).chain(listed).collect(),
            heads.into_iter().map(|(_, item)| item).collect(),
        ] {
            units += dynamodb::batch_put(&self.client, &self.table, items, self.random).await?;
        }
        Ok(units)
    }

    /// Every source that had a digest, in order.
    pub async fn sources(&self) -> Result<Vec<TrailSource>, ExpectationError> {
        let key = ("source", AttributeValue::S(SOURCES.to_owned()));
        let items = dynamodb::query_all(&self.client, &self.table, key).await?;
        let sources =
            items.iter().map(|item| parse_source(dynamodb::text(item, "at")?).ok_or(ItemError { attribute: "at" }));
        Ok(sources.collect::<Result<_, _>>()?)
    }

    /// The digests of a source whose period ends in a stretch (its start excluded, its end included), oldest first.
    pub async fn of_source(&self, source: &TrailSource, stretch: Stretch) -> Result<Vec<SeenDigest>, ExpectationError> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression("#source = :source and #at between :from and :through")
                .expression_attribute_names("#source", "source")
                .expression_attribute_names("#at", "at")
                .expression_attribute_values(":source", AttributeValue::S(source_key(source)))
                // Sort keys go on behind the instant with `#`, and `~` sorts after everything they have.
                .expression_attribute_values(":from", AttributeValue::S(format!("{}~", instant_key(stretch.start))))
                .expression_attribute_values(":through", AttributeValue::S(format!("{}~", instant_key(stretch.end))))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsError::new("Query", error))?;
            items.extend(page.items.unwrap_or_default());
            match page.last_evaluated_key {
                Some(last) => start = Some(last),
                None => break,
            }
        }
        Ok(digests_of_items(source, &items)?)
    }
}

fn source_key(source: &TrailSource) -> String {
    format!("cloudtrail/{}/{}/{}", source.account, source.region, source.trail)
}

fn parse_source(key: &str) -> Option<TrailSource> {
    let mut parts = key.strip_prefix("cloudtrail/")?.splitn(3, '/');
    let account = AccountId::parse(parts.next()?).ok()?;
    let (region, trail) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(TrailSource { account, region, trail })
}

fn source_item(source: &TrailSource) -> Item {
    Item::from([
        ("source".to_owned(), AttributeValue::S(SOURCES.to_owned())),
        ("at".to_owned(), AttributeValue::S(source_key(source))),
    ])
}

/// Every instant in the same number of characters, so that keys sort by time.
fn instant_key(instant: Timestamp) -> String {
    chrono::DateTime::<chrono::Utc>::from(instant).to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// The items of a digest with their part numbers, the head (0) first: it is written last.
pub fn items_of_digest(seen: &SeenDigest) -> Vec<(usize, Item)> {
    let digest = &seen.digest;
    let name = digest.object.key.rsplit('/').next().unwrap_or_default();
    let at = format!("{}#{name}#{}", instant_key(digest.end), hex::encode(&seen.content_sha256[..8]));
    let mut parts: Vec<Vec<AttributeValue>> = vec![Vec::new()];
    let mut bytes = 0;
    for object in &digest.log_objects {
        bytes += object.object.key.len() + object.object.bucket.len() + 64;
        if PART_BYTES < bytes {
            parts.push(Vec::new());
            bytes = 0;
        }
        parts.last_mut().expect("there is a first part").push(object_value(object, &digest.object.bucket));
    }
    let count = parts.len();
    let part_items = parts.into_iter().enumerate().map(|(part, objects)| {
        let key = if part == 0 { at.clone() } else { format!("{at}#{part:04}") };
        let mut item = Item::from([
            ("source".to_owned(), text(&source_key(&digest.source))),
            ("at".to_owned(), text(&key)),
            ("objects".to_owned(), AttributeValue::L(objects)),
        ]);
        if part == 0 {
            item.extend(head_members(seen, count));
        }
        (part, item)
    });
    part_items.collect()
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn hash_value(hash: &[u8; 32]) -> AttributeValue {
    AttributeValue::B(Blob::new(hash.as_slice()))
}

/// A log object: `[key, hash]`, and the bucket where it is not the digest's own.
fn object_value(object: &LogObject, bucket: &str) -> AttributeValue {
    let mut members = vec![text(&object.object.key), hash_value(&object.sha256)];
    if object.object.bucket != bucket {
        members.push(text(&object.object.bucket));
    }
    AttributeValue::L(members)
}

fn head_members(seen: &SeenDigest, parts: usize) -> Item {
    let digest = &seen.digest;
    let mut members = Item::from([
        ("bucket".to_owned(), text(&digest.object.bucket)),
        ("key".to_owned(), text(&digest.object.key)),
        ("sha256".to_owned(), hash_value(&seen.content_sha256)),
        ("begins_at".to_owned(), text(&digest.start.to_string())),
        ("ends_at".to_owned(), text(&digest.end.to_string())),
        ("end_as_written".to_owned(), text(&digest.end_as_written)),
        ("is_backfill".to_owned(), AttributeValue::Bool(digest.is_backfill)),
        ("key_fingerprint".to_owned(), text(&digest.key_fingerprint)),
        ("parts".to_owned(), AttributeValue::N(parts.to_string())),
        ("seen_at".to_owned(), text(&seen.seen_at.to_string())),
    ]);
    if let Some(signature) = &seen.signature {
        members.insert("signature".to_owned(), text(signature));
    }
    if let Some(previous) = &digest.previous {
        members.insert("previous_bucket".to_owned(), text(&previous.object.bucket));
        members.insert("previous_key".to_owned(), text(&previous.object.key));
        members.insert("previous_sha256".to_owned(), hash_value(&previous.sha256));
        members.insert("previous_signature".to_owned(), text(&previous.signature));
    }
    members
}

/// Puts the digests of a source together again, from items in the order of their keys. Parts without a head are of a put that
/// did not end.
pub fn digests_of_items(source: &TrailSource, items: &[Item]) -> Result<Vec<SeenDigest>, ItemError> {
    let mut digests: Vec<SeenDigest> = Vec::new();
    let mut rest = items;
    while let Some((head, behind)) = rest.split_first() {
        if !head.contains_key("parts") {
            rest = behind;
            continue;
        }
        let parts = usize::try_from(dynamodb::number(head, "parts")?).map_err(|_| ItemError { attribute: "parts" })?;
        let others = behind.get(..parts.saturating_sub(1)).ok_or(ItemError { attribute: "parts" })?;
        rest = &behind[others.len()..];
        digests.push(seen_digest(source, head, others)?);
    }
    Ok(digests)
}

fn seen_digest(source: &TrailSource, head: &Item, others: &[Item]) -> Result<SeenDigest, ItemError> {
    let own = |attribute| dynamodb::text(head, attribute).map(str::to_owned);
    let instant =
        |attribute| Timestamp::parse_rfc3339(dynamodb::text(head, attribute)?).map_err(|_| ItemError { attribute });
    let hash = |attribute| dynamodb::bytes(head, attribute)?.try_into().map_err(|_| ItemError { attribute });
    let bucket = own("bucket")?;
    let mut log_objects = Vec::new();
    for part in std::iter::once(head).chain(others) {
        for object in
            part.get("objects").and_then(|objects| objects.as_l().ok()).ok_or(ItemError { attribute: "objects" })?
        {
            log_objects.push(log_object(object, &bucket).ok_or(ItemError { attribute: "objects" })?);
        }
    }
    let previous = match head.contains_key("previous_key") {
        false => None,
        true => Some(PreviousDigest {
            object: ObjectName { bucket: own("previous_bucket")?, key: own("previous_key")? },
            sha256: hash("previous_sha256")?,
            signature: own("previous_signature")?,
        }),
    };
    let digest = Digest {
        source: source.clone(),
        start: instant("begins_at")?,
        end: instant("ends_at")?,
        end_as_written: own("end_as_written")?,
        is_backfill: *head
            .get("is_backfill")
            .and_then(|value| value.as_bool().ok())
            .ok_or(ItemError { attribute: "is_backfill" })?,
        object: ObjectName { bucket, key: own("key")? },
        previous,
        key_fingerprint: own("key_fingerprint")?,
        log_objects,
    };
    let signature = head.contains_key("signature").then(|| own("signature")).transpose()?;
    Ok(SeenDigest { digest, content_sha256: hash("sha256")?, signature, seen_at: instant("seen_at")? })
}

fn log_object(value: &AttributeValue, bucket: &str) -> Option<LogObject> {
    let (key, hash, other_bucket) = match value.as_l().ok()?.as_slice() {
        [key, hash] => (key, hash, None),
        [key, hash, bucket] => (key, hash, Some(bucket.as_s().ok()?)),
        _ => return None,
    };
    let bucket = other_bucket.map_or(bucket, String::as_str).to_owned();
    let object = ObjectName { bucket, key: key.as_s().ok()?.clone() };
    Some(LogObject { object, sha256: hash.as_b().ok()?.as_ref().try_into().ok()? })
}
