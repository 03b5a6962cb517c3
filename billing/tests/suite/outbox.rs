//! What leaves by mail: after the commit, at least once, with its document; and what comes back.

use std::path::Path;
use std::sync::{Arc, Mutex};

use billing::outbox::{
    Feedback, FolderMailer, MailSettings, Mailer, MessageId, Notification, OutgoingMail, REMINDERS, SendError,
    SendReport, SesMailer, Tag, Template, add_recipient, enqueue, list_outbox, list_recipients, record_feedback,
    remind, retry_failed, send_due, suppress_recipient,
};
use billing::{RenderReport, TextRenderer, load_document, render_due};
use sqlx::Connection as _;

use crate::fixture::{Fixture, at};
use crate::golden::check;

const NOW: &str = "2026-11-01T00:05:00Z";

fn settings() -> MailSettings {
    MailSettings::new("SecureBase Billing <billing@securebase.example>", Some("help@securebase.example")).unwrap()
}

/// Answers as told, and keeps what it was handed.
#[derive(Default)]
struct Scripted {
    answers: Mutex<Vec<Result<MessageId, SendError>>>,
    mails: Mutex<Vec<OutgoingMail>>,
}

impl Scripted {
    fn answering(answers: impl IntoIterator<Item = Result<MessageId, SendError>>) -> Self {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        Self { answers: Mutex::new(answers), mails: Mutex::default() }
    }
}

impl Mailer for Scripted {
    async fn send(&self, mail: &OutgoingMail) -> Result<MessageId, SendError> {
        let mut mails = self.mails.lock().unwrap();
        mails.push(mail.clone());
        let answer = self.answers.lock().unwrap().pop();
        answer.unwrap_or_else(|| Ok(MessageId(format!("message-{}", mails.len()))))
    }
}

impl Fixture {
    /// Anna's invoice of October, issued, with an address and its document.
    async fn announced() -> Self {
        let fixture = Self::new().await;
        fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
        fixture.worked_example("anna").await;
        fixture.issue_october().await;
        fixture.recipient("anna", "billing@anna.example").await;
        let rendered = render_due(&fixture.billing, &Arc::new(TextRenderer), 2, at(NOW)).await.unwrap();
        assert_eq!(rendered, RenderReport { rendered: 1, failed: 0 });
        fixture
    }

    async fn recipient(&self, customer: &str, address: &str) {
        let mut connection = self.connect("securebase_billing").await;
        add_recipient(&mut connection, customer, address, "operator:ada", at(NOW)).await.unwrap();
    }

    async fn send(&self, mailer: &impl Mailer, now: &str) -> SendReport {
        send_due(&self.billing, mailer, &settings(), at(now), || u64::MAX, 100).await.unwrap()
    }
}

#[tokio::test]
async fn an_issued_invoice_leaves_as_a_message_with_its_document() {
    let fixture = Fixture::announced().await;
    let folder = std::env::temp_dir().join(format!("securebase-mail-{}", std::process::id()));
    let mailer = FolderMailer::new(folder.clone());
    assert_eq!(fixture.send(&mailer, NOW).await, SendReport { sent: 1, ..SendReport::default() });
    assert_eq!(fixture.send(&mailer, NOW).await, SendReport::default(), "once");
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let invoice = fixture.invoice("INV-2026-11-0001").await;
    let id = invoice.id.unwrap();
    assert_eq!(file.file_name().unwrap().to_str(), Some(format!("invoice-issued-{id}.eml").as_str()));
    let message = std::fs::read_to_string(file).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    // Ids are random and boundaries follow from them; the rest is reviewed.
    let boundaries: Vec<String> = message
        .lines()
        .filter_map(|line| line.split_once("boundary=\"").map(|(_, rest)| rest.trim_end_matches('"').to_owned()))
        .collect();
    let mut reviewed = message.replace('\r', "").replace(&id, "ID");
    for (number, boundary) in boundaries.iter().enumerate() {
        reviewed = reviewed.replace(boundary, &format!("BOUNDARY-{number}"));
    }
    check("invoice_issued.eml", &reviewed);
    let document =
        load_document(&mut fixture.superuser().await, "INV-2026-11-0001", "text/plain").await.unwrap().unwrap();
    assert_eq!(document.file_name, "INV-2026-11-0001.txt");
    assert_eq!(
        String::from_utf8(document.bytes).unwrap(),
        billing::render_text(&fixture.invoice("INV-2026-11-0001").await)
    );
}

#[tokio::test]
async fn a_message_waits_for_its_document_and_for_somebody_to_send_it_to() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let mailer = Scripted::default();
    let waiting = SendReport { waiting: 1, ..SendReport::default() };
    assert_eq!(fixture.send(&mailer, "2026-11-01T00:00:00Z").await, waiting);
    let entry = async || list_outbox(&mut fixture.superuser().await, Some("pending"), 10).await.unwrap().remove(0);
    assert_eq!(entry().await.last_error.unwrap(), "customer anna has no address that mail can be sent to");
    fixture.recipient("anna", "billing@anna.example").await;
    assert_eq!(fixture.send(&mailer, "2026-11-01T00:30:00Z").await, SendReport::default(), "it rests for an hour");
    assert_eq!(fixture.send(&mailer, "2026-11-01T01:00:00Z").await, waiting);
    assert_eq!(entry().await.last_error.unwrap(), "its document is not rendered yet");
    render_due(&fixture.billing, &Arc::new(TextRenderer), 2, at(NOW)).await.unwrap();
    assert_eq!(fixture.send(&mailer, "2026-11-01T01:01:00Z").await.sent, 1);
    assert_eq!(entry_attempts(&fixture).await, [1], "waiting is no attempt");
}

async fn entry_attempts(fixture: &Fixture) -> Vec<i32> {
    let entries = list_outbox(&mut fixture.superuser().await, None, 10).await.unwrap();
    entries.into_iter().map(|entry| entry.attempts).collect()
}

#[tokio::test]
async fn what_is_not_taken_is_tried_again_later_and_what_is_refused_is_given_up() {
    let fixture = Fixture::announced().await;
    let passing = || Err(SendError::Passing("throttled".into()));
    let mailer = Scripted::answering([passing(), passing(), Ok(MessageId("m".into()))]);
    let retried = SendReport { retried: 1, ..SendReport::default() };
    assert_eq!(fixture.send(&mailer, "2026-11-01T00:00:00Z").await, retried);
    assert_eq!(fixture.send(&mailer, "2026-11-01T00:00:59Z").await, SendReport::default());
    assert_eq!(fixture.send(&mailer, "2026-11-01T00:01:00Z").await, retried);
    assert_eq!(fixture.send(&mailer, "2026-11-01T00:02:00Z").await, SendReport::default(), "twice as long");
    assert_eq!(fixture.send(&mailer, "2026-11-01T00:03:00Z").await.sent, 1);
    let mails = mailer.mails.lock().unwrap().clone();
    assert_eq!((mails.len(), &mails[0], &mails[1]), (3, &mails[2], &mails[2]), "the same message each time");

    let fixture = Fixture::announced().await;
    let refusing = Scripted::answering([Err(SendError::Refused("no such content".into()))]);
    assert_eq!(fixture.send(&refusing, NOW).await, SendReport { failed: 1, ..SendReport::default() });
    assert_eq!(fixture.send(&refusing, "2026-12-01T00:00:00Z").await, SendReport::default());
    assert_eq!(retry_failed(&mut fixture.connect("securebase_billing").await, at(NOW)).await.unwrap(), 1);
    assert_eq!(fixture.send(&refusing, NOW).await.sent, 1);

    // After its last try a message is given up, not lost.
    let fixture = Fixture::announced().await;
    let down = Scripted::answering((0..40).map(|_| passing()));
    let mut now = at("2026-11-01T00:00:00Z");
    let mut reports = Vec::new();
    for _ in 0..25 {
        reports.push(fixture.send(&down, &now.to_string()).await);
        now = now.saturating_add_secs(7 * 3600);
    }
    assert_eq!(reports.iter().map(|report| report.retried).sum::<u64>(), 19);
    assert_eq!(reports.iter().map(|report| report.failed).sum::<u64>(), 1);
    assert_eq!(entry_attempts(&fixture).await, [20]);
}

#[tokio::test]
async fn a_sender_that_dies_after_the_answer_sends_the_same_message_again() {
    let fixture = Fixture::announced().await;
    /// Ends the sender's own connection once the message is out.
    struct Dying(String, Scripted);
    impl Mailer for Dying {
        async fn send(&self, mail: &OutgoingMail) -> Result<MessageId, SendError> {
            let mut superuser = sqlx::PgConnection::connect(&self.0).await.unwrap();
            let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where usename = 'securebase_billing' and datname = current_database()";
            sqlx::raw_sql(end).execute(&mut superuser).await.unwrap();
            self.1.send(mail).await
        }
    }
    let dying = Dying(fixture.superuser_url(), Scripted::default());
    assert!(send_due(&fixture.billing, &dying, &settings(), at(NOW), || 0, 10).await.is_err());
    let mailer = Scripted::default();
    assert_eq!(fixture.send(&mailer, NOW).await.sent, 1);
    assert_eq!(*dying.1.mails.lock().unwrap(), *mailer.mails.lock().unwrap());
}

#[tokio::test]
async fn senders_at_once_share_the_outbox() {
    let fixture = Fixture::new().await;
    for number in 0..12 {
        let id = format!("customer-{number:02}");
        fixture.customer(&id, "standard", "2026-01-01T00:00:00Z").await;
        fixture.recipient(&id, &format!("billing@{id}.example")).await;
    }
    fixture.issue_october().await;
    render_due(&fixture.billing, &Arc::new(TextRenderer), 2, at(NOW)).await.unwrap();
    let mailer = Scripted::default();
    let settings = settings();
    let send = || send_due(&fixture.billing, &mailer, &settings, at(NOW), || 0, 100);
    let (a, b, c) = tokio::join!(send(), send(), send());
    assert_eq!(a.unwrap().sent + b.unwrap().sent + c.unwrap().sent, 12);
    let mut to: Vec<String> = mailer.mails.lock().unwrap().iter().flat_map(|mail| mail.to.clone()).collect();
    to.sort();
    to.dedup();
    assert_eq!(to.len(), 12);
}

#[tokio::test]
async fn customers_are_reminded_before_and_told_after_the_due_day_and_not_twice() {
    let fixture = Fixture::announced().await;
    let day = async |now: &str| {
        let report = remind(&mut fixture.connect("securebase_billing").await, &REMINDERS, at(now)).await.unwrap();
        (report.reminders, report.overdue)
    };
    assert_eq!(day("2026-11-20T00:00:00Z").await, (0, 0));
    assert_eq!(day("2026-11-24T00:00:00Z").await, (1, 0));
    assert_eq!(day("2026-11-25T00:00:00Z").await, (0, 0));
    assert_eq!(day("2026-12-02T00:00:00Z").await, (0, 1));
    assert_eq!(day("2026-12-16T00:00:00Z").await, (0, 1));
    let mailer = Scripted::default();
    assert_eq!(fixture.send(&mailer, "2026-12-16T00:01:00Z").await.sent, 4);
    let text = |mail: &OutgoingMail| String::from_utf8(mail.raw.clone()).unwrap();
    let subjects: Vec<String> = mailer
        .mails
        .lock()
        .unwrap()
        .iter()
        .map(|mail| text(mail).lines().find(|line| line.starts_with("Subject: ")).unwrap().to_owned())
        .collect();
    assert_eq!(
        subjects,
        [
            "Subject: Invoice INV-2026-11-0001 from SecureBase Inc.: 2,218.54 USD",
            "Subject: Reminder: invoice INV-2026-11-0001 is due on 2026-12-01",
            "Subject: Overdue: invoice INV-2026-11-0001 was due on 2026-12-01",
            "Subject: Overdue: invoice INV-2026-11-0001 was due on 2026-12-01",
        ]
    );
    // Paid: nobody is told any more.
    let payment = billing::PayRequest {
        invoice: "INV-2026-11-0001",
        amount: None,
        method: "card",
        reference: "1",
        received_at: at("2026-12-16T00:00:00Z"),
    };
    billing::pay(&fixture.billing, &payment, "operator:ada", at("2026-12-16T00:00:00Z")).await.unwrap();
    assert_eq!(day("2026-12-30T00:00:00Z").await, (0, 0));
}

#[tokio::test]
async fn limits_of_the_tier_are_told_at_their_shares_once_a_month() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture
        .execute(
            "insert into accounts (account_id, first_seen_at)
                 select lpad(n::text, 12, '0'), now() from generate_series(1, 5) n;
             insert into account_ownership select account_id, 'anna', '[2026-01-01,)' from accounts
                 where account_id < '000000000005'",
        )
        .await
        .unwrap();
    let told = async |now: &str| {
        remind(&mut fixture.connect("securebase_billing").await, &REMINDERS, at(now)).await.unwrap().thresholds
    };
    assert_eq!(told("2026-11-10T00:00:00Z").await, 1, "4 of 5 accounts");
    assert_eq!(told("2026-11-11T00:00:00Z").await, 0);
    fixture.execute("insert into account_ownership values ('000000000005', 'anna', '[2026-11-12,)')").await.unwrap();
    assert_eq!(told("2026-11-12T00:00:00Z").await, 1, "all of them");
    assert_eq!(told("2026-12-01T00:00:00Z").await, 1, "another month");
    // The tier of the day counts, not the one it began with; and nobody is told after the contract.
    fixture
        .execute(
            "insert into customer_tiers (customer_id, valid_from, tier, recorded_at)
                 values ('anna', '2026-12-31', 'fintech', now()), ('anna', '2027-02-01', 'standard', now());
             insert into contract_ends (customer_id, ends_on, recorded_at) values ('anna', '2027-02-15', now())",
        )
        .await
        .unwrap();
    assert_eq!(told("2027-01-31T23:59:59Z").await, 0, "5 of 20 accounts");
    assert_eq!(told("2027-02-15T00:00:00Z").await, 0);
    assert_eq!(told("2027-02-14T23:59:59Z").await, 1, "5 of 5 accounts");
    fixture.recipient("anna", "ops@anna.example").await;
    let mailer = Scripted::default();
    assert_eq!(fixture.send(&mailer, "2026-12-01T00:00:00Z").await.sent, 3, "the last one is due later");
    let first = String::from_utf8(mailer.mails.lock().unwrap()[0].raw.clone()).unwrap();
    assert!(first.contains("Subject: anna uses 4 of 5 accounts"), "{first}");
    assert!(first.contains("80 % are reached"), "{first}");
}

#[tokio::test]
async fn other_rooms_tell_of_what_is_theirs_and_of_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    let key_of = |customer: &str, tag: &str| Notification {
        tag: Tag::parse(tag).unwrap(),
        customer: customer.into(),
        template: Template::ApiKeyReady,
        invoice_id: None,
        credit_note_id: None,
        payload: serde_json::json!({ "prefix": format!("sk_live_{customer}_0123456789abcdef"), "name": "ci" }),
    };
    let mut app = fixture.connect("securebase_app").await;
    assert!(enqueue(&mut app, &key_of("anna", "key-0"), at(NOW)).await.is_err(), "no tenant");
    let mut anna = Fixture::tenant(&mut app, "anna").await;
    assert!(enqueue(&mut anna, &key_of("anna", "key-1"), at(NOW)).await.unwrap());
    assert!(!enqueue(&mut anna, &key_of("anna", "key-1"), at(NOW)).await.unwrap(), "the same occasion");
    anna.commit().await.unwrap();
    let mut anna = Fixture::tenant(&mut app, "anna").await;
    assert!(enqueue(&mut anna, &key_of("bert", "key-2"), at(NOW)).await.is_err(), "another customer's");
    anna.rollback().await.unwrap();
    let threshold = Notification { template: Template::UsageThreshold, ..key_of("anna", "key-3") };
    for (role, notification, is_allowed) in [
        ("securebase_operator", key_of("anna", "key-4"), true),
        ("securebase_operator", threshold.clone(), false),
        ("securebase_aggregator", threshold, true),
        ("securebase_aggregator", key_of("anna", "key-5"), false),
        ("securebase_analytics", key_of("anna", "key-6"), false),
    ] {
        let done = enqueue(&mut fixture.connect(role).await, &notification, at(NOW)).await;
        assert_eq!(done.is_ok(), is_allowed, "{role} {:?}: {done:?}", notification.template);
    }
    fixture.recipient("anna", "ops@anna.example").await;
    let mailer = Scripted::default();
    let sent = fixture.send(&mailer, NOW).await;
    assert_eq!((sent.sent, sent.failed), (2, 1), "a threshold without its figures is given up");
    let message = String::from_utf8(mailer.mails.lock().unwrap()[0].raw.clone()).unwrap();
    assert!(message.contains("API key sk_live_anna_0123456789abcdef is ready"), "{message}");
}

#[tokio::test]
async fn bounces_and_complaints_are_recorded_once_and_end_the_mail_to_an_address() {
    let fixture = Fixture::announced().await;
    fixture.recipient("anna", "cfo@anna.example").await;
    let mailer = Scripted::answering([Ok(MessageId("0100-abc".into()))]);
    assert_eq!(fixture.send(&mailer, NOW).await.sent, 1);
    let tag = mailer.mails.lock().unwrap()[0].tag.to_string();
    let record = async |text: &str| {
        record_feedback(&mut fixture.connect("securebase_billing").await, text, at(NOW))
            .await
            .map_err(|e| e.to_string())
    };
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/events");
    let event = |name: &str| std::fs::read_to_string(events.join(name)).unwrap().replace("NOTIFICATION", &tag);
    let wrapped = |name: &str| {
        serde_json::json!({ "Type": "Notification", "MessageId": "1", "Message": event(name) }).to_string()
    };
    let recorded = |addresses, suppressed| Ok(Feedback::Recorded { addresses, suppressed });
    assert_eq!(record(&wrapped("delivery.json")).await, recorded(2, 0));
    assert_eq!(record(&wrapped("transient_bounce.json")).await, recorded(1, 0));
    assert_eq!(record(&wrapped("bounce.json")).await, recorded(1, 1));
    assert_eq!(record(&wrapped("bounce.json")).await, Ok(Feedback::Known), "SNS delivers at least once");
    assert_eq!(record(&event("complaint.json")).await, recorded(1, 1), "raw delivery");
    assert_eq!(record(&wrapped("send.json")).await, Ok(Feedback::NotKept { kind: "Send".into() }));
    let confirm = r#"{"Type":"SubscriptionConfirmation","Message":"x"}"#;
    assert_eq!(record(confirm).await, Ok(Feedback::NotKept { kind: "SNS SubscriptionConfirmation".into() }));
    for bad in ["", "{}", "{\"eventType\":\"Bounce\"}", "{\"Type\":\"Notification\",\"Message\":\"no\"}"] {
        assert!(record(bad).await.unwrap_err().starts_with("not an event of Amazon SES: "), "{bad}");
    }
    let recipients = list_recipients(&mut fixture.superuser().await, Some("anna")).await.unwrap();
    let states: Vec<_> =
        recipients.iter().map(|one| (one.address.as_str(), one.suppressed_because.as_deref())).collect();
    assert_eq!(states, [("billing@anna.example", Some("bounce")), ("cfo@anna.example", Some("complaint"))]);
    let kinds = fixture
        .texts("select kind || ' ' || address || ' ' || customer_id from mail_events order by mail_event_id")
        .await;
    assert_eq!(
        kinds,
        [
            "delivery billing@anna.example anna",
            "delivery cfo@anna.example anna",
            "bounce billing@anna.example anna",
            "bounce Billing@anna.example anna",
            "complaint cfo@anna.example anna",
        ]
    );
    // An operator takes an address up again, and off again.
    fixture.recipient("anna", "cfo@anna.example").await;
    let mut connection = fixture.connect("securebase_billing").await;
    suppress_recipient(&mut connection, "anna", "cfo@anna.example", "operator:ada", at(NOW)).await.unwrap();
    let unknown =
        suppress_recipient(&mut connection, "anna", "x@y.example", "operator:ada", at(NOW)).await.unwrap_err();
    assert_eq!(unknown.to_string(), "customer anna has no address x@y.example");
    for (customer, address, refused) in
        [("anna", "no address", "is no mail address"), ("nobody", "a@b.example", "customer nobody does not exist")]
    {
        let error = add_recipient(&mut connection, customer, address, "operator:ada", at(NOW)).await.unwrap_err();
        assert!(error.to_string().contains(refused), "{error}");
    }
    let actions = fixture.texts("select action from audit_events where action like 'mail_%' order by sequence").await;
    assert_eq!(actions.len(), 6, "{actions:?}");
}

/// SES on the wire: the adapter against a server that answers one request and hands it over.
#[tokio::test]
async fn ses_is_given_the_raw_message_the_tag_and_the_configuration_set() {
    let fixture = Fixture::announced().await;
    let answers = [
        ("200 OK", r#"{"MessageId":"0100-xyz"}"#, ""),
        ("400 Bad Request", r#"{"message":"Email address is not verified."}"#, "MessageRejected"),
        ("429 Too Many Requests", r#"{"message":"slow down"}"#, "TooManyRequestsException"),
    ];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for (status, body, error) in answers {
            let (stream, _) = listener.accept().await.unwrap();
            requests.push(crate::wire::answer(stream, status, body, error).await);
        }
        requests
    });
    let mailer = SesMailer::new(crate::wire::ses(&format!("http://{address}")), Some("events".into()));
    assert_eq!(fixture.send(&mailer, NOW).await.sent, 1);
    let mail = OutgoingMail {
        tag: Tag::parse("t").unwrap(),
        from: "a@b.example".into(),
        to: vec!["c@d.example".into()],
        raw: b"Subject: x\r\n\r\nx".to_vec(),
    };
    assert!(matches!(mailer.send(&mail).await, Err(SendError::Refused(_))), "a message that is rejected is given up");
    assert!(matches!(mailer.send(&mail).await, Err(SendError::Passing(_))), "throttling passes");
    let (_, body) = server.await.unwrap().swap_remove(0);
    let request: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let tag = fixture.texts("select tag from notifications").await.remove(0);
    assert_eq!(request["EmailTags"], serde_json::json!([{ "Name": "notification", "Value": tag }]));
    assert_eq!(request["ConfigurationSetName"], "events");
    assert_eq!(request["Destination"]["ToAddresses"], serde_json::json!(["billing@anna.example"]));
    assert_eq!(fixture.texts("select message_id from notifications").await, ["0100-xyz"]);
    assert!(request["Content"]["Raw"]["Data"].as_str().unwrap().len() > 1000);
}

#[tokio::test]
async fn an_address_that_no_message_has_room_for_is_refused_and_not_passed_over() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture
        .execute(
            "insert into mail_recipients (customer_id, address, added_at, added_by)
                 select 'anna', n || '@anna.example', now(), 'test' from generate_series(1, 49) n",
        )
        .await
        .unwrap();
    let mut connection = fixture.connect("securebase_billing").await;
    let mut add = async |address: &str| {
        let added = add_recipient(&mut connection, "anna", address, "operator:ada", at(NOW)).await;
        added.map_err(|error| error.to_string())
    };
    assert_eq!(add("50@anna.example").await, Ok(()));
    assert_eq!(add("50@anna.example").await, Ok(()), "again is not one more");
    let full = "customer anna has 50 addresses, as many as one message goes to: suppress one first";
    assert_eq!(add("51@anna.example").await, Err(full.to_owned()));
    fixture.execute("update mail_recipients set suppressed_at = now(), suppressed_because = 'operator' where address = '7@anna.example'").await.unwrap();
    assert_eq!(add("51@anna.example").await, Ok(()));
    assert_eq!(add("7@anna.example").await, Err(full.to_owned()));
}

#[tokio::test]
async fn a_document_says_what_was_issued_also_when_it_is_rendered_after_the_payment() {
    /// All that a document says.
    struct Whole;
    impl billing::Renderer for Whole {
        fn media_type(&self) -> &'static str {
            "application/json"
        }

        fn render(&self, document: &billing::InvoiceDocument) -> Result<Vec<u8>, billing::RenderError> {
            Ok(serde_json::to_vec(document).unwrap())
        }
    }
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.issue_october().await;
    let issued = fixture.invoice("INV-2026-11-0001").await;
    let payment = billing::PayRequest {
        invoice: "INV-2026-11-0001",
        amount: None,
        method: "card",
        reference: "1",
        received_at: at(NOW),
    };
    billing::pay(&fixture.billing, &payment, "operator:ada", at(NOW)).await.unwrap();
    assert_ne!(fixture.invoice("INV-2026-11-0001").await, issued);
    render_due(&fixture.billing, &Arc::new(Whole), 1, at(NOW)).await.unwrap();
    let stored =
        load_document(&mut fixture.superuser().await, "INV-2026-11-0001", "application/json").await.unwrap().unwrap();
    assert_eq!(stored.bytes, serde_json::to_vec(&issued).unwrap());
}
