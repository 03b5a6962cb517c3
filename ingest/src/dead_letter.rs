//! Records set aside with a reason: stored whole, listed, and replayed once what was wrong is put right.

mod scope;

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ScalarAttributeType};
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::aws::AwsError;
use crate::dynamodb::{self, Item, ItemError};
use crate::{AccountId, Reason, Timestamp};

pub use scope::Scope;

/// Bytes of a record in one item; the item limit is 400 KB.
const PART_BYTES: usize = 350_000;
/// Bytes of a record that stand in its head, to be shown without loading it.
const EXCERPT_BYTES: usize = 512;
const CALLS_AT_ONCE: usize = 8;
/// Attributes of a head: everything of part 0 but the record's bytes.
const HEAD_ATTRIBUTES: &[&str] = &[
    "id",
    "object",
    "offset",
    "number",
    "reason",
    "length",
    "excerpt",
    "is_whole",
    "accounts",
    "first_at",
    "last_at",
    "seen_at",
    "resolved_at",
    "dismissed_by",
    "dismissed_because",
];

/// A record set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The object it came from.
    pub object: String,
    /// Where it, or the outermost delivery that carried it, begins in the inflated object, in bytes.
    pub offset: u64,
    /// Its number among the records that came out of what begins there, from 0.
    pub number: u32,
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
    /// 16 bytes of SHA-256 over object, offset, number (unless it is 0) and bytes, in hexadecimal.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.object);
        hash.update([0]);
        hash.update(self.offset.to_be_bytes());
        if 0 < self.number {
            hash.update(self.number.to_be_bytes());
        }
        hash.update(&self.bytes);
        hex::encode(&hash.finalize()[..16])
    }
}

/// A dead letter without its bytes, which [`DeadLetters::load`] brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterHead {
    /// Its name, as [`DeadLetter::id`].
    pub id: String,
    /// The object it came from.
    pub object: String,
    /// Where it, or the outermost delivery that carried it, begins in the inflated object, in bytes.
    pub offset: u64,
    /// Its number among the records that came out of what begins there, from 0.
    pub number: u32,
    /// Why it was set aside.
    pub reason: Reason,
    /// The first 512 bytes of what is kept of it.
    pub excerpt: Vec<u8>,
    /// How many bytes are kept of it.
    pub length: u64,
    /// Whether what is kept is all of it.
    pub is_whole: bool,
    /// Whose usage it may be, and of which time.
    pub scope: Scope,
    /// When it was set aside.
    pub seen_at: Timestamp,
    /// When a replay put it right, or somebody dismissed it.
    pub resolved_at: Option<Timestamp>,
    /// Who decided that it is no usage, and why.
    pub dismissed: Option<Dismissal>,
}

impl DeadLetterHead {
    /// Whether it waits for somebody to put it right: open dead letters hold up the close of their period.
    pub fn is_open(&self) -> bool {
        self.resolved_at.is_none()
    }
}

/// Somebody's word that a dead letter is no usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dismissal {
    /// Who.
    pub by: String,
    /// Why.
    pub because: String,
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
        stream::iter(puts).buffer_unordered(CALLS_AT_ONCE).try_fold(0, async |sum, units| Ok(sum + units)).await
    }

    async fn put_one(&self, letter: &DeadLetter) -> Result<u64, AwsError> {
        let (head, rest) = items_of_letter(letter);
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

    /// The head of every dead letter, resolved ones included, oldest first.
    ///
    /// Holds no more than a kilobyte of each, however large the records are.
    pub async fn heads(&self) -> Result<Vec<DeadLetterHead>, DeadLetterError> {
        let mut heads = Vec::new();
        let mut start = None;
        // Placeholders throughout: some of the names are reserved words.
        let placeholders = (0..HEAD_ATTRIBUTES.len()).map(|n| format!("#a{n}")).collect::<Vec<_>>();
        let names = HEAD_ATTRIBUTES.iter().map(|&name| name.to_owned());
        let names: HashMap<String, String> = placeholders.iter().cloned().zip(names).collect();
        loop {
            let page = self
                .client
                .scan()
                .table_name(&self.table)
                .consistent_read(true)
                .filter_expression("part = :head")
                .expression_attribute_values(":head", AttributeValue::N("0".to_owned()))
                .projection_expression(placeholders.join(", "))
                .set_expression_attribute_names(Some(names.clone()))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsError::new("Scan", error))?;
            for item in page.items.unwrap_or_default() {
                heads.push(head(&item)?);
            }
            match page.last_evaluated_key {
                Some(last) => start = Some(last),
                None => break,
            }
        }
        heads.sort_by(|a, b| {
            (a.seen_at, &a.object, a.offset, a.number).cmp(&(b.seen_at, &b.object, b.offset, b.number))
        });
        Ok(heads)
    }

    /// One dead letter with all its bytes; `None` if there is none of this name.
    pub async fn load(&self, id: &str) -> Result<Option<DeadLetter>, DeadLetterError> {
        let key = ("id", AttributeValue::S(id.to_owned()));
        let parts = dynamodb::query_all(&self.client, &self.table, key).await?;
        Ok(letter_of_items(&parts)?)
    }

    /// Every dead letter with all its bytes, resolved ones included, oldest first: for few of them.
    pub async fn list(&self) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let heads = self.heads().await?;
        let loads: Vec<_> = heads.iter().map(|head| self.load(&head.id)).collect();
        stream::iter(loads).buffered(CALLS_AT_ONCE).try_filter_map(async |letter| Ok(letter)).try_collect().await
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

    /// Marks an open one as no usage, on somebody's word; one that is not open stays as it is.
    pub async fn dismiss(&self, id: &str, dismissal: &Dismissal, now: Timestamp) -> Result<(), AwsError> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("id", AttributeValue::S(id.to_owned()))
            .key("part", AttributeValue::N("0".to_owned()))
            .condition_expression("attribute_exists(id) and attribute_not_exists(resolved_at)")
            .update_expression("set resolved_at = :now, dismissed_by = :by, dismissed_because = :because")
            .expression_attribute_values(":now", AttributeValue::S(now.to_string()))
            .expression_attribute_values(":by", AttributeValue::S(dismissal.by.clone()))
            .expression_attribute_values(":because", AttributeValue::S(dismissal.because.clone()));
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => Ok(()),
            Err(error) => Err(AwsError::new("UpdateItem", error)),
        }
    }
}

/// A dead letter as it is stored: its head, which is written last, and the parts behind it.
pub fn items_of_letter(letter: &DeadLetter) -> (Item, Vec<Item>) {
    let id = letter.id();
    let mut parts = letter.bytes.chunks(PART_BYTES);
    let first = parts.next().unwrap_or_default();
    let rest: Vec<Item> = parts.zip(1_usize..).map(|(bytes, part)| part_item(&id, part, bytes)).collect();
    let mut head = part_item(&id, 0, first);
    head.extend([
        ("object".to_owned(), AttributeValue::S(letter.object.clone())),
        ("offset".to_owned(), AttributeValue::N(letter.offset.to_string())),
        ("number".to_owned(), AttributeValue::N(letter.number.to_string())),
        ("reason".to_owned(), AttributeValue::S(letter.reason.as_str().to_owned())),
        ("length".to_owned(), AttributeValue::N(letter.bytes.len().to_string())),
        ("excerpt".to_owned(), AttributeValue::B(Blob::new(&first[..first.len().min(EXCERPT_BYTES)]))),
        ("is_whole".to_owned(), AttributeValue::Bool(letter.is_whole)),
        ("parts".to_owned(), AttributeValue::N((rest.len() + 1).to_string())),
        ("seen_at".to_owned(), AttributeValue::S(letter.seen_at.to_string())),
    ]);
    head.extend(scope_members(&Scope::of(letter)));
    (head, rest)
}

/// Puts the items of one dead letter together again, in the order of their parts; `None` if its head is not there: parts
/// without a head are of a put that did not end.
pub fn letter_of_items(parts: &[Item]) -> Result<Option<DeadLetter>, ItemError> {
    let Some(first) = parts.first().filter(|part| part.contains_key("parts")) else { return Ok(None) };
    if dynamodb::number(first, "parts")? != parts.len() as u64 {
        return Err(ItemError { attribute: "parts" });
    }
    let DeadLetterHead { object, offset, number, reason, is_whole, seen_at, resolved_at, .. } = head(first)?;
    let bytes = parts.iter().map(|part| dynamodb::bytes(part, "bytes")).collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Some(DeadLetter { object, offset, number, reason, bytes, is_whole, seen_at, resolved_at }))
}

fn scope_members(scope: &Scope) -> Vec<(String, AttributeValue)> {
    let text = |text: String| AttributeValue::S(text);
    let accounts = scope.accounts.iter().map(|accounts| {
        let accounts = accounts.iter().map(|account| text(account.to_string())).collect();
        ("accounts".to_owned(), AttributeValue::L(accounts))
    });
    let times = scope.times.iter().flat_map(|(first, last)| [("first_at", first), ("last_at", last)]);
    accounts.chain(times.map(|(name, time)| (name.to_owned(), text(time.to_string())))).collect()
}

fn scope(item: &Item) -> Result<Scope, ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let time = |attribute| Timestamp::parse_rfc3339(dynamodb::text(item, attribute)?).map_err(|_| wrong(attribute));
    let accounts = item.get("accounts").map(|value| {
        let accounts = value.as_l().map_err(|_| wrong("accounts"))?;
        let account = |value: &AttributeValue| value.as_s().ok().and_then(|text| AccountId::parse(text).ok());
        accounts.iter().map(|value| account(value).ok_or(wrong("accounts"))).collect()
    });
    let times = item.contains_key("first_at").then(|| Ok((time("first_at")?, time("last_at")?)));
    Ok(Scope { accounts: accounts.transpose()?, times: times.transpose()? })
}

fn part_item(id: &str, part: usize, bytes: &[u8]) -> Item {
    Item::from([
        ("id".to_owned(), AttributeValue::S(id.to_owned())),
        ("part".to_owned(), AttributeValue::N(part.to_string())),
        ("bytes".to_owned(), AttributeValue::B(Blob::new(bytes))),
    ])
}

fn head(item: &Item) -> Result<DeadLetterHead, ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let time = |attribute| Timestamp::parse_rfc3339(dynamodb::text(item, attribute)?).map_err(|_| wrong(attribute));
    Ok(DeadLetterHead {
        id: dynamodb::text(item, "id")?.to_owned(),
        object: dynamodb::text(item, "object")?.to_owned(),
        offset: dynamodb::number(item, "offset")?,
        number: match item.contains_key("number") {
            true => u32::try_from(dynamodb::number(item, "number")?).map_err(|_| wrong("number"))?,
            false => 0,
        },
        reason: Reason::parse(dynamodb::text(item, "reason")?).ok_or(wrong("reason"))?,
        excerpt: dynamodb::bytes(item, "excerpt")?.to_vec(),
        length: dynamodb::number(item, "length")?,
        is_whole: *item.get("is_whole").and_then(|value| value.as_bool().ok()).ok_or(wrong("is_whole"))?,
        scope: scope(item)?,
        seen_at: time("seen_at")?,
        resolved_at: item.contains_key("resolved_at").then(|| time("resolved_at")).transpose()?,
        dismissed: item.contains_key("dismissed_by").then(|| dismissal(item)).transpose()?,
    })
}

fn dismissal(item: &Item) -> Result<Dismissal, ItemError> {
    let text = |attribute| dynamodb::text(item, attribute).map(str::to_owned);
    Ok(Dismissal { by: text("dismissed_by")?, because: text("dismissed_because")? })
}
