//! What a document says, as texts in their places: the terminal's table, HTML and PDF show these and add nothing.
//!
//! Numbers are grouped for reading; names are free of control characters.

use chrono::NaiveDate;
use ingest::Meter;
use serde::Serialize;

use crate::document::{AdjustmentDocument, FIRST_REVISION, InvoiceDocument, LineDocument, Party, TaxDocument};
use crate::money::group_thousands;
use crate::rating::describe;

/// Places of a quantity; the document has the exact value.
const PLACES_MAX: usize = 6;

/// The texts of an invoice or credit note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Presentation {
    /// `Invoice` or `Credit note`.
    pub title: &'static str,
    /// The number, or that there is none yet.
    pub number: String,
    /// `issued`, `paid`, ...
    pub status: String,
    /// Who bills.
    pub seller: Party,
    /// Who is billed.
    pub buyer: Party,
    /// Dates, period, rates: names and values.
    pub facts: Vec<(&'static str, String)>,
    /// The lines.
    pub rows: Vec<PresentedLine>,
    /// The amounts below the lines in the order of the arithmetic; the last is what is to be paid.
    pub sums: Vec<PresentedSum>,
    /// Late usage of earlier periods that this invoice carries.
    pub adjustments: Vec<PresentedAdjustment>,
    /// The tax box.
    pub taxes: Vec<PresentedTax>,
    /// Sentences at the end.
    pub notes: Vec<PresentedNote>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresentedLine {
    /// The place in the invoice.
    pub position: String,
    /// The line in words.
    pub description: String,
    /// The quantity; an ellipsis says that digits follow.
    pub quantity: String,
    /// The unit.
    pub unit: String,
    /// The price of one unit, or how it came about.
    pub unit_price: String,
    /// What is charged.
    pub amount: String,
    /// How the amount came about, where one price cannot say it.
    pub details: Vec<PresentedDetail>,
}

/// One step of a line's price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresentedDetail {
    /// The step in words.
    pub words: String,
    /// The quantity of the step, or nothing.
    pub quantity: String,
    /// Its price, or nothing.
    pub price: String,
}

/// One amount below the lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresentedSum {
    /// What it is.
    pub name: String,
    /// The amount.
    pub amount: String,
    /// Whether it stands out: a total.
    pub is_strong: bool,
}

/// An adjustment that an invoice carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresentedAdjustment {
    /// Which invoice, which period, why.
    pub heading: String,
    /// The lines that change.
    pub rows: Vec<PresentedLine>,
    /// By how much.
    pub sums: Vec<PresentedSum>,
}

/// One line of the tax box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresentedTax {
    /// The tax and where.
    pub name: String,
    /// The rate, or that there is none and why.
    pub rate: String,
    /// What it is on.
    pub basis: String,
    /// The tax.
    pub amount: String,
}

/// A sentence at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresentedNote {
    /// What it is about.
    pub label: &'static str,
    /// The sentence.
    pub text: String,
}

impl Presentation {
    /// The texts of a document.
    pub fn of(invoice: &InvoiceDocument) -> Self {
        Self {
            title: if invoice.is_credit_note() { "Credit note" } else { "Invoice" },
            number: invoice.number.clone().unwrap_or_else(|| "(preview, not issued)".to_owned()),
            status: invoice.status.clone(),
            seller: printable_party(&invoice.seller),
            buyer: printable_party(&invoice.buyer),
            facts: facts(invoice),
            rows: invoice.lines.iter().map(PresentedLine::of).collect(),
            sums: sums(invoice),
            adjustments: invoice.adjustments.iter().map(PresentedAdjustment::of).collect(),
            taxes: invoice.taxes.iter().map(PresentedTax::of).collect(),
            notes: notes(invoice),
        }
    }
}

impl PresentedLine {
    fn of(line: &LineDocument) -> Self {
        let flat_alone = match line.steps.as_slice() {
            [step] if is_nothing(&step.price) => step.flat.as_deref(),
            _ => None,
        };
        let has_flat = line.steps.iter().any(|step| step.flat.is_some());
        let is_tiered = flat_alone.is_none() && (1 < line.steps.len() || has_flat);
        let unit_price = match (&line.unit_price, is_tiered) {
            _ if flat_alone.is_some() => format!("{} flat", group_thousands(flat_alone.unwrap_or_default())),
            (Some(_), true) => "by tier".to_owned(),
            (Some(price), false) => priced(price, line.unit_price_per.as_deref()),
            (None, _) => String::new(),
        };
        let mut details = Vec::new();
        for (number, step) in (1..).zip(&line.steps).filter(|_| is_tiered) {
            let is_included = number == 1 && is_nothing(&step.price) && step.flat.is_none() && 1 < line.steps.len();
            let flat = step.flat.as_ref().map(|flat| format!(" + {}", group_thousands(flat))).unwrap_or_default();
            details.push(PresentedDetail {
                words: if is_included {
                    "included".to_owned()
                } else {
                    format!("from {}", group_thousands(&step.from))
                },
                quantity: group_thousands(&shortened(&step.quantity)),
                price: format!("{}{flat}", priced(&step.price, Some(&step.per))),
            });
        }
        if let Some(reduction) = &line.reduction {
            let name = printable(&reduction.name);
            details.push(PresentedDetail {
                // All of it off is not a discount: the name says why, as that it is prepaid.
                words: if reduction.off == "1" { name } else { format!("{name}: {} off", percent(&reduction.off)) },
                quantity: String::new(),
                price: String::new(),
            });
        }
        Self {
            position: line.position.to_string(),
            description: printable(&line.description),
            quantity: group_thousands(&shortened(&line.quantity)),
            unit: printable(&line.unit),
            unit_price,
            amount: group_thousands(&line.amount),
            details,
        }
    }
}

impl PresentedSum {
    fn new(name: impl Into<String>, amount: String) -> Self {
        Self { name: name.into(), amount, is_strong: false }
    }

    fn strong(name: String, amount: String) -> Self {
        Self { name, amount, is_strong: true }
    }
}

impl PresentedAdjustment {
    fn of(adjustment: &AdjustmentDocument) -> Self {
        let (start, last) = (&adjustment.period.start, last_day(&adjustment.period.end));
        let changes = [
            ("change of subtotal", &adjustment.subtotal),
            ("change of volume discount", &adjustment.volume_discount),
            ("change of coupons", &adjustment.coupons),
            ("change of net", &adjustment.net),
            ("change of tax", &adjustment.tax),
            ("adjustment", &adjustment.total),
        ];
        Self {
            heading: format!(
                "Adjustment of {} for {start} to {last}: {}",
                printable(&adjustment.corrects),
                printable(&adjustment.cause)
            ),
            rows: adjustment.lines.iter().map(PresentedLine::of).collect(),
            sums: changes
                .into_iter()
                .filter(|(_, amount)| !is_nothing(amount))
                .map(|(name, amount)| PresentedSum::new(name, group_thousands(amount)))
                .collect(),
        }
    }
}

impl PresentedTax {
    fn of(tax: &TaxDocument) -> Self {
        let category = tax.category.as_deref().unwrap_or_default();
        let rate = match &tax.exemption {
            Some(reason) => format!("exempt: {}", printable(reason)),
            None => percent(&tax.rate),
        };
        Self {
            name: printable([&tax.name, &tax.jurisdiction, category].join(" ").trim_end()),
            rate,
            basis: group_thousands(&tax.basis),
            amount: group_thousands(&tax.amount),
        }
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
    if invoice.revision != FIRST_REVISION {
        facts.push(("Revision", invoice.revision.to_string()));
    }
    match (&invoice.issued_at, &invoice.due_at) {
        (Some(issued_at), Some(due_at)) => {
            facts.push(("Issued", format!("{}, due {} (end of day, UTC)", day(issued_at), day(due_at))));
        }
        (Some(issued_at), None) => facts.push(("Issued", day(issued_at))),
        _ => {}
    }
    facts.push(("Tax point", invoice.tax_point.clone()));
    if let Some(paid_at) = &invoice.paid_at {
        facts.push(("Paid", day(paid_at)));
    }
    facts
}

fn sums(invoice: &InvoiceDocument) -> Vec<PresentedSum> {
    let mut sums = vec![PresentedSum::new("Subtotal", group_thousands(&invoice.subtotal))];
    for deduction in &invoice.deductions {
        sums.push(PresentedSum::new(printable(&deduction.description), taken_off(&deduction.amount)));
    }
    if invoice.is_credit_note() {
        // A discount that grows is in the customer's favour, as every negative amount of a credit note.
        for (name, amount) in [("Volume discount", &invoice.volume_discount), ("Coupons", &invoice.coupons)] {
            if !is_nothing(amount) {
                sums.push(PresentedSum::new(name, turned(amount)));
            }
        }
    }
    sums.push(PresentedSum::new("Net", group_thousands(&invoice.net)));
    let is_only = invoice.taxes.len() == 1;
    for tax in &invoice.taxes {
        let name = printable([tax.name.as_str(), tax.jurisdiction.as_str()].join(" ").trim_end());
        let category = tax.category.as_deref().map(|category| format!(", {}", printable(category))).unwrap_or_default();
        let basis = group_thousands(&tax.basis);
        let rate = match (&tax.exemption, is_only) {
            (Some(_), true) => "exempt".to_owned(),
            (Some(_), false) => format!("{basis} exempt"),
            (None, true) => percent(&tax.rate),
            (None, false) => format!("{} of {basis}", percent(&tax.rate)),
        };
        sums.push(PresentedSum::new(format!("{name}{category} ({rate})"), group_thousands(&tax.amount)));
    }
    sums.push(PresentedSum::strong(format!("TOTAL {}", invoice.currency), group_thousands(&invoice.total)));
    let is_settled = invoice.due == invoice.total || invoice.is_credit_note();
    if !is_settled || !invoice.adjustments.is_empty() {
        for adjustment in &invoice.adjustments {
            let name = format!("Adjustment of {}", adjustment.corrects);
            sums.push(PresentedSum::new(name, group_thousands(&adjustment.total)));
        }
        if !is_nothing(&invoice.prepaid_credit) {
            sums.push(PresentedSum::new("Prepaid credit", taken_off(&invoice.prepaid_credit)));
        }
        sums.push(PresentedSum::strong(format!("DUE {}", invoice.currency), group_thousands(&invoice.due)));
    }
    sums
}

fn notes(invoice: &InvoiceDocument) -> Vec<PresentedNote> {
    let mut notes = Vec::new();
    let mut push = |label, text: String| notes.push(PresentedNote { label, text });
    for note in &invoice.notes {
        push("Note", printable(note));
    }
    push("Usage", invoice.usage_source.sentence.clone());
    if !invoice.usage_source.meters_without_usage.is_empty() {
        let words = |name: &String| Meter::parse_stored(name).map_or(name.clone(), |meter| describe(meter).to_owned());
        let meters: Vec<String> = invoice.usage_source.meters_without_usage.iter().map(words).collect();
        push("", format!("No usage was reported, and nothing is charged, for: {}.", meters.join(", ")));
    }
    if let Some(evidence) = &invoice.evidence {
        push("Evidence", format!("Cut {}, made {}, SHA-256 {}", evidence.cut, evidence.cut_at, evidence.sha256));
    }
    notes
}

/// The last day of a half-open period; people read a period as two days that both belong to it.
fn last_day(end: &str) -> String {
    let day = end.parse::<NaiveDate>().ok().and_then(|end| end.pred_opt());
    day.map_or_else(|| format!("before {end}"), |day| day.to_string())
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

/// A price of one unit, or of several: `5.00 per 1,000`.
fn priced(price: &str, per: Option<&str>) -> String {
    match per {
        None | Some("1") => group_thousands(price),
        Some(per) => format!("{} per {}", group_thousands(price), group_thousands(per)),
    }
}

/// A quantity with few enough places to read; an ellipsis says that digits follow.
fn shortened(quantity: &str) -> String {
    match quantity.split_once('.') {
        Some((whole, places)) if PLACES_MAX < places.len() => format!("{whole}.{}…", &places[..PLACES_MAX]),
        _ => quantity.to_owned(),
    }
}

/// Control characters would move a terminal's cursor; a name cannot.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A party without control characters; the lines of an address stay lines.
fn printable_party(party: &Party) -> Party {
    let lines = party.address.lines().map(str::trim).filter(|line| !line.is_empty()).map(printable);
    Party {
        name: printable(&party.name),
        address: lines.collect::<Vec<_>>().join("\n"),
        tax_id: printable(&party.tax_id),
    }
}
