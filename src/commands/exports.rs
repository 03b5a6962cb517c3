//! `securebase exports`: what FOCUS exports hold.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use ingest::focus::{Inspection, inspect};
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::print;

/// Sums up files; nothing is counted, and no store is needed.
pub(super) fn run(global: &Global, command: cli::Exports) -> anyhow::Result<ExitCode> {
    let cli::Exports::Inspect { files } = command;
    let mut inspected = Vec::new();
    for path in &files {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        inspected.push((path, inspect(file).with_context(|| path.display().to_string())?));
    }
    if global.json {
        let files = inspected.iter().map(|(path, found)| as_json(path, found));
        print::json(&json!({ "files": files.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    for (path, found) in &inspected {
        print_one(path, found);
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(path: &Path, found: &Inspection) -> Value {
    let sums = found.sums.iter().map(|((service, unit), sum)| {
        json!({ "service": service, "unit": unit, "rows": sum.rows, "quantity": sum.quantity.to_string() })
    });
    let meters = found
        .meters
        .iter()
        .map(|(meter, sum)| json!({ "meter": meter.as_str(), "rows": sum.rows, "quantity": sum.quantity.to_string() }));
    json!({
        "file": path,
        "rows": found.rows,
        "providers": found.providers,
        "sub_accounts": found.sub_accounts,
        "sums": sums.collect::<Vec<_>>(),
        "meters": meters.collect::<Vec<_>>(),
        "malformed": found.malformed,
        "cut_off": found.cut_off.map(|reason| reason.as_str()),
    })
}

fn print_one(path: &Path, found: &Inspection) {
    print::line(&format!(
        "{}: {} rows, {} of AWS in {} sub-accounts, {} malformed{}",
        path.display(),
        print::count(found.rows),
        print::count(found.sub_accounts.values().sum()),
        found.sub_accounts.len(),
        found.malformed,
        found.cut_off.map_or_else(String::new, |reason| format!("; CUT OFF: {reason}")),
    ));
    let sums = found.sums.iter().map(|((service, unit), sum)| {
        vec![service.clone(), unit.clone(), print::count(sum.rows), sum.quantity.to_string()]
    });
    print::table(&["service", "unit", "rows", "quantity"], &sums.collect::<Vec<_>>());
    let meters = found
        .meters
        .iter()
        .map(|(meter, sum)| vec![meter.to_string(), print::count(sum.rows), sum.quantity.to_string()]);
    print::table(&["meter", "rows", "raw units"], &meters.collect::<Vec<_>>());
}
