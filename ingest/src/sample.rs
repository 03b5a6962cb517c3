//! Usage samples: usage that is no AWS event, told in CloudEvents 1.0 envelopes.
//!
//! `type` names the meter, `subject` the account, `time` the start of the sample; `data` carries resource, value, unit, and
//! perhaps revision, end and region. A sample is known by its meter, account, resource and time: told again it changes
//! nothing, told with a higher revision it replaces what was told. `id` and `source` must be there and take no part in that.
//!
//! Source: CloudEvents 1.0.2 (CNCF), "Required Attributes", and its JSON event format and HTTP protocol binding.

mod request;
mod unit;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{AccountId, Dimensions, FactKey, Meters, Quantity, Reason, Timestamp, UsageFact};

pub use request::{BODY_BYTES_MAX, EVENTS_MAX, RefusedRequest, SampleBatch, SampleRequest};
pub use unit::{SampleUnit, units_of};

/// How far a sample's time may lie ahead of the reader's clock, in seconds.
const AHEAD_SECONDS_MAX: i64 = 3_600;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Sample<'a> {
    #[serde(borrow)]
    resource: Cow<'a, str>,
    /// A number or a string: the digits count as they are written.
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(borrow)]
    unit: Cow<'a, str>,
    #[serde(default)]
    revision: u64,
    #[serde(borrow)]
    end: Option<Cow<'a, str>>,
    #[serde(borrow)]
    region: Option<Cow<'a, str>>,
}

/// Whether a JSON value is a CloudEvent at all: it has a `specversion` of 1.0, an `id`, a `source` and a `type`.
fn is_cloud_event(event: &[u8]) -> bool {
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(event) else { return false };
    let is_there = |text: Option<Cow<'_, str>>| text.is_some_and(|text| !text.is_empty());
    envelope.specversion.as_deref() == Some("1.0")
        && [envelope.id, envelope.source, envelope.kind].into_iter().all(is_there)
}

/// What a sample says, or why it is set aside. For a JSON object with a `specversion`.
///
/// Region is its only dimension. Members that are not known are passed over.
pub fn fact(event: &[u8], meters: &Meters, now: Timestamp) -> Result<UsageFact<'static>, Reason> {
    let envelope: Envelope<'_> = serde_json::from_slice(event).map_err(|_| Reason::CloudEventMalformed)?;
    let present = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|text| !text.is_empty());
    let is_event = envelope.specversion.as_deref() == Some("1.0") && present(&envelope.id) && present(&envelope.source);
    let Some(kind) = envelope.kind.as_deref().filter(|kind| is_event && !kind.is_empty()) else {
        return Err(Reason::CloudEventMalformed);
    };
    let definition = meters.find(kind).ok_or(Reason::MeterUnknown)?;
    let account = match envelope.subject.as_deref() {
        None | Some("") => return Err(Reason::AccountMissing),
        Some(text) => AccountId::parse(text).map_err(|_| Reason::AccountMalformed)?,
    };
    let time = match envelope.time.as_deref() {
        None | Some("") => return Err(Reason::EventTimeMissing),
        // RFC 3339 with its offset, as the specification demands: nothing says which zone a bare time would be of.
        Some(text) => Timestamp::parse_rfc3339(text).map_err(|_| Reason::EventTimeMalformed)?,
    };
    if now.saturating_add_secs(AHEAD_SECONDS_MAX) < time {
        return Err(Reason::EventTimeInFuture);
    }
    let decoded;
    let data = match (envelope.data, &envelope.data_base64) {
        (Some(data), None) => data.get().as_bytes(),
        (None, Some(base64)) => {
            decoded = STANDARD.decode(&**base64).map_err(|_| Reason::CloudEventMalformed)?;
            &decoded
        }
        _ => return Err(Reason::SampleMalformed),
    };
    let sample: Sample<'_> = serde_json::from_slice(data).map_err(|_| Reason::SampleMalformed)?;
    let number = written_number(sample.value).ok_or(Reason::SampleMalformed)?;
    let value = unit::read(definition, &sample.unit, number)?;
    let end = match sample.end.as_deref() {
        None => None,
        Some(text) => Some(Timestamp::parse_rfc3339(text).map_err(|_| Reason::SampleMalformed)?),
    };
    let region = match sample.region {
        None => Cow::Borrowed(Dimensions::NONE),
        Some(region) if Dimensions::is_value(&region) => Cow::Owned(region.into_owned()),
        Some(_) => return Err(Reason::DimensionMalformed),
    };
    let key = FactKey {
        meter: definition.meter,
        account,
        resource: Cow::Owned(sample.resource.into_owned()),
        time,
        export: None,
    };
    let dimensions = Dimensions { region, category: Cow::Borrowed(Dimensions::NONE) };
    let fact = UsageFact { key, revision: sample.revision, dimensions, end, value };
    fact.check(definition).map_err(|_| Reason::FactMalformed)?;
    Ok(fact)
}

/// A JSON number as it is written, or the text of a string.
fn written_number(value: &RawValue) -> Option<Quantity> {
    let written = value.get();
    if written.starts_with('"') {
        serde_json::from_str::<Cow<'_, str>>(written).ok()?.parse().ok()
    } else {
        written.parse().ok()
    }
}

/// A CloudEvent of the HTTP binary mode in its JSON form: attributes from `ce-` headers, data from the body.
///
/// `attributes` are names without `ce-` and values as the headers have them (percent-encoded, HTTP protocol binding 3.1.3.2);
/// the body is JSON. What this gives is judged, kept and replayed like any structured event.
pub fn structured(attributes: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut event = serde_json::Map::new();
    for (name, value) in attributes {
        // The body is where data comes from, whatever a header says.
        if !matches!(*name, "data" | "data_base64") {
            event.insert((*name).to_owned(), percent_decoded(value).into());
        }
    }
    let is_json = serde_json::from_slice::<&RawValue>(body);
    let mut written = serde_json::Value::Object(event).to_string();
    let closing = written.pop();
    debug_assert_eq!(closing, Some('}'), "an object ends with its brace");
    if 1 < written.len() {
        written.push(',');
    }
    let mut written = written.into_bytes();
    match is_json {
        // As it is written, so that numbers keep their digits.
        Ok(data) => {
            written.extend_from_slice(b"\"data\":");
            written.extend_from_slice(data.get().as_bytes());
        }
        Err(_) => {
            written.extend_from_slice(b"\"data_base64\":\"");
            written.extend_from_slice(STANDARD.encode(body).as_bytes());
            written.push(b'"');
        }
    }
    written.push(b'}');
    written
}

/// Undoes the percent-encoding of header values; what is no encoding stays as it is.
fn percent_decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        match digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()) {
            Some(encoded) => {
                decoded.push(encoded);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
#[path = "sample/tests.rs"]
mod tests;
