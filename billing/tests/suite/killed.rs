//! Connections that are cut, and processes that end, at every point between two writes of an issuing transaction.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use billing::{Interruptions, Point, RunRequest, issue, issue_with};
use ingest::Meter;

use crate::fixture::{Fixture, at, request, summary};

pub(crate) const NOW: &str = "2026-11-05T00:00:00Z";

/// Cuts the connection of a customer at a point, so often.
#[derive(Debug)]
struct Cut {
    left: Mutex<BTreeMap<(String, Point), u32>>,
}

impl Cut {
    fn at(cuts: &[(&str, Point, u32)]) -> Arc<Self> {
        let left = cuts.iter().map(|(customer, point, times)| (((*customer).to_owned(), *point), *times)).collect();
        Arc::new(Self { left: Mutex::new(left) })
    }
}

impl Interruptions for Cut {
    fn is_cut(&self, customer: &str, point: Point) -> bool {
        let mut left = self.left.lock().unwrap();
        match left.get_mut(&(customer.to_owned(), point)) {
            Some(times) if 0 < *times => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }
}

/// Everything that must hold however a run was cut off: what is issued is whole, and what is not is not there.
pub(crate) async fn check_whole(fixture: &Fixture, when: &str) {
    for (rule, violations) in [
        (
            "numbers are gapless and given once",
            "select c.series || ' ' || c.month || ' ' || n from invoice_number_counters c, generate_series(1, c.last_number) n
             where 1 <> (select count(*) from (
                 select invoice_number as number from invoices union all select credit_note_number from credit_notes) given
                 where number = c.series || '-' || to_char(c.month, 'YYYY-MM') || '-' || lpad(n::text, 4, '0'))",
        ),
        (
            "one standing invoice a customer and period",
            "select customer_id from invoices where status in ('issued', 'paid') group by customer_id, period_start
             having count(*) > 1",
        ),
        (
            "an issued invoice has lines, an entry, a notification and an audit event, once each",
            "select i.invoice_id::text from invoices i where i.status in ('issued', 'paid') and not (
                 exists (select from invoice_lines l where l.invoice_id = i.invoice_id)
                 and (select count(*) from ledger_entries e where e.invoice_id = i.invoice_id and e.kind = 'issue') = 1
                 and (select count(*) from notifications n where n.invoice_id = i.invoice_id) = 1
                 and (select count(*) from audit_events a
                      where a.subject = i.invoice_number and a.action = 'invoice.issued') = 1)",
        ),
        (
            "a credit note has an entry, a notification and an audit event, once each",
            "select c.credit_note_id::text from credit_notes c where not (
                 (select count(*) from ledger_entries e where e.credit_note_id = c.credit_note_id) = 1
                 and (select count(*) from notifications n where n.credit_note_id = c.credit_note_id) = 1
                 and (select count(*) from audit_events a
                      where a.subject = c.credit_note_number and a.action = 'credit_note.issued') = 1)",
        ),
        (
            "no entry, notification or event of an invoice that is not there",
            "select tag from notifications n where n.invoice_id is not null
                 and not exists (select from invoices i where i.invoice_id = n.invoice_id and i.status <> 'draft')",
        ),
        (
            "the ledger balances",
            "select entry_id::text from ledger_lines group by entry_id having sum(amount_minor) <> 0",
        ),
        (
            "balances are what the lines sum to",
            "select b.customer_id from customer_balances b
             where b.receivable_minor <> (select coalesce(sum(l.amount_minor), 0) from ledger_lines l
                 where l.customer_id = b.customer_id and l.account = 'receivable')",
        ),
        (
            "a claim is done exactly when its invoice is there",
            "select c.customer_id from billing_run_customers c where c.outcome = 'issued'
                 and not exists (select from invoices i where i.invoice_id = c.invoice_id and i.status in ('issued', 'paid'))",
        ),
    ] {
        assert_eq!(fixture.texts(violations).await, Vec::<String>::new(), "{rule}, {when}");
    }
}

/// Customers with October billed and late usage of it, so that a run of November writes everything there is.
async fn stage(customers: &[&str]) -> Fixture {
    stage_in(Fixture::new().await, customers).await
}

/// The same in a database that is there.
pub(crate) async fn stage_in(fixture: Fixture, customers: &[&str]) -> Fixture {
    for customer in customers {
        fixture.customer(customer, "standard", "2026-01-01T00:00:00Z").await;
        fixture.usage(customer, "2026-09-03T00:00:00Z", customer, Meter::GuardDutyFindings, 500).await;
        fixture.usage(customer, "2026-08-03T00:00:00Z", customer, Meter::GuardDutyFindings, 500).await;
    }
    fixture.issue("2026-08", "2026-09-01T00:00:00Z").await;
    fixture.issue("2026-09", "2026-10-01T00:00:00Z").await;
    // August comes to more now, September to less.
    fixture.execute("update usage_rows set total = 700 where window_start < '2026-09-01'").await.unwrap();
    fixture.execute("update usage_rows set total = 100 where window_start > '2026-09-01'").await.unwrap();
    for customer in customers {
        fixture.close(customer, "2026-08", "proven").await;
        fixture.close(customer, "2026-09", "proven").await;
    }
    fixture.close_all("2026-10").await;
    // Only what this run writes is looked at.
    fixture
}

#[tokio::test]
async fn a_connection_that_is_cut_at_any_point_leaves_nothing_half_done() {
    for point in Point::ALL {
        let fixture = stage(&["anna", "bert"]).await;
        let now = at(NOW);
        let report =
            issue_with(&fixture.billing, &request("2026-10"), now, Cut::at(&[("anna", point, 1)])).await.unwrap();
        assert_eq!((report.issued(), report.failures()), (2, 0), "{point:?}: {:?}", summary(&report));
        assert_eq!(report.credit_notes(), 2, "{point:?}");
        check_whole(&fixture, &format!("cut at {point:?}")).await;
        let again = issue(&fixture.billing, &request("2026-10"), now).await.unwrap();
        assert_eq!(again.counts().get("already_issued"), Some(&2), "{point:?}");
        assert_eq!(again.credit_notes(), 0, "a re-run changes nothing");
    }
}

#[tokio::test]
async fn a_process_that_ends_at_any_point_is_followed_by_one_that_finishes() {
    for point in Point::ALL {
        let fixture = stage(&["anna", "bert", "carl"]).await;
        // Whatever it tries, this process gets no further than this point with bert; then it is gone.
        let request = request("2026-10");
        let cut = Cut::at(&[("bert", point, u32::MAX)]);
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(std::time::Duration::from_secs(20))
            .connect(&fixture.url("securebase_billing"))
            .await
            .unwrap();
        let (cut_pool, cut_request) = (pool.clone(), request.clone());
        let process =
            tokio::spawn(async move { issue_with(&cut_pool, &cut_request, at(NOW), cut).await.map(|r| summary(&r)) });
        // It ends by itself after its tries, or is ended here: either way it is gone before the next begins.
        let _ = process.await.unwrap();
        drop(pool);
        check_whole(&fixture, &format!("ended at {point:?}")).await;
        let report = issue(&fixture.billing, &request, at(NOW)).await.unwrap();
        assert_eq!(report.failures(), 0, "{point:?}: {:?}", summary(&report));
        assert_eq!(
            fixture.count("invoices where period_start = '2026-10-01' and status = 'issued'").await,
            3,
            "{point:?}"
        );
        check_whole(&fixture, &format!("finished after {point:?}")).await;
    }
}

/// Tells when so many points were passed.
#[derive(Debug)]
struct Countdown {
    left: AtomicU32,
    over: tokio::sync::Notify,
}

impl Interruptions for Countdown {
    fn is_cut(&self, _: &str, _: Point) -> bool {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.over.notify_one();
        }
        false
    }
}

#[tokio::test]
async fn a_run_that_is_aborted_is_taken_up_where_it_was() {
    let fixture = Fixture::new().await;
    for number in 0..40 {
        fixture.customer(&format!("customer-{number:02}"), "standard", "2026-01-01T00:00:00Z").await;
    }
    fixture.close_all("2026-10").await;
    // The process dies while its workers are busy: tasks and connections are dropped at whatever they were doing.
    for points in [1, 7, 23, 58, 101] {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(8)
            .connect(&fixture.url("securebase_billing"))
            .await
            .unwrap();
        let countdown = Arc::new(Countdown { left: AtomicU32::new(points), over: tokio::sync::Notify::new() });
        let (dying, watched) = (pool.clone(), Arc::clone(&countdown));
        let several = RunRequest { workers: 4, ..request("2026-10") };
        let run = tokio::spawn(async move { issue_with(&dying, &several, at(NOW), watched).await });
        countdown.over.notified().await;
        run.abort();
        let _ = run.await;
        pool.close().await;
        check_whole(&fixture, &format!("aborted after {points} points")).await;
    }
    let report = issue(&fixture.billing, &request("2026-10"), at(NOW)).await.unwrap();
    assert_eq!((report.results.len(), report.failures(), report.is_finished), (40, 0, true));
    assert_eq!(fixture.count("invoices where status = 'issued'").await, 40);
    let last: i32 = fixture.texts("select last_number::text from invoice_number_counters").await[0].parse().unwrap();
    assert_eq!(last, 40);
    check_whole(&fixture, "at the end").await;
}

#[tokio::test]
async fn a_customer_whose_connection_breaks_each_time_fails_and_stops_no_other() {
    let fixture = Fixture::new().await;
    for id in ["a1", "b-poisoned", "c1", "d1"] {
        fixture.customer(id, "standard", "2026-01-01T00:00:00Z").await;
    }
    fixture.close_all("2026-10").await;
    let cut = Cut::at(&[("b-poisoned", Point::Posted, u32::MAX)]);
    let report = issue_with(&fixture.billing, &request("2026-10"), at(NOW), cut).await.unwrap();
    assert_eq!((report.issued(), report.failures(), report.is_finished), (3, 1, true), "{:?}", summary(&report));
    let line = &summary(&report)[1];
    assert!(line.starts_with("b-poisoned: failed: the connection broke 3 times while this customer"), "{line}");
    check_whole(&fixture, "after a poisoned customer").await;
    assert_eq!(
        summary(&issue(&fixture.billing, &request("2026-10"), at(NOW)).await.unwrap())[1],
        "b-poisoned: issued INV-2026-11-0004"
    );
}
