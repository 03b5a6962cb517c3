//! Records set aside with a reason: stored whole, listed, and replayed once what was wrong is put right.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ScalarAttributeType};
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::aws::AwsError;
use crate::dynamodb::{self, Item, ItemError};
use crate::{Reason, Timestamp};

/// Bytes of a record in one item; the item limit is 400 KB.
const PART_BYTES: usize = 350_000;
const PUTS_AT_ONCE: usize = 8;

/// A record set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The object it came from.
    pub object: String,
    /// Where it begins in the inflated object, in bytes.
    pub offset: u64,
    /// Why.
    pub reason: Reason,
    /// The record, or its beginning.
    pub bytes: Vec<u8>,
    /// Whether `bytes` is all of it; otherwise a replay reads the object again.
    pub is_whole: bool,
    /// When it was set aside.
    pub seen_at: Timestamp,
    /// When a replay put it right.
    pub resolved_at: Option<Timestamp>,
}

impl DeadLetter {
    /// Names it by where it came from and what it is, so that reading the object again sets nothing aside twice: the first
    /// 16 bytes of SHA-256 over object, offset and bytes, in hexadecimal.
    pub fn id(&self) -> String {
        let hash = Sha256::new()
            .chain_update(&self.object)
            .chain_update([0])
            .chain_update(self.offset.to_be_bytes())
            .chain_update(&self.bytes)
            .finalize();
        hex::encode(&hash[..16])
    }
}

/// Why dead letters could not be read.
#[derive(Debug, Error)]
pub enum DeadLetterError {
    /// The store failed. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
    /// An item is not one of ours. Stop.
    #[error("dead letters: {0}")]
    Item(#[from] ItemError),
}

/// The table of dead letters: partition key `id`, sort key `part`. Part 0 is written last and says there is one.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    client: Client,
    table: String,
    random: fn() -> u64,
}

impl DeadLetters {
    /// The table of this name; `random` feeds the jitter of its waits.
    pub fn new(client: Client, table: String, random: fn() -> u64) -> Self {
        Self { client, table, random }
    }

    /// Creates the table unless it exists.
    pub async fn ensure_table(&self) -> Result<(), AwsError> {
        let sort_key = Some(("part", ScalarAttributeType::N));
        dynamodb::ensure_table(&self.client, &self.table, ("id", ScalarAttributeType::S), sort_key).await
    }

    /// Sets records aside. One that was set aside before stays as it is, resolved or not.
    ///
    /// Returns the write units.
    pub async fn put(&self, letters: &[DeadLetter]) -> Result<u64, AwsError> {
        let puts: Vec<_> = letters.iter().map(|letter| self.put_one(letter)).collect();
        stream::iter(puts).buffer_unordered(PUTS_AT_ONCE).try_fold(0, async |sum, units| Ok(sum + units)).await
    }

    async fn put_one(&self, letter: &DeadLetter) -> Result<u64, AwsError> {
        let id = letter.id();
        let mut parts = letter.bytes.chunks(PART_BYTES);
        let first = parts.next().unwrap_or_default();
        let rest: Vec<Item> = parts.zip(1_usize..).map(|(bytes, part)| part_item(&id, part, bytes)).collect();
        let mut head = part_item(&id, 0, first);
        head.extend([
            ("object".to_owned(), AttributeValue::S(letter.object.clone())),
            ("offset".to_owned(), AttributeValue::N(letter.offset.to_string())),
            ("reason".to_owned(), AttributeValue::S(letter.reason.as_str().to_owned())),
            ("is_whole".to_owned(), AttributeValue::Bool(letter.is_whole)),
            ("parts".to_owned(), AttributeValue::N((rest.len() + 1).to_string())),
            ("seen_at".to_owned(), AttributeValue::S(letter.seen_at.to_string())),
        ]);
        let units = dynamodb::batch_put(&self.client, &self.table, rest, self.random).await?;
        let head_units = dynamodb::item_units(&head);
        let put = self.client.put_item().table_name(&self.table).set_item(Some(head));
        match put.condition_expression("attribute_not_exists(id)").send().await {
            Ok(_) => Ok(units + head_units),
            // A refused condition costs what the write would have cost.
            Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => {
                Ok(units + head_units)
            }
            Err(error) => Err(AwsError::new("PutItem", error)),
        }
    }

    /// Every dead letter, resolved ones included, oldest first.
    pub async fn list(&self) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let mut heads = Vec::new();
        let mut start = None;
        loop {
            let page = self
                .client
                .scan()
                .table_name(&self.table)
                .consistent_read(true)
                .filter_expression("part = :head")
                .expression_attribute_values(":head", AttributeValue::N("0".to_owned()))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsError::new("Scan", error))?;
            heads.extend(page.items.unwrap_or_default());
            match page.last_evaluated_key {
                Some(last) => start = Some(last),
                None => break,
            }
        }
        let mut letters = Vec::with_capacity(heads.len());
        for head in &heads {
            let mut letter = dead_letter(head)?;
            if 1 < dynamodb::number(head, "parts")? {
                let id = AttributeValue::S(dynamodb::text(head, "id")?.to_owned());
                let parts = dynamodb::query_all(&self.client, &self.table, ("id", id)).await?;
                letter.bytes.clear();
                for part in &parts {
                    letter.bytes.extend_from_slice(dynamodb::bytes(part, "bytes")?);
                }
            }
            letters.push(letter);
        }
        letters.sort_by(|a, b| (a.seen_at, &a.object, a.offset).cmp(&(b.seen_at, &b.object, b.offset)));
        Ok(letters)
    }

    /// Marks one as put right.
    pub async fn resolve(&self, id: &str, now: Timestamp) -> Result<(), AwsError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("id", AttributeValue::S(id.to_owned()))
            .key("part", AttributeValue::N("0".to_owned()))
            .condition_expression("attribute_exists(id)")
            .update_expression("set resolved_at = if_not_exists(resolved_at, :now)")
            .expression_attribute_values(":now", AttributeValue::S(now.to_string()));
        update.send().await.map(drop).map_err(|error| AwsError::new("UpdateItem", error))
    }
}

fn part_item(id: &str, part: usize, bytes: &[u8]) -> Item {
    Item::from([
        ("id".to_owned(), AttributeValue::S(id.to_owned())),
        ("part".to_owned(), AttributeValue::N(part.to_string())),
        ("bytes".to_owned(), AttributeValue::B(Blob::new(bytes))),
    ])
}

fn dead_letter(head: &Item) -> Result<DeadLetter, ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let time = |attribute| Timestamp::parse_rfc3339(dynamodb::text(head, attribute)?).map_err(|_| wrong(attribute));
    Ok(DeadLetter {
        object: dynamodb::text(head, "object")?.to_owned(),
        offset: dynamodb::number(head, "offset")?,
        reason: Reason::parse(dynamodb::text(head, "reason")?).ok_or(wrong("reason"))?,
        bytes: dynamodb::bytes(head, "bytes")?.to_vec(),
        is_whole: *head.get("is_whole").and_then(|value| value.as_bool().ok()).ok_or(wrong("is_whole"))?,
        seen_at: time("seen_at")?,
        resolved_at: head.contains_key("resolved_at").then(|| time("resolved_at")).transpose()?,
    })
}
