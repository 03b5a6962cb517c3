//! Every statement prepares, as the role that runs it, on the migrated schema.

use aggregator::directory::CustomerId;
use embedded::testing::TestDatabase;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqlSafeStr};

use crate::usage::{GroupKey, Grouping, Hours, IS_DEFINED, UsageScope, statement};
use crate::{api_keys, audit, customer, idempotency, isolation, readiness, tenant};

/// Each choice of keys once, in one order: the order changes no name.
fn groupings() -> Vec<Grouping> {
    let choices = 0..1_u32 << GroupKey::ALL.len();
    let keys = |choice: u32| GroupKey::ALL.into_iter().enumerate().filter(move |(bit, _)| choice >> bit & 1 == 1);
    choices.filter_map(|choice| Grouping::new(keys(choice).map(|(_, key)| key).collect()).ok()).collect()
}

#[tokio::test]
async fn every_statement_prepares_as_the_role_that_runs_it() {
    let migrate = async |url: String| migrations::migrate(&url).await;
    let database = TestDatabase::create(&migrations::fingerprint(), migrate).await.unwrap();
    let mut app = PgConnection::connect(&database.url("securebase_app")).await.unwrap();
    let mut operator = PgConnection::connect(&database.url("securebase_operator")).await.unwrap();

    let of_both = [
        api_keys::COUNT_IN_FORCE,
        api_keys::FIND,
        api_keys::INSERT,
        api_keys::LIST,
        api_keys::REVOKE,
        api_keys::SUCCEED,
        audit::RECORD,
        idempotency::BEGIN,
        idempotency::FIND,
        idempotency::FORGET,
        idempotency::KEEP,
        IS_DEFINED,
    ];
    let of_app = [
        readiness::CHECK,
        audit::RECORD_CALLS,
        audit::ENDED,
        audit::wire::LIST,
        customer::ACCOUNTS,
        customer::FIND,
        isolation::FOREIGN_INVOICE,
        crate::metrics::READ,
        crate::completeness::OF_ALL,
        crate::invoice_documents::EVIDENCE,
        crate::auth::stored_key::LOOK_UP,
    ];
    let acme = CustomerId::parse("acme").unwrap();
    let set_tenant = tenant::set_tenant(&acme, &[0xab; 32]);
    assert_eq!(set_tenant, format!("select set_tenant('acme', '\\x{}')", "ab".repeat(32)));
    let of_meter = crate::completeness::of_meter_sql("$2");
    for sql in [set_tenant, of_meter] {
        app.prepare(AssertSqlSafe(sql).into_sql_str()).await.unwrap();
    }
    for sql in of_app.iter().chain(&of_both) {
        app.prepare((*sql).into_sql_str()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    for sql in [
        audit::RECORD_OPERATOR_CALL,
        audit::TRANSACTION,
        audit::ENDED,
        crate::admin::ACCOUNTS,
        crate::admin::CUSTOMERS,
        crate::admin::RATE_CARDS,
        crate::admin_operations::ADD,
        crate::admin_operations::COUNT_WAITING,
        crate::admin_operations::CUSTOMER_EXISTS,
        crate::admin_operations::FIND,
        crate::admin_operations::FIND_WAITING,
        crate::admin_operations::LIST,
        crate::admin_records::CLOSES,
        crate::admin_records::RECEIPTS,
        crate::admin_records::RUN,
        crate::admin_records::RUNS,
        crate::admin_records::RUN_EXISTS,
        crate::operation_worker::ANY_WAITS,
        crate::operation_worker::FINISH,
        crate::operation_worker::NEXT,
        crate::operation_worker::START,
        crate::operation_worker::STILL_HELD,
        crate::operation_worker::TAKE_TURN,
        audit::archive::CHAINS_OF_MONTH,
        audit::archive::EVENTS_OF_MONTH,
        audit::archive::FIRST,
        audit::archive::STRANGE_HEADS,
        audit::archive::UNNAMED_CHAINS,
        audit::verify::FIRST_OF_CHAIN,
        audit::verify::CHAINS_WITHOUT_HEAD,
        audit::verify::EVENTS,
        audit::verify::HEADS,
    ]
    .iter()
    .chain(&of_both)
    {
        operator.prepare((*sql).into_sql_str()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let mut count = 0;
    for grouping in groupings() {
        for scope in [UsageScope::AllAccounts, UsageScope::Customer(acme.clone())] {
            let role = if scope == UsageScope::AllAccounts { &mut operator } else { &mut app };
            for hours in [Hours::Hourly, Hours::Daily, Hours::DailyWithin] {
                for is_continued in [false, true] {
                    let sql = statement(&grouping, &scope, hours, is_continued);
                    let prepared = role.prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await;
                    prepared.unwrap_or_else(|error| panic!("{sql}: {error}"));
                    count += 1;
                }
            }
        }
    }
    assert_eq!(count, 4 * 16 * 2 * 3 * 2, "no, one or another unit of time; four keys; scopes, hours, pages");
}
