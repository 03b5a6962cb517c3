//! The aggregator's stores and its stream on servers that speak the real protocols; PostgreSQL as the role it runs as in
//! production.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, also in a helper")]

mod chain;
mod clients;
mod closing;
mod commit_log;
mod directory;
mod facts;
mod interleavings;
mod partly;
mod reading;
mod receipts;
mod records;
mod stage;
mod sweeping;
mod tables;
mod usage_rows;

use sqlx::AssertSqlSafe;

use stage::Stage;

#[tokio::test]
async fn every_statement_prepares_as_the_role_that_runs_it_and_may_run() {
    let stage = Stage::set().await;
    let mut connection = stage.pool.acquire().await.unwrap();
    let (receipts, directory) = (aggregator::receipts::statements(), aggregator::directory::statements());
    let close = aggregator::close::statements();
    let rooms = [
        aggregator::usage_rows::STATEMENTS,
        &directory,
        aggregator::fact_rows::STATEMENTS,
        aggregator::meters::STATEMENTS,
        aggregator::audit::STATEMENTS,
        aggregator::worker_record::STATEMENTS,
        &receipts,
        &close,
    ];
    for statement in rooms.into_iter().flatten() {
        sqlx::raw_sql(AssertSqlSafe(format!("prepare one as {statement}")))
            .execute(&mut *connection)
            .await
            .unwrap_or_else(|error| panic!("{error} in {statement}"));
        let parameters: i32 =
            sqlx::query_scalar("select cardinality(parameter_types) from pg_prepared_statements where name = 'one'")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
        // Preparing checks names and types; privileges are checked when execution begins, which explaining does too.
        let nulls = vec!["null"; usize::try_from(parameters).unwrap()].join(", ");
        let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
        sqlx::raw_sql(AssertSqlSafe(format!("explain execute one{arguments}; deallocate one")))
            .execute(&mut *connection)
            .await
            .unwrap_or_else(|error| panic!("{error} in {statement}"));
    }
}
