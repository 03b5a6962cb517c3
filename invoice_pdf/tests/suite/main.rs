//! Printed invoices, looked at from outside.

#![expect(clippy::unwrap_used, reason = "a test stops where something fails")]

use billing::{
    AdjustmentDocument, Days, Evidence, Fraction, Head, InvoiceDocument, Month, Party, PeriodDocument, Share,
    SourceClass, Stretch, TaxRate, Terms, Tier, Usage, UsagePart, Windows, draft, seeded,
};
use ingest::{Meter, Timestamp};
use invoice_pdf::{Typefaces, render};

const GIB: i128 = 1 << 30;

/// The worked example of a standard customer: 2,054.20, tax 164.34, total 2,218.54.
fn invoice() -> InvoiceDocument {
    let card = seeded(Tier::Standard);
    let month = Month::parse("2026-10").unwrap();
    let terms = Terms {
        customer: "anna".into(),
        month,
        contract_start: "2026-01-01".parse().unwrap(),
        contract_end: None,
        currency: card.currency(),
        stretches: vec![Stretch { days: month.all_days(), rate_card_id: None, card }],
        promotions: Vec::new(),
        prepaid: Vec::new(),
        coupons: Vec::new(),
        taxes: vec![TaxRate::of_customer(Share::new("0.08".parse().unwrap()).unwrap())],
    };
    let first = Timestamp::parse_rfc3339("2026-10-01T00:00:00Z").unwrap();
    let windows = Windows::new(first, first.saturating_add_secs(31 * 86_400), 744);
    let mut usage = Usage::default();
    for (meter, total) in [
        (Meter::LogStorageGb, 100 * GIB * 31 * 86_400),
        (Meter::NatGatewayBytes, 1_000 * GIB),
        (Meter::CloudTrailEvents, 1_000_000),
        (Meter::ConfigRuleEvaluations, 5_000),
        (Meter::GuardDutyFindings, 20),
    ] {
        let days: Days = month.all_days();
        let part = UsagePart { meter, days, total: Fraction::whole(total), peak: Fraction::zero(), windows };
        usage.add(part).unwrap();
    }
    let draft = draft(&terms, &usage).unwrap();
    let issued = chrono::DateTime::parse_from_rfc3339("2026-11-04T09:00:00Z").unwrap().to_utc();
    let head = Head {
        id: Some("1".into()),
        number: Some("INV-2026-11-0001".into()),
        revision: 1,
        status: "issued".into(),
        issued_at: Some(issued),
        due_at: Some(issued + chrono::Duration::days(30)),
        paid_at: None,
        seller: Party {
            name: "SecureBase Operations GmbH".into(),
            address: "Hafenstraße 12\n8001 Zürich\nSwitzerland".into(),
            tax_id: "CHE-000.000.000 MWST".into(),
        },
        buyer: Party {
            name: "Αθηνά Økonomi & Łódź Sp. z o.o.".into(),
            address: "Plac Zwycięstwa 3\n90-001 Łódź\nПольша".into(),
            tax_id: "PL0000000000".into(),
        },
        source_class: SourceClass::BestEffort,
        evidence: Some(Evidence { cut: 1, cut_at: "2026-11-04T08:00:00Z".into(), sha256: "ab".repeat(32) }),
        notes: vec!["Payable within 30 days, without deduction.".into()],
    };
    InvoiceDocument::of(&draft, Some(&terms), head)
}

/// An invoice of many lines and an adjustment, as a large contract gives.
fn long_invoice() -> InvoiceDocument {
    let mut invoice = invoice();
    let lines = invoice.lines.clone();
    for number in 0..60 {
        let mut line = lines[number % lines.len()].clone();
        line.position = i32::try_from(invoice.lines.len() + 1).unwrap();
        line.description = format!("{}, region eu-central-{number}, production landing zone", line.description);
        invoice.lines.push(line);
    }
    invoice.adjustments.push(AdjustmentDocument {
        corrects: "INV-2026-10-0001".into(),
        period: PeriodDocument { start: "2026-09-01".into(), end: "2026-10-01".into() },
        cause: "late usage: three log objects were delivered after the close".into(),
        lines: vec![lines[3].clone()],
        subtotal: "0.20".into(),
        volume_discount: "0.00".into(),
        coupons: "0.00".into(),
        net: "0.20".into(),
        tax: "0.02".into(),
        total: "0.22".into(),
    });
    invoice
}

fn print(invoice: &InvoiceDocument) -> Vec<u8> {
    render(invoice, &Typefaces::embedded()).unwrap()
}

fn pages(pdf: &[u8]) -> usize {
    let count = |needle: &[u8]| pdf.windows(needle.len()).filter(|window| *window == needle).count();
    count(b"/Type/Page/") + count(b"/Type /Page ") + count(b"/Type /Page\n")
}

#[test]
fn the_same_document_gives_the_same_bytes() {
    assert_eq!(print(&invoice()), print(&invoice()));
}

#[test]
fn an_invoice_of_many_lines_takes_several_pages_and_a_short_one_takes_one() {
    let (short, long) = (print(&invoice()), print(&long_invoice()));
    if let Ok(folder) = std::env::var("SECUREBASE_PRINT") {
        let folder = std::path::Path::new(&folder);
        std::fs::write(folder.join("short.pdf"), &short).unwrap();
        std::fs::write(folder.join("long.pdf"), &long).unwrap();
        std::fs::write(folder.join("long.html"), billing::render_html(&long_invoice()).unwrap()).unwrap();
        std::fs::write(folder.join("long.csv"), billing::render_csv(&long_invoice()).unwrap()).unwrap();
    }
    assert_eq!(pages(&short), 1);
    assert!(2 < pages(&long), "{}", pages(&long));
}

#[test]
fn it_says_that_it_is_pdf_a_and_carries_the_document_for_programs() {
    let pdf = print(&invoice());
    let has = |needle: &str| pdf.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(pdf.starts_with(b"%PDF-1.7"));
    assert!(has("pdfaid:part") && has("invoice.json") && has("/FontFile"));
}

#[test]
fn names_of_any_script_and_numbers_of_any_length_are_printed() {
    let mut invoice = invoice();
    invoice.buyer.name = "株式会社 مثال 例え".repeat(12);
    invoice.lines[0].amount = "9".repeat(40);
    invoice.lines[0].description = "x".repeat(3_000);
    invoice.notes = vec!["word ".repeat(4_000)];
    assert!(1 < pages(&print(&invoice)));
}

#[test]
fn a_preview_is_printed_and_says_so() {
    let mut invoice = invoice();
    invoice.number = None;
    invoice.issued_at = None;
    assert_ne!(print(&invoice), print(&self::invoice()));
}
