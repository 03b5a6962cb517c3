//! An invoice as a table for the terminal.

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

/// Writes an invoice as a table of plain text, for a terminal or a file.
pub fn render_text(invoice: &InvoiceDocument) -> String {
    let rows: Vec<[String; 6]> = invoice.lines.iter().map(line_cells).collect();
    let titles = ["#", "Description", "Quantity", "Unit", "Unit price", "Amount"];
    let mut widths = titles.map(width);
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(width(cell));
        }
    }
    let sums = sums(invoice);
    widths[5] = sums.iter().map(|(_, amount)| width(amount)).chain([widths[5]]).max().unwrap_or(0);
    let taken: usize = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
    widths[1] += WIDTH_MIN.saturating_sub(taken);
    let table_width = taken.max(WIDTH_MIN);
    let rule = "─".repeat(table_width);

    let mut text = String::new();
    let number = invoice.number.as_deref().unwrap_or("(preview, not issued)");
    push_ends(&mut text, &format!("INVOICE {number}"), &invoice.status.to_uppercase(), table_width);
    text.push_str(&"═".repeat(table_width));
    text.push('\n');
    push_parties(&mut text, &invoice.seller, &invoice.buyer, table_width / 2);
    text.push('\n');
    for (name, value) in facts(invoice) {
        push_line(&mut text, &format!("{name:<10}{value}"));
    }
    text.push('\n');
    push_line(&mut text, &row(&titles.map(str::to_owned), &widths));
    push_line(&mut text, &rule);
    for cells in &rows {
        push_line(&mut text, &row(cells, &widths));
    }
    push_line(&mut text, &rule);
    let (total, parts) = sums.split_last().expect("an invoice has a total");
    for (name, amount) in parts {
        push_sum(&mut text, name, amount, widths[5], table_width);
    }
    push_line(&mut text, &format!("{:>table_width$}", "─".repeat(table_width / 2)));
    push_sum(&mut text, &total.0, &total.1, widths[5], table_width);
    text.push('\n');
    push_wrapped(&mut text, &invoice.usage_source.sentence, table_width);
    if !invoice.usage_source.meters_without_usage.is_empty() {
        let words = |name: &String| Meter::parse(name).map_or(name.clone(), |meter| describe(meter).to_owned());
        let meters: Vec<String> = invoice.usage_source.meters_without_usage.iter().map(words).collect();
        let meters = meters.join(", ");
        let sentence = format!("No usage was reported, and nothing is charged, for: {meters}.");
        push_wrapped(&mut text, &sentence, table_width);
    }
    text
}

fn facts(invoice: &InvoiceDocument) -> Vec<(&'static str, String)> {
    let day = |instant: &str| instant.chars().take(10).collect::<String>();
    let mut facts = vec![
        ("Customer", invoice.customer.clone()),
        ("Period", format!("{} to {} (UTC)", invoice.period.start, last_day(&invoice.period.end))),
        ("Rates", format!("{} tier, rate card version {}", invoice.rates.tier, invoice.rates.rate_card_version)),
    ];
    if invoice.revision != crate::document::FIRST_REVISION {
        facts.push(("Revision", invoice.revision.to_string()));
    }
    if let (Some(issued_at), Some(due_at)) = (&invoice.issued_at, &invoice.due_at) {
        facts.push(("Issued", format!("{}, due {} (end of day, UTC)", day(issued_at), day(due_at))));
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

/// The amounts below the lines in the order of the arithmetic; the last is the total.
fn sums(invoice: &InvoiceDocument) -> Vec<(String, String)> {
    let rates = &invoice.rates;
    let discount = format!(
        "Volume discount ({} of a subtotal above {})",
        percent(&rates.volume_discount_rate),
        group_thousands(&rates.volume_discount_threshold)
    );
    let taken_off = match invoice.volume_discount.as_str() {
        nothing if nothing.chars().all(|digit| matches!(digit, '0' | '.')) => nothing.to_owned(),
        amount => format!("-{}", group_thousands(amount)),
    };
    vec![
        ("Subtotal".to_owned(), group_thousands(&invoice.subtotal)),
        (discount, taken_off),
        ("Net".to_owned(), group_thousands(&invoice.net)),
        (format!("Tax ({})", percent(&invoice.tax_rate)), group_thousands(&invoice.tax)),
        (format!("TOTAL {}", invoice.currency), group_thousands(&invoice.total)),
    ]
}

/// `0.08` as `8 %`; what is no decimal stays as it is.
fn percent(rate: &str) -> String {
    rate.parse::<rust_decimal::Decimal>()
        .ok()
        .and_then(|rate| rate.checked_mul(rust_decimal::Decimal::ONE_HUNDRED))
        .map_or_else(|| rate.to_owned(), |percent| format!("{} %", percent.normalize()))
}

fn line_cells(line: &LineDocument) -> [String; 6] {
    [
        line.position.to_string(),
        line.description.clone(),
        group_thousands(&shortened(&line.quantity)),
        line.unit.clone(),
        group_thousands(&line.unit_price),
        group_thousands(&line.amount),
    ]
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
    use crate::invoice::draft;
    use crate::money::Share;
    use crate::period::Month;
    use crate::quantity::Usage;
    use crate::rate_card::tests::card;
    use crate::tier::Tier;

    fn invoice(buyer: Party) -> InvoiceDocument {
        let card = card(Tier::Standard);
        let contract_start = ingest::Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        let tax_rate = Share::new(rust_decimal::Decimal::new(8, 2)).unwrap();
        let month = Month::parse("2026-10").unwrap();
        let draft = draft(&card, month, contract_start, &Usage::default(), tax_rate).unwrap();
        InvoiceDocument::preview(&draft, &card, "anna", Party::default(), buyer)
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
