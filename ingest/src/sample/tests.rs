use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Aggregation, FactValue, Meter, MeterDefinition, SampleMeter};

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-10-01T13:00:00Z").unwrap()
}

fn meters() -> Meters {
    let of = |name, aggregation, gap| {
        MeterDefinition::of_samples(SampleMeter::parse(name).unwrap(), aggregation, gap, String::new()).unwrap()
    };
    Meters::with_samples([
        of("sso_users", Aggregation::Max, None),
        of("queue_depth", Aggregation::TimeWeighted, Some(3_600)),
    ])
}

fn sample() -> Value {
    json!({
        "specversion": "1.0", "id": "a-1", "source": "/collectors/nat", "type": "nat_gateway_bytes",
        "subject": "000000000012", "time": "2026-10-01T12:00:00Z", "datacontenttype": "application/json",
        "data": {"resource": "nat-0abc", "value": "1.5", "unit": "GiB", "revision": 2, "end": "2026-10-01T13:00:00Z", "region": "eu-west-1"},
    })
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut event = sample();
    for (path, value) in changes {
        let place = event.pointer_mut(path).unwrap_or_else(|| panic!("no {path}"));
        *place = value.clone();
    }
    event
}

fn without(path: &str) -> Value {
    let mut event = sample();
    let (parent, name) = path.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    event
}

fn read(event: &Value) -> Result<UsageFact<'static>, Reason> {
    fact(event.to_string().as_bytes(), &meters(), now())
}

#[track_caller]
fn check_dead(event: &Value, reason: Reason) {
    assert_eq!(read(event).map(drop), Err(reason), "{event}");
}

fn quantity(text: &str) -> Quantity {
    text.parse().unwrap()
}

#[test]
fn a_sample_is_a_fact_of_its_meter_account_resource_and_time() {
    let fact = read(&sample()).unwrap();
    assert_eq!((fact.key.meter, fact.key.account.as_str()), (Meter::NatGatewayBytes, "000000000012"));
    assert_eq!((&*fact.key.resource, fact.key.time.to_string()), ("nat-0abc", "2026-10-01T12:00:00Z".to_owned()));
    assert_eq!(fact.value, FactValue::Amount(quantity("1610612736")));
    assert_eq!((fact.revision, fact.end), (2, Some(now())));
    assert_eq!((&*fact.dimensions.region, &*fact.dimensions.category), ("eu-west-1", Dimensions::NONE));
}

#[test]
fn who_told_it_takes_no_part_in_what_it_is_about() {
    let one = read(&sample()).unwrap();
    let told_again = read(&with(&[("/id", json!("b-2")), ("/source", json!("/other"))])).unwrap();
    assert_eq!((&one.key, one.content_hash()), (&told_again.key, told_again.content_hash()));
}

#[test]
fn what_may_be_left_out_has_its_meaning() {
    let mut event = sample();
    event["data"] = json!({"resource": "nat-0abc", "value": 7, "unit": "bytes"});
    let fact = read(&event).unwrap();
    assert_eq!((fact.revision, fact.end, &*fact.dimensions.region), (0, None, Dimensions::NONE));
}

#[test]
fn a_value_keeps_every_digit_it_is_written_with() {
    for (value, expected) in [
        ("0.123456789012345678", "0.123456789012345678"),
        ("100000000000000001", "100000000000000001"),
        ("1.0e3", "1000"),
        ("\"2.50\"", "2.5"),
        ("-3", "-3"),
    ] {
        let event = sample().to_string().replace("\"1.5\"", value).replace("GiB", "bytes");
        let fact = fact(event.as_bytes(), &meters(), now()).unwrap();
        assert_eq!(fact.value, FactValue::Amount(quantity(expected)), "{value}");
    }
    for wrong in ["\"\"", "\"many\"", "null", "true", "{}", "\"0x10\"", "1e-19", "\"NaN\""] {
        let event = sample().to_string().replace("\"1.5\"", wrong).replace("GiB", "bytes");
        assert_eq!(fact(event.as_bytes(), &meters(), now()).map(drop), Err(Reason::SampleMalformed), "{wrong}");
    }
}

#[test]
fn a_unit_says_what_a_value_is_and_a_doubtful_one_nothing() {
    let of = |meter: &str, unit: &str| {
        read(&with(&[("/type", json!(meter)), ("/data/unit", json!(unit))])).map(|fact| fact.value)
    };
    let (amount, level) = (|text| Ok(FactValue::Amount(quantity(text))), |text| Ok(FactValue::Level(quantity(text))));
    assert_eq!(of("nat_gateway_bytes", "KiB"), amount("1536"));
    assert_eq!(of("data_transfer_bytes", "By"), amount("1.5"));
    assert_eq!(of("log_storage_gb", "MiB"), level("1572864"));
    assert_eq!(of("archive_storage_gb", "byte_hours"), amount("5400"));
    assert_eq!(of("config_rule_evaluations", "count"), amount("1.5"));
    assert_eq!(of("sso_users", "each"), level("1.5"));
    assert_eq!(of("queue_depth", "1"), level("1.5"));
    assert_eq!(of("queue_depth", "unit_hours"), amount("5400"));
    for (meter, unit) in [
        ("nat_gateway_bytes", "GB"),
        ("nat_gateway_bytes", "byte_seconds"),
        ("nat_gateway_bytes", ""),
        ("nat_gateway_bytes", "each"),
        ("sso_users", "bytes"),
        ("sso_users", "unit_seconds"),
    ] {
        assert_eq!(of(meter, unit), Err(Reason::UnitUnknown), "{meter} {unit}");
    }
    for meter in ["accounts", "export_generations"] {
        assert_eq!(of(meter, "each"), Err(Reason::FactMalformed), "{meter} has no samples");
    }
}

#[test]
fn what_is_no_sample_is_set_aside_with_its_reason() {
    for (path, value, reason) in [
        ("/specversion", json!("0.3"), Reason::CloudEventMalformed),
        ("/specversion", json!(1.0), Reason::CloudEventMalformed),
        ("/id", json!(""), Reason::CloudEventMalformed),
        ("/source", json!(7), Reason::CloudEventMalformed),
        ("/type", json!(""), Reason::CloudEventMalformed),
        ("/type", json!("nat_bytes"), Reason::MeterUnknown),
        ("/type", json!("com.securebase.usage.slice.v1"), Reason::MeterUnknown),
        ("/subject", json!("12345678901"), Reason::AccountMalformed),
        ("/subject", json!(""), Reason::AccountMissing),
        ("/time", json!("2026-10-01T12:00:00"), Reason::EventTimeMalformed),
        ("/time", json!("yesterday"), Reason::EventTimeMalformed),
        ("/time", json!("2026-10-01T14:00:01Z"), Reason::EventTimeInFuture),
        ("/data", json!("text"), Reason::SampleMalformed),
        ("/data/resource", json!(""), Reason::FactMalformed),
        ("/data/resource", json!("a\nb"), Reason::FactMalformed),
        ("/data/resource", json!(7), Reason::SampleMalformed),
        ("/data/revision", json!(-1), Reason::SampleMalformed),
        ("/data/revision", json!(u64::MAX), Reason::FactMalformed),
        ("/data/end", json!("2026-10-01T12:00:00Z"), Reason::FactMalformed),
        ("/data/end", json!("soon"), Reason::SampleMalformed),
        ("/data/region", json!(""), Reason::DimensionMalformed),
        ("/data/value", json!("1e18"), Reason::SampleMalformed),
    ] {
        check_dead(&with(&[(path, value)]), reason);
    }
    for (path, reason) in [
        ("/specversion", Reason::CloudEventMalformed),
        ("/id", Reason::CloudEventMalformed),
        ("/source", Reason::CloudEventMalformed),
        ("/type", Reason::CloudEventMalformed),
        ("/subject", Reason::AccountMissing),
        ("/time", Reason::EventTimeMissing),
        ("/data", Reason::SampleMalformed),
        ("/data/resource", Reason::SampleMalformed),
        ("/data/value", Reason::SampleMalformed),
        ("/data/unit", Reason::SampleMalformed),
    ] {
        check_dead(&without(path), reason);
    }
    let negative_level = with(&[("/type", json!("log_storage_gb")), ("/data/value", json!(-1))]);
    check_dead(&negative_level, Reason::FactMalformed);
}

#[test]
fn exactly_one_hour_ahead_still_counts() {
    let mut event = with(&[("/time", json!("2026-10-01T14:00:00Z"))]);
    event["data"]["end"] = Value::Null;
    read(&event).unwrap();
}

#[test]
fn data_in_base64_is_data() {
    let mut event = without("/data");
    event["data_base64"] = STANDARD.encode(sample()["data"].to_string()).into();
    assert_eq!(read(&event), read(&sample()));
    event["data_base64"] = json!("***");
    check_dead(&event, Reason::CloudEventMalformed);
    event["data"] = json!({});
    check_dead(&event, Reason::SampleMalformed);
}

#[test]
fn the_binary_mode_gives_the_same_fact_as_the_structured_one() {
    let attributes = [
        ("specversion", "1.0"),
        ("id", "a%201"),
        ("source", "/collectors/nat"),
        ("type", "nat_gateway_bytes"),
        ("subject", "000000000012"),
        ("time", "2026-10-01T12:00:00Z"),
        ("data", "ignored"),
    ];
    let body = sample()["data"].to_string();
    let event = structured(&attributes, body.as_bytes());
    assert_eq!(fact(&event, &meters(), now()), read(&sample()));
    assert_eq!(serde_json::from_slice::<Value>(&event).unwrap()["id"], "a 1");
    let no_json = structured(&attributes, b"resource=nat");
    assert_eq!(fact(&no_json, &meters(), now()).map(drop), Err(Reason::SampleMalformed));
    assert_eq!(structured(&[], b"{}"), b"{\"data\":{}}");
}

#[test]
fn header_values_are_decoded_and_what_is_no_encoding_stays() {
    for (value, decoded) in [("a%20b", "a b"), ("%E2%82%AC", "€"), ("100%", "100%"), ("%zz", "%zz"), ("%ff", "%ff")] {
        assert_eq!(percent_decoded(value), decoded);
    }
}

proptest! {
    #[test]
    fn any_headers_and_body_give_json_that_is_judged(
        attributes in prop::collection::vec(("[a-z]{1,8}", "\\PC{0,12}"), 0..5),
        body in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let attributes: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let event = structured(&attributes, &body);
        prop_assert!(serde_json::from_slice::<Value>(&event).is_ok(), "{}", String::from_utf8_lossy(&event));
        prop_assert!(fact(&event, &meters(), now()).is_err());
    }
}
