use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use embedded::{Durability, PostgreSql, PostgresError, PostgresOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};

fn options(directory: &Path) -> PostgresOptions {
    PostgresOptions { directory: directory.to_owned(), durability: Durability::Throwaway, port: None }
}

async fn connect(server: &PostgreSql) -> PgConnection {
    PgConnection::connect(&server.url("postgres", "postgres")).await.unwrap()
}

async fn write(server: &PostgreSql) {
    let sql = "create table kept (n int); insert into kept values (42)";
    sqlx::raw_sql(sql).execute(&mut connect(server).await).await.unwrap();
}

async fn kept(server: &PostgreSql) -> i32 {
    sqlx::query_scalar("select n from kept").fetch_one(&mut connect(server).await).await.unwrap()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

/// Waits for something that another process is about to do.
#[expect(clippy::disallowed_methods, reason = "how long another process may take is measured by the clock")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not after 30 s: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_with_what_it_kept() {
    let directory = tempfile::tempdir().unwrap();
    for durability in [Durability::Durable, Durability::Throwaway, Durability::Durable] {
        let server = PostgreSql::start(PostgresOptions { durability, ..options(directory.path()) }).await.unwrap();
        if !directory.path().join("postgres.log.1").exists() {
            write(&server).await;
        }
        assert_eq!(kept(&server).await, 42);
        let address = (Ipv4Addr::LOCALHOST, server.port());
        server.stop().await;
        assert!(TcpStream::connect(address).is_err(), "nothing listens after the stop");
    }
}

#[tokio::test]
async fn a_cluster_below_a_closed_directory_works_and_only_its_own_files_change_owner() {
    // As root the server runs as another user, who cannot walk through the closed directory.
    let root = tempfile::tempdir().unwrap();
    let closed = root.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let directory = closed.join("home/postgres");
    let server = PostgreSql::start(options(&directory)).await.unwrap();
    write(&server).await;
    assert_eq!(kept(&server).await, 42);
    server.stop().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&closed), mode(&directory.join("pgdata"))), (0o700, 0o700));
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    assert_eq!(owner(&directory), nix::unistd::geteuid().as_raw());
    let server_runs_as_another = owner(&directory.join("pgdata")) != owner(&directory);
    assert_eq!(server_runs_as_another, nix::unistd::geteuid().is_root());
}

#[tokio::test]
async fn a_killed_server_recovers_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let durable = || PostgresOptions { durability: Durability::Durable, ..options(directory.path()) };
    let server = PostgreSql::start(durable()).await.unwrap();
    write(&server).await;
    kill(pid(server.pid()), Signal::SIGKILL).unwrap();
    server.stop().await;
    let server = PostgreSql::start(durable()).await.unwrap();
    assert_eq!(kept(&server).await, 42);
    server.stop().await;
}

#[tokio::test]
async fn a_process_number_left_behind_by_a_dead_cluster_blocks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    PostgreSql::start(options(directory.path())).await.unwrap().stop().await;
    let left = directory.path().join("pgdata/postmaster.pid");
    // A process that lives and is no server: this one.
    fs::write(&left, format!("{}\n/somewhere\n0\n5432\n\n127.0.0.1\n 1 1\nready\n", std::process::id())).unwrap();
    PostgreSql::start(options(directory.path())).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_second_start_in_one_directory_is_refused_at_once_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = PostgreSql::start(options(directory.path())).await.unwrap();
    write(&server).await;
    let refused = PostgreSql::start(options(directory.path())).await.unwrap_err();
    let us = std::process::id().to_string();
    assert!(matches!(&refused, PostgresError::InUse { pid, .. } if *pid == us), "{refused}");
    assert_eq!(kept(&server).await, 42);
    server.stop().await;
}

#[tokio::test]
async fn many_starts_in_one_new_directory_make_one_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let starts: Vec<_> = (0..4).map(|_| tokio::spawn(PostgreSql::start(options(directory.path())))).collect();
    let mut running = Vec::new();
    for start in starts {
        match start.await.unwrap() {
            Ok(server) => running.push(server),
            Err(error) => assert!(matches!(error, PostgresError::InUse { .. }), "{error}"),
        }
    }
    assert_eq!(running.len(), 1);
    running.remove(0).stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused =
        PostgreSql::start(PostgresOptions { port: Some(port), ..options(directory.path()) }).await.unwrap_err();
    assert!(matches!(refused, PostgresError::PortInUse { port: named } if named == port), "{refused}");
    drop(taken);
    let server = PostgreSql::start(PostgresOptions { port: Some(port), ..options(directory.path()) }).await.unwrap();
    assert_eq!(server.port(), port);
    server.stop().await;
}

#[tokio::test]
async fn a_cluster_of_another_major_version_is_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("pgdata")).unwrap();
    fs::write(directory.path().join("pgdata/PG_VERSION"), "9\n").unwrap();
    let refused = PostgreSql::start(options(directory.path())).await.unwrap_err();
    assert!(matches!(refused, PostgresError::OtherMajor { made_by: 9, .. }), "{refused}");
    assert_eq!(fs::read_dir(directory.path().join("pgdata")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_the_end_of_its_log() {
    let directory = tempfile::tempdir().unwrap();
    PostgreSql::start(options(directory.path())).await.unwrap().stop().await;
    let settings = directory.path().join("pgdata/postgresql.conf");
    fs::write(&settings, "no_such_setting = 1\n").unwrap();
    let refused = PostgreSql::start(options(directory.path())).await.unwrap_err().to_string();
    assert!(refused.contains("no_such_setting"), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

#[tokio::test]
async fn a_path_that_is_no_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = PostgreSql::start(options(&file.join("postgres"))).await.unwrap_err().to_string();
    assert!(refused.contains("file/postgres"), "{refused}");
}

/// Starts a shell under `with-postgres` that prints the server's URL and then does `then`.
fn with_postgres(then: &str, temporary: &Path) -> (std::process::Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-postgres"));
    command.args(["sh", "-c", &format!("echo $SECUREBASE_TEST_POSTGRES; {then}")]).env("TMPDIR", temporary);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
    (child, url.trim().to_owned())
}

fn address(url: &str) -> String {
    url.strip_prefix("postgres://postgres@").unwrap().strip_suffix("/postgres").unwrap().to_owned()
}

#[tokio::test]
async fn the_server_and_its_files_go_with_a_killed_parent() {
    // A stand-in for /tmp: as root, the server's user is the one that removes the files.
    let temporary = tempfile::tempdir().unwrap();
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let (mut parent, url) = with_postgres("exec cat", temporary.path());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await.unwrap();
    let files = || fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!((files(), TcpStream::connect(address(&url)).is_ok()), (1, true));
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("the server has gone", || TcpStream::connect(address(&url)).is_err());
    eventually("its processes have gone", || kill(Pid::from_raw(backend), None).is_err());
    eventually("its files have gone", || files() == 0);
}

#[test]
fn with_postgres_ends_as_its_command_does() {
    let (mut parent, url) = with_postgres("exit 7", &std::env::temp_dir());
    assert_eq!(parent.wait().unwrap().code(), Some(7));
    assert!(TcpStream::connect(address(&url)).is_err(), "the server has stopped first");
    let (mut parent, url) = with_postgres("exec cat", &std::env::temp_dir());
    // Waiting closes what it holds of the input, and `cat` ends by itself when its input does.
    let _input = parent.stdin.take().unwrap();
    kill(pid(parent.id()), Signal::SIGTERM).unwrap();
    let ended = parent.wait().unwrap();
    assert_eq!((ended.code(), ended.signal()), (Some(128 + Signal::SIGTERM as i32), None));
    assert!(TcpStream::connect(address(&url)).is_err(), "the server has stopped first");
    let no_command = Command::new(env!("CARGO_BIN_EXE_with-postgres")).arg("/no/such/command").output().unwrap();
    assert_eq!(no_command.status.code(), Some(125));
}
