//! Facts in PostgreSQL against a full evaluation that shares nothing with the roll-up but the rules of one resource.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::directory::CustomerId;
use aggregator::fact_rows::{FactAdvance, FactError, FactRows};
use aggregator::facts::{Contribution, FullEvaluation, HourlyKey, Standing};
use aggregator::meters::{DefineError, MeterBook, MeterDefined, NewMeter};
use aggregator::partition::Partition;
use aggregator::usage_rows::AdvanceOutcome;
use chrono::{DateTime, NaiveDate, Utc};
use ingest::{
    AccountId, Bucket, Day, Dimensions, ExportGeneration, FactKey, FactValue, Hour, Meter, Quantity, SampleMeter,
    Timestamp, UsageFact, Window,
};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng, SeedableRng};

use crate::stage::{Stage, hour, now};

const SEEDS: u64 = 8;

/// Four accounts of two buckets.
fn accounts() -> [AccountId; 4] {
    let of = |bucket: u16| {
        let accounts = (0..).map(|number: u64| AccountId::parse(&format!("{number:012}")).unwrap());
        accounts.filter(move |account| account.bucket() == Bucket::new(bucket).unwrap()).take(2)
    };
    let mut four = of(3).chain(of(9));
    std::array::from_fn(|_| four.next().unwrap())
}

/// The stage, and what should be there.
struct Model {
    stage: Stage,
    rows: FactRows,
    /// Facts rolled up so far.
    standing: Standing,
    versions: BTreeMap<Partition, u64>,
    /// The hour of the last `go_on`; every bucket is at it or, made later, further.
    now: Timestamp,
}

impl Model {
    async fn set() -> (Self, CustomerId, CustomerId) {
        let (stage, anna, berta) = Stage::with_customers().await;
        let book = MeterBook::new(stage.pool.clone());
        for (name, aggregation, gap_seconds_max) in [
            ("vpn_connections_count", "max", None),
            ("custom_lambda_invocations", "sum", None),
            ("queue_depth", "time_weighted", Some(7_200)),
        ] {
            let (name, aggregation) = (name.to_owned(), aggregation.to_owned());
            let meter = NewMeter { name, aggregation, gap_seconds_max, description: String::new() };
            assert_eq!(book.define(&meter, now()).await.unwrap(), MeterDefined::New);
        }
        let rows = FactRows::new(stage.pool.clone());
        let model = Self {
            rows,
            standing: Standing::default(),
            versions: BTreeMap::new(),
            now: hour("2026-10-03T05").start(),
            stage,
        };
        (model, anna, berta)
    }

    /// Rolls facts up, as entries of the partitions they belong to.
    async fn state(&mut self, facts: &[UsageFact<'static>]) {
        let mut by_partition = BTreeMap::<Partition, Vec<UsageFact<'static>>>::new();
        for fact in facts {
            let root = Partition::root(fact.key.account.bucket(), Window::Day(fact.day()));
            by_partition.entry(root).or_default().push(fact.clone());
            self.standing.add(fact.clone());
        }
        let partitions: Vec<_> = by_partition.into_iter().collect();
        for of_bucket in partitions.chunk_by(|(a, _), (b, _)| a.bucket == b.bucket) {
            let bucket = of_bucket[0].0.bucket;
            let advances: Vec<FactAdvance> = of_bucket
                .iter()
                .map(|(partition, facts)| {
                    let version = self.versions.entry(partition.clone()).or_default();
                    *version += 1;
                    let (from_version, to_version) = (*version - 1, *version);
                    FactAdvance { partition: partition.clone(), from_version, to_version, facts: facts.clone() }
                })
                .collect();
            let advanced = self.rows.advance(bucket, &advances, self.now).await.unwrap();
            assert!(advanced.outcomes.iter().all(|outcome| *outcome == AdvanceOutcome::Moved));
            for export in advanced.exports_complete {
                assert!(self.rows.put_in_force(&export, self.now).await.unwrap());
                assert!(!self.rows.put_in_force(&export, self.now).await.unwrap(), "once");
            }
        }
    }

    async fn go_on(&mut self, now: Timestamp) {
        self.now = now;
        self.rows.go_on(now).await.unwrap();
        assert_eq!(self.rows.exports_complete().await.unwrap(), BTreeSet::new());
    }

    /// Rows, gaps, owners and months must be those of a full evaluation.
    async fn agrees(&self) {
        let meters = MeterBook::new(self.stage.pool.clone()).read().await.unwrap();
        let hours = hour("2020-01-01T00")..hour("2027-01-01T00");
        let FullEvaluation { rows, gaps } = self.standing.evaluate(&meters, hours, self.now.hour()).unwrap();
        let stored = self.stored_rows().await;
        assert_eq!(stored.iter().map(|(key, (total, _))| (key.clone(), *total)).collect::<BTreeMap<_, _>>(), rows);

        type GapRow = (String, String, String, DateTime<Utc>, DateTime<Utc>);
        let mut stored_gaps = BTreeMap::<_, Vec<_>>::new();
        let all: Vec<GapRow> =
            sqlx::query_as("select * from usage_gaps order by 1, 2, 3, 4").fetch_all(&self.stage.pool).await.unwrap();
        for (account, meter, resource, from, until) in all {
            let key = (AccountId::parse(&account).unwrap(), Meter::parse_stored(&meter).unwrap(), resource);
            stored_gaps.entry(key).or_default().push((Timestamp::from(from), Timestamp::from(until)));
        }
        let gaps: BTreeMap<_, Vec<_>> = gaps
            .into_iter()
            .map(|(key, gaps)| (key, gaps.into_iter().map(|gap| (gap.from, gap.until)).collect()))
            .collect();
        assert_eq!(stored_gaps, gaps);
        self.months_agree(&stored).await;
    }

    async fn stored_rows(&self) -> BTreeMap<HourlyKey, (Contribution, Option<String>)> {
        type Row = (String, String, String, String, DateTime<Utc>, String, i64, Option<String>, String);
        let rows: Vec<Row> = sqlx::query_as(
            "select account_id, meter, region, category, window_start, total::text, parts, customer_id, partition
            from usage_rows",
        )
        .fetch_all(&self.stage.pool)
        .await
        .unwrap();
        let read = |(account, meter, region, category, window, total, parts, customer, partition): Row| {
            let account = AccountId::parse(&account).unwrap();
            assert_eq!(partition, aggregator::fact_rows::rows_partition(account.bucket()));
            let key = HourlyKey {
                account,
                meter: Meter::parse_stored(&meter).unwrap(),
                window: Timestamp::from(window).hour(),
                dimensions: Dimensions { region: region.into(), category: category.into() },
            };
            let value: Quantity = total.parse().unwrap();
            assert_eq!(value.to_string(), total, "no needless zeros");
            (key, (Contribution { value, parts: parts.cast_unsigned() }, customer))
        };
        rows.into_iter().map(read).collect()
    }

    /// Sums and peaks recomputed from the rows and the directory.
    async fn months_agree(&self, rows: &BTreeMap<HourlyKey, (Contribution, Option<String>)>) {
        let directory = self.stage.directory.list().await.unwrap();
        let mut sums = BTreeMap::<(String, String, &str), Quantity>::new();
        let mut hours = BTreeMap::<(String, String, &str, Hour), Quantity>::new();
        for (key, (Contribution { value, parts }, customer)) in rows {
            let listed = directory.iter().find(|listed| listed.account == key.account).unwrap();
            let owned =
                |from: Hour, until: Option<Hour>| from <= key.window && until.is_none_or(|until| key.window < until);
            let owner = listed.ownership.iter().find(|ownership| owned(ownership.from, ownership.until));
            assert_eq!(customer.as_deref(), owner.map(|ownership| ownership.customer.as_str()), "{key:?}");
            let Some(customer) = customer else { continue };
            let month = key.window.to_string()[..7].to_owned();
            let (column, seconds, is_max) = match key.meter.as_str() {
                "accounts" => ("account_count", Some("account_seconds"), true),
                "organizational_units" => ("ou_count", Some("ou_seconds"), true),
                "vpn_connections_count" => ("vpn_connections_count", None, true),
                "log_storage_gb" => ("log_storage_gb", None, false),
                "data_transfer_bytes" => ("data_transfer_bytes", None, false),
                "nat_gateway_bytes" => ("nat_gateway_bytes", None, false),
                "custom_lambda_invocations" => ("custom_lambda_invocations", None, false),
                _ => continue,
            };
            let mut add = |column: &'static str, value: Quantity| {
                let sum = sums.entry((customer.clone(), month.clone(), column)).or_insert(Quantity::ZERO);
                *sum = sum.checked_add(value).unwrap();
            };
            if let Some(seconds) = seconds {
                add(seconds, *value);
            }
            if is_max {
                let number = if seconds.is_some() { Quantity::whole(i128::from(*parts)) } else { *value };
                let hour = hours.entry((customer.clone(), month, column, key.window)).or_insert(Quantity::ZERO);
                *hour = hour.checked_add(number).unwrap();
            } else {
                add(column, *value);
            }
        }
        for ((customer, month, column, _), number) in hours {
            let peak = sums.entry((customer, month, column)).or_insert(number);
            *peak = number.max(*peak);
        }
        let mut stored = BTreeMap::new();
        for column in [
            "account_count",
            "account_seconds",
            "ou_count",
            "ou_seconds",
            "vpn_connections_count",
            "log_storage_gb",
            "data_transfer_bytes",
            "nat_gateway_bytes",
            "custom_lambda_invocations",
        ] {
            let sql = format!(
                "select customer_id, month, {column}::text from usage_metrics where {column} is not null and {column} <> 0"
            );
            let figures: Vec<(String, NaiveDate, String)> =
                sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.stage.pool).await.unwrap();
            for (customer, month, figure) in figures {
                stored
                    .insert((customer, month.format("%Y-%m").to_string(), column), figure.parse::<Quantity>().unwrap());
            }
        }
        sums.retain(|_, sum| *sum != Quantity::ZERO);
        assert_eq!(stored, sums);
        self.stage.days_are_the_sums_of_their_hours().await;
    }
}

fn fact(meter: Meter, account: AccountId, resource: &str, time: Timestamp, value: FactValue) -> UsageFact<'static> {
    UsageFact {
        key: FactKey { meter, account, resource: resource.to_owned().into(), time, export: None },
        revision: 0,
        dimensions: Dimensions { region: "eu-west-1".into(), category: Dimensions::NONE.into() },
        end: None,
        value,
    }
}

fn sample(name: &str) -> Meter {
    Meter::Sample(SampleMeter::parse(name).unwrap())
}

/// A fact of any kind, near enough to others that they bear on each other.
fn random_fact(rng: &mut StdRng) -> UsageFact<'static> {
    let start = hour("2026-09-28T00").start();
    let quantity = |rng: &mut StdRng| -> Quantity {
        let digits = format!("{}.{}", rng.random_range(0..5), rng.random_range(0..100));
        if rng.random_bool(0.2) { Quantity::ZERO } else { digits.parse().unwrap() }
    };
    let account = *accounts().choose(rng).unwrap();
    let time = start.saturating_add_secs(rng.random_range(0..8 * 24 * 4) * 900);
    let time = Timestamp::from_micros(time.micros() + if rng.random_bool(0.1) { 500_001 } else { 0 }).unwrap();
    let (meter, value) = match rng.random_range(0..8) {
        0 | 1 => (Meter::LogStorageGb, FactValue::Level(quantity(rng))),
        2 => (sample("queue_depth"), FactValue::Level(quantity(rng))),
        3 => (sample("vpn_connections_count"), FactValue::Level(quantity(rng))),
        4 => (Meter::NatGatewayBytes, FactValue::Amount(quantity(rng))),
        5 => (sample("custom_lambda_invocations"), FactValue::Amount(quantity(rng))),
        6 => (Meter::Accounts, if rng.random_bool(0.6) { FactValue::Live } else { FactValue::Gone }),
        _ => (Meter::OrganizationalUnits, if rng.random_bool(0.6) { FactValue::Live } else { FactValue::Gone }),
    };
    let resource = format!("r{}", rng.random_range(0..2));
    let mut made = fact(meter, account, &resource, time, value);
    made.revision = rng.random_range(0..3);
    if rng.random_bool(0.3) {
        made.dimensions.region = "us-east-1".into();
    }
    if matches!(value, FactValue::Level(_)) && rng.random_bool(0.2) {
        made.end = Some(time.saturating_add_secs(rng.random_range(1..5 * 24 * 3_600)));
    }
    made
}

/// Some generations of an export, each row and end by itself, in any order.
fn random_export(rng: &mut StdRng) -> Vec<UsageFact<'static>> {
    let start = hour("2026-10-01T00").start();
    let mut facts = Vec::new();
    for generation in 1..=rng.random_range(1..=3_u64) {
        let of = |mut made: UsageFact<'static>| {
            made.revision = generation;
            made.key.export = Some(ExportGeneration { scope: "focus/2026-10".into(), number: generation });
            made
        };
        let rows = rng.random_range(0..6_i64);
        for row in 0..rows {
            let account = *accounts().choose(rng).unwrap();
            let time = start.saturating_add_secs(rng.random_range(0..40) * 3_600);
            let amount = FactValue::Amount(Quantity::new(rng.random_range(-50..500), 2).unwrap());
            let meter = *[Meter::DataTransferBytes, Meter::NatGatewayBytes].choose(rng).unwrap();
            facts.push(of(fact(meter, account, &format!("row {row}"), time, amount)));
        }
        let end = FactValue::ExportEnd { facts: rows.unsigned_abs() };
        facts.push(of(fact(Meter::ExportGenerations, accounts()[0], "focus", start, end)));
    }
    facts.shuffle(rng);
    facts
}

#[tokio::test]
async fn rows_gaps_and_months_of_facts_are_those_of_a_full_evaluation_in_any_order() {
    for seed in 0..SEEDS {
        let (mut model, anna, berta) = Model::set().await;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut facts: Vec<_> = (0..rng.random_range(20..150)).map(|_| random_fact(&mut rng)).collect();
        facts.extend(random_export(&mut rng));
        let again: Vec<_> = facts.choose_multiple(&mut rng, facts.len() / 4).cloned().collect();
        facts.extend(again);
        facts.shuffle(&mut rng);
        let mut rest = facts.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rng.random_range(1..=rest.len().min(40)));
            model.state(now).await;
            rest = later;
            match rng.random_range(0..6) {
                0 => {
                    let hours = rng.random_range(1..30);
                    let later = model.now.saturating_add_secs(hours * 3_600);
                    model.go_on(later).await;
                }
                1 => {
                    let customer = if rng.random_bool(0.5) { &anna } else { &berta };
                    let from = Hour::from_number(hour("2026-09-29T00").number() + rng.random_range(0..100)).unwrap();
                    let account = *accounts().choose(&mut rng).unwrap();
                    // Where the directory says otherwise already, nothing changes.
                    let _ = model.stage.directory.register(account, customer, from, model.now).await;
                }
                _ => {}
            }
            model.go_on(model.now).await;
        }
        model.agrees().await;
        let later = model.now.saturating_add_secs(40 * 24 * 3_600);
        model.go_on(later).await;
        model.agrees().await;
    }
}

#[tokio::test]
async fn a_late_or_corrected_fact_changes_the_hours_that_carried_the_old_value() {
    let (mut model, ..) = Model::set().await;
    let account = accounts()[0];
    let level = |time: &str, bytes: i128| {
        fact(Meter::LogStorageGb, account, "b", hour(time).start(), FactValue::Level(Quantity::whole(bytes)))
    };
    model.state(&[level("2026-09-30T00", 100), level("2026-10-02T00", 100)]).await;
    model.agrees().await;
    let total = async |model: &Model, window: &str| {
        let rows = model.stored_rows().await;
        rows.iter().find(|(key, _)| key.window == hour(window)).map(|(_, (total, _))| total.value.to_string())
    };
    assert_eq!(total(&model, "2026-10-01T23").await.as_deref(), Some("360000"));
    // Late: it takes over from its time on, in the next day's rows too.
    model.state(&[level("2026-09-30T12", 5)]).await;
    assert_eq!(total(&model, "2026-09-30T11").await.as_deref(), Some("360000"));
    assert_eq!(total(&model, "2026-10-01T23").await.as_deref(), Some("18000"));
    // Corrected.
    let corrected = UsageFact { revision: 1, ..level("2026-09-30T12", 7) };
    model.state(std::slice::from_ref(&corrected)).await;
    assert_eq!(total(&model, "2026-10-01T23").await.as_deref(), Some("25200"));
    // A copy, and one that is superseded.
    model.state(&[corrected, level("2026-09-30T12", 5)]).await;
    assert_eq!(total(&model, "2026-10-01T23").await.as_deref(), Some("25200"));
    // Too far from the next one: missing, and said to be.
    model.state(&[level("2026-10-10T00", 1)]).await;
    assert_eq!(total(&model, "2026-10-03T00").await, None);
    let gaps: i64 = sqlx::query_scalar("select count(*) from usage_gaps").fetch_one(&model.stage.pool).await.unwrap();
    assert_eq!(gaps, 1);
    model.agrees().await;
    model.state(&(3..10).map(|day| level(&format!("2026-10-{day:02}T00"), 2)).collect::<Vec<_>>()).await;
    assert_eq!(total(&model, "2026-10-03T00").await.as_deref(), Some("7200"));
    model.agrees().await;
}

#[tokio::test]
async fn a_restated_export_takes_force_whole_once_it_is_complete() {
    let (mut model, anna, _) = Model::set().await;
    let [one, _, other, _] = accounts();
    model.stage.directory.register(one, &anna, hour("2026-01-01T00"), now()).await.unwrap();
    let of = |generation: u64, account: AccountId, row: &str, value| {
        let mut made = fact(Meter::NatGatewayBytes, account, row, hour("2026-10-01T05").start(), value);
        if matches!(value, FactValue::ExportEnd { .. }) {
            made.key.meter = Meter::ExportGenerations;
        }
        made.revision = generation;
        made.key.export = Some(ExportGeneration { scope: "focus/2026-10".into(), number: generation });
        made
    };
    let amount = |bytes: i128| FactValue::Amount(Quantity::whole(bytes));
    let end = |facts| FactValue::ExportEnd { facts };
    let total = async |model: &Model| {
        let rows = model.stored_rows().await;
        rows.iter().map(|(key, (total, _))| (key.account, total.value.to_string())).collect::<Vec<_>>()
    };
    let text = |account: AccountId, total: &str| (account, total.to_owned());
    model.state(&[of(1, one, "a", amount(10)), of(1, other, "b", amount(20))]).await;
    assert_eq!(total(&model).await, [], "not yet read to its end");
    model.state(&[of(1, one, "end", end(2))]).await;
    assert_eq!(total(&model).await, [text(one, "10"), text(other, "20")]);
    // The next one moves a row, changes one and drops one. Half of it changes nothing.
    model.state(&[of(2, one, "end", end(2)), of(2, other, "a", amount(7))]).await;
    assert_eq!(total(&model).await, [text(one, "10"), text(other, "20")]);
    model.agrees().await;
    model.state(&[of(2, other, "c", amount(1))]).await;
    assert_eq!(total(&model).await, [text(other, "8")], "the row of the account that has none is gone, not zero");
    // What comes late of the old one changes nothing any more.
    model.state(&[of(1, one, "z", amount(99))]).await;
    assert_eq!(total(&model).await, [text(other, "8")]);
    model.agrees().await;
}

#[tokio::test]
async fn what_is_live_goes_on_without_a_word() {
    let (mut model, anna, berta) = Model::set().await;
    let [one, two, ..] = accounts();
    for account in [one, two] {
        model.stage.directory.register(account, &anna, hour("2026-10-01T00"), now()).await.unwrap();
    }
    let live = |account: AccountId, time| {
        fact(Meter::Accounts, account, account.as_str(), hour(time).start(), FactValue::Live)
    };
    model.state(&[live(one, "2026-10-01T00"), live(two, "2026-10-02T12")]).await;
    let figures = async |model: &Model, month: &str| {
        let sql = "select customer_id || ' ' || account_count || ' ' || account_seconds from usage_metrics
            where to_char(month, 'YYYY-MM') = $1 and account_seconds <> 0 order by 1";
        sqlx::query_scalar::<_, String>(sql).bind(month).fetch_all(&model.stage.pool).await.unwrap()
    };
    // The clock stands at 05:00 on the third.
    assert_eq!(figures(&model, "2026-10").await, [format!("anna 2 {}", (53 + 17) * 3_600)]);
    model.go_on(hour("2026-11-02T00").start()).await;
    model.go_on(hour("2026-11-02T00").start()).await;
    assert_eq!(figures(&model, "2026-10").await, [format!("anna 2 {}", (31 * 24 + 29 * 24 + 12) * 3_600)]);
    assert_eq!(figures(&model, "2026-11").await, [format!("anna 2 {}", 2 * 24 * 3_600)]);
    // One moves: its hours go along, and neither customer has it twice.
    model.stage.directory.register(two, &berta, hour("2026-10-31T00"), model.now).await.unwrap();
    assert_eq!(
        figures(&model, "2026-10").await,
        [format!("anna 2 {}", (31 * 24 + 28 * 24 + 12) * 3_600), format!("berta 1 {}", 24 * 3_600)]
    );
    assert_eq!(figures(&model, "2026-11").await, [format!("anna 1 {}", 24 * 3_600), format!("berta 1 {}", 24 * 3_600)]);
    // It was closed before that, as an event says that comes late.
    let gone = fact(Meter::Accounts, two, two.as_str(), hour("2026-10-30T00").start(), FactValue::Gone);
    model.state(&[gone]).await;
    assert_eq!(figures(&model, "2026-11").await, [format!("anna 1 {}", 24 * 3_600)]);
    let peak: Option<String> = sqlx::query_scalar(
        "select account_count::text from usage_metrics where customer_id = 'berta'
        and month = '2026-11-01'",
    )
    .fetch_one(&model.stage.pool)
    .await
    .unwrap();
    assert_eq!(peak, None, "nothing is known of it any more, which is not zero");
    model.agrees().await;
}

#[tokio::test]
async fn a_stale_advance_writes_nothing_and_an_undefined_meter_holds_up_its_partition_only() {
    let (model, ..) = Model::set().await;
    let [one, ..] = accounts();
    let advance = |day: &str, from_version, meter| FactAdvance {
        partition: Partition::root(one.bucket(), Window::Day(Day::parse_key(day).unwrap())),
        from_version,
        to_version: from_version + 1,
        facts: vec![fact(meter, one, "r", hour(&format!("{day}T01")).start(), FactValue::Amount(Quantity::whole(1)))],
    };
    let run = async |batch: &[FactAdvance]| model.rows.advance(one.bucket(), batch, now()).await;
    let first = [advance("2026-10-01", 0, Meter::NatGatewayBytes), advance("2026-10-02", 3, Meter::NatGatewayBytes)];
    let outcomes = run(&first).await.unwrap().outcomes;
    assert_eq!(outcomes, [AdvanceOutcome::Moved, AdvanceOutcome::Stale { at: 0 }]);
    assert_eq!(model.stored_rows().await.len(), 1);
    let undefined = advance("2026-10-03", 0, sample("nobody_defined_this"));
    let refused = run(&[advance("2026-10-02", 0, Meter::NatGatewayBytes), undefined.clone()]).await.unwrap_err();
    assert_eq!(refused.partition(), Some(&*undefined.partition.to_string()), "{refused}");
    assert!(matches!(refused, FactError::MeterUnknown { .. }), "{refused}");
    assert_eq!(model.stored_rows().await.len(), 1, "nothing of the transaction stands");
    let meter = NewMeter {
        name: "nobody_defined_this".to_owned(),
        aggregation: "sum".to_owned(),
        gap_seconds_max: None,
        description: "now it is".to_owned(),
    };
    let book = MeterBook::new(model.stage.pool.clone());
    book.define(&meter, now()).await.unwrap();
    run(&[undefined]).await.unwrap();
    assert_eq!(model.stored_rows().await.len(), 2);
    assert_eq!(book.define(&meter, now()).await.unwrap(), MeterDefined::Unchanged);
    let other = NewMeter { aggregation: "max".to_owned(), ..meter };
    let refused = book.define(&other, now()).await.unwrap_err();
    assert!(matches!(&refused, DefineError::Differs { stored, .. } if stored == "sum"), "{refused}");
}
