//! Usage that arrives after its period was invoiced: adjustments, credit notes, and that they come to the recount.

use billing::{LineDocument, issue, load_credit_note, preview, render_text};
use ingest::Meter;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::fixture::{Fixture, at, only_preview, request, seller, summary};
use crate::golden::check;

const PER_FINDING: &str = "2026-10-10T00:00:00Z";

impl Fixture {
    /// A standard customer with so many findings at 0.05 in a month, issued in the next. 60,000 come to the 5,000.00 at which
    /// no discount is given yet.
    async fn billed(&self, customer: &str, findings: i128) {
        self.customer(customer, "standard", "2026-01-01T00:00:00Z").await;
        self.usage(customer, PER_FINDING, customer, Meter::GuardDutyFindings, findings).await;
        self.issue_october().await;
    }

    /// The October of a customer comes to so many findings now, in a newer cut.
    async fn recount(&self, customer: &str, findings: i128) {
        self.execute(&format!(
            "update usage_rows set total = {findings} where customer_id = '{customer}' and window_start = '{PER_FINDING}'"
        ))
        .await
        .unwrap();
        self.close(customer, "2026-10", "proven").await;
    }

    /// Runs October again: what was counted anew is credited.
    async fn run_again(&self, now: &str) -> Vec<String> {
        summary(&issue(&self.billing, &request("2026-10"), at(now)).await.unwrap())
    }

    /// What October is billed at now: invoice - credits + adjustments, as [net, tax, total].
    async fn billed_for_october(&self, customer: &str) -> Vec<i64> {
        let sums: (i64, i64, i64) = sqlx::query_as(
            "with own as (
                 select i.net_minor as net, i.tax_minor as tax, i.total_minor as total from invoices i
                 where i.customer_id = $1 and i.period_start = '2026-10-01' and i.kind = 'monthly'
                     and i.status in ('issued', 'paid')
                     and not exists (
                         select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation')
             ), credited as (
                 select -n.net_minor, -n.tax_minor, -n.total_minor from credit_notes n
                 join invoices i on i.invoice_id = n.invoice_id
                 where n.customer_id = $1 and n.kind = 'late_usage' and i.period_start = '2026-10-01'
                     and not exists (
                         select from credit_notes c where c.invoice_id = i.invoice_id and c.kind = 'cancellation')
             ), adjusted as (
                 select a.net_minor, a.tax_minor, a.total_minor from invoice_adjustments a
                 join invoices i on i.invoice_id = a.adjusted_invoice_id
                 where a.customer_id = $1 and i.period_start = '2026-10-01'
                     and not exists (
                         select from credit_notes n
                         where n.adjustment_id = a.adjustment_id
                             or (n.invoice_id = a.invoice_id and n.kind = 'cancellation'))
             )
             select coalesce(sum(net), 0)::bigint, coalesce(sum(tax), 0)::bigint, coalesce(sum(total), 0)::bigint
             from (select * from own union all select * from credited union all select * from adjusted) as parts",
        )
        .bind(customer)
        .fetch_one(&mut self.superuser().await)
        .await
        .unwrap();
        vec![sums.0, sums.1, sums.2]
    }
}

#[tokio::test]
async fn one_late_cent_over_the_threshold_credits_269_99() {
    let fixture = Fixture::new().await;
    // 3,000.00 of findings and one cent more: 0.05 x 60,000 and 0.001 x 10 evaluations.
    fixture.billed("anna", 60_000).await;
    let first = fixture.invoice("INV-2026-11-0001").await;
    assert_eq!((first.subtotal.as_str(), first.total.as_str()), ("5000.00", "5400.00"));
    fixture.usage("anna", "2026-10-31T22:00:00Z", "late", Meter::ConfigRuleEvaluations, 10).await;
    fixture.close("anna", "2026-10", "proven").await;
    assert_eq!(fixture.run_again("2026-11-09T08:00:00Z").await, ["anna: already issued INV-2026-11-0001"]);
    let note = load_credit_note(&mut fixture.superuser().await, "CN-2026-11-0001").await.unwrap().unwrap();
    assert_eq!(
        [note.subtotal.as_str(), &note.volume_discount, &note.net, &note.tax, &note.total],
        ["0.01", "250.00", "-249.99", "-20.00", "-269.99"]
    );
    check("late_cent.txt", &render_text(&note));
    assert_eq!(fixture.billed_for_october("anna").await, [475_001, 38_000, 513_001]);
    assert_eq!(fixture.texts("select open_minor::text from customer_billing_summary").await, ["513001"]);
    assert_eq!(fixture.invoice("INV-2026-11-0001").await, first, "an issued invoice never changes");
    fixture.run_again("2026-11-10T08:00:00Z").await;
    assert_eq!(fixture.count("credit_notes").await, 1, "once");
}

#[tokio::test]
async fn late_usage_rides_on_the_next_invoice_below_its_own_total() {
    let fixture = Fixture::new().await;
    fixture.billed("anna", 100).await;
    fixture.recount("anna", 500).await;
    // The rates of today do not matter: October is counted with its own.
    fixture.execute("update customers set tax_rate = 0.2").await.unwrap();
    assert_eq!(fixture.run_again("2026-11-09T08:00:00Z").await, ["anna: already issued INV-2026-11-0001"]);
    assert_eq!(fixture.count("credit_notes").await, 0, "what is to be charged waits for an invoice");

    fixture.usage("anna", "2026-11-10T00:00:00Z", "anna", Meter::GuardDutyFindings, 59_900).await;
    fixture.close("anna", "2026-11", "proven").await;
    let preview = only_preview(preview(&fixture.billing, &request("2026-11")).await.unwrap());
    let report = fixture.issue("2026-11", "2026-12-01T00:00:00Z").await;
    let november = fixture.only_invoice(&report).await;
    // 20.00 of late usage would have brought the discount, had they been added to the subtotal.
    assert_eq!((november.subtotal.as_str(), november.volume_discount.as_str()), ("4995.00", "0.00"));
    assert_eq!((november.tax.as_str(), november.total.as_str()), ("999.00", "5994.00"));
    let [adjustment] = november.adjustments.as_slice() else { panic!("{:?}", november.adjustments) };
    assert_eq!(
        (adjustment.corrects.as_str(), adjustment.net.as_str(), adjustment.tax.as_str(), adjustment.total.as_str()),
        ("INV-2026-11-0001", "20.00", "1.60", "21.60")
    );
    assert_eq!((november.payable.as_str(), november.due.as_str()), ("6015.60", "6015.60"));
    assert_eq!((preview.adjustments, preview.due), (november.adjustments.clone(), november.due.clone()));
    check("carries_late_usage.txt", &render_text(&november));
    assert_eq!(fixture.billed_for_october("anna").await, [202_500, 16_200, 218_700]);

    // Nothing is left for the invoice after that.
    let december = fixture.issue("2026-12", "2027-01-01T00:00:00Z").await;
    assert!(fixture.only_invoice(&december).await.adjustments.is_empty());
}

#[tokio::test]
async fn less_usage_is_credited_at_once_and_a_paid_invoice_gives_customer_credit() {
    let fixture = Fixture::new().await;
    fixture.billed("anna", 100).await;
    let payment = billing::PayRequest {
        invoice: "INV-2026-11-0001",
        amount: None,
        method: "bank_transfer",
        reference: "2026-11-20/17",
        received_at: at("2026-11-20T00:00:00Z"),
    };
    billing::pay(&fixture.billing, &payment, "operator:ada", at("2026-11-20T09:00:00Z")).await.unwrap();
    fixture.recount("anna", 0).await;
    fixture.run_again("2026-11-21T00:00:00Z").await;
    let note: (i64, i64, i64) = sqlx::query_as("select total_minor, receivable_minor, credit_minor from credit_notes")
        .fetch_one(&mut fixture.superuser().await)
        .await
        .unwrap();
    assert_eq!(note, (540, 0, 540));
    let november = fixture.only_invoice(&fixture.issue("2026-11", "2026-12-01T00:00:00Z").await).await;
    assert_eq!(
        (november.total.as_str(), november.prepaid_credit.as_str(), november.due.as_str()),
        ("2160.00", "5.40", "2154.60"),
        "the credit is used, and lowers no tax"
    );
    assert_eq!(fixture.texts("select credit_minor::text from customer_balances").await, ["0"]);
}

#[tokio::test]
async fn a_credit_note_that_leaves_nothing_open_settles_its_invoice() {
    let fixture = Fixture::new().await;
    fixture.billed("anna", 100).await;
    let payment = billing::PayRequest {
        invoice: "INV-2026-11-0001",
        amount: Some("2160.00"),
        method: "card",
        reference: "1",
        received_at: at("2026-11-20T00:00:00Z"),
    };
    billing::pay(&fixture.billing, &payment, "operator:ada", at("2026-11-20T09:00:00Z")).await.unwrap();
    assert_eq!(fixture.invoice("INV-2026-11-0001").await.status, "issued");
    fixture.recount("anna", 0).await;
    fixture.run_again("2026-11-21T00:00:00Z").await;
    let paid = fixture.invoice("INV-2026-11-0001").await;
    assert_eq!((paid.status.as_str(), paid.paid_at.as_deref()), ("paid", Some("2026-11-21T00:00:00Z")));
    assert_eq!(fixture.audited(Some("anna")).await.last().unwrap(), "credit_note.issued CN-2026-11-0001");
}

#[tokio::test]
async fn a_credit_beyond_the_invoice_takes_back_what_was_charged_for_its_period() {
    let fixture = Fixture::new().await;
    // One day of October is under contract, so its own invoice is small.
    fixture.customer("anna", "standard", "2026-10-31T00:00:00Z").await;
    fixture.issue_october().await;
    fixture.usage("anna", "2026-10-31T05:00:00Z", "late", Meter::GuardDutyFindings, 10_000).await;
    fixture.close("anna", "2026-10", "proven").await;
    let november = fixture.only_invoice(&fixture.issue("2026-11", "2026-12-01T00:00:00Z").await).await;
    assert_eq!(november.adjustments[0].total, "540.00");
    assert_eq!(fixture.billed_for_october("anna").await, [56_452, 4_516, 60_968]);
    // All of it was somebody else's: more than the 64.52 net of the own invoice cannot come off it.
    fixture.execute("update usage_rows set total = 0").await.unwrap();
    fixture.close("anna", "2026-10", "proven").await;
    fixture.run_again("2026-12-02T00:00:00Z").await;
    let notes = fixture
        .texts(
            "select n.kind || ' on ' || i.invoice_number || ': ' || n.total_minor from credit_notes n
             join invoices i on i.invoice_id = n.invoice_id order by n.credit_note_number",
        )
        .await;
    assert_eq!(notes, ["adjustment on INV-2026-12-0001: 54000"]);
    assert_eq!(fixture.billed_for_october("anna").await, [6_452, 516, 6_968]);
    let note = load_credit_note(&mut fixture.superuser().await, "CN-2026-12-0001").await.unwrap().unwrap();
    assert_eq!(note.corrects.unwrap().number, "INV-2026-12-0001");
}

#[tokio::test]
async fn late_usage_without_a_next_invoice_is_an_invoice_of_its_own() {
    let fixture = Fixture::new().await;
    fixture.billed("anna", 100).await;
    let nothing =
        billing::bill_late_usage(&fixture.billing, "anna", &seller(), "operator:ada", at("2026-11-09T00:00:00Z")).await;
    assert_eq!(nothing.unwrap_err().to_string(), "there is no late usage of anna to be billed");
    fixture.recount("anna", 500).await;
    let billed =
        billing::bill_late_usage(&fixture.billing, "anna", &seller(), "operator:ada", at("2026-11-09T00:00:00Z"))
            .await
            .unwrap();
    let summary = "select billed_minor || ' billed, ' || open_minor || ' open' from customer_billing_summary";
    assert_eq!(fixture.texts(summary).await, ["218700 billed, 218700 open"], "2,165.40 and 21.60");
    let invoice = fixture.invoice(billed.number.as_ref().unwrap()).await;
    assert_eq!((invoice.kind.as_str(), invoice.total.as_str(), invoice.due.as_str()), ("adjustment", "0.00", "21.60"));
    check("adjustment_invoice.txt", &render_text(&invoice));
    let listed = billing::list_invoices(&mut fixture.operator().await, 1, None).await.unwrap().remove(0);
    assert_eq!((listed.total.as_str(), listed.payable.as_str()), ("0.00", "21.60"), "what it is for stands in both");
    assert_eq!(fixture.billed_for_october("anna").await, [202_500, 16_200, 218_700]);
    // A second one of the same period is another revision.
    fixture.recount("anna", 600).await;
    let second =
        billing::bill_late_usage(&fixture.billing, "anna", &seller(), "operator:ada", at("2026-11-10T00:00:00Z"))
            .await
            .unwrap();
    assert_eq!(fixture.invoice(&second.id).await.revision, 2);
    let none =
        billing::bill_late_usage(&fixture.billing, "nobody", &seller(), "operator:ada", at("2026-11-10T00:00:00Z"))
            .await;
    assert_eq!(none.unwrap_err().to_string(), "there is no customer nobody");
}

#[tokio::test]
async fn crediting_an_invoice_releases_the_adjustments_it_carried() {
    let fixture = Fixture::new().await;
    fixture.billed("anna", 100).await;
    fixture.recount("anna", 500).await;
    let november = fixture.only_invoice(&fixture.issue("2026-11", "2026-12-01T00:00:00Z").await).await;
    assert_eq!(november.due, "2181.60");
    let number = november.number.unwrap();
    let credited =
        billing::credit(&fixture.billing, &number, "wrong address", "operator:ada", at("2026-12-02T00:00:00Z"))
            .await
            .unwrap();
    assert_eq!(credited.total.to_string(), "2,181.60", "the adjustment with it");
    assert_eq!(fixture.billed_for_october("anna").await, [200_500, 16_040, 216_540]);
    assert_eq!(fixture.invoice(&number).await.status, "credited");
    // What it carried is billed again, by the next invoice that comes.
    let december = fixture.only_invoice(&fixture.issue("2026-12", "2027-01-01T00:00:00Z").await).await;
    let carried: Vec<&LineDocument> = december.adjustments.iter().flat_map(|carried| &carried.lines).collect();
    assert_eq!((carried.len(), december.payable.as_str()), (1, "2181.60"));
    assert_eq!(fixture.billed_for_october("anna").await, [202_500, 16_200, 218_700]);
}

#[tokio::test]
async fn a_reissue_bills_the_period_once_whatever_was_charged_for_it_elsewhere() {
    let fixture = Fixture::new().await;
    fixture.billed("anna", 100).await;
    fixture.recount("anna", 500).await;
    fixture.issue("2026-11", "2026-12-01T00:00:00Z").await;
    // October was billed with the wrong tax; its late usage rides on November.
    fixture.execute("update customers set tax_rate = 0.2").await.unwrap();
    let now = at("2026-12-03T00:00:00Z");
    let (credited, billed) =
        billing::reissue(&fixture.billing, "INV-2026-11-0001", "tax rate of 20 %", &seller(), "operator:ada", now)
            .await
            .unwrap();
    assert_eq!(credited.notes, ["CN-2026-12-0001", "CN-2026-12-0002"]);
    assert_eq!(credited.total.to_string(), "2,187.00");
    let again = fixture.invoice(&billed.id).await;
    assert_eq!((again.revision, again.subtotal.as_str(), again.total.as_str()), (2, "2025.00", "2430.00"));
    assert_eq!(again.evidence.as_ref().map(|evidence| evidence.cut), Some(2), "from the newest close");
    assert_eq!(fixture.billed_for_october("anna").await, [202_500, 40_500, 243_000]);
    check(
        "cancellation.txt",
        &render_text(&load_credit_note(&mut fixture.superuser().await, "CN-2026-12-0002").await.unwrap().unwrap()),
    );
    let twice = billing::reissue(&fixture.billing, "INV-2026-11-0001", "again", &seller(), "operator:ada", now)
        .await
        .unwrap_err();
    assert_eq!(twice.to_string(), "invoice INV-2026-11-0001 is credited whole already: there is nothing left of it");
    // The next run has nothing to add.
    assert_eq!(
        fixture.run_again("2026-12-04T00:00:00Z").await,
        [format!("anna: already issued {}", billed.number.unwrap())]
    );
    assert_eq!(fixture.count("credit_notes").await, 2);
}

#[tokio::test]
async fn the_preview_knows_what_taking_back_from_a_paid_invoice_gives_as_credit() {
    let fixture = Fixture::new().await;
    // As before: a small October of its own, and most of it charged on November, which is paid. October is open.
    fixture.customer("anna", "standard", "2026-10-31T00:00:00Z").await;
    fixture.issue_october().await;
    fixture.usage("anna", "2026-10-31T05:00:00Z", "late", Meter::GuardDutyFindings, 10_000).await;
    fixture.close("anna", "2026-10", "proven").await;
    let november = fixture.only_invoice(&fixture.issue("2026-11", "2026-12-01T00:00:00Z").await).await;
    let payment = billing::PayRequest {
        invoice: november.number.as_ref().unwrap(),
        amount: None,
        method: "card",
        reference: "1",
        received_at: at("2026-12-01T00:00:00Z"),
    };
    billing::pay(&fixture.billing, &payment, "operator:ada", at("2026-12-02T09:00:00Z")).await.unwrap();
    fixture.execute("update usage_rows set total = 0").await.unwrap();
    fixture.close("anna", "2026-10", "proven").await;
    let preview = only_preview(preview(&fixture.billing, &request("2026-12")).await.unwrap());
    let december = fixture.only_invoice(&fixture.issue("2026-12", "2027-01-01T00:00:00Z").await).await;
    assert_eq!((december.prepaid_credit.as_str(), december.due.as_str()), ("540.00", "1620.00"));
    assert_eq!((preview.prepaid_credit, preview.due), (december.prepaid_credit, december.due));
}

impl Fixture {
    /// What of a coupon is used, by its customer's agreement as of a month.
    async fn taken(&self, customer: &str, month: &str) -> (String, u32) {
        let mut connection = self.connect("securebase_billing").await;
        let id = customer.parse().unwrap();
        let month = billing::Month::parse(month).unwrap();
        let (_, agreement) = billing::load_agreements(&mut connection, Some(&[id]), month).await.unwrap().remove(0);
        let coupon = agreement.unwrap().coupons.remove(0);
        (coupon.taken.to_string(), coupon.invoices_used)
    }

    /// A standard customer with a promotional credit of 3,000.00 since October, and so many findings at 0.05 there.
    async fn promoted(&self, customer: &str, findings: i128) {
        self.customer(customer, "standard", "2026-10-01T00:00:00Z").await;
        self.usage(customer, PER_FINDING, customer, Meter::GuardDutyFindings, findings).await;
        self.execute(&format!(
            "insert into coupons (code, description, kind, amount_minor, currency, valid_from, recorded_at)
                 values ('WELCOME', 'Welcome', 'balance', 300000, 'USD', '2026-01-01', now()) on conflict do nothing;
             insert into coupon_redemptions (customer_id, code, redeemed_on, recorded_at)
                 values ('{customer}', 'WELCOME', '2026-10-01', now())"
        ))
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn late_usage_takes_no_more_of_a_balance_than_other_months_have_left_of_it() {
    let fixture = Fixture::new().await;
    fixture.promoted("anna", 0).await;
    let october = fixture.only_invoice(&fixture.issue_october().await).await;
    let november = fixture.only_invoice(&fixture.issue("2026-11", "2026-12-01T00:00:00Z").await).await;
    assert_eq!((october.coupons.as_str(), november.coupons.as_str()), ("2000.00", "1000.00"));
    // With its own terms alone October would take 500.00 more, which November has had.
    fixture.recount("anna", 10_000).await;
    let preview = only_preview(preview(&fixture.billing, &request("2026-12")).await.unwrap());
    let december = fixture.only_invoice(&fixture.issue("2026-12", "2027-01-01T00:00:00Z").await).await;
    let [late] = december.adjustments.as_slice() else { panic!("{:?}", december.adjustments) };
    assert_eq!([late.subtotal.as_str(), &late.coupons, &late.net, &late.total], ["500.00", "0.00", "500.00", "540.00"]);
    assert_eq!((december.coupons.as_str(), december.due.as_str()), ("0.00", "2700.00"));
    assert_eq!((preview.adjustments, preview.due), (december.adjustments, december.due));
    assert_eq!(fixture.taken("anna", "2027-01").await, ("3,000.00".into(), 2), "December took nothing of it");
    assert_eq!(fixture.billed_for_october("anna").await, [50_000, 4_000, 54_000]);
}

#[tokio::test]
async fn what_a_correction_gives_back_of_a_balance_or_uses_of_it_counts_for_the_months_after() {
    let fixture = Fixture::new().await;
    fixture.promoted("anna", 10_000).await;
    fixture.promoted("bert", 0).await;
    fixture.promoted("cora", 0).await;
    fixture.issue_october().await;
    assert_eq!(fixture.taken("anna", "2026-11").await, ("2,500.00".into(), 1));
    // Anna's October comes to 500.00 less, of which nothing was to be paid: they are credit of the coupon again. Bert's comes to
    // 500.00 more, and his coupon pays them. Cora's comes to 1,500.00 more: what is left of her coupon pays 1,000.00 of it, on the
    // invoice of November, which has nothing left of it for itself.
    for (customer, findings) in [("anna", 0), ("bert", 10_000), ("cora", 30_000)] {
        fixture.recount(customer, findings).await;
    }
    let previews = preview(&fixture.billing, &request("2026-11")).await.unwrap();
    let report = fixture.issue("2026-11", "2026-12-01T00:00:00Z").await;
    for (((customer, previewed), result), (taken, coupons)) in previews.into_iter().zip(&report.results).zip([
        ("3,000.00", "1000.00"),
        ("3,000.00", "500.00"),
        ("3,000.00", "0.00"),
    ]) {
        let november = fixture.invoice(&result.outcome.billed().unwrap().id).await;
        let billing::Previewed::Document(previewed) = previewed else { panic!("{previewed:?}") };
        assert_eq!(
            (previewed.coupons.as_str(), &previewed.due),
            (november.coupons.as_str(), &november.due),
            "{customer}"
        );
        assert_eq!(november.coupons, coupons, "{customer}");
        assert_eq!(fixture.taken(customer.as_str(), "2026-12").await.0, taken, "{customer}");
    }
    assert_eq!(fixture.billed_for_october("bert").await, [0, 0, 0]);
}

/// Cuts of October, months of billing and reissues in any order: what October is billed at is always its newest cut.
#[test]
fn invoice_less_credits_plus_adjustments_is_the_recount() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cases = Config { cases: 6, failure_persistence: None, ..Config::default() };
    let steps = proptest::collection::vec((0_i128..70_000, 0_u32..4), 1..7);
    TestRunner::new(cases)
        .run(&steps, |steps| {
            runtime.block_on(async {
                let fixture = Fixture::new().await;
                fixture.billed("anna", 100).await;
                let mut month = 11;
                for (findings, what) in steps {
                    fixture.recount("anna", findings).await;
                    let now = format!("2027-06-01T00:00:{month:02}Z");
                    match what {
                        0 if month <= 12 => {
                            fixture.issue(&format!("2026-{month}"), &now).await;
                            month += 1;
                        }
                        1 => {
                            let number = fixture
                                .texts(
                                    "select i.invoice_number from invoices i where i.kind = 'monthly'
                                         and i.period_start = '2026-10-01' and not exists (
                                         select from credit_notes n
                                         where n.invoice_id = i.invoice_id and n.kind = 'cancellation')",
                                )
                                .await;
                            let reason = "counted anew";
                            billing::reissue(&fixture.billing, &number[0], reason, &seller(), "operator:ada", at(&now))
                                .await
                                .unwrap();
                        }
                        _ => {
                            let seller = seller();
                            drop(
                                billing::bill_late_usage(&fixture.billing, "anna", &seller, "operator:ada", at(&now))
                                    .await,
                            );
                            issue(&fixture.billing, &request("2026-10"), at(&now)).await.unwrap();
                        }
                    }
                    let subtotal = 200_000 + i64::try_from(findings).unwrap() * 5;
                    let discount = if 500_000 < subtotal { half_even(subtotal * 5, 100) } else { 0 };
                    let net = subtotal - discount;
                    let tax = half_even(net * 8, 100);
                    prop_assert_eq!(fixture.billed_for_october("anna").await, vec![net, tax, net + tax]);
                }
                let unbalanced = fixture
                    .texts("select entry_id::text from ledger_lines group by entry_id having sum(amount_minor) <> 0")
                    .await;
                prop_assert!(unbalanced.is_empty());
                Ok(())
            })
        })
        .unwrap();
}

fn half_even(numerator: i64, denominator: i64) -> i64 {
    let (below, rest) = (numerator / denominator, numerator % denominator);
    below + i64::from(2 * rest > denominator || (2 * rest == denominator && below % 2 == 1))
}
