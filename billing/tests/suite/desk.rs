//! What operators do by hand: payments, credit, prepayments; and that the books follow.

use billing::{GrantKind, GrantRequest, PayRequest};

use crate::fixture::{Fixture, at, seller};

const NOW: &str = "2026-11-20T09:00:00Z";

fn payment<'a>(amount: Option<&'a str>, reference: &'a str) -> PayRequest<'a> {
    PayRequest {
        invoice: "INV-2026-11-0001",
        amount,
        method: "bank_transfer",
        reference,
        received_at: at("2026-11-19T00:00:00Z"),
    }
}

impl Fixture {
    async fn account(&self, account: &str) -> i64 {
        let sum = format!("select coalesce(sum(amount_minor), 0)::text from ledger_lines where account = '{account}'");
        self.texts(&sum).await[0].parse().unwrap()
    }
}

#[tokio::test]
async fn an_invoice_is_paid_when_nothing_of_it_is_open_and_a_payment_counts_once() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let pay = async |request: PayRequest<'_>| {
        billing::pay(&fixture.billing, &request, "operator:ada", at(NOW)).await.map_err(|error| error.to_string())
    };
    let part = pay(payment(Some("1000.00"), "a")).await.unwrap();
    assert_eq!((part.open.to_string().as_str(), part.was_known), ("1,160.00", false));
    let again = pay(payment(Some("1000.00"), "a")).await.unwrap();
    assert_eq!((again.open.to_string().as_str(), again.was_known), ("1,160.00", true));
    for (request, refused) in [
        (payment(Some("1000.01"), "a"), "reference \"a\" is recorded already, for 1,000.00 USD of invoice "),
        (payment(Some("1160.01"), "b"), "1,160.01 USD is more than the 1,160.00 USD that are open of INV-2026-11-0001"),
        (payment(Some("0"), "b"), "\"0\" is no amount in USD: expected a form such as 2218.54, above nothing"),
        (payment(Some("1.001"), "b"), "\"1.001\" is no amount in USD"),
        (payment(None, " "), "a reference must be given"),
        (PayRequest { method: "cheque", ..payment(None, "b") }, "unknown method \"cheque\""),
        (PayRequest { invoice: "INV-2026-11-0009", ..payment(None, "b") }, "there is no invoice INV-2026-11-0009"),
    ] {
        let error = pay(request).await.unwrap_err();
        assert!(error.starts_with(refused), "{error}");
    }
    assert_eq!(fixture.invoice("INV-2026-11-0001").await.status, "issued");
    pay(payment(None, "b")).await.unwrap();
    let paid = fixture.invoice("INV-2026-11-0001").await;
    assert_eq!((paid.status.as_str(), paid.paid_at.as_deref()), ("paid", Some("2026-11-19T00:00:00Z")));
    let more = pay(payment(Some("1.00"), "c")).await.unwrap_err();
    assert_eq!(more, "invoice INV-2026-11-0001 is paid: only what is issued and open can be paid");
    assert_eq!((fixture.account("receivable").await, fixture.account("cash").await), (0, 216_000));
    let actions = fixture.texts("select action from audit_events where customer_id = 'anna' order by sequence").await;
    assert_eq!(actions, ["invoice.issued", "payment.recorded", "payment.recorded", "invoice.paid"]);
}

#[tokio::test]
async fn prepaid_credit_is_used_by_the_next_invoice_and_lowers_no_tax() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "fintech", "2026-01-01T00:00:00Z").await;
    // Fintech with 212.00 of usage: 5,300 GiB at 0.040.
    fixture.usage("anna", "2026-10-05T00:00:00Z", "p", ingest::Meter::NatGatewayBytes, 5_300 << 30).await;
    let request = |amount| GrantRequest {
        customer: "anna",
        amount,
        kind: GrantKind::Prepaid,
        reference: "2026/1",
        reason: "paid ahead",
    };
    let grant = async |request: GrantRequest<'_>| {
        billing::grant(&fixture.billing, &request, "operator:ada", at(NOW)).await.map_err(|error| error.to_string())
    };
    let granted = grant(request("1000.00")).await.unwrap();
    assert_eq!((granted.credit.to_string().as_str(), granted.was_known), ("1,000.00", false));
    assert!(grant(request("1000.00")).await.unwrap().was_known);
    assert_eq!(
        grant(request("999.00")).await.unwrap_err(),
        "reference \"2026/1\" is recorded already, for 1,000.00 USD of prepaid credit"
    );
    let unknown = grant(GrantRequest { customer: "nobody", ..request("1.00") }).await.unwrap_err();
    assert_eq!(unknown, "there is no customer nobody");
    let invoice = fixture.only_invoice(&fixture.issue_october().await).await;
    assert_eq!(
        [invoice.subtotal.as_str(), &invoice.volume_discount, &invoice.tax, &invoice.total],
        ["8212.00", "410.60", "624.11", "8425.51"]
    );
    assert_eq!((invoice.prepaid_credit.as_str(), invoice.due.as_str()), ("1000.00", "7425.51"));
    assert_eq!((fixture.account("receivable").await, fixture.account("customer_credit").await), (742_551, 0));
    assert_eq!((fixture.account("tax_payable").await, fixture.account("revenue").await), (-62_411, -821_200));
    assert_eq!((fixture.account("discounts").await, fixture.account("cash").await), (41_060, 100_000));

    // Credited whole: what was open is gone, what the credit paid is credit again.
    let credited =
        billing::credit(&fixture.billing, &invoice.number.unwrap(), "test", "operator:ada", at(NOW)).await.unwrap();
    assert_eq!(
        (credited.total.to_string().as_str(), credited.to_credit.to_string().as_str()),
        ("8,425.51", "1,000.00")
    );
    assert_eq!((fixture.account("receivable").await, fixture.account("customer_credit").await), (0, -100_000));
    assert_eq!((fixture.account("tax_payable").await, fixture.account("revenue").await), (0, 0));
    assert_eq!(
        crate::fixture::summary(&fixture.issue_october().await),
        ["anna: credited"],
        "not billed again by a run"
    );
}

#[tokio::test]
async fn an_invoice_of_nothing_is_issued_numbered_and_paid_at_once() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    let free = "update rate_cards set base_fee_minor = 0";
    let gift = GrantRequest {
        customer: "bert",
        amount: "5000.00",
        kind: GrantKind::Goodwill,
        reference: "outage",
        reason: "the outage of October",
    };
    billing::grant(&fixture.billing, &gift, "operator:ada", at(NOW)).await.unwrap();
    fixture.issue_october().await;
    let paid_by_credit =
        fixture.texts("select status || ' ' || credit_applied_minor from invoices where customer_id = 'bert'").await;
    assert_eq!(paid_by_credit, ["paid 216000"]);
    fixture.execute(free).await.unwrap();
    fixture.issue("2026-11", "2026-12-01T00:00:00Z").await;
    let zero = fixture
        .texts("select customer_id || ' ' || status || ' ' || total_minor from invoices where period_start = '2026-11-01' order by 1")
        .await;
    assert_eq!(zero, ["anna paid 0", "bert paid 0"]);
    let numbers =
        fixture.texts("select invoice_number from invoices where period_start = '2026-11-01' order by 1").await;
    assert_eq!(numbers, ["INV-2026-12-0001", "INV-2026-12-0002"]);
    assert_eq!(fixture.account("credit_granted").await, 500_000);
    assert_eq!(
        fixture.texts("select credit_minor::text from customer_balances where customer_id = 'bert'").await,
        ["284000"]
    );
}

#[tokio::test]
async fn a_year_paid_ahead_is_an_invoice_of_its_own_and_covers_the_base_fee() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let prepay = async |from: &str| {
        let from = from.parse().unwrap();
        billing::prepay(&fixture.billing, "anna", from, &seller(), "operator:ada", at("2026-09-20T00:00:00Z")).await
    };
    let refused = async |from: &str| prepay(from).await.unwrap_err().to_string();
    let billed = prepay("2026-10-01").await.unwrap();
    let invoice = fixture.invoice(&billed.id).await;
    assert_eq!((invoice.kind.as_str(), invoice.total.as_str()), ("prepayment", "22032.00"));
    // No day is paid ahead twice, on whichever side of it the other year begins.
    for (from, days) in [
        ("2026-10-01", "2026-10-01 to 2027-09-30"),
        ("2027-09-30", "2027-09-30 to 2027-09-30"),
        ("2026-07-01", "2026-10-01 to 2027-06-30"),
    ] {
        let said = refused(from).await;
        assert!(said.contains(&format!("{days} is covered by INV-2026-09-0001")), "{from}: {said}");
    }
    let october = fixture.only_invoice(&fixture.issue_october().await).await;
    assert_eq!((october.subtotal.as_str(), october.status.as_str()), ("0.00", "paid"));
    let next = prepay("2027-10-01").await.unwrap();
    assert_eq!(fixture.invoice(&next.id).await.period.end, "2028-10-01", "the year after follows");

    // Days that a month was billed for are not paid ahead as well.
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let prepay_of_bert = async |from: &str| {
        let from = from.parse().unwrap();
        billing::prepay(&fixture.billing, "bert", from, &seller(), "operator:ada", at("2026-11-20T00:00:00Z")).await
    };
    let said = prepay_of_bert("2026-10-31").await.unwrap_err().to_string();
    assert!(said.contains("days from 2026-10-31 on are billed by INV-2026-11-"), "{said}");
    prepay_of_bert("2026-11-01").await.unwrap();
}

#[tokio::test]
async fn the_books_are_only_ever_added_to() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    billing::pay(&fixture.billing, &payment(Some("10.00"), "a"), "operator:ada", at(NOW)).await.unwrap();
    billing::credit(&fixture.billing, "INV-2026-11-0001", "test", "operator:ada", at(NOW)).await.unwrap();
    for table in ["ledger_entries", "ledger_lines", "payments", "credit_grants", "credit_notes", "notifications"] {
        for statement in [format!("delete from {table}"), format!("truncate {table} cascade")] {
            let refused = fixture.execute(&statement).await;
            assert!(refused.is_err(), "the superuser, whom only triggers stop: {statement}");
        }
    }
    for statement in [
        "update ledger_lines set amount_minor = amount_minor + 1",
        "update ledger_entries set posted_at = now()",
        "update payments set amount_minor = 1",
        "update credit_notes set total_minor = 0",
        "update credit_notes set credit_note_number = 'CN-2026-11-0002'",
        "update invoice_number_counters set last_number = last_number + 2",
        "update invoice_number_counters set last_number = last_number - 1",
        "delete from invoice_number_counters",
        "update notifications set payload = '{\"a\":1}'",
        "insert into ledger_lines select entry_id, 9, customer_id, 'revenue', '', null, currency, 1 from ledger_entries",
        "insert into ledger_entries (customer_id, kind, grant_id, currency, line_count, posted_at)
             values ('anna', 'grant', 1, 'USD', 0, now())",
    ] {
        let refused = fixture.execute(statement).await;
        assert!(refused.is_err(), "{statement}");
    }
    for role in ["securebase_app", "securebase_operator", "securebase_analytics", "securebase_aggregator"] {
        let mut connection = fixture.connect(role).await;
        for statement in [
            "insert into payments default values",
            "insert into ledger_entries default values",
            "update customer_balances set credit_minor = 1000000",
            "insert into credit_notes default values",
        ] {
            let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await;
            assert!(refused.unwrap_err().to_string().contains("permission denied"), "{role}: {statement}");
        }
    }
    let mut billing = fixture.connect("securebase_billing").await;
    let refused = sqlx::raw_sql("update customer_balances set credit_minor = 1000000").execute(&mut billing).await;
    assert!(refused.unwrap_err().to_string().contains("permission denied"), "a balance follows from the ledger");
}

#[tokio::test]
async fn a_credit_note_that_exceeds_its_invoice_is_refused_by_the_table() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let close = fixture.close("anna", "2026-10", "proven").await;
    let other = fixture.close("anna", "2026-09", "proven").await;
    let note = |kind: &str, close: String, gross: i64, discount: i64, tax: i64| {
        let (net, total) = (gross - discount, gross - discount + tax);
        format!(
            "insert into credit_notes (customer_id, invoice_id, kind, close_id, currency, gross_minor, discount_minor,
                 net_minor, tax_minor, total_minor, receivable_minor, credit_minor, cause, snapshot, issued_at)
             select 'anna', invoice_id, '{kind}', {close}, 'USD', {gross}, {discount}, {net}, {tax}, {total}, {total}, 0, 'x',
                 '{{}}', now() from invoices"
        )
    };
    for (refused, because) in [
        (note("late_usage", close.to_string(), 200_001, 0, 0), "exceeds what is left"),
        (note("late_usage", close.to_string(), 100, 0, 16_001), "exceeds what is left"),
        (note("late_usage", close.to_string(), 100, 1, 0), "exceeds what is left"),
        (note("late_usage", other.to_string(), 100, 0, 8), "close of another period"),
        (note("late_usage", "null".into(), 100, 0, 8), "close of another period"),
        (note("late_usage", close.to_string(), -100, 0, -8), "credit_notes_credit"),
        (note("cancellation", "null".into(), 199_999, 0, 16_000), "takes back all that is left"),
        (note("goodwill", "null".into(), 1, 0, 0), "credit_notes_kind_is_known"),
        // Within the invoice, but in no ledger, without notification and number.
        (note("late_usage", close.to_string(), 100, 0, 8), "a credit note for anna"),
    ] {
        let error = fixture.execute(&refused).await.unwrap_err().to_string();
        assert!(error.contains(because), "{because}: {error}");
    }
}
