//! Secrets that bcrypt has accepted: remembered for a while, in memory and in DynamoDB.
//!
//! An entry says one thing: this secret fits this stored hash. It says nothing about the key, whose generation, expiry
//! and scopes every request reads anew; so a revoked key is out at once, whatever is remembered. Refusals are not
//! remembered. An entry is named by a MAC over key id, secret and stored hash, so that the table shows neither; it
//! carries the time of its end and a MAC over both, so that nobody who can write to the table can let himself in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TimeToLiveSpecification,
};
use ingest::Timestamp;
use ingest::aws::AwsError;
use moka::sync::Cache;
use subtle::ConstantTimeEq;

use super::token::KeyId;
use crate::key::Key;

/// How long a secret stays accepted without bcrypt.
pub const VERIFIED_SECS_MAX: i64 = 4 * 3_600;

/// Secrets remembered in memory.
const REMEMBERED_MAX: u64 = 100_000;

/// DynamoDB is asked for so long; then bcrypt is quicker.
const TABLE_WAIT_MS_MAX: u64 = 100;

const NAME: &str = "entry";
const ENDS_AT: &str = "ends_at";
const MAC: &str = "mac";

/// How often an accepted secret was found without bcrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Found in memory.
    pub memory: u64,
    /// Found in the table.
    pub table: u64,
    /// Not found: bcrypt was asked.
    pub missed: u64,
}

impl CacheCounts {
    /// Found in percent of all, in tenths; `None` before the first request.
    pub fn hits_per_mille(self) -> Option<u64> {
        let all = self.memory + self.table + self.missed;
        (all > 0).then(|| (self.memory + self.table) * 1_000 / all)
    }
}

/// The name of an accepted secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntryName([u8; 32]);

/// What is remembered.
#[derive(Clone, Debug)]
pub struct Verified {
    key: Key,
    memory: Cache<EntryName, i64>,
    /// What bcrypt has accepted in this process at any time: it is asked again, and is no guess.
    accepted: Cache<EntryName, ()>,
    table: Option<Table>,
    counts: Arc<[AtomicU64; 3]>,
}

/// The table that all servers share.
#[derive(Clone, Debug)]
struct Table {
    client: Client,
    name: String,
}

impl Verified {
    /// Remembers in memory alone. The key must stay secret, and the same for all servers that share a table.
    pub(crate) fn new(key: Key) -> Self {
        let memory = Cache::builder()
            .max_capacity(REMEMBERED_MAX)
            .time_to_live(Duration::from_secs(VERIFIED_SECS_MAX.unsigned_abs()))
            .build();
        let accepted = Cache::builder().max_capacity(REMEMBERED_MAX).build();
        Self { key, memory, accepted, table: None, counts: Arc::default() }
    }

    /// Remembers in this table as well.
    pub(crate) fn with_table(self, client: Client, name: String) -> Self {
        Self { table: Some(Table { client, name }), ..self }
    }

    /// Hits and misses since the start.
    pub fn counts(&self) -> CacheCounts {
        let [memory, table, missed] = &*self.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts { memory: read(memory), table: read(table), missed: read(missed) }
    }

    /// The name of a secret's entry; another stored hash is another entry.
    pub(crate) fn name(&self, key_id: &KeyId, digest: [u8; 32], stored_hash: &str) -> EntryName {
        EntryName(self.key.sign(&format!("verified {key_id} {} {stored_hash}", hex::encode(digest))))
    }

    /// Whether the secret was accepted lately.
    pub(crate) async fn holds(&self, name: EntryName, now: Timestamp) -> bool {
        if self.holds_in_memory(name, now) {
            self.counts[0].fetch_add(1, Ordering::Relaxed);
            return true;
        }
        if let Some(ends_at) = self.read_table(name, now).await {
            self.memory.insert(name, ends_at);
            self.accepted.insert(name, ());
            self.counts[1].fetch_add(1, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Whether another request of the same secret had it accepted meanwhile.
    pub(crate) fn holds_in_memory(&self, name: EntryName, now: Timestamp) -> bool {
        // The clock decides, not the cache's own idea of when to forget.
        self.memory.get(&name).is_some_and(|ends_at| now.micros() < ends_at)
    }

    /// Whether the secret was accepted once, be it long ago: bcrypt has to be asked, and it is worth asking.
    pub(crate) fn was_accepted(&self, name: EntryName) -> bool {
        self.accepted.contains_key(&name)
    }

    /// Counts a question that bcrypt has to answer.
    pub(crate) fn missed(&self) {
        self.counts[2].fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers an accepted secret.
    pub(crate) async fn remember(&self, name: EntryName, now: Timestamp) {
        let ends_at = now.saturating_add_secs(VERIFIED_SECS_MAX).micros();
        self.memory.insert(name, ends_at);
        self.accepted.insert(name, ());
        self.write_table(name, ends_at).await;
    }

    fn mac(&self, name: EntryName, ends_at: i64) -> [u8; 32] {
        self.key.sign(&format!("entry {} {ends_at}", hex::encode(name.0)))
    }

    async fn read_table(&self, name: EntryName, now: Timestamp) -> Option<i64> {
        let table = self.table.as_ref()?;
        let got = table.client.get_item().table_name(&table.name).key(NAME, binary(&name.0)).send();
        // A table that is away is a miss: bcrypt knows as well.
        let got = tokio::time::timeout(Duration::from_millis(TABLE_WAIT_MS_MAX), got).await;
        let item = match got {
            Ok(Ok(answer)) => answer.item?,
            Ok(Err(error)) => {
                tracing::warn!(error = %AwsError::new("GetItem", error), "the authentication cache is away");
                return None;
            }
            Err(_) => {
                tracing::warn!("the authentication cache does not answer in time");
                return None;
            }
        };
        let seconds: i64 = item.get(ENDS_AT)?.as_n().ok()?.parse().ok()?;
        let ends_at = seconds.checked_mul(1_000_000)?;
        let mac = item.get(MAC)?.as_b().ok()?;
        let is_ours: bool = self.mac(name, ends_at).ct_eq(mac.as_ref()).into();
        if !is_ours {
            tracing::error!(alarm = "isolation", "an entry of the authentication cache was not made by us");
            return None;
        }
        // The service deletes expired items when it gets to it.
        let furthest = now.saturating_add_secs(VERIFIED_SECS_MAX).micros();
        (now.micros() < ends_at && ends_at <= furthest).then_some(ends_at)
    }

    async fn write_table(&self, name: EntryName, ends_at: i64) {
        let Some(table) = &self.table else { return };
        // The service's time to live is in whole seconds; rounded down, so that nothing holds longer than it says.
        let seconds = ends_at.div_euclid(1_000_000);
        let put = table
            .client
            .put_item()
            .table_name(&table.name)
            .item(NAME, binary(&name.0))
            .item(ENDS_AT, AttributeValue::N(seconds.to_string()))
            .item(MAC, binary(&self.mac(name, seconds * 1_000_000)))
            .send();
        match tokio::time::timeout(Duration::from_millis(TABLE_WAIT_MS_MAX), put).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %AwsError::new("PutItem", error), "the authentication cache is away");
            }
            Err(_) => tracing::warn!("the authentication cache does not answer in time"),
        }
    }
}

fn binary(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(bytes.into())
}

/// Makes the table of accepted secrets, which holds customers' buckets of requests as well, with its time to live, unless it
/// is there.
pub async fn create_verified_table(client: &Client, table: &str) -> Result<(), AwsError> {
    let attribute = AttributeDefinition::builder().attribute_name(NAME).attribute_type(ScalarAttributeType::B);
    let key = KeySchemaElement::builder().attribute_name(NAME).key_type(KeyType::Hash);
    let created = client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute.build().expect("name and type are set"))
        .key_schema(key.build().expect("name and type are set"))
        .send()
        .await;
    match created {
        Ok(_) => {}
        Err(error) if error.as_service_error().is_some_and(|cause| cause.is_resource_in_use_exception()) => {
            return Ok(());
        }
        Err(error) => return Err(AwsError::new("CreateTable", error)),
    }
    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name(ENDS_AT);
    client
        .update_time_to_live()
        .table_name(table)
        .time_to_live_specification(ttl.build().expect("enabled and name are set"))
        .send()
        .await
        .map_err(|error| AwsError::new("UpdateTimeToLive", error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified() -> Verified {
        Verified::new(Key::new([5; 32]).unwrap())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    #[tokio::test]
    async fn an_accepted_secret_is_remembered_for_four_hours_by_the_clock() {
        let verified = verified();
        let key_id = KeyId::parse("AAAAAAAAAAAAAAAA").unwrap();
        let name = verified.name(&key_id, [1; 32], "hash");
        assert!(!verified.holds(name, at(0)).await);
        verified.remember(name, at(0)).await;
        assert!(verified.holds(name, at(0)).await && verified.holds(name, at(VERIFIED_SECS_MAX - 1)).await);
        assert!(!verified.holds(name, at(VERIFIED_SECS_MAX)).await);
        assert!(verified.was_accepted(name), "and is no guess afterwards");
        for other in [
            verified.name(&key_id, [2; 32], "hash"),
            verified.name(&key_id, [1; 32], "another hash"),
            verified.name(&KeyId::parse("BAAAAAAAAAAAAAAA").unwrap(), [1; 32], "hash"),
        ] {
            assert!(!verified.holds(other, at(0)).await && !verified.was_accepted(other));
        }
        assert_eq!(verified.counts(), CacheCounts { memory: 2, table: 0, missed: 0 });
    }
}
