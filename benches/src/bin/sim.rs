//! Plays seeds of the simulation; exits 0 only without a difference.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use benches::simulation::{Fault, Options, Sabotage, play, shrink};
use clap::Parser;

/// Plays months of the whole chain from seeds, with everything that can go wrong. A seed that fails is made smaller, its
/// trace printed, and the command that plays it again.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Steps with faults, before everything must come to rest.
    #[arg(long, default_value_t = 600)]
    steps: u64,
    /// How many objects are delivered; by the seed unless given.
    #[arg(long)]
    objects: Option<u64>,
    /// Faults that do not happen, by name.
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// A deliberate bug, to see that it is found.
    #[arg(long, value_parser = sabotage)]
    sabotage: Option<Sabotage>,
    /// Begin no further seed after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Print the trace of every seed.
    #[arg(long)]
    trace: bool,
}

fn fault(name: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ");
    Fault::parse(name).ok_or_else(|| format!("no such fault; there are {}", names()))
}

fn sabotage(name: &str) -> Result<Sabotage, String> {
    let names = || Sabotage::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ");
    Sabotage::parse(name).ok_or_else(|| format!("no such bug; there are {}", names()))
}

#[expect(clippy::disallowed_methods, reason = "how long a soak lasts is the terminal's time; no seed knows of it")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut met = BTreeMap::<&str, u64>::new();
    let (mut steps, mut seeds) = (0, 0);
    let began = now();
    for seed in arguments.first_seed..arguments.first_seed.saturating_add(arguments.seeds) {
        if arguments.seconds.is_some_and(|seconds| seconds <= began.elapsed().as_secs()) {
            break;
        }
        seeds += 1;
        let options = Options {
            objects: arguments.objects,
            without: arguments.without.iter().copied().collect(),
            sabotage: arguments.sabotage,
            keeps_trace: arguments.trace,
            ..Options::of_seed(seed, arguments.steps)
        };
        let outcome = play(&options);
        for line in &outcome.trace {
            println!("{line}");
        }
        if let Some(violation) = outcome.violation {
            eprintln!("seed {seed}: {violation}");
            eprintln!("making it smaller ...");
            let smallest = shrink(&Options { keeps_trace: false, ..options });
            let shown = play(&Options { keeps_trace: true, ..smallest.clone() });
            for line in &shown.trace {
                println!("{line}");
            }
            println!("sim {smallest}");
            return ExitCode::FAILURE;
        }
        steps += outcome.steps;
        for (what, often) in outcome.met {
            *met.entry(what).or_default() += often;
        }
    }
    for (what, often) in met {
        println!("{often:>10} {what}");
    }
    println!("{seeds} seeds from {}, {steps} steps: no difference", arguments.first_seed);
    ExitCode::SUCCESS
}
