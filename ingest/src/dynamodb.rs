//! Small pieces that every DynamoDB table of the pipeline needs.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, ConsumedCapacity, DeleteRequest, KeySchemaElement, KeyType,
    PutRequest, ReturnConsumedCapacity, ScalarAttributeType, WriteRequest,
};

use crate::aws::{AwsError, AwsErrorKind};
use crate::backoff::Backoff;

/// An item as the SDK has it.
pub type Item = HashMap<String, AttributeValue>;

/// Most items in a BatchWriteItem call (DynamoDB API reference).
const BATCH_ITEMS_MAX: usize = 25;

/// Waits between tries of any DynamoDB call.
pub const BACKOFF: Backoff = Backoff { base: Duration::from_millis(25), cap: Duration::from_secs(5), tries_max: 12 };

/// Write units of an answer, whole.
pub fn units(consumed: Option<&ConsumedCapacity>) -> u64 {
    // The service reports whole write units as a binary float.
    consumed.and_then(ConsumedCapacity::capacity_units).unwrap_or_default().ceil() as u64
}

/// Write units that putting this item costs: one for each begun 1,024 bytes of names and values.
///
/// Source: Amazon DynamoDB Developer Guide, "DynamoDB item sizes and formats".
pub fn item_units(item: &Item) -> u64 {
    (members_bytes(item) as u64).div_ceil(1_024).max(1)
}

fn members_bytes(members: &Item) -> usize {
    members.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::L(elements) => 3 + elements.iter().map(|element| 1 + value_bytes(element)).sum::<usize>(),
        AttributeValue::M(members) => 3 + members.len() + members_bytes(members),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(numbers) => numbers.iter().map(|digits| digits.len().div_ceil(2) + 1).sum(),
        AttributeValue::Bs(blobs) => blobs.iter().map(|blob| blob.as_ref().len()).sum(),
        _ => 1,
    }
}

/// Puts items of one table, 25 a call; returns the write units. Items the service left over are sent again.
pub async fn batch_put(client: &Client, table: &str, items: Vec<Item>, random: fn() -> u64) -> Result<u64, AwsError> {
    write(client, table, items.into_iter().map(put_request), random).await
}

/// Deletes items of one table by their keys, 25 a call; returns the write units. What is not there is passed over.
pub async fn batch_delete(client: &Client, table: &str, keys: Vec<Item>, random: fn() -> u64) -> Result<u64, AwsError> {
    let request = |key| {
        let delete = DeleteRequest::builder().set_key(Some(key)).build().expect("the key is set");
        WriteRequest::builder().delete_request(delete).build()
    };
    write(client, table, keys.into_iter().map(request), random).await
}

async fn write(
    client: &Client,
    table: &str,
    mut requests: impl Iterator<Item = WriteRequest>,
    random: fn() -> u64,
) -> Result<u64, AwsError> {
    let mut units_written = 0;
    loop {
        let batch: Vec<_> = requests.by_ref().take(BATCH_ITEMS_MAX).collect();
        if batch.is_empty() {
            return Ok(units_written);
        }
        units_written += write_batch(client, table, batch, random).await?;
    }
}

async fn write_batch(
    client: &Client,
    table: &str,
    mut batch: Vec<WriteRequest>,
    random: fn() -> u64,
) -> Result<u64, AwsError> {
    let mut units_written = 0;
    let mut tries = 0;
    loop {
        tries += 1;
        let sent = client
            .batch_write_item()
            .request_items(table, batch.clone())
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send();
        let failure = match sent.await.map_err(|error| AwsError::new("BatchWriteItem", error)) {
            Ok(answer) => {
                units_written += answer.consumed_capacity().iter().map(|one| units(Some(one))).sum::<u64>();
                match answer.unprocessed_items.and_then(|mut left| left.remove(table)).filter(|left| !left.is_empty()) {
                    None => return Ok(units_written),
                    Some(left) => batch = left,
                }
                let said = format!("{} items left over", batch.len());
                AwsError { operation: "BatchWriteItem", kind: AwsErrorKind::Throttled, said }
            }
            Err(error) if error.kind.is_passing() => error,
            Err(error) => return Err(error),
        };
        match BACKOFF.wait(tries, random()) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(failure),
        }
    }
}

fn put_request(item: Item) -> WriteRequest {
    let put = PutRequest::builder().set_item(Some(item)).build().expect("the item is set");
    WriteRequest::builder().put_request(put).build()
}

/// Every item of a partition in sort key order, strongly consistent.
pub async fn query_all(client: &Client, table: &str, key: (&str, AttributeValue)) -> Result<Vec<Item>, AwsError> {
    let mut items = Vec::new();
    let mut start = None;
    loop {
        let page = client
            .query()
            .table_name(table)
            .consistent_read(true)
            .key_condition_expression("#key = :key")
            .expression_attribute_names("#key", key.0)
            .expression_attribute_values(":key", key.1.clone())
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| AwsError::new("Query", error))?;
        items.extend(page.items.unwrap_or_default());
        match page.last_evaluated_key {
            Some(last) => start = Some(last),
            None => return Ok(items),
        }
    }
}

/// Creates a table billed on demand unless it exists; for stores that no infrastructure code has made.
pub async fn ensure_table(
    client: &Client,
    table: &str,
    partition_key: (&str, ScalarAttributeType),
    sort_key: Option<(&str, ScalarAttributeType)>,
) -> Result<(), AwsError> {
    let mut request = client.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    for (role, (name, kind)) in [(KeyType::Hash, Some(partition_key)), (KeyType::Range, sort_key)]
        .into_iter()
        .filter_map(|(role, key)| key.map(|key| (role, key)))
    {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind);
        let key = KeySchemaElement::builder().attribute_name(name).key_type(role);
        request = request
            .attribute_definitions(attribute.build().expect("name and type are set"))
            .key_schema(key.build().expect("name and role are set"));
    }
    match request.send().await {
        Ok(_) => Ok(()),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => Ok(()),
        Err(error) => Err(AwsError::new("CreateTable", error)),
    }
}

/// A stored item lacks an attribute or has another type: something else wrote it.
#[derive(Debug, thiserror::Error)]
#[error("a stored item has no usable attribute {attribute}")]
pub struct ItemError {
    /// The attribute's name.
    pub attribute: &'static str,
}

/// The string under a name.
pub fn text<'a>(item: &'a Item, attribute: &'static str) -> Result<&'a str, ItemError> {
    item.get(attribute).and_then(|value| value.as_s().ok()).map(String::as_str).ok_or(ItemError { attribute })
}

/// The whole number under a name.
pub fn number(item: &Item, attribute: &'static str) -> Result<u64, ItemError> {
    let value = item.get(attribute).and_then(|value| value.as_n().ok());
    value.and_then(|digits| digits.parse().ok()).ok_or(ItemError { attribute })
}

/// The bytes under a name.
pub fn bytes<'a>(item: &'a Item, attribute: &'static str) -> Result<&'a [u8], ItemError> {
    item.get(attribute).and_then(|value| value.as_b().ok()).map(|blob| blob.as_ref()).ok_or(ItemError { attribute })
}
