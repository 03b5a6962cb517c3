//! `securebase sources`.

use std::process::ExitCode;

use ingest::{Declaration, Meter, Source, Timestamp};
use serde_json::json;

use crate::cli::Global;
use crate::{declared, print};

/// Shows what is declared, then what holds where nothing is. Needs no stores.
pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
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
