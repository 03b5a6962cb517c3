//! The life of an invoice by hand: closed, issued, sent, paid, credited, issued again.

use std::fs;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::events::object_of;
use crate::support::Site;

const ACCOUNT: &str = "000000000001";
const START: &str = "2024-01-01T00:00:00Z";
const MARCH: [&str; 4] = ["invoice", "run", "--period", "2024-03"];

/// Two customers, of whom acme has ten events in March; March is closed.
fn site() -> Site {
    let site = Site::new();
    let log = site.write("log.json", &object_of(ACCOUNT, 0..10, "2024-03-05T10:00:00Z"));
    site.json(["replay", &log]);
    site.add_customer("acme", "fintech");
    site.add_customer("bert", "standard");
    site.register(ACCOUNT, "acme", START);
    site.json(["close", "--period", "2024-03"]);
    site
}

/// The numbers of the invoices that a run issued.
fn numbers(report: &Value) -> Vec<String> {
    let results = report["results"].as_array().unwrap().iter();
    results.map(|result| result["invoice"]["number"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_invoice_is_sent_paid_and_listed() {
    let site = site();
    site.json(["outbox", "add-recipient", "acme", "billing@acme.example"]);
    let report = site.json(MARCH);
    assert_eq!((&report["counts"], &report["totals"]), (&json!({ "issued": 2 }), &json!({ "USD": "10368.00" })));
    let [acme, bert] = numbers(&report).try_into().unwrap();

    let sent = site.json(["outbox", "send"]);
    assert_eq!((&sent["rendered"], &sent["sent"], &sent["waiting"]), (&json!(2), &json!(1), &json!(1)), "{sent}");
    let mail: Vec<_> = fs::read_dir(site.home().join("mail")).unwrap().map(|file| file.unwrap().path()).collect();
    let message = fs::read_to_string(&mail[0]).unwrap();
    assert_eq!(mail.len(), 1);
    for part in ["To: billing@acme.example", &format!("filename=\"{acme}.pdf\""), "application/pdf", "8,208.00 USD"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let waiting = site.json(["outbox", "list", "--state", "pending"]);
    let waiting = &waiting["notifications"][0];
    assert_eq!(waiting["customer"], "bert");
    assert!(waiting["last_error"].as_str().unwrap().contains("no address"), "{waiting}");
    // Of a new key only its visible beginning is told.
    let key = site.json(["keys", "create", "--customer", "acme", "--name", "ci"])["key"].as_str().unwrap().to_owned();
    assert_eq!(site.json(["outbox", "send"])["sent"], 1);
    let told = fs::read_dir(site.home().join("mail")).unwrap().map(|file| file.unwrap().path());
    let told = told.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("api-key-ready-"));
    // Long lines are folded.
    let told = fs::read_to_string(told.last().unwrap()).unwrap().replace("=\r\n", "");
    let visible = &key[..key.len() - 43];
    assert!(told.contains(visible) && !told.contains(&key[..key.len() - 30]), "{told}");
    // What SES says of a message ends the mail to an address.
    let bounce = json!({
        "eventType": "Bounce",
        "bounce": {
            "bounceType": "Permanent",
            "bouncedRecipients": [{ "emailAddress": "billing@acme.example" }],
            "timestamp": "2026-11-01T00:06:00Z",
        },
        "mail": { "timestamp": "2026-11-01T00:05:00Z", "messageId": "1" },
    });
    let file = site.write("events", format!("{bounce}\nno event\n").as_bytes());
    let feedback = site.run(["outbox", "feedback", &file]);
    assert!(feedback.refusal().contains("line 2: not an event"), "{feedback:?}");
    let recipients = site.json(["outbox", "recipients"]);
    assert_eq!(recipients["recipients"][0]["suppressed"], "bounce");
    assert_eq!(site.json(["outbox", "retry"])["retried"], 0);

    let part = ["invoice", "pay", &acme, "--reference", "1", "--amount", "1000"];
    assert_eq!(site.json(part)["open"], "7208.00");
    assert_eq!(site.json(part)["outcome"], "known");
    let more = site.run(["invoice", "pay", &acme, "--reference", "2", "--amount", "7208.01"]);
    assert!(more.refusal().contains("more than the 7,208.00 USD that are open"), "{more:?}");
    assert_eq!(site.json(["invoice", "pay", &acme, "--reference", "2"])["open"], "0.00");
    assert_eq!(site.json(["invoice", "show", &acme])["status"], "paid");
    let listed = site.json(["invoice", "list", "--status", "issued"]);
    let states: Vec<&str> =
        listed["invoices"].as_array().unwrap().iter().filter_map(|i| i["number"].as_str()).collect();
    assert_eq!(states, [bert.as_str()]);
    assert_eq!(site.json(["invoice", "remind"])["overdue"], 0);
    let table = site.run(["invoice", "list", "--customer", "acme"]);
    assert!(table.succeeded().out.contains("paid"), "{table:?}");
    // The same bytes as a file, however often they are asked for, though the invoice is paid now.
    let attached = base64::engine::general_purpose::STANDARD.decode(base64_part(&message, "application/pdf")).unwrap();
    assert!(attached.starts_with(b"%PDF-"), "{:?}", &attached[..20]);
    for name in ["one.pdf", "two.pdf"] {
        let path = site.path(name).to_str().unwrap().to_owned();
        site.json(["invoice", "show", &acme, "--format", "pdf", "--out", &path]);
        assert_eq!(fs::read(&path).unwrap(), attached);
    }
    for (form, part) in [("html", "<!doctype html>"), ("csv", "cloudtrail_events"), ("json", "\"number\"")] {
        let shown = site.run(["invoice", "show", &acme, "--format", form]);
        assert!(shown.succeeded().out.to_lowercase().contains(part), "{form}: {shown:?}");
    }
    let show = site.run(["invoice", "show", &acme]);
    assert!(show.succeeded().out.contains("Payment 2: 7,208.00 USD"), "{show:?}");
}

/// The body of a message's first part of this media type, without its line ends.
fn base64_part(message: &str, media_type: &str) -> String {
    let (_, part) = message.split_once(&format!("Content-Type: {media_type}")).unwrap();
    let (_, body) = part.split_once("\r\n\r\n").unwrap();
    let (body, _) = body.split_once("\r\n--").unwrap();
    body.split_whitespace().collect()
}

#[test]
fn an_invoice_is_credited_issued_again_and_late_usage_follows() {
    let site = site();
    let [acme, bert] = numbers(&site.json(MARCH)).try_into().unwrap();
    let credited = site.json(["invoice", "credit", &bert, "--reason", "a customer of the test"]);
    assert_eq!((&credited["total"], &credited["to_customer_credit"]), (&json!("2160.00"), &json!("0.00")));
    assert_eq!(site.json(["invoice", "show", &bert])["status"], "credited");
    assert_eq!(site.json([MARCH.as_slice(), &["--customer", "bert"]].concat())["counts"], json!({ "credited": 1 }));

    let again = site.json(["invoice", "reissue", &acme, "--reason", "wrong address"]);
    assert_eq!(again["credited"]["total"], "8208.00");
    let second = again["invoice"]["number"].as_str().unwrap();
    let invoice = site.json(["invoice", "show", second]);
    assert_eq!((&invoice["revision"], &invoice["total"]), (&json!(2), &json!("8208.00")));
    let note = again["credited"]["credit_notes"][0].as_str().unwrap();
    let shown = site.run(["invoice", "show", note]);
    assert!(shown.succeeded().out.contains(&format!("CREDIT NOTE {note}")), "{shown:?}");

    // 200 million events at 0.00000015 would be 30.00; what is late here is a few that come to less than a cent.
    let late = site.write("late.json", &object_of(ACCOUNT, 10..30, "2024-03-06T10:00:00Z"));
    site.json(["replay", &late]);
    assert_eq!(site.json(["close", "--period", "2024-03", "--customer", "acme"])["closes"][0]["cut"], 2);
    let nothing = site.run(["invoice", "issue", "acme", "--late-usage"]);
    assert!(nothing.refusal().contains("no late usage of acme to be billed"), "{nothing:?}");

    let grant = ["invoice", "grant", "acme", "--amount", "100", "--reference", "g", "--reason", "a gift", "--goodwill"];
    assert_eq!(site.json(grant)["credit"], "100.00");
    site.json(["close", "--period", "2024-04"]);
    let april = site.json(["invoice", "run", "--period", "2024-04", "--customer", "acme"]);
    let april = &april["results"][0]["invoice"];
    assert_eq!((&april["prepaid_credit"], &april["due"]), (&json!("100.00"), &json!("8108.00")));
}

#[test]
fn a_draft_is_discarded_and_billed_after_all() {
    let site = site();
    let open = site.run(["invoice", "run", "--period", "2024-05", "--customer", "bert", "--json"]);
    let draft = open.report()["results"][0]["invoice"]["id"].as_str().unwrap().to_owned();
    assert_eq!(site.json(["invoice", "list", "--status", "draft"])["invoices"][0]["id"], json!(draft));
    let printed = site.run(["invoice", "show", &draft, "--format", "pdf"]);
    assert!(printed.refusal().contains("a draft has no PDF"), "{printed:?}");
    site.json(["invoice", "void", &draft, "--reason", "not yet"]);
    site.json(["close", "--period", "2024-05"]);
    let run = site.json(["invoice", "run", "--period", "2024-05", "--customer", "bert"]);
    assert_eq!(run["counts"], json!({ "voided": 1 }));
    let issued = site.json(["invoice", "issue", "bert", "--period", "2024-05"]);
    assert_eq!(issued["total"], "2160.00");
    let none = site.run(["invoice", "issue", "bert"]);
    assert_eq!(none.code, Some(2), "one of three things to issue must be said: {none:?}");
    let day = site.run(["invoice", "issue", "bert", "--prepay-from", "soon"]);
    assert!(day.refusal().contains("--prepay-from soon: expected a day"), "{day:?}");
}
