//! FOCUS exports: a table whose rows are amounts, and which counts whole or not at all.

use std::collections::BTreeMap;

use crate::declared::Rules;
use crate::event::{is_account, is_dimension};
use crate::facts::{Fact, Key, Says, is_name};
use crate::forms::{Judged, Outcome};
use crate::number::Number;
use crate::time::{HOUR, date, instant};

const REQUIRED: [&str; 12] = [
    "ProviderName",
    "BillingAccountId",
    "SubAccountId",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeDescription",
    "ServiceName",
    "ConsumedQuantity",
    "ConsumedUnit",
];
const OPTIONAL: [&str; 3] = ["RegionId", "ResourceId", "x_UsageType"];
const GIB: u64 = 1 << 30;

/// What one unit of a row is.
#[derive(Clone, Copy)]
enum Measure {
    Each,
    Gib,
    GibMonth,
}

struct Mapping {
    meter: &'static str,
    services: &'static [&'static str],
    units: &'static [&'static str],
    measure: Measure,
    usage_types: &'static [&'static str],
    descriptions: &'static [&'static str],
}

const S3: &str = "Amazon Simple Storage Service";
const GB: &[&str] = &["GB", "GiB"];
const GB_MONTHS: &[&str] = &["GB-Months", "GB-Mo", "GiB-Months"];
/// The table of `docs/sources/focus.md`; the first that fits counts.
const MAPPINGS: [Mapping; 7] = [
    Mapping {
        meter: "nat_gateway_bytes",
        services: &["Amazon Elastic Compute Cloud", "Amazon Virtual Private Cloud"],
        units: GB,
        measure: Measure::Gib,
        usage_types: &["NatGateway-Bytes", "NatGateway-Prvd-Bytes"],
        descriptions: &["processed by nat gateway"],
    },
    Mapping {
        meter: "archive_storage_gb",
        services: &[S3, "Amazon Glacier", "Amazon S3 Glacier Deep Archive"],
        units: GB_MONTHS,
        measure: Measure::GibMonth,
        usage_types: &["TimedStorage-GlacierByteHrs", "TimedStorage-GDA-ByteHrs", "TimedStorage-GIR-ByteHrs"],
        descriptions: &["glacier"],
    },
    Mapping {
        meter: "log_storage_gb",
        services: &["AmazonCloudWatch", "Amazon CloudWatch"],
        units: GB_MONTHS,
        measure: Measure::GibMonth,
        usage_types: &["TimedStorage-ByteHrs"],
        descriptions: &["of log storage"],
    },
    Mapping {
        meter: "log_storage_gb",
        services: &[S3],
        units: GB_MONTHS,
        measure: Measure::GibMonth,
        usage_types: &["TimedStorage-"],
        descriptions: &["of storage used"],
    },
    Mapping {
        meter: "data_transfer_bytes",
        services: &[],
        units: GB,
        measure: Measure::Gib,
        usage_types: &["DataTransfer-", "-In-Bytes", "-Out-Bytes"],
        descriptions: &["data transfer", "datatransfer-", "-in-bytes", "-out-bytes"],
    },
    Mapping {
        meter: "config_rule_evaluations",
        services: &["AWS Config"],
        units: &["ConfigRuleEvaluations", "Evaluations", "Rule Evaluations", "Count"],
        measure: Measure::Each,
        usage_types: &["ConfigRuleEvaluations"],
        descriptions: &["rule evaluation", "configruleevaluations"],
    },
    Mapping {
        meter: "cloudtrail_events",
        services: &["AWS CloudTrail"],
        units: &["Events"],
        measure: Measure::Each,
        usage_types: &["EventsRecorded"],
        descriptions: &["event recorded", "events recorded", "eventsrecorded"],
    },
];

/// What an export came to.
pub(crate) struct Export {
    pub(crate) judged: Vec<Judged>,
    /// The editions that were read to their end, with how many rows of each state something.
    pub(crate) ends: BTreeMap<(String, u64), u64>,
}

/// Where an export is from.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) name: &'a str,
    /// Microseconds since 1970.
    pub(crate) written_at: Option<i64>,
}

type Row = BTreeMap<String, String>;

/// Reads a table; `None` if it is no export. `fault` says why its content ends early, if it does.
pub(crate) fn read(
    content: &[u8],
    fault: Option<&'static str>,
    origin: Origin<'_>,
    rules: &Rules,
    now: i64,
) -> Option<Export> {
    let mut table = table(content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content));
    if table.is_empty() {
        return None;
    }
    let header: Vec<String> =
        table.remove(0).iter().map(|field| String::from_utf8_lossy(field).trim().to_owned()).collect();
    let has = |column: &str| header.iter().any(|name| name == column);
    if !has("BillingPeriodStart") || !has("ChargePeriodStart") || !has("ConsumedQuantity") {
        return None;
    }
    let mut export = Export { judged: Vec::new(), ends: BTreeMap::new() };
    let mut dead = |reason| export.judged.push(Judged::from(Outcome::DeadLetter(reason)));
    let twice = |column: &&str| 1 < header.iter().filter(|name| name == column).count();
    if !REQUIRED.into_iter().all(has) || REQUIRED.iter().chain(&OPTIONAL).any(twice) {
        dead("export_columns");
        return Some(export);
    }
    let file = origin.name.rsplit('/').next().unwrap_or_default();
    let stem = file.split('.').next().unwrap_or_default();
    if let Some((_, part)) = stem.rsplit_once('-')
        && part.len() == 5
        && part.parse::<u32>().is_ok_and(|part| 1 < part)
    {
        dead("export_in_parts");
        return Some(export);
    }
    if fault.is_some() && !content.ends_with(b"\n") {
        // What is behind the last whole row.
        table.pop();
    }
    let (edition, named) = (edition(origin), export_name(origin.name));
    let mut is_torn = false;
    let mut ends = BTreeMap::new();
    for (fields, place) in table.iter().zip(1..) {
        let mut row = Row::new();
        for (name, field) in header.iter().zip(fields) {
            let is_known = REQUIRED.contains(&name.as_str()) || OPTIONAL.contains(&name.as_str());
            match std::str::from_utf8(field) {
                _ if !is_known => {}
                Ok("NULL") => drop(row.insert(name.clone(), String::new())),
                Ok(text) => drop(row.insert(name.clone(), text.to_owned())),
                Err(_) => {}
            }
        }
        is_torn = fields.len() != header.len();
        let is_whole = !is_torn && REQUIRED.iter().all(|column| row.contains_key(*column));
        let outcome = if is_whole {
            let scope = scope(&row, named);
            let rows = scope.clone().map(|scope| ends.entry((scope, edition)).or_insert(0));
            match judge(&row, place, scope, edition, rules, now) {
                Ok(Outcome::States(facts)) => {
                    *rows.expect("a row that states something has a period") += 1;
                    Outcome::States(facts)
                }
                Ok(other) => other,
                Err(reason) => Outcome::DeadLetter(reason),
            }
        } else {
            Outcome::DeadLetter("row_malformed")
        };
        export.judged.push(outcome.into());
    }
    match fault {
        Some(fault) => export.judged.push(Outcome::DeadLetter(fault).into()),
        None if is_torn => {}
        None => export.ends = ends,
    }
    Some(export)
}

/// The rows of a CSV file (RFC 4180), blank lines left out.
fn table(content: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), Vec::new());
    let (mut is_quoted, mut is_begun) = (false, false);
    let mut bytes = content.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if is_quoted && bytes.peek() == Some(&b'"') => {
                bytes.next();
                field.push(b'"');
            }
            b'"' if is_quoted => is_quoted = false,
            _ if is_quoted => field.push(byte),
            b'"' if field.is_empty() => (is_quoted, is_begun) = (true, true),
            b',' => {
                row.push(std::mem::take(&mut field));
                is_begun = true;
            }
            b'\r' | b'\n' => {
                if is_begun || !field.is_empty() {
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
                is_begun = false;
            }
            _ => field.push(byte),
        }
    }
    if is_begun || !field.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows
}

fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).map_or("", String::as_str)
}

fn scope(row: &Row, export: &str) -> Option<String> {
    let period = instant(text(row, "BillingPeriodStart"))?;
    let payer = text(row, "BillingAccountId");
    (text(row, "ProviderName") == "AWS" && is_name(payer)).then(|| format!("focus/{export}/{payer}/{}", date(period)))
}

fn mapping(row: &Row) -> Option<&'static Mapping> {
    let (usage_type, description) = (text(row, "x_UsageType"), text(row, "ChargeDescription").to_lowercase());
    MAPPINGS.iter().find(|mapping| {
        let fits = if usage_type.is_empty() {
            mapping.descriptions.iter().any(|part| description.contains(part))
        } else {
            mapping.usage_types.iter().any(|part| usage_type.contains(part))
        };
        fits && mapping.units.contains(&text(row, "ConsumedUnit"))
            && (mapping.services.is_empty() || mapping.services.contains(&text(row, "ServiceName")))
    })
}

fn judge(
    row: &Row,
    place: u64,
    scope: Option<String>,
    edition: u64,
    rules: &Rules,
    now: i64,
) -> Result<Outcome, &'static str> {
    if text(row, "ProviderName") != "AWS" {
        return Ok(Outcome::NotCounted("focus_other_provider"));
    }
    let account = text(row, "SubAccountId");
    if account.is_empty() {
        return Err("account_missing");
    }
    if !is_account(account) {
        return Err("account_malformed");
    }
    if text(row, "ChargeCategory") != "Usage" {
        return Ok(Outcome::NotCounted("focus_not_usage"));
    }
    let Some(mapping) = mapping(row) else { return Ok(Outcome::NotCounted("focus_no_meter")) };
    let scope = scope.ok_or("row_malformed")?;
    let charged = |column| match text(row, column) {
        "" => Err("event_time_missing"),
        time => instant(time).ok_or("event_time_malformed"),
    };
    let at = charged("ChargePeriodStart")?;
    if now + HOUR < at {
        return Err("event_time_in_future");
    }
    let end = charged("ChargePeriodEnd")?;
    let value = Number::read(text(row, "ConsumedQuantity")).ok_or("quantity_malformed")?;
    let value = value
        * match mapping.measure {
            Measure::Each => 1,
            Measure::Gib => GIB,
            Measure::GibMonth => {
                let period = |column| instant(text(row, column)).ok_or("row_malformed");
                let seconds = (period("BillingPeriodEnd")? - period("BillingPeriodStart")?) / 1_000_000;
                u64::try_from(seconds).ok().filter(|seconds| 0 < *seconds).ok_or("row_malformed")? * GIB
            }
        };
    let region = text(row, "RegionId");
    if !region.is_empty() && !is_dimension(region) {
        return Err("dimension_malformed");
    }
    if !rules.counts("focus_export", mapping.meter, account, at) {
        return Ok(Outcome::NotCounted("not_the_declared_source"));
    }
    let named = match text(row, "ResourceId") {
        "" => text(row, "ServiceName"),
        resource => resource,
    };
    let fact = Fact {
        key: Key {
            meter: mapping.meter.to_owned(),
            account: account.to_owned(),
            resource: resource(named, place),
            time: at,
            export: Some((scope, edition)),
        },
        revision: edition,
        region: if region.is_empty() { "none" } else { region }.to_owned(),
        category: "none".to_owned(),
        end: Some(end),
        says: Says::Amount(value),
    };
    if fact.is_sound() { Ok(Outcome::States(vec![fact])) } else { Err("fact_malformed") }
}

/// Its place makes a row itself; of the name at most 480 bytes are kept, and no control characters.
fn resource(named: &str, place: u64) -> String {
    let mut kept = String::new();
    for char in named.chars().filter(|char| !char.is_control()) {
        if 480 < kept.len() + char.len_utf8() {
            break;
        }
        kept.push(char);
    }
    format!("{kept}#{place}")
}

/// The folder above `data/BILLING_PERIOD=..`; files elsewhere are all of one export.
fn export_name(name: &str) -> &str {
    let parts: Vec<&str> = name.split('/').collect();
    let period = parts.iter().rposition(|part| part.starts_with("BILLING_PERIOD="));
    match period.filter(|period| 2 <= *period).map(|period| (parts[period - 2], parts[period - 1])) {
        Some((export, "data")) if !export.is_empty() => export,
        _ => "default",
    }
}

/// The time that a folder or the file begins with, from the end of the name; else when it was written.
fn edition(origin: Origin<'_>) -> u64 {
    let named = origin.name.rsplit('/').find_map(|part| {
        let text = part.get(..=part.find('Z')?)?;
        let compact = text.len() == 16 && text.as_bytes()[8] == b'T';
        if compact && text.bytes().enumerate().all(|(at, byte)| at == 8 || at == 15 || byte.is_ascii_digit()) {
            let part = |range| text.get(range).unwrap_or_default();
            let (year, month, day) = (part(0..4), part(4..6), part(6..8));
            return instant(&format!("{year}-{month}-{day}T{}:{}:{}Z", part(9..11), part(11..13), part(13..15)));
        }
        instant(text)
    });
    u64::try_from(named.or(origin.written_at).unwrap_or(0)).unwrap_or(0)
}
