//! A home, and commands on it that end in bounded time.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use embedded::testing::TestDatabase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Far above what a command takes on a busy machine; below the test runner's own limit.
const COMMAND_SECONDS_MAX: u64 = 60;

/// The same, or more where a run is asked to be long.
fn command_seconds_max() -> u64 {
    let asked = env::var("SECUREBASE_TEST_COMMAND_SECONDS").ok();
    asked.map_or(COMMAND_SECONDS_MAX, |text| text.parse().expect("whole seconds"))
}

/// For what a test itself does with databases and servers.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// A folder with a home in it, and the database that its commands are given, if any.
pub(crate) struct Site {
    folder: TempDir,
    pub(crate) database: Option<TestDatabase>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The last line of standard output, as JSON, of a command that succeeded.
    pub(crate) fn json(&self) -> Value {
        self.succeeded().report()
    }

    /// The same of a command that may have reported a failure in it.
    pub(crate) fn report(&self) -> Value {
        let line = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The message of a command that failed as a command should: one line that names the program, no panic.
    pub(crate) fn refusal(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        let message = self.err.trim_end().strip_prefix("securebase: ");
        message.unwrap_or_else(|| panic!("the line does not name the program: {self:?}"))
    }
}

impl Site {
    /// With a database on the test run's server.
    pub(crate) fn new() -> Self {
        let database =
            block_on(TestDatabase::create(
                &migrations::fingerprint(),
                |url| async move { migrations::migrate(&url).await },
            ));
        Self { database: Some(database.unwrap()), ..Self::without_database() }
    }

    /// Whose commands start a private PostgreSQL in the home.
    pub(crate) fn without_database() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), database: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Writes a file below the folder and returns its path.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The program with this home, in a clean environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = clean(env!("CARGO_BIN_EXE_securebase"));
        command.args(arguments);
        self.surround(&mut command);
        command
    }

    /// Sets a command's working directory and the settings of this home.
    pub(crate) fn surround(&self, command: &mut Command) {
        command.current_dir(self.folder.path()).env("SECUREBASE_HOME", self.home()).env("SECUREBASE_FLUSH_MS", "20");
        if let Some(database) = &self.database {
            command.env("DATABASE_URL", database.superuser_url());
        }
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        run(&mut self.command(arguments))
    }

    pub(crate) fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        run(self.command(arguments).arg("--json")).json()
    }

    /// All usage, as the sum a row of these keys has.
    pub(crate) fn usage(&self, group_by: &str) -> Vec<Value> {
        let answer = self.json(["usage", "--all", "--group-by", group_by]);
        answer["rows"].as_array().unwrap().clone()
    }

    /// How many events are counted, whoever's.
    pub(crate) fn counted(&self) -> u64 {
        self.usage("account").iter().map(|row| row["quantity"].as_str().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Adds a customer of a tier whose contract starts with 2024.
    pub(crate) fn add_customer(&self, id: &str, tier: &str) {
        let start = "2024-01-01T00:00:00Z";
        let named = ["--name", "Käse & Söhne GmbH", "--tier", tier, "--contract-start", start];
        self.run([["customers", "add", id].as_slice(), &named].concat()).succeeded();
    }

    pub(crate) fn register(&self, account: &str, customer: &str, from: &str) -> Value {
        self.json(["accounts", "register", account, "--customer", customer, "--from", from])
    }

    /// `serve` on a port of its own, once the API listens.
    pub(crate) fn serve(&self) -> Serving {
        Serving::start(self.command(["serve", "--listen", "127.0.0.1:0", "--json"]))
    }

    /// A new key with which a customer asks the API of the home.
    pub(crate) fn api_key(&self, customer: &str) -> String {
        let made = self.json(["keys", "create", "--customer", customer, "--name", "a test"]);
        made["key"].as_str().unwrap().to_owned()
    }
}

/// A program without the settings that the tests' own environment may have.
pub(crate) fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let prefixes = ["SECUREBASE_", "AWS_", "DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGPASS", "PGDATABASE"];
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end, or kills it and fails.
pub(crate) fn run(command: &mut Command) -> Ran {
    ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Waits for a command's end and for all it says.
pub(crate) fn ended(child: Child) -> Ran {
    let pid = pid_of(&child);
    let (end, has_ended) = mpsc::channel();
    thread::spawn(move || end.send(child.wait_with_output()));
    let seconds = command_seconds_max();
    let output = match has_ended.recv_timeout(Duration::from_secs(seconds)) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            kill(pid, Signal::SIGKILL).unwrap();
            panic!("not ended after {seconds} s: {:?}", has_ended.recv());
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The process id, for signals.
pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Looks again until something is so. Each look is work, such as a request: there is nothing to sleep for.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(COMMAND_SECONDS_MAX), "still not so: {what}");
        thread::yield_now();
    }
}

#[expect(clippy::disallowed_methods, reason = "a wait needs an end")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A running `serve`; killed with this value.
pub(crate) struct Serving {
    child: Option<Child>,
    /// `HOST:PORT` of the API.
    pub(crate) address: String,
}

impl Serving {
    pub(crate) fn start(command: Command) -> Self {
        Self::start_logging(command, Stdio::piped())
    }

    /// With its log going there: a pipe that nobody reads holds up who logs much.
    pub(crate) fn start_logging(mut command: Command, log: Stdio) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (line, said) = first_line(child.stdout.take().unwrap());
        child.stdout = Some(said);
        let Ok(listening) = serde_json::from_str::<Value>(&line) else { panic!("{line:?}, then {:?}", ended(child)) };
        let url = listening["api"].as_str().unwrap();
        assert_eq!(listening["pid"], child.id());
        let address = url.strip_prefix("http://").unwrap().to_owned();
        Self { child: Some(child), address }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid_of(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end_by(self, signal: Signal) -> Ran {
        self.signal(signal);
        self.end()
    }

    /// Waits until it has ended.
    pub(crate) fn end(mut self) -> Ran {
        ended(self.child.take().unwrap())
    }

    /// The status and body of a GET request.
    pub(crate) fn get(&self, path: &str, key: Option<&str>) -> (u16, Value) {
        self.get_with(path, key, &[])
    }

    /// The same with headers.
    pub(crate) fn get_with(&self, path: &str, key: Option<&str>, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(COMMAND_SECONDS_MAX))).unwrap();
        let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{key}{lines}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    /// The status and body of a POST request.
    pub(crate) fn post(&self, path: &str, key: Option<&str>, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(COMMAND_SECONDS_MAX))).unwrap();
        let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (host, length) = (&self.address, body.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n");
        stream.write_all(format!("{head}{key}{lines}\r\n").as_bytes()).unwrap();
        // A server that refuses a body need not read it.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    /// How many events the API says a customer has.
    pub(crate) fn quantity(&self, key: &str) -> u64 {
        let path = "/v1/usage?meter=cloudtrail_events&from=2024-01-01T00:00:00Z&to=2025-01-01T00:00:00Z&group_by=account,month";
        let (status, body) = self.get(path, Some(key));
        assert_eq!(status, 200, "{body}");
        let rows = body["rows"].as_array().unwrap();
        rows.iter().map(|row| row["quantity"].as_str().unwrap().parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first line that a process says, and the rest of what it will say.
fn first_line(said: ChildStdout) -> (String, ChildStdout) {
    let (line, has_said) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::with_capacity(1, said);
        let mut text = String::new();
        reader.read_line(&mut text).unwrap();
        line.send((text, reader.into_inner()))
    });
    has_said.recv_timeout(Duration::from_secs(COMMAND_SECONDS_MAX)).expect("the command says something in time")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
