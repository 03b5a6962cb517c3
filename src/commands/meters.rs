//! `securebase meters`.

use std::path::Path;
use std::process::ExitCode;

use aggregator::fact_rows::{FactRows, Missing};
use aggregator::meters::{MeterBook, MeterDefined, NewMeter};
use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::Meters) -> anyhow::Result<ExitCode> {
    match command {
        cli::Meters::List => list(global).await,
        cli::Meters::Define { file } => define(global, &file).await,
        cli::Meters::Missing => missing(global).await,
    }
}

async fn list(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let meters = super::with_platform(platform, |stores| async move {
        Ok(MeterBook::new(stores.database.pool(Role::Aggregator)?).read().await?)
    })
    .await?;
    let is_priced = |meter| ingest::Meter::PRICED.contains(&meter);
    if global.json {
        let meters = meters.iter().map(|one| {
            json!({
                "meter": one.meter.as_str(),
                "aggregation": one.aggregation.as_str(),
                "raw_unit": one.raw_unit.as_str(),
                "gap_seconds_max": one.gap_seconds_max,
                "priced": is_priced(one.meter),
                "description": one.description,
            })
        });
        print::json(&json!({ "meters": meters.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = meters.iter().map(|one| {
        vec![
            one.meter.to_string(),
            one.aggregation.as_str().to_owned(),
            one.raw_unit.as_str().to_owned(),
            one.gap_seconds_max.map_or_else(|| "-".to_owned(), |gap| format!("{gap} s")),
            if is_priced(one.meter) { "yes" } else { "no" }.to_owned(),
            one.description.clone(),
        ]
    });
    let head = ["meter", "aggregation", "raw unit", "longest gap", "priced", "what"];
    print::table(&head, &rows.collect::<Vec<_>>());
    Ok(ExitCode::SUCCESS)
}

/// A file of definitions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MeterFile {
    meter: Vec<MeterEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MeterEntry {
    name: String,
    aggregation: String,
    #[serde(default)]
    gap_seconds_max: Option<u32>,
    #[serde(default)]
    description: String,
}

async fn define(global: &Global, file: &Path) -> anyhow::Result<ExitCode> {
    let cannot = || format!("cannot read {}", file.display());
    let text = std::fs::read_to_string(file).with_context(cannot)?;
    let MeterFile { meter } = toml::from_str(&text).with_context(cannot)?;
    let meters: Vec<NewMeter> = meter
        .into_iter()
        .map(|MeterEntry { name, aggregation, gap_seconds_max, description }| NewMeter {
            name,
            aggregation,
            gap_seconds_max,
            description,
        })
        .collect();
    // All of them are looked at before the first is written.
    for meter in &meters {
        meter.definition()?;
    }
    let platform = Platform::open(global, Work::Database).await?;
    let defined = super::with_platform(platform, |stores| async move {
        let book = MeterBook::new(stores.database.pool(Role::Aggregator)?);
        let mut defined = Vec::new();
        for meter in meters {
            defined.push((meter.name.clone(), book.define(&meter, edge::now()).await?));
        }
        Ok(defined)
    })
    .await?;
    let outcome = |defined: MeterDefined| match defined {
        MeterDefined::New => "defined",
        MeterDefined::Unchanged => "unchanged",
    };
    if global.json {
        let meters = defined.iter().map(|(name, defined)| json!({ "meter": name, "outcome": outcome(*defined) }));
        print::json(&json!({ "meters": meters.collect::<Vec<_>>() }));
    } else {
        for (name, defined) in &defined {
            print::line(&format!("meter {name}: {}", outcome(*defined)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn missing(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let missing = super::with_platform(platform, |stores| async move {
        Ok(FactRows::new(stores.database.pool(Role::Aggregator)?).missing(edge::now()).await?)
    })
    .await?;
    if global.json {
        let missing = missing.iter().map(|Missing { account, meter, resource, from, until }| {
            json!({
                "account": account.to_string(),
                "meter": meter.as_str(),
                "resource": resource,
                "from": from.to_string(),
                "until": until.map(|until| until.to_string()),
            })
        });
        print::json(&json!({ "missing": missing.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = missing.iter().map(|Missing { account, meter, resource, from, until }| {
        let until = until.map_or_else(|| "now".to_owned(), |until| until.to_string());
        vec![account.to_string(), meter.to_string(), resource.clone(), from.to_string(), until]
    });
    print::table(&["account", "meter", "resource", "from", "until"], &rows.collect::<Vec<_>>());
    if !missing.is_empty() {
        print::line("Nothing is counted of these stretches. A resource that is gone is said to be by a sample of 0.");
    }
    Ok(ExitCode::SUCCESS)
}
