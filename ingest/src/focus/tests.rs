use std::convert::Infallible;

use csv::Writer;
use proptest::prelude::*;

use super::*;
use crate::focus::inspect;
use crate::{Declarations, Delivered, Meters, Quantity, Timestamp};

const COLUMNS: [&str; 15] = [
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
    "RegionId",
    "ResourceId",
    "Tags",
];

type Row = Vec<String>;

/// A NAT gateway's hour.
fn row() -> Row {
    [
        "AWS",
        "999999999999",
        "000000000012",
        "2026-10-01 00:00:00",
        "2026-11-01 00:00:00",
        "2026-10-07 13:00:00",
        "2026-10-07 14:00:00",
        "Usage",
        "$0.045 per GB Data Processed by NAT Gateways",
        "Amazon Elastic Compute Cloud",
        "0.500000000000001",
        "GB",
        "eu-west-1",
        "arn:aws:ec2:eu-west-1:000000000012:natgateway/nat-1",
        "NULL",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn with(changes: &[(&str, &str)]) -> Row {
    let mut row = row();
    for (column, value) in changes {
        let place = COLUMNS.iter().position(|name| name == column).unwrap_or_else(|| panic!("no {column}"));
        row[place] = (*value).to_owned();
    }
    row
}

fn export(rows: &[Row]) -> Vec<u8> {
    let mut writer = Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).unwrap();
    rows.iter().for_each(|row| writer.write_record(row).unwrap());
    writer.into_inner().unwrap()
}

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-02T00:00:00Z").unwrap()
}

/// Gives so many bytes at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.1);
        self.0.read(&mut buffer[..length])
    }
}

#[derive(Debug, Default, PartialEq)]
struct Found {
    facts: Vec<UsageFact<'static>>,
    not_counted: Vec<NotCounted>,
    dead: Vec<(Reason, String)>,
    ends: Vec<UsageFact<'static>>,
}

fn read_as(name: &str, input: impl Read) -> Found {
    let written_at = Timestamp::parse_rfc3339("2026-11-01T06:00:00Z").ok();
    let (mut found, mut ends) = (Found::default(), Vec::new());
    let declared = Declarations::parse(
        "[[declared]]\nmeter = \"nat_gateway_bytes\"\nsource = \"focus_export\"\n\
         [[declared]]\nmeter = \"log_storage_gb\"\nsource = \"focus_export\"\n",
    );
    let declared = declared.unwrap();
    let rules = Rules { declared: &declared, ..Rules::at(now()) };
    let each = |row: JudgedRow<'_>| {
        match row.verdict {
            RowVerdict::Facts(fact) => found.facts.push(*fact),
            RowVerdict::NotCounted(kind) => found.not_counted.push(kind),
            RowVerdict::DeadLetter(reason) => {
                found.dead.push((reason, String::from_utf8_lossy(row.bytes).into_owned()));
            }
        }
        Ok::<_, Infallible>(())
    };
    let end = |facts| {
        ends = facts;
        Ok(())
    };
    let outcome = read_rows(ExportOrigin(Delivered { name, written_at }), input, rules, each, end);
    assert!(outcome.is_ok());
    found.ends = ends;
    found
}

fn read(content: &[u8]) -> Found {
    read_as("focus.csv", content)
}

#[track_caller]
fn check_dead(changes: &[(&str, &str)], reason: Reason) {
    let found = read(&export(&[with(changes)]));
    assert_eq!(found.dead.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), [reason], "{changes:?}");
}

fn amount(fact: &UsageFact<'_>) -> String {
    let FactValue::Amount(value) = fact.value else { panic!("{:?}", fact.value) };
    value.to_string()
}

#[test]
fn a_row_is_an_exact_amount_of_its_meter_in_its_hour() {
    let found = read(&export(&[row()]));
    let fact = &found.facts[0];
    assert_eq!((fact.key.meter, fact.key.account.as_str()), (Meter::NatGatewayBytes, "000000000012"));
    // 0.500000000000001 times 2^30.
    assert_eq!(amount(fact), "536870912.000001073741824");
    assert_eq!(fact.key.time.to_string(), "2026-10-07T13:00:00Z");
    assert_eq!(fact.end.unwrap().to_string(), "2026-10-07T14:00:00Z");
    assert_eq!(&*fact.key.resource, "arn:aws:ec2:eu-west-1:000000000012:natgateway/nat-1#1");
    assert_eq!(&*fact.dimensions.region, "eu-west-1");
    let generation = fact.key.export.as_ref().unwrap();
    assert_eq!(
        (&*generation.scope, generation.number),
        ("focus/default/999999999999/2026-10-01", 1_793_512_800_000_000)
    );
    let definition = Meters::built_in().get(Meter::NatGatewayBytes).unwrap().clone();
    assert_eq!(fact.check(&definition), Ok(()));

    let [end] = &found.ends[..] else { panic!("{:?}", found.ends) };
    assert_eq!((end.value, end.key.account.as_str()), (FactValue::ExportEnd { facts: 1 }, "000000000012"));
    assert_eq!(end.check(Meters::built_in().get(Meter::ExportGenerations).unwrap()), Ok(()));
}

#[test]
fn storage_is_bytes_times_the_seconds_of_its_billing_period() {
    let month = with(&[
        ("ServiceName", "AmazonCloudWatch"),
        ("ChargeDescription", "$0.03 per GB-mo of log storage"),
        ("ConsumedUnit", "GB-Months"),
        ("ConsumedQuantity", "2"),
    ]);
    let found = read(&export(&[month]));
    assert_eq!(found.facts[0].key.meter, Meter::LogStorageGb);
    assert_eq!(amount(&found.facts[0]), (2_i128 * (1 << 30) * 31 * 86_400).to_string());
}

#[test]
fn rows_of_one_resource_and_hour_add_up_instead_of_replacing_each_other() {
    let found = read(&export(&[row(), row()]));
    assert_ne!(found.facts[0].key, found.facts[1].key);
    assert_eq!(found.ends[0].value, FactValue::ExportEnd { facts: 2 });
}

#[test]
fn what_no_meter_counts_is_not_counted_and_still_ends_its_generation() {
    let rows = [
        with(&[("ProviderName", "Microsoft"), ("SubAccountId", "any")]),
        with(&[("ChargeCategory", "Credit"), ("ConsumedQuantity", "NULL")]),
        with(&[("ConsumedUnit", "Hours")]),
    ];
    let found = read(&export(&rows));
    use NotCounted::{FocusNoMeter, FocusNotUsage, FocusOtherProvider};
    assert_eq!(found.not_counted, [FocusOtherProvider, FocusNotUsage, FocusNoMeter]);
    // A corrected export without usage takes back what the one before had.
    assert_eq!(found.ends.len(), 1);
    assert_eq!(
        (found.ends[0].value, found.ends[0].key.account.as_str()),
        (FactValue::ExportEnd { facts: 0 }, "999999999999")
    );
}

#[test]
fn what_cannot_be_placed_is_set_aside_with_its_header() {
    for (changes, reason) in [
        ([("SubAccountId", "11353890204")], Reason::AccountMalformed),
        ([("SubAccountId", "NULL")], Reason::AccountMissing),
        ([("ConsumedQuantity", "many")], Reason::QuantityMalformed),
        ([("ConsumedQuantity", "0.0000000000000000001")], Reason::QuantityMalformed),
        ([("ConsumedQuantity", "")], Reason::QuantityMalformed),
        ([("ChargePeriodStart", "")], Reason::EventTimeMissing),
        ([("ChargePeriodStart", "2026-10-07")], Reason::EventTimeMalformed),
        ([("ChargePeriodStart", "2026-11-02T01:00:01Z")], Reason::EventTimeInFuture),
        ([("ChargePeriodEnd", "later")], Reason::EventTimeMalformed),
        ([("BillingPeriodStart", "NULL")], Reason::RowMalformed),
        ([("RegionId", "a\u{7}")], Reason::DimensionMalformed),
    ] {
        check_dead(&changes, reason);
    }
    // Also of a service that no meter counts: nobody could say whose row it is.
    check_dead(&[("SubAccountId", "12345"), ("ConsumedUnit", "Hours")], Reason::AccountMalformed);
    let found = read(&export(&[with(&[("SubAccountId", "1"), ("Tags", "a \"b\",\nc")])]));
    let header = COLUMNS.join(",");
    assert!(found.dead[0].1.starts_with(&format!("{header}\nAWS,")), "{}", found.dead[0].1);
    assert!(found.dead[0].1.ends_with(",\"a \"\"b\"\",\nc\"\n"), "{}", found.dead[0].1);
    assert!(is_header(found.dead[0].1.as_bytes()), "what is kept reads as an export");
}

#[test]
fn the_order_of_columns_a_byte_order_mark_and_line_ends_do_not_matter() {
    let mut turned = Writer::from_writer(b"\xef\xbb\xbf".to_vec());
    turned.write_record(COLUMNS.iter().rev()).unwrap();
    turned.write_record(row().iter().rev()).unwrap();
    let turned = turned.into_inner().unwrap();
    assert!(is_header(&turned));
    let plain = read(&export(&[row()]));
    assert_eq!(read(&turned), plain);
    for at_a_time in [1, 2, 3, 7] {
        assert_eq!(read_as("focus.csv", Trickle(&turned, at_a_time)), plain);
    }
    let crlf = String::from_utf8(export(&[row()])).unwrap().replace('\n', "\r\n");
    assert_eq!(read(crlf.as_bytes()), plain);
    let quoted = String::from_utf8(export(&[row()])).unwrap().replace("NULL", "\"NULL\"");
    assert_eq!(read(quoted.as_bytes()), plain);
}

#[test]
fn newlines_and_quotes_inside_fields_are_part_of_them() {
    let odd = with(&[("Tags", "{\"a\": \"b\"},\r\n\n,\"\""), ("ResourceId", "a \"quoted\"\nname")]);
    let found = read(&export(&[odd, row()]));
    assert_eq!(found.facts.len(), 2);
    assert_eq!(&*found.facts[0].key.resource, "a \"quoted\"name#1", "a name has no control characters");
}

#[test]
fn an_export_that_is_cut_off_ends_no_generation() {
    let whole = export(&[row(), with(&[("Tags", "a,\nb")])]);
    assert_eq!(read(&whole).ends.len(), 1);
    // Where the last field is cut away whole, nothing but gzip could tell.
    for cut in [whole.len() - 2, whole.len() - 3, whole.len() - 9, whole.len() - 100] {
        let found = read(&whole[..cut]);
        assert_eq!(found.ends, [], "cut at {cut}");
        assert!(!found.facts.is_empty());
    }
    struct FailsWith(Reason);
    impl Read for FailsWith {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(CutOff(self.0)))
        }
    }
    let found = read_as("focus.csv", whole.as_slice().chain(FailsWith(Reason::GzipTruncated)));
    assert_eq!((found.ends.len(), found.dead.len(), found.dead[0].0), (0, 1, Reason::GzipTruncated));
}

#[test]
fn a_row_without_end_is_cut_off_in_bounded_memory() {
    let mut endless = export(&[row()]);
    endless.extend_from_slice(b"AWS,\"");
    struct Filler;
    impl Read for Filler {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }
    let found = read_as("focus.csv", endless.as_slice().chain(Filler));
    assert_eq!((found.facts.len(), found.ends.len()), (1, 0));
    assert_eq!(found.dead[0].0, Reason::RecordTooLarge);
}

#[test]
fn a_file_without_our_columns_or_a_later_part_is_set_aside_whole() {
    let text = String::from_utf8(export(&[row()])).unwrap();
    for (from, to) in [("ConsumedUnit", "Unit"), ("Tags", "ServiceName")] {
        let found = read(text.replacen(from, to, 1).as_bytes());
        assert_eq!((found.facts.len(), found.dead.len(), found.dead[0].0), (0, 1, Reason::ExportColumns), "{from}");
    }
    let found = read_as("x/data/BILLING_PERIOD=2026-10/x-00002.csv.gz", text.as_bytes());
    assert_eq!((found.facts.len(), found.dead[0].0, found.ends.len()), (0, Reason::ExportInParts, 0));
    assert_eq!(read(b"").dead, []);
}

#[test]
fn a_header_is_told_from_other_text() {
    assert!(is_header(&export(&[])));
    assert!(is_header(b"\"ConsumedQuantity\", ChargePeriodStart ,\"BillingPeriodStart\"\n"));
    for other in
        ["", "{\"Records\":[]}", "eventTime,eventName\n", "BillingPeriodStart,ConsumedQuantity\nChargePeriodStart\n"]
    {
        assert!(!is_header(other.as_bytes()), "{other}");
    }
}

#[test]
fn an_inspection_sums_what_is_written_whatever_counts() {
    let rows = [
        row(),
        with(&[("SubAccountId", "11353890204"), ("ConsumedQuantity", "1.25")]),
        with(&[("ConsumedUnit", "Hours"), ("ConsumedQuantity", "3")]),
        with(&[("ChargeCategory", "Credit"), ("ConsumedQuantity", "NULL")]),
        with(&[("ProviderName", "Oracle")]),
        with(&[("ConsumedQuantity", "x")]),
    ];
    let found = inspect(export(&rows).as_slice()).unwrap();
    assert_eq!((found.rows, found.malformed, found.cut_off), (6, 1, None));
    assert_eq!(found.providers["AWS"], 5);
    assert_eq!(found.sub_accounts["11353890204"], 1);
    let service = "Amazon Elastic Compute Cloud".to_owned();
    assert_eq!(found.sums[&(service.clone(), "GB".to_owned())].quantity.to_string(), "1.750000000000001");
    assert_eq!(found.sums[&(service, "Hours".to_owned())].rows, 1);
    assert_eq!(found.meters[&Meter::NatGatewayBytes].rows, 2);
    assert!(inspect(b"{}".as_slice()).is_err());
}

proptest! {
    #[test]
    fn every_row_is_one_thing_and_sums_are_exact_however_the_bytes_arrive(
        rows in prop::collection::vec((0..1_000_000_000_000_000_u64, 0..4_u8, "\\PC{0,8}|\"|\r?\n|,"), 0..30),
        at_a_time in 1_usize..5_000,
    ) {
        let made: Vec<Row> = rows.iter().map(|(units, kind, tags)| {
            let quantity = format!("{}.{:015}", units % 7, units);
            let account = if *kind == 0 { "1" } else { "000000000012" };
            let unit = if *kind == 1 { "Hours" } else { "GB" };
            with(&[("ConsumedQuantity", &quantity), ("SubAccountId", account), ("ConsumedUnit", unit), ("Tags", tags)])
        }).collect();
        let content = export(&made);
        let found = read_as("focus.csv", Trickle(&content, at_a_time));
        prop_assert_eq!(found.facts.len() + found.not_counted.len() + found.dead.len(), rows.len());
        // The naive sum, in units of 10^-15 GB.
        let expected: i128 = rows.iter().filter(|(_, kind, _)| 1 < *kind)
            .map(|(units, ..)| i128::from(units % 7) * 1_000_000_000_000_000 + i128::from(*units)).sum();
        let sum = found.facts.iter().fold(Quantity::ZERO, |sum, fact| {
            let FactValue::Amount(value) = fact.value else { panic!("{:?}", fact.value) };
            sum.checked_add(value).unwrap()
        });
        prop_assert_eq!(sum, Quantity::new(expected * (1 << 30), 15).unwrap());
        if !rows.is_empty() {
            prop_assert_eq!(found.ends[0].value, FactValue::ExportEnd { facts: found.facts.len() as u64 });
        }
    }

    #[test]
    fn any_bytes_behind_a_header_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut content = export(&[row()]);
        content.extend_from_slice(&bytes);
        let found = read(&content);
        prop_assert!(!found.facts.is_empty());
    }
}
