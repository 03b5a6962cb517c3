//! `docs/stream-format.md` against the code: its example is what is written, and its program reads it.

use std::convert::Infallible;
use std::io::Write;
use std::process::{Command, Stdio};

use ingest::{
    AccountId, Bucket, Dimensions, FactKey, FactValue, Identity, Meter, Packer, Rules, RunId, Slice, Statement,
    Timestamp, UsageEvent, UsageFact, Verdict, kinesis, read_object, stream_format,
};

const DOCUMENT: &str = include_str!("../../docs/stream-format.md");

/// The first code block of this language after this heading.
fn block(heading: &str, language: &str) -> &'static str {
    let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let (_, block) = section.split_once(&format!("\n```{language}\n")).expect("the beginning of the block");
    block.split_once("\n```\n").expect("the end of the block").0
}

/// JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&c| {
            let kept = in_string || !c.is_ascii_whitespace();
            (in_string, escaped) = match c {
                '"' if !escaped => (!in_string, false),
                '\\' => (in_string, !escaped),
                _ => (in_string, false),
            };
            kept
        })
        .collect()
}

/// The slices of the log object in the document.
fn slices() -> Vec<Slice> {
    let run = RunId::parse("5f0c1e2d3b4a59687786a5b4c3d2e1f0").expect("a run");
    let now = Timestamp::parse_rfc3339("2026-10-01T12:20:00Z").expect("an instant");
    let mut packer = Packer::new(run);
    let mut slices = Vec::new();
    let object = block("Example", "json");
    let read = read_object("object.json", object.as_bytes(), Rules::at(now), |judged| {
        let Verdict::Usage(event) = judged.verdict else { panic!("{:?}", judged.verdict) };
        packer.add(event, &mut slices);
        Ok::<(), Infallible>(())
    });
    assert_eq!(read.expect("memory can be read").read, 3);
    slices.extend(packer.flush());
    slices
}

/// The slice of the facts in the document.
fn facts() -> Vec<Slice> {
    let at = |time: &str| Timestamp::parse_rfc3339(&format!("2026-10-01T{time}Z")).expect("an instant");
    let account = AccountId::parse("000000000001").expect("an account");
    let fact = |meter, resource: &'static str, time, region: &'static str, value| UsageFact {
        key: FactKey { meter, account, resource: resource.into(), time: at(time), export: None },
        revision: 0,
        dimensions: Dimensions { region: region.into(), category: Dimensions::NONE.into() },
        end: None,
        value,
    };
    let amount = |bytes: &str| FactValue::Amount(bytes.parse().expect("a number"));
    let sample = fact(Meter::NatGatewayBytes, "nat-0a1b2c3d", "12:00:00", "eu-central-1", amount("1536.50"));
    let sample = UsageFact { end: Some(at("13:00:00")), ..sample };
    let corrected = UsageFact { revision: 1, value: amount("1540"), ..sample.clone() };
    let level = FactValue::Level("1073741824".parse().expect("a number"));
    let bucket = fact(Meter::LogStorageGb, "arn:aws:s3:::central-logs", "12:00:00", "eu-central-1", level);
    let event = UsageEvent {
        meter: Meter::CloudTrailEvents,
        account,
        identity: Identity::from_bytes([1; 16]),
        event_time: at("12:07:41"),
        dimensions: Dimensions { region: "us-east-1".into(), category: "Management".into() },
    };
    let made = fact(Meter::Accounts, "000000000001", "12:07:41", Dimensions::NONE, FactValue::Live);
    let mut packer = Packer::new(RunId::parse("5f0c1e2d3b4a59687786a5b4c3d2e1f0").expect("a run"));
    let mut full = Vec::new();
    packer.add_statement(Statement::beside(event, vec![made]), &mut full);
    for fact in [sample, corrected, bucket] {
        packer.add_statement(Statement::of_facts(fact, []), &mut full);
    }
    packer.flush().split_off(1)
}

#[test]
fn the_example_of_facts_is_what_is_written_for_them() {
    let documented = compact(block("A record of facts", "json"));
    assert_eq!(String::from_utf8(stream_format::encode(&facts())).unwrap(), documented);
    assert_eq!(stream_format::decode(documented.as_bytes()).unwrap(), facts());
    let extended = documented.replace("\"kind\"", "\"later\":{\"a\":[1]},\"kind\"");
    assert_eq!(stream_format::decode(extended.as_bytes()).unwrap(), facts());
}

#[test]
fn the_example_is_what_is_written_for_its_events() {
    let slices = slices();
    let records = kinesis::pack(slices.clone());
    let documented = compact(block("The record", "json"));
    assert_eq!(records.len(), 1);
    assert_eq!(String::from_utf8(records[0].body.clone()).unwrap(), documented);
    assert_eq!(stream_format::decode(documented.as_bytes()).unwrap(), slices);
    assert!(DOCUMENT.contains(&format!("partition key `{}`", kinesis::partition_key(records[0].bucket))));
}

#[test]
fn a_field_that_a_reader_does_not_know_is_passed_over() {
    let documented = compact(block("The record", "json"));
    let extended = documented
        .replace("\"specversion\"", "\"dataschema\":\"x\",\"specversion\"")
        .replace("\"window\"", "\"later\":{\"a\":[1]},\"window\"")
        .replace("\"meter\"", "\"later\":null,\"meter\"");
    assert_eq!(extended.matches("later").count(), 3);
    assert_eq!(stream_format::decode(extended.as_bytes()).unwrap(), slices());
}

#[test]
fn the_program_prints_what_the_document_says() {
    let program = block("Reading it elsewhere", "python");
    let mut printed = String::new();
    for record in ["The record", "A record of facts"] {
        let mut python = Command::new("python3")
            .args(["-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3, which the checks need too");
        python.stdin.take().unwrap().write_all(block(record, "json").as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        printed.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(printed.trim_end(), block("Reading it elsewhere", "text"));
}

#[test]
fn the_limits_are_those_of_the_code() {
    for limit in [
        format!("{} buckets", Bucket::COUNT),
        format!("{} identities a slice", thousands(Slice::IDENTITIES_MAX)),
        format!("{} counters a slice", thousands(Slice::GROUPS_MAX)),
        format!("{} facts a slice", thousands(Slice::FACTS_MAX)),
        format!("1 to {} bytes", UsageFact::NAME_BYTES_MAX),
        stream_format::FACTS_TYPE.to_owned(),
        format!("1 to {} bytes", ingest::Dimensions::VALUE_BYTES_MAX),
        stream_format::SLICE_TYPE.to_owned(),
    ] {
        assert!(DOCUMENT.contains(&limit), "{limit}");
    }
}

fn thousands(number: usize) -> String {
    if number < 1_000 { number.to_string() } else { format!("{},{:03}", number / 1_000, number % 1_000) }
}
