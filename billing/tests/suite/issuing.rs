//! What a run issues, once and without gaps.

use billing::{InvoiceDocument, Month, Outcome, RunError, issue, load_invoice, preview};
use ingest::Meter;

use crate::fixture::{Fixture, at, only, only_invoice, request, summary};

#[tokio::test]
async fn an_invoice_is_issued_once_however_often_it_is_asked_for() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    let first = fixture.issue_october().await;
    assert_eq!(summary(&first), ["anna: issued INV-2026-11-0001"]);
    // More usage and another day change nothing: what was issued stays.
    fixture.usage("anna", "2026-10-05T00:00:00Z", "late", Meter::GuardDutyFindings, 1_000).await;
    let second = issue(&fixture.billing, &request("2026-10"), at("2026-12-24T10:00:00Z")).await.unwrap();
    assert_eq!(summary(&second), ["anna: already issued INV-2026-11-0001"]);
    assert_eq!(only_invoice(&second), only_invoice(&first), "as stored and as it was issued");
    let dry = preview(&fixture.billing, &request("2026-10")).await.unwrap();
    assert_eq!(summary(&dry), ["anna: already issued INV-2026-11-0001"]);
    assert_eq!((fixture.count("invoices").await, fixture.count("invoice_lines").await), (1, 6));
}

#[tokio::test]
async fn eight_runs_at_once_issue_one_invoice_per_customer_without_a_gap() {
    let fixture = Fixture::new().await;
    for number in 0..12 {
        fixture.customer(&format!("customer-{number}"), "healthcare", "2026-01-01T00:00:00Z").await;
    }
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let pool = fixture.billing.clone();
            tokio::spawn(async move { issue(&pool, &request("2026-10"), at("2026-11-01T00:00:00Z")).await.unwrap() })
        })
        .collect();
    let (mut issued, mut seen) = (Vec::new(), 0);
    for run in runs {
        for result in run.await.unwrap().results {
            match result.outcome {
                Outcome::Issued(invoice) => issued.push(invoice.number.unwrap()),
                Outcome::AlreadyIssued(_) => seen += 1,
                other => panic!("{}: {other:?}", result.customer),
            }
        }
    }
    issued.sort();
    let gapless: Vec<String> = (1..=12).map(|number| format!("INV-2026-11-{number:04}")).collect();
    assert_eq!((issued, seen), (gapless, 7 * 12));
    assert_eq!(fixture.count("invoices").await, 12);
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
                 when (new.customer_id = 'c-fails-late') execute function fail()",
        )
        .await
        .unwrap();
    let report = fixture.issue_october().await;
    let lines = summary(&report);
    assert_eq!(lines[0], "a1: issued INV-2026-11-0001");
    assert_eq!(
        lines[1],
        "b-fails-early: failed: the customer is billed in EUR, but rate card standard version 1 is in USD"
    );
    assert!(lines[2].starts_with("c-fails-late: failed: database: ") && lines[2].contains("broken disk"), "{lines:?}");
    assert_eq!(lines[3], "d1: issued INV-2026-11-0002");
    assert_eq!((report.issued(), report.failures()), (2, 2));
    assert_eq!(fixture.count("invoices").await, 2, "a failure leaves no draft");

    fixture.execute("drop trigger fail on invoices").await.unwrap();
    assert_eq!(summary(&fixture.issue_october().await)[2], "c-fails-late: issued INV-2026-11-0003");
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_says_what_the_issue_will_say() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    fixture.worked_example("anna").await;
    let dry = preview(&fixture.billing, &request("2026-10")).await.unwrap();
    assert_eq!(summary(&dry), ["anna: previewed without number"]);
    for table in ["invoices", "invoice_lines", "invoice_number_counters"] {
        assert_eq!(fixture.count(table).await, 0, "{table}");
    }
    let issued = fixture.issue_october().await;
    let preview = InvoiceDocument {
        id: None,
        number: None,
        status: "draft".into(),
        issued_at: None,
        due_at: None,
        ..only_invoice(&issued).clone()
    };
    assert_eq!(only_invoice(&dry), &preview);
}

#[tokio::test]
async fn a_period_is_issued_only_when_it_has_ended() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-01-01T00:00:00Z").await;
    let early = issue(&fixture.billing, &request("2026-10"), at("2026-10-31T23:59:59.999999Z")).await;
    assert!(matches!(early, Err(RunError::PeriodNotEnded { .. })), "{early:?}");
    assert_eq!(
        early.unwrap_err().to_string(),
        "the period 2026-10 has not ended: it can be issued from 2026-11-01T00:00:00Z on, and previewed by a dry run"
    );
    assert_eq!(summary(&preview(&fixture.billing, &request("2026-10")).await.unwrap()).len(), 1);
    assert_eq!(summary(&fixture.issue_october().await), ["anna: issued INV-2026-11-0001"]);
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
    let report = preview(&fixture.billing, &only("2026-10", &["anna"])).await.unwrap();
    let line = &only_invoice(&report).lines[1];
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
        let found: Vec<&str> = invoice.lines.iter().map(|line| line.amount.as_str()).collect();
        assert_eq!((result.customer.as_str(), found.as_slice()), (tier, amounts.as_slice()));
    }
    // 5 % off 8,047.45 are 402.3725; 8 % on 7,645.08 are 611.6064.
    let fintech = load_invoice(&mut fixture.superuser().await, "INV-2026-11-0001").await.unwrap().unwrap();
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
        let report = issue(&fixture.billing, &request(period), at(now)).await.unwrap();
        let invoice = only_invoice(&report).clone();
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
    fixture.execute("update invoice_number_counters set last_number = 9999 where month = '2027-01-01'").await.unwrap();
    assert_eq!(number("2026-07", "2027-01-31T00:00:00Z").await.0, "INV-2027-01-10000");
}

#[tokio::test]
async fn days_without_a_rate_card_are_a_failure_that_says_so() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2019-01-01T00:00:00Z").await;
    let failure = async |period: &str| {
        let mut report = preview(&fixture.billing, &request(period)).await.unwrap();
        match report.results.remove(0).outcome {
            Outcome::Failed(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
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
    let report = preview(&fixture.billing, &request("2026-10")).await.unwrap();
    let amounts: Vec<&str> = only_invoice(&report).lines.iter().map(|line| line.amount.as_str()).collect();
    assert_eq!(amounts, ["967.74", "1600.00"], "15 days of one card and 16 of the next");
    let overlap = fixture.execute("update rate_cards set valid_to = null where tier = 'standard'").await.unwrap_err();
    assert!(overlap.to_string().contains("rate_cards_never_overlap"), "{overlap}");
}

#[tokio::test]
async fn a_customer_before_its_contract_or_unknown_has_no_invoice() {
    let fixture = Fixture::new().await;
    fixture.customer("anna", "standard", "2026-11-01T00:00:00Z").await;
    fixture.customer("bert", "standard", "2026-10-31T23:00:00Z").await;
    let request = only("2026-10", &["nobody", "bert", "anna", "bert"]);
    let report = issue(&fixture.billing, &request, at("2026-11-01T00:00:00Z")).await.unwrap();
    assert_eq!(
        summary(&report),
        ["anna: not under contract", "bert: issued INV-2026-11-0001", "nobody: failed: no such customer"]
    );
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
    let issued = fixture.issue_october().await;
    fixture
        .execute(
            "update customers set name = 'Renamed', tier = 'fintech', tax_rate = 0.5;
             update rate_cards set base_fee_minor = 1; update rate_card_prices set unit_price = 9",
        )
        .await
        .unwrap();
    let stored = load_invoice(&mut fixture.superuser().await, "INV-2026-11-0001").await.unwrap();
    assert_eq!(stored.as_ref(), Some(only_invoice(&issued)));
    assert_eq!(Month::parse("2026-10").unwrap().first_day().to_string(), stored.unwrap().period.start);
}
