//! What there should be, and through which hour it is there: digests and lists on real stores.

use aggregator::directory::CustomerId;
use aggregator::receipts::{
    Completeness, ExpectedObject, ExpectedUsage, Previous, Proof, Proofs, Receipts, RecordError, Refreshed, Source,
    SourceClass, SourceReport, Sources, import_digests,
};
use ingest::digest::{Digest, LogObject, ObjectName, PreviousDigest, PublicKeys, SeenDigest, Stretch, TrailSource};
use ingest::manifest::{Manifest, ObjectVersion};
use ingest::{Hour, Identity, Meter, RunId, Timestamp};
use sqlx::types::chrono::{DateTime, Utc};

use crate::stage::{Stage, account, hour, now};
use crate::tables::{Event, SMALL, Tables, slices};

/// The first hour of these tests.
const FROM: &str = "2026-10-24T00";

fn from() -> Hour {
    hour(FROM)
}

fn at(hours: i64) -> Timestamp {
    from().start().saturating_add_secs(hours * 3_600)
}

fn content(name: &str) -> [u8; 32] {
    let mut hash = [7; 32];
    hash[..name.len().min(32)].copy_from_slice(&name.as_bytes()[..name.len().min(32)]);
    hash
}

fn digest_name(number: i64) -> String {
    format!("s3://trail/AWSLogs/digest-{number}.json.gz")
}

fn log_name(number: i64) -> String {
    format!("s3://trail/AWSLogs/log-{number}.json.gz")
}

/// The digest of the hour so many hours after the first; it names one log of that hour.
fn digest(number: i64) -> Proof {
    let previous = || Previous { name: digest_name(number - 1), content_sha256: content(&digest_name(number - 1)) };
    Proof {
        meter: Meter::CloudTrailEvents,
        account: account(1),
        lane: "eu-west-1/trail".into(),
        name: digest_name(number),
        content_sha256: content(&digest_name(number)),
        covers: (at(number), at(number + 1)),
        is_backfill: false,
        previous: (0 < number).then(previous),
        is_signature_checked: true,
        objects: vec![log(number)],
        usage: Vec::new(),
    }
}

fn log(number: i64) -> ExpectedObject {
    let name = log_name(number);
    ExpectedObject { content_sha256: content(&name), event_times: Some((at(number), at(number + 1))), name }
}

struct Receiving {
    stage: Stage,
    tables: Tables,
    customer: CustomerId,
    proofs: Proofs,
    receipts: Receipts,
}

impl Receiving {
    async fn set(class: SourceClass) -> Self {
        let stage = Stage::set().await;
        let tables = Tables::set().await;
        let customer = stage.customer("anna").await;
        stage.directory.register(account(1), &customer, from(), now()).await.unwrap();
        let receipts = Receipts {
            manifests: tables.manifests.clone(),
            acknowledgements: tables.acknowledgements.clone(),
            rows: stage.rows.clone(),
        };
        let proofs = Proofs::new(stage.pool.clone());
        let receiving = Self { stage, tables, customer, proofs, receipts };
        receiving.declare(class).await;
        receiving
    }

    fn source(&self, class: SourceClass) -> Source {
        Source {
            customer: self.customer.clone(),
            meter: Meter::CloudTrailEvents,
            kind: "cloudtrail_digests".into(),
            class,
            lateness_seconds: 900,
            since: from(),
            trail: None,
            lanes: Vec::new(),
        }
    }

    async fn declare(&self, class: SourceClass) -> bool {
        let sources = Sources::new(self.stage.pool.clone());
        sources.declare(&self.source(class), "operator", now()).await.unwrap()
    }

    /// Reads a log of one event of its hour: on the stream and in its manifest, and counted if it is.
    async fn read(&self, number: i64, is_counted: bool) {
        let event = Event { account: 1, hour: from().number() + number, region: 0, identity: 7 };
        let run = u8::try_from(number + 1).unwrap();
        let slices = slices(run, &[event]);
        let manifest = Manifest {
            run: RunId::from_bytes([run; 16]),
            // A copy of the object, read elsewhere.
            object: ObjectVersion { name: log_name(number).replace("s3://trail", "/logs"), sha256: [9; 32] },
            stored_bytes: 1,
            read: 1,
            not_counted: [].into(),
            dead_letters: [].into(),
            content_sha256: Some(content(&log_name(number))),
            event_times: Some((at(number), at(number))),
            beside_dead_letters: [].into(),
            beside_slices: [].into(),
            slices: u32::try_from(slices.len()).unwrap(),
            started_at: now(),
        };
        self.tables.manifests.put(&[manifest]).await.unwrap();
        if is_counted {
            let outcome = self.tables.aggregator(1 << 20, SMALL).run(slices, now()).await;
            assert!(outcome.failure.is_none(), "{outcome:?}");
        }
    }

    async fn roll_up(&self) {
        self.stage.roll_up(&self.tables).await;
    }

    async fn refresh(&self) -> (Refreshed, SourceReport) {
        let refreshed = self.proofs.refresh(&self.receipts, &self.tables.log, now()).await.unwrap();
        let mut reports = Completeness::new(self.stage.pool.clone()).refresh(now()).await.unwrap();
        assert_eq!(reports.len(), 1);
        (refreshed, reports.remove(0))
    }

    /// Checks the last complete hour, as so many hours after the first, as the API reads it.
    async fn check(&self, last: Option<i64>, waits_for: &str) {
        self.refresh().await;
        let (through, waits): (Option<DateTime<Utc>>, String) =
            sqlx::query_as("select complete_through, waits_for from completeness where customer_id = 'anna'")
                .fetch_one(&self.stage.pool)
                .await
                .unwrap();
        assert_eq!(through.map(Timestamp::from), last.map(at), "{waits}");
        assert!(waits.contains(waits_for), "{waits}");
    }
}

#[tokio::test]
async fn an_hour_is_complete_once_every_log_of_its_digests_is_counted_and_rolled_up() {
    let receiving = Receiving::set(SourceClass::Proven).await;
    receiving.check(None, "no proof of any kind").await;

    // In any order, twice, and one of them missing.
    let record = async |numbers: &[i64]| {
        let proofs: Vec<Proof> = numbers.iter().map(|number| digest(*number)).collect();
        receiving.proofs.record(&proofs, now()).await.unwrap()
    };
    assert_eq!(record(&[4, 0, 1]).await, 3);
    assert_eq!(record(&[1, 2, 4]).await, 1);
    receiving.check(None, "log-0.json.gz is not counted").await;
    for number in [0, 1, 2, 4] {
        receiving.read(number, number != 2).await;
    }
    receiving.check(None, "log-0.json.gz is not counted").await;
    receiving.roll_up().await;
    // Log 2 was read and not counted. An event may be delivered a quarter of an hour late, so hour 1 waits for it.
    receiving.check(Some(0), "log-2.json.gz is not counted").await;
    receiving.read(2, true).await;
    receiving.roll_up().await;
    let (refreshed, report) = receiving.refresh().await;
    assert_eq!(refreshed, Refreshed { done: 1, waiting: 0 });
    // What is proven ends with hour 2, and hour 2 itself wants a quarter of an hour more.
    receiving.check(Some(1), "nothing proven after 2026-10-24T03:00:00Z").await;
    assert_eq!(report.accounts[0].lanes[0].gaps, [(at(3), at(4))], "an hour without a digest is missing, not idle");

    assert_eq!(record(&[3]).await, 1);
    receiving.check(Some(1), "log-3.json.gz is not counted").await;
    receiving.read(3, true).await;
    receiving.roll_up().await;
    receiving.check(Some(3), "nothing proven after 2026-10-24T05:00:00Z").await;

    let period = (at(1), at(4));
    let completeness = Completeness::new(receiving.stage.pool.clone());
    let of_period = completeness.of_period(&receiving.customer, period, now()).await.unwrap().remove(0);
    let lane = &of_period.accounts[0].lanes[0];
    assert_eq!((lane.expected, lane.done, &lane.gaps), (4, 4, &vec![]), "hours 1 to 3, and a quarter of hour 4");
    assert_eq!((of_period.through.until, of_period.accounts[0].through.until), (Some(now().hour().start()), None));
}

#[tokio::test]
async fn a_backfill_adds_what_was_late_and_takes_back_what_was_called_complete() {
    let receiving = Receiving::set(SourceClass::Proven).await;
    let proofs: Vec<Proof> = (0..4).map(digest).collect();
    receiving.proofs.record(&proofs, now()).await.unwrap();
    for number in 0..4 {
        receiving.read(number, true).await;
    }
    receiving.roll_up().await;
    receiving.check(Some(2), "nothing proven after").await;
    let late = Proof {
        name: "s3://trail/AWSLogs/digest-1_backfill.json.gz".into(),
        is_backfill: true,
        objects: vec![ExpectedObject { event_times: Some((at(1), at(2))), ..log(9) }],
        ..digest(1)
    };
    receiving.proofs.record(&[late], now()).await.unwrap();
    receiving.check(None, "log-9.json.gz is not counted").await;
    receiving.read(9, true).await;
    receiving.roll_up().await;
    receiving.check(Some(2), "nothing proven after").await;
}

#[tokio::test]
async fn a_chain_that_was_tampered_with_ends_where_it_breaks() {
    let receiving = Receiving::set(SourceClass::Proven).await;
    let mut proofs: Vec<Proof> = (0..6).map(|number| Proof { objects: Vec::new(), ..digest(number) }).collect();
    // Somebody replaced digest 3 by another without its log.
    proofs[3].content_sha256 = [1; 32];
    receiving.proofs.record(&proofs[4..], now()).await.unwrap();
    receiving.proofs.record(&proofs[..4], now()).await.unwrap();
    receiving.check(Some(2), "the chain is broken at 2026-10-24T04:00:00Z").await;
    // A second digest under the same name: nothing tells which of the two was delivered.
    let second = Proof { content_sha256: [2; 32], ..proofs[1].clone() };
    for _ in 0..2 {
        assert_eq!(receiving.proofs.record(std::slice::from_ref(&second), now()).await.unwrap(), 0);
    }
    receiving.check(None, "the chain is broken at 2026-10-24T01:00:00Z").await;
    let backwards = Proof { covers: (at(1), at(1)), ..digest(9) };
    let refused = receiving.proofs.record(&[digest(8), backwards], now()).await.unwrap_err();
    assert!(matches!(refused, RecordError::Malformed { .. }), "{refused}");
    receiving.proofs.record(&[digest(8)], now()).await.unwrap();
}

#[tokio::test]
async fn digests_that_ingest_keeps_become_proofs_whatever_order_they_are_read_in() {
    let receiving = Receiving::set(SourceClass::Proven).await;
    let kept = ingest::expectations::Expectations::new(receiving.tables.client(), "expectations".into(), || 0);
    kept.ensure_table().await.unwrap();
    let name = |number: i64, what: &str| ObjectName {
        bucket: "trail".into(),
        key: format!("AWSLogs/{what}-{number}.json.gz"),
    };
    let seen = |number: i64| {
        let previous = (0 < number).then(|| PreviousDigest {
            object: name(number - 1, "digest"),
            sha256: content(&digest_name(number - 1)),
            signature: String::new(),
        });
        SeenDigest {
            digest: Digest {
                source: TrailSource { account: account(1), region: "eu-west-1".into(), trail: "trail".into() },
                start: at(number),
                end: at(number + 1),
                end_as_written: at(number + 1).to_string(),
                is_backfill: false,
                object: name(number, "digest"),
                previous,
                key_fingerprint: String::new(),
                log_objects: vec![LogObject { object: name(number, "log"), sha256: content(&log_name(number)) }],
            },
            content_sha256: content(&digest_name(number)),
            signature: None,
            seen_at: now(),
        }
    };
    let import = async || {
        let everything = Stretch { start: at(-24), end: at(24) };
        let keys = PublicKeys::default();
        import_digests(&kept, &receiving.proofs, &keys, everything, now()).await.unwrap()
    };
    kept.put(&[seen(2), seen(0)]).await.unwrap();
    assert_eq!(import().await, 2);
    kept.put(&[seen(1), seen(0)]).await.unwrap();
    assert_eq!((import().await, import().await), (1, 0));
    for number in 0..3 {
        receiving.read(number, true).await;
    }
    receiving.roll_up().await;
    receiving.check(Some(1), "eu-west-1/trail: nothing proven after 2026-10-24T03:00:00Z").await;
    // Another's trail in the same bucket, when only one is asked for.
    let sources = Sources::new(receiving.stage.pool.clone());
    for (trail, last) in [(Some("trail"), Some(1)), (Some("other"), None)] {
        let source = Source { trail: trail.map(str::to_owned), ..receiving.source(SourceClass::Proven) };
        sources.declare(&source, "operator", now()).await.unwrap();
        receiving.check(last, "").await;
    }
}

#[tokio::test]
async fn a_list_is_reconciled_once_every_unit_of_it_is_counted() {
    let receiving = Receiving::set(SourceClass::Reconciled).await;
    let mut identity = [0; 16];
    identity[..4].copy_from_slice(&7_u32.to_be_bytes());
    let unit = |number| ExpectedUsage {
        hour: Hour::from_number(from().number() + number).unwrap(),
        identity: Identity::from_bytes(identity),
    };
    let list = Proof {
        name: "list-2026-10-24T04".into(),
        covers: (at(0), at(4)),
        previous: None,
        objects: Vec::new(),
        usage: vec![unit(1), unit(2)],
        ..digest(0)
    };
    receiving.proofs.record(&[list], now()).await.unwrap();
    receiving.read(2, true).await;
    receiving.check(Some(0), "usage that list-2026-10-24T04 lists is not counted").await;
    receiving.roll_up().await;
    receiving.check(Some(0), "usage that list-2026-10-24T04 lists is not counted").await;
    assert_eq!(receiving.refresh().await.0, Refreshed { done: 0, waiting: 1 });
    receiving.read(1, true).await;
    receiving.roll_up().await;
    receiving.check(Some(2), "nothing proven after").await;
}

#[tokio::test]
async fn a_source_that_promises_nothing_is_never_complete_and_a_declaration_is_audited_once() {
    let receiving = Receiving::set(SourceClass::BestEffort).await;
    receiving.proofs.record(&[Proof { objects: Vec::new(), ..digest(0) }], now()).await.unwrap();
    receiving.check(None, "the source proves nothing").await;
    assert!(!receiving.declare(SourceClass::BestEffort).await);
    assert!(receiving.declare(SourceClass::Proven).await);
    receiving.check(None, "nothing proven after 2026-10-24T01:00:00Z").await;
    let sources = Sources::new(receiving.stage.pool.clone());
    let listed = sources.list(Some(&receiving.customer)).await.unwrap();
    assert_eq!(listed, [receiving.source(SourceClass::Proven)]);
    let unknown = Source { customer: CustomerId::parse("nobody").unwrap(), ..receiving.source(SourceClass::Proven) };
    let refused = sources.declare(&unknown, "operator", now()).await.unwrap_err().to_string();
    assert_eq!(refused, "customer nobody does not exist");
    let shouting = Source { kind: "Digests!".into(), ..receiving.source(SourceClass::Proven) };
    assert!(sources.declare(&shouting, "operator", now()).await.unwrap_err().to_string().contains("the kind"));
    let audited: Vec<String> = receiving.stage.audited("source.declared").await;
    assert_eq!(audited, ["cloudtrail_events best effort", "cloudtrail_events proven"]);
}
