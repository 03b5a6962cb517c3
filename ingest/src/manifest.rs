//! What one run read: the left side of the balance, written once its slices are on the stream.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ScalarAttributeType};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::aws::AwsError;
use crate::dynamodb::{self, Item, ItemError};
use crate::{NotCounted, ObjectRead, Reason, RunId, Timestamp};

/// A source object as it was read: its delivered name and its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectVersion {
    /// The delivered name, such as an S3 URL or a file's path.
    pub name: String,
    /// SHA-256 of the object as stored.
    pub sha256: [u8; 32],
}

impl ObjectVersion {
    /// The key its manifests stand under: SHA-256 over name and content hash, in hexadecimal.
    fn key(&self) -> String {
        hex::encode(Sha256::new().chain_update(&self.name).chain_update([0]).chain_update(self.sha256).finalize())
    }
}

/// What one run read and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The run.
    pub run: RunId,
    /// What it read.
    pub object: ObjectVersion,
    /// Size of the object as stored.
    pub stored_bytes: u64,
    /// Records read.
    pub read: u64,
    /// Not counted, by kind.
    pub not_counted: BTreeMap<NotCounted, u64>,
    /// Dead letters, by reason.
    pub dead_letters: BTreeMap<Reason, u64>,
    /// How many slices it sent; they are numbered from 0.
    pub slices: u32,
    /// When the reading began.
    pub started_at: Timestamp,
}

impl Manifest {
    /// The manifest of a finished reading.
    pub fn new(run: RunId, name: String, found: ObjectRead, slices: u32, started_at: Timestamp) -> Self {
        let ObjectRead { read, not_counted, dead_letters, stored_bytes, sha256 } = found;
        let object = ObjectVersion { name, sha256 };
        Self { run, object, stored_bytes, read, not_counted, dead_letters, slices, started_at }
    }

    /// Usage events sent: what counters and duplicates must add up to.
    pub fn usage_events(&self) -> u64 {
        self.read - self.not_counted.values().sum::<u64>() - self.dead_letters.values().sum::<u64>()
    }
}

/// Why manifests could not be read.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The store failed. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
    /// An item is not one of ours. Stop.
    #[error("manifests: {0}")]
    Item(#[from] ItemError),
}

/// The table of manifests: partition key `object`, sort key `run`. Ingest is its only writer.
#[derive(Clone, Debug)]
pub struct Manifests {
    client: Client,
    table: String,
    random: fn() -> u64,
}

impl Manifests {
    /// The table of this name; `random` feeds the jitter of its waits.
    pub fn new(client: Client, table: String, random: fn() -> u64) -> Self {
        Self { client, table, random }
    }

    /// Creates the table unless it exists.
    pub async fn ensure_table(&self) -> Result<(), AwsError> {
        let sort_key = Some(("run", ScalarAttributeType::B));
        dynamodb::ensure_table(&self.client, &self.table, ("object", ScalarAttributeType::S), sort_key).await
    }

    /// Writes manifests; returns the write units. Writing one again changes nothing.
    pub async fn put(&self, manifests: &[Manifest]) -> Result<u64, AwsError> {
        let items = manifests.iter().map(item).collect();
        dynamodb::batch_put(&self.client, &self.table, items, self.random).await
    }

    /// Every run that read this object in this version to its end.
    pub async fn of_object(&self, object: &ObjectVersion) -> Result<Vec<Manifest>, ManifestError> {
        let key = ("object", AttributeValue::S(object.key()));
        let items = dynamodb::query_all(&self.client, &self.table, key).await?;
        Ok(items.iter().map(|item| manifest(item, object)).collect::<Result<_, ItemError>>()?)
    }
}

fn item(manifest: &Manifest) -> Item {
    let number = |value: u64| AttributeValue::N(value.to_string());
    let counts = |counts: Vec<(&str, u64)>| {
        AttributeValue::M(counts.into_iter().map(|(name, count)| (name.to_owned(), number(count))).collect())
    };
    let not_counted = manifest.not_counted.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    let dead_letters = manifest.dead_letters.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    Item::from([
        ("object".to_owned(), AttributeValue::S(manifest.object.key())),
        ("run".to_owned(), AttributeValue::B(Blob::new(manifest.run.as_bytes().as_slice()))),
        ("name".to_owned(), AttributeValue::S(manifest.object.name.clone())),
        ("sha256".to_owned(), AttributeValue::B(Blob::new(manifest.object.sha256.as_slice()))),
        ("bytes".to_owned(), number(manifest.stored_bytes)),
        ("read".to_owned(), number(manifest.read)),
        ("not_counted".to_owned(), counts(not_counted)),
        ("dead_letters".to_owned(), counts(dead_letters)),
        ("slices".to_owned(), number(manifest.slices.into())),
        ("started_at".to_owned(), AttributeValue::S(manifest.started_at.to_string())),
    ])
}

fn manifest(item: &Item, object: &ObjectVersion) -> Result<Manifest, ItemError> {
    let counts = |attribute: &'static str| -> Result<Vec<(String, u64)>, ItemError> {
        let map = item.get(attribute).and_then(|value| value.as_m().ok()).ok_or(ItemError { attribute })?;
        let count = |value: &AttributeValue| value.as_n().ok().and_then(|digits| digits.parse().ok());
        map.iter().map(|(name, value)| Ok((name.clone(), count(value).ok_or(ItemError { attribute })?))).collect()
    };
    let wrong = |attribute| ItemError { attribute };
    let kind = |name: &str| [NotCounted::CloudTrailDigest].into_iter().find(|kind| kind.as_str() == name);
    Ok(Manifest {
        run: RunId::from_bytes(dynamodb::bytes(item, "run")?.try_into().map_err(|_| wrong("run"))?),
        object: object.clone(),
        stored_bytes: dynamodb::number(item, "bytes")?,
        read: dynamodb::number(item, "read")?,
        not_counted: counts("not_counted")?
            .into_iter()
            .map(|(name, count)| Ok((kind(&name).ok_or(wrong("not_counted"))?, count)))
            .collect::<Result<_, _>>()?,
        dead_letters: counts("dead_letters")?
            .into_iter()
            .map(|(name, count)| Ok((Reason::parse(&name).ok_or(wrong("dead_letters"))?, count)))
            .collect::<Result<_, _>>()?,
        slices: u32::try_from(dynamodb::number(item, "slices")?).map_err(|_| wrong("slices"))?,
        started_at: Timestamp::parse_rfc3339(dynamodb::text(item, "started_at")?).map_err(|_| wrong("started_at"))?,
    })
}
