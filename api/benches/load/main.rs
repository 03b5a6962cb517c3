//! Load on the API: `securebase serve` in its own process, on real PostgreSQL with its disk writes on, asked by 500 customers.
//!
//! Open loop: requests leave at their time, whether or not earlier ones are answered, and a latency counts from the time a
//! request should have left; so a server that stalls is seen to. Then as fast as connections go (closed loop), beside a bare
//! static axum route in a process of its own: what the machine and this client can do at all.
//!
//! Ends with 1 when an answer was not 200. Times are printed beside what is aimed at, and nothing is made of them.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on ends")]

mod bare;
mod client;
mod seed;
mod servers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use client::{Outcome, closed_loop, open_loop};
use servers::Server;

/// What is asked, and how often in twenty.
const MIX: [(&str, &str, usize); 5] = [
    (
        "usage by account, a month",
        "/v1/usage?meter=cloudtrail_events&from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z&group_by=account",
        8,
    ),
    (
        "usage by hour, a day",
        "/v1/usage?meter=cloudtrail_events&from=2026-10-07T00:00:00Z&to=2026-10-08T00:00:00Z&group_by=account,hour",
        4,
    ),
    ("metrics of a month", "/v1/metrics?month=2026-10", 4),
    ("metrics of 12 months", "/v1/metrics/history?until=2026-10", 2),
    ("accounts", "/v1/accounts", 2),
];

/// How long everything is asked before anything is measured.
const WARM_SECONDS: u64 = 5;

#[derive(Debug, Parser)]
struct Arguments {
    /// The built `securebase`.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Seconds of each part.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Requests a second of the open loop.
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Customers, each with a key.
    #[arg(long, default_value_t = 500)]
    customers: u32,
    /// Only serve a static answer; how this program calls itself.
    #[arg(long, hide = true)]
    bare: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.bare {
        bare::serve().await;
        return ExitCode::SUCCESS;
    }
    let Some(program) = &arguments.server else {
        eprintln!("load: give the built program with --server; `make load` does");
        return ExitCode::from(2);
    };
    println!("{} customers, {} s a part, {} processors", arguments.customers, arguments.seconds, processors());
    let (server, keys) = Server::start(program, arguments.customers).await;
    let requests = Arc::new(requests(server.address, &keys));
    warm_up(server.address, &keys).await;
    // Opens the server's connections to PostgreSQL, and plans on each what is asked: what a server does once, when it starts.
    closed_loop(server.address, &requests, 50, Duration::from_secs(WARM_SECONDS)).await;

    let mut failed = false;
    let length = Duration::from_secs(arguments.seconds);
    for (connections, aim) in [(50, "10 ms"), (500, "50 ms")] {
        let what = format!("open loop, {connections} connections, {} requests/s", arguments.rate);
        let outcome = open_loop(server.address, &requests, connections, arguments.rate, length).await;
        failed |= show(&what, &outcome, Some(aim));
    }
    let outcome = closed_loop(server.address, &requests, 50, length).await;
    failed |= show("closed loop, 50 connections", &outcome, None);
    println!("memory of the server: {}", server.memory());
    println!("{}", cache_hits(server.address).await);
    server.stop().await;

    let bare = Server::bare().await;
    let question = Arc::new(vec![("a static answer".to_owned(), client::get(bare.address, "/", ""))]);
    let what = format!("bare axum route, open loop, 500 connections, {} requests/s", arguments.rate);
    failed |= show(&what, &open_loop(bare.address, &question, 500, arguments.rate, length).await, None);
    let outcome = closed_loop(bare.address, &question, 50, length).await;
    failed |= show("bare axum route, closed loop, 50 connections", &outcome, None);
    bare.stop().await;
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// One request after another, each customer's turn, in the mix above.
fn requests(address: SocketAddr, keys: &[String]) -> Vec<(String, Vec<u8>)> {
    let slots: Vec<_> =
        MIX.iter().flat_map(|(name, path, times)| std::iter::repeat_n((*name, *path), *times)).collect();
    let mut all = Vec::with_capacity(keys.len() * slots.len());
    // Spread over the slots, so that no stretch of time has one kind of question alone.
    for turn in 0..slots.len() {
        for (number, key) in keys.iter().enumerate() {
            let (name, path) = slots[(turn + number * 7) % slots.len()];
            all.push((name.to_owned(), client::get(address, path, key)));
        }
    }
    all
}

/// Each key once, two at a time: bcrypt is what this costs, and afterwards it is remembered.
async fn warm_up(address: SocketAddr, keys: &[String]) {
    let began = Instant::now();
    let once: Vec<_> = keys.iter().map(|key| ("first".to_owned(), client::get(address, "/v1/accounts", key))).collect();
    let outcome = client::each_once(address, &once, processors()).await;
    assert_eq!(outcome.errors, 0, "a key was refused: {:?}", outcome.first_error);
    println!("first request of each key (bcrypt): {:.1} s for {}", began.elapsed().as_secs_f64(), keys.len());
}

fn show(what: &str, outcome: &Outcome, aim: Option<&str>) -> bool {
    let aim = aim.map_or_else(String::new, |aim| format!(", aimed at p99 < {aim}"));
    println!("\n{what}{aim}: {} answers, {:.0}/s, {} errors", outcome.answers, outcome.per_second(), outcome.errors);
    if let Some(error) = &outcome.first_error {
        println!("  first error: {error}");
    }
    println!("  {:<28} {:>8} {:>9} {:>9} {:>9} {:>9}", "milliseconds", "answers", "p50", "p99", "p99.9", "max");
    for (name, histogram) in outcome.rows() {
        let at = |quantile: f64| ms(histogram.value_at_quantile(quantile));
        let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
        println!("  {name:<28} {:>8} {p50:>9} {p99:>9} {p999:>9} {:>9}", histogram.len(), ms(histogram.max()));
    }
    outcome.errors > 0
}

/// Microseconds as milliseconds with two digits.
fn ms(micros: u64) -> String {
    format!("{}.{:02}", micros / 1_000, micros % 1_000 / 10)
}

/// How often bcrypt was spared, as the server's own measurements say.
async fn cache_hits(address: SocketAddr) -> String {
    let answer = client::once(address, &client::get(address, "/metrics", "")).await;
    let count = |who: &str| {
        let name = format!("securebase_api_secrets_total{{known_by=\"{who}\"}} ");
        answer.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap_or_default()
    };
    let (memory, table, bcrypt) = (count("memory"), count("table"), count("bcrypt"));
    let all = (memory + table + bcrypt).max(1);
    let per_mille = (memory + table) * 1_000 / all;
    format!(
        "authentication cache: {}.{} % of {all} (memory {memory}, table {table}, bcrypt {bcrypt}), aimed at over 80 %",
        per_mille / 10,
        per_mille % 10
    )
}
