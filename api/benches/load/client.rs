//! A client of HTTP/1.1 that keeps its connections, and the two loops that use it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Latencies are told apart to three digits, up to a minute.
const MICROS_MAX: u64 = 60_000_000;

/// Requests with the names of their kinds.
pub(crate) type Requests = Arc<Vec<(String, Vec<u8>)>>;

/// What came of many requests.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answers: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    by_name: BTreeMap<String, Histogram<u64>>,
    elapsed: Duration,
}

impl Outcome {
    fn answered(&mut self, name: &str, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX).clamp(1, MICROS_MAX);
        self.answers += 1;
        self.by_name.entry(name.to_owned()).or_insert_with(histogram).saturating_record(micros);
    }

    fn failed(&mut self, error: String) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }

    fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        for (name, histogram_of) in other.by_name {
            self.by_name.entry(name).or_insert_with(histogram).add(&histogram_of).unwrap();
        }
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    /// Each kind, and all together if there are several.
    pub(crate) fn rows(&self) -> Vec<(String, Histogram<u64>)> {
        let mut all = histogram();
        for of_name in self.by_name.values() {
            all.add(of_name).unwrap();
        }
        let mut rows: Vec<_> = self.by_name.iter().map(|(name, of_name)| (name.clone(), of_name.clone())).collect();
        if rows.len() > 1 {
            rows.push(("all".to_owned(), all));
        }
        rows
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(MICROS_MAX, 3).unwrap()
}

/// A request's bytes.
pub(crate) fn get(address: SocketAddr, path: &str, key: &str) -> Vec<u8> {
    let authorization = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}\r\n").into_bytes()
}

/// A connection that is opened again after an error.
struct Connection {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    fn to(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// Sends a request and reads the whole answer; anything but 200 is an error.
    async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        let answer = self.exchange(request).await;
        if answer.is_err() {
            self.stream = None;
        }
        let (status, body) = answer.map_err(|error| error.to_string())?;
        if status == 200 { Ok(body) } else { Err(format!("{status}: {}", String::from_utf8_lossy(&body))) }
    }

    async fn exchange(&mut self, request: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut().expect("it is open, or was opened");
        stream.get_mut().write_all(request).await?;
        let mut head = Vec::with_capacity(1_024);
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let broken = || std::io::Error::other("an answer without status or length");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length.ok_or_else(broken)?];
        stream.read_exact(&mut body).await?;
        Ok((status, body))
    }
}

/// One request, on a connection of its own.
pub(crate) async fn once(address: SocketAddr, request: &[u8]) -> String {
    let body = Connection::to(address).ask(request).await.unwrap();
    String::from_utf8_lossy(&body).into_owned()
}

/// Every request once, over so many connections.
pub(crate) async fn each_once(address: SocketAddr, requests: &[(String, Vec<u8>)], connections: usize) -> Outcome {
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let mine: Vec<_> = requests.iter().skip(number).step_by(connections).cloned().collect();
        tasks.spawn(async move {
            let (mut connection, mut outcome) = (Connection::to(address), Outcome::default());
            for (name, request) in &mine {
                let began = Instant::now();
                match connection.ask(request).await {
                    Ok(_) => outcome.answered(name, began.elapsed()),
                    Err(error) => outcome.failed(error),
                }
            }
            outcome
        });
    }
    together(tasks, Instant::now()).await
}

/// Requests at their times, dealt to the connections in turn; each connection has one under way at a time.
pub(crate) async fn open_loop(
    address: SocketAddr,
    requests: &Requests,
    connections: u32,
    rate: u32,
    length: Duration,
) -> Outcome {
    let count = u64::from(rate) * length.as_secs();
    // Time for the tasks to be there.
    let start = Instant::now() + Duration::from_millis(200);
    let mut tasks = JoinSet::new();
    for number in 0..u64::from(connections) {
        let requests = requests.clone();
        tasks.spawn(async move {
            let (mut connection, mut outcome) = (Connection::to(address), Outcome::default());
            for turn in (number..count).step_by(connections as usize) {
                let due = start + Duration::from_micros(turn * 1_000_000 / u64::from(rate));
                sleep_until(due).await;
                let (name, request) = &requests[usize::try_from(turn).unwrap() % requests.len()];
                match connection.ask(request).await {
                    Ok(_) => outcome.answered(name, due.elapsed()),
                    Err(error) => outcome.failed(error),
                }
            }
            outcome
        });
    }
    together(tasks, start).await
}

/// Requests as fast as so many connections get answers.
pub(crate) async fn closed_loop(
    address: SocketAddr,
    requests: &Requests,
    connections: usize,
    length: Duration,
) -> Outcome {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let requests = requests.clone();
        tasks.spawn(async move {
            let (mut connection, mut outcome) = (Connection::to(address), Outcome::default());
            let mut turn = number;
            while start.elapsed() < length {
                let (name, request) = &requests[turn % requests.len()];
                turn += connections;
                let began = Instant::now();
                match connection.ask(request).await {
                    Ok(_) => outcome.answered(name, began.elapsed()),
                    Err(error) => outcome.failed(error),
                }
            }
            outcome
        });
    }
    together(tasks, start).await
}

async fn together(mut tasks: JoinSet<Outcome>, start: Instant) -> Outcome {
    let mut all = Outcome::default();
    while let Some(outcome) = tasks.join_next().await {
        all.add(outcome.unwrap());
    }
    all.elapsed = start.elapsed();
    all
}
