//! Usage samples in CloudEvents envelopes.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::event::{is_account, is_dimension};
use crate::facts::{Adds, Fact, Key, Says};
use crate::json::Json;
use crate::number::Number;
use crate::time::{HOUR, instant};

const GIB: u64 = 1 << 30;
/// Meters that nobody may send samples of.
const NO_SAMPLES: [&str; 4] = ["accounts", "organizational_units", "service_control_policies", "export_generations"];
const MALFORMED: &str = "sample_malformed";

/// What a CloudEvent says.
pub(crate) fn fact(event: &Json, meters: &BTreeMap<String, Adds>, now: i64) -> Result<Fact, &'static str> {
    let text = |key: &str| match event.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(Some(text))) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err("cloud_event_malformed"),
    };
    let (version, id, source, meter) = (text("specversion")?, text("id")?, text("source")?, text("type")?);
    let (subject, time, base64) = (text("subject")?, text("time")?, text("data_base64")?);
    let (Some("1.0"), Some(_), Some(_), Some(meter)) = (version, id, source, meter) else {
        return Err("cloud_event_malformed");
    };
    let how = Adds::of(meter).or_else(|| meters.get(meter).copied());
    if how.is_none() && !NO_SAMPLES.contains(&meter) {
        return Err("meter_unknown");
    }
    let account = subject.ok_or("account_missing")?;
    if !is_account(account) {
        return Err("account_malformed");
    }
    let time = time.ok_or("event_time_missing")?;
    let at = zoned(time).ok_or("event_time_malformed")?;
    if now + HOUR < at {
        return Err("event_time_in_future");
    }
    let decoded;
    let data = match (event.get("data").filter(|data| **data != Json::Null), base64) {
        (Some(data), None) => data,
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64).map_err(|_| "cloud_event_malformed")?;
            decoded = Json::parse(&bytes).map_err(|_| MALFORMED)?;
            &decoded
        }
        _ => return Err(MALFORMED),
    };
    said(meter, how, account, at, data, meters)
}

fn said(
    meter: &str,
    how: Option<Adds>,
    account: &str,
    at: i64,
    data: &Json,
    meters: &BTreeMap<String, Adds>,
) -> Result<Fact, &'static str> {
    let optional = |key: &str| match data.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(Some(text))) => Ok(Some(text.as_str())),
        Some(_) => Err(MALFORMED),
    };
    let (Some(resource), Some(unit)) = (optional("resource")?, optional("unit")?) else { return Err(MALFORMED) };
    let value = match data.get("value") {
        Some(Json::Number(written) | Json::Text(Some(written))) => Number::read(written).ok_or(MALFORMED)?,
        _ => return Err(MALFORMED),
    };
    let revision = match data.get("revision") {
        None => 0,
        Some(Json::Number(written)) => written.parse::<u64>().map_err(|_| MALFORMED)?,
        Some(_) => return Err(MALFORMED),
    };
    let (end, region) = (optional("end")?, optional("region")?);
    if NO_SAMPLES.contains(&meter) {
        return Err("fact_malformed");
    }
    let is_data = meters.contains_key(meter);
    let (factor, is_level) = unit_of(how, is_data, meter, unit).ok_or("unit_unknown")?;
    let end = match end {
        Some(end) => Some(zoned(end).ok_or(MALFORMED)?),
        None => None,
    };
    if region.is_some_and(|region| region.is_empty() || !is_dimension(region)) {
        return Err("dimension_malformed");
    }
    let value = value * factor;
    let fact = Fact {
        key: Key {
            meter: meter.to_owned(),
            account: account.to_owned(),
            resource: resource.to_owned(),
            time: at,
            export: None,
        },
        revision,
        region: region.unwrap_or("none").to_owned(),
        category: "none".to_owned(),
        end,
        says: if is_level { Says::Level(value) } else { Says::Amount(value) },
    };
    if fact.is_sound() { Ok(fact) } else { Err("fact_malformed") }
}

/// An instant that says its zone.
fn zoned(text: &str) -> Option<i64> {
    let has_zone = text.ends_with(['Z', 'z']) || text.get(19..).is_some_and(|rest| rest.contains(['+', '-']));
    instant(text).filter(|_| has_zone)
}

/// What one of a unit is in raw units, and whether it is a level.
fn unit_of(how: Option<Adds>, is_data: bool, meter: &str, unit: &str) -> Option<(u64, bool)> {
    let bytes = match unit {
        "bytes" | "Bytes" | "By" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(GIB),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let is_one = matches!(unit, "each" | "count" | "Count" | "1");
    match (how?, is_data) {
        (Adds::Sum, false) if meter.ends_with("_bytes") => Some((bytes?, false)),
        (Adds::OverTime { .. }, false) => match unit {
            "byte_seconds" => Some((1, false)),
            "byte_hours" => Some((3600, false)),
            "GiB_hours" => Some((3600 * GIB, false)),
            _ => Some((bytes?, true)),
        },
        (Adds::Sum, _) => is_one.then_some((1, false)),
        (Adds::Max, _) => is_one.then_some((1, true)),
        (Adds::OverTime { .. }, true) => match unit {
            "unit_seconds" => Some((1, false)),
            "unit_hours" => Some((3600, false)),
            _ => is_one.then_some((1, true)),
        },
        (Adds::Interval, _) => None,
    }
}
