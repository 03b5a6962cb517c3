//! Real processes, killed at any moment, on embedded servers and a PostgreSQL of their own, behind a network that cuts.
//!
//! Two processes count and two read, with stores as in AWS. They are killed and started again; PostgreSQL is killed too, and
//! recovers; a proxy before each server delays, cuts and half-closes. At the end counters, rows and the invoice are what the
//! naive recount and the plan of the logs say. `make chaos` does it some hundred times; here a few.

mod proxy;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use aggregator::acknowledgement::Acknowledgements;
use aws_sdk_dynamodb::Client;
use benches::cloudtrail::{LOGS_FOLDER, Plan, write_month};
use embedded::{Durability, DynamoDb, Kinesis, KinesisOptions, PostgreSql, PostgresOptions};
use ingest::RunId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::aws::{KEY, config, create_stream_and_tables};
use crate::support::{block_on, clean, now, pid_of};
use proxy::{Deeds, Way};

const NAME: &str = "chaos";
/// How long a process may take that nobody kills.
const CALM_SECONDS_MAX: u64 = 900;
/// One kill in so many is PostgreSQL's.
const DATABASE_KILL: u64 = 8;

/// How much: by `SECUREBASE_CHAOS_KILLS`, `_EVENTS` and `_SEED`.
fn setting(name: &str, usual: u64) -> u64 {
    env::var(format!("SECUREBASE_CHAOS_{name}")).ok().map_or(usual, |text| text.parse().unwrap())
}

/// What the tables hold at the end. Write units are those of what stands: of the puts that landed.
#[derive(Default)]
struct Stored {
    log_units: u64,
    /// Of acknowledgements and manifests.
    receipt_units: u64,
    /// Readings of objects of which anything is acknowledged.
    readings: usize,
    slices: usize,
    /// One a delivery of a slice; more than there are slices where slices were delivered again.
    acknowledgements: usize,
    duplicates: u64,
}

/// Servers that outlive every kill, and the ways to them.
struct World {
    folder: tempfile::TempDir,
    kinesis: Kinesis,
    dynamodb: DynamoDb,
    database: Option<PostgreSql>,
    database_port: u16,
    /// Ports of Kinesis, DynamoDB and PostgreSQL as the processes see them.
    ports: [u16; 3],
    deeds: Arc<Deeds>,
}

fn port_of(endpoint: &str) -> u16 {
    endpoint.rsplit(':').next().unwrap().parse().unwrap()
}

impl World {
    fn start(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let deeds = Arc::<Deeds>::default();
        block_on(async {
            let kinesis = Kinesis::start(KinesisOptions::default()).await.unwrap();
            let dynamodb = DynamoDb::in_memory().await.unwrap();
            let database = start_database(folder.path(), None).await;
            let database_port = database.port();
            let mut ports = [port_of(kinesis.endpoint()), port_of(dynamodb.endpoint()), database_port];
            // Writes to DynamoDB are those whose answers matter.
            let ways = [Way::Rough, Way::LosesAnswers, Way::Rough];
            for ((number, port), way) in (1_u64..).zip(&mut ports).zip(ways) {
                *port = proxy::start(*port, way, seed << 8 | number, Arc::clone(&deeds)).await;
            }
            Self { folder, kinesis, dynamodb, database: Some(database), database_port, ports, deeds }
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let [kinesis, dynamodb, database] = self.ports;
        let mut command = clean(env!("CARGO_BIN_EXE_securebase"));
        let url = |role: &str| format!("postgres://{role}@127.0.0.1:{database}/postgres");
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("SECUREBASE_STORES", "aws")
            .env("SECUREBASE_NAME", NAME)
            .env("SECUREBASE_FLUSH_MS", "20")
            .env("SECUREBASE_LOG", "error,aggregator::commit=debug,aggregator::aggregator=debug")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "s3cret")
            .env("AWS_ENDPOINT_URL_KINESIS", format!("http://127.0.0.1:{kinesis}"))
            .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://127.0.0.1:{dynamodb}"))
            .env("DATABASE_URL", url("postgres"))
            .env("SECUREBASE_APP_DATABASE_URL", url("securebase_app"))
            .env("SECUREBASE_TENANT_KEY", KEY)
            .env("SECUREBASE_SESSION_KEYS", format!(r#"{{"keys":[{{"id":"test","secret":"{KEY}"}}]}}"#));
        command
    }

    /// Starts a process that says what it says to a file, behind what those before it said of their troubles there.
    fn spawn(&self, arguments: &[&str], said: &str) -> Process {
        let (out, err) =
            (self.folder.path().join(format!("{said}.out")), self.folder.path().join(format!("{said}.err")));
        let mut command = self.command(arguments);
        let troubles = OpenOptions::new().create(true).append(true).open(&err).unwrap();
        command.stdout(File::create(&out).unwrap()).stderr(troubles).stdin(Stdio::null());
        Process { child: command.spawn().unwrap(), out, err }
    }

    /// What processes that count said of redeliveries: of how many slices all was said before.
    fn redelivered(&self) -> u64 {
        let said = ["process-0.err", "process-1.err", "serving.err"].map(|name| self.folder.path().join(name));
        let said = said.iter().filter_map(|path| std::fs::read(path).ok());
        let of_line = |line: &str| {
            let (_, slices) = line.split_once("said before")?.1.split_once("slices=")?;
            let digits = slices.split(|one: char| !one.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        };
        said.map(|text| String::from_utf8_lossy(&text).lines().filter_map(of_line).sum::<u64>()).sum()
    }

    /// How often processes that count said this as it happened, those that were killed right after it too.
    fn said_by_those_who_count(&self, what: &str) -> usize {
        let said = ["process-0.err", "process-1.err", "serving.err"].map(|name| self.folder.path().join(name));
        let said = said.iter().filter_map(|path| std::fs::read(path).ok());
        said.map(|text| String::from_utf8_lossy(&text).matches(what).count()).sum()
    }

    /// Runs a command until it succeeds; a network that cuts may make it fail before.
    fn insist(&self, arguments: &[&str]) -> Value {
        let started = now();
        loop {
            let mut process = self.spawn(arguments, "insisting");
            let status = process.child.wait().unwrap();
            if status.success() {
                let said = std::fs::read_to_string(&process.out).unwrap();
                return serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or(Value::Null);
            }
            let err = || std::fs::read_to_string(&process.err).unwrap();
            // A failure that has nothing to do with the network stays.
            assert!(
                started.elapsed().as_secs() < CALM_SECONDS_MAX && status.code() == Some(1),
                "{arguments:?}: {}",
                err()
            );
        }
    }

    /// Kills the server that accepts connections, in the middle of whatever it does, and starts it again.
    fn kill_database(&mut self) {
        let database = self.database.take().unwrap();
        kill(Pid::from_raw(i32::try_from(database.pid()).unwrap()), Signal::SIGKILL).unwrap();
        drop(database);
        self.database = Some(block_on(start_database(self.folder.path(), Some(self.database_port))));
    }

    /// What stands in the tables, and what it cost to put there.
    fn stored(&self) -> Stored {
        let client = Client::new(&config(self.dynamodb.endpoint()));
        block_on(async {
            let mut stored = Stored::default();
            let mut runs = BTreeSet::new();
            let (mut acknowledgement_units, mut manifest_units) = (0, 0);
            for (table, units) in [
                ("commit-log", &mut stored.log_units),
                ("acknowledgements", &mut acknowledgement_units),
                ("manifests", &mut manifest_units),
            ] {
                let mut start = None;
                loop {
                    let scan = client.scan().table_name(format!("{NAME}-{table}")).set_exclusive_start_key(start);
                    let page = scan.send().await.unwrap();
                    for item in page.items() {
                        *units += ingest::dynamodb::item_units(item);
                        // Only acknowledgements of slices have these; marks of what is to be swept have not.
                        let is_receipt = table == "acknowledgements";
                        if let (true, Some(slices), Some(run)) = (is_receipt, item.get("slices"), item.get("run")) {
                            stored.acknowledgements += slices.as_l().unwrap().len();
                            runs.insert(<[u8; 16]>::try_from(run.as_b().unwrap().as_ref()).unwrap());
                        }
                    }
                    start = page.last_evaluated_key;
                    if start.is_none() {
                        break;
                    }
                }
            }
            stored.receipt_units = acknowledgement_units + manifest_units;
            let table = format!("{NAME}-acknowledgements");
            let acknowledgements = Acknowledgements::new(client, table, || 0);
            stored.readings = runs.len();
            for run in runs {
                let acknowledged = acknowledgements.of_run(RunId::from_bytes(run)).await.unwrap();
                stored.slices += acknowledged.slices.len();
                stored.duplicates += acknowledged.slices.values().map(|slice| slice.tally.duplicates).sum::<u64>();
            }
            stored
        })
    }

    fn prepare(&self, plan: &Plan) {
        create_stream_and_tables(&self.kinesis, &self.dynamodb, NAME);
        let customer = ["customers", "add", "acme", "--name", "A", "--tier", "standard"];
        let contract = ["--contract-start", "2024-01-01T00:00:00Z"];
        // Saying the same again changes nothing, so an answer that is lost is asked for again.
        self.insist(&[customer.as_slice(), &contract].concat());
        for account in 0..plan.accounts {
            let account = plan.account(account);
            self.insist(&["accounts", "register", &account, "--customer", "acme", "--from", "2024-01-01T00:00:00Z"]);
        }
    }
}

async fn start_database(folder: &Path, port: Option<u16>) -> PostgreSql {
    let directory = folder.join("postgres");
    PostgreSql::start(PostgresOptions { directory, durability: Durability::Durable, port }).await.unwrap()
}

struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Waits for its end, for as long as a process may take that nobody kills.
    fn wait(&mut self) -> ExitStatus {
        let started = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed().as_secs() < CALM_SECONDS_MAX, "a process does not end: {}", self.err.display());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who there is: two that count, two that read.
fn arguments(which: usize, logs: &str) -> Vec<&str> {
    match which {
        0 | 1 => vec!["serve", "--listen", "127.0.0.1:0"],
        _ => vec!["replay", "--resume", logs, "--json"],
    }
}

#[derive(Default)]
struct Met {
    kills: u64,
    database_kills: u64,
    /// Processes that ended by themselves with an error.
    gave_up: u64,
    replays_done: u64,
}

/// Objects that were not delivered yet, each with where it will be.
fn not_delivered(staged: &Path, logs: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut folders = vec![staged.to_owned()];
    let mut objects = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                objects.push((entry.clone(), logs.join(entry.strip_prefix(staged).unwrap())));
            }
        }
    }
    objects.sort();
    objects
}

fn deliver(objects: impl IntoIterator<Item = (PathBuf, PathBuf)>) {
    for (from, to) in objects {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(from, to).unwrap();
    }
}

/// Kills processes at random moments and starts them again, while objects are delivered.
fn rage(world: &mut World, logs: &str, staged: &Path, kills: u64, rng: &mut StdRng) -> Met {
    let mut met = Met::default();
    // There is always something new, so that those who count meet over it, and never everything at once.
    let mut waiting = not_delivered(staged, Path::new(logs));
    let at_once = waiting.len().div_ceil(usize::try_from(kills).unwrap());
    deliver(waiting.split_off(waiting.len().saturating_sub(at_once)));
    let mut cast: Vec<Process> = (0..4).map(|n| world.spawn(&arguments(n, logs), &format!("process-{n}"))).collect();
    while met.kills < kills {
        deliver(waiting.split_off(waiting.len().saturating_sub(at_once)));
        // The moment has to be any: there is nothing to wait for.
        thread::sleep(Duration::from_millis(rng.random_range(50..900)));
        for (number, process) in cast.iter_mut().enumerate() {
            let Some(status) = process.child.try_wait().unwrap() else { continue };
            if status.success() {
                // Everything was read: now again, whatever is done already.
                met.replays_done += 1;
                *process = world.spawn(&["replay", logs, "--json"], &format!("process-{number}"));
            } else {
                met.gave_up += 1;
                *process = world.spawn(&arguments(number, logs), &format!("process-{number}"));
            }
        }
        met.kills += 1;
        if met.kills.is_multiple_of(DATABASE_KILL) {
            met.database_kills += 1;
            world.kill_database();
            continue;
        }
        // Readers more often: who counts reads the stream from its beginning again.
        let number = if rng.random_range(0..4) == 0 { rng.random_range(0..2) } else { rng.random_range(2..4) };
        kill(pid_of(&cast[number].child), Signal::SIGKILL).unwrap();
        cast[number].child.wait().unwrap();
        cast[number] = world.spawn(&arguments(number, logs), &format!("process-{number}"));
    }
    deliver(waiting);
    met
}

/// Kills a command a few times before it may come to its end.
fn interrupted(world: &World, words: &[&str], rng: &mut StdRng) -> (Value, u64) {
    let kills = 2;
    for _ in 0..kills {
        let mut process = world.spawn(words, "interrupted");
        thread::sleep(Duration::from_millis(rng.random_range(20..700)));
        let _ = process.child.kill();
        process.child.wait().unwrap();
    }
    (world.insist(words), kills)
}

type Counts = BTreeMap<(String, String, String, String), u64>;

fn counts(usage: &Value) -> Counts {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = usage["rows"].as_array().unwrap().iter();
    rows.map(|row| {
        let key = (text(row, "account"), text(row, "hour"), text(row, "region"), text(row, "category"));
        (key, text(row, "quantity").parse().unwrap())
    })
    .collect()
}

#[test]
fn nothing_is_lost_or_counted_twice_whatever_is_killed_or_cut() {
    let (kills, events, seed) = (setting("KILLS", 8), setting("EVENTS", 1_500), setting("SEED", 1));
    let folder = tempfile::tempdir().unwrap();
    let from = "2026-10-01T00:00:00Z".parse().unwrap();
    // Many small objects: most kills hit in the middle of some.
    let files = Some((events / 50).max(20));
    let plan = Plan { files, duplicates_percent: 2, late_percent: 3, ..Plan::new(seed, events, 3, from, 744) };
    let answer = write_month(folder.path(), &plan).unwrap();
    let (logs, staged) = (folder.path().join("delivered"), folder.path().join(LOGS_FOLDER));
    std::fs::create_dir(&logs).unwrap();
    let logs = logs.to_str().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);

    let mut world = World::start(seed);
    world.prepare(&plan);
    let began = now();
    let mut met = rage(&mut world, logs, &staged, kills, &mut rng);
    let raged = began.elapsed();
    let served = world.spawn(&arguments(0, logs), "serving");
    world.deeds.calm();
    let balance = world.insist(&["replay", "--resume", logs, "--json"]);
    let again = world.insist(&["replay", logs, "--json"]);
    let status = world.insist(&["status", "--json"]);
    drop(served);

    // What every file says once more is known, and the rows are those of the plan.
    assert_eq!((again["read"].as_u64(), again["counted"].as_u64()), (Some(answer.records), Some(0)), "{again}");
    let grouped = ["--group-by", "account,hour,region,category", "--meter", "cloudtrail_events"];
    let usage = world.insist(&[["usage", "--all", "--json"].as_slice(), &grouped].concat());
    let expected: Counts = answer
        .rows
        .iter()
        .map(|(row, count)| {
            let hour = ingest::Hour::from_number(row.hour).unwrap().start().to_string();
            ((row.account.clone(), hour, row.region.to_owned(), row.category.to_owned()), *count)
        })
        .collect();
    let found = counts(&usage);
    let (total, expected_total) = (found.values().sum::<u64>(), expected.values().sum::<u64>());
    assert_eq!(total, expected_total, "events");
    let differs = found.iter().find(|(key, count)| expected.get(*key) != Some(*count));
    assert!(
        differs.is_none() && found.len() == expected.len(),
        "rows differ: {differs:?}, {:?}",
        expected.first_key_value()
    );

    let close = ["close", "--period", "2026-10", "--override", "logs without digest files", "--by", "chaos", "--json"];
    met.kills += interrupted(&world, &close, &mut rng).1;
    met.kills += interrupted(&world, &["invoice", "run", "--period", "2026-10", "--json"], &mut rng).1;
    let invoices = world.insist(&["invoice", "list", "--json"]);
    assert_eq!(invoices["invoices"].as_array().unwrap().len(), 1, "{invoices}");
    world.insist(&["verify", logs, "--period", "2026-10"]);

    let mut calm = World::start(seed);
    calm.deeds.calm();
    calm.prepare(&plan);
    // The same cast and the same last readings, only that nobody is killed.
    let mut cast: Vec<Process> = (0..4).map(|n| calm.spawn(&arguments(n, logs), &format!("process-{n}"))).collect();
    for mut reading in cast.split_off(2) {
        let status = reading.wait();
        assert!(status.success(), "{}", std::fs::read_to_string(&reading.err).unwrap());
    }
    calm.insist(&["replay", "--resume", logs, "--json"]);
    calm.insist(&["replay", logs, "--json"]);
    drop(cast);
    let (raged_on, rested) = (world.stored(), calm.stored());
    calm.database = None;

    let Met { kills, database_kills, gave_up, replays_done } = met;
    let conflicts = world.said_by_those_who_count("met another writer");
    let unknown_outcomes = world.said_by_those_who_count("lost the answer to a write");
    let redelivered = world.redelivered() + (raged_on.acknowledgements - raged_on.slices) as u64;
    let per_million = |units: u64| units * 1_000_000 / answer.events;
    let deed = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{kills} kills in {:.0} s, {database_kills} of them PostgreSQL's; {gave_up} processes gave up, {replays_done} read all\n\
         {} connections: {} delayed, {} cut, {} half-closed\n\
         {} events, {} copies, difference 0; the last readings: {balance}, {again}\n\
         conflicts: {conflicts}, unknown outcomes: {unknown_outcomes}, as they were met; written down by processes: {}\n\
         {} readings of objects with {} slices, {redelivered} of them redelivered; {} duplicates dropped\n\
         {}",
        raged.as_secs_f64(),
        deed(&world.deeds.connections),
        deed(&world.deeds.delayed),
        deed(&world.deeds.cut),
        deed(&world.deeds.half_closed),
        answer.events,
        answer.duplicates,
        status["last_24_hours"],
        raged_on.readings,
        raged_on.slices,
        raged_on.duplicates,
        invoices["invoices"],
    );
    let (with, without) = (&world.deeds.asked, &calm.deeds.asked);
    let receipts = ["acknowledgements", "manifests"];
    for (what, [with, without]) in [
        ("asked for", [with.all(), without.all()]),
        ("of these by the commit log", [with.of(&["commit-log"]), without.of(&["commit-log"])]),
        ("of these by receipts", [with.of(&receipts), without.of(&receipts)]),
        ("that stand in the commit log", [raged_on.log_units, rested.log_units]),
        ("that stand in receipts", [raged_on.receipt_units, rested.receipt_units]),
    ] {
        let (with, without, factor) = (per_million(with), per_million(without), with as f64 / without as f64);
        println!("write units per million events {what}: {with} with faults, {without} without (factor {factor:.2})");
    }
    println!("readings of objects: {} with faults, {} without", raged_on.readings, rested.readings);
    assert!(with.all() <= 2 * without.all(), "faults cost more than twice the writes");
    assert!(raged_on.log_units <= 2 * rested.log_units, "faults cost more than twice the writes of the commit log");
}
