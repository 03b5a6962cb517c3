//! `securebase verify`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aggregator::close::Period;
use aggregator::directory::CustomerId;
use aggregator::meters::MeterBook;
use anyhow::Context;
use ingest::{Aggregation, Timestamp};
use reference::{Adds, Line, Number, Rules, is_built_in};
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::replay::expand;
use crate::stores::{Role, Stores};
use crate::verify::{
    BilledLine, Difference, EvidenceFile, Findings, Logs, StoreFindings, against_evidence, against_stores, misbilled,
};
use crate::{declared, edge, print};

/// The exit code when something differs.
pub(super) const DIFFERS: u8 = 4;
/// Findings that are printed; JSON has all.
const SHOWN: usize = 40;
/// Identities printed of each.
const IDENTITIES_SHOWN: usize = 3;

pub(super) async fn run(global: &Global, arguments: cli::Verify) -> anyhow::Result<ExitCode> {
    let files = expand(&arguments.paths)?;
    let now = edge::now();
    let declared = declared::text(global)?;
    match (&arguments.period, &arguments.evidence) {
        (Some(period), _) => {
            let period = Period::parse(period).with_context(|| format!("--period {period}"))?;
            let customer = arguments.customer.as_deref().map(CustomerId::parse).transpose().context("--customer")?;
            let platform = Platform::open(global, Work::Stores).await?;
            let (logs, findings) = super::with_platform(platform, |stores| async move {
                let rules = rules(&declared, sample_meters(&stores).await?)?;
                let logs = read(files, rules, now).await?;
                let over = now.hour().start().micros();
                let findings = against_stores(&stores, &logs, period, customer.as_ref(), over).await?;
                Ok((logs, findings))
            })
            .await?;
            show_stores(global, &logs, &findings);
            Ok(code(findings.agrees()))
        }
        (None, Some(path)) => {
            let bytes = fs::read(path).with_context(|| format!("--evidence {}", path.display()))?;
            let evidence = EvidenceFile::parse(&bytes).with_context(|| format!("--evidence {}", path.display()))?;
            if let Some(invoice) = &arguments.invoice {
                check_invoice(invoice, &evidence)?;
            }
            let logs = read(files, rules(&declared, evidence.rules.meters.clone())?, now).await?;
            let findings = against_evidence(&logs, &evidence);
            show_evidence(global, &logs, &evidence, &findings);
            Ok(code(findings.agrees()))
        }
        (None, None) => anyhow::bail!("say what to compare with: --period MONTH, or --evidence FILE"),
    }
}

async fn read(files: Vec<PathBuf>, rules: Rules, now: Timestamp) -> anyhow::Result<Logs> {
    tokio::task::spawn_blocking(move || Logs::read(&files, rules, now.micros())).await?
}

/// What the recount is told: the declared sources, and the meters that are data.
fn rules(declared: &str, meters: BTreeMap<String, Adds>) -> anyhow::Result<Rules> {
    let mut rules = Rules::with_meters(meters);
    rules.declare(declared).map_err(|reason| anyhow::anyhow!("the declared sources: {reason}"))?;
    Ok(rules)
}

/// The meters that somebody defined.
async fn sample_meters(stores: &Stores) -> anyhow::Result<BTreeMap<String, Adds>> {
    let meters = MeterBook::new(stores.database.pool(Role::Operator)?).read().await?;
    let defined = meters.iter().filter(|one| !is_built_in(one.meter.as_str())).filter_map(|one| {
        let adds = match one.aggregation {
            Aggregation::Sum => Adds::Sum,
            Aggregation::Max => Adds::Max,
            Aggregation::TimeWeighted => Adds::OverTime { gap_seconds: one.gap_seconds_max.unwrap_or_default().into() },
            Aggregation::Count | Aggregation::Interval | Aggregation::Marker => return None,
        };
        Some((one.meter.to_string(), adds))
    });
    Ok(defined.collect())
}

fn code(agrees: bool) -> ExitCode {
    if agrees { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) }
}

/// An invoice must name this very evidence, and bill what it says.
fn check_invoice(path: &Path, evidence: &EvidenceFile) -> anyhow::Result<()> {
    let at = || format!("--invoice {}", path.display());
    let invoice: Value = serde_json::from_slice(&fs::read(path).with_context(at)?).with_context(at)?;
    let sha256 = hex::encode(evidence.sha256);
    // What it is: the document, or something that has it inside, such as the answer of a run of one customer.
    let evidence_of_invoice = find(&invoice, "evidence").and_then(|evidence| evidence["sha256"].as_str());
    let named = evidence_of_invoice
        .with_context(|| format!("{}: the invoice names no evidence (`evidence.sha256` of its JSON)", at()))?;
    anyhow::ensure!(
        named == sha256,
        "{}: the invoice is for the evidence {named}, the file is {sha256}: export the evidence of the invoice's cut",
        at()
    );
    let is_counted = |meter: &str| evidence.meters.get(meter).is_some_and(|aggregation| aggregation == "count");
    let lines = find(&invoice, "lines").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let lines = BilledLine::all(lines, is_counted);
    let claimed = evidence.lines.iter().filter_map(|(line, claim)| Some((line, Number::read_sum(&claim.total)?)));
    let claimed: BTreeMap<&Line, Number> = claimed.collect();
    let found = misbilled(&lines, claimed.iter().map(|(line, total)| (*line, total)));
    let said: Vec<String> = found
        .iter()
        .map(|one| {
            let when = if one.when.is_empty() { String::new() } else { format!(" ({})", one.when) };
            format!("bills {} of {}{when}, its evidence has {}", one.billed, one.meter, one.used)
        })
        .collect();
    anyhow::ensure!(said.is_empty(), "{}: the invoice {}", at(), said.join("; it "));
    Ok(())
}

/// The first member of this name, wherever it is.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(name).or_else(|| members.values().find_map(|member| find(member, name))),
        Value::Array(elements) => elements.iter().find_map(|element| find(element, name)),
        _ => None,
    }
}

fn show_evidence(global: &Global, logs: &Logs, evidence: &EvidenceFile, findings: &Findings) {
    if global.json {
        let said = findings.findings.iter().map(|finding| {
            json!({
                "class": finding.class.as_str(),
                "is_a_difference": finding.class.is_a_difference(),
                "account": finding.line.account,
                "meter": finding.line.meter,
                "hour": hour(&finding.line),
                "events": finding.events,
                "identities": finding.identities,
                "objects": finding.objects,
            })
        });
        print::json(&json!({
            "agrees": findings.agrees(),
            "customer": evidence.customer,
            "cut": evidence.cut,
            "evidence_sha256": hex::encode(evidence.sha256),
            "read": balance(logs),
            "lines": findings.lines,
            "lines_agreeing": findings.agreeing,
            "lines_not_checked": findings.unchecked,
            "findings": said.collect::<Vec<_>>(),
        }));
        return;
    }
    say_balance(logs);
    print::line(&format!(
        "Evidence {} of {}, cut {}: {} of {} lines are as in the logs.",
        hex::encode(evidence.sha256),
        evidence.customer,
        evidence.cut,
        findings.agreeing,
        findings.lines
    ));
    for (meter, lines) in &findings.unchecked {
        print::line(&format!("{lines} lines of {meter} are not checked: the logs say nothing of it."));
    }
    let rows: Vec<Vec<String>> = findings
        .findings
        .iter()
        .take(SHOWN)
        .map(|finding| {
            vec![
                finding.class.to_string(),
                finding.line.account.clone(),
                finding.line.meter.clone(),
                finding.line.hour.clone(),
                finding.events.to_string(),
                some(&finding.identities),
                some(&finding.objects),
            ]
        })
        .collect();
    if !rows.is_empty() {
        print::table(&["class", "account", "meter", "hour", "events", "identities", "objects"], &rows);
    }
    more(findings.findings.len());
    print::line(if findings.agrees() { "The evidence agrees with the logs." } else { "THEY DIFFER." });
}

fn show_stores(global: &Global, logs: &Logs, findings: &StoreFindings) {
    let kinds = [
        ("counters", &findings.counters),
        ("facts", &findings.facts),
        ("usage_rows", &findings.rows),
        ("closes", &findings.closes),
        ("invoices", &findings.invoices),
    ];
    if global.json {
        let mut answer = json!({ "agrees": findings.agrees(), "read": balance(logs), "lines": findings.lines });
        for (kind, differences) in kinds {
            answer[kind] = differences.iter().map(difference_json).collect();
        }
        print::json(&answer);
        return;
    }
    say_balance(logs);
    for (kind, differences) in kinds {
        print::line(&format!(
            "{kind}: {}",
            match differences.len() {
                0 => "as the recount says".to_owned(),
                many => format!("{many} DIFFERENCES"),
            }
        ));
        let rows: Vec<Vec<String>> = differences
            .iter()
            .take(SHOWN)
            .map(|one| {
                vec![
                    one.of.clone(),
                    one.line.account.clone(),
                    one.line.meter.clone(),
                    one.line.hour.clone(),
                    one.by_recount.clone(),
                    one.stored.clone(),
                    some(&one.only_in_logs),
                    some(&one.only_in_counters),
                ]
            })
            .collect();
        if !rows.is_empty() {
            let head = ["of", "account", "meter", "hour", "recount", "stored", "only in logs", "only in counters"];
            print::table(&head, &rows);
        }
        more(differences.len());
    }
    print::line(if findings.agrees() { "The stores agree with the logs." } else { "THEY DIFFER." });
}

fn difference_json(one: &Difference) -> Value {
    json!({
        "of": one.of,
        "account": one.line.account,
        "meter": one.line.meter,
        "hour": hour(&one.line),
        "by_recount": one.by_recount,
        "stored": one.stored,
        "only_in_logs": one.only_in_logs,
        "only_in_counters": one.only_in_counters,
    })
}

fn hour(line: &Line) -> String {
    if line.hour.len() == 13 { format!("{}:00:00Z", line.hour) } else { line.hour.clone() }
}

fn balance(logs: &Logs) -> Value {
    let recount = &logs.recount;
    json!({
        "objects": recount.objects,
        "records": recount.read,
        "counted": recount.counted(),
        "facts": recount.facts.standing().count(),
        "duplicates": recount.duplicates,
        "not_counted": recount.not_counted,
        "dead_letters": recount.dead_letters,
    })
}

fn say_balance(logs: &Logs) {
    let recount = &logs.recount;
    print::line(&format!(
        "Recounted {} records of {} objects: {} events, {} facts, {} duplicates.",
        print::count(recount.read),
        print::count(recount.objects),
        print::count(recount.counted()),
        print::count(recount.facts.standing().count() as u64),
        print::count(recount.duplicates)
    ));
    for (reason, count) in recount.not_counted.iter().chain(&recount.dead_letters) {
        print::line(&format!("Not counted: {count} {reason}"));
    }
}

fn some(all: &[String]) -> String {
    let shown = all.iter().take(IDENTITIES_SHOWN).cloned().collect::<Vec<_>>().join(" ");
    let more = all.len().saturating_sub(IDENTITIES_SHOWN);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn more(all: usize) {
    if SHOWN < all {
        print::line(&format!("and {} more; --json names all", all - SHOWN));
    }
}
