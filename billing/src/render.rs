//! An invoice or credit note as a table for the terminal.

use std::fmt::Write as _;

use chrono::NaiveDate;
use ingest::Meter;

use crate::document::{InvoiceDocument, LineDocument, Party};
use crate::money::group_thousands;
use crate::rating::describe;

/// The narrowest table; a long description makes it wider.
const WIDTH_MIN: usize = 92;
/// Places of a quantity in the table; the document has the exact value.
const PLACES_MAX: usize = 6;
const GAP: &str = "  ";
const TITLES: [&str; 6] = ["#", "Description", "Quantity", "Unit", "Unit price", "Amount"];

/// Writes an invoice as a table of plain text, for a terminal or a file.
pub fn render_text(invoice: &InvoiceDocument) -> String {
    let rows: Vec<[String; 6]> = invoice.lines.iter().flat_map(line_rows).collect();
    let carried: Vec<[String; 6]> =
        invoice.adjustments.iter().flat_map(|adjustment| adjustment.lines.iter().flat_map(line_rows)).collect();
    let mut widths = TITLES.map(width);
    for row in rows.iter().chain(&carried) {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(width(cell));
        }
    }
    let sums = sums(invoice);
    widths[5] = sums.iter().map(|sum| width(&sum.amount)).chain([widths[5]]).max().unwrap_or(0);
    let taken: usize = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
    widths[1] += WIDTH_MIN.saturating_sub(taken);
    let table_width = taken.max(WIDTH_MIN);
    let rule = "─".repeat(table_width);

    let mut text = String::new();
    let title = if invoice.is_credit_note() { "CREDIT NOTE" } else { "INVOICE" };
    let number = invoice.number.as_deref().unwrap_or("(preview, not issued)");
    push_ends(&mut text, &format!("{title} {number}"), &invoice.status.to_uppercase(), table_width);
    text.push_str(&"═".repeat(table_width));
    text.push('\n');
    push_parties(&mut text, &invoice.seller, &invoice.buyer, table_width / 2);
    text.push('\n');
    for (name, value) in facts(invoice) {
        push_line(&mut text, &format!("{name:<10}{value}"));
    }
    text.push('\n');
    push_line(&mut text, &row(&TITLES.map(str::to_owned), &widths));
    push_line(&mut text, &rule);
    for cells in &rows {
        push_line(&mut text, &row(cells, &widths));
    }
    push_line(&mut text, &rule);
    for sum in &sums {
        if sum.is_strong {
            push_line(&mut text, &format!("{:>table_width$}", "─".repeat(table_width / 2)));
        }
        push_sum(&mut text, &sum.name, &sum.amount, widths[5], table_width);
    }
    for adjustment in &invoice.adjustments {
        text.push('\n');
        let last = last_day(&adjustment.period.end);
        let head = format!(
            "Adjustment of {} for {} to {last}: {}",
            adjustment.corrects, adjustment.period.start, adjustment.cause
        );
        push_wrapped(&mut text, &head, table_width);
        for line in adjustment.lines.iter().flat_map(line_rows) {
            push_line(&mut text, &row(&line, &widths));
        }
        for (name, amount) in [
            ("change of subtotal", &adjustment.subtotal),
            ("change of volume discount", &adjustment.volume_discount),
            ("change of coupons", &adjustment.coupons),
            ("change of net", &adjustment.net),
            ("change of tax", &adjustment.tax),
            ("adjustment", &adjustment.total),
        ] {
            if !is_nothing(amount) {
                push_sum(&mut text, name, &group_thousands(amount), widths[5], table_width);
            }
        }
    }
    text.push('\n');
    push_foot(&mut text, invoice, table_width);
    text
}

fn push_foot(text: &mut String, invoice: &InvoiceDocument, table_width: usize) {
    for note in &invoice.notes {
        push_wrapped(text, &printable(note), table_width);
    }
    push_wrapped(text, &invoice.usage_source.sentence, table_width);
    if !invoice.usage_source.meters_without_usage.is_empty() {
        let words = |name: &String| Meter::parse(name).map_or(name.clone(), |meter| describe(meter).to_owned());
        let meters: Vec<String> = invoice.usage_source.meters_without_usage.iter().map(words).collect();
        let meters = meters.join(", ");
        let sentence = format!("No usage was reported, and nothing is charged, for: {meters}.");
        push_wrapped(text, &sentence, table_width);
    }
    if let Some(evidence) = &invoice.evidence {
        let cut = format!("Evidence of cut {}, made {}, SHA-256:", evidence.cut, evidence.cut_at);
        push_wrapped(text, &cut, table_width);
        push_line(text, &evidence.sha256);
    }
}

fn facts(invoice: &InvoiceDocument) -> Vec<(&'static str, String)> {
    let day = |instant: &str| instant.chars().take(10).collect::<String>();
    let mut facts = vec![("Customer", invoice.customer.clone())];
    if let Some(corrects) = &invoice.corrects {
        facts.push(("Corrects", format!("{}: {}", corrects.number, printable(&corrects.reason))));
    }
    facts.push(("Period", format!("{} to {} (UTC)", invoice.period.start, last_day(&invoice.period.end))));
    let several = 1 < invoice.rates.len();
    for rates in &invoice.rates {
        let contract = rates.card.customer().map_or("", |_| "contract, ");
        let days =
            if several { format!(", {} to {}", rates.days.start, last_day(&rates.days.end)) } else { String::new() };
        let rate = format!("{} tier, {contract}rate card version {}{days}", rates.card.tier(), rates.card.version());
        facts.push(("Rates", rate));
    }
    if invoice.revision != crate::document::FIRST_REVISION {
        facts.push(("Revision", invoice.revision.to_string()));
    }
    match (&invoice.issued_at, &invoice.due_at) {
        (Some(issued_at), Some(due_at)) => {
            facts.push(("Issued", format!("{}, due {} (end of day, UTC)", day(issued_at), day(due_at))));
        }
        (Some(issued_at), None) => facts.push(("Issued", day(issued_at))),
        _ => {}
    }
    if let Some(paid_at) = &invoice.paid_at {
        facts.push(("Paid", day(paid_at)));
    }
    facts
}

/// The last day of a half-open period; people read a period as two days that both belong to it.
fn last_day(end: &str) -> String {
    let day = end.parse::<NaiveDate>().ok().and_then(|end| end.pred_opt());
    day.map_or_else(|| format!("before {end}"), |day| day.to_string())
}

struct Sum {
    name: String,
    amount: String,
    /// Stands below a rule.
    is_strong: bool,
}

/// The amounts below the lines in the order of the arithmetic; the last is what is to be paid.
fn sums(invoice: &InvoiceDocument) -> Vec<Sum> {
    let mut sums = Vec::new();
    let mut push = |name: String, amount: String, is_strong| sums.push(Sum { name, amount, is_strong });
    push("Subtotal".to_owned(), group_thousands(&invoice.subtotal), false);
    for deduction in &invoice.deductions {
        push(printable(&deduction.description), taken_off(&deduction.amount), false);
    }
    if invoice.is_credit_note() {
        // A discount that grows is in the customer's favour, as every negative amount of a credit note.
        for (name, amount) in [("Volume discount", &invoice.volume_discount), ("Coupons", &invoice.coupons)] {
            if !is_nothing(amount) {
                push(name.to_owned(), turned(amount), false);
            }
        }
    }
    push("Net".to_owned(), group_thousands(&invoice.net), false);
    let is_only = invoice.taxes.len() == 1;
    for tax in &invoice.taxes {
        let name = [tax.name.as_str(), tax.jurisdiction.as_str()].join(" ").trim_end().to_owned();
        let rate = match &tax.exemption {
            Some(_) => "exempt".to_owned(),
            None => percent(&tax.rate),
        };
        let basis = if is_only { String::new() } else { format!(" of {}", group_thousands(&tax.basis)) };
        push(format!("{name} ({rate}{basis})"), group_thousands(&tax.amount), false);
    }
    push(format!("TOTAL {}", invoice.currency), group_thousands(&invoice.total), true);
    let is_settled = invoice.due == invoice.total || invoice.is_credit_note();
    if !is_settled || !invoice.adjustments.is_empty() {
        for adjustment in &invoice.adjustments {
            push(format!("Adjustment of {}", adjustment.corrects), group_thousands(&adjustment.total), false);
        }
        if !is_nothing(&invoice.prepaid_credit) {
            push("Prepaid credit".to_owned(), taken_off(&invoice.prepaid_credit), false);
        }
        push(format!("DUE {}", invoice.currency), group_thousands(&invoice.due), true);
    }
    sums
}

fn is_nothing(amount: &str) -> bool {
    amount.chars().all(|digit| matches!(digit, '0' | '.'))
}

/// An amount that is taken off: `-250.00`.
fn taken_off(amount: &str) -> String {
    if is_nothing(amount) { amount.to_owned() } else { turned(amount) }
}

/// An amount with the other sign.
fn turned(amount: &str) -> String {
    let turned = amount.strip_prefix('-').map_or_else(|| format!("-{amount}"), str::to_owned);
    group_thousands(&turned)
}

/// `0.08` as `8 %`; what is no decimal stays as it is.
fn percent(rate: &str) -> String {
    rate.parse::<rust_decimal::Decimal>()
        .ok()
        .and_then(|rate| rate.checked_mul(rust_decimal::Decimal::ONE_HUNDRED))
        .map_or_else(|| rate.to_owned(), |percent| format!("{} %", percent.normalize()))
}

/// A line, and below it how its price came about where one number cannot say it.
fn line_rows(line: &LineDocument) -> Vec<[String; 6]> {
    let is_tiered = 1 < line.steps.len() || line.steps.iter().any(|step| step.flat.is_some());
    let unit_price = match (&line.unit_price, is_tiered) {
        (Some(_), true) => "by tier".to_owned(),
        (Some(price), false) => priced(price, line.unit_price_per.as_deref()),
        (None, _) => String::new(),
    };
    let mut rows = vec![[
        line.position.to_string(),
        printable(&line.description),
        group_thousands(&shortened(&line.quantity)),
        printable(&line.unit),
        unit_price,
        group_thousands(&line.amount),
    ]];
    let mut push = |words: String, quantity: String, price: String| {
        rows.push([String::new(), words, quantity, String::new(), price, String::new()]);
    };
    if is_tiered {
        for (number, step) in (1..).zip(&line.steps) {
            let is_included = number == 1 && is_nothing(&step.price) && step.flat.is_none() && 1 < line.steps.len();
            let flat = step.flat.as_ref().map(|flat| format!(" + {}", group_thousands(flat))).unwrap_or_default();
            let words =
                if is_included { "included".to_owned() } else { format!("from {}", group_thousands(&step.from)) };
            let price = format!("{}{flat}", priced(&step.price, Some(&step.per)));
            push(format!("  {words}"), group_thousands(&shortened(&step.quantity)), price);
        }
    }
    if let Some(reduction) = &line.reduction {
        push(
            format!("  {}: {} off", printable(&reduction.name), percent(&reduction.off)),
            String::new(),
            String::new(),
        );
    }
    rows
}

/// A price of one unit, or of several: `5.00 per 1,000`.
fn priced(price: &str, per: Option<&str>) -> String {
    match per {
        None | Some("1") => group_thousands(price),
        Some(per) => format!("{} per {}", group_thousands(price), group_thousands(per)),
    }
}

/// A quantity with few enough places for the table; an ellipsis says that digits follow.
fn shortened(quantity: &str) -> String {
    match quantity.split_once('.') {
        Some((whole, places)) if PLACES_MAX < places.len() => format!("{whole}.{}…", &places[..PLACES_MAX]),
        _ => quantity.to_owned(),
    }
}

/// Characters, not bytes: names are not ASCII.
fn width(text: &str) -> usize {
    text.chars().count()
}

fn row(cells: &[String; 6], widths: &[usize; 6]) -> String {
    let [w0, w1, w2, w3, w4, w5] = *widths;
    format!(
        "{:>w0$}{GAP}{:<w1$}{GAP}{:>w2$}{GAP}{:<w3$}{GAP}{:>w4$}{GAP}{:>w5$}",
        cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]
    )
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

fn push_ends(text: &mut String, left: &str, right: &str, table_width: usize) {
    let room = table_width.saturating_sub(width(right) + 1);
    push_line(text, &format!("{left:<room$} {right}"));
}

fn push_sum(text: &mut String, name: &str, amount: &str, amount_width: usize, table_width: usize) {
    let name_width = table_width.saturating_sub(amount_width + GAP.len());
    push_line(text, &format!("{name:>name_width$}{GAP}{amount:>amount_width$}"));
}

fn push_parties(text: &mut String, seller: &Party, buyer: &Party, half: usize) {
    let (left, right) = (party_lines("From", seller), party_lines("To", buyer));
    for index in 0..left.len().max(right.len()) {
        let cell = |lines: &[String]| lines.get(index).cloned().unwrap_or_default();
        push_line(text, &format!("{:<half$}{}", cell(&left), cell(&right)));
    }
}

fn party_lines(title: &str, party: &Party) -> Vec<String> {
    let mut lines = vec![format!("{title:<6}{}", printable(&party.name))];
    let mut push = |line: &str| lines.push(format!("{:6}{}", "", printable(line)));
    party.address.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(&mut push);
    if !party.tax_id.is_empty() {
        push(&format!("Tax id {}", party.tax_id));
    }
    lines
}

/// Control characters would move the cursor of a terminal; a name cannot.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn push_wrapped(text: &mut String, sentence: &str, table_width: usize) {
    let mut line_width = 0;
    for word in sentence.split_whitespace() {
        if line_width != 0 && table_width < line_width + 1 + width(word) {
            text.push('\n');
            line_width = 0;
        }
        if line_width != 0 {
            text.push(' ');
            line_width += 1;
        }
        let _ = write!(text, "{word}");
        line_width += width(word);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Head;
    use crate::invoice::draft;
    use crate::terms::tests::{card, terms};
    use crate::tier::Tier;
    use crate::usage::Usage;

    fn invoice(buyer: Party) -> InvoiceDocument {
        let terms = terms(card(Tier::Standard), "2026-10");
        let draft = draft(&terms, &Usage::default()).unwrap();
        InvoiceDocument::of(&draft, Some(&terms), Head::preview(Party::default(), buyer))
    }

    #[test]
    fn a_name_cannot_move_the_cursor_of_the_terminal() {
        let text = render_text(&invoice(Party { name: "A\u{1b}[2J\rB".into(), ..Party::default() }));
        assert!(text.contains("A [2J B"), "{text}");
        assert!(!text.chars().any(|character| character.is_control() && character != '\n'));
    }

    #[test]
    fn the_columns_of_a_long_or_non_ascii_line_stay_aligned() {
        let mut invoice = invoice(Party::default());
        invoice.lines[0].description = "Grundgebühr für größere Organisationen, ".repeat(3);
        invoice.lines.push(LineDocument { position: 2, description: "x".into(), ..invoice.lines[0].clone() });
        let text = render_text(&invoice);
        let ends: Vec<usize> =
            text.lines().filter(|line| line.ends_with("2,000.00")).take(2).map(|line| line.chars().count()).collect();
        assert!(matches!(ends.as_slice(), [first, second] if first == second && WIDTH_MIN < *first), "{text}");
        assert!(text.lines().any(|line| line.starts_with('─') && line.chars().count() == ends[0]));
    }
}
