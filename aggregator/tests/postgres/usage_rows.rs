//! What an advance writes, and when it writes nothing.

use aggregator::usage_rows::{AdvanceError, AdvanceOutcome, CounterTotal};
use ingest::Meter;

use crate::stage::{Stage, account, advance, events, hour, now};

#[tokio::test]
async fn a_cursor_moves_once_and_the_same_advance_again_changes_nothing() {
    let (stage, anna, _) = Stage::with_customers().await;
    stage.directory.register(account(1), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    let first = advance("p", (0, 2), &[events(account(1), "2026-10-01T05", 7, 2)]);
    assert_eq!(stage.rows.advance(std::slice::from_ref(&first), now()).await.unwrap(), [AdvanceOutcome::Moved]);
    let written = (stage.rows().await, stage.months().await);

    let again = advance("p", (0, 3), &[events(account(1), "2026-10-01T05", 9, 3)]);
    for stale in [first, again] {
        let outcomes = stage.rows.advance(&[stale], now()).await.unwrap();
        assert_eq!(outcomes, [AdvanceOutcome::Stale { at: 2 }]);
        assert_eq!((stage.rows().await, stage.months().await), written);
    }
    stage.agrees_with_a_naive_recomputation().await;
}

#[tokio::test]
async fn a_stale_partition_writes_nothing_while_the_others_go_through() {
    let stage = Stage::set().await;
    stage.rows.advance(&[advance("b", (0, 5), &[])], now()).await.unwrap();
    let batch = [
        advance("c", (0, 1), &[events(account(3), "2026-10-01T05", 3, 1)]),
        advance("b", (0, 1), &[events(account(2), "2026-10-01T05", 2, 1)]),
        advance("d", (4, 6), &[events(account(4), "2026-10-01T05", 4, 5)]),
        advance("a", (0, 1), &[events(account(1), "2026-10-01T05", 1, 1)]),
    ];
    let outcomes = stage.rows.advance(&batch, now()).await.unwrap();
    use AdvanceOutcome::{Moved, Stale};
    assert_eq!(outcomes, [Moved, Stale { at: 5 }, Stale { at: 0 }, Moved]);
    let partitions: Vec<_> = stage.rows().await.into_keys().map(|(partition, _)| partition).collect();
    assert_eq!(partitions, ["a", "c"]);

    let names = ["a", "b", "c", "d", "never"].map(String::from);
    let cursors = stage.rows.cursors(&names).await.unwrap();
    assert_eq!(names.map(|name| cursors[&name]), [1, 5, 1, 0, 0]);
    let seen: i64 = sqlx::query_scalar("select count(*) from accounts").fetch_one(&stage.pool).await.unwrap();
    assert_eq!(seen, 2, "a stale partition adds no account either");
}

#[tokio::test]
async fn a_month_grows_by_the_difference_to_the_former_total() {
    let (stage, anna, _) = Stage::with_customers().await;
    stage.directory.register(account(1), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    let steps: [(_, &[(&str, u64)]); 3] = [
        ((0, 1), &[("2026-10-31T23", 5), ("2026-11-01T00", 70)]),
        ((1, 4), &[("2026-10-31T23", 8)]),
        ((4, 5), &[("2026-10-31T23", 8), ("2026-11-01T00", 71), ("2026-11-30T23", 100)]),
    ];
    for (versions, totals) in steps {
        let counters: Vec<_> =
            totals.iter().map(|(window, total)| events(account(1), window, *total, versions.1)).collect();
        stage.rows.advance(&[advance("p", versions, &counters)], now()).await.unwrap();
        stage.agrees_with_a_naive_recomputation().await;
    }
    let month = |month: &str| ("anna".to_owned(), month.to_owned());
    let expected = [(month("2026-10"), [0, 0, 8, 0, 0]), (month("2026-11"), [0, 0, 171, 0, 0])];
    assert_eq!(stage.months().await, expected.into());
}

#[tokio::test]
async fn every_meter_adds_to_its_own_month_column_up_to_the_largest_total() {
    let (stage, anna, _) = Stage::with_customers().await;
    stage.directory.register(account(1), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    let counters: Vec<CounterTotal> = Meter::PRICED
        .into_iter()
        .zip([u64::MAX, 20, 30, 40, 50])
        .map(|(meter, total)| CounterTotal { meter, ..events(account(1), "2026-10-01T05", total, 1) })
        .collect();
    stage.rows.advance(&[advance("p", (0, 1), &counters)], now()).await.unwrap();
    assert_eq!(stage.months().await, [(("anna".into(), "2026-10".into()), [u64::MAX, 20, 30, 40, 50])].into());
    stage.agrees_with_a_naive_recomputation().await;
}

#[tokio::test]
async fn a_counter_of_several_partitions_has_a_row_in_each_and_their_sum_in_the_month() {
    let (stage, anna, _) = Stage::with_customers().await;
    stage.directory.register(account(1), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    let batch = ["parent", "child-0", "child-1"]
        .map(|partition| advance(partition, (0, 1), &[events(account(1), "2026-10-01T05", 11, 1)]));
    stage.rows.advance(&batch, now()).await.unwrap();
    assert_eq!(stage.rows().await.len(), 3);
    assert_eq!(stage.months().await, [(("anna".into(), "2026-10".into()), [0, 0, 33, 0, 0])].into());
}

#[tokio::test]
async fn a_total_that_goes_back_is_named_and_nothing_of_the_batch_is_written() {
    let (stage, anna, _) = Stage::with_customers().await;
    stage.directory.register(account(1), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    stage.rows.advance(&[advance("p", (0, 1), &[events(account(1), "2026-10-01T05", 7, 1)])], now()).await.unwrap();
    let written = (stage.rows().await, stage.months().await);

    let batch = [
        advance("other", (0, 1), &[events(account(2), "2026-10-01T05", 1, 1)]),
        advance("p", (1, 2), &[events(account(1), "2026-10-01T05", 6, 2), events(account(1), "2026-10-01T06", 6, 2)]),
    ];
    let error = stage.rows.advance(&batch, now()).await.unwrap_err();
    assert!(matches!(&error, AdvanceError::TotalWentBack { partition, .. } if partition == "p"));
    assert_eq!(
        error.to_string(),
        "total of 000000000001 cloudtrail_events 2026-10-01T05 us-east-1 Management in partition p went back from 7 to 6"
    );
    assert_eq!((stage.rows().await, stage.months().await), written);
    assert_eq!(
        stage.rows.cursors(&["p".into(), "other".into()]).await.unwrap(),
        [("p".to_owned(), 1), ("other".to_owned(), 0)].into()
    );
}

#[tokio::test]
async fn usage_of_no_customer_is_kept_without_an_owner() {
    let stage = Stage::set().await;
    stage.rows.advance(&[advance("p", (0, 1), &[events(account(1), "2026-10-01T05", 7, 1)])], now()).await.unwrap();
    assert_eq!(stage.rows().await.into_values().collect::<Vec<_>>(), [(None, 7)]);
    assert!(stage.months().await.is_empty());
}

#[tokio::test]
async fn texts_in_any_script_and_order_are_kept_as_they_are() {
    let stage = Stage::set().await;
    let counters: Vec<_> = ["", "none", "Ünïcode ☃", "a'b\"c\\d", "{x,y}", "NULL", "é", "e\u{301}"]
        .into_iter()
        .map(|category| CounterTotal { category: category.into(), ..events(account(1), "2026-10-01T05", 1, 1) })
        .collect();
    stage.rows.advance(&[advance("p/ä", (0, 1), &counters)], now()).await.unwrap();
    let expected = counters.iter().map(|counter| (("p/ä".to_owned(), crate::stage::name_of(counter)), (None, 1)));
    assert_eq!(stage.rows().await, expected.collect());
}
