//! A FOCUS export of data transfer: one edition, a restated one that counts, and a third that is cut off and does not.

use std::io;
use std::path::Path;

use csv::WriterBuilder;

use super::files::{hex, uuid, write_file};
use super::{Answer, EXPORT_FOLDER, LandingZone};
use crate::cloudtrail::{gzip, instant};
use crate::random::{Draws, Stream};

/// Declares the export as the source of data transfer.
pub(super) const DECLARED: &str = "[[declared]]\nmeter = \"data_transfer_bytes\"\nsource = \"focus_export\"\n";

const COLUMNS: [&str; 19] = [
    "BilledCost",
    "BillingAccountId",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ProviderName",
    "RegionId",
    "ResourceId",
    "ServiceName",
    "SkuId",
    "SubAccountId",
    "Tags",
    "x_UsageType",
];
/// Bytes of the units of the bill.
const GIB: u128 = 1 << 30;

pub(super) fn write(dir: &Path, zone: &LandingZone, answer: &mut Answer) -> io::Result<()> {
    let behind = zone.end();
    for (edition, made_at) in [(0_u64, behind + 6 * 3_600), (1, behind + 30 * 3_600), (2, behind + 54 * 3_600)] {
        let (content, rows) = edition_of(zone, edition, answer)?;
        let mut draws = Draws::new(zone.seed, Stream::Export, u64::MAX - edition);
        let name = format!(
            "{EXPORT_FOLDER}/monthly/data/BILLING_PERIOD={}/{}-{}/monthly-00001.csv.gz",
            &instant(zone.begin())[..7],
            instant(made_at),
            hex(&mut draws, 8)
        );
        if edition < 2 {
            answer.read(EXPORT_FOLDER, rows);
            write_file(dir, &name, &content)?;
        } else if zone.faults {
            // What a broken upload leaves; its rows are read as far as they go, so nobody can say how many they are.
            let whole = gzip(&content)?;
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("a file has a folder"))?;
            std::fs::write(path, &whole[..whole.len() / 2])?;
        }
    }
    Ok(())
}

/// The rows of an edition; those of the second are the answer.
fn edition_of(zone: &LandingZone, edition: u64, answer: &mut Answer) -> io::Result<(Vec<u8>, u64)> {
    let mut writer = WriterBuilder::new().from_writer(b"\xef\xbb\xbf".to_vec());
    writer.write_record(COLUMNS)?;
    let mut rows = 0;
    let payer = zone.account(0);
    let (period_start, period_end) = (spaced(zone.begin()), spaced(zone.end()));
    for account in 0..zone.accounts() {
        let id = zone.account(account);
        let region = zone.region(account);
        for hour in 0..i64::from(zone.days) * 24 {
            let index = (u64::from(account) << 32 | hour.unsigned_abs()) << 2 | edition;
            let mut draws = Draws::new(zone.seed, Stream::Export, index);
            // A restated bill may know hours that the first did not, and the other way round.
            if draws.below(10) < 3 {
                continue;
            }
            let at = zone.begin() + hour * 3_600;
            // Whole bytes in units of 2^-30: up to 30 decimals, of which a bill keeps 15. Multiples of 2^15 need no more.
            let bytes = u128::from(1 + draws.below(60_000)) << 15;
            let quantity = gib(bytes);
            let tags = if draws.percent(5) { "{\"team\": \"a\",\n\"note\": \"quoted\"}" } else { "NULL" };
            let (start, end) = (spaced(at), spaced(at + 3_600));
            let resource = format!("arn:aws:ec2:{region}:{id}:instance/i-{}", hex(&mut draws, 17));
            let sku = uuid(&mut draws);
            writer.write_record([
                "0.00000090000",
                &payer,
                &period_end,
                &period_start,
                "Usage",
                "NULL",
                "$0.090 per GB - first 10 TB / month data transfer out beyond the global free tier",
                &end,
                &start,
                &quantity,
                "GB",
                "AWS",
                region,
                &resource,
                "Amazon Elastic Compute Cloud",
                &sku,
                &id,
                tags,
                "DataTransfer-Out-Bytes",
            ])?;
            rows += 1;
            if edition == 1 {
                answer.add("data_transfer_bytes", &id, at, bytes);
            }
        }
        // Money, and usage of no meter.
        for (category, unit, description) in [
            ("Credit", "NULL", "Promotional credit"),
            ("Usage", "Hours", "$0.0416 per On Demand Linux t3.medium Instance Hour"),
        ] {
            let (start, end) = (&period_start, &period_end);
            writer.write_record([
                "-1.5",
                &payer,
                &period_end,
                &period_start,
                category,
                "NULL",
                description,
                end,
                start,
                "1.000000000000000",
                unit,
                "AWS",
                region,
                "NULL",
                "Amazon Elastic Compute Cloud",
                "NULL",
                &id,
                "NULL",
                "BoxUsage:t3.medium",
            ])?;
            rows += 1;
        }
    }
    let content = writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    Ok((content, rows))
}

/// `2026-10-01 00:00:00`, as the bill writes it.
fn spaced(at: i64) -> String {
    instant(at).replace('T', " ").trim_end_matches('Z').to_owned()
}

/// Bytes as units of 2^30, exact in 15 decimals.
fn gib(bytes: u128) -> String {
    let scaled = bytes * 1_000_000_000_000_000;
    assert_eq!(scaled % GIB, 0, "a multiple of 2^15 has at most 15 decimals");
    let units = scaled / GIB;
    format!("{}.{:015}", units / 1_000_000_000_000_000, units % 1_000_000_000_000_000)
}
