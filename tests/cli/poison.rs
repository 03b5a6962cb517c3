//! Poison of every kind inside a good delivery: its neighbours count, it is kept with its reason, and put right it counts once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use ingest::Reason;
use serde_json::{Value, json};

use crate::events::{TIME, gzip, record};
use crate::support::Site;

const GOOD: &str = "100000000001";
const BAD: &str = "200000000002";
const EVALUATED: &str = "300000000003";
const EXPORTED: &str = "400000000004";
const NEW: &str = "500000000005";

const DECLARED: &str = r#"
[[declared]]
meter = "config_rule_evaluations"
source = "put_evaluations"
accounts = ["300000000003"]

[[declared]]
meter = "nat_gateway_bytes"
source = "focus_export"
accounts = ["400000000004"]
"#;

/// What cannot be made here: by whom it is.
const ELSEWHERE: [(Reason, &str); 4] = [
    (Reason::ObjectDenied, "functions: a queue of notices, and a bucket with a policy"),
    (Reason::ObjectArchived, "ingest: what each answer of S3 means"),
    (Reason::SliceMalformed, "parked: a record of the stream"),
    (Reason::PartitionUntrusted, "parked: a log with a gap"),
];

/// One delivery with poison in it.
struct Case {
    reason: Reason,
    file: String,
    poisoned: Vec<u8>,
    /// The same delivery, put right; under another name where the name was at fault.
    repaired: (String, Vec<u8>),
    /// What the dead letter keeps; `None` where only the object itself has it whole.
    kept: Option<Vec<u8>>,
    /// Of its records, how many are usage while the poison is in it, and once it is not.
    usage: (u64, u64),
}

#[derive(Default)]
struct Table {
    cases: Vec<Case>,
}

impl Table {
    /// Two events that are as they should be.
    fn neighbours(&self) -> [String; 2] {
        let number = u32::try_from(self.cases.len()).unwrap() * 10;
        [number, number + 1].map(|number| record(GOOD, number, TIME).to_string())
    }

    /// An event of the account whose events are broken, another one in each case.
    fn event(&self) -> Value {
        record(BAD, u32::try_from(self.cases.len()).unwrap(), TIME)
    }

    fn name(&self, reason: Reason, ending: &str) -> String {
        format!("{:02}-{reason}.{ending}", self.cases.len())
    }

    /// The poison between its neighbours in an array; `usage` is what poison and remedy come to.
    fn among(&mut self, reason: Reason, poison: &str, remedy: &str, usage: (u64, u64)) {
        let [first, last] = self.neighbours();
        let file = self.name(reason, "json");
        let with = |middle: &str| format!("[{first},\n{middle},\n{last}]").into_bytes();
        self.cases.push(Case {
            reason,
            poisoned: with(poison),
            repaired: (file.clone(), with(remedy)),
            file,
            kept: Some(poison.as_bytes().to_vec()),
            usage: (2 + usage.0, 2 + usage.1),
        });
    }

    /// The same, for an event that lacks something.
    fn event_without(&mut self, reason: Reason, change: impl Fn(&mut Value)) {
        let whole = self.event();
        let mut broken = whole.clone();
        change(&mut broken);
        self.among(reason, &broken.to_string(), &whole.to_string(), (0, 1));
    }

    /// A message of CloudWatch Logs between two good ones.
    fn message(&mut self, reason: Reason, poison: &str) {
        let ([first, last], remedy) = (self.neighbours(), self.event().to_string());
        let file = self.name(reason, "json");
        let with = |middle: &str| {
            let messages =
                [first.as_str(), middle, last.as_str()].map(|message| json!({ "id": "1", "message": message }));
            let sent = json!({ "messageType": "DATA_MESSAGE", "owner": GOOD, "logEvents": messages }).to_string();
            json!({ "awslogs": { "data": STANDARD.encode(gzip(sent.as_bytes())) } }).to_string().into_bytes()
        };
        self.cases.push(Case {
            reason,
            poisoned: with(poison),
            repaired: (file.clone(), with(&remedy)),
            file,
            kept: Some(poison.as_bytes().to_vec()),
            usage: (2, 3),
        });
    }

    /// A gzip object whose first member is whole and whose second one is not.
    fn second_member(&mut self, reason: Reason, spoil: impl Fn(Vec<u8>) -> Vec<u8>, usage: (u64, u64)) {
        let ([first, last], event) = (self.neighbours(), self.event().to_string());
        let file = self.name(reason, "json.gz");
        let good = gzip(format!("{first}\n{last}\n").as_bytes());
        let remedy = gzip(format!("{event}\n").as_bytes());
        let poisoned = [good.clone(), spoil(remedy.clone())].concat();
        let repaired = (file.clone(), [good, remedy].concat());
        self.cases.push(Case { reason, poisoned, repaired, file, kept: None, usage });
    }

    fn sample(&mut self, reason: Reason, change: impl Fn(&mut Value)) {
        let whole = json!({
            "specversion": "1.0", "id": "1", "source": "/c", "type": "nat_gateway_bytes", "subject": BAD, "time": TIME,
            "data": { "resource": format!("nat-{}", self.cases.len()), "value": 5, "unit": "bytes" },
        });
        let mut broken = whole.clone();
        change(&mut broken);
        self.among(reason, &broken.to_string(), &whole.to_string(), (0, 1));
    }

    /// An export with rows of two NAT gateways, and one that is written as given.
    fn export(&mut self, reason: Reason, [file, remedied]: [&str; 2], [header, row]: [&str; 2], usage: (u64, u64)) {
        const HEADER: &str = "ProviderName,ServiceName,SubAccountId,BillingAccountId,ChargePeriodStart,ChargePeriodEnd,\
            BillingPeriodStart,BillingPeriodEnd,ChargeCategory,ChargeDescription,ConsumedQuantity,ConsumedUnit,ResourceId";
        let good = |resource: &str, quantity: &str| {
            format!(
                "AWS,Amazon Virtual Private Cloud,{EXPORTED},9,2024-03-05 10:00:00,2024-03-05 11:00:00,2024-03-01 00:00:00,\
                 2024-04-01 00:00:00,Usage,per GB Data Processed by NAT Gateways,{quantity},GB,{resource}"
            )
        };
        let written = |header: &str, row: &str| {
            [header, &good("nat-1", "1"), row, &good("nat-2", "2"), ""].join("\n").into_bytes()
        };
        let whole = good("nat-3", "3");
        let header = HEADER.replace("ServiceName", header);
        let row = if row == "whole" { whole.clone() } else { whole.replace("3,GB", row) };
        // Each a table of its own: an export is known by its folder.
        let folder = format!("{:02}-{reason}/data/BILLING_PERIOD=2024-03", self.cases.len());
        self.cases.push(Case {
            reason,
            file: format!("{folder}/{file}"),
            poisoned: written(&header, &row),
            repaired: (format!("{folder}/{remedied}"), written(HEADER, &whole)),
            kept: None,
            usage,
        });
    }
}

fn named(bucket: &str, object: &Value) -> Value {
    json!({ "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "s3": { "bucket": { "name": bucket }, "object": object } })
}

fn invocation(change: impl Fn(&mut Value, &mut Value)) -> Value {
    let mut item = json!({ "messageType": "ConfigurationItemChangeNotification", "notificationCreationTime": TIME,
        "configurationItem": { "resourceType": "AWS::EC2::Instance", "resourceId": "i-1", "awsAccountId": BAD, "awsRegion": "eu-central-1" } });
    let mut whole = json!({ "accountId": BAD, "configRuleName": "tagged", "resultToken": "t",
        "configRuleArn": format!("arn:aws:config:eu-central-1:{BAD}:config-rule/config-rule-1") });
    change(&mut whole, &mut item);
    if whole["invokingEvent"].is_null() {
        whole["invokingEvent"] = json!(item.to_string());
    }
    whole
}

fn without(name: &'static str) -> impl Fn(&mut Value) {
    move |value| drop(value.as_object_mut().unwrap().remove(name))
}

fn set(pointer: &'static str, to: Value) -> impl Fn(&mut Value) {
    move |value| *value.pointer_mut(pointer).unwrap() = to.clone()
}

/// The table: one case a reason.
fn table(site: &Site) -> Table {
    let mut table = Table::default();
    table.event_without(Reason::AccountMissing, |event| {
        without("recipientAccountId")(event);
        without("userIdentity")(event);
    });
    table.event_without(Reason::AccountMalformed, set("/recipientAccountId", json!("12")));
    table.event_without(Reason::EventTimeMissing, without("eventTime"));
    table.event_without(Reason::EventTimeMalformed, set("/eventTime", json!("soon")));
    table.event_without(Reason::EventTimeInFuture, set("/eventTime", json!("2998-01-01T00:00:00Z")));
    table.event_without(Reason::DimensionMalformed, set("/awsRegion", json!("x".repeat(65))));

    let remedy = table.event().to_string();
    table.among(Reason::NotRecognized, r#"{"hello":"world"}"#, &remedy, (0, 1));
    let remedy = table.event().to_string();
    table.among(Reason::RecordsNotAnArray, r#"{"Records":7}"#, &remedy, (0, 1));
    let remedy = table.event().to_string();
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(101), "]".repeat(101));
    table.among(Reason::NestedTooDeep, &deep, &remedy, (0, 1));
    let remedy = table.event().to_string();
    table.among(Reason::RecordTooLarge, &format!(r#"{{"a":"{}"}}"#, "x".repeat(5 << 20)), &remedy, (0, 1));
    table.cases.last_mut().unwrap().kept = None;
    let (event, wrapped) = (table.event().to_string(), |layers: usize, event: &str| {
        (0..layers).fold(event.to_owned(), |body, _| json!({ "eventSource": "aws:sqs", "body": body }).to_string())
    });
    table.among(Reason::WrappedTooDeep, &wrapped(9, &event), &wrapped(3, &event), (0, 1));
    // Kept is the innermost that is opened.
    table.cases.last_mut().unwrap().kept = Some(wrapped(1, &event).into_bytes());
    let envelope = |detail: &Value| {
        json!({ "detail-type": "AWS API Call via CloudTrail", "source": "aws.s3", "detail": detail }).to_string()
    };
    let remedy = envelope(&table.event());
    table.among(Reason::DetailMissing, &envelope(&json!({})), &remedy, (0, 1));
    let remedy = json!({ "recordId": "1", "data": STANDARD.encode(table.event().to_string()) }).to_string();
    table.among(Reason::PayloadMalformed, r#"{"recordId":"1","data":"%%%"}"#, &remedy, (0, 1));

    table.message(Reason::NotJson, "a line of some other log");
    table.message(Reason::BrokenJson, r#"{"eventName":nope}"#);

    let finding = |id: Value| {
        json!({ "accountId": BAD, "id": id, "createdAt": TIME, "region": "eu-central-1", "severity": 5,
        "arn": format!("arn:aws:guardduty:eu-central-1:{BAD}:detector/d/finding/x") })
        .to_string()
    };
    table.among(Reason::FindingIdMissing, &finding(json!("")), &finding(json!("5f")), (0, 1));
    let whole = invocation(|_, _| {}).to_string();
    let broken = invocation(|whole, _| without("configRuleName")(whole));
    let broken = {
        let mut broken = broken;
        without("configRuleArn")(&mut broken);
        broken.to_string()
    };
    table.among(Reason::RuleMissing, &broken, &whole, (0, 1));
    let other = |resource: &'static str| {
        invocation(move |_, item| set("/configurationItem/resourceId", json!(resource))(item)).to_string()
    };
    let broken = invocation(|_, item| set("/configurationItem/resourceId", Value::Null)(item)).to_string();
    table.among(Reason::ResourceMissing, &broken, &other("i-2"), (0, 1));
    let broken = invocation(|whole, _| whole["invokingEvent"] = json!("{")).to_string();
    table.among(Reason::InvokingEventMalformed, &broken, &other("i-3"), (0, 1));

    // Beside an event that counts all the same: what it says beside is not in the balance.
    let life = |account: &str, table: &Table| {
        let mut event = table.event();
        event["eventSource"] = json!("organizations.amazonaws.com");
        event["eventName"] = json!("CreateAccountResult");
        event["serviceEventDetails"] = json!({ "createAccountStatus": { "state": "SUCCEEDED", "accountId": account } });
        event
    };
    let whole = life(NEW, &table);
    let mut broken = whole.clone();
    broken["serviceEventDetails"] = Value::Null;
    table.among(Reason::LifeCycleMalformed, &broken.to_string(), &whole.to_string(), (1, 1));
    let mut whole = table.event();
    whole["recipientAccountId"] = json!(EVALUATED);
    whole["eventSource"] = json!("config.amazonaws.com");
    whole["eventName"] = json!("PutEvaluations");
    let mut broken = whole.clone();
    whole["requestParameters"] = json!({ "evaluations": [{}, {}], "testMode": false });
    broken["requestParameters"] = json!({ "evaluations": "left out" });
    table.among(Reason::EvaluationsMalformed, &broken.to_string(), &whole.to_string(), (1, 1));

    table.sample(Reason::CloudEventMalformed, set("/source", json!("")));
    table.sample(Reason::SampleMalformed, set("/data", json!("five")));
    table.sample(Reason::UnitUnknown, set("/data/unit", json!("GB")));
    table.sample(Reason::MeterUnknown, set("/type", json!("unheard_of")));
    table.sample(Reason::FactMalformed, set("/data/resource", json!("")));

    let put = |name: &str, table: &Table| {
        site.write(&format!("objects/{name}"), table.event().to_string().as_bytes());
    };
    put("trail-logs/a.json", &table);
    let (whole, size) = (named("trail-logs", &json!({ "key": "a.json" })), 7);
    table.among(
        Reason::NoticeMalformed,
        &named("trail-logs", &json!({ "key": "%zz" })).to_string(),
        &whole.to_string(),
        (0, 1),
    );
    put("trail-logs/b.json", &table);
    let whole = named("trail-logs", &json!({ "key": "b.json" }));
    let mut broken = whole.clone();
    broken["eventVersion"] = json!("3.0");
    table.among(Reason::NoticeVersion, &broken.to_string(), &whole.to_string(), (0, 1));
    put("trail-logs/c.json", &table);
    let notice = |object: Value| named("trail-logs", &object).to_string();
    let broken = notice(json!({ "key": "c.json", "size": size }));
    table.among(Reason::ObjectChanged, &broken, &notice(json!({ "key": "c.json" })), (0, 1));
    put("trail-logs/later/d.json", &table);
    let broken = notice(json!({ "key": "d.json" }));
    table.among(Reason::ObjectMissing, &broken, &notice(json!({ "key": "later/d.json" })), (0, 1));

    let digest = json!({
        "awsAccountId": BAD, "digestStartTime": "2024-03-05T10:01:31Z", "digestEndTime": "2024-03-05T11:01:31Z",
        "digestS3Bucket": "trail-logs", "logFiles": [],
        "digestS3Object": format!("{BAD}_CloudTrail-Digest_eu-central-1_t_eu-central-1_20240305T110131Z.json.gz"),
    });
    let mut broken = digest.clone();
    broken["digestEndTime"] = json!("2024-03-05T10:01:31Z");
    table.among(Reason::DigestMalformed, &broken.to_string(), &digest.to_string(), (0, 0));

    let list = |listed_at: Option<&str>, id: &str| {
        let policy = json!({ "Id": id, "Arn": format!("arn:aws:organizations::{BAD}:policy/o-abc/service_control_policy/{id}"),
            "Name": "p", "Type": "SERVICE_CONTROL_POLICY", "AwsManaged": false });
        let mut list = json!({ "Policies": [policy] });
        if let Some(listed_at) = listed_at {
            list["listedAt"] = json!(listed_at);
        }
        list.to_string()
    };
    table.among(Reason::ListTimeMissing, &list(None, "p-1"), &list(Some(TIME), "p-1"), (0, 1));
    table.among(Reason::ListMalformed, &list(Some(TIME), ""), &list(Some(TIME), "p-2"), (0, 1));
    // One element can be judged by itself, with the time of its list.
    for case in table.cases.iter_mut().rev().take(2) {
        case.kept = None;
    }

    let cut = |member: Vec<u8>| member[..member.len() / 2].to_vec();
    table.second_member(Reason::GzipTruncated, cut, (2, 3));
    let corrupt = |mut member: Vec<u8>| {
        let middle = member.len() / 2;
        member[middle..middle + 8].fill(0xff);
        member
    };
    table.second_member(Reason::GzipCorrupt, corrupt, (2, 3));
    let bomb = |_: Vec<u8>| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 80 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    table.second_member(Reason::GzipBomb, bomb, (2, 3));

    const FILE: &str = "20240402T010000Z-focus.csv";
    table.export(Reason::ExportColumns, [FILE, FILE], ["Service", "whole"], (0, 3));
    table.export(Reason::ExportInParts, ["focus-00002.csv", FILE], ["ServiceName", "whole"], (0, 3));
    table.export(Reason::RowMalformed, [FILE, FILE], ["ServiceName", "3"], (2, 3));
    table.export(Reason::QuantityMalformed, [FILE, FILE], ["ServiceName", "three,GB"], (2, 3));
    table
}

fn letters(site: &Site) -> Vec<Value> {
    site.json(["dead-letters", "list"])["dead_letters"].as_array().unwrap().clone()
}

fn of_account(site: &Site, meter: &str, account: &str) -> String {
    let from_to = ["--from", "2024-03-01T00:00:00Z", "--to", "2024-04-01T00:00:00Z"];
    let words = [["usage", "--all", "--meter", meter, "--group-by", "account"].as_slice(), &from_to].concat();
    let rows = site.json(words)["rows"].as_array().unwrap().clone();
    let row = rows.iter().find(|row| row["account"] == account);
    row.map_or_else(|| "0".to_owned(), |row| row["quantity"].as_str().unwrap().to_owned())
}

#[test]
fn poison_of_every_kind_leaves_its_neighbours_alone_is_kept_and_counts_once_when_it_is_put_right() {
    let site = Site::new();
    site.write("home/sources.toml", DECLARED.as_bytes());
    let table = table(&site);
    let made: BTreeSet<Reason> = table.cases.iter().map(|case| case.reason).collect();
    let all: BTreeSet<Reason> = Reason::ALL.iter().copied().collect();
    let elsewhere = ELSEWHERE.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(all.difference(&made).copied().collect::<BTreeSet<_>>(), elsewhere, "each reason has its case");

    for case in &table.cases {
        site.write(&format!("logs/{}", case.file), &case.poisoned);
    }
    let balance = site.json(["replay", "logs", "--objects", "objects"]);
    let mut by_reason: BTreeMap<String, u64> = BTreeMap::new();
    for letters in [&balance["dead_letters"], &balance["beside"]["dead_letters"]] {
        for (reason, count) in letters.as_object().unwrap() {
            *by_reason.entry(reason.clone()).or_default() += count.as_u64().unwrap();
        }
    }
    let expected: BTreeMap<String, u64> = made.iter().map(|reason| (reason.to_string(), 1)).collect();
    assert_eq!(by_reason, expected);
    let usage: u64 = table.cases.iter().map(|case| case.usage.0).sum();
    assert_eq!(balance["counted"], usage, "{balance}");
    let exports = table.cases.iter().filter(|case| case.file.ends_with(".csv")).count();
    let neighbours = (table.cases.len() - exports) * 2;
    assert_eq!(of_account(&site, "cloudtrail_events", GOOD), neighbours.to_string());

    let open = letters(&site);
    assert_eq!(open.len(), table.cases.len());
    for case in &table.cases {
        let ours = |letter: &&Value| letter["object"].as_str().unwrap().ends_with(&case.file);
        let [letter] = &open.iter().filter(ours).collect::<Vec<_>>()[..] else { panic!("{}: {open:#?}", case.file) };
        assert_eq!(letter["reason"], case.reason.as_str(), "{letter}");
        assert_eq!(letter["advice"], case.reason.advice());
        if let Some(kept) = &case.kept {
            let shown = String::from_utf8_lossy(&kept[..kept.len().min(512)]).into_owned();
            assert_eq!((&letter["record"], &letter["length"]), (&json!(shown), &json!(kept.len())), "{}", case.file);
            assert_eq!(letter["is_whole"], true, "{letter}");
        }
    }

    // As they are, none of them counts, but for what was only wrapped too deep: it was kept unwrapped.
    let again = site.json(["dead-letters", "replay", "--objects", "objects"]);
    assert_eq!((&again["resolved"], &again["counted"]), (&json!(1), &json!(1)), "{again}");
    assert!(letters(&site).iter().all(|letter| letter["reason"] != Reason::WrappedTooDeep.as_str()));

    for case in &table.cases {
        let (name, content) = &case.repaired;
        site.write(&format!("logs/{name}"), content);
    }
    let repaired: u64 = table.cases.iter().map(|case| case.usage.1 - case.usage.0).sum();
    let balance = site.json(["replay", "logs", "--objects", "objects"]);
    assert_eq!(balance["counted"], repaired - 1, "{balance}");
    // The part of an export still has its name.
    assert_eq!(balance["dead_letters"], json!({ "export_in_parts": 1 }));
    let balance = site.json(["replay", "logs", "--objects", "objects"]);
    assert_eq!((&balance["counted"], &balance["beside"]["counted"]), (&json!(0), &json!(0)), "{balance}");
    assert_eq!(of_account(&site, "cloudtrail_events", GOOD), neighbours.to_string());
    assert_eq!(of_account(&site, "config_rule_evaluations", EVALUATED), "2");
    // Four exports of one account, each of six GB.
    assert_eq!(of_account(&site, "nat_gateway_bytes", EXPORTED), (24_u64 << 30).to_string());
    // What was not kept whole is put right by its object.
    let resolved = site.json(["dead-letters", "replay", "--objects", "objects"]);
    assert_eq!(resolved["counted"], 0, "{resolved}");
    let left: BTreeSet<String> =
        letters(&site).iter().map(|letter| letter["reason"].as_str().unwrap().to_owned()).collect();
    for reason in [Reason::GzipTruncated, Reason::GzipCorrupt, Reason::GzipBomb, Reason::RecordTooLarge] {
        assert!(!left.contains(reason.as_str()), "{left:?}");
    }
}
