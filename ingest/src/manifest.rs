//! What one run read: the left side of the balance, written once its slices are on the stream.

use std::collections::{BTreeMap, BTreeSet};

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
    /// The last part of its name: what delivered logs have for themselves, wherever a copy of them lies.
    pub fn file_name(&self) -> &str {
        file_name(&self.name)
    }
}

fn file_name(name: &str) -> &str {
    // Slices are numbered from 0 in every run: only their whole name is their own.
    if name.starts_with("slice:") { name } else { name.rsplit('/').next().unwrap_or(name) }
}

/// The key that the manifests of objects of one file name stand under: its SHA-256, in hexadecimal.
fn key(file_name: &str) -> String {
    hex::encode(Sha256::digest(file_name))
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
    /// Set aside beside a verdict, by reason: no part of the balance.
    pub beside_dead_letters: BTreeMap<Reason, u64>,
    /// SHA-256 of the object's content, inflated; `None` in what was written before this was kept.
    pub content_sha256: Option<[u8; 32]>,
    /// The earliest and the latest event time of its usage; `None` without usage.
    pub event_times: Option<(Timestamp, Timestamp)>,
    /// How many slices it sent; they are numbered from 0.
    pub slices: u32,
    /// The numbers of those whose events go beside records: no part of the balance.
    pub beside_slices: BTreeSet<u32>,
    /// When the reading began.
    pub started_at: Timestamp,
}

impl Manifest {
    /// The manifest of a finished reading that sent so many slices, these of them with events beside records.
    pub fn new(
        run: RunId,
        name: String,
        found: ObjectRead,
        slices: u32,
        beside_slices: &[u32],
        started_at: Timestamp,
    ) -> Self {
        let ObjectRead {
            read,
            not_counted,
            dead_letters,
            beside_dead_letters,
            stored_bytes,
            sha256,
            content_sha256,
            event_times,
        } = found;
        let object = ObjectVersion { name, sha256 };
        let beside_slices = beside_slices.iter().copied().collect();
        let content_sha256 = Some(content_sha256);
        Self {
            run,
            object,
            stored_bytes,
            read,
            not_counted,
            dead_letters,
            beside_dead_letters,
            content_sha256,
            event_times,
            slices,
            beside_slices,
            started_at,
        }
    }

    /// Records that became usage: what the counted and the duplicates of its slices, those beside left out, must add up to.
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

/// The table of manifests: partition key `object` (the hash of the file name), sort key `run`. Ingest is its only writer.
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
        let items = manifests.iter().map(item_of_manifest).collect();
        dynamodb::batch_put(&self.client, &self.table, items, self.random).await
    }

    /// Every run that read this object in this version to its end.
    pub async fn of_object(&self, object: &ObjectVersion) -> Result<Vec<Manifest>, ManifestError> {
        let mut manifests = self.of_file_name(object.file_name()).await?;
        manifests.retain(|manifest| manifest.object == *object);
        Ok(manifests)
    }

    /// Every run that read an object of this file name to its end, wherever it lay and whatever its content.
    pub async fn of_file_name(&self, file_name: &str) -> Result<Vec<Manifest>, ManifestError> {
        let key = ("object", AttributeValue::S(key(file_name)));
        let items = dynamodb::query_all(&self.client, &self.table, key).await?;
        Ok(items.iter().map(manifest_of_item).collect::<Result<_, ItemError>>()?)
    }

    /// Hands on every manifest there is, in no order. Reads the whole table.
    pub async fn scan(&self, mut each: impl FnMut(Manifest)) -> Result<(), ManifestError> {
        let mut start = None;
        loop {
            let page = self
                .client
                .scan()
                .table_name(&self.table)
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsError::new("Scan", error))?;
            for item in page.items.unwrap_or_default() {
                each(manifest_of_item(&item)?);
            }
            match page.last_evaluated_key {
                Some(last) => start = Some(last),
                None => return Ok(()),
            }
        }
    }
}

/// A manifest as it is stored.
pub fn item_of_manifest(manifest: &Manifest) -> Item {
    let number = |value: u64| AttributeValue::N(value.to_string());
    let counts = |counts: Vec<(&str, u64)>| {
        AttributeValue::M(counts.into_iter().map(|(name, count)| (name.to_owned(), number(count))).collect())
    };
    let not_counted = manifest.not_counted.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    let by_reason = |letters: &BTreeMap<Reason, u64>| {
        counts(letters.iter().map(|(reason, count)| (reason.as_str(), *count)).collect())
    };
    let mut item = Item::from([
        ("object".to_owned(), AttributeValue::S(key(manifest.object.file_name()))),
        ("run".to_owned(), AttributeValue::B(Blob::new(manifest.run.as_bytes().as_slice()))),
        ("name".to_owned(), AttributeValue::S(manifest.object.name.clone())),
        ("sha256".to_owned(), AttributeValue::B(Blob::new(manifest.object.sha256.as_slice()))),
        ("bytes".to_owned(), number(manifest.stored_bytes)),
        ("read".to_owned(), number(manifest.read)),
        ("not_counted".to_owned(), counts(not_counted)),
        ("dead_letters".to_owned(), by_reason(&manifest.dead_letters)),
        ("slices".to_owned(), number(manifest.slices.into())),
        ("started_at".to_owned(), AttributeValue::S(manifest.started_at.to_string())),
    ]);
    if let Some(content) = &manifest.content_sha256 {
        item.insert("content_sha256".to_owned(), AttributeValue::B(Blob::new(content.as_slice())));
    }
    if let Some((first, last)) = manifest.event_times {
        item.insert("first_event_at".to_owned(), AttributeValue::S(first.to_string()));
        item.insert("last_event_at".to_owned(), AttributeValue::S(last.to_string()));
    }
    // Most objects have nothing beside; a set cannot be empty.
    if !manifest.beside_dead_letters.is_empty() {
        item.insert("beside_dead_letters".to_owned(), by_reason(&manifest.beside_dead_letters));
    }
    if !manifest.beside_slices.is_empty() {
        let numbers = manifest.beside_slices.iter().map(u32::to_string).collect();
        item.insert("beside_slices".to_owned(), AttributeValue::Ns(numbers));
    }
    item
}

/// Reads what [`item_of_manifest`] wrote.
pub fn manifest_of_item(item: &Item) -> Result<Manifest, ItemError> {
    let counts = |attribute: &'static str| -> Result<Vec<(String, u64)>, ItemError> {
        let map = item.get(attribute).and_then(|value| value.as_m().ok()).ok_or(ItemError { attribute })?;
        let count = |value: &AttributeValue| value.as_n().ok().and_then(|digits| digits.parse().ok());
        map.iter().map(|(name, value)| Ok((name.clone(), count(value).ok_or(ItemError { attribute })?))).collect()
    };
    let wrong = |attribute| ItemError { attribute };
    let hash = |attribute| -> Result<[u8; 32], ItemError> {
        dynamodb::bytes(item, attribute)?.try_into().map_err(|_| wrong(attribute))
    };
    let time = |attribute| Timestamp::parse_rfc3339(dynamodb::text(item, attribute)?).map_err(|_| wrong(attribute));
    let has_times = item.contains_key("first_event_at");
    let event_times = has_times.then(|| Ok((time("first_event_at")?, time("last_event_at")?))).transpose()?;
    let by_reason = |attribute: &'static str| -> Result<BTreeMap<Reason, u64>, ItemError> {
        let counts = counts(attribute)?.into_iter();
        counts.map(|(name, count)| Ok((Reason::parse(&name).ok_or(wrong(attribute))?, count))).collect()
    };
    let beside_slices = match item.get("beside_slices") {
        None => Some(BTreeSet::new()),
        Some(numbers) => {
            let numbers = numbers.as_ns().ok();
            numbers.and_then(|numbers| numbers.iter().map(|number| number.parse().ok()).collect())
        }
    };
    let manifest = Manifest {
        run: RunId::from_bytes(dynamodb::bytes(item, "run")?.try_into().map_err(|_| wrong("run"))?),
        object: ObjectVersion { name: dynamodb::text(item, "name")?.to_owned(), sha256: hash("sha256")? },
        stored_bytes: dynamodb::number(item, "bytes")?,
        read: dynamodb::number(item, "read")?,
        not_counted: counts("not_counted")?
            .into_iter()
            .map(|(name, count)| Ok((NotCounted::parse(&name).ok_or(wrong("not_counted"))?, count)))
            .collect::<Result<_, _>>()?,
        dead_letters: by_reason("dead_letters")?,
        beside_dead_letters: match item.contains_key("beside_dead_letters") {
            true => by_reason("beside_dead_letters")?,
            false => BTreeMap::new(),
        },
        beside_slices: beside_slices.ok_or(wrong("beside_slices"))?,
        slices: u32::try_from(dynamodb::number(item, "slices")?).map_err(|_| wrong("slices"))?,
        content_sha256: item.contains_key("content_sha256").then(|| hash("content_sha256")).transpose()?,
        event_times,
        started_at: time("started_at")?,
    };
    // What became of records is never more than what was read.
    let mut others = manifest.not_counted.values().chain(manifest.dead_letters.values());
    let others = others.try_fold(0_u64, |sum, count| sum.checked_add(*count));
    if others.is_none_or(|others| manifest.read < others) {
        return Err(wrong("read"));
    }
    Ok(manifest)
}
