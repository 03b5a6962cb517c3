//! What each role may see and do.

use billing::{list_invoices, load_invoice, statements};
use ingest::Meter;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fixture::{Fixture, at, request};

const ROOM_ROLES: [&str; 5] =
    ["securebase_app", "securebase_aggregator", "securebase_billing", "securebase_operator", "securebase_analytics"];

async fn run(connection: &mut PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await?;
    Ok(done.rows_affected())
}

/// Preparing finds a wrong name; explaining starts the plan, which is where PostgreSQL checks what the role may do.
#[tokio::test]
async fn every_statement_is_prepared_and_permitted_as_its_roles() {
    let fixture = Fixture::new().await;
    for statement in statements() {
        for role in statement.roles {
            let mut connection = fixture.connect(role).await;
            let sql = statement.sql;
            let parameters = (1..=30).take_while(|number| sql.contains(&format!("${number}"))).count();
            let nulls = vec!["null"; parameters].join(", ");
            let arguments = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
            run(&mut connection, &format!("prepare checked as {sql}; explain execute checked{arguments}"))
                .await
                .unwrap_or_else(|error| panic!("{} as {role}: {error}", statement.name));
        }
    }
    // The check can fail: without the privilege, the explanation is refused.
    let mut analytics = fixture.connect("securebase_analytics").await;
    let number = "explain update invoice_number_counters set last_number = last_number + 1";
    assert!(run(&mut analytics, number).await.is_err());
}

#[tokio::test]
async fn what_was_issued_is_changed_and_deleted_by_nobody() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    let issued = fixture.issue_october().await;
    let issued = fixture.only_invoice(&issued).await;
    let attempts = [
        "update invoices set total_minor = 0, net_minor = -tax_minor, discount_minor = subtotal_minor + tax_minor",
        "update invoices set snapshot = '{}'",
        "update invoices set customer_id = 'other'",
        "update invoices set invoice_number = 'INV-2026-11-0002'",
        "update invoices set due_at = due_at + interval '1 day'",
        "update invoices set status = 'draft', invoice_number = null, issued_at = null, due_at = null",
        "update invoices set status = 'cancelled', invoice_number = null, issued_at = null, due_at = null",
        "delete from invoices",
        "truncate invoices cascade",
        "update invoice_lines set amount_minor = amount_minor - 1 where kind = 'base_fee'",
        "update invoice_lines set description = 'nothing'",
        "delete from invoice_lines",
        "truncate invoice_lines",
        "insert into invoice_lines select invoice_id, 7, customer_id, kind, meter, description, quantity_raw, \
             quantity_raw_per_unit, unit, unit_price, exact_numerator, exact_denominator, amount_minor \
         from invoice_lines where position = 1",
        "delete from customers",
    ];
    let mut superuser = fixture.superuser().await;
    for attempt in attempts {
        let refused = run(&mut superuser, attempt).await;
        assert!(refused.is_err(), "the superuser, whom only triggers stop: {attempt}: {refused:?}");
        for role in ROOM_ROLES {
            let refused = run(&mut fixture.connect(role).await, attempt).await;
            assert!(refused.is_err(), "{role}: {attempt}: {refused:?}");
        }
    }
    let stored = load_invoice(&mut superuser, issued.number.as_ref().unwrap()).await.unwrap().unwrap();
    assert_eq!(stored, issued);
}

#[tokio::test]
async fn an_invoice_begins_as_a_draft_and_its_lines_sum_to_its_subtotal() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    let close = fixture.close("anna", "2026-10", "best effort").await;
    let invoice = |status: &str| {
        format!(
            "insert into invoices (customer_id, kind, revision, period_start, period_end, status, invoice_number, currency,
                 subtotal_minor, discount_minor, net_minor, tax_rate, tax_minor, total_minor, source_class, rate_card_id,
                 snapshot, issued_at, due_at, created_at, close_id, evidence_sha256)
             select 'anna', 'monthly', 1, '2026-10-01', '2026-11-01', {status}, 'USD', 5, 0, 5, 0, 0, 5, 'best effort', 1,
                 '{{}}', {dates}, '2026-11-01', {close}, evidence_sha256 from closes",
            dates = if status.contains("draft") { "null, null" } else { "'2026-11-01', '2026-12-01'" },
        )
    };
    let line = |customer: &str, amount: i64| {
        format!(
            "insert into invoice_lines select invoice_id, 1, '{customer}', 'usage', 'guardduty_findings', '', 1, 1, '', 0.05,
                 5, 1, {amount} from invoices where customer_id = 'anna'"
        )
    };
    let mut connection = fixture.connect("securebase_billing").await;
    let at_once = run(&mut connection, &invoice("'issued', 'INV-2026-11-0001'")).await.unwrap_err();
    assert!(at_once.to_string().contains("an invoice begins as a draft"), "{at_once}");
    run(&mut connection, &invoice("'draft', null")).await.unwrap();
    let crossing = run(&mut connection, &line("bert", 5)).await.unwrap_err();
    assert!(crossing.to_string().contains("invoice_lines_stay_with_their_customer"), "{crossing}");
    let unrounded = run(&mut connection, &line("anna", 6)).await.unwrap_err();
    assert!(unrounded.to_string().contains("invoice_lines_amount_is_the_rounded_one"), "{unrounded}");
    let issue = "update invoices set status = 'issued', invoice_number = 'INV-2026-11-0001', issued_at = '2026-11-01',
        due_at = '2026-12-01' where customer_id = 'anna'";
    let without_lines = run(&mut connection, issue).await.unwrap_err();
    assert!(without_lines.to_string().contains("do not sum to its subtotal"), "{without_lines}");

    let mut app = fixture.connect("securebase_app").await;
    let mut anna = Fixture::tenant(&mut app, "anna").await;
    assert!(list_invoices(&mut anna, 10, None).await.unwrap().is_empty(), "a draft is not the customer's to see");
    anna.rollback().await.unwrap();

    run(&mut connection, &line("anna", 5)).await.unwrap();
    let post = "insert into ledger_entries (customer_id, kind, invoice_id, currency, line_count, posted_at)
        select customer_id, 'issue', invoice_id, 'USD', 2, '2026-11-01' from invoices";
    let lines = "insert into ledger_lines (entry_id, position, customer_id, account, detail, invoice_id, currency, amount_minor)
        select entry_id, 1, customer_id, 'receivable', '', invoice_id, 'USD', 5 from ledger_entries union all
        select entry_id, 2, customer_id, 'revenue', 'usage', null, 'USD', -5 from ledger_entries";
    let tell = "insert into notifications (tag, customer_id, template, invoice_id, created_at, next_attempt_at)
        select 'issued', customer_id, 'invoice_issued', invoice_id, now(), now() from invoices";
    for (statements, missing) in [
        (vec![issue, tell], "is not in the ledger as it stands"),
        (vec![post], "does not balance"),
        (vec![issue, post, lines], "is not in the outbox"),
        (vec![tell], "tells of an invoice that was not issued"),
        (
            vec![post, lines, "update invoices set close_id = null, evidence_sha256 = null", issue],
            "from a close of that",
        ),
    ] {
        let together = format!("begin; {}; commit", statements.join("; "));
        let refused = run(&mut connection, &together).await.unwrap_err();
        assert!(refused.to_string().contains(missing), "{missing}: {refused}");
        run(&mut connection, "rollback").await.unwrap();
    }
    run(&mut connection, &format!("begin; {issue}; {post}; {lines}; {tell}; commit")).await.unwrap();
}

#[tokio::test]
async fn the_application_sees_the_proven_customers_issued_invoices_only() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "fintech", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let mut app = fixture.connect("securebase_app").await;
    assert!(list_invoices(&mut app, 10, None).await.unwrap().is_empty(), "no tenant, no rows");
    assert_eq!(load_invoice(&mut app, "INV-2026-11-0001").await.unwrap(), None);

    let mut anna = Fixture::tenant(&mut app, "anna").await;
    let seen = list_invoices(&mut anna, 10, None).await.unwrap();
    assert_eq!(seen.iter().map(|invoice| invoice.number.as_str()).collect::<Vec<_>>(), ["INV-2026-11-0001"]);
    let own = load_invoice(&mut anna, &seen[0].id).await.unwrap().unwrap();
    assert_eq!((own.customer.as_str(), own.lines.len(), own.total.as_str()), ("anna", 1, seen[0].total.as_str()));
    assert_eq!(load_invoice(&mut anna, "INV-2026-11-0002").await.unwrap(), None, "another customer's");
    let summary: Vec<(String, i64)> =
        sqlx::query_as("select customer_id, open_minor::bigint from customer_billing_summary")
            .fetch_all(&mut *anna)
            .await
            .unwrap();
    assert_eq!(summary, [("anna".to_owned(), 216_000)]);
    anna.rollback().await.unwrap();

    let lines = "select from invoice_lines";
    assert_eq!(run(&mut app, lines).await.unwrap(), 0);
    assert!(run(&mut app, "select from invoice_number_counters").await.is_err());
    for table in ["customer_promotions", "tax_exemptions", "coupons", "coupon_redemptions", "invoice_cuts"] {
        assert_eq!(run(&mut app, &format!("select from {table}")).await.unwrap(), 0, "{table}");
        assert!(run(&mut app, &format!("delete from {table}")).await.is_err(), "{table}");
    }
}

#[tokio::test]
async fn invoices_are_listed_newest_first_and_page_by_page() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    for (period, now) in
        [("2026-08", "2026-09-01T00:00:00Z"), ("2026-09", "2026-10-01T00:00:00Z"), ("2026-10", "2026-11-01T00:00:00Z")]
    {
        fixture.issue(period, now).await;
    }
    let mut operator = fixture.connect("securebase_operator").await;
    let mut seen = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let page = list_invoices(&mut operator, 2, before.as_deref()).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.number.clone());
        seen.extend(page.into_iter().map(|invoice| invoice.period.start));
    }
    assert_eq!(seen, ["2026-10-01", "2026-09-01", "2026-08-01"]);
    for nothing in ["INV-2020-01-0001", "", "\0", "'"] {
        assert!(list_invoices(&mut operator, 2, Some(nothing)).await.unwrap().is_empty(), "{nothing:?}");
        assert_eq!(load_invoice(&mut operator, nothing).await.unwrap(), None, "{nothing:?}");
    }
}

/// A credit note of 1.08 on Anna's October, in one statement; with its number, its entry in the ledger and its notification as told.
fn note(number: &str, is_posted: bool, is_announced: bool) -> String {
    let posted = if is_posted { "true" } else { "false" };
    let announced = if is_announced { "true" } else { "false" };
    format!(
        "with n as (
             insert into credit_notes (customer_id, invoice_id, credit_note_number, kind, close_id, currency, gross_minor,
                 discount_minor, net_minor, tax_minor, total_minor, receivable_minor, credit_minor, cause, snapshot, issued_at)
             select i.customer_id, i.invoice_id, {number}, 'late_usage', i.close_id, 'USD', 100, 0, 100, 8, 108, 108, 0, 'x',
                 '{{}}', now()
             from invoices i where i.invoice_number = 'INV-2026-11-0001'
             returning credit_note_id, invoice_id
         ), e as (
             insert into ledger_entries
                 (customer_id, kind, invoice_id, credit_note_id, currency, line_count, posted_at)
             select 'anna', 'credit_note', invoice_id, credit_note_id, 'USD', 3, now() from n where {posted}
             returning entry_id, invoice_id
         ), l as (
             insert into ledger_lines (entry_id, position, customer_id, account, detail, invoice_id, currency, amount_minor)
             select e.entry_id, l.position, 'anna', l.account, '', case l.position when 1 then e.invoice_id end, 'USD', l.amount
             from e cross join (values (1, 'receivable', -108), (2, 'revenue', 100), (3, 'tax_payable', 8))
                 as l (position, account, amount)
         )
         insert into notifications (tag, customer_id, template, credit_note_id, created_at, next_attempt_at)
         select 'credit-note-issued-test', 'anna', 'credit_note_issued', credit_note_id, now(), now() from n where {announced}"
    )
}

/// A grant of 5.00 with an entry of these lines.
fn granted(lines: &str) -> String {
    format!(
        "with g as (
             insert into credit_grants
                 (customer_id, currency, amount_minor, kind, reference, reason, granted_at, granted_by)
             values ('anna', 'USD', 500, 'goodwill', 'x', 'x', now(), 'x') returning grant_id
         ), e as (
             insert into ledger_entries (customer_id, kind, grant_id, currency, line_count, posted_at)
             select 'anna', 'grant', grant_id, 'USD', 2, now() from g returning entry_id
         )
         insert into ledger_lines (entry_id, position, customer_id, account, detail, currency, amount_minor)
         select e.entry_id, l.position, 'anna', l.account, '', 'USD', l.amount from e cross join (values {lines})
             as l (position, account, amount)"
    )
}

#[tokio::test]
async fn each_rule_of_the_books_refuses_by_itself_what_breaks_it_alone() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.usage("anna", "2026-10-05T00:00:00Z", "a", Meter::GuardDutyFindings, 100).await;
    fixture.issue_october().await;
    // November carries late usage of October; December is a draft.
    fixture.execute("update usage_rows set total = 200").await.unwrap();
    fixture.close("anna", "2026-10", "proven").await;
    fixture.issue("2026-11", "2026-12-01T00:00:00Z").await;
    assert_eq!(fixture.count("invoice_adjustments").await, 1);
    billing::issue(&fixture.billing, &request("2026-12"), at("2027-01-01T00:00:00Z")).await.unwrap();
    billing::render_due(&fixture.billing, &std::sync::Arc::new(billing::TextRenderer), 1, at("2027-01-01T00:00:00Z"))
        .await
        .unwrap();
    for (broken, because) in [
        (note("null", true, true), "a credit note for anna has no number"),
        (note("'CN-2026-11-0777'", false, true), "a credit note for anna is not in the ledger as it stands"),
        (note("'CN-2026-11-0777'", true, false), "a credit note for anna is not in the outbox"),
        (granted("(1, 'customer_credit', -500), (2, 'cash', 499)"), "does not balance"),
        (granted("(1, 'customer_credit', -500)"), "does not balance"),
        (granted("(1, 'customer_credit', -500), (2, 'cash', 400), (3, 'cash', 100)"), "has no place in its entry"),
        (granted("(1, 'customer_credit', -499), (2, 'cash', 499)"), "a grant of credit to anna is not in the ledger"),
        (
            "insert into payments (customer_id, invoice_id, currency, amount_minor, method, reference, received_at,
                 recorded_at, recorded_by)
             select 'anna', invoice_id, 'USD', 1, 'card', 'x', now(), now(), 'x' from invoices
             where invoice_number = 'INV-2026-11-0001'"
                .to_owned(),
            "a payment of anna is not in the ledger",
        ),
        (
            "update invoices set status = 'paid', paid_at = now() where invoice_number = 'INV-2026-11-0001'".to_owned(),
            "invoice INV-2026-11-0001 is not paid",
        ),
        ("update invoice_adjustments set cause = 'y'".to_owned(), "an adjustment never changes"),
        ("delete from invoice_adjustments".to_owned(), "adjustments of an issued invoice never change"),
        ("update invoice_documents set rendered_at = now()".to_owned(), "a stored document never changes"),
        ("delete from invoice_documents".to_owned(), "a stored document never changes"),
        (
            "insert into invoice_documents (invoice_id, customer_id, media_type, bytes, sha256, rendered_at)
             select invoice_id, customer_id, 'text/plain', 'x', sha256('x'), now() from invoices where status = 'draft'"
                .to_owned(),
            "a document is of an issued invoice",
        ),
        (
            "update invoices set status = 'issued', invoice_number = 'INV-2027-01-0001', issued_at = now(), due_at = now()
             where status = 'draft'"
                .to_owned(),
            "from a close of that period only",
        ),
    ] {
        let error = fixture.execute(&format!("{broken}; set constraints all immediate")).await;
        let error = error.map(|()| format!("nothing refused {broken}")).unwrap_or_else(|error| error.to_string());
        assert!(error.contains(because), "{because}: {error}");
    }
    // What lacks nothing is taken: the rules above refused what was missing, and no more than that.
    fixture.execute(&granted("(1, 'customer_credit', -500), (2, 'cash', 500)")).await.unwrap();
    fixture.execute(&note("'CN-2026-11-0777'", true, true)).await.unwrap();
}
