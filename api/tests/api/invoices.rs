//! Invoices that billing issued, seen by the customers they were issued to.

use std::io::Write as _;

use aggregator::directory::CustomerId;
use billing::{Customers, InvoiceDocument, Month, Outcome, Party, RunRequest, load_invoice};
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use ingest::Timestamp;
use serde_json::Value;
use sha2::Digest as _;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::client::{encoded, get, get_with};
use crate::document::{conforms, schema_of};
use crate::stage::{Stage, one_row};

/// A file that stands for evidence: the API hands it on byte for byte.
fn evidence_of(customer: &str) -> String {
    format!("{{\"customer\":\"{customer}\"}}")
}

/// Closes a month of two customers, as the aggregator does: the totals of their usage rows, and evidence.
async fn close(stage: &Stage, month: Month) {
    let mut aggregator = PgConnection::connect_with(&stage.options("securebase_aggregator")).await.unwrap();
    let mut transaction = aggregator.begin().await.unwrap();
    let (start, end) = (DateTime::<Utc>::from(month.start()), DateTime::<Utc>::from(month.end()));
    for customer in ["acme", "globex"] {
        let evidence = evidence_of(customer);
        sqlx::query(
            "insert into closes (customer_id, period_start, period_end, cut, source_class, directory_version, cut_at, evidence_sha256)
             values ($3, $1::date, $2::date, 1, 'reconciled', 0, $2, sha256($4))",
        )
        .bind(start)
        .bind(end)
        .bind(customer)
        .bind(evidence.as_bytes())
        .execute(&mut *transaction)
        .await
        .unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(evidence.as_bytes()).unwrap();
        sqlx::query(
            "insert into evidence_records (close_id, customer_id, sha256, document)
             select close_id, customer_id, evidence_sha256, $3 from closes where period_start = $1::date and customer_id = $2",
        )
        .bind(start)
        .bind(customer)
        .bind(gzip.finish().unwrap())
        .execute(&mut *transaction)
        .await
        .unwrap();
    }
    sqlx::query(
        "insert into closed_totals (close_id, customer_id, account_id, meter, region, category, window_start, total, identities)
         select k.close_id, u.customer_id, u.account_id, u.meter, u.region, u.category, u.window_start, sum(u.total), sha256('')
         from usage_rows u join closes k on k.customer_id = u.customer_id and k.period_start = $1::date
         where u.window_start >= $1 and u.window_start < $2
         group by k.close_id, u.customer_id, u.account_id, u.meter, u.region, u.category, u.window_start",
    )
    .bind(start)
    .bind(end)
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
}

/// Closes and issues months of two customers; returns their invoices in that order.
pub(crate) async fn issue(stage: &Stage, months: &[&str]) -> Vec<InvoiceDocument> {
    let billing = PgPool::connect_with(stage.options("securebase_billing")).await.unwrap();
    let mut issued = Vec::new();
    for (index, month) in months.iter().enumerate() {
        let period = Month::parse(month).unwrap();
        close(stage, period).await;
        let customers = ["acme", "globex"].map(|id| CustomerId::parse(id).unwrap()).to_vec();
        let seller = Party { name: "SecureBase".into(), ..Party::default() };
        let request =
            RunRequest { customers: Customers::Only(customers), workers: 1, ..RunRequest::new(period, seller) };
        let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap().saturating_add_secs(index as i64);
        let report = billing::issue(&billing, &request, now).await.unwrap();
        for result in report.results {
            let Outcome::Issued(invoice) = result.outcome else { panic!("{:?}", result.outcome) };
            let stored = load_invoice(&mut billing.acquire().await.unwrap(), &invoice.id).await.unwrap();
            issued.push(stored.unwrap());
        }
    }
    issued
}

#[tokio::test]
async fn a_customer_reads_its_own_invoice_by_number_and_by_id() {
    let stage = Stage::new().await;
    stage.seed(&[one_row(Some("acme"), "000000000001", 1_000_000)]).await;
    let [acme, globex] = issue(&stage, &["2026-10"]).await.try_into().unwrap();
    for (customer, invoice) in [("acme", &acme), ("globex", &globex)] {
        for name in [&invoice.number, &invoice.id] {
            let path = format!("/v1/invoices/{}", name.as_ref().unwrap());
            let answer = get(stage.address, &path, &stage.key(customer)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(serde_json::from_str::<InvoiceDocument>(&answer.body).unwrap(), *invoice);
            let schema = schema_of(api::openapi(), "/v1/invoices/{invoice}", "application/json");
            assert_eq!(schema["$ref"], "#/components/schemas/InvoiceDocument");
            conforms(api::openapi(), schema, &answer.json(), "invoice");
        }
    }
    assert_eq!(acme.subtotal, "2000.20", "the usage is on it: {acme:?}");
}

#[tokio::test]
async fn an_invoice_of_another_customer_is_not_there() {
    let stage = Stage::new().await;
    let [acme, globex] = issue(&stage, &["2026-10"]).await.try_into().unwrap();
    let never = "INV-2026-11-9999".to_owned();
    let absent =
        get(stage.address, &format!("/v1/invoices/{never}"), &stage.key("acme")).await.problem(404, "not-found");
    for (customer, invoice) in [("acme", &globex), ("globex", &acme), ("nobody", &acme)] {
        for name in [&invoice.number, &invoice.id] {
            let path = format!("/v1/invoices/{}", name.as_ref().unwrap());
            let answer = get(stage.address, &path, &stage.key(customer)).await;
            assert_eq!(answer.problem(404, "not-found"), absent, "the same words as for one that never was");
            assert!(!answer.body.contains(&invoice.customer), "{answer:?}");
        }
        let path = format!("/v1/invoices?cursor={}", invoice.number.as_ref().unwrap());
        assert_eq!(get(stage.address, &path, &stage.key(customer)).await.body, r#"{"invoices":[]}"#);
    }
}

#[tokio::test]
async fn an_invoice_is_a_file_in_the_form_that_is_accepted() {
    let stage = Stage::new().await;
    let [acme, _] = issue(&stage, &["2026-10"]).await.try_into().unwrap();
    let number = acme.number.as_ref().unwrap();
    let path = format!("/v1/invoices/{number}/download");
    let key = format!("Authorization: Bearer {}", stage.key("acme"));
    for (accept, kind, holds) in [
        ("application/json", "application/json", "\"number\""),
        ("text/html", "text/html", "<html"),
        ("text/csv", "text/csv", number.as_str()),
    ] {
        let file = get_with(stage.address, &path, &[&key, &format!("Accept: {accept}")]).await;
        assert_eq!((file.status, file.header("content-type")), (200, Some(kind)), "{file:?}");
        assert!(
            file.header("content-disposition").unwrap().contains(number.as_str()) && file.body.contains(holds),
            "{file:?}"
        );
    }
    get_with(stage.address, &path, &[&key, "Accept: application/pdf"]).await.problem(404, "not-found");
    get_with(stage.address, &path, &[&key, "Accept: image/png"]).await.problem(406, "not-acceptable");
    get(stage.address, &path, &stage.key("globex")).await.problem(404, "not-found");

    // Rendered after the issue, and the same bytes from then on.
    sqlx::query(
        "insert into invoice_documents (invoice_id, customer_id, media_type, bytes, sha256, rendered_at)
         values ($1::uuid, 'acme', 'application/pdf', '%PDF-1.7 stored', sha256('%PDF-1.7 stored'), now())",
    )
    .bind(&acme.id)
    .execute(&mut PgConnection::connect_with(&stage.options("securebase_billing")).await.unwrap())
    .await
    .unwrap();
    let pdf = get_with(stage.address, &path, &[&key, "Accept: application/pdf"]).await;
    assert_eq!((pdf.status, pdf.header("content-type")), (200, Some("application/pdf")), "{pdf:?}");
    assert_eq!(pdf.body, "%PDF-1.7 stored");
}

#[tokio::test]
async fn the_evidence_of_an_invoice_is_the_file_whose_hash_it_carries() {
    let stage = Stage::new().await;
    let [acme, globex] = issue(&stage, &["2026-10"]).await.try_into().unwrap();
    for (customer, invoice, other) in [("acme", &acme, "globex"), ("globex", &globex, "acme")] {
        let path = format!("/v1/invoices/{}/evidence", invoice.number.as_ref().unwrap());
        let file = get(stage.address, &path, &stage.key(customer)).await;
        assert_eq!((file.status, file.body.as_str()), (200, evidence_of(customer).as_str()), "{file:?}");
        let sha256 = hex::encode(sha2::Sha256::digest(file.body.as_bytes()));
        assert_eq!(invoice.evidence.as_ref().unwrap().sha256, sha256);
        get(stage.address, &path, &stage.key(other)).await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn the_list_shows_what_is_asked_for() {
    let stage = Stage::new().await;
    let issued = issue(&stage, &["2026-08", "2026-09", "2026-10"]).await;
    let numbers: Vec<&str> =
        issued.iter().filter(|one| one.customer == "acme").map(|one| one.number.as_deref().unwrap()).collect();
    let mut superuser = stage.superuser().await;
    // An invoice's state is changed by postings; here only what is listed by it matters.
    for (statement, number) in [
        ("update invoices set due_at = '2026-11-02Z' where invoice_number = $1", numbers[0]),
        ("update invoices set status = 'paid', paid_at = '2026-11-03Z' where invoice_number = $1", numbers[1]),
    ] {
        let mut transaction = superuser.begin().await.unwrap();
        sqlx::raw_sql("set local session_replication_role = replica").execute(&mut *transaction).await.unwrap();
        sqlx::query(statement).bind(number).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
    for (query, expected) in [
        ("status=overdue", vec![numbers[0]]),
        ("status=paid", vec![numbers[1]]),
        ("status=issued", vec![numbers[2]]),
        ("status=credited", vec![]),
        ("kind=monthly", vec![numbers[2], numbers[1], numbers[0]]),
        ("kind=prepayment", vec![]),
        ("from=2026-09", vec![numbers[2], numbers[1]]),
        ("to=2026-09", vec![numbers[0]]),
        ("from=2026-09&to=2026-10&status=paid&kind=monthly", vec![numbers[1]]),
        ("limit=1&kind=monthly", vec![numbers[2]]),
    ] {
        let list = get(stage.address, &format!("/v1/invoices?{query}"), &stage.key("acme")).await.json();
        let seen: Vec<&str> =
            list["invoices"].as_array().unwrap().iter().map(|one| one["number"].as_str().unwrap()).collect();
        assert_eq!(seen, expected, "{query}");
        assert_eq!(list["next_cursor"].is_string(), query.starts_with("limit"), "{query}");
    }
    for (query, parameter) in [("status=draft", "status"), ("kind=x", "kind"), ("from=2026", "from"), ("to=x", "to")] {
        let answer = get(stage.address, &format!("/v1/invoices?{query}"), &stage.key("acme")).await;
        answer.problem(400, "invalid-parameter");
        assert_eq!(answer.json()["parameter"], parameter);
    }
    let one = get(stage.address, &format!("/v1/invoices/{}", numbers[0]), &stage.key("acme")).await.json();
    assert_eq!(one["status"], "overdue", "the same as in the list");
}

#[tokio::test]
async fn a_preview_says_charges_so_far_and_the_total_to_come_with_its_method() {
    let stage = Stage::new().await;
    let month: String = sqlx::query_scalar("select to_char(now() at time zone 'UTC', 'YYYY-MM')")
        .fetch_one(&mut stage.superuser().await)
        .await
        .unwrap();
    let mut row = one_row(Some("acme"), "000000000001", 1_000_000_000);
    row.window_start = format!("{month}-01T00:00:00Z").parse().unwrap();
    stage.seed(&[row, one_row(Some("globex"), "000000000002", 5_000_000_000)]).await;
    let path = "/v1/invoices/preview";
    let preview = get(stage.address, path, &stage.key("acme")).await;
    assert_eq!(preview.status, 200, "{preview:?}");
    let preview = preview.json();
    let schema = schema_of(api::openapi(), path, "application/json");
    conforms(api::openapi(), schema, &preview, "preview");
    assert_eq!(preview["month"], month);
    assert_eq!(preview["accounts"], serde_json::json!({"used": 0, "allowed": 5}));
    assert_eq!(preview["charges_so_far"]["customer"], "acme");
    assert_eq!(preview["charges_so_far"]["status"], "draft");
    // 2000.00 and 1,000,000,000 at 0.0000002, and 8 % of both.
    assert_eq!(preview["total_so_far"], "2376.00");
    let projected = &preview["projected"];
    let (passed, hours) = (projected["hours_passed"].as_i64().unwrap(), projected["hours"].as_i64().unwrap());
    assert!(0 < passed && passed <= hours && hours >= 28 * 24, "{projected}");
    // The same arithmetic in whole cents of net: fees stay, usage grows with the hours.
    let usage_cents = 20_000 * hours / passed;
    let total: f64 = projected["total"].as_str().unwrap().parse().unwrap();
    let expected = (200_000 + usage_cents) as f64 * 1.08 / 100.0;
    // A volume discount holds above 5,000.00, early in a month.
    let expected = if 200_000 + usage_cents > 500_000 { expected * 0.95 } else { expected };
    assert!((total - expected).abs() < 0.05, "{total} is not {expected}");
    assert!(projected["method"].as_str().unwrap().contains("hours"), "{projected}");

    let past = get(stage.address, "/v1/invoices/preview?month=2026-10", &stage.key("globex")).await.json();
    assert_eq!(past["total_so_far"], past["projected"]["total"], "a month that is over goes on no more: {past}");
    let issued = issue(&stage, &["2026-10"]).await;
    let past = get(stage.address, "/v1/invoices/preview?month=2026-10", &stage.key("globex")).await.json();
    assert_eq!(past["charges_so_far"]["number"].as_str(), issued[1].number.as_deref());
    assert_eq!(past["projected"], Value::Null);
    get(stage.address, "/v1/invoices/preview?month=2025-10", &stage.key("acme")).await.problem(404, "not-found");
    get(stage.address, "/v1/invoices/preview?month=2025", &stage.key("acme")).await.problem(400, "invalid-parameter");
}

#[tokio::test]
async fn a_draft_is_not_there() {
    let stage = Stage::new().await;
    issue(&stage, &["2026-10"]).await;
    let draft: String = sqlx::query_scalar(
        "insert into invoices (customer_id, kind, revision, period_start, period_end, status, currency, subtotal_minor,
             discount_minor, net_minor, tax_rate, tax_minor, total_minor, source_class, rate_card_id, snapshot,
             created_at)
         select customer_id, kind, 2, period_start, period_end, 'draft', currency, subtotal_minor, discount_minor,
             net_minor, tax_rate, tax_minor, total_minor, source_class, rate_card_id, snapshot, created_at
         from invoices where customer_id = 'acme'
         returning invoice_id::text",
    )
    .fetch_one(&mut stage.superuser().await)
    .await
    .unwrap();
    get(stage.address, &format!("/v1/invoices/{draft}"), &stage.key("acme")).await.problem(404, "not-found");
    let list = get(stage.address, "/v1/invoices", &stage.key("acme")).await.json();
    assert_eq!(list["invoices"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_list_is_the_customers_own_newest_first_page_by_page() {
    let stage = Stage::new().await;
    let issued = issue(&stage, &["2026-06", "2026-07", "2026-08", "2026-09", "2026-10"]).await;
    for customer in ["acme", "globex", "nobody"] {
        let own = issued.iter().rev().filter(|invoice| invoice.customer == customer);
        let expected: Vec<&str> = own.map(|invoice| invoice.number.as_deref().unwrap()).collect();
        for limit in [1, 2, 4, 5, 50] {
            let mut seen = Vec::new();
            let mut path = format!("/v1/invoices?limit={limit}");
            loop {
                let page = get(stage.address, &path, &stage.key(customer)).await.json();
                let invoices = page["invoices"].as_array().unwrap();
                assert!(invoices.len() <= limit);
                assert!(invoices.iter().all(|invoice| invoice["customer"] == customer));
                seen.extend(invoices.iter().map(|invoice| invoice["number"].as_str().unwrap().to_owned()));
                match &page["next_cursor"] {
                    Value::String(cursor) => path = format!("/v1/invoices?limit={limit}&cursor={cursor}"),
                    other => break assert!(other.is_null()),
                }
            }
            assert_eq!(seen, expected, "{customer} {limit}");
        }
    }
}

#[tokio::test]
async fn a_bad_parameter_gets_a_problem_that_names_it() {
    let stage = Stage::new().await;
    let key = stage.key("acme");
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("cursor=", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=INV'", "cursor"),
        ("before=INV-2026-11-0001", "before"),
        ("customer=globex", "customer"),
    ] {
        let answer = get(stage.address, &format!("/v1/invoices?{query}"), &key).await;
        answer.problem(400, "invalid-parameter");
        assert_eq!(answer.json()["parameter"], parameter);
    }
    let answer = get(stage.address, "/v1/invoices/INV-2026-11-0001?format=pdf", &key).await;
    assert!(answer.problem(400, "invalid-parameter").contains("takes none"));
}

#[tokio::test]
async fn sql_in_the_path_names_no_invoice() {
    let stage = Stage::new().await;
    let [acme, _] = issue(&stage, &["2026-10"]).await.try_into().unwrap();
    for attack in [
        "' or '1'='1",
        "'; drop table invoices; --",
        "INV-2026-11-0001' or true --",
        "INV-2026-11-000_",
        "%",
        "\0",
        "INV-2026-11-0001\0",
        "..",
        "../usage",
        "00000000-0000-0000-0000-000000000000",
        "\u{202e}",
    ] {
        let path = format!("/v1/invoices/{}", encoded(attack));
        get(stage.address, &path, &stage.key("globex")).await.problem(404, "not-found");
    }
    let path = format!("/v1/invoices/{}", acme.number.unwrap());
    assert_eq!(get(stage.address, &path, &stage.key("acme")).await.status, 200);
}

#[tokio::test]
async fn a_server_above_row_level_security_shows_no_foreign_row_either() {
    let stage = Stage::new().await;
    stage.seed(&[one_row(Some("acme"), "000000000001", 5), one_row(None, "000000000003", 7)]).await;
    let [acme, _] = issue(&stage, &["2026-10"]).await.try_into().unwrap();
    let address = stage.serve_as("postgres", stage.mac_key()).await;
    let globex = stage.key("globex");
    for path in ["/v1/invoices".to_owned(), format!("/v1/invoices/{}", acme.number.unwrap())] {
        let answer = get(address, &path, &globex).await;
        answer.problem(500, "internal");
        assert!(!answer.body.contains("acme"), "{answer:?}");
    }
    let question =
        "/v1/usage?meter=cloudtrail_events&from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z&group_by=account";
    assert_eq!(get(address, question, &globex).await.body, r#"{"complete_through":null,"rows":[]}"#);
}
