//! The monthly run on a real PostgreSQL: invoices a second, memory, bytes, and where the time goes.
//!
//! The cluster is private and durable: every commit waits for the disk. Closes hold what the aggregator writes into
//! them; the run is the library function that the command line and the Lambda call.

mod clock;
mod measures;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use billing::{Month, Party, RunRequest, issue_with, render_due};
use clap::Parser;
use embedded::{Durability, PostgreSql, PostgresOptions};
use ingest::Timestamp;
use invoice_pdf::{PdfRenderer, Typefaces};
use sqlx::postgres::PgPoolOptions;

use crate::clock::{Stopwatch, Times};
use crate::measures::{Measure, Sizes};

/// Issues the invoices of a month for growing numbers of customers, on a private durable PostgreSQL.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many customers, each number on a database of its own
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    customers: Vec<u32>,
    /// How many customers are billed at once
    #[arg(long, default_value_t = billing::WORKERS)]
    workers: usize,
    /// Where the cluster is made; a new folder that is left behind without --discard
    #[arg(long, value_name = "DIR", default_value = "target/bench-invoices")]
    dir: PathBuf,
    /// Remove the cluster's folder at the end
    #[arg(long)]
    discard: bool,
}

/// The month that is billed.
const PERIOD: &str = "2026-10";
/// When: the first instant after it.
const NOW: &str = "2026-11-01T00:00:00Z";

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("invoices: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(&arguments.dir)?;
    let dir = arguments.dir.canonicalize()?;
    let options = PostgresOptions { directory: dir.clone(), durability: Durability::Durable, port: None };
    let server = PostgreSql::start(options).await?;
    let mut measured = Vec::new();
    for &customers in &arguments.customers {
        let measure = measure(&server, customers, arguments.workers).await?;
        println!("{measure}");
        measured.push(measure);
    }
    server.stop().await;
    if let [first, .., last] = measured.as_slice() {
        println!("\n{}", Measure::growth(first, last));
    }
    if arguments.discard {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

async fn measure(server: &PostgreSql, customers: u32, workers: usize) -> Result<Measure, Box<dyn std::error::Error>> {
    let database = format!("invoices_{customers}");
    let staged = Stopwatch::start();
    stage::make(server, &database, customers, PERIOD).await?;
    let staged = staged.elapsed();

    let connections = u32::try_from(workers)?.saturating_add(1);
    let url = server.url(&database, "securebase_billing");
    let pool = PgPoolOptions::new().max_connections(connections).connect(&url).await?;
    let mut superuser = stage::superuser(server, &database).await?;
    let before = Sizes::read(&mut superuser).await?;

    let times = Arc::new(Times::default());
    let request = RunRequest { workers, ..RunRequest::new(Month::parse(PERIOD)?, Party::default()) };
    let now = Timestamp::parse_rfc3339(NOW)?;
    let running = Stopwatch::start();
    let watched: Arc<dyn billing::Interruptions> = times.clone();
    let report = issue_with(&pool, &request, now, watched).await?;
    let ran = running.elapsed();
    if report.issued() != customers as usize || !report.is_finished {
        return Err(format!("{} of {customers} invoices were issued: {:?}", report.issued(), report.counts()).into());
    }
    let after = Sizes::read(&mut superuser).await?;

    let again = Stopwatch::start();
    let second = billing::issue(&pool, &request, now).await?;
    let again = again.elapsed();
    if second.issued() != 0 {
        return Err("a re-run issued invoices".into());
    }

    let rendering = Stopwatch::start();
    let renderer = Arc::new(PdfRenderer::new(Typefaces::embedded()));
    let rendered = render_due(&pool, &renderer, workers, now).await?;
    let rendering = rendering.elapsed();
    if rendered.rendered != u64::from(customers) {
        return Err(format!("{rendered:?} of {customers} documents").into());
    }
    Ok(Measure {
        customers,
        workers,
        staged,
        closed_totals: stage::closed_totals(&mut superuser).await?,
        ran,
        again,
        rendered: (rendered.rendered, rendering),
        pdf_bytes: stage::pdf_bytes(&mut superuser).await?,
        grown: after.since(&before),
        memory: measures::memory_high_bytes(),
        steps: times.steps(),
    })
}
