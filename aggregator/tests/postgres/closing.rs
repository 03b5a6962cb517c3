//! Months closed on real stores: what a cut says, what refuses it, and what comes later.

use std::io::Read as _;

use aggregator::close::{Blocker, Closer, CustomerClose, Outcome, Period, Request, closes_of, evidence_of};
use aggregator::directory::CustomerId;
use aggregator::dynamodb_log::DynamoDbLog;
use aggregator::receipts::{Proof, Proofs, Receipts, Source, SourceClass, Sources};
use aggregator::rollup::RollUp;
use flate2::read::GzDecoder;
use ingest::dead_letter::{DeadLetter, Dismissal};
use ingest::manifest::{Manifest, ObjectVersion};
use ingest::{Dimensions, FactKey, FactValue, Meter, Reason, RunId, Slice, SliceFact, SliceId, Timestamp, UsageFact};
use reference::{Line, Recount, Unit};
use sha2::{Digest, Sha256};
use sqlx::types::Decimal;

use crate::stage::{Stage, account, hour, now};
use crate::tables::{Event, SMALL, Tables, slices};

/// Whole hours since 1970 of 2026-10-01T00.
const OCTOBER: i64 = 497_448;

struct Closing {
    stage: Stage,
    tables: Tables,
    anna: CustomerId,
    berta: CustomerId,
    closer: Closer<DynamoDbLog>,
    runs: u8,
}

impl Closing {
    /// Account 1 is anna's; account 2 goes from anna to berta with the 15th of October.
    async fn set() -> Self {
        let (stage, anna, berta) = Stage::with_customers().await;
        let tables = Tables::set().await;
        let from = |key| hour(key);
        stage.directory.register(account(1), &anna, from("2026-01-01T00"), now()).await.unwrap();
        stage.directory.register(account(2), &anna, from("2026-01-01T00"), now()).await.unwrap();
        stage.directory.register(account(2), &berta, from("2026-10-15T00"), now()).await.unwrap();
        let receipts = Receipts {
            manifests: tables.manifests.clone(),
            acknowledgements: tables.acknowledgements.clone(),
            rows: stage.rows.clone(),
        };
        let closer = Closer {
            log: tables.log.clone(),
            pool: stage.pool.clone(),
            receipts,
            dead_letters: tables.dead_letters.clone(),
        };
        Self { stage, tables, anna, berta, closer, runs: 0 }
    }

    /// Reads an object of these events: counted, rolled up, with its manifest.
    async fn read(&mut self, events: &[Event]) {
        self.send(events).await;
        self.stage.roll_up(&self.tables).await;
    }

    /// Reads an object, counted and not rolled up.
    async fn send(&mut self, events: &[Event]) {
        let slices = self.put_manifest(events).await;
        let outcome = self.tables.aggregator(1 << 20, SMALL).run(slices, now()).await;
        assert!(outcome.failure.is_none(), "{outcome:?}");
    }

    /// What is left of a reading whose slices nobody has counted.
    async fn put_manifest(&mut self, events: &[Event]) -> Vec<ingest::Slice> {
        self.runs += 1;
        let slices = slices(self.runs, events);
        let times = events.iter().map(|event| ingest::Hour::from_number(event.hour).unwrap().start());
        let manifest = Manifest {
            run: RunId::from_bytes([self.runs; 16]),
            object: ObjectVersion { name: format!("s3://trail/log-{}.json.gz", self.runs), sha256: [self.runs; 32] },
            stored_bytes: 1,
            read: events.len() as u64,
            not_counted: [].into(),
            dead_letters: [].into(),
            beside_dead_letters: [].into(),
            beside_slices: [].into(),
            content_sha256: Some([self.runs; 32]),
            event_times: times.clone().min().zip(times.max()),
            slices: u32::try_from(slices.len()).unwrap(),
            started_at: now(),
        };
        self.tables.manifests.put(&[manifest]).await.unwrap();
        slices
    }

    fn request(&self) -> Request {
        Request {
            period: Period::parse("2026-10").unwrap(),
            customers: None,
            actor: "operator".to_owned(),
            override_because: None,
            is_dry_run: false,
        }
    }

    /// Closes October for everybody: anna's and berta's.
    async fn close(&self) -> [CustomerClose; 2] {
        self.closer.close(&self.request(), now()).await.unwrap().try_into().unwrap()
    }

    async fn override_with(&self, because: &str) -> [CustomerClose; 2] {
        let request = Request { override_because: Some(because.to_owned()), ..self.request() };
        self.closer.close(&request, now()).await.unwrap().try_into().unwrap()
    }

    /// The last cut's evidence, line by line.
    async fn evidence(&self, customer: &CustomerId) -> Vec<serde_json::Value> {
        let closes = closes_of(&self.stage.pool, customer, self.request().period).await.unwrap();
        let close = closes.last().unwrap();
        let stored = evidence_of(&self.stage.pool, close.close_id).await.unwrap().unwrap();
        let mut document = String::new();
        GzDecoder::new(stored.as_slice()).read_to_string(&mut document).unwrap();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&document)), close.evidence_sha256);
        document.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn closed_total(&self, customer: &CustomerId, cut: i32) -> u64 {
        let total: Decimal = sqlx::query_scalar(
            "select coalesce(sum(total), 0) from closed_totals join closes using (close_id, customer_id)
            where customer_id = $1 and cut = $2",
        )
        .bind(customer.as_str())
        .bind(cut)
        .fetch_one(&self.stage.pool)
        .await
        .unwrap();
        total.try_into().unwrap()
    }
}

/// Events of two accounts spread over hours around October, most of them twice among the runs.
fn events(run: u32) -> Vec<Event> {
    let event = |n: u32| {
        let scattered = (n + run * 7_919).wrapping_mul(2_654_435_761) >> 8;
        let identity = scattered % 200;
        let day = i64::from(identity % 34) - 1;
        Event {
            account: 1 + u64::from(identity % 2),
            hour: OCTOBER + day * 24 + i64::from(identity % 3),
            region: scattered % 2,
            identity,
        }
    };
    (0..150).map(event).collect()
}

fn unit(event: &Event) -> Unit {
    let mut identity = [0; 16];
    identity[..4].copy_from_slice(&event.identity.to_be_bytes());
    Unit {
        meter: Meter::CloudTrailEvents.to_string(),
        account: account(event.account).to_string(),
        hour: ingest::Hour::from_number(event.hour).unwrap().to_string(),
        identity,
        region: format!("region-{}", event.region),
        category: "Management".to_owned(),
    }
}

/// The naive recount's lines of October that are anna's (or berta's), as evidence writes them.
fn expected(recount: &Recount, is_annas: bool) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    for (line, total) in recount.totals() {
        let Line { meter, account: of, hour } = &line;
        let is_october = hour.starts_with("2026-10");
        let is_hers = of.ends_with('1') || hour.as_str() < "2026-10-15T00";
        if is_october && is_hers == is_annas {
            lines.push(serde_json::json!({
                "is": "line", "account": of, "meter": meter, "window": hour, "total": total.to_string(),
                "sha256": hex::encode(recount.identities_sha256(&line)),
            }));
        }
    }
    lines
}

fn only<'a>(evidence: &'a [serde_json::Value], kind: &str) -> Vec<&'a serde_json::Value> {
    evidence.iter().filter(|line| line["is"] == kind).collect()
}

#[track_caller]
fn assert_closed(close: &CustomerClose, cut: i32) {
    assert!(matches!(&close.outcome, Outcome::Closed { cut: made, .. } if *made == cut), "{close:?}");
    assert_eq!(close.blockers, []);
}

#[tokio::test]
async fn a_cut_is_the_naive_recount_and_late_usage_is_in_the_next() {
    let mut closing = Closing::set().await;
    let (anna, berta) = (closing.anna.clone(), closing.berta.clone());
    let mut recount = Recount::default();
    for run in 0..4 {
        closing.read(&events(run)).await;
        for event in events(run) {
            recount.add(unit(&event));
        }
    }
    let [annas, bertas] = closing.close().await;
    assert_closed(&annas, 1);
    assert_closed(&bertas, 1);
    assert_eq!(annas.class, SourceClass::BestEffort);
    for (customer, is_annas) in [(&anna, true), (&berta, false)] {
        let evidence = closing.evidence(customer).await;
        let lines = expected(&recount, is_annas);
        assert_eq!(only(&evidence, "line"), lines.iter().collect::<Vec<_>>(), "{customer}");
        let total: u64 = lines.iter().map(|line| line["total"].as_str().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(closing.closed_total(customer, 1).await, total);
        assert!(10 < total, "or the test says little: {total}");
    }
    let evidence = closing.evidence(&berta).await;
    assert_eq!(evidence[0]["customer"], "berta");
    assert_eq!(only(&evidence, "owned").len(), 1);
    assert_eq!(only(&evidence, "owned")[0]["from"], "2026-10-15T00:00:00Z");
    assert_eq!(only(&evidence, "object").len(), 4, "every object counted something");
    assert_eq!(only(&evidence, "source")[0]["class"], "best effort");
    let end = evidence.last().unwrap();
    assert_eq!(
        (end["is"].as_str().unwrap(), end["lines"].as_u64().unwrap()),
        ("end", only(&evidence, "line").len() as u64)
    );

    // Again: the same cut stands, also after the same logs were read again.
    closing.read(&events(2)).await;
    for close in closing.close().await {
        assert!(matches!(close.outcome, Outcome::Unchanged { cut: 1, .. }), "{close:?}");
    }
    // Late usage of account 1 makes anna's second cut; berta's first stands.
    let late = Event { account: 1, hour: OCTOBER + 5, region: 0, identity: 9_999 };
    closing.read(&[late]).await;
    recount.add(unit(&late));
    let [annas, bertas] = closing.close().await;
    assert_closed(&annas, 2);
    assert!(matches!(bertas.outcome, Outcome::Unchanged { cut: 1, .. }), "{bertas:?}");
    assert_eq!(closing.closed_total(&anna, 2).await, closing.closed_total(&anna, 1).await + 1);
    let lines = expected(&recount, true);
    assert_eq!(only(&closing.evidence(&anna).await, "line"), lines.iter().collect::<Vec<_>>());
    // An account that was anna's all along moves hours from berta, when the directory is put right.
    let moved = closing.stage.directory.register(account(1), &berta, hour("2026-10-20T00"), now()).await;
    moved.unwrap();
    let [annas, bertas] = closing.close().await;
    assert_closed(&annas, 3);
    assert_closed(&bertas, 2);
    let (a, b) = (closing.closed_total(&anna, 3).await, closing.closed_total(&berta, 2).await);
    assert_eq!(a + b, closing.closed_total(&anna, 2).await + closing.closed_total(&berta, 1).await);
    assert_eq!(closing.stage.audited("close.made").await.len(), 5);
}

#[tokio::test]
async fn what_is_missing_refuses_the_close_and_is_named() {
    let mut closing = Closing::set().await;
    closing.read(&events(0)).await;
    let refused = |closes: &[CustomerClose; 2]| -> Vec<String> {
        assert!(closes.iter().all(|close| (close.outcome == Outcome::Refused) != close.blockers.is_empty()));
        closes.iter().flat_map(|close| &close.blockers).map(ToString::to_string).collect()
    };
    // A dead letter of account 1 is anna's alone; one that says nothing is anybody's.
    let letter = |object: &str, bytes: &[u8]| DeadLetter {
        object: object.to_owned(),
        offset: 7,
        number: 0,
        reason: Reason::DimensionMalformed,
        bytes: bytes.to_vec(),
        is_whole: true,
        seen_at: now(),
        resolved_at: None,
    };
    let of_anna = letter("log", br#"{"recipientAccountId":"000000000001","eventTime":"2026-10-31T23:59:59Z"}"#);
    let later = letter("log", br#"{"recipientAccountId":"000000000001","eventTime":"2026-11-01T00:00:00Z"}"#);
    let anybodys = letter("log", b"{");
    let letters = &closing.tables.dead_letters;
    letters.put(&[of_anna.clone(), later, anybodys.clone()]).await.unwrap();
    let said = refused(&closing.close().await);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said.iter().all(|line| line.contains("dimension_malformed) of log is open")), "{said:?}");
    let dismissal = Dismissal { by: "eve".into(), because: "a test".into() };
    letters.dismiss(&anybodys.id(), &dismissal, now()).await.unwrap();
    let closes = closing.close().await;
    assert_eq!(refused(&closes), [format!("dead letter {} (dimension_malformed) of log is open", of_anna.id())]);
    assert_closed(&closes[1], 1);
    letters.resolve(&of_anna.id(), now()).await.unwrap();

    // Counted and not rolled up.
    let late = Event { account: 1, hour: OCTOBER + 5, region: 0, identity: 9_999 };
    closing.send(&[late]).await;
    let said = refused(&closing.close().await);
    assert!(said.iter().any(|line| line.contains("is counted up to entry")), "{said:?}");
    assert!(said.iter().any(|line| line.contains("log-2.json.gz was read and is not counted")), "{said:?}");
    closing.stage.roll_up(&closing.tables).await;
    let closes = closing.close().await;
    assert_closed(&closes[0], 1);

    // Read and not counted: an outage of the counting is no idle month.
    let waiting = closing.put_manifest(&[Event { identity: 8_888, ..late }]).await;
    assert_eq!(refused(&closing.close().await), ["s3://trail/log-3.json.gz was read and is not counted"; 2]);
    let november = Event { hour: OCTOBER + 31 * 24, ..late };
    closing.put_manifest(&[november]).await;
    assert!(closing.tables.aggregator(1 << 20, SMALL).run(waiting, now()).await.failure.is_none());
    closing.stage.roll_up(&closing.tables).await;
    assert_closed(&closing.close().await[0], 2);

    // A usage row that is not what the logs say.
    sqlx::query("update usage_rows set total = total + 1 where account_id = '000000000001' and window_start = $1")
        .bind(sqlx::types::chrono::DateTime::<sqlx::types::chrono::Utc>::from(
            ingest::Hour::from_number(OCTOBER + 5).unwrap().start(),
        ))
        .execute(&closing.stage.pool)
        .await
        .unwrap();
    let said = refused(&closing.close().await);
    assert_eq!(
        said,
        ["000000000001 cloudtrail_events 2026-10-01T05 region-0 Management: the logs say 2, the usage row 3"]
    );
    let closes = closing.override_with("the row is wrong, the logs are right").await;
    assert!(matches!(closes[0].outcome, Outcome::Unchanged { .. } | Outcome::Closed { cut: 3, .. }), "{closes:?}");
    let stored = closes_of(&closing.stage.pool, &closing.anna, closing.request().period).await.unwrap();
    let overridden = stored[2].overridden.as_ref().unwrap();
    assert_eq!((overridden.by.as_str(), overridden.because.len()), ("operator", 36));
    assert_eq!(closing.closed_total(&closing.anna, 3).await, closing.closed_total(&closing.anna, 2).await);
    assert_eq!(closing.stage.audited("close.overridden").await, ["2026-10 cut 3 best effort"]);
    assert_eq!(closing.evidence(&closing.anna).await[0]["override_reason"], overridden.because);
}

#[tokio::test]
async fn a_proven_source_closes_as_proven_once_nothing_is_missing() {
    let mut closing = Closing::set().await;
    let sources = Sources::new(closing.stage.pool.clone());
    let source = Source {
        customer: closing.berta.clone(),
        meter: Meter::CloudTrailEvents,
        kind: "cloudtrail_digests".into(),
        class: SourceClass::Proven,
        lateness_seconds: 3_600,
        since: hour("2026-10-01T00"),
        trail: None,
        lanes: Vec::new(),
    };
    sources.declare(&source, "operator", now()).await.unwrap();
    closing.read(&[Event { account: 2, hour: OCTOBER + 20 * 24, region: 0, identity: 1 }]).await;
    let [annas, bertas] = closing.close().await;
    assert_closed(&annas, 1);
    assert_eq!((bertas.outcome, bertas.class), (Outcome::Refused, SourceClass::Proven));
    let blocker = Blocker::SourceIncomplete {
        meter: Meter::CloudTrailEvents,
        account: account(2),
        waits_for: "account 000000000002: no proof of any kind".into(),
    };
    assert_eq!(bertas.blockers, [blocker]);

    // From the 15th, when berta has the account, to an hour behind the end of the month.
    let at = |key: &str| hour(key).start();
    let proof = |from: Timestamp, until: Timestamp| Proof {
        meter: Meter::CloudTrailEvents,
        account: account(2),
        lane: "eu-west-1/trail".into(),
        name: format!("digest-{from}"),
        content_sha256: [1; 32],
        covers: (from, until),
        is_backfill: false,
        previous: None,
        is_signature_checked: false,
        objects: Vec::new(),
        usage: Vec::new(),
    };
    let proofs = Proofs::new(closing.stage.pool.clone());
    let upto = |key| [proof(at("2026-10-14T00"), at("2026-10-31T12")), proof(at("2026-10-31T12"), at(key))];
    proofs.record(&upto("2026-11-01T01")[..1], now()).await.unwrap();
    let said = closing.close().await[1].blockers[0].to_string();
    assert!(said.contains("nothing proven after 2026-10-31T12:00:00Z"), "{said}");
    proofs.record(&upto("2026-11-01T01"), now()).await.unwrap();
    let [_, bertas] = closing.close().await;
    assert_closed(&bertas, 1);
    assert_eq!(bertas.class, SourceClass::Proven);
    let evidence = closing.evidence(&closing.berta).await;
    assert_eq!(
        (&evidence[0]["source_class"], &only(&evidence, "source")[0]["is_complete"]),
        (&"proven".into(), &true.into())
    );
    // A promise that begins within the period is none for all of it.
    let later = Source { since: hour("2026-10-20T00"), ..source };
    sources.declare(&later, "operator", now()).await.unwrap();
    assert_eq!(closing.close().await[1].class, SourceClass::BestEffort);
}

#[tokio::test]
async fn a_log_that_cannot_be_trusted_is_closed_by_nobodys_word_and_a_running_month_by_none() {
    let mut closing = Closing::set().await;
    closing.read(&events(0)).await;
    let log = aggregator::partition::Partition::parse(&format!("{:02}/2026-10-01T05", account(1).bucket().number()));
    sqlx::query("insert into rollup_cursors values ($1, 7, now())")
        .bind(log.unwrap().to_string())
        .execute(&closing.stage.pool)
        .await
        .unwrap();
    let [annas, _] = closing.override_with("I know better").await;
    assert_eq!(annas.outcome, Outcome::Refused);
    assert!(annas.blockers.iter().any(|blocker| matches!(blocker, Blocker::Untrusted(_))), "{annas:?}");

    let running = Request { period: Period::parse("2026-11").unwrap(), ..closing.request() };
    let refused = closing.closer.close(&running, now()).await.unwrap_err();
    assert_eq!(refused.to_string(), "2026-11 is not over");
    let unknown = Request { customers: Some(vec![CustomerId::parse("nobody").unwrap()]), ..closing.request() };
    assert!(closing.closer.close(&unknown, now()).await.unwrap_err().to_string().contains("customer nobody does not"));
    let idle = Request { override_because: Some(" ".into()), ..closing.request() };
    assert!(closing.closer.close(&idle, now()).await.unwrap_err().to_string().contains("needs a reason"));
    let looking = Request { is_dry_run: true, customers: Some(vec![closing.berta.clone()]), ..closing.request() };
    let looked = closing.closer.close(&looking, now()).await.unwrap();
    assert_eq!(looked[0].outcome, if looked[0].blockers.is_empty() { Outcome::WouldClose } else { Outcome::Refused });
    let closes = closes_of(&closing.stage.pool, &closing.berta, closing.request().period).await.unwrap();
    assert_eq!(closes.len(), 1, "looking adds nothing");
}

/// A fact of account 1.
fn fact(meter: Meter, time: &str, revision: u64, value: FactValue) -> UsageFact<'static> {
    let time = Timestamp::parse_rfc3339(time).unwrap();
    let none = || Dimensions::NONE.into();
    UsageFact {
        key: FactKey { meter, account: account(1), resource: "arn:aws:s3:::logs".into(), time, export: None },
        revision,
        dimensions: Dimensions { region: none(), category: none() },
        end: None,
        value,
    }
}

impl Closing {
    /// Reads facts: one slice a day, counted and rolled up.
    async fn state(&mut self, facts: &[UsageFact<'static>]) {
        self.put_manifest(&[]).await;
        let mut aggregator = self.tables.aggregator(1 << 20, SMALL);
        for (number, fact) in (0..).zip(facts) {
            let id = SliceId { run: RunId::from_bytes([self.runs; 16]), number };
            let slice = Slice::of_facts(
                id,
                account(1).bucket(),
                fact.day(),
                vec![SliceFact { fact: fact.clone(), is_primary: true }],
            );
            assert!(aggregator.run(vec![slice], now()).await.failure.is_none());
        }
        self.stage.roll_up(&self.tables).await;
        RollUp::new(self.tables.log.clone(), self.stage.rows.clone()).go_on(now()).await.unwrap();
    }
}

#[tokio::test]
async fn facts_are_closed_with_what_was_stated_before_the_month_and_restated_after_it() {
    let mut closing = Closing::set().await;
    let level = |number: &str| FactValue::Level(number.parse().unwrap());
    let amount = |number: &str| FactValue::Amount(number.parse().unwrap());
    closing
        .state(&[
            fact(Meter::Accounts, "2026-09-10T00:00:00Z", 0, FactValue::Live),
            fact(Meter::LogStorageGb, "2026-09-30T12:00:00Z", 0, level("100")),
            fact(Meter::LogStorageGb, "2026-10-01T12:00:00Z", 0, level("200.5")),
            fact(Meter::LogStorageGb, "2026-10-02T12:00:00Z", 0, level("0")),
            fact(Meter::NatGatewayBytes, "2026-10-05T03:00:00Z", 0, amount("7")),
            fact(Meter::NatGatewayBytes, "2026-11-01T00:00:00Z", 0, amount("9")),
        ])
        .await;
    closing.read(&[Event { account: 1, hour: OCTOBER + 5, region: 0, identity: 1 }]).await;
    let total = async |closing: &Closing, cut: i32, meter: Meter| -> Decimal {
        sqlx::query_scalar(
            "select coalesce(sum(total), 0) from closed_totals join closes using (close_id, customer_id)
            where customer_id = 'anna' and cut = $1 and meter = $2",
        )
        .bind(cut)
        .bind(meter.as_str())
        .fetch_one(&closing.stage.pool)
        .await
        .unwrap()
    };
    assert_closed(&closing.close().await[0], 1);
    for (meter, expected) in [
        (Meter::Accounts, "2678400"),
        (Meter::LogStorageGb, "21643200"),
        (Meter::NatGatewayBytes, "7"),
        (Meter::CloudTrailEvents, "1"),
    ] {
        assert_eq!(total(&closing, 1, meter).await.normalize(), expected.parse().unwrap(), "{meter}");
    }
    let first = closing.evidence(&closing.anna).await;
    // A late correction of the middle sample, and a copy of another.
    closing
        .state(&[
            fact(Meter::LogStorageGb, "2026-10-01T12:00:00Z", 1, level("300")),
            fact(Meter::NatGatewayBytes, "2026-10-05T03:00:00Z", 0, amount("7")),
        ])
        .await;
    assert_closed(&closing.close().await[0], 2);
    assert_eq!(total(&closing, 2, Meter::LogStorageGb).await.normalize(), "30240000".parse().unwrap());
    let second = closing.evidence(&closing.anna).await;
    let lines = |evidence: &[serde_json::Value], window: &str, meter: Meter| -> Vec<serde_json::Value> {
        let wanted = |line: &&serde_json::Value| line["window"] == window && line["meter"] == meter.as_str();
        evidence.iter().filter(wanted).cloned().collect()
    };
    for (window, meter, is_same) in [
        ("2026-10-01T11", Meter::LogStorageGb, true),
        ("2026-10-01T12", Meter::LogStorageGb, false),
        ("2026-10-02T11", Meter::LogStorageGb, false),
        ("2026-10-31T23", Meter::Accounts, true),
        ("2026-10-05T03", Meter::NatGatewayBytes, true),
    ] {
        let (before, after) = (lines(&first, window, meter), lines(&second, window, meter));
        assert_eq!((before.len(), before == after), (1, is_same), "{window} {meter}: {before:?} {after:?}");
    }
    assert_eq!(lines(&second, "2026-10-01T12", Meter::LogStorageGb)[0]["total"], "1080000");
    // Nobody has rolled up what goes on without a word: the last hours of the month are missing.
    sqlx::query("update fact_buckets set through = '2026-10-30'").execute(&closing.stage.pool).await.unwrap();
    sqlx::query("delete from usage_rows where meter = 'accounts' and window_start >= '2026-10-30'")
        .execute(&closing.stage.pool)
        .await
        .unwrap();
    let [annas, _] = closing.close().await;
    assert_eq!((annas.outcome, annas.blockers.len()), (Outcome::Refused, 21), "twenty are named");
}
