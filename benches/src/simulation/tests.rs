use std::fmt::Write as _;
use std::path::Path;

use super::*;

/// Seeds played by `make test`, in each of four tests.
const SEEDS: u64 = 500;
const STEPS: u64 = 400;
/// A bug that so many seeds do not find is not found.
const SEEDS_TO_FIND_MAX: u64 = 300;

fn check(seeds: std::ops::Range<u64>) {
    let mut met = BTreeMap::<&str, u64>::new();
    for seed in seeds {
        let options = Options::of_seed(seed, STEPS);
        let outcome = play(&options);
        if let Some(violation) = outcome.violation {
            panic!("{violation}\nsim {}", shrink(&options));
        }
        for (what, often) in outcome.met {
            *met.entry(what).or_default() += often;
        }
    }
    // Seeds are worth nothing unless they meet what they are about.
    let beside = [
        "conflict",
        "redelivery",
        "split",
        "slice in parts",
        "ahead of the clock",
        "verdict of a wrong clock",
        "replayed letter",
        "stale roll-up",
        "close",
        "override",
        "correction",
    ];
    let names = Fault::ALL.iter().map(|fault| fault.as_str());
    for what in names.chain(beside) {
        let often = met.get(what).copied().unwrap_or_default();
        assert!(SEEDS / 10 < often, "{what}: only {often} in {SEEDS} seeds");
    }
}

/// The meta test: nothing but the seed decides.
#[test]
fn a_seed_gives_one_trace_byte_for_byte() {
    let mut different = BTreeSet::new();
    for seed in 0..40 {
        let options = Options { keeps_trace: true, ..Options::of_seed(seed, STEPS) };
        let (first, second) = (play(&options), play(&options));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        let bare = play(&Options { keeps_trace: false, ..options });
        assert_eq!((first.trace_sha256, first.steps), (bare.trace_sha256, bare.steps), "seed {seed}");
        different.insert(first.trace_sha256);
    }
    assert_eq!(different.len(), 40, "another seed gives another trace");
}

#[test]
fn nothing_differs_in_the_first_quarter_of_the_seeds() {
    check(0..SEEDS);
}

#[test]
fn nothing_differs_in_the_second_quarter_of_the_seeds() {
    check(SEEDS..2 * SEEDS);
}

#[test]
fn nothing_differs_in_the_third_quarter_of_the_seeds() {
    check(2 * SEEDS..3 * SEEDS);
}

#[test]
fn nothing_differs_in_the_last_quarter_of_the_seeds() {
    check(3 * SEEDS..4 * SEEDS);
}

/// How many seeds it takes to find each bug, as the table in the documentation has it. `UPDATE=1` writes it.
#[test]
fn each_deliberate_bug_is_found_as_soon_as_the_documentation_says() {
    let mut table = "| bug | what is wrong | seeds it took |\n|---|---|---|\n".to_owned();
    for sabotage in Sabotage::ALL {
        let found = (0..SEEDS_TO_FIND_MAX).find(|&seed| {
            let options = Options { sabotage: Some(*sabotage), ..Options::of_seed(seed, STEPS) };
            play(&options).violation.is_some()
        });
        let found = found.unwrap_or_else(|| panic!("{} is not found in {SEEDS_TO_FIND_MAX} seeds", sabotage.as_str()));
        writeln!(table, "| `{}` | {} | {} |", sabotage.as_str(), sabotage.meaning(), found + 1).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/simulation.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once("<!-- bugs -->\n").unwrap();
    let (written, after) = rest.split_once("<!-- end of bugs -->").unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}<!-- bugs -->\n{table}<!-- end of bugs -->{after}")).unwrap();
    } else {
        assert_eq!(written, table, "run with UPDATE=1 and look at the difference");
    }
}

#[test]
fn a_failing_run_is_made_smaller_and_still_fails_when_it_is_played_again() {
    let options = Options { sabotage: Some(Sabotage::IssueTwice), ..Options::of_seed(0, STEPS) };
    let failing =
        (0..).map(|seed| Options { seed, ..options.clone() }).find(|options| play(options).violation.is_some());
    let smallest = shrink(&failing.unwrap());
    assert!(10 < smallest.without.len() && smallest.steps <= STEPS, "{smallest}");
    let shown = play(&Options { keeps_trace: true, ..smallest });
    assert!(shown.violation.is_some() && shown.trace.last().unwrap().contains("WRONG"), "{:?}", shown.trace);
}
