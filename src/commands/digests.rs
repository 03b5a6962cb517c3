//! `securebase digests`: what CloudTrail's digest files prove, source by source.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use ingest::Timestamp;
use ingest::digest::{Chain, Link, PublicKeys, SeenDigest, SignatureCheck, Stretch, TrailSource};
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::print;

/// What the chain of one source says.
struct SourceProof {
    source: TrailSource,
    seen: Vec<SeenDigest>,
    chain: Chain,
    missing: Vec<Stretch>,
}

pub(super) async fn run(global: &Global, arguments: cli::Digests) -> anyhow::Result<ExitCode> {
    let keys = match &arguments.public_keys {
        Some(path) => public_keys(path)?,
        None => PublicKeys::default(),
    };
    let from = arguments.from.as_deref().map(|text| super::instant(text, "--from")).transpose()?;
    let to = arguments.to.as_deref().map(|text| super::instant(text, "--to")).transpose()?;
    let platform = Platform::open(global, Work::Stores).await?;
    let proofs = super::with_platform(platform, |stores| async move {
        let expectations = stores.expectations();
        let mut proofs = Vec::new();
        let stretch = Stretch { start: from.unwrap_or(Timestamp::MIN), end: to.unwrap_or(Timestamp::MAX) };
        for source in expectations.sources().await? {
            let seen = expectations.of_source(&source, stretch).await?;
            proofs.push(SourceProof::new(source, seen, &keys, from, to));
        }
        Ok(proofs)
    })
    .await?;
    if global.json {
        print::json(&json!({ "sources": proofs.iter().map(SourceProof::json).collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["source", "digests", "log objects", "from", "to", "missing", "altered", "not seen", "signatures"];
    print::table(&head, &proofs.iter().map(SourceProof::row).collect::<Vec<_>>());
    for proof in &proofs {
        for stretch in &proof.missing {
            print::line(&format!("{}: no digest from {} to {}", proof.name(), stretch.start, stretch.end));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn public_keys(path: &Path) -> anyhow::Result<PublicKeys> {
    let listed = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    PublicKeys::parse(&listed).with_context(|| path.display().to_string())
}

impl SourceProof {
    fn new(
        source: TrailSource,
        seen: Vec<SeenDigest>,
        keys: &PublicKeys,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Self {
        let chain = Chain::of(&seen, keys);
        let first = from.or(chain.covered.first().map(|stretch| stretch.start));
        let last = to.or(chain.covered.last().map(|stretch| stretch.end));
        let asked = first.zip(last).filter(|(start, end)| start < end);
        let missing = asked.map(|(start, end)| chain.missing(Stretch { start, end })).unwrap_or_default();
        Self { source, seen, chain, missing }
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.source.account, self.source.region, self.source.trail)
    }

    fn log_objects(&self) -> usize {
        self.seen.iter().map(|seen| seen.digest.log_objects.len()).sum()
    }

    fn altered(&self) -> Vec<&str> {
        let checked = self.seen.iter().zip(&self.chain.checked);
        checked.filter(|(_, (link, _))| *link == Link::Altered).map(|(seen, _)| &*seen.digest.object.key).collect()
    }

    fn signatures(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (_, signature) in &self.chain.checked {
            *counts.entry(SignatureCheck::as_str(*signature)).or_default() += 1;
        }
        counts
    }

    fn json(&self) -> Value {
        let stretches = |stretches: &[Stretch]| {
            let each = stretches.iter().map(|one| json!({ "from": one.start.to_string(), "to": one.end.to_string() }));
            each.collect::<Vec<_>>()
        };
        json!({
            "account": self.source.account.as_str(),
            "region": self.source.region,
            "trail": self.source.trail,
            "digests": self.seen.len(),
            "backfills": self.seen.iter().filter(|seen| seen.digest.is_backfill).count(),
            "log_objects": self.log_objects(),
            "covered": stretches(&self.chain.covered),
            "missing": stretches(&self.missing),
            "altered": self.altered(),
            "not_seen": self.chain.not_seen.iter().map(|object| &object.key).collect::<Vec<_>>(),
            "signatures": self.signatures(),
        })
    }

    fn row(&self) -> Vec<String> {
        let edge = |stretch: Option<&Stretch>, of: fn(&Stretch) -> Timestamp| {
            stretch.map_or_else(|| "-".to_owned(), |stretch| of(stretch).to_string())
        };
        let signatures = self.signatures().into_iter().map(|(check, count)| format!("{check} {count}"));
        vec![
            self.name(),
            print::count(self.seen.len() as u64),
            print::count(self.log_objects() as u64),
            edge(self.chain.covered.first(), |stretch| stretch.start),
            edge(self.chain.covered.last(), |stretch| stretch.end),
            self.missing.len().to_string(),
            self.altered().len().to_string(),
            self.chain.not_seen.len().to_string(),
            signatures.collect::<Vec<_>>().join(", "),
        ]
    }
}
