//! The database server itself is killed in the middle of a run. What its disk has not got is gone, whole; and nobody was told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use billing::outbox::{MailSettings, Mailer, MessageId, OutgoingMail, SendError, send_due};
use billing::{
    Interruptions, InvoiceFilter, Point, RunRequest, TextRenderer, find_invoices, issue, issue_with, list_invoices,
    render_due, wait_for_disk, wait_for_invoices,
};
use embedded::{Durability, PostgreSql, PostgresOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::fixture::{Fixture, at, request};
use crate::killed::{NOW, check_whole, stage_in};

const CUSTOMERS: usize = 32;

/// Who is committed in a round before the server is killed, so that there is something to lose.
const COMMITTED_MIN: usize = 2;

/// A server whose commits wait for the disk, unless they ask not to.
struct Server {
    folder: tempfile::TempDir,
    running: Option<PostgreSql>,
    port: u16,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let running = start(folder.path(), None).await;
        Self { port: running.port(), running: Some(running), folder }
    }

    fn kill(&self) {
        let pid = self.running.as_ref().unwrap().pid();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }

    /// Starts it again where it was; it recovers what its disk has.
    async fn restart(&mut self) {
        let killed = self.running.take().unwrap();
        killed.stop().await;
        self.running = Some(start(self.folder.path(), Some(self.port)).await);
    }
}

async fn start(folder: &Path, port: Option<u16>) -> PostgreSql {
    let directory = folder.join("postgres");
    PostgreSql::start(PostgresOptions { directory, durability: Durability::Durable, port }).await.unwrap()
}

/// Tells when so many points were passed and somebody was committed meanwhile; keeps who was.
#[derive(Debug)]
struct Countdown {
    points: u32,
    passed: AtomicU32,
    over: tokio::sync::Notify,
    committed: Mutex<BTreeSet<String>>,
}

impl Interruptions for Countdown {
    fn is_cut(&self, customer: &str, point: Point) -> bool {
        if point == Point::Committed {
            self.committed.lock().unwrap().insert(customer.to_owned());
        }
        // Workers that go on side by side may have passed many points, and none the last one.
        let passed = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        if self.points <= passed && COMMITTED_MIN <= self.committed.lock().unwrap().len() {
            self.over.notify_one();
        }
        false
    }
}

/// What somebody outside has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Invoices by number, with their ids.
    shown: Mutex<BTreeMap<String, String>>,
    /// Mail by its tag.
    mailed: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Ends of the audit trail: `CHAIN SEQUENCE HASH`.
    heads: Mutex<BTreeSet<String>>,
}

impl Mailer for Seen {
    async fn send(&self, mail: &OutgoingMail) -> Result<MessageId, SendError> {
        let mut mailed = self.mailed.lock().unwrap();
        mailed.insert(mail.tag.as_str().to_owned(), mail.raw.clone());
        Ok(MessageId(format!("message-{}", mailed.len())))
    }
}

/// What goes on beside the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// Nothing that makes the disk write.
    Nothing,
    /// Documents are rendered and mail is sent.
    Mail,
    /// An operator lists what there is, and the heads of the audit trail are written down.
    Operator,
    /// A program lists what there is as the API does.
    Program,
}

impl Beside {
    fn role(self) -> &'static str {
        match self {
            Self::Nothing | Self::Mail => "securebase_billing",
            Self::Operator | Self::Program => "securebase_operator",
        }
    }
}

/// Goes on until the server is gone.
async fn go_on(beside: Beside, pool: PgPool, seen: Arc<Seen>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let settings = MailSettings::new("SecureBase Billing <billing@securebase.example>", None).unwrap();
    loop {
        let mut connection = pool.acquire().await?;
        let shown: Vec<(String, String)> = match beside {
            Beside::Nothing => return Ok(()),
            Beside::Mail => {
                render_due(&pool, &Arc::new(TextRenderer), 1, at(NOW)).await?;
                send_due(&pool, &*seen, &settings, at(NOW), || u64::MAX, 100).await?;
                continue;
            }
            Beside::Operator => {
                let heads: Vec<String> = sqlx::query_scalar(HEADS).fetch_all(&mut *connection).await?;
                let found = find_invoices(&mut connection, &InvoiceFilter::default(), 1_000, at(NOW)).await?;
                wait_for_disk(&mut connection).await?;
                seen.heads.lock().unwrap().extend(heads);
                found.into_iter().filter_map(|invoice| Some((invoice.number?, invoice.id))).collect()
            }
            Beside::Program => {
                let found = list_invoices(&mut connection, 1_000, None).await?;
                let ids: Vec<&str> = found.iter().map(|invoice| invoice.id.as_str()).collect();
                wait_for_invoices(&mut connection, &ids).await?;
                found.into_iter().map(|invoice| (invoice.number, invoice.id)).collect()
            }
        };
        seen.shown.lock().unwrap().extend(shown);
    }
}

const HEADS: &str = "
    select coalesce(customer_id, '') || ' ' || sequence || ' ' || encode(hash, 'hex') from (
        select distinct on (customer_id) customer_id, sequence, hash from audit_events
        order by customer_id, sequence desc) heads";

async fn pool(fixture: &Fixture, role: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(3));
    options.connect(&fixture.url(role)).await.unwrap()
}

/// Everything that was seen is there as it was seen.
async fn check_seen(fixture: &Fixture, seen: &Seen, when: &str) {
    let invoices: Vec<(String, String)> =
        sqlx::query_as("select invoice_number, invoice_id::text from invoices where invoice_number is not null")
            .fetch_all(&mut fixture.superuser().await)
            .await
            .unwrap();
    let invoices: BTreeMap<String, String> = invoices.into_iter().collect();
    for (number, id) in seen.shown.lock().unwrap().iter() {
        assert_eq!(invoices.get(number), Some(id), "{number} was shown, {when}");
    }
    let told: Vec<(String, String)> = sqlx::query_as(
        "select n.tag, coalesce(i.invoice_number, c.credit_note_number) from notifications n
         left join invoices i using (invoice_id) left join credit_notes c using (credit_note_id)
         where coalesce(i.invoice_number, c.credit_note_number) is not null",
    )
    .fetch_all(&mut fixture.superuser().await)
    .await
    .unwrap();
    let told: BTreeMap<String, String> = told.into_iter().collect();
    for (tag, raw) in seen.mailed.lock().unwrap().iter() {
        let number = told.get(tag).unwrap_or_else(|| panic!("{tag} was mailed and is not there, {when}"));
        assert!(String::from_utf8_lossy(raw).contains(number.as_str()), "{tag} was mailed with another number, {when}");
    }
    let events = "select coalesce(customer_id, '') || ' ' || sequence || ' ' || encode(hash, 'hex') from audit_events";
    let events: BTreeSet<String> = fixture.texts(events).await.into_iter().collect();
    for head in seen.heads.lock().unwrap().iter() {
        assert!(events.contains(head), "{head} was the head of a chain, {when}");
    }
}

#[tokio::test]
async fn a_database_that_dies_in_a_run_takes_back_whole_invoices_that_nobody_was_told_of() {
    let mut server = Server::start().await;
    let names: Vec<String> = (0..CUSTOMERS).map(|number| format!("customer-{number:02}")).collect();
    let customers: Vec<&str> = names.iter().map(String::as_str).collect();
    let fixture = stage_in(Fixture::on_server(server.port).await, &customers).await;
    for customer in &customers {
        let mut connection = fixture.connect("securebase_billing").await;
        let address = format!("billing@{customer}.example");
        billing::outbox::add_recipient(&mut connection, customer, &address, "operator:ada", at(NOW)).await.unwrap();
    }
    // What does not wait for the disk gets there late, so that much is lost: as on a machine that is busy.
    // A page that is written takes the log before it along.
    for setting in
        ["wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'", "bgwriter_lru_maxpages = 0", "autovacuum = off"]
    {
        fixture.execute(&format!("alter system set {setting}")).await.unwrap();
    }
    server.kill();
    server.restart().await;

    let seen = Arc::new(Seen::default());
    let mut lost = 0;
    let rounds = [
        (45, Beside::Nothing),
        (60, Beside::Program),
        (30, Beside::Operator),
        (80, Beside::Mail),
        (25, Beside::Nothing),
    ];
    for (points, beside) in rounds {
        let when = format!("killed after {points} points beside {beside:?}");
        let countdown = Arc::new(Countdown {
            points,
            passed: AtomicU32::new(0),
            over: tokio::sync::Notify::new(),
            committed: Mutex::default(),
        });
        let several = RunRequest { workers: 4, ..request("2026-10") };
        let (dying, watched) = (pool(&fixture, "securebase_billing").await, Arc::clone(&countdown));
        let run = tokio::spawn(async move { issue_with(&dying, &several, at(NOW), watched).await });
        let others = tokio::spawn(go_on(beside, pool(&fixture, beside.role()).await, Arc::clone(&seen)));
        countdown.over.notified().await;
        server.kill();
        assert!(run.await.unwrap().is_err(), "{when}: nobody can finish a run without its database");
        // It ends with whatever its last call said, or had nothing to do.
        let _ = others.await.unwrap();
        server.restart().await;

        check_whole(&fixture, &when).await;
        check_seen(&fixture, &seen, &when).await;
        let issued = "select customer_id from invoices where period_start = '2026-10-01' and status = 'issued'";
        let issued: BTreeSet<String> = fixture.texts(issued).await.into_iter().collect();
        let gone = countdown.committed.lock().unwrap().difference(&issued).count();
        assert!(beside != Beside::Nothing || 0 < gone, "{when}: this test shows nothing if nothing is lost");
        lost += gone;
    }
    let report = issue(&fixture.billing, &request("2026-10"), at(NOW)).await.unwrap();
    assert_eq!((report.results.len(), report.failures(), report.is_finished), (CUSTOMERS, 0, true));
    let issued = "invoices where period_start = '2026-10-01' and status = 'issued'";
    assert_eq!(fixture.count(issued).await, i64::try_from(CUSTOMERS).unwrap());
    let numbers = "select last_number::text from invoice_number_counters where series = 'INV' and month = '2026-11-01'";
    assert_eq!(fixture.texts(numbers).await, [CUSTOMERS.to_string()]);
    check_whole(&fixture, "at the end").await;
    // The last call let its caller know: that stays, too.
    server.kill();
    server.restart().await;
    assert_eq!(fixture.count(issued).await, i64::try_from(CUSTOMERS).unwrap());
    check_whole(&fixture, "killed after the end").await;
    check_seen(&fixture, &seen, "killed after the end").await;
    let seen = (seen.shown.lock().unwrap().len(), seen.mailed.lock().unwrap().len());
    println!("{lost} invoices were committed and lost; {} were shown, {} messages sent", seen.0, seen.1);
}
