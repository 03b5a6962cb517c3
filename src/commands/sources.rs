//! `securebase sources`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use ingest::focus::{self, Inspection};
use ingest::{Declaration, Meter, Source, Timestamp};
use serde_json::json;

use crate::cli::{self, Global, SourcesCommand};
use crate::{declared, print};

/// Needs no stores.
pub(super) fn run(global: &Global, arguments: cli::Sources) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Some(SourcesCommand::Inspect { file }) => inspect(global, &file),
        None => show(global),
    }
}

/// Shows exact sums of an export, as it is written.
fn inspect(global: &Global, file: &Path) -> anyhow::Result<ExitCode> {
    let stored = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let Inspection { rows, providers, sub_accounts, sums, meters, malformed, cut_off } =
        focus::inspect(BufReader::new(stored)).with_context(|| file.display().to_string())?;
    if global.json {
        let sums = sums.iter().map(|((service, unit), sum)| {
            json!({ "service": service, "unit": unit, "rows": sum.rows, "quantity": sum.quantity.to_string() })
        });
        let meters = meters.iter().map(
            |(meter, sum)| json!({ "meter": meter.as_str(), "rows": sum.rows, "quantity": sum.quantity.to_string() }),
        );
        print::json(&json!({
            "rows": rows,
            "rows_malformed": malformed,
            "cut_off": cut_off.map(|reason| reason.as_str()),
            "providers": providers,
            "sub_accounts": sub_accounts,
            "sums": sums.collect::<Vec<_>>(),
            "meters": meters.collect::<Vec<_>>(),
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let of_aws: u64 = sub_accounts.values().sum();
    print::line(&format!(
        "{rows} rows, {of_aws} of AWS for {} sub-accounts; {malformed} malformed",
        sub_accounts.len()
    ));
    if let Some(reason) = cut_off {
        print::line(&format!("IT ENDS EARLY: {reason}"));
    }
    let rows = sums.iter().map(|((service, unit), sum)| {
        vec![service.clone(), unit.clone(), print::count(sum.rows), sum.quantity.to_string()]
    });
    print::table(&["service", "unit", "rows", "sum as written"], &rows.collect::<Vec<_>>());
    let rows =
        meters.iter().map(|(meter, sum)| vec![meter.to_string(), print::count(sum.rows), sum.quantity.to_string()]);
    print::table(&["meter", "rows", "in its raw unit"], &rows.collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

/// Shows what is declared, then what holds where nothing is.
fn show(global: &Global) -> anyhow::Result<ExitCode> {
    let declarations = declared::load(global)?;
    let default =
        |meter: Meter| Declaration { source: Source::default_of(meter), accounts: None, from: Timestamp::MIN };
    let everyones_from_the_first = |meter: Meter| {
        declarations.all().any(|(of, one)| of == meter && one.accounts.is_none() && one.from == Timestamp::MIN)
    };
    let mut all: Vec<(Meter, Declaration)> = declarations.all().map(|(meter, one)| (meter, one.clone())).collect();
    let defaults = Meter::BUILT_IN.into_iter().filter(|meter| !everyones_from_the_first(*meter));
    all.extend(defaults.map(|meter| (meter, default(meter))));
    all.sort_by_key(|(meter, one)| (*meter, one.accounts.is_some(), one.from));
    if global.json {
        let all = all.iter().map(|(meter, Declaration { source, accounts, from })| {
            let accounts = accounts.as_ref().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
            let from = (*from != Timestamp::MIN).then(|| from.to_string());
            json!({ "meter": meter.as_str(), "source": source.as_str(), "accounts": accounts, "from": from })
        });
        print::json(&json!({ "file": declared::path(global), "declared": all.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = all.into_iter().map(|(meter, Declaration { source, accounts, from })| {
        let accounts = accounts.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let from = if from == Timestamp::MIN { "always".to_owned() } else { from.to_string() };
        vec![meter.to_string(), source.to_string(), accounts.unwrap_or_else(|| "all others".to_owned()), from]
    });
    print::table(&["meter", "counted from", "for accounts", "since"], &rows.collect::<Vec<_>>());
    print::line(&format!("Declared in {}; see docs/counting.md.", declared::path(global).display()));
    Ok(ExitCode::SUCCESS)
}
