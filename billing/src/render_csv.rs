//! An invoice or credit note as CSV (RFC 4180), one row a line, for a spreadsheet.
//!
//! Amounts are the document's own decimal text. A cell that a spreadsheet would read as a formula begins with an
//! apostrophe: names and descriptions come from outside.

use thiserror::Error;

use crate::document::{InvoiceDocument, LineDocument};

/// The first row.
const TITLES: [&str; 15] = [
    "number",
    "kind",
    "customer",
    "period_start",
    "period_end",
    "currency",
    "row",
    "position",
    "line_kind",
    "meter",
    "description",
    "quantity",
    "unit",
    "unit_price",
    "amount",
];

/// Writing to memory failed: a fault of this program.
#[derive(Debug, Error)]
#[error("the invoice's CSV cannot be written")]
pub struct CsvError(#[from] csv::Error);

/// Writes a document as CSV: `row` is `line`, or what a sum is. The sums add up from row to row, with what is taken off below
/// nothing: `subtotal` and each `deduction` to `net`, that and each `tax` to `total`, that and each `adjustment` to `payable`,
/// that and `prepaid_credit` to `due`. An adjustment has its own `adjustment_line`, `adjustment_deduction` and `adjustment_tax`
/// before it. A credit note ends with its total.
pub fn render_csv(invoice: &InvoiceDocument) -> Result<Vec<u8>, CsvError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(TITLES)?;
    let number = invoice.number.as_deref().unwrap_or_default();
    let head =
        [number, &invoice.kind, &invoice.customer, &invoice.period.start, &invoice.period.end, &invoice.currency];
    let mut write =
        |row: &str, cells: [&str; 8]| writer.write_record(head.iter().copied().chain([row]).chain(cells).map(harmless));
    for line in &invoice.lines {
        write("line", cells(line, &line.position.to_string()))?;
    }
    for adjustment in &invoice.adjustments {
        for line in &adjustment.lines {
            write("adjustment_line", cells(line, &line.position.to_string()))?;
        }
        let mut sum = |row: &str, words: &str, amount: &str| write(row, ["", "", "", words, "", "", "", amount]);
        for (words, amount) in deductions(&adjustment.volume_discount, &adjustment.coupons) {
            sum("adjustment_deduction", words, &amount)?;
        }
        sum("adjustment_tax", "", &adjustment.tax)?;
        sum("adjustment", &adjustment.corrects, &adjustment.total)?;
    }
    let mut sum = |row: &str, words: &str, amount: &str| write(row, ["", "", "", words, "", "", "", amount]);
    sum("subtotal", "", &invoice.subtotal)?;
    for deduction in &invoice.deductions {
        sum("deduction", &deduction.description, &taken_off(&deduction.amount))?;
    }
    if invoice.deductions.is_empty() {
        // A correction says what changes of them, and of none by name.
        for (words, amount) in deductions(&invoice.volume_discount, &invoice.coupons) {
            sum("deduction", words, &amount)?;
        }
    }
    sum("net", "", &invoice.net)?;
    for tax in &invoice.taxes {
        sum("tax", &tax.name, &tax.amount)?;
    }
    sum("total", "", &invoice.total)?;
    if !invoice.is_credit_note() {
        sum("payable", "", &invoice.payable)?;
        if !is_nothing(&invoice.prepaid_credit) {
            sum("prepaid_credit", "", &taken_off(&invoice.prepaid_credit))?;
        }
        sum("due", "", &invoice.due)?;
    }
    writer.into_inner().map_err(|error| CsvError(error.into_error().into()))
}

/// What discount and coupons take off, where they do.
fn deductions(volume_discount: &str, coupons: &str) -> Vec<(&'static str, String)> {
    let both = [("Volume discount", volume_discount), ("Coupons", coupons)];
    both.into_iter()
        .filter(|(_, amount)| !is_nothing(amount))
        .map(|(words, amount)| (words, taken_off(amount)))
        .collect()
}

/// An amount with the other sign.
fn taken_off(amount: &str) -> String {
    match amount.strip_prefix('-') {
        Some(amount) => amount.to_owned(),
        None if is_nothing(amount) => amount.to_owned(),
        None => format!("-{amount}"),
    }
}

fn is_nothing(amount: &str) -> bool {
    amount.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

fn cells<'a>(line: &'a LineDocument, position: &'a str) -> [&'a str; 8] {
    [
        position,
        &line.kind,
        line.meter.as_deref().unwrap_or_default(),
        &line.description,
        &line.quantity,
        &line.unit,
        line.unit_price.as_deref().unwrap_or_default(),
        &line.amount,
    ]
}

/// A text that no spreadsheet takes for a formula (OWASP, CSV injection); numbers stay numbers.
fn harmless(cell: &str) -> String {
    let is_number = cell.parse::<rust_decimal::Decimal>().is_ok();
    if !is_number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_formula_and_a_credit_stays_a_number() {
        assert_eq!(harmless("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(harmless("-12.50"), "-12.50");
        assert_eq!(harmless("Zoë"), "Zoë");
        assert_eq!(["5.00", "-5.00", "0.00", "0"].map(taken_off), ["-5.00", "5.00", "0.00", "0"]);
    }
}
