//! What is delivered in a simulated month, and what it must come to: known before anybody counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aggregator::close::Owners;
use aggregator::directory::{CustomerId, Ownership};
use ingest::{AccountId, Hour, Identity, Meter, Timestamp};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::fault::Fault;
use super::produced::Produced;
use super::{LATE, Options, START_AT};
use crate::random::{Draws, push_uuid};

/// Which meter, whose, when.
pub(super) type Scope = (Meter, AccountId, Hour);

/// An object at its source.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) stored: Vec<u8>,
    /// From which step on it is there.
    pub(super) arrives_at: u64,
    /// Records in it; `None` where nobody can say.
    pub(super) records: Option<u64>,
    /// SHA-256 of it as stored.
    pub(super) sha256: [u8; 32],
    /// How many of them are dead letters, whatever the clock says.
    pub(super) poison: u64,
    /// Events so near to the reader's clock that they may lie too far ahead of it, and when they happened.
    pub(super) near: Vec<(Identity, Timestamp)>,
    pub(super) usage: Usage,
    pub(super) is_cloudtrail: bool,
}

/// What an object says.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// Identities, in words of their sources.
    pub(super) counts: BTreeMap<Scope, BTreeSet<String>>,
    /// Bytes of samples by account, hour and resource, with their revision.
    pub(super) samples: BTreeMap<(AccountId, Hour, String), (u64, i128)>,
    /// A whole edition of the export: its number and bytes by account and hour.
    pub(super) edition: Option<Edition>,
}

/// The number of an edition, and bytes by account and hour.
pub(super) type Edition = (u64, BTreeMap<(AccountId, Hour), i128>);

/// Which sources count.
pub(super) const DECLARED: &str = "[[declared]]\nmeter = \"data_transfer_bytes\"\nsource = \"focus_export\"\n";

/// Everything that is delivered.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) objects: Vec<Object>,
    pub(super) accounts: Vec<AccountId>,
    pub(super) customers: Vec<CustomerId>,
    pub(super) hours: Vec<Hour>,
    /// Records on the stream that nobody can read.
    pub(super) stream_poison: u64,
    /// The same as the recount reads it.
    pub(super) produced: Produced,
}

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
const FIRST_HOUR: &str = "2026-10-05T22";
/// When the last events happened, in seconds after the first instant that lies too far ahead as the run begins: some are too
/// far ahead while the clock is behind, others until it is right again or some time has passed.
const AHEAD_SECONDS: [i64; 6] = [-1_400, -700, -30, 60, 300, 900];
/// Bytes of a unit of samples and exports, so that quantities have few decimals.
const CHUNK: i128 = 1 << 26;

impl Sources {
    pub(super) fn from_seed(options: &Options, draws: &mut Draws) -> Self {
        let first = Hour::parse_key(FIRST_HOUR).expect("an hour");
        let hours: Vec<Hour> = (0..3).filter_map(|n| Hour::from_number(first.number() + n)).collect();
        let all = |n: u64| AccountId::parse(&format!("{:012}", 100 + n)).expect("12 digits");
        let one = all(draws.below(50));
        // Two of one bucket share their logs.
        let same =
            (0..).map(all).find(|other| *other != one && other.bucket() == one.bucket()).expect("there are many");
        let mut accounts = vec![one, same];
        accounts.extend((0..2).map(|n| all(1_000 + 10 * n + draws.below(10))));
        let customers = ["anna", "berta"].iter().map(|id| CustomerId::parse(id).expect("an id")).collect();
        let (objects, produced) = (Vec::new(), Produced::default());
        let mut sources = Self { objects, accounts, customers, hours, stream_poison: 0, produced };
        let count = options.objects.unwrap_or(4 + draws.below(5));
        for number in 0..count {
            let mut object = match draws.below(10) {
                0..5 => sources.cloudtrail(number, options, draws),
                5..7 => sources.findings(number, draws),
                7..9 => sources.samples(number, draws),
                _ => sources.export(number, draws),
            };
            let is_late = draws.percent(60) && !options.without.contains(&Fault::Late);
            // Some come when everything else is at rest, and the month closed and billed.
            let at = draws.below(options.steps * 4 + 1);
            object.arrives_at = if is_late { at } else { 0 };
            sources.objects.push(object);
        }
        for object in &mut sources.objects {
            object.sha256 = Sha256::digest(&object.stored).into();
        }
        sources.produced = Produced::by(&sources.objects, *LATE);
        sources
    }

    pub(super) fn first_owners(&self) -> Owners {
        let start = Hour::parse_key("2026-01-01T00").expect("an hour");
        let owned = |customer: &CustomerId| vec![Ownership { customer: customer.clone(), from: start, until: None }];
        let [one, two, three, _nobodys] = self.accounts.as_slice() else { return Owners::new() };
        let (anna, berta) = (&self.customers[0], &self.customers[1]);
        Owners::from([(*one, owned(anna)), (*two, owned(berta)), (*three, owned(anna))])
    }

    fn place(&self, draws: &mut Draws) -> (AccountId, Hour) {
        (draws.pick(&self.accounts), draws.pick(&self.hours))
    }

    fn cloudtrail(&self, number: u64, options: &Options, draws: &mut Draws) -> Object {
        let (mut usage, mut text, mut poison) = (Usage::default(), "{\"Records\":[".to_owned(), 0);
        let mut near = Vec::new();
        let records = 1 + draws.below(12);
        for n in 0..records {
            if 0 < n {
                text.push(',');
            }
            // Few ids, so that copies are many; an id in two accounts is two events.
            let id = if draws.percent(15) { 24 + draws.below(6) } else { draws.below(24) };
            let mut uuid = String::new();
            push_uuid(&mut uuid, (u128::from(id) << 96) | (0x4 << 76) | (0x2 << 62) | u128::from(id));
            // The hour follows from the id, or the same event would have happened twice.
            let (account, _) = self.place(draws);
            let time = match id.checked_sub(24).and_then(|which| AHEAD_SECONDS.get(usize::try_from(which).ok()?)) {
                Some(seconds) => START_AT.saturating_add_secs(3_600 + seconds),
                None => {
                    let hour = self.hours[usize::try_from(id % 3).expect("small")];
                    hour.start().saturating_add_secs(i64::try_from(id).expect("small") * 7)
                }
            };
            let hour = time.hour();
            let is_poison = draws.percent(6) && !options.without.contains(&Fault::Poison);
            if id >= 24 && !is_poison {
                near.push((Identity::of_event_id(&uuid).expect("a UUID"), time));
            }
            let time = if is_poison { "\"yesterday\"".to_owned() } else { format!("\"{time}\"") };
            poison += u64::from(is_poison);
            // Copies may differ in what does not tell them apart.
            let region = draws.pick(&REGIONS);
            write!(
                text,
                "{{\"eventVersion\":\"1.11\",\"eventTime\":{time},\"eventSource\":\"ec2.amazonaws.com\",\"eventName\":\"Describe\",\
                 \"awsRegion\":\"{region}\",\"eventID\":\"{uuid}\",\"eventType\":\"AwsApiCall\",\"eventCategory\":\"Management\",\
                 \"recipientAccountId\":\"{account}\"}}"
            )
            .expect("a string takes every write");
            if !is_poison {
                usage.counts.entry((Meter::CloudTrailEvents, account, hour)).or_default().insert(uuid);
            }
        }
        text.push_str("]}");
        let name = format!("logs/object-{number}.json");
        Object {
            name,
            stored: text.into_bytes(),
            arrives_at: 0,
            records: Some(records),
            sha256: [0; 32],
            poison,
            near,
            usage,
            is_cloudtrail: true,
        }
    }

    fn findings(&self, number: u64, draws: &mut Draws) -> Object {
        let (mut usage, mut text) = (Usage::default(), String::new());
        let records = 1 + draws.below(4);
        for n in 0..records {
            let id = draws.below(8);
            let (account, _) = self.place(draws);
            let hour = self.hours[usize::try_from(id % 3).expect("small")];
            let created = hour.start().saturating_add_secs(60);
            let updated = created.saturating_add_secs(i64::try_from(draws.below(10)).expect("small") * 600);
            let detail = json!({
                "schemaVersion": "2.0", "accountId": account.as_str(), "region": draws.pick(&REGIONS), "id": format!("{id:032x}"),
                "type": "Recon:EC2/PortProbeUnprotectedPort", "severity": 2 + draws.below(7),
                "createdAt": created.to_string(), "updatedAt": updated.to_string(), "service": {"count": n + 1},
            });
            let event = json!({
                "version": "0", "id": format!("{number}-{n}"), "detail-type": "GuardDuty Finding", "source": "aws.guardduty",
                "account": account.as_str(), "time": updated.to_string(), "region": "eu-west-1", "resources": [], "detail": detail,
            });
            writeln!(text, "{event}").expect("a string takes every write");
            usage.counts.entry((Meter::GuardDutyFindings, account, hour)).or_default().insert(id.to_string());
        }
        let name = format!("events/object-{number}.jsonl");
        Object {
            name,
            stored: text.into_bytes(),
            arrives_at: 0,
            records: Some(records),
            sha256: [0; 32],
            poison: 0,
            near: Vec::new(),
            usage,
            is_cloudtrail: false,
        }
    }

    fn samples(&self, number: u64, draws: &mut Draws) -> Object {
        let (mut usage, mut text) = (Usage::default(), String::new());
        let records = 1 + draws.below(4);
        for n in 0..records {
            let (account, hour) = self.place(draws);
            let resource = format!("nat-{}", draws.below(2));
            // A revision says one thing, whoever sends it again.
            let revision = draws.below(4);
            let bytes =
                i128::from((revision * 7 + u64::from(account.bucket().number()) + hour.number().unsigned_abs()) % 40)
                    * CHUNK;
            let event = json!({
                "specversion": "1.0", "id": format!("{number}-{n}"), "source": "/collector", "type": "nat_gateway_bytes",
                "subject": account.as_str(), "time": hour.start().to_string(),
                "data": {"resource": resource, "value": bytes.to_string(), "unit": "bytes", "revision": revision, "region": "eu-west-1"},
            });
            writeln!(text, "{event}").expect("a string takes every write");
            let standing = usage.samples.entry((account, hour, resource)).or_default();
            *standing = (*standing).max((revision, bytes));
        }
        let name = format!("samples/object-{number}.jsonl");
        Object {
            name,
            stored: text.into_bytes(),
            arrives_at: 0,
            records: Some(records),
            sha256: [0; 32],
            poison: 0,
            near: Vec::new(),
            usage,
            is_cloudtrail: false,
        }
    }

    /// An edition of the month's export: later ones replace earlier ones whole. One in four is cut off.
    fn export(&self, number: u64, draws: &mut Draws) -> Object {
        let made = Timestamp::parse_rfc3339("2026-11-01T06:00:00Z").expect("an instant");
        let made = made.saturating_add_secs(i64::try_from(number).expect("small") * 3_600);
        let mut text = "BillingAccountId,BillingPeriodEnd,BillingPeriodStart,ChargeCategory,ChargeClass,ChargeDescription,\
                        ChargePeriodEnd,ChargePeriodStart,ConsumedQuantity,ConsumedUnit,ProviderName,RegionId,ResourceId,\
                        ServiceName,SkuId,SubAccountId,Tags,x_UsageType\n"
            .to_owned();
        let spaced = |at: Timestamp| at.to_string().replace('T', " ").replace('Z', "");
        let mut rows = BTreeMap::new();
        let records = 1 + draws.below(4);
        for n in 0..records {
            let (account, hour) = self.place(draws);
            let chunks = 1 + draws.below(60);
            let (start, end) = (spaced(hour.start()), spaced(hour.start().saturating_add_secs(3_600)));
            // 2^26 bytes are 0.0625 units of 2^30.
            let quantity = format!("{}.{:04}", chunks * 625 / 10_000, chunks * 625 % 10_000);
            writeln!(
                text,
                "111122223333,2026-11-01 00:00:00,2026-10-01 00:00:00,Usage,NULL,data transfer out,{end},{start},{quantity},GB,AWS,eu-west-1,\
                 arn:aws:ec2:eu-west-1:{account}:instance/i-{n},Amazon Elastic Compute Cloud,NULL,{account},NULL,DataTransfer-Out-Bytes"
            )
            .expect("a string takes every write");
            *rows.entry((account, hour)).or_insert(0) += i128::from(chunks) * CHUNK;
        }
        let edition = u64::try_from(made.micros()).expect("after 1970");
        let name = format!("exports/monthly/data/BILLING_PERIOD=2026-10/{made}-{number}/monthly-00001.csv.gz");
        let mut stored = crate::cloudtrail::gzip(text.as_bytes()).expect("memory takes every write");
        let is_cut = draws.percent(25);
        if is_cut {
            stored.truncate(stored.len() - 9);
        }
        let usage = Usage { edition: (!is_cut).then_some((edition, rows)), ..Usage::default() };
        let records = (!is_cut).then_some(records);
        Object {
            name,
            stored,
            arrives_at: 0,
            records,
            sha256: [0; 32],
            poison: u64::from(is_cut),
            near: Vec::new(),
            usage,
            is_cloudtrail: false,
        }
    }

    /// What is there at a step.
    pub(super) fn there(&self, step: u64) -> impl Iterator<Item = (usize, &Object)> {
        self.objects.iter().enumerate().filter(move |(_, object)| object.arrives_at <= step)
    }

    /// What everything that is there says, as a set and a map.
    pub(super) fn truth(&self, step: u64) -> Usage {
        let mut all = Usage::default();
        for (_, object) in self.there(step) {
            for (scope, ids) in &object.usage.counts {
                all.counts.entry(*scope).or_default().extend(ids.iter().cloned());
            }
            for (key, said) in &object.usage.samples {
                let standing = all.samples.entry(key.clone()).or_default();
                *standing = (*standing).max(*said);
            }
            if object.usage.edition.as_ref().map(|(number, _)| *number)
                > all.edition.as_ref().map(|(number, _)| *number)
            {
                all.edition.clone_from(&object.usage.edition);
            }
        }
        all
    }
}

impl Object {
    /// How many of its records lie too far ahead of a clock.
    pub(super) fn ahead_of(&self, clock: Timestamp) -> u64 {
        self.near.iter().filter(|(_, time)| is_ahead(*time, clock)).count() as u64
    }
}

/// Whether something happened more than an hour ahead of a clock.
pub(super) fn is_ahead(time: Timestamp, clock: Timestamp) -> bool {
    clock.saturating_add_secs(3_600) < time
}

impl Usage {
    /// Every scope's total, in raw units.
    pub(super) fn totals(&self) -> BTreeMap<Scope, i128> {
        let mut totals: BTreeMap<Scope, i128> =
            self.counts.iter().map(|(scope, ids)| (*scope, i128::try_from(ids.len()).expect("few"))).collect();
        for ((account, hour, _), (_, bytes)) in &self.samples {
            *totals.entry((Meter::NatGatewayBytes, *account, *hour)).or_default() += bytes;
        }
        for ((account, hour), bytes) in self.edition.iter().flat_map(|(_, rows)| rows) {
            *totals.entry((Meter::DataTransferBytes, *account, *hour)).or_default() += bytes;
        }
        totals
    }
}
