//! The buckets that all processes share: one item a customer in the table of accepted secrets.
//!
//! That table and no other, because it is the one that every server of a deployment has already, under the same rights,
//! with the same time to live, and nothing in it is missed when it is lost: an item that is gone is a full bucket. Its
//! name is longer than a secret's, which is a MAC alone, so that neither is ever taken for the other.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use ingest::Timestamp;
use ingest::aws::AwsError;
use tokio::time::timeout;

use super::PER_CUSTOMER;
use super::lease::{ANSWER_MICROS_MAX, Ask, Outcome, Write, furthest, taking};
use crate::key::Key;
use crate::telemetry::Telemetry;

/// A request waits so long for its customer's shared bucket; then its process's own decides.
pub const LEASE_WAIT_MS_MAX: u64 = 50;

/// Writes for one question: the first may know nothing of the bucket, and the second be overtaken by another process.
const WRITES_MAX: u32 = 3;

/// A bucket is full after a minute; its item stays somewhat longer, for clocks that differ.
const KEPT_SECS: i64 = 3_600;

/// Columns of the table of accepted secrets.
const NAME: &str = "entry";
const NAME_PREFIX: &[u8] = b"requests ";
const FULL_AT: &str = "full_at";

const RESTART: &str = "set full_at = :full_at, ends_at = :ends_at";
const RESTART_IF: &str = "attribute_not_exists(full_at) or not attribute_type(full_at, :number) or full_at <= :now \
                          or full_at > :furthest";
const ADVANCE: &str = "set full_at = full_at + :by, ends_at = :ends_at";
const ADVANCE_IF: &str = "full_at > :now and full_at <= :highest";

/// Where shared buckets are, and how they are asked.
#[derive(Clone, Debug)]
pub(crate) struct SharedBuckets {
    client: Client,
    table: String,
    /// Names items, so that the table does not show whose they are.
    key: Key,
    telemetry: Telemetry,
    clock: fn() -> Timestamp,
    wait: Duration,
}

/// What became of one write.
enum Written {
    /// The bucket is full at this time now.
    Done(i64),
    /// Its condition does not hold: this is there, if it can be read.
    Seen(Option<i64>),
}

impl SharedBuckets {
    pub(crate) fn new(client: Client, table: String, key: Key, telemetry: Telemetry, clock: fn() -> Timestamp) -> Self {
        Self { client, table, key, telemetry, clock, wait: Duration::from_millis(LEASE_WAIT_MS_MAX) }
    }

    pub(crate) fn with_wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    pub(crate) fn wait(&self) -> Duration {
        self.wait
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Counts a request that the process's own bucket let through.
    pub(crate) fn went_alone(&self) {
        self.telemetry.went_alone();
    }

    /// The name of an owner's bucket.
    pub(crate) fn key(&self, owner: &str) -> Vec<u8> {
        [NAME_PREFIX, &self.key.sign(&format!("requests of {owner}"))].concat()
    }

    /// Takes tokens. A write whose answer was lost may have taken some: they are lost as well.
    pub(crate) async fn ask(&self, name: &[u8], ask: Ask) -> Outcome {
        let answer_wait = Duration::from_micros(ANSWER_MICROS_MAX.unsigned_abs());
        match timeout(answer_wait.max(self.wait), self.take(name, ask)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                tracing::warn!(%error, "shared buckets are away: this process's own decide");
                Outcome::Failed
            }
            Err(_) => {
                tracing::warn!("shared buckets do not answer in time: this process's own decide");
                Outcome::Failed
            }
        }
    }

    async fn take(&self, name: &[u8], ask: Ask) -> Result<Outcome, AwsError> {
        let mut seen = ask.full_at;
        for _ in 0..WRITES_MAX {
            let taking = match taking(PER_CUSTOMER, ask, seen) {
                Ok(taking) => taking,
                Err(full_at) => return Ok(Outcome::Empty { full_at }),
            };
            self.telemetry.asked_for_lease();
            match self.write(name, ask.asked_at, taking.write).await? {
                Written::Done(full_at) => return Ok(Outcome::Granted { tokens: taking.tokens, full_at }),
                Written::Seen(found) => seen = found,
            }
        }
        // Others were quicker each time. That is not away: who waits asks again.
        let ours = ask.asked_at..=furthest(PER_CUSTOMER, ask.asked_at);
        Ok(Outcome::Empty { full_at: seen.filter(|seen| ours.contains(seen)).unwrap_or(ask.asked_at) })
    }

    async fn write(&self, name: &[u8], now: i64, write: Write) -> Result<Written, AwsError> {
        let number = |value: i64| AttributeValue::N(value.to_string());
        let ends_at = now.div_euclid(1_000_000) + KEPT_SECS;
        let mut values = HashMap::from([(":now".to_owned(), number(now)), (":ends_at".to_owned(), number(ends_at))]);
        // What the table answers is what holds; it always answers, and without it the emptiest that it can be is safe.
        let (update, condition, at_most) = match write {
            Write::Restart { full_at } => {
                values.insert(":full_at".to_owned(), number(full_at));
                values.insert(":furthest".to_owned(), number(furthest(PER_CUSTOMER, now)));
                values.insert(":number".to_owned(), AttributeValue::S("N".to_owned()));
                (RESTART, RESTART_IF, full_at)
            }
            Write::Advance { by, highest } => {
                values.insert(":by".to_owned(), number(by));
                values.insert(":highest".to_owned(), number(highest));
                (ADVANCE, ADVANCE_IF, highest + by)
            }
        };
        let sent = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(NAME, AttributeValue::B(name.into()))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::UpdatedNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match sent {
            Ok(answer) => Ok(Written::Done(answer.attributes().and_then(full_at).unwrap_or(at_most))),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Written::Seen(failed.item().and_then(full_at)))
                }
                _ => Err(AwsError::new("UpdateItem", error)),
            },
        }
    }
}

fn full_at(item: &HashMap<String, AttributeValue>) -> Option<i64> {
    item.get(FULL_AT)?.as_n().ok()?.parse().ok()
}
