//! What a run issues, once and without gaps.

use billing::{Discarded, InvoiceDocument, Month, Outcome, Previewed, RunRequest, issue, load_invoice, preview};
use ingest::Meter;

use crate::fixture::{Fixture, at, only, only_preview, request, summary};

#[tokio::test]
async fn an_invoice_is_issued_once_however_often_it_is_asked_for() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    let first = fixture.issue_october().await;
    assert_eq!(summary(&first), ["anna: issued INV-2026-11-0001"]);
    let issued = fixture.only_invoice(&first).await;
    // More usage and another day change nothing: what was issued stays.
    fixture.usage("anna", "2026-10-05T00:00:00Z", "late", Meter::GuardDutyFindings, 1_000).await;
    let second = issue(&fixture.billing, &request("2026-10"), at("2026-12-24T10:00:00Z")).await.unwrap();
    assert_eq!(summary(&second), ["anna: already issued INV-2026-11-0001"]);
    assert_eq!(fixture.only_invoice(&second).await, issued);
    let dry = preview(&fixture.billing, &request("2026-10")).await.unwrap();
    assert_eq!(only_preview(dry), issued);
    assert_eq!((fixture.count("invoices").await, fixture.count("invoice_lines").await), (1, 6));
    assert_eq!(fixture.count("notifications").await, 1);
}

#[tokio::test]
async fn eight_runs_at_once_share_the_customers_and_issue_one_invoice_each_without_a_gap() {
    let fixture = Fixture::new().await;
    for number in 0..12 {
        fixture.customer(&format!("customer-{number:02}"), "healthcare", "2026-01-01T00:00:00Z").await;
    }
    fixture.close_all("2026-10").await;
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let pool = fixture.billing.clone();
            let request = RunRequest { workers: 2, ..request("2026-10") };
            tokio::spawn(async move { issue(&pool, &request, at("2026-11-01T00:00:00Z")).await.unwrap() })
        })
        .collect();
    for run in runs {
        let report = run.await.unwrap();
        assert_eq!((report.failures(), report.results.len()), (0, 12), "{:?}", summary(&report));
        assert!(report.is_finished);
    }
    let numbers = fixture.texts("select invoice_number from invoices order by 1").await;
    let gapless: Vec<String> = (1..=12).map(|number| format!("INV-2026-11-{number:04}")).collect();
    assert_eq!(numbers, gapless);
    assert_eq!(fixture.count("notifications").await, 12);
    assert_eq!(fixture.count("billing_runs where finished_at is null").await, 0);
}

#[tokio::test]
async fn a_failing_customer_stops_no_other_and_leaves_no_gap() {
    let fixture = Fixture::new().await;
    for id in ["a1", "b-fails-early", "c-fails-late", "d1"] {
        fixture.customer(id, "standard", "2026-01-01T00:00:00Z").await;
    }
    // One fails before anything is written, one after its number is taken.
    fixture.execute("update customers set currency = 'EUR' where customer_id = 'b-fails-early'").await.unwrap();
    fixture
        .execute(
            "create function fail() returns trigger language plpgsql as $$ begin raise exception 'broken disk'; end $$;
             grant execute on function fail() to public;
             create trigger fail after update on invoices for each row
                 when (new.customer_id = 'c-fails-late' and new.status = 'issued') execute function fail()",
        )
        .await
        .unwrap();
    let report = fixture.issue_october().await;
    let lines = summary(&report);
    assert!(lines[0].starts_with("a1: issued INV-2026-11-000"), "{lines:?}");
    assert_eq!(
        lines[1],
        "b-fails-early: failed: the customer is billed in EUR, but rate card standard version 1 is in USD"
    );
    assert!(lines[2].starts_with("c-fails-late: failed: database: ") && lines[2].contains("broken disk"), "{lines:?}");
    assert!(lines[3].starts_with("d1: issued INV-2026-11-000"), "{lines:?}");
    assert_eq!((report.issued(), report.failures(), report.is_finished), (2, 2, true));
    assert_eq!(fixture.count("invoices").await, 2, "a failure leaves no draft");
    assert_eq!(fixture.count("notifications").await, 2);
    assert_eq!(fixture.count("ledger_entries").await, 2);

    fixture.execute("drop trigger fail on invoices").await.unwrap();
    assert_eq!(summary(&fixture.issue_october().await)[2], "c-fails-late: issued INV-2026-11-0003");
}

#[tokio::test]
async fn a_preview_writes_nothing_and_says_what_the_issue_will_say() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    let before_the_close = only_preview(preview(&fixture.billing, &request("2026-10")).await.unwrap());
    fixture.close_all("2026-10").await;
    let after_the_close = only_preview(preview(&fixture.billing, &request("2026-10")).await.unwrap());
    for table in ["invoices", "invoice_lines", "invoice_number_counters", "ledger_entries", "notifications"] {
        assert_eq!(fixture.count(table).await, 0, "{table}");
    }
    let issued = fixture.only_invoice(&fixture.issue_october().await).await;
    let as_preview = InvoiceDocument {
        id: None,
        number: None,
        status: "draft".into(),
        issued_at: None,
        due_at: None,
        ..issued.clone()
    };
    assert_eq!(after_the_close, as_preview);
    assert_eq!((before_the_close.lines, before_the_close.total), (issued.lines, issued.total));
    assert_eq!(before_the_close.evidence, None);
}

#[tokio::test]
async fn a_period_is_issued_only_when_it_has_ended() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let early = issue(&fixture.billing, &request("2026-10"), at("2026-10-31T23:59:59.999999Z")).await;
    assert_eq!(
        early.unwrap_err().to_string(),
        "the period 2026-10 has not ended: it can be issued from 2026-11-01T00:00:00Z on, and previewed by a dry run"
    );
    assert_eq!(preview(&fixture.billing, &request("2026-10")).await.unwrap().len(), 1);
    assert_eq!(summary(&fixture.issue_october().await), ["anna: issued INV-2026-11-0001"]);
}

#[tokio::test]
async fn without_a_close_the_draft_waits_and_after_the_grace_it_alarms() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    let run = async |now: &str| issue(&fixture.billing, &request("2026-10"), at(now)).await.unwrap();
    let waiting = run("2026-11-01T00:00:00Z").await;
    assert_eq!(summary(&waiting), ["anna: waiting: the period is not closed; the grace ends at 2026-11-04T00:00:00Z"]);
    assert_eq!(waiting.failures(), 0);
    let draft = fixture.only_invoice(&waiting).await;
    assert_eq!((draft.status.as_str(), draft.number, draft.total.as_str()), ("draft", None, "2218.54"));
    let unproven = run("2026-11-04T00:00:00Z").await;
    assert_eq!(unproven.failures(), 1);
    assert!(
        summary(&unproven)[0].starts_with("anna: unproven: the grace ended at 2026-11-04T00:00:00Z"),
        "{:?}",
        summary(&unproven)
    );
    assert_eq!(fixture.only_invoice(&unproven).await.id, draft.id, "the same draft");

    // The draft is made again with what the close says, and issued under its own id.
    fixture.usage("anna", "2026-10-07T00:00:00Z", "q", Meter::GuardDutyFindings, 20).await;
    fixture.close("anna", "2026-10", "reconciled").await;
    let issued = run("2026-11-05T00:00:00Z").await;
    assert_eq!(summary(&issued), ["anna: issued INV-2026-11-0001"]);
    let issued = fixture.only_invoice(&issued).await;
    assert_eq!((issued.id, issued.total.as_str()), (draft.id, "2219.62"));
    assert_eq!((issued.usage_source.class.as_str(), issued.evidence.map(|e| e.cut)), ("reconciled", Some(1)));
    assert_eq!(fixture.count("invoice_lines").await, 6);
    let actions = fixture.texts("select action from audit_events where customer_id = 'anna' order by sequence").await;
    assert_eq!(actions, ["invoice.drafted", "invoice.issued"]);
}

#[tokio::test]
async fn best_effort_usage_is_waited_for_until_the_grace_ends() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.close("anna", "2026-10", "best effort").await;
    let run = async |now: &str, grace_hours| {
        let request = RunRequest { grace_hours, ..request("2026-10") };
        summary(&issue(&fixture.billing, &request, at(now)).await.unwrap())
    };
    assert_eq!(
        run("2026-11-03T23:59:59Z", 72).await,
        ["anna: waiting: the sources are best effort, so late usage is waited for until 2026-11-04T00:00:00Z"]
    );
    assert_eq!(run("2026-11-03T23:59:59Z", 24).await, ["anna: issued INV-2026-11-0001"]);
}

#[tokio::test]
async fn a_discarded_draft_is_billed_again_only_when_that_is_asked_for() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let waiting = issue(&fixture.billing, &request("2026-10"), at("2026-11-01T00:00:00Z")).await.unwrap();
    let draft = waiting.results[0].outcome.billed().unwrap().id.clone();
    let reasonless = billing::void(&fixture.billing, &draft, " ", "operator:ada").await.unwrap_err();
    assert_eq!(reasonless.to_string(), "a reason must be given");
    billing::void(&fixture.billing, &draft, "opened by mistake", "operator:ada").await.unwrap();
    assert_eq!(fixture.invoice(&draft).await.status, "cancelled");
    let again = billing::void(&fixture.billing, &draft, "twice", "operator:ada").await.unwrap_err();
    assert_eq!(
        again.to_string(),
        format!("invoice {draft} is cancelled: only a draft can be discarded; credit what was issued")
    );
    assert_eq!(summary(&fixture.issue_october().await), ["anna: voided"]);
    let request = RunRequest { discarded: Discarded::BillAgain, ..request("2026-10") };
    let report = issue(&fixture.billing, &request, at("2026-11-02T00:00:00Z")).await.unwrap();
    assert_eq!(summary(&report), ["anna: issued INV-2026-11-0001"]);
    assert_eq!(fixture.only_invoice(&report).await.revision, 2);
    let issued = billing::void(&fixture.billing, "INV-2026-11-0001", "no", "operator:ada").await.unwrap_err();
    assert!(issued.to_string().contains("is issued: only a draft"), "{issued}");
}

#[tokio::test]
async fn only_the_months_own_windows_of_the_customer_are_billed() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    for (customer, window, total) in [
        ("anna", "2026-09-30T23:00:00Z", 1_000),
        ("anna", "2026-10-01T00:00:00Z", 1),
        ("anna", "2026-10-31T23:00:00Z", 2),
        ("anna", "2026-11-01T00:00:00Z", 1_000),
    ] {
        fixture.usage(customer, window, "p", Meter::GuardDutyFindings, total).await;
    }
    fixture.usage("bert", "2026-10-10T00:00:00Z", "p", Meter::GuardDutyFindings, 1_000).await;
    let invoice = only_preview(preview(&fixture.billing, &only("2026-10", &["anna"])).await.unwrap());
    let line = &invoice.lines[1];
    assert_eq!((line.quantity.as_str(), line.amount.as_str()), ("3", "0.15"));
}

#[tokio::test]
async fn every_tier_is_seeded_with_its_prices() {
    let fixture = Fixture::new().await;
    let tiers = [
        ("fintech", ["8000.00", "2.50", "40.00", "0.15", "4.00", "0.80"]),
        ("gov-federal", ["25000.00", "2.00", "35.00", "0.10", "3.00", "0.60"]),
        ("healthcare", ["15000.00", "2.50", "40.00", "0.15", "4.00", "0.80"]),
        ("standard", ["2000.00", "3.00", "45.00", "0.20", "5.00", "1.00"]),
    ];
    for (tier, _) in tiers {
        fixture.customer(tier, tier, "2026-01-01T00:00:00Z").await;
        fixture.worked_example(tier).await;
    }
    let report = fixture.issue_october().await;
    for (result, (tier, amounts)) in report.results.iter().zip(tiers) {
        let Outcome::Issued(invoice) = &result.outcome else { panic!("{tier}: {:?}", result.outcome) };
        let invoice = fixture.invoice(&invoice.id).await;
        let found: Vec<&str> = invoice.lines.iter().map(|line| line.amount.as_str()).collect();
        assert_eq!((result.customer.as_str(), found.as_slice()), (tier, amounts.as_slice()));
    }
    // 5 % off 8,047.45 are 402.3725; 8 % on 7,645.08 are 611.6064.
    let Outcome::Issued(fintech) = &report.results[0].outcome else { panic!("{:?}", summary(&report)) };
    let fintech = fixture.invoice(&fintech.id).await;
    assert_eq!(
        [fintech.subtotal, fintech.volume_discount, fintech.net, fintech.tax, fintech.total],
        ["8047.45", "402.37", "7645.08", "611.61", "8256.69"]
    );
}

#[tokio::test]
async fn numbers_count_the_month_of_issue_and_grow_past_four_digits() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let number = async |period: &str, now: &str| {
        let report = fixture.issue(period, now).await;
        let invoice = fixture.only_invoice(&report).await;
        (invoice.number.unwrap(), invoice.due_at.unwrap())
    };
    for (period, now, expected, due) in [
        ("2026-10", "2026-11-01T00:00:00Z", "INV-2026-11-0001", "2026-12-01T23:59:59Z"),
        ("2026-09", "2026-11-30T23:59:59Z", "INV-2026-11-0002", "2026-12-30T23:59:59Z"),
        ("2026-11", "2026-12-01T00:00:00Z", "INV-2026-12-0001", "2026-12-31T23:59:59Z"),
        ("2026-08", "2027-01-30T12:00:00Z", "INV-2027-01-0001", "2027-03-01T23:59:59Z"),
    ] {
        assert_eq!(number(period, now).await, (expected.to_owned(), due.to_owned()));
    }
    fixture
        .execute(
            "alter table invoice_number_counters disable trigger invoice_number_counters_count_one_by_one;
             update invoice_number_counters set last_number = 9999 where month = '2027-01-01';
             alter table invoice_number_counters enable trigger invoice_number_counters_count_one_by_one",
        )
        .await
        .unwrap();
    assert_eq!(number("2026-07", "2027-01-31T00:00:00Z").await.0, "INV-2027-01-10000");
}

#[tokio::test]
async fn days_without_a_rate_card_are_a_failure_that_says_so() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2019-01-01T00:00:00Z").await;
    let failure = async |period: &str| match preview(&fixture.billing, &request(period)).await.unwrap().remove(0).1 {
        Previewed::Failed(error) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        failure("2019-12").await,
        "rate cards do not cover the days under contract, 2019-12-01 to 2019-12-31, exactly once: none"
    );
    fixture.execute("update rate_cards set valid_to = '2026-10-16' where tier = 'standard'").await.unwrap();
    assert_eq!(
        failure("2026-10").await,
        "rate cards do not cover the days under contract, 2026-10-01 to 2026-10-31, exactly once: rate card standard \
         version 1 on 2026-10-01 to 2026-10-15"
    );
    fixture
        .execute(
            "insert into rate_cards
                 (tier, version, valid_from, currency, base_fee_minor, discount_threshold_minor, discount_rate)
             values ('standard', 2, '2026-10-16', 'USD', 310000, 1, 0)",
        )
        .await
        .unwrap();
    let invoice = only_preview(preview(&fixture.billing, &request("2026-10")).await.unwrap());
    let amounts: Vec<&str> = invoice.lines.iter().map(|line| line.amount.as_str()).collect();
    assert_eq!(amounts, ["967.74", "1600.00"], "15 days of one card and 16 of the next");
    let overlap = fixture.execute("update rate_cards set valid_to = null where tier = 'standard'").await.unwrap_err();
    assert!(overlap.to_string().contains("rate_cards_never_overlap"), "{overlap}");
}

#[tokio::test]
async fn a_customer_before_its_contract_or_unknown_has_no_invoice() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-11-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-10-31T23:00:00Z").await;
    fixture.close_all("2026-10").await;
    let now = at("2026-11-01T00:00:00Z");
    let unknown = issue(&fixture.billing, &only("2026-10", &["bert", "nobody"]), now).await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no customer nobody");
    assert_eq!(fixture.count("invoices").await, 0);
    let report = issue(&fixture.billing, &only("2026-10", &["bert", "anna", "bert"]), now).await.unwrap();
    assert_eq!(summary(&report), ["anna: not under contract", "bert: issued INV-2026-11-0001"]);
}

#[tokio::test]
async fn usage_beyond_any_amount_fails_its_customer_and_no_other() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-01-01T00:00:00Z").await;
    let most = 10_i128.pow(38) - 1;
    for partition in ["p", "q"] {
        fixture.usage("anna", "2026-10-01T00:00:00Z", partition, Meter::CloudTrailEvents, most).await;
    }
    let report = fixture.issue_october().await;
    assert_eq!(
        summary(&report),
        [
            "anna: failed: line cloudtrail_events: an amount is out of range".to_owned(),
            "bert: issued INV-2026-11-0001".to_owned()
        ]
    );
}

#[tokio::test]
async fn an_issued_invoice_keeps_the_buyer_and_rates_of_its_issue() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let issued = fixture.only_invoice(&fixture.issue_october().await).await;
    fixture
        .execute(
            "update customers set name = 'Renamed', tier = 'fintech', tax_rate = 0.5;
             update rate_cards set base_fee_minor = 1; update rate_card_prices set unit_price = 9",
        )
        .await
        .unwrap();
    let stored = load_invoice(&mut fixture.superuser().await, "INV-2026-11-0001").await.unwrap().unwrap();
    assert_eq!(stored, issued);
    assert_eq!(Month::parse("2026-10").unwrap().first_day().to_string(), stored.period.start);
}

#[tokio::test]
async fn a_day_is_the_sum_of_its_hours_and_accounts() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    for (hour, partition, findings) in [(3, "a", 5), (3, "b", 7), (4, "a", 11)] {
        let window = format!("2026-10-05T{hour:02}:00:00Z");
        fixture.usage("anna", &window, partition, Meter::GuardDutyFindings, findings).await;
    }
    fixture
        .execute(
            "insert into usage_rows
                 (account_id, meter, region, category, window_start, partition, total, version, customer_id)
             select '000000000007', meter, 'us-east-1', category, window_start, 'c', 100 * total, 1, customer_id
             from usage_rows where partition = 'b'",
        )
        .await
        .unwrap();
    let expected = ("723", "36.15", "2036.15");
    let told = |document: &billing::InvoiceDocument| {
        let line = &document.lines[1];
        (line.quantity.clone(), line.amount.clone(), document.subtotal.clone())
    };
    let preview = only_preview(preview(&fixture.billing, &request("2026-10")).await.unwrap());
    let issued = fixture.only_invoice(&fixture.issue_october().await).await;
    for (quantity, amount, subtotal) in [told(&preview), told(&issued)] {
        assert_eq!((quantity.as_str(), amount.as_str(), subtotal.as_str()), expected);
    }
}
