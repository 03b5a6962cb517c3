//! Usage samples: NAT gateways by the hour, stored logs by the day; some corrected, some sent twice, one resource silent for
//! days.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::json;

use super::files::{hex, shuffle, uuid, write_file};
use super::{Answer, LandingZone, SAMPLES_FOLDER};
use crate::cloudtrail::instant;
use crate::random::{Draws, Stream};

/// NAT gateways and buckets of logs of each account.
const RESOURCES: u32 = 2;
const DAY: i64 = 86_400;
/// The first of the days in which the silent bucket has no sample, and how many they are: more than the meter lets pass.
const SILENT_FROM_DAY: i64 = 10;
const SILENT_DAYS: i64 = 3;

struct Sample<'a> {
    meter: &'static str,
    account: &'a str,
    region: &'static str,
    resource: &'a str,
    at: i64,
    end: Option<i64>,
    revision: u64,
    bytes: u64,
}

pub(super) fn write(dir: &Path, zone: &LandingZone, answer: &mut Answer) -> io::Result<()> {
    // By the day they are sent on.
    let mut sent = BTreeMap::<i64, Vec<String>>::new();
    for account in 0..zone.accounts() {
        for n in 0..RESOURCES {
            nat_gateway(zone, account, n, &mut sent, answer);
            bucket(zone, account, n, &mut sent, answer);
        }
    }
    for (day, mut events) in sent {
        shuffle(&mut events, &mut Draws::new(zone.seed, Stream::Sample, day.unsigned_abs()));
        answer.read(SAMPLES_FOLDER, events.len() as u64);
        let name = format!("{SAMPLES_FOLDER}/{}.json", &instant(day)[..10]);
        write_file(dir, &name, format!("[{}]", events.join(",\n")).as_bytes())?;
    }
    Ok(())
}

fn nat_gateway(zone: &LandingZone, account: u32, n: u32, sent: &mut BTreeMap<i64, Vec<String>>, answer: &mut Answer) {
    let id = zone.account(account);
    let region = zone.region(account + n);
    let mut draws = draws(zone, account, n);
    let resource = format!("arn:aws:ec2:{region}:{id}:natgateway/nat-{}", hex(&mut draws, 17));
    for hour in 0..i64::from(zone.days) * 24 {
        let at = zone.begin() + hour * 3_600;
        // More in working hours, and never round.
        let busy = if (8..18).contains(&(hour % 24)) { 4 } else { 1 };
        let mut sample = Sample {
            meter: "nat_gateway_bytes",
            account: &id,
            region,
            resource: &resource,
            at,
            end: Some(at + 3_600),
            revision: 0,
            bytes: busy * (50_000_000 + draws.below(400_000_000)),
        };
        let late = if draws.percent(zone.late_percent) { 2 * DAY } else { 0 };
        let first = sample.event(&mut draws);
        let of_day = sent.entry(day_of(at + late)).or_default();
        of_day.push(first.clone());
        if draws.percent(zone.duplicates_percent) {
            of_day.push(first);
        }
        if draws.percent(3) {
            sample.revision = 1 + draws.below(3);
            sample.bytes = draws.below(2_000_000_000);
            // A correction may overtake what it corrects.
            let days = i64::try_from(draws.below(3)).expect("below three");
            let correction = sample.event(&mut draws);
            sent.entry(day_of(at + days * DAY)).or_default().push(correction);
        }
        answer.add("nat_gateway_bytes", &id, at, u128::from(sample.bytes));
    }
}

fn bucket(zone: &LandingZone, account: u32, n: u32, sent: &mut BTreeMap<i64, Vec<String>>, answer: &mut Answer) {
    let id = zone.account(account);
    let mut draws = draws(zone, account, n + RESOURCES);
    let resource = format!("logs-{id}-{n}");
    let is_silent = |day: i64| {
        let silent = SILENT_FROM_DAY..SILENT_FROM_DAY + SILENT_DAYS;
        account == 0 && n == 1 && silent.contains(&day)
    };
    let mut bytes = 20_000_000_000 + draws.below(80_000_000_000);
    let mut before: Option<(i64, u64)> = None;
    // The level at the month's beginning is that of the day before, and the last one lasts until the day behind the month.
    for day in -1..=i64::from(zone.days) {
        bytes += draws.below(2_000_000_000);
        if is_silent(day) {
            continue;
        }
        let at = zone.begin() + day * DAY;
        let sample = Sample {
            meter: "log_storage_gb",
            account: &id,
            region: zone.region(account),
            resource: &resource,
            at,
            end: None,
            revision: 0,
            bytes,
        };
        sent.entry(day_of(at)).or_default().push(sample.event(&mut draws));
        if let Some((since, level)) = before
            && at - since <= 2 * DAY
        {
            for hour in (since..at).step_by(3_600).filter(|hour| zone.begin() <= *hour && *hour < zone.end()) {
                answer.add("log_storage_gb", &id, hour, u128::from(level) * 3_600);
            }
        }
        before = Some((at, bytes));
    }
}

fn draws(zone: &LandingZone, account: u32, n: u32) -> Draws {
    Draws::new(zone.seed, Stream::Sample, 1 << 40 | u64::from(account) << 8 | u64::from(n))
}

fn day_of(at: i64) -> i64 {
    at.div_euclid(DAY) * DAY
}

impl Sample<'_> {
    fn event(&self, draws: &mut Draws) -> String {
        let mut data = json!({
            "resource": self.resource, "value": self.bytes.to_string(), "unit": "bytes", "revision": self.revision, "region": self.region,
        });
        if let Some(end) = self.end {
            data["end"] = instant(end).into();
        }
        json!({
            "specversion": "1.0", "id": uuid(draws), "source": "/collectors/cloudwatch", "type": self.meter,
            "subject": self.account, "time": instant(self.at), "datacontenttype": "application/json", "data": data,
        })
        .to_string()
    }
}
