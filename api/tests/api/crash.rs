//! PostgreSQL dies in the middle of writes: afterwards the whole of a write stands or nothing of it, and the same
//! `Idempotency-Key` gives one key.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use api::audit::{AuditRecorder, verify};
use api::{ApiParts, ApiState, pool};
use embedded::{Durability, PostgreSql, PostgresOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{Answer, get, send};
use crate::stage::{Stage, token};

/// What a recovery may take.
const RECOVERED_SECS_MAX: u64 = 60;

/// A server that keeps what it commits, for one test to kill.
///
/// A killed process loses nothing that the kernel has, so it need not wait for the disk; a recovery would otherwise write
/// every file of the cluster to it.
async fn durable(directory: &TempDir, port: Option<u16>) -> PostgreSql {
    let directory = directory.path().join("cluster");
    let options = PostgresOptions { directory, durability: Durability::Durable, port };
    let server = PostgreSql::start(options).await.unwrap();
    let mut superuser = PgConnection::connect(&server.url("postgres", "postgres")).await.unwrap();
    for sql in ["alter system set fsync = off", "select pg_reload_conf()"] {
        sqlx::raw_sql(sql).execute(&mut superuser).await.unwrap();
    }
    server
}

/// After each statement of a write that changes a row, and in the commit itself, the write waits while a lock is held.
const STOPS: &str = "
    create function stop_at() returns trigger language plpgsql security definer as $$
    begin
        perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint);
        return null;
    end
    $$;
    create trigger stop_1 after insert on idempotent_answers for each row execute function stop_at('1');
    create trigger stop_2 after insert on api_keys for each row execute function stop_at('2');
    create trigger stop_3 after insert on notifications for each row execute function stop_at('3');
    create trigger stop_4 after update on api_keys for each row execute function stop_at('4');
    create trigger stop_5 after update on audit_heads for each row execute function stop_at('5');
    create trigger stop_6 after update on idempotent_answers for each row execute function stop_at('6');
    create constraint trigger stop_7 after insert on api_keys deferrable initially deferred
        for each row execute function stop_at('7');";

/// The place of each stop in the making of a key, for messages.
const PLACES: [(i64, &str); 6] = [
    (1, "its idempotency key is taken"),
    (2, "the key is inserted"),
    (3, "the mail is queued"),
    (5, "the audit event is appended"),
    (6, "the answer is kept"),
    (7, "the commit has begun"),
];

/// The same of a rotation, where it differs.
const PLACES_OF_A_ROTATION: [(i64, &str); 3] =
    [(2, "the successor is inserted"), (4, "the former key is told its successor"), (7, "the commit has begun")];

async fn post(address: SocketAddr, path: &str, key: &str, idempotency_key: &str, body: &str) -> Answer {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\nidempotency-key: {idempotency_key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    send(address, request.as_bytes()).await
}

/// Sends the same write until it is done; until then every answer is a 503 that says when to come back.
async fn until_done(address: SocketAddr, path: &str, key: &str, idempotency_key: &str, body: &str) -> Answer {
    let trying = async {
        loop {
            let answer = post(address, path, key, idempotency_key, body).await;
            if answer.status == 201 {
                return answer;
            }
            answer.problem(503, "unavailable");
            assert_eq!(answer.header("retry-after"), Some("5"));
        }
    };
    tokio::time::timeout(Duration::from_secs(RECOVERED_SECS_MAX), trying).await.expect("PostgreSQL comes back")
}

/// A superuser's connection, once the server takes connections again.
async fn superuser(stage: &Stage) -> PgConnection {
    let connecting = async {
        loop {
            match PgConnection::connect(&stage.database.superuser_url()).await {
                Ok(connection) => return connection,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(RECOVERED_SECS_MAX), connecting).await.expect("PostgreSQL comes back")
}

async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
}

/// What is there of a key of this name that was asked for under this idempotency key.
async fn traces(stage: &Stage, name: &str, idempotency_key: &str) -> [i64; 4] {
    let mut connection = superuser(stage).await;
    let mut traces = [0; 4];
    for (place, sql) in [
        format!("select count(*) from api_keys where name = '{name}'"),
        format!(
            "select count(distinct e.sequence) from audit_events e join api_keys k on k.name = '{name}'
                 and (e.subject = k.key_id or e.details ->> 'successor' = k.key_id)
             where e.action in ('api_key.created', 'api_key.rotated')"
        ),
        format!(
            "select count(distinct n.tag) from notifications n
             join api_keys k on k.name = '{name}' and n.tag || n.payload like '%' || k.key_id || '%'"
        ),
        format!("select count(*) from idempotent_answers where idempotency_key = '{idempotency_key}' and status = 201"),
    ]
    .iter()
    .enumerate()
    {
        traces[place] = number(&mut connection, sql).await;
    }
    traces
}

/// Kills the process of the one who waits for this lock; the server ends all others and recovers from its log.
async fn kill_who_waits(gate: &mut PgConnection) {
    let waiting = "select pid from pg_locks where locktype = 'advisory' and not granted limit 1";
    let waits = async {
        loop {
            if let Some(pid) = sqlx::query_scalar::<_, i32>(waiting).fetch_optional(&mut *gate).await.unwrap() {
                return pid;
            }
        }
    };
    let pid = tokio::time::timeout(Duration::from_secs(30), waits).await.expect("the write comes to its stop");
    kill_backend(pid, gate).await;
}

/// Kills a process of the server, and waits until the server has noticed: it ends this other connection as well.
async fn kill_backend(pid: i32, other: &mut PgConnection) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let noticed = async { while sqlx::raw_sql("select 1").execute(&mut *other).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(RECOVERED_SECS_MAX), noticed).await.expect("the server ends all others");
}

#[tokio::test]
async fn a_key_that_postgresql_dies_over_is_made_whole_or_not_at_all() {
    die_at(&PLACES, false).await;
}

#[tokio::test]
async fn a_rotation_that_postgresql_dies_over_is_whole_or_not_there() {
    die_at(&PLACES_OF_A_ROTATION, true).await;
}

/// Kills the server at each of these places of a write, and looks at what is left.
async fn die_at(places: &[(i64, &str)], is_rotation: bool) {
    let directory = tempfile::tempdir().unwrap();
    let server = durable(&directory, None).await;
    let stage = Stage::on(&server).await;
    sqlx::raw_sql(STOPS).execute(&mut superuser(&stage).await).await.unwrap();
    let state = stage.state();
    let recorder = state.recorder().clone();
    let address = stage.serve(state).await;
    let root = stage.key("acme");
    let mut done = BTreeSet::new();
    for (stop, place) in places {
        let name = format!("{}-{stop}", if is_rotation { "rotated" } else { "created" });
        let (path, body) = if is_rotation {
            // A key of its own, with no stop held.
            let before = format!("before-{name}");
            let made = until_done(address, "/v1/api-keys", &root, &before, &body_of(&name)).await;
            let id = made.json()["key_id"].as_str().unwrap().to_owned();
            (format!("/v1/api-keys/{id}/rotate"), "{}".to_owned())
        } else {
            ("/v1/api-keys".to_owned(), body_of(&name))
        };
        let before = traces(&stage, &name, &name).await;
        // The calls so far are written, so the one at the stop is this write.
        flushed(&recorder).await;
        let mut gate = superuser(&stage).await;
        sqlx::raw_sql(AssertSqlSafe(format!("select pg_advisory_lock({stop})"))).execute(&mut gate).await.unwrap();
        let stopped = tokio::spawn({
            let (path, root, name, body) = (path.clone(), root.clone(), name.clone(), body.clone());
            async move { post(address, &path, &root, &name, &body).await }
        });
        kill_who_waits(&mut gate).await;
        let answer = tokio::time::timeout(Duration::from_secs(15), stopped).await.expect("bounded time").unwrap();
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"), "{name}: {place}");
        assert_eq!(traces(&stage, &name, &name).await, before, "{name}, when {place}: nothing of it stands");

        let written = until_done(address, &path, &root, &name, &body).await.json();
        let again = until_done(address, &path, &root, &name, &body).await.json();
        assert_eq!(written["key_id"], again["key_id"], "{name}");
        let [keys, events, mails, answers] = traces(&stage, &name, &name).await;
        let [keys_before, events_before, mails_before, _] = before;
        let grown = [keys - keys_before, events - events_before, mails - mails_before, answers];
        assert_eq!(grown, [1; 4], "{name}, when {place}: one key, its event, its mail, its answer");
        done.insert(name);
    }
    assert_eq!(done.len(), places.len());
    flushed(&recorder).await;
    check_trail(&stage, 0).await;
    drop(stage);
    server.stop().await;
}

/// Waits until what was called is in the trail, also over a recovery.
async fn flushed(recorder: &AuditRecorder) {
    let flushing = async { while recorder.flush().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(RECOVERED_SECS_MAX), flushing).await.expect("PostgreSQL comes back");
}

fn body_of(name: &str) -> String {
    json!({"name": name, "scopes": ["read:usage"]}).to_string()
}

/// The chains hold, and no call is in them twice; at least so many are.
async fn check_trail(stage: &Stage, calls_min: i64) {
    let mut operator = PgConnection::connect(&stage.url("securebase_operator")).await.unwrap();
    assert_eq!(verify(&mut operator, &[]).await.unwrap().breaks, []);
    let calls = "select count(*) from audit_events where action like 'request.%'";
    let names = "select count(distinct details ->> 'request_id') from audit_events where action like 'request.%'";
    let (calls, names) = (number(&mut operator, calls).await, number(&mut operator, names).await);
    assert_eq!(calls, names, "a call is recorded once");
    assert!(calls >= calls_min, "{calls} of {calls_min}");
}

#[tokio::test]
async fn kills_at_any_moment_leave_one_key_for_each_idempotency_key() {
    const WRITERS: usize = 4;
    const WRITES: usize = 10;
    const KILLS: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    let server = durable(&directory, None).await;
    let stage = Stage::on(&server).await;
    let state = stage.state();
    let recorder = state.recorder().clone();
    let address = stage.serve(state).await;
    let root = stage.key("acme");
    let written = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (root, written) = (root.clone(), Arc::clone(&written));
        writers.spawn(async move {
            let mut ids = Vec::new();
            for write in 0..WRITES {
                let name = format!("w{writer}-{write}");
                let made = until_done(address, "/v1/api-keys", &root, &name, &body_of(&name)).await;
                ids.push((
                    made.json()["key_id"].as_str().unwrap().to_owned(),
                    made.header("x-request-id").map(str::to_owned),
                ));
                written.fetch_add(1, Ordering::SeqCst);
            }
            ids
        });
    }
    for number in 1..=KILLS {
        // Not after a time, which a slow machine makes another moment: after so many writes, and whatever is under way then.
        while written.load(Ordering::SeqCst) < number * WRITERS * WRITES / (KILLS + 1) {
            tokio::task::yield_now().await;
        }
        let (mut victim, mut other) = (superuser(&stage).await, superuser(&stage).await);
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
        kill_backend(pid, &mut other).await;
    }
    let made: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    flushed(&recorder).await;
    let mut connection = superuser(&stage).await;
    let all = i64::try_from(WRITERS * WRITES).unwrap();
    for sql in [
        "select count(*) from api_keys where name like 'w%'",
        "select count(*) from audit_events where action = 'api_key.created'",
        "select count(distinct subject) from audit_events where action = 'api_key.created'",
        "select count(*) from idempotent_answers where status = 201",
    ] {
        assert_eq!(number(&mut connection, sql).await, all, "{sql}");
    }
    for (id, request_id) in made {
        let sql = format!("select count(*) from api_keys where key_id = '{id}'");
        assert_eq!(number(&mut connection, &sql).await, 1, "what was answered is there");
        let request_id = request_id.unwrap();
        let sql = format!("select count(*) from audit_events where details ->> 'request_id' = '{request_id}'");
        assert_eq!(number(&mut connection, &sql).await, 1, "what was answered is in the trail, once");
    }
    check_trail(&stage, all).await;
    drop(stage);
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = durable(&directory, None).await;
    let stage = Stage::on(&server).await;
    let root = stage.key("acme");
    let before = until_done(stage.address, "/v1/api-keys", &root, "one", &body_of("one")).await.json();
    let port = server.port();
    kill(Pid::from_raw(i32::try_from(server.pid()).unwrap()), Signal::SIGKILL).unwrap();
    server.stop().await;
    get(stage.address, "/v1/ready", &root).await.problem(503, "unavailable");
    let refused = post(stage.address, "/v1/api-keys", &root, "two", &body_of("two")).await;
    refused.problem(503, "unavailable");
    let server = durable(&directory, Some(port)).await;
    let again = until_done(stage.address, "/v1/api-keys", &root, "one", &body_of("one")).await.json();
    assert_eq!(before["key_id"], again["key_id"], "what was answered survived");
    assert_eq!(traces(&stage, "one", "one").await, [1; 4]);
    until_done(stage.address, "/v1/api-keys", &root, "two", &body_of("two")).await;
    assert_eq!(get(stage.address, "/v1/ready", &root).await.status, 200);
    drop(stage);
    server.stop().await;
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Both ends learn of it.
    Broken,
    /// It stays open, and nothing answers on it again.
    Silent,
}

/// A wire to PostgreSQL that is lost, when it is told to, in place of the next answer to a commit.
struct Wire {
    address: SocketAddr,
    breaks: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl Wire {
    async fn to(postgres: SocketAddr, loss: Loss) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let breaks = Arc::new(AtomicBool::new(false));
        let is_told = Arc::clone(&breaks);
        let serving = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(postgres).await.unwrap();
                tokio::spawn(carry(near, far, Arc::clone(&is_told), loss));
            }
        });
        Self { address, breaks, serving }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(near: TcpStream, far: TcpStream, breaks: Arc<AtomicBool>, loss: Loss) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let outward = async move { tokio::io::copy(&mut from_near, &mut to_far).await.map(drop) };
    let inward = async move {
        let mut bytes = vec![0; 65_536];
        loop {
            let count = from_far.read(&mut bytes).await?;
            // The tag of the command that was completed (PostgreSQL manual, "Message Formats", CommandComplete).
            let is_commit = bytes[..count].windows(7).any(|part| part == b"COMMIT\0");
            if is_commit && breaks.swap(false, Ordering::SeqCst) {
                match loss {
                    Loss::Broken => return Ok(()),
                    Loss::Silent => return std::future::pending().await,
                }
            }
            if count == 0 {
                return Ok(());
            }
            to_near.write_all(&bytes[..count]).await?;
        }
    };
    // Either way ends both.
    let _: std::io::Result<()> = tokio::select! { ended = outward => ended, ended = inward => ended };
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_done_again() {
    lose_commits(Loss::Broken).await;
}

#[tokio::test]
async fn a_commit_that_is_never_answered_is_not_done_again() {
    lose_commits(Loss::Silent).await;
}

async fn lose_commits(loss: Loss) {
    let stage = Stage::new().await;
    let wire = Wire::to(stage.postgres_address(), loss).await;
    let through = |role: &str| stage.options(role).host("127.0.0.1").port(wire.address.port());
    let operator_pool = Some(sqlx::PgPool::connect_lazy_with(through("securebase_operator")));
    let parts = ApiParts { pool: pool(through("securebase_app")), operator_pool, ..stage.parts() };
    let state = ApiState::new(parts);
    let recorder = state.recorder().clone();
    let address = stage.serve(state).await;
    let root = stage.key("acme");
    let admin = token(None, 3);
    stage.add_key(&admin, &["admin"]).await;

    // A key: its caller does not know, asks again, and gets the key that was made.
    wire.breaks.store(true, Ordering::SeqCst);
    post(address, "/v1/api-keys", &root, "lost", &body_of("lost")).await.problem(503, "unavailable");
    assert!(!wire.breaks.load(Ordering::SeqCst), "the answer was lost");
    let again = until_done(address, "/v1/api-keys", &root, "lost", &body_of("lost")).await.json();
    assert_eq!(traces(&stage, "lost", "lost").await, [1; 4]);
    assert_eq!(again["key"], serde_json::Value::Null, "the secret is stored nowhere");

    // Calls of customers and of operators: the recorder does not know, and finds out.
    for (path, key) in [("/v1/invoices", &root), ("/v1/admin/customers", &admin.reveal())] {
        recorder.flush().await.unwrap();
        let mut gate = stage.superuser().await;
        let mut gate = gate.begin().await.unwrap();
        sqlx::raw_sql("lock table audit_heads in exclusive mode").execute(&mut *gate).await.unwrap();
        let answer = get(address, path, key).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // Only the recorder commits from here on.
        wire.breaks.store(true, Ordering::SeqCst);
        gate.rollback().await.unwrap();
        flushed(&recorder).await;
        assert!(!wire.breaks.load(Ordering::SeqCst), "the answer was lost");
        let request_id = answer.header("x-request-id").unwrap();
        let sql = format!("select count(*) from audit_events where details ->> 'request_id' = '{request_id}'");
        assert_eq!(number(&mut stage.superuser().await, &sql).await, 1, "{path}");
    }
    check_trail(&stage, 4).await;
}

#[tokio::test]
async fn what_may_not_be_on_the_disk_yet_is_not_shown_before_its_commit_is_answered() {
    let stage = Stage::new().await;
    let wire = Wire::to(stage.postgres_address(), Loss::Broken).await;
    let through = stage.options("securebase_app").host("127.0.0.1").port(wire.address.port());
    let state = ApiState::new(ApiParts { pool: pool(through), ..stage.parts() });
    let recorder = state.recorder().clone();
    let address = stage.serve(state).await;
    let key = stage.key("acme");

    for path in ["/v1/invoices", "/v1/audit-events", "/v1/invoices/preview"] {
        assert_ne!(get(address, path, &key).await.status, 503, "{path}");
        // The next commit is that of the answer.
        recorder.flush().await.unwrap();
        wire.breaks.store(true, Ordering::SeqCst);
        get(address, path, &key).await.problem(503, "unavailable");
        assert!(!wire.breaks.load(Ordering::SeqCst), "{path}: the answer was lost");
        assert_ne!(get(address, path, &key).await.status, 503, "{path}: a connection of its own");
    }
}
