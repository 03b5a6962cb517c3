//! `securebase verify`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use aggregator::close::Period;
use aggregator::directory::CustomerId;
use anyhow::Context;
use reference::Line;
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::replay::expand;
use crate::verify::{Difference, EvidenceFile, Findings, Logs, StoreFindings, against_evidence, against_stores};
use crate::{edge, print};

/// The exit code when something differs.
pub(super) const DIFFERS: u8 = 4;
/// Findings that are printed; JSON has all.
const SHOWN: usize = 40;
/// Identities printed of each.
const IDENTITIES_SHOWN: usize = 3;

pub(super) async fn run(global: &Global, arguments: cli::Verify) -> anyhow::Result<ExitCode> {
    let files = expand(&arguments.paths)?;
    let now = edge::now().micros();
    let reading = tokio::task::spawn_blocking(move || Logs::read(&files, now));
    match (&arguments.period, &arguments.evidence) {
        (Some(period), _) => {
            let period = Period::parse(period).with_context(|| format!("--period {period}"))?;
            let customer = arguments.customer.as_deref().map(CustomerId::parse).transpose().context("--customer")?;
            let logs = reading.await??;
            let platform = Platform::open(global, Work::Stores).await?;
            let findings = super::with_platform(platform, |stores| {
                let logs = &logs;
                async move { against_stores(&stores, logs, period, customer.as_ref()).await }
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
            let logs = reading.await??;
            let findings = against_evidence(&logs, &evidence);
            show_evidence(global, &logs, &evidence, &findings);
            Ok(code(findings.agrees()))
        }
        (None, None) => anyhow::bail!("say what to compare with: --period MONTH, or --evidence FILE"),
    }
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
    for (meter, billed) in billed(&invoice) {
        if evidence.meters.get(&meter).is_none_or(|aggregation| aggregation != "count") {
            continue;
        }
        let of_meter = evidence.lines.iter().filter(|(line, _)| line.meter == meter);
        let claimed: u64 = of_meter.filter_map(|(_, claim)| claim.total.parse::<u64>().ok()).sum();
        anyhow::ensure!(
            billed == claimed,
            "{}: the invoice bills {billed} of {meter}, its evidence has {claimed}",
            at()
        );
    }
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

/// Whole quantities of usage lines, by meter.
fn billed(invoice: &Value) -> std::collections::BTreeMap<String, u64> {
    let mut billed = std::collections::BTreeMap::new();
    let lines = find(invoice, "lines").and_then(Value::as_array).into_iter().flatten();
    for line in lines {
        let (Some(meter), Some(quantity)) = (line["meter"].as_str(), line["quantity"].as_str()) else { continue };
        if let Ok(quantity) = quantity.parse::<u64>() {
            *billed.entry(meter.to_owned()).or_default() += quantity;
        }
    }
    billed
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
        print::line(&format!("{lines} lines of {meter} are not counted from logs of events and not checked."));
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
                    one.by_recount.to_string(),
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
        "by_recount": one.by_recount.to_string(),
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
        "duplicates": recount.duplicates,
        "not_counted": recount.not_counted,
        "dead_letters": recount.dead_letters,
    })
}

fn say_balance(logs: &Logs) {
    let recount = &logs.recount;
    print::line(&format!(
        "Recounted {} records of {} objects: {} events, {} duplicates.",
        print::count(recount.read),
        print::count(recount.objects),
        print::count(recount.counted()),
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
