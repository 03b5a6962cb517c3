//! The monthly run, documents and mail, by the real function.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::mail_service::MailService;
use crate::runtime_api::{Environment, Function, NotStarted, Outcome};
use crate::stage::{Program, Stage};

const RUN: &str = r#"{"task":"run","period":"2026-01"}"#;
const SEND: &str = r#"{"task":"send"}"#;

impl Stage {
    /// Customers `customer-00`, `customer-01`, ... under contract, each with January closed and 20 findings in it.
    async fn customers(&self, count: u32) {
        let sql = format!(
            "insert into customers (customer_id, name, tier, contract_start, billing_address)
             select 'customer-' || lpad(n::text, 2, '0'), 'Łódź & Søn ' || n, 'standard', '2025-06-01', '1 High Street'
             from generate_series(0, {count} - 1) n;
             insert into closes (
                 customer_id, period_start, period_end, cut, source_class, directory_version, cut_at, evidence_sha256)
             select customer_id, '2026-01-01', '2026-02-01', 1, 'proven', 0, '2026-02-01', sha256(convert_to(customer_id, 'UTF8'))
             from customers;
             insert into closed_totals (
                 close_id, customer_id, account_id, meter, region, category, window_start, total, identities)
             select close_id, customer_id, '000000000001', 'guardduty_findings', 'eu-west-1', 'none', '2026-01-05', 20, sha256('x')
             from closes;
             insert into evidence_records (close_id, customer_id, sha256, document)
             select close_id, customer_id, evidence_sha256, 'gzip' from closes;
             insert into mail_recipients (customer_id, address, added_at, added_by)
             select customer_id, customer_id || '@example.com', now(), 'test' from customers"
        );
        // Closes and their totals belong into one transaction.
        let mut connection = self.pool.acquire().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn text(&self, sql: &'static str) -> String {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Issued invoices, and whether numbers run without a gap and each invoice has one notification, entry and audit event.
    async fn issued(&self) -> (i64, bool) {
        sqlx::query_as(
            "select count(*), coalesce(bool_and(
                 right(invoice_number, 4)::int <= (select count(*) from invoices where status = 'issued')
                 and (select count(*) from notifications n where n.invoice_id = i.invoice_id) = 1
                 and (select count(*) from ledger_entries e where e.invoice_id = i.invoice_id) = 1
                 and (select count(*) from documents_due d where d.document_id = i.invoice_id)
                     + (select count(*) from invoice_documents d where d.invoice_id = i.invoice_id) = 1
                 and (select count(*) from audit_events a where a.subject = i.invoice_number and a.action = 'invoice.issued') = 1
             ), true) and count(distinct invoice_number) = count(*) and count(distinct customer_id) = count(*)
             from invoices i where status = 'issued'",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }
}

/// The function, one customer after the other, with its mail going to this service.
fn function(stage: &Stage, mail: &MailService) -> Function {
    let mut function = stage.function(Program::Bill);
    for (name, value) in [
        ("SECUREBASE_SELLER_NAME", "SecureBase Inc."),
        ("SECUREBASE_MAIL_FROM", "SecureBase <billing@securebase.example>"),
        ("SECUREBASE_MAIL_CONFIGURATION_SET", "billing"),
        ("SECUREBASE_WORKERS", "1"),
        ("AWS_ENDPOINT_URL_SESV2", &mail.endpoint),
    ] {
        function.variables.insert(name.to_owned(), value.to_owned());
    }
    function
}

#[tokio::test]
async fn a_run_that_is_killed_in_the_middle_is_finished_by_the_next_invocation() {
    let stage = Stage::set().await;
    let mail = MailService::start().await;
    stage.customers(8).await;
    let function = function(&stage, &mail);

    // Somebody holds the fifth customer, so the run stands there with four invoices issued: then it is killed, twice.
    let mut holder = stage.pool.acquire().await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(731152, hashtext('customer-04'))").execute(&mut *held).await.unwrap();
    for _ in 0..2 {
        let mut environment = Environment::start(&function).await.unwrap();
        let pid = nix::unistd::Pid::from_raw(environment.pid());
        let watch = async {
            loop {
                let waiting: bool = sqlx::query_scalar(
                    "select exists (select from pg_locks where locktype = 'advisory' and not granted and classid = 731152)",
                )
                .fetch_one(&stage.pool)
                .await
                .unwrap();
                if waiting {
                    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                    return;
                }
            }
        };
        let (outcome, ()) = tokio::join!(environment.invoke(RUN), watch);
        assert_eq!(outcome, Outcome::Exited { signal: Some(9) });
        assert_eq!(stage.issued().await, (4, true));
    }
    held.rollback().await.unwrap();
    drop(holder);

    let mut environment = Environment::start(&function).await.unwrap();
    let answer = environment.invoke(RUN).await.answer();
    // 2,001.00 and 8 % of it.
    assert_eq!(
        answer,
        json!({
            "period": "2026-01", "counts": { "issued": 8 }, "totals": { "USD": "17288.64" }, "credit_notes": 0, "troubles": []
        }),
        "{}",
        environment.log()
    );
    assert_eq!(stage.issued().await, (8, true));
    let again = environment.invoke(RUN).await.answer();
    assert_eq!((&again["counts"], &again["totals"]), (&json!({ "already_issued": 8 }), &json!({})));
    assert_eq!(stage.text("select count(*)::text from billing_runs where finished_at is null").await, "0");
    stage.close().await;
}

#[tokio::test]
async fn a_run_that_meets_its_deadline_says_so_and_goes_on_with_the_next_invocation() {
    let stage = Stage::set().await;
    let mail = MailService::start().await;
    stage.customers(3).await;
    let mut function = function(&stage, &mail);
    function.timeout = std::time::Duration::from_secs(4);
    let mut holder = stage.pool.acquire().await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(731152, hashtext('customer-01'))").execute(&mut *held).await.unwrap();
    let mut environment = Environment::start(&function).await.unwrap();
    let Outcome::Error { kind, message } = environment.invoke(RUN).await else { panic!("it cannot finish") };
    assert_eq!((kind.as_str(), message.starts_with("not done within")), ("Deadline.Exceeded", true), "{message}");
    assert_eq!(stage.issued().await, (1, true));
    held.rollback().await.unwrap();
    drop(holder);
    let mut environment = Environment::start(&stage.bill(&mail)).await.unwrap();
    assert_eq!(environment.invoke(RUN).await.answer()["counts"], json!({ "issued": 3 }));
    assert_eq!(stage.issued().await, (3, true));
    stage.close().await;
}

impl Stage {
    /// The function with the usual time.
    fn bill(&self, mail: &MailService) -> Function {
        function(self, mail)
    }
}

#[tokio::test]
async fn documents_are_rendered_once_and_mail_leaves_with_them_also_when_the_function_is_killed_over_it() {
    let stage = Stage::set().await;
    let mail = MailService::start().await;
    stage.customers(3).await;
    let function = function(&stage, &mail);
    let mut environment = Environment::start(&function).await.unwrap();
    environment.invoke(RUN).await.answer();

    // The service takes the second message and the function is killed before it hears of it.
    mail.kill_after(2, environment.pid());
    assert_eq!(environment.invoke(SEND).await, Outcome::Exited { signal: Some(9) });
    let hashes = "select string_agg(encode(sha256, 'hex'), ' ' order by invoice_id) from invoice_documents
        where media_type = 'application/pdf'";
    let rendered = stage.text(hashes).await;
    let mut environment = Environment::start(&function).await.unwrap();
    let sent = environment.invoke(SEND).await.answer();
    let expected = json!({ "rendered": 0, "not_rendered": 0, "sent": 2, "retried": 0, "failed": 0, "waiting": 0 });
    assert_eq!(sent, expected, "{}", environment.log());
    assert_eq!(stage.text(hashes).await, rendered, "rendered once");
    assert_eq!(stage.text("select count(*)::text from documents_due").await, "0");

    let messages = mail.messages();
    assert_eq!(messages.len(), 4, "one left twice");
    assert_eq!(messages[1], messages[2], "the same message, with the same tag and id");
    for message in &messages {
        let raw = String::from_utf8_lossy(&message.raw).into_owned();
        for part in ["Content-Type: application/pdf", "filename=\"INV-", "X-SecureBase-Notification: invoice-issued-"] {
            assert!(raw.contains(part), "{part}: {raw}");
        }
        assert_eq!(message.configuration_set.as_deref(), Some("billing"));
    }
    let nothing = environment.invoke(SEND).await.answer();
    assert_eq!((&nothing["sent"], &nothing["rendered"]), (&json!(0), &json!(0)));

    // What the service says of a message comes by SNS, and ends the mail to an address that bounced for good.
    let bounce = json!({
        "eventType": "Bounce",
        "bounce": {
            "bounceType": "Permanent",
            "bouncedRecipients": [{ "emailAddress": "customer-01@example.com" }],
            "timestamp": "2026-02-01T00:06:00Z",
        },
        "mail": { "timestamp": "2026-02-01T00:05:00Z", "messageId": "m-1" },
    });
    let delivery = json!({ "Records": [{ "EventSource": "aws:sns", "Sns": { "Message": bounce.to_string() } }] });
    for _ in 0..2 {
        assert_eq!(environment.invoke(&delivery.to_string()).await.answer(), json!({ "events": 1 }));
    }
    let suppressed = "select string_agg(address || ' ' || suppressed_because, ', ') from mail_recipients
        where suppressed_at is not null";
    assert_eq!(stage.text(suppressed).await, "customer-01@example.com bounce");

    // January was due long ago: everyone is told once a day, however often the schedule comes.
    let told = environment.invoke(r#"{"task":"remind"}"#).await.answer();
    assert_eq!((&told["reminders"], &told["overdue"]), (&json!(0), &json!(0)), "issued today, due in 30 days");
    for event in [r#"{"task":"pay"}"#, "{}", r#"{"task":"run","period":"soon"}"#] {
        let outcome = environment.invoke(event).await;
        assert!(matches!(&outcome, Outcome::Error { kind, .. } if kind == "Delivery.NotRecognized"), "{outcome:?}");
    }
    stage.close().await;
}

#[tokio::test]
async fn a_typeface_of_its_own_is_checked_before_the_first_invocation() {
    let stage = Stage::set().await;
    let mail = MailService::start().await;
    stage.customers(1).await;
    let file = std::env::temp_dir().join(format!("securebase-typeface-{}.ttf", std::process::id()));
    let mut function = function(&stage, &mail);
    function.variables.insert("SECUREBASE_INVOICE_TYPEFACE".into(), file.to_str().unwrap().to_owned());
    for (bytes, told) in
        [(None, "cannot be read"), (Some(&b"no font"[..]), "the additional typeface is no TrueType or OpenType font")]
    {
        if let Some(bytes) = bytes {
            std::fs::write(&file, bytes).unwrap();
        }
        let NotStarted { told: found, code } = Environment::start(&function).await.map(drop).unwrap_err();
        let (kind, message) = found.unwrap();
        assert_eq!((kind.as_str(), code), ("Runtime.SettingsInvalid", Some(1)));
        assert!(message.contains("SECUREBASE_INVOICE_TYPEFACE: ") && message.contains(told), "{message}");
    }
    std::fs::write(&file, notosans::BOLD_TTF).unwrap();
    let mut environment = Environment::start(&function).await.unwrap();
    environment.invoke(RUN).await.answer();
    assert_eq!(environment.invoke(SEND).await.answer()["rendered"], json!(1), "{}", environment.log());
    std::fs::remove_file(&file).unwrap();
    stage.close().await;
}

#[test]
fn only_the_billing_function_carries_the_typesetter() {
    let outlines = &notosans::BOLD_TTF[200_000..200_256];
    let carries = |program: Program| memchr::memmem::find(&std::fs::read(program.path()).unwrap(), outlines).is_some();
    let carrying: Vec<Program> = Program::ALL.into_iter().filter(|program| carries(*program)).collect();
    assert_eq!(carrying, [Program::Bill]);
}
