//! The commit log on DynamoDB: partition key `partition`, sort key `version`, one conditional PutItem an entry.
//!
//! An item holds `commit`, the id of its writer; `slices`, 20 bytes each (run, number); and `groups`, each with meter `m`,
//! account `a`, region `r`, category `c`, running total `t`, identities `i` (16 bytes each) and sources `s` (pairs of
//! two-byte numbers: position in `slices`, how many identities). An entry of facts has `facts` instead of `groups` (see the
//! module of that name). A split entry has `split` instead of all of them.

mod facts;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity, ScalarAttributeType};
use ingest::aws::{AwsError, AwsErrorKind};
use ingest::dynamodb::{self, Item, ItemError};
use ingest::{AccountId, CounterKey, Dimensions, Identity, Meter, RunId, SliceId};

use crate::commit_log::{AppendError, CommitLog, ReadError, WriteUnits};
use crate::deployment::{DeploymentError, DeploymentId};
use crate::entry::{CommitId, Content, Entry, EntryGroup};
use crate::partition::Partition;

/// The table of commit logs. The aggregator is its only writer, and only ever adds.
#[derive(Clone, Debug)]
pub struct DynamoDbLog {
    client: Client,
    table: String,
}

impl DynamoDbLog {
    /// The table of this name.
    pub fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Creates the table unless it exists.
    pub async fn ensure_table(&self) -> Result<(), AwsError> {
        let sort_key = Some(("version", ScalarAttributeType::N));
        dynamodb::ensure_table(&self.client, &self.table, ("partition", ScalarAttributeType::S), sort_key).await
    }

    /// Names these logs: `fresh` the first time, the same ever after. Whoever was first decides.
    pub async fn deployment(&self, fresh: DeploymentId) -> Result<DeploymentId, DeploymentError> {
        let key = [
            ("partition".to_owned(), AttributeValue::S(DEPLOYMENT_KEY.to_owned())),
            ("version".to_owned(), AttributeValue::N("0".to_owned())),
        ];
        let id = ("deployment".to_owned(), AttributeValue::S(fresh.to_string()));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(key.iter().cloned().chain([id]).collect()))
            .condition_expression("attribute_not_exists(#partition)")
            .expression_attribute_names("#partition", "partition");
        match put.send().await {
            Ok(_) => {}
            Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => {}
            Err(error) => return Err(AwsError::new("PutItem", error).into()),
        }
        let get = self.client.get_item().table_name(&self.table).consistent_read(true).set_key(Some(key.into()));
        let item = get.send().await.map_err(|error| AwsError::new("GetItem", error))?.item.unwrap_or_default();
        let stored = dynamodb::text(&item, "deployment").ok().and_then(DeploymentId::parse);
        stored.ok_or(DeploymentError::NotOurs)
    }
}

/// Where the name of the logs stands; no partition is written like this.
const DEPLOYMENT_KEY: &str = "deployment";

impl CommitLog for DynamoDbLog {
    async fn read_after(&self, partition: &Partition, version: u64) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        let mut start = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression("#partition = :partition and #version > :version")
                .expression_attribute_names("#partition", "partition")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":partition", AttributeValue::S(partition.to_string()))
                .expression_attribute_values(":version", AttributeValue::N(version.to_string()))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsError::new("Query", error))?;
            for item in page.items.unwrap_or_default() {
                let entry = entry_of_item(&item);
                entries.push(entry.map_err(|source| ReadError::Item { partition: partition.clone(), source })?);
            }
            match page.last_evaluated_key {
                Some(last) => start = Some(last),
                None => return Ok(entries),
            }
        }
    }

    async fn append(&self, partition: &Partition, entry: &Entry) -> Result<WriteUnits, AppendError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item_of_entry(partition, entry)))
            .condition_expression("attribute_not_exists(#partition)")
            .expression_attribute_names("#partition", "partition")
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match put.send().await {
            Ok(answer) => Ok(WriteUnits(dynamodb::units(answer.consumed_capacity()))),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) => {
                Err(AppendError::Occupied)
            }
            Err(error) => {
                let error = AwsError::new("PutItem", error);
                match error.kind {
                    AwsErrorKind::Unreachable => Err(AppendError::Unknown(error)),
                    _ => Err(AppendError::Refused(error)),
                }
            }
        }
    }
}

/// An entry as it is stored.
pub fn item_of_entry(partition: &Partition, entry: &Entry) -> Item {
    let bytes = |bytes: &[u8]| AttributeValue::B(Blob::new(bytes));
    let mut item = Item::from([
        ("partition".to_owned(), AttributeValue::S(partition.to_string())),
        ("version".to_owned(), AttributeValue::N(entry.version.to_string())),
        ("commit".to_owned(), bytes(&entry.commit.0)),
    ]);
    match &entry.content {
        Content::Split => {
            item.insert("split".to_owned(), AttributeValue::N(Partition::FANOUT.to_string()));
        }
        Content::Counted { slices, groups } => {
            item.insert("slices".to_owned(), slices_item(slices));
            item.insert("groups".to_owned(), AttributeValue::L(groups.iter().map(group_item).collect()));
        }
        Content::Stated { slices, facts } => {
            item.insert("slices".to_owned(), slices_item(slices));
            item.insert("facts".to_owned(), facts::items(facts));
        }
    }
    item
}

fn slices_item(slices: &[SliceId]) -> AttributeValue {
    let slices = slices.iter().map(|slice| {
        let mut name = slice.run.as_bytes().to_vec();
        name.extend(slice.number.to_be_bytes());
        AttributeValue::B(Blob::new(name))
    });
    AttributeValue::L(slices.collect())
}

fn group_item(group: &EntryGroup) -> AttributeValue {
    let identities: Vec<u8> = group.identities.iter().flat_map(|identity| *identity.as_bytes()).collect();
    let pairs = group.sources.iter().flat_map(|(slice, count)| [slice.to_be_bytes(), count.to_be_bytes()]);
    let sources: Vec<u8> = pairs.flatten().collect();
    let CounterKey { meter, account, dimensions } = &group.counter;
    AttributeValue::M(Item::from([
        ("m".to_owned(), AttributeValue::S(meter.as_str().to_owned())),
        ("a".to_owned(), AttributeValue::S(account.as_str().to_owned())),
        ("r".to_owned(), AttributeValue::S(dimensions.region.clone().into_owned())),
        ("c".to_owned(), AttributeValue::S(dimensions.category.clone().into_owned())),
        ("t".to_owned(), AttributeValue::N(group.total.to_string())),
        ("i".to_owned(), AttributeValue::B(Blob::new(identities))),
        ("s".to_owned(), AttributeValue::B(Blob::new(sources))),
    ]))
}

/// Reads an entry back. What it says may still contradict the log it is in.
pub fn entry_of_item(item: &Item) -> Result<Entry, ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let list = |attribute| item.get(attribute).and_then(|value| value.as_l().ok()).ok_or(wrong(attribute));
    let content = if item.contains_key("split") {
        Content::Split
    } else {
        let slices = list("slices")?.iter().map(|slice| slice_id(slice).ok_or(wrong("slices")));
        let slices = slices.collect::<Result<_, _>>()?;
        if item.contains_key("facts") {
            Content::Stated { slices, facts: facts::read(list("facts")?)? }
        } else {
            let groups = list("groups")?.iter().map(|group| entry_group(group.as_m().map_err(|_| wrong("groups"))?));
            Content::Counted { slices, groups: groups.collect::<Result<_, _>>()? }
        }
    };
    Ok(Entry {
        version: dynamodb::number(item, "version")?,
        commit: CommitId(dynamodb::bytes(item, "commit")?.try_into().map_err(|_| wrong("commit"))?),
        content,
    })
}

fn slice_id(value: &AttributeValue) -> Option<SliceId> {
    let (run, number) = value.as_b().ok()?.as_ref().split_first_chunk::<16>()?;
    Some(SliceId { run: RunId::from_bytes(*run), number: u32::from_be_bytes(number.try_into().ok()?) })
}

fn entry_group(group: &Item) -> Result<EntryGroup, ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let (identities, rest) = dynamodb::bytes(group, "i")?.as_chunks::<{ Identity::BYTES }>();
    let (sources, odd) = dynamodb::bytes(group, "s")?.as_chunks::<4>();
    if !rest.is_empty() || !odd.is_empty() {
        return Err(wrong("i"));
    }
    let dimension = |attribute| dynamodb::text(group, attribute).map(|value| value.to_owned().into());
    let pair = |[a, b, c, d]: &[u8; 4]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
    Ok(EntryGroup {
        counter: CounterKey {
            meter: Meter::parse_stored(dynamodb::text(group, "m")?).map_err(|_| wrong("m"))?,
            account: AccountId::parse(dynamodb::text(group, "a")?).map_err(|_| wrong("a"))?,
            dimensions: Dimensions { region: dimension("r")?, category: dimension("c")? },
        },
        total: dynamodb::number(group, "t")?,
        identities: identities.iter().copied().map(Identity::from_bytes).collect(),
        sources: sources.iter().map(pair).collect(),
    })
}

#[cfg(test)]
mod tests {
    use ingest::{ExportGeneration, FactKey, FactValue, Quantity, Timestamp, UsageFact};

    use super::*;
    use crate::entry::EntryFact;

    #[test]
    fn an_entry_survives_the_table() {
        let partition = Partition::parse("07/2026-10-01T13/a").unwrap();
        let group = EntryGroup {
            counter: CounterKey {
                meter: Meter::CloudTrailEvents,
                account: AccountId::parse("000000000012").unwrap(),
                dimensions: Dimensions { region: "eu-west-1".into(), category: "é/none".into() },
            },
            total: 5,
            identities: vec![Identity::from_bytes([1; 16]), Identity::from_bytes([2; 16])],
            sources: vec![(0, 1), (1, 1)],
        };
        let slices: Vec<_> = (0..2).map(|number| SliceId { run: RunId::from_bytes([3; 16]), number }).collect();
        let fact = |resource: &str, time: &str, export: Option<u64>, value| {
            let fact = UsageFact {
                key: FactKey {
                    meter: Meter::DataTransferBytes,
                    account: AccountId::parse("000000000012").unwrap(),
                    resource: resource.to_owned().into(),
                    time: Timestamp::parse_rfc3339(time).unwrap(),
                    export: export.map(|number| ExportGeneration { scope: "focus/é".into(), number }),
                },
                revision: export.unwrap_or(UsageFact::REVISION_MAX),
                dimensions: Dimensions { region: "eu-west-1".into(), category: "none".into() },
                end: export.map(|_| Timestamp::MAX),
                value,
            };
            EntryFact { hash: fact.content_hash(), fact, slice: u16::MAX }
        };
        let number = |text: &str| text.parse::<Quantity>().unwrap();
        let facts = vec![
            fact(
                "a",
                "2026-10-01T12:00:00Z",
                None,
                FactValue::Amount(number("-999999999999999999.999999999999999999")),
            ),
            fact("a", "1969-10-01T12:00:00.000001Z", None, FactValue::Level(number("0.000000000001"))),
            fact("b", "0001-01-01T00:00:00Z", None, FactValue::Live),
            fact("b", "2026-10-01T12:00:00Z", None, FactValue::Gone),
            fact("b", "2026-10-01T12:00:00Z", Some(8), FactValue::ExportEnd { facts: u64::MAX }),
        ];
        let stated = Content::Stated { slices: Vec::clone(&slices), facts };
        for content in [Content::Counted { slices, groups: vec![group] }, stated, Content::Split] {
            let stored = Entry { version: 3, commit: CommitId([9; 16]), content };
            assert_eq!(entry_of_item(&item_of_entry(&partition, &stored)).unwrap(), stored);
        }
    }
}
