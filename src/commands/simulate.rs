//! `securebase simulate`: past usage at other prices, before anything changes.

use std::collections::BTreeMap;
use std::process::ExitCode;

use aggregator::directory::CustomerId;
use anyhow::Context;
use billing::{
    Comparison, Currency, Head, InvoiceDocument, Money, Month, Party, RateCard, Simulated, UsageState, check_files,
    render_text, simulate,
};
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

/// What the comparisons come to in one currency.
#[derive(Clone, Copy)]
struct Sums {
    before: i128,
    after: i128,
}

#[derive(Default)]
struct Report {
    rows: Vec<Vec<String>>,
    results: Vec<Value>,
    sums: BTreeMap<Currency, Sums>,
    failures: usize,
    shown: Vec<String>,
}

pub(super) async fn run(global: &Global, arguments: cli::Simulate) -> anyhow::Result<ExitCode> {
    let sources = super::rate_cards::sources(&arguments.rate_cards)?;
    let mut trial: Vec<RateCard> = Vec::new();
    for source in &sources {
        // Each by itself: a card that is tried out need not fit beside the others.
        match check_files(std::slice::from_ref(source), None) {
            Ok(cards) => trial.extend(cards.into_iter().map(|named| named.card)),
            Err(error) => return Ok(super::rate_cards::refuse(&error)),
        }
    }
    let months = months(&arguments.periods)?;
    let customer = arguments.customer.as_deref().map(CustomerId::parse).transpose().context("--customer")?;
    let platform = Platform::open(global, Work::Database).await?;
    let report = super::with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        let mut report = Report::default();
        let only = customer.as_ref().map(std::slice::from_ref);
        for month in months {
            simulate(&mut connection, month, only, &trial, |one| report.add(one, only.is_some())).await?;
        }
        Ok(report)
    })
    .await?;
    let failures = report.failures;
    report.print(global);
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn months(periods: &[String]) -> anyhow::Result<Vec<Month>> {
    if periods.is_empty() {
        let now = Month::containing(edge::now()).context("no such month")?;
        return Ok(vec![now.previous().context("no month before this one")?]);
    }
    let read = |period: &String| Month::parse(period).with_context(|| format!("--period {period}"));
    periods.iter().map(read).collect()
}

impl Report {
    fn add(&mut self, one: Simulated, is_alone: bool) {
        match one {
            Simulated::Compared(comparison) => self.compared(&comparison, is_alone),
            Simulated::NotUnderContract { .. } => {}
            Simulated::Failed { customer, month, error } => {
                self.failures += 1;
                print::note(&format!("securebase: {} in {month}: {error}", customer.as_str()));
                self.results.push(json!({
                    "customer": customer.as_str(), "period": month.to_string(), "error": error.to_string(),
                }));
            }
        }
    }

    fn compared(&mut self, comparison: &Comparison, is_alone: bool) {
        let (before, after) = (comparison.before.1.totals.total, comparison.after.1.totals.total);
        let currency = after.currency();
        let sums = self.sums.entry(currency).or_insert(Sums { before: 0, after: 0 });
        sums.before += i128::from(before.minor());
        sums.after += i128::from(after.minor());
        let difference = i128::from(after.minor()) - i128::from(before.minor());
        let usage = match comparison.usage {
            UsageState::Closed => "closed",
            UsageState::Open => "so far",
        };
        let tiers: Vec<&str> =
            comparison.after.0.stretches.iter().map(|stretch| stretch.card.tier().as_str()).collect();
        self.rows.push(vec![
            comparison.customer.as_str().to_owned(),
            comparison.month.to_string(),
            tiers.join(", "),
            usage.to_owned(),
            before.to_string(),
            after.to_string(),
            signed(difference, currency),
        ]);
        self.results.push(json!({
            "customer": comparison.customer.as_str(),
            "period": comparison.month.to_string(),
            "usage": usage.replace(' ', "_"),
            "currency": currency.as_str(),
            "total_before": before.to_decimal_text(),
            "total_after": after.to_decimal_text(),
            "difference": text(difference, currency),
        }));
        if is_alone {
            let (terms, invoice) = &comparison.after;
            let head = Head::preview(Party::default(), Party::default());
            self.shown.push(render_text(&InvoiceDocument::of(invoice, Some(terms), head)));
        }
    }

    fn print(self, global: &Global) {
        if global.json {
            let sums = self.sums.iter().map(|(currency, sums)| {
                json!({
                    "currency": currency.as_str(),
                    "total_before": text(sums.before, *currency),
                    "total_after": text(sums.after, *currency),
                    "difference": text(sums.after - sums.before, *currency),
                })
            });
            let sums: Vec<Value> = sums.collect();
            print::json(&json!({ "results": self.results, "sums": sums, "failures": self.failures }));
            return;
        }
        for invoice in &self.shown {
            print::line(invoice);
        }
        let mut rows = self.rows;
        for (currency, sums) in &self.sums {
            rows.push(vec![
                format!("all in {currency}"),
                String::new(),
                String::new(),
                String::new(),
                amount(sums.before, *currency),
                amount(sums.after, *currency),
                signed(sums.after - sums.before, *currency),
            ]);
        }
        print::table(&["customer", "period", "tier", "usage", "stored prices", "these prices", "difference"], &rows);
        print::line(&format!("nothing was changed; {} failed", self.failures));
    }
}

/// A sum of amounts, for people. One beyond what an amount holds is shown at that limit.
fn amount(minor: i128, currency: Currency) -> String {
    money(minor, currency).to_string()
}

fn text(minor: i128, currency: Currency) -> String {
    money(minor, currency).to_decimal_text()
}

fn signed(minor: i128, currency: Currency) -> String {
    let sign = if 0 < minor { "+" } else { "" };
    format!("{sign}{}", amount(minor, currency))
}

fn money(minor: i128, currency: Currency) -> Money {
    let bound = if minor < 0 { i64::MIN } else { i64::MAX };
    Money::from_minor(i64::try_from(minor).unwrap_or(bound), currency)
}
