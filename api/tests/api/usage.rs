//! Usage against a naive recount, and its parameters.

use std::collections::BTreeMap;

use aggregator::directory::CustomerId;
use api::{Grouping, Statements, UsageQuery, UsageScope, usage};
use chrono::{DateTime, SecondsFormat, Utc};
use ingest::{Meter, Timestamp};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::client::{encoded, get};
use crate::stage::{Stage, UsageSeed, one_row};

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

fn written(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Secs, true)
}

const HOUR_SECS: i64 = 3_600;

/// Rows of two customers and of none, in partitions that split counters, over a leap day, a month's end and a year's.
fn random_rows(rng: &mut StdRng, count: usize) -> Vec<UsageSeed> {
    let mut rows = BTreeMap::new();
    let starts = [at("2023-12-31T20:00:00Z"), at("2024-02-28T22:00:00Z"), at("2024-03-31T00:00:00Z")];
    for _ in 0..count {
        let start = starts.choose(rng).unwrap().saturating_add_secs(HOUR_SECS * rng.random_range(0..60));
        let large = 10_u128.pow(rng.random_range(0..31));
        let row = UsageSeed {
            customer: ["acme", "globex", ""].choose(rng).map(|id| id.to_string()).filter(|id| !id.is_empty()),
            account: format!("{:012}", rng.random_range(0..5_u64)),
            meter: if rng.random_bool(0.8) { Meter::CloudTrailEvents } else { Meter::GuardDutyFindings },
            region: ["eu-central-1", "us-east-1", "none", "Ärger'--"].choose(rng).unwrap().to_string(),
            category: ["Management", "Data", "none"].choose(rng).unwrap().to_string(),
            window_start: start.into(),
            partition: format!("p{}", rng.random_range(0..3)),
            total: if rng.random_bool(0.1) { large } else { rng.random_range(0..1_000) },
        };
        rows.insert(row.key(), row);
    }
    rows.into_values().collect()
}

/// Adds up row by row, in the order of the keys.
fn recount(
    rows: &[UsageSeed],
    owner: Option<&str>,
    meter: Meter,
    range: (Timestamp, Timestamp),
    keys: &[&str],
) -> Value {
    let mut sums: BTreeMap<Vec<Option<String>>, u128> = BTreeMap::new();
    if keys.is_empty() {
        sums.insert(Vec::new(), 0);
    }
    for row in rows {
        let start = Timestamp::from(row.window_start);
        let is_owned = owner.is_none_or(|owner| row.customer.as_deref() == Some(owner));
        if is_owned && row.meter == meter && range.0 <= start && start < range.1 {
            let text = written(row.window_start);
            let key = keys.iter().map(|key| match *key {
                "customer" => row.customer.clone(),
                "account" => Some(row.account.clone()),
                "region" => Some(row.region.clone()),
                "category" => Some(row.category.clone()),
                "hour" => Some(text.clone()),
                "day" => Some(text[..10].to_owned()),
                "month" => Some(text[..7].to_owned()),
                other => panic!("no key {other}"),
            });
            *sums.entry(key.collect()).or_default() += row.total;
        }
    }
    let rows = sums.into_iter().map(|(values, sum)| {
        let mut row: serde_json::Map<String, Value> =
            keys.iter().map(|key| key.to_string()).zip(values.into_iter().map(|value| json!(value))).collect();
        row.insert("quantity".into(), json!(sum.to_string()));
        Value::Object(row)
    });
    Value::Array(rows.collect())
}

fn random_range(rng: &mut StdRng) -> (Timestamp, Timestamp) {
    let starts = [at("2023-12-31T00:00:00Z"), at("2024-02-28T20:00:00Z"), at("2024-03-30T10:00:00Z")];
    let from = starts.choose(rng).unwrap().saturating_add_secs(HOUR_SECS * rng.random_range(0..40));
    (from, from.saturating_add_secs(HOUR_SECS * rng.random_range(1..2_500)))
}

fn random_keys(rng: &mut StdRng, others: &[&'static str]) -> Vec<&'static str> {
    let mut keys: Vec<&str> = others.iter().copied().filter(|_| rng.random_bool(0.4)).collect();
    keys.extend(["hour", "day", "month"].choose(rng).filter(|_| rng.random_bool(0.7)));
    keys.shuffle(rng);
    keys
}

#[tokio::test]
async fn a_tenants_answer_is_the_naive_recount_of_its_own_rows_page_by_page() {
    let stage = Stage::new().await;
    let mut rng = StdRng::seed_from_u64(7);
    let rows = random_rows(&mut rng, 400);
    stage.seed(&rows).await;

    for round in 0..120 {
        let owner = *["acme", "globex", "nobody"].choose(&mut rng).unwrap();
        let meter = *[Meter::CloudTrailEvents, Meter::GuardDutyFindings].choose(&mut rng).unwrap();
        let (from, to) = random_range(&mut rng);
        let keys = random_keys(&mut rng, &["account", "region", "category"]);
        let limit = rng.random_range(1..60);

        let mut question = format!("/v1/usage?meter={meter}&from={from}&to={to}&limit={limit}");
        if !keys.is_empty() {
            question.push_str(&format!("&group_by={}", keys.join(",")));
        }
        let mut seen = Vec::new();
        let mut next = question.clone();
        loop {
            let answer = get(stage.address, &next, &stage.key(owner)).await;
            assert_eq!(answer.status, 200, "round {round}: {next}: {answer:?}");
            let page = answer.json();
            assert_eq!(page["complete_through"], Value::Null);
            let rows = page["rows"].as_array().unwrap();
            assert!(rows.len() <= limit);
            seen.extend(rows.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => next = format!("{question}&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(
            Value::Array(seen),
            recount(&rows, Some(owner), meter, (from, to), &keys),
            "round {round}: {question}"
        );
    }
}

#[tokio::test]
async fn the_operator_sees_every_account_also_those_of_no_customer() {
    let stage = Stage::new().await;
    let mut rng = StdRng::seed_from_u64(11);
    let rows = random_rows(&mut rng, 400);
    stage.seed(&rows).await;
    let mut operator = PgConnection::connect(&stage.url("securebase_operator")).await.unwrap();

    for round in 0..80 {
        let meter = *[Meter::CloudTrailEvents, Meter::GuardDutyFindings].choose(&mut rng).unwrap();
        let (from, to) = random_range(&mut rng);
        let keys = random_keys(&mut rng, &["customer", "account", "region", "category"]);
        let grouping = if keys.is_empty() { Grouping::default() } else { Grouping::parse(&keys.join(",")).unwrap() };
        let query = UsageQuery::new(meter, from, to, grouping).unwrap();
        let owner = *[None, Some("acme"), Some("nobody")].choose(&mut rng).unwrap();
        let scope = match owner {
            Some(id) => UsageScope::Customer(CustomerId::parse(id).unwrap()),
            None => UsageScope::AllAccounts,
        };
        let answer = usage(&mut operator, &query, &scope, Statements::Prepared).await.unwrap();
        assert_eq!(answer.next_cursor, None);
        let expected = recount(&rows, owner, meter, (from, to), &keys);
        assert_eq!(serde_json::to_value(&answer.rows).unwrap(), expected, "round {round}: {query:?} {scope:?}");
    }
}

#[tokio::test]
async fn no_scope_shows_anything_without_a_tenant() {
    let stage = Stage::new().await;
    stage.seed(&random_rows(&mut StdRng::seed_from_u64(3), 50)).await;
    let query = |keys| {
        let (from, to) = (at("2023-12-01T00:00:00Z"), at("2024-12-01T00:00:00Z"));
        UsageQuery::new(Meter::CloudTrailEvents, from, to, Grouping::parse(keys).unwrap()).unwrap()
    };
    let mut app = PgConnection::connect(&stage.url("securebase_app")).await.unwrap();
    for scope in [UsageScope::AllAccounts, UsageScope::Customer(CustomerId::parse("acme").unwrap())] {
        let answer = usage(&mut app, &query("account"), &scope, Statements::Unnamed).await.unwrap();
        assert_eq!(answer.rows, [], "row-level security holds in every scope: {scope:?}");
    }
}

#[tokio::test]
async fn without_from_the_answer_begins_with_the_month_of_its_last_hour() {
    let stage = Stage::new().await;
    let seed =
        |hour: &str, total| UsageSeed { window_start: at(hour).into(), ..one_row(Some("acme"), "000000000001", total) };
    stage
        .seed(&[seed("2026-09-30T23:00:00Z", 5), seed("2026-10-01T00:00:00Z", 7), seed("2026-10-31T23:00:00Z", 11)])
        .await;
    for (to, rows) in [
        ("2026-10-01T00:00:00Z", r#"{"month":"2026-09","account":"000000000001","quantity":"5"}"#),
        ("2026-10-31T23:00:00Z", r#"{"month":"2026-10","account":"000000000001","quantity":"7"}"#),
        ("2026-11-01T00:00:00Z", r#"{"month":"2026-10","account":"000000000001","quantity":"18"}"#),
    ] {
        let question = format!("/v1/usage?meter=cloudtrail_events&to={to}&group_by=month,account");
        let answer = get(stage.address, &question, &stage.key("acme")).await;
        assert_eq!(answer.body, format!(r#"{{"complete_through":null,"rows":[{rows}]}}"#), "{to}");
    }
}

#[tokio::test]
async fn a_bad_parameter_gets_a_problem_that_names_it() {
    let stage = Stage::new().await;
    let key = stage.key("acme");
    let good = "meter=cloudtrail_events";
    for (query, parameter, says) in [
        ("", "meter", "missing"),
        ("meter=", "meter", "unknown meter"),
        ("meter=cloudtrail", "meter", "cloudtrail_events"),
        ("meter=cloudtrail_events&meter=cloudtrail_events", "meter", "more than once"),
        (&format!("{good}&customer=globex"), "customer", "unknown query parameter"),
        (&format!("{good}&Meter=x"), "Meter", "this resource takes meter, from"),
        (&format!("{good}&=x"), "", "unknown query parameter"),
        (&format!("{good}&from=yesterday"), "from", "2026-10-01T00:00:00Z"),
        (&format!("{good}&from="), "from", "an instant"),
        (&format!("{good}&from=2023-07-10T00:00:00+02:00"), "from", "%2B"),
        (&format!("{good}&from=2023-07-10T00:00:01Z&to=2023-07-11T00:00:00Z"), "from", "whole UTC hour"),
        (&format!("{good}&from=2023-07-10T00:00:00Z&to=2023-07-11T00:30:00Z"), "to", "whole UTC hour"),
        (&format!("{good}&from=2023-07-11T00:00:00Z&to=2023-07-11T00:00:00Z"), "to", "after `from`"),
        (&format!("{good}&from=2022-01-01T00:00:00Z&to=2023-07-11T00:00:00Z"), "from", "400 days"),
        (&format!("{good}&from=0001-01-01T00:00:00Z&to=9999-12-31T00:00:00Z"), "from", "400 days"),
        (&format!("{good}&to=99999-12-31T00:00:00Z"), "to", "an instant"),
        (&format!("{good}&group_by="), "group_by", "unknown key"),
        (&format!("{good}&group_by=account,account"), "group_by", "twice"),
        (&format!("{good}&group_by=hour,day"), "group_by", "units of time"),
        (&format!("{good}&group_by=customer"), "group_by", "one customer only"),
        (&format!("{good}&limit=0"), "limit", "from 1 to 10000"),
        (&format!("{good}&limit=10001"), "limit", "from 1 to 10000"),
        (&format!("{good}&limit=-1"), "limit", "from 1 to 10000"),
        (&format!("{good}&limit=1e3"), "limit", "from 1 to 10000"),
        (&format!("{good}&cursor=00"), "cursor", "belongs to no answer"),
        (&format!("{good}&from=%ff"), "from", "an instant"),
        (&format!("{good}&meter%00=x"), "meter\0", "unknown query parameter"),
    ] {
        let answer = get(stage.address, &format!("/v1/usage?{query}"), &key).await;
        let detail = answer.problem(400, "invalid-parameter");
        assert_eq!(answer.json()["parameter"], parameter, "{query}");
        assert!(detail.contains(says), "{query}: {detail}");
    }
    let offset = "from=2023-07-10T02:00:00%2B02:00&to=2023-07-10T03:00:00%2b02:00";
    let answer = get(stage.address, &format!("/v1/usage?{good}&{offset}"), &key).await;
    assert_eq!(answer.status, 200, "whole hours in another zone are whole hours: {answer:?}");
}

#[tokio::test]
async fn a_cursor_serves_its_own_question_only() {
    let stage = Stage::new().await;
    stage.seed(&random_rows(&mut StdRng::seed_from_u64(5), 200)).await;
    let key = stage.key("acme");
    let range = "from=2023-12-01T00:00:00Z&to=2024-05-01T00:00:00Z";
    let question = format!("/v1/usage?meter=cloudtrail_events&{range}&group_by=account,hour&limit=3");
    let first = get(stage.address, &question, &key).await.json();
    let cursor = first["next_cursor"].as_str().unwrap();

    let without_range = format!("/v1/usage?meter=cloudtrail_events&group_by=account,hour&limit=3&cursor={cursor}");
    let with_range = format!("{question}&cursor={cursor}");
    let second = get(stage.address, &with_range, &key).await.json();
    assert_eq!(get(stage.address, &without_range, &key).await.json(), second, "a cursor brings its range");
    assert_ne!(second["rows"], first["rows"]);

    for other in [
        format!("/v1/usage?meter=guardduty_findings&{range}&group_by=account,hour&cursor={cursor}"),
        format!("/v1/usage?meter=cloudtrail_events&{range}&group_by=hour,account&cursor={cursor}"),
        format!("/v1/usage?meter=cloudtrail_events&{range}&cursor={cursor}"),
        format!("/v1/usage?meter=cloudtrail_events&from=2023-12-01T01:00:00Z&group_by=account,hour&cursor={cursor}"),
    ] {
        let detail = get(stage.address, &other, &key).await.problem(400, "invalid-parameter");
        assert!(detail.contains("cursor"), "{other}: {detail}");
    }

    // Another tenant may hold the cursor: it still sees its own rows only.
    let globex = get(stage.address, &with_range, &stage.key("globex")).await.json();
    let globex_alone =
        get(stage.address, &question.replace("limit=3", "limit=10000"), &stage.key("globex")).await.json();
    for row in globex["rows"].as_array().unwrap() {
        assert!(globex_alone["rows"].as_array().unwrap().contains(row));
    }

    // A cursor is the caller's text: whatever it says, it is a value and not SQL.
    let tampered = |json: Value| format!("{question}&cursor={}", hex::encode(json.to_string()));
    let whole: Value = serde_json::from_slice(&hex::decode(cursor).unwrap()).unwrap();
    for (last, status) in [
        (json!(["' or 1=1; drop table usage_rows; --", "2024-01-01T00:00:00Z"]), 200),
        (json!(["\0", "2024-01-01T00:00:00Z"]), 400),
        (json!([null, "2024-01-01T00:00:00Z"]), 400),
        (json!(["000000000001", "now()"]), 400),
        (json!(["000000000001", null]), 400),
        (json!(["000000000001"]), 400),
        (json!([]), 400),
        (json!("x"), 400),
    ] {
        let mut cursor = whole.clone();
        cursor["k"] = last;
        let answer = get(stage.address, &tampered(cursor.clone()), &key).await;
        assert_eq!(answer.status, status, "{cursor}: {answer:?}");
    }
    for (field, value) in [("f", json!(i64::MIN)), ("t", json!(i64::MAX)), ("f", json!(1)), ("g", json!(["u.total"]))] {
        let mut cursor = whole.clone();
        cursor[field] = value;
        let without_range = tampered(cursor.clone()).replace(range, "limit=3").replacen("&limit=3", "", 1);
        get(stage.address, &without_range, &key).await.problem(400, "invalid-parameter");
    }
    assert_eq!(get(stage.address, &question, &key).await.json(), first, "nothing changed");
}

#[tokio::test]
async fn sql_in_any_parameter_is_a_value_or_a_problem() {
    let stage = Stage::new().await;
    let rows = random_rows(&mut StdRng::seed_from_u64(13), 100);
    stage.seed(&rows).await;
    let key = stage.key("acme");
    let question =
        "/v1/usage?meter=cloudtrail_events&from=2023-12-01T00:00:00Z&to=2024-05-01T00:00:00Z&group_by=account";
    let before = get(stage.address, question, &key).await.body;
    for attack in [
        "' or '1'='1",
        "'; drop table usage_rows; --",
        "\"; select set_tenant('globex', ''); --",
        "account) union select customer_id, total::text from usage_rows --",
        "1; select pg_sleep(60)",
        "$1",
        "\\'; --",
        "account\0",
        "${jndi:ldap://x}",
        "../../etc/passwd",
        "\r\nx-injected: 1",
        "㍿\u{202e}",
        "%27%20or%201%3D1",
    ] {
        let text = encoded(attack);
        for parameter in ["meter", "from", "to", "group_by", "limit", "cursor", "customer_id"] {
            let rest = if parameter == "meter" { "" } else { "&meter=cloudtrail_events" };
            let answer = get(stage.address, &format!("/v1/usage?{parameter}={text}{rest}"), &key).await;
            answer.problem(400, "invalid-parameter");
            assert_eq!(answer.json()["parameter"], parameter);
            assert_eq!(answer.header("x-injected"), None);
        }
        let answer = get(stage.address, &format!("/v1/usage?{text}=1&meter=cloudtrail_events"), &key).await;
        answer.problem(400, "invalid-parameter");
    }
    assert_eq!(get(stage.address, question, &key).await.body, before);
}

#[tokio::test]
async fn the_readme_shows_what_the_server_answers() {
    let stage = Stage::new().await;
    let hour = at("2023-07-10T11:00:00Z").into();
    stage.seed(&[UsageSeed { window_start: hour, ..one_row(Some("acme"), "123837392027", 262) }]).await;
    let readme = include_str!("../../README.md");
    let range = "from=2023-07-10T00:00:00Z&to=2023-07-11T00:00:00Z";
    for question in [
        "/v1/health",
        "/v1/ready",
        &format!("/v1/usage?meter=cloudtrail_events&{range}&group_by=account,hour,category"),
        "/v1/usage?meter=cloudtrail_events&group_by=week",
    ] {
        let asked = readme.split(&format!("$URL{question}")).nth(1).unwrap_or_else(|| panic!("{question}"));
        let shown = asked.lines().nth(1).unwrap();
        let answer = get(stage.address, question, &stage.key("acme")).await;
        let mut expected: Value = serde_json::from_str(shown).unwrap();
        if let Some(id) = expected.get_mut("request_id") {
            *id = json!(answer.header("x-request-id"));
        }
        assert_eq!(answer.json(), expected, "{question}");
    }
}
