//! An invoice or credit note as a table for the terminal.

use std::fmt::Write as _;

use crate::document::{InvoiceDocument, Party};
use crate::presentation::{Presentation, PresentedDetail, PresentedLine};

/// The narrowest table; a long description makes it wider.
const WIDTH_MIN: usize = 92;
const GAP: &str = "  ";
const TITLES: [&str; 6] = ["#", "Description", "Quantity", "Unit", "Unit price", "Amount"];

/// Writes an invoice as a table of plain text, for a terminal or a file.
pub fn render_text(invoice: &InvoiceDocument) -> String {
    let shown = Presentation::of(invoice);
    let rows: Vec<[String; 6]> = shown.rows.iter().flat_map(line_rows).collect();
    let carried: Vec<[String; 6]> =
        shown.adjustments.iter().flat_map(|adjustment| adjustment.rows.iter().flat_map(line_rows)).collect();
    let mut widths = TITLES.map(width);
    for row in rows.iter().chain(&carried) {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(width(cell));
        }
    }
    widths[5] = shown.sums.iter().map(|sum| width(&sum.amount)).chain([widths[5]]).max().unwrap_or(0);
    let taken: usize = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
    widths[1] += WIDTH_MIN.saturating_sub(taken);
    let table_width = taken.max(WIDTH_MIN);
    let rule = "─".repeat(table_width);

    let mut text = String::new();
    let title = format!("{} {}", shown.title.to_uppercase(), shown.number);
    push_ends(&mut text, &title, &shown.status.to_uppercase(), table_width);
    text.push_str(&"═".repeat(table_width));
    text.push('\n');
    push_parties(&mut text, &shown.seller, &shown.buyer, table_width / 2);
    text.push('\n');
    for (name, value) in &shown.facts {
        push_line(&mut text, &format!("{name:<10}{value}"));
    }
    text.push('\n');
    push_line(&mut text, &row(&TITLES.map(str::to_owned), &widths));
    push_line(&mut text, &rule);
    for cells in &rows {
        push_line(&mut text, &row(cells, &widths));
    }
    push_line(&mut text, &rule);
    for sum in &shown.sums {
        if sum.is_strong {
            push_line(&mut text, &format!("{:>table_width$}", "─".repeat(table_width / 2)));
        }
        push_sum(&mut text, &sum.name, &sum.amount, widths[5], table_width);
    }
    for adjustment in &shown.adjustments {
        text.push('\n');
        push_wrapped(&mut text, &adjustment.heading, table_width);
        for line in adjustment.rows.iter().flat_map(line_rows) {
            push_line(&mut text, &row(&line, &widths));
        }
        for sum in &adjustment.sums {
            push_sum(&mut text, &sum.name, &sum.amount, widths[5], table_width);
        }
    }
    text.push('\n');
    for note in &shown.notes {
        push_wrapped(&mut text, &note.text, table_width);
    }
    text
}

/// A line, and below it how its price came about where one number cannot say it.
fn line_rows(line: &PresentedLine) -> Vec<[String; 6]> {
    let cells = [&line.position, &line.description, &line.quantity, &line.unit, &line.unit_price, &line.amount];
    let detail_row = |detail: &PresentedDetail| {
        let words = format!("  {}", detail.words);
        [String::new(), words, detail.quantity.clone(), String::new(), detail.price.clone(), String::new()]
    };
    std::iter::once(cells.map(Clone::clone)).chain(line.details.iter().map(detail_row)).collect()
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
    let mut lines = vec![format!("{title:<6}{}", party.name)];
    let mut push = |line: &str| lines.push(format!("{:6}{}", "", line));
    party.address.lines().for_each(&mut push);
    if !party.tax_id.is_empty() {
        push(&format!("Tax id {}", party.tax_id));
    }
    lines
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
    use crate::document::{Head, LineDocument};
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
