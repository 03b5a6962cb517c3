//! Invoices as reviewed text. `UPDATE=1` rewrites the files; the difference is read before it is committed.

use std::path::Path;

use billing::{InvoiceDocument, render_text};
use ingest::Meter;

use crate::fixture::{Fixture, only, only_preview};

pub(crate) fn check(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/golden").join(name);
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, found).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap();
    assert!(reviewed == found, "{name} differs from the reviewed text (UPDATE=1 rewrites it); found:\n{found}");
}

#[tokio::test]
async fn the_worked_example_of_the_standard_tier_is_the_reviewed_invoice() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    let report = fixture.issue_october().await;
    let invoice = fixture.only_invoice(&report).await;
    assert_eq!(invoice.total, "2218.54");
    check("standard.txt", &render_text(&invoice));

    let without_id = InvoiceDocument { id: None, ..invoice };
    let json = serde_json::to_string_pretty(&without_id).unwrap() + "\n";
    check("standard.json", &json);
    assert_eq!(serde_json::from_str::<InvoiceDocument>(&json).unwrap(), without_id);
}

#[tokio::test]
async fn a_preview_of_a_first_month_with_discount_is_the_reviewed_invoice() {
    let fixture = Fixture::new().await;
    fixture.customer("bert", "fintech", "2026-10-09T13:00:00Z").await;
    // 100 GB for the 23 days from the 9th on: a quantity that no decimal ends.
    let stored = 100 * (1_i128 << 30) * 23 * 86_400;
    fixture.usage("bert", "2026-10-31T23:00:00Z", "p", Meter::LogStorageGb, stored).await;
    let previews = billing::preview(&fixture.billing, &only("2026-10", &["bert"])).await.unwrap();
    check("prorated_preview.txt", &render_text(&only_preview(previews)));
}
