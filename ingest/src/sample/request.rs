//! Samples in an HTTP request: the structured, the batched and the binary content mode.
//!
//! Source: CloudEvents 1.0.2 (CNCF), "HTTP Protocol Binding", sections 3.1 (binary), 3.2 (structured) and 3.3 (batched);
//! "JSON Event Format", section 4 (JSON batch format).

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{is_cloud_event, structured};

/// Most events in one request.
pub const EVENTS_MAX: usize = 1_000;
/// Most bytes in the body of one request.
pub const BODY_BYTES_MAX: usize = 1 << 20;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";
/// The header that says that a request is in binary mode, without its prefix.
const SPEC_VERSION: &str = "specversion";

/// What a request says, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct SampleRequest<'a> {
    /// The header `Content-Type`.
    pub content_type: Option<&'a str>,
    /// The headers that begin with `ce-`, without it and in lower case, with their values as they came.
    pub attributes: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// CloudEvents that came together in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleBatch {
    events: Vec<Box<[u8]>>,
    body: Vec<u8>,
}

/// A request that brings no CloudEvents: nothing of it is taken, nothing kept. Whoever sent it has to send another.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RefusedRequest {
    /// HTTP 415.
    #[error(
        "send CloudEvents 1.0 as JSON: one as application/cloudevents+json, several as application/cloudevents-batch+json, \
         or one in binary mode with ce- headers and application/json"
    )]
    MediaType,
    /// HTTP 400.
    #[error("the body is not JSON in UTF-8: {0}")]
    NotJson(String),
    /// HTTP 400.
    #[error("application/cloudevents-batch+json is an array of CloudEvents")]
    NotAnArray,
    /// HTTP 400: which of the request's events, from 0.
    #[error("not a CloudEvent with specversion 1.0, id, source and type: {}", numbers(.0))]
    NotCloudEvents(Vec<usize>),
    /// HTTP 413.
    #[error("{0} events; send at most {EVENTS_MAX} in a request")]
    TooMany(usize),
    /// HTTP 413.
    #[error("{0} bytes; send at most {BODY_BYTES_MAX} in a request")]
    TooLarge(usize),
}

fn numbers(places: &[usize]) -> String {
    const SHOWN_MAX: usize = 20;
    let shown: Vec<String> = places.iter().take(SHOWN_MAX).map(|place| format!("number {place}")).collect();
    let more =
        if places.len() <= SHOWN_MAX { String::new() } else { format!(" and {} more", places.len() - SHOWN_MAX) };
    format!("{}{more}", shown.join(", "))
}

impl RefusedRequest {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::MediaType => 415,
            Self::NotJson(_) | Self::NotAnArray | Self::NotCloudEvents(_) => 400,
            Self::TooMany(_) | Self::TooLarge(_) => 413,
        }
    }
}

impl SampleRequest<'_> {
    /// The events that the request brings, every one of them a CloudEvent.
    pub fn read(&self) -> Result<SampleBatch, RefusedRequest> {
        if BODY_BYTES_MAX < self.body.len() {
            return Err(RefusedRequest::TooLarge(self.body.len()));
        }
        let events: Vec<Box<[u8]>> = match self.mode()? {
            Mode::Structured => vec![self.value()?.get().as_bytes().into()],
            Mode::Batched => {
                let elements: Vec<&RawValue> =
                    serde_json::from_str(self.value()?.get()).map_err(|_| RefusedRequest::NotAnArray)?;
                if EVENTS_MAX < elements.len() {
                    return Err(RefusedRequest::TooMany(elements.len()));
                }
                elements.into_iter().map(|element| element.get().as_bytes().into()).collect()
            }
            // Its data is JSON, so what is kept can be judged again.
            Mode::Binary if self.body.is_empty() => vec![structured(self.attributes, b"null").into()],
            Mode::Binary => vec![structured(self.attributes, self.value()?.get().as_bytes()).into()],
        };
        let others = events.iter().enumerate().filter(|(_, event)| !is_cloud_event(event));
        let others: Vec<usize> = others.map(|(place, _)| place).collect();
        if !others.is_empty() {
            return Err(RefusedRequest::NotCloudEvents(others));
        }
        let body = match &events[..] {
            // The headers are a part of it.
            [event] if self.is_binary() => event.to_vec(),
            _ => self.body.to_vec(),
        };
        Ok(SampleBatch { events, body })
    }

    fn is_binary(&self) -> bool {
        self.attributes.iter().any(|(name, _)| *name == SPEC_VERSION)
    }

    /// "... inspecting the value of the Content-Type header": the media type decides before the headers do (section 3).
    fn mode(&self) -> Result<Mode, RefusedRequest> {
        let written = self.content_type.unwrap_or_default().to_ascii_lowercase();
        let mut parts = written.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let mut charsets = parts.filter_map(|part| part.strip_prefix("charset="));
        if charsets.any(|charset| charset.trim_matches('"') != "utf-8") {
            return Err(RefusedRequest::MediaType);
        }
        let is_json = media_type == "application/json" || media_type.ends_with("+json");
        match media_type {
            STRUCTURED => Ok(Mode::Structured),
            BATCHED => Ok(Mode::Batched),
            _ if media_type.starts_with("application/cloudevents") => Err(RefusedRequest::MediaType),
            _ if self.is_binary() && (is_json || media_type.is_empty()) => Ok(Mode::Binary),
            _ => Err(RefusedRequest::MediaType),
        }
    }

    fn value(&self) -> Result<&RawValue, RefusedRequest> {
        serde_json::from_slice(self.body).map_err(|error| RefusedRequest::NotJson(error.to_string()))
    }
}

enum Mode {
    Structured,
    Batched,
    Binary,
}

impl SampleBatch {
    /// The name of the delivery: by its content, so that the same request again is the same delivery.
    pub fn name(&self) -> String {
        format!("samples:{}", hex::encode(&Sha256::digest(&self.body)[..16]))
    }

    /// The events in JSON, in their order.
    pub fn events(&self) -> impl Iterator<Item = &[u8]> {
        self.events.iter().map(|event| &**event)
    }

    /// What came.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The `id` of an event, for answers.
    pub fn id(&self, number: usize) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Named {
            id: String,
        }
        let named: Named = serde_json::from_slice(self.events.get(number)?).ok()?;
        Some(named.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"value":1.50}}"#;

    fn read(content_type: &str, attributes: &[(&str, &str)], body: &str) -> Result<Vec<String>, RefusedRequest> {
        let content_type = Some(content_type).filter(|text| !text.is_empty());
        let batch = SampleRequest { content_type, attributes, body: body.as_bytes() }.read()?;
        Ok(batch.events().map(|event| String::from_utf8(event.to_vec()).unwrap()).collect())
    }

    #[test]
    fn each_mode_is_told_by_its_media_type() {
        let attributes = [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t")];
        for structured in [STRUCTURED, "Application/CloudEvents+JSON; charset=UTF-8"] {
            assert_eq!(read(structured, &[], &format!(" {EVENT}\n")).unwrap(), [EVENT]);
            // Headers of the binary mode play no part then.
            assert_eq!(read(structured, &attributes, EVENT).unwrap(), [EVENT]);
        }
        assert_eq!(read(BATCHED, &[], &format!("[{EVENT}, {EVENT}]")).unwrap(), [EVENT, EVENT]);
        assert_eq!(read(BATCHED, &[], "[]").unwrap(), [""; 0]);
        let binary = read("application/json", &attributes, r#"{"value":1.50}"#).unwrap();
        assert_eq!(binary, [r#"{"id":"1","source":"/s","specversion":"1.0","type":"t","data":{"value":1.50}}"#]);
        assert_eq!(read("", &attributes, "").unwrap(), [binary[0].replace(r#"{"value":1.50}"#, "null")]);
    }

    #[test]
    fn what_brings_no_cloud_events_is_refused_whole_and_says_why() {
        use RefusedRequest::{MediaType, NotAnArray, NotCloudEvents, TooMany};
        for (content_type, body, expected) in [
            ("", EVENT, MediaType),
            ("application/json", EVENT, MediaType),
            ("application/cloudevents+avro", EVENT, MediaType),
            ("application/cloudevents+json; charset=utf-16", EVENT, MediaType),
            ("text/plain", EVENT, MediaType),
            (BATCHED, EVENT, NotAnArray),
            (STRUCTURED, "[]", NotCloudEvents(vec![0])),
            (BATCHED, &format!("[{EVENT}, {{}}, 1, {}]", EVENT.replace("1.0", "0.3")), NotCloudEvents(vec![1, 2, 3])),
            (BATCHED, &format!("[{}1]", "1,".repeat(EVENTS_MAX)), TooMany(EVENTS_MAX + 1)),
        ] {
            assert_eq!(read(content_type, &[], body), Err(expected), "{content_type} {body:.80}");
        }
        for cut in ["", "{", "[1", "{} {}", "\u{feff}[]"] {
            assert!(matches!(read(BATCHED, &[], cut), Err(RefusedRequest::NotJson(_))), "{cut}");
        }
        let binary = SampleRequest {
            content_type: Some("application/octet-stream"),
            attributes: &[("specversion", "1.0")],
            body: b"\0",
        };
        assert_eq!(binary.read(), Err(MediaType));
    }

    #[test]
    fn the_same_request_again_is_the_same_delivery() {
        let batch =
            |body: &str| SampleRequest { content_type: Some(BATCHED), attributes: &[], body: body.as_bytes() }.read();
        let (one, other) = (batch(&format!("[{EVENT}]")).unwrap(), batch("[]").unwrap());
        assert_eq!(one.name(), batch(&format!("[{EVENT}]")).unwrap().name());
        assert_ne!(one.name(), other.name());
        assert_eq!((one.id(0).as_deref(), one.id(1)), (Some("1"), None));
    }
}
