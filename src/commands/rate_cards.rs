//! `securebase rate-cards`.

use std::path::PathBuf;
use std::process::ExitCode;

use aggregator::meters::MeterBook;
use anyhow::Context;
use billing::{
    CardSource, Catalogue, LoadError, RateCard, RateCardError, Retroactive, SEEDED_CARDS, StoredCard, check_files,
    load_files,
};
use serde_json::json;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::RateCards) -> anyhow::Result<ExitCode> {
    match command {
        cli::RateCards::Check { files } => check(global, &files),
        cli::RateCards::Load { files, retroactive } => load(global, &files, retroactive).await,
        cli::RateCards::List => list(global).await,
        cli::RateCards::Show { tier, customer, version } => show(global, &tier, customer.as_deref(), version).await,
    }
}

/// Reads rate card files.
pub(super) fn sources(files: &[PathBuf]) -> anyhow::Result<Vec<CardSource>> {
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
        Ok(CardSource { name, text })
    };
    files.iter().map(read).collect()
}

/// Names every broken rule on a line of its own, and fails.
pub(super) fn refuse(error: &RateCardError) -> ExitCode {
    for fault in &error.0 {
        print::note(&format!("securebase: {fault}"));
    }
    ExitCode::FAILURE
}

fn check(global: &Global, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let cards = match check_files(&sources(files)?, None) {
        Ok(cards) => cards,
        Err(error) => return Ok(refuse(&error)),
    };
    if global.json {
        let cards = cards.iter().map(|named| json!({ "file": named.source_name, "card": named.card }));
        print::json(&json!({ "cards": cards.collect::<Vec<_>>() }));
    } else {
        for named in &cards {
            print::line(&format!("{}: {} is in order", named.source_name, named.card));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Brings the cards of the four tiers into the database, where they are not. The demo starts from an empty one.
#[cfg(feature = "local")]
pub(super) async fn load_seeded(stores: &Stores) -> anyhow::Result<()> {
    load_into(stores, &seeded(), Retroactive::Refused).await??;
    Ok(())
}

fn seeded() -> Vec<CardSource> {
    SEEDED_CARDS.iter().map(|(name, text)| CardSource { name: (*name).to_owned(), text: (*text).to_owned() }).collect()
}

async fn load_into(
    stores: &Stores,
    sources: &[CardSource],
    retroactive: Retroactive,
) -> anyhow::Result<Result<Vec<billing::LoadedCard>, RateCardError>> {
    let pool = stores.database.pool(Role::Operator)?;
    let meters = MeterBook::new(pool.clone()).read().await?;
    let mut connection = pool.acquire().await?;
    match load_files(&mut connection, sources, &meters, retroactive, &edge::operator(), edge::now()).await {
        Ok(loaded) => Ok(Ok(loaded)),
        Err(LoadError::Rules(error)) => Ok(Err(error)),
        Err(error) => Err(error.into()),
    }
}

async fn load(global: &Global, files: &[PathBuf], retroactive: bool) -> anyhow::Result<ExitCode> {
    let sources = if files.is_empty() { seeded() } else { sources(files)? };
    let retroactive = if retroactive { Retroactive::Allowed } else { Retroactive::Refused };
    let platform = Platform::open(global, Work::Database).await?;
    let loaded =
        super::with_platform(platform, |stores| async move { load_into(&stores, &sources, retroactive).await });
    let loaded = match loaded.await? {
        Ok(loaded) => loaded,
        Err(error) => return Ok(refuse(&error)),
    };
    if global.json {
        let cards = loaded.iter().map(|card| {
            json!({
                "file": card.source_name,
                "card": card.card,
                "outcome": if card.is_new { "loaded" } else { "unchanged" },
            })
        });
        print::json(&json!({ "cards": cards.collect::<Vec<_>>() }));
    } else {
        for card in &loaded {
            let outcome = if card.is_new { "loaded" } else { "was loaded before" };
            print::line(&format!("{}: {} {outcome}", card.source_name, card.card));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn catalogue(global: &Global) -> anyhow::Result<Catalogue> {
    let platform = Platform::open(global, Work::Database).await?;
    super::with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        Ok(Catalogue::load(&mut connection).await?)
    })
    .await
}

async fn list(global: &Global) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue(global).await?;
    if global.json {
        let cards = catalogue.cards().iter().map(|card| {
            json!({
                "tier": card.tier.as_str(),
                "customer": card.customer,
                "version": card.version,
                "valid_from": card.valid_from.to_string(),
                "valid_to": card.valid_to.map(|day| day.to_string()),
                "file": card.source_name,
                "card": card.card.as_ref().ok(),
                "error": card.card.as_ref().err().map(ToString::to_string),
            })
        });
        print::json(&json!({ "cards": cards.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let row = |card: &StoredCard| {
        let base_fee = match &card.card {
            Ok(card) => format!("{} {}", card.base_fee(), card.currency()),
            Err(_) => "broken".to_owned(),
        };
        vec![
            card.tier.to_string(),
            card.customer.clone().unwrap_or_default(),
            card.version.to_string(),
            card.valid_from.to_string(),
            card.valid_to.map_or_else(|| "open".to_owned(), |day| day.to_string()),
            base_fee,
            card.source_name.clone().unwrap_or_else(|| "(with the schema)".to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = catalogue.cards().iter().map(row).collect();
    print::table(&["tier", "contract of", "version", "from", "until", "base fee", "file"], &rows);
    Ok(ExitCode::SUCCESS)
}

async fn show(global: &Global, tier: &str, customer: Option<&str>, version: Option<i32>) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue(global).await?;
    let of_key = |card: &&StoredCard| {
        card.tier.as_str() == tier
            && card.customer.as_deref() == customer
            && version.is_none_or(|version| card.version == version)
    };
    let found = catalogue.cards().iter().filter(of_key).max_by_key(|card| card.version);
    let stored = found.context("there is no such rate card; `securebase rate-cards list` shows those there are")?;
    let card: &RateCard = stored.card.as_ref().map_err(Clone::clone)?;
    if global.json {
        print::json(&json!({ "card": card, "file": stored.source_name, "source": stored.source_text }));
        return Ok(ExitCode::SUCCESS);
    }
    match &stored.source_text {
        Some(text) => {
            if let Some(end) = stored.valid_to {
                print::line(&format!("# Ends on {end}."));
            }
            print::line(text.trim_end());
        }
        None => print::line(toml::to_string(card)?.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
