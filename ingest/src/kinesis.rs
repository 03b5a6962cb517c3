//! Putting slices on the Kinesis stream.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;

use crate::aws::{AwsError, AwsErrorKind};
use crate::backoff::Backoff;
use crate::{Bucket, Slice, UsageFact, stream_format};

/// Most records in a PutRecords call (Kinesis API reference, PutRecords).
const REQUEST_RECORDS_MAX: usize = 500;
/// Most bytes in a PutRecords call; the service takes 5 MiB, keys included.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Where a record is closed and the next begun; the service takes 1 MiB, and one slice stays below a quarter of that
/// unless its dimensions are very long.
const RECORD_BYTES_TARGET: usize = 256 << 10;
/// A shard takes 1 MiB and 1,000 records a second, so a short burst drains within the cap.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(5), tries_max: 12 };

/// One record for the stream.
#[derive(Clone, Debug)]
pub struct StreamRecord {
    /// The partition key.
    pub bucket: Bucket,
    /// A CloudEvents batch of slices of that bucket.
    pub body: Vec<u8>,
}

/// Packs slices into records, each of one bucket.
pub fn pack(mut slices: Vec<Slice>) -> Vec<StreamRecord> {
    slices.sort_by_key(|slice| slice.bucket);
    let mut records = Vec::new();
    for bucket in slices.chunk_by(|a, b| a.bucket == b.bucket) {
        let mut rest = bucket;
        while let Some(first) = rest.first() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|slice| {
                bytes += estimated_bytes(slice);
                bytes <= RECORD_BYTES_TARGET
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            records.push(StreamRecord { bucket: first.bucket, body: stream_format::encode(now) });
            rest = later;
        }
    }
    records
}

fn estimated_bytes(slice: &Slice) -> usize {
    let counts = slice.groups().iter().map(|group| 240 + group.identities.len() * 22).sum::<usize>();
    let names =
        |fact: &UsageFact<'_>| fact.key.resource.len() + fact.key.export.as_ref().map_or(0, |of| of.scope.len());
    let facts = slice.facts().iter().map(|fact| 260 + names(&fact.fact)).sum::<usize>();
    260 + counts + facts
}

/// The partition key of a bucket.
pub fn partition_key(bucket: Bucket) -> String {
    format!("{:02}", bucket.number())
}

/// Writes records to one stream.
#[derive(Clone, Debug)]
pub struct StreamWriter {
    client: Client,
    stream: String,
    random: fn() -> u64,
}

impl StreamWriter {
    /// A writer to `stream`; `random` feeds the jitter of its waits.
    pub fn new(client: Client, stream: String, random: fn() -> u64) -> Self {
        Self { client, stream, random }
    }

    /// Puts every record at least once. Only the entries the service refused are sent again, after a wait.
    pub async fn put(&self, records: Vec<StreamRecord>) -> Result<(), AwsError> {
        let mut request = Vec::new();
        let mut bytes = 0;
        for record in records {
            let size = record.body.len() + 2;
            if request.len() == REQUEST_RECORDS_MAX || REQUEST_BYTES_MAX < bytes + size {
                self.put_request(std::mem::take(&mut request)).await?;
                bytes = 0;
            }
            bytes += size;
            request.push(record);
        }
        if request.is_empty() { Ok(()) } else { self.put_request(request).await }
    }

    async fn put_request(&self, records: Vec<StreamRecord>) -> Result<(), AwsError> {
        let mut entries: Vec<PutRecordsRequestEntry> = records.into_iter().map(entry).collect();
        let mut tries = 0;
        loop {
            tries += 1;
            let sent = self.client.put_records().stream_name(&self.stream).set_records(Some(entries.clone())).send();
            let failure = match sent.await.map_err(|error| AwsError::new("PutRecords", error)) {
                Ok(answer) => {
                    // Answers come in the order of the request; an entry with an error code was not stored.
                    let refused: Vec<_> = answer.records().iter().map(|result| result.error_code().is_some()).collect();
                    let said = answer.records().iter().find_map(|result| result.error_message()).unwrap_or_default();
                    let mut is_refused = refused.iter().copied();
                    entries.retain(|_| is_refused.next().unwrap_or(true));
                    if entries.is_empty() {
                        return Ok(());
                    }
                    AwsError { operation: "PutRecords", kind: AwsErrorKind::Throttled, said: said.to_owned() }
                }
                Err(error) if error.kind.is_passing() => error,
                Err(error) => return Err(error),
            };
            match BACKOFF.wait(tries, (self.random)()) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(failure),
            }
        }
    }
}

fn entry(record: StreamRecord) -> PutRecordsRequestEntry {
    PutRecordsRequestEntry::builder()
        .partition_key(partition_key(record.bucket))
        .data(Blob::new(record.body))
        .build()
        .expect("key and body are set")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        AccountId, CounterKey, Dimensions, ExportGeneration, FactKey, FactValue, Hour, Identity, Meter, RunId,
        SliceFact, SliceGroup, SliceId,
    };

    /// A record's data and key (Kinesis API reference, PutRecords).
    const RECORD_BYTES_MAX: usize = 1 << 20;

    /// A slice with so many counters of so many identities each, every dimension as long as it may be.
    fn slice(number: u32, account: u8, groups: usize, identities: usize, fill: char) -> Slice {
        let account = AccountId::parse(&format!("{account:012}")).unwrap();
        // The last microsecond of an hour has the longest form.
        let hour = Hour::from_number(500_000).unwrap();
        let last = crate::Timestamp::from_micros(hour.start().micros() + 3_599_999_999).unwrap();
        let group = |group: usize| {
            let name = format!("{group:03}");
            let rest = (Dimensions::VALUE_BYTES_MAX - name.len()) / fill.len_utf8();
            let region = format!("{name}{}", fill.to_string().repeat(rest));
            let category = fill.to_string().repeat(Dimensions::VALUE_BYTES_MAX / fill.len_utf8());
            let dimensions = Dimensions { region: region.into(), category: category.into() };
            let counter = CounterKey { meter: Meter::ConfigRuleEvaluations, account, dimensions };
            SliceGroup { counter, identities: vec![Identity::from_bytes([7; 16]); identities], first: last, last }
        };
        let id = SliceId { run: RunId::from_bytes([0xff; 16]), number: u32::MAX - number };
        Slice::of_counts(id, account.bucket(), hour, (0..groups).map(group).collect())
    }

    /// Packs, and finds every slice again in records that the service takes.
    fn check(slices: Vec<Slice>) {
        let mut packed = Vec::new();
        for record in pack(slices.clone()) {
            let bytes = record.body.len() + partition_key(record.bucket).len();
            assert!(bytes <= RECORD_BYTES_MAX, "a record of {bytes} bytes");
            let found = stream_format::decode(&record.body).unwrap();
            assert!(!found.is_empty() && found.iter().all(|slice| slice.bucket == record.bucket));
            packed.extend(found);
        }
        let mut slices = slices;
        slices.sort_by_key(|slice| slice.id);
        packed.sort_by_key(|slice| slice.id);
        assert!(packed == slices, "what was packed is not what was to be packed");
    }

    fn fill() -> impl Strategy<Value = char> {
        // Two that JSON escapes; a dimension holds no control characters.
        prop_oneof![Just('"'), Just('\\'), Just('a'), Just('é'), Just('\u{1f980}')]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_record_is_of_one_bucket_and_below_the_limit_and_no_slice_is_lost(
            slices in prop::collection::vec((0..3_u8, 1..=Slice::GROUPS_MAX, 1..=40_usize, fill()), 0..8),
        ) {
            let slices = slices.into_iter().zip(0..).map(|((account, groups, identities, fill), number)| {
                slice(number, account, groups, identities.min(Slice::IDENTITIES_MAX / groups), fill)
            });
            check(slices.collect());
        }
    }

    #[test]
    fn the_largest_slice_of_facts_fits() {
        let account = AccountId::parse("000000000001").unwrap();
        let time = crate::Timestamp::from_micros(1_790_000_000_999_999).unwrap();
        let name = |number: usize| format!("{number:03}{}", "\"".repeat(UsageFact::NAME_BYTES_MAX - 3));
        let dimension = || "\\".repeat(Dimensions::VALUE_BYTES_MAX).into();
        let fact = |number: usize| SliceFact {
            fact: UsageFact {
                key: FactKey {
                    meter: Meter::ConfigRuleEvaluations,
                    account,
                    resource: name(number).into(),
                    time,
                    export: Some(ExportGeneration { scope: name(0).into(), number: UsageFact::REVISION_MAX }),
                },
                revision: UsageFact::REVISION_MAX,
                dimensions: Dimensions { region: dimension(), category: dimension() },
                end: Some(time.saturating_add_secs(1)),
                value: FactValue::Amount("-999999999999999999.999999999999999999".parse().unwrap()),
            },
            is_primary: false,
        };
        let id = SliceId { run: RunId::from_bytes([0xff; 16]), number: u32::MAX };
        let facts = (0..Slice::FACTS_MAX).map(fact).collect();
        check(vec![Slice::of_facts(id, account.bucket(), time.day(), facts)]);
    }

    #[test]
    fn the_largest_slices_fit_whatever_they_are_packed_with() {
        let identities = Slice::IDENTITIES_MAX / Slice::GROUPS_MAX;
        check(vec![slice(0, 1, Slice::GROUPS_MAX, identities, '"')]);
        check(vec![slice(0, 1, 1, Slice::IDENTITIES_MAX, '"'), slice(1, 1, Slice::GROUPS_MAX, 1, '"')]);
        // Many small counters: as many as fit by estimate.
        for groups in [1, 10, 99, 124, 248, 331, 498] {
            let slices = (0..2_000 / u32::try_from(groups).unwrap()).map(|number| slice(number, 1, groups, 1, '"'));
            check(slices.collect());
        }
        check(Vec::new());
    }
}
