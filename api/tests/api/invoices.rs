//! Invoices that billing issued, seen by the customers they were issued to.

use aggregator::directory::CustomerId;
use billing::{Customers, InvoiceDocument, Month, Outcome, Party, RunRequest, load_invoice};
use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::client::{encoded, get, get_with};
use crate::stage::{Stage, one_row};

/// Closes a month of two customers, as the aggregator does: the totals of their usage rows, and evidence.
async fn close(stage: &Stage, month: Month) {
    let mut aggregator = PgConnection::connect_with(&stage.options("securebase_aggregator")).await.unwrap();
    let mut transaction = aggregator.begin().await.unwrap();
    let (start, end) = (DateTime::<Utc>::from(month.start()), DateTime::<Utc>::from(month.end()));
    for statement in [
        "insert into closes (customer_id, period_start, period_end, cut, source_class, directory_version, cut_at, evidence_sha256)
         select customer_id, $1::date, $2::date, 1, 'reconciled', 0, $2, sha256(convert_to(customer_id, 'UTF8'))
         from customers where customer_id in ('acme', 'globex')",
        "insert into closed_totals (close_id, customer_id, account_id, meter, region, category, window_start, total, identities)
         select k.close_id, u.customer_id, u.account_id, u.meter, u.region, u.category, u.window_start, sum(u.total), sha256('')
         from usage_rows u join closes k on k.customer_id = u.customer_id and k.period_start = $1::date
         where u.window_start >= $1 and u.window_start < $2
         group by k.close_id, u.customer_id, u.account_id, u.meter, u.region, u.category, u.window_start",
        "insert into evidence_records (close_id, customer_id, sha256, document)
         select close_id, customer_id, evidence_sha256, '' from closes where period_start = $1::date and $2 is not null",
    ] {
        sqlx::query(statement).bind(start).bind(end).execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

/// Closes and issues months of two customers; returns their invoices in that order.
async fn issue(stage: &Stage, months: &[&str]) -> Vec<InvoiceDocument> {
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
            let stored = load_invoice(&mut *billing.acquire().await.unwrap(), &invoice.id).await.unwrap();
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
    let evidence = format!("/v1/invoices/{number}/evidence");
    for customer in ["acme", "globex"] {
        get(stage.address, &evidence, &stage.key(customer)).await.problem(404, "not-found");
    }
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
