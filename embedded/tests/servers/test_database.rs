use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use embedded::testing::{TestDatabase, TestDatabaseError};
use sqlx::{Connection, PgConnection};

async fn migrate(url: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql("create table made_by_migration (n int)").execute(&mut connection).await?;
    connection.close().await
}

/// A fingerprint that no other run has used.
#[expect(clippy::disallowed_methods, reason = "a server may outlive a run, and with it the templates")]
fn fingerprint(name: &str) -> String {
    format!("{name} {} {:?}", std::process::id(), std::time::Instant::now())
}

async fn count(database: &TestDatabase) -> i64 {
    let mut connection = PgConnection::connect(&database.superuser_url()).await.unwrap();
    sqlx::query_scalar("select count(*) from made_by_migration").fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn many_tests_at_once_migrate_once_and_see_nothing_of_each_other() {
    let (fingerprint, runs) = (fingerprint("many"), Arc::new(AtomicUsize::new(0)));
    let tests: Vec<_> = (0..6)
        .map(|_| {
            let (fingerprint, runs) = (fingerprint.clone(), Arc::clone(&runs));
            tokio::spawn(async move {
                let counted = |url| {
                    runs.fetch_add(1, Ordering::SeqCst);
                    migrate(url)
                };
                let database = TestDatabase::create(&fingerprint, counted).await.unwrap();
                let mut connection = PgConnection::connect(&database.superuser_url()).await.unwrap();
                let insert = sqlx::query("insert into made_by_migration values (1)");
                insert.execute(&mut connection).await.unwrap();
                assert_eq!(count(&database).await, 1);
            })
        })
        .collect();
    for test in tests {
        test.await.unwrap();
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_database_goes_with_its_test_even_while_connections_are_open() {
    let fingerprint = fingerprint("gone");
    let first = TestDatabase::create(&fingerprint, migrate).await.unwrap();
    let url = first.superuser_url();
    let _open = PgConnection::connect(&url).await.unwrap();
    drop(first);
    assert!(PgConnection::connect(&url).await.is_err());
}

#[tokio::test]
async fn a_failed_migration_leaves_no_template() {
    let fingerprint = fingerprint("failed");
    let failed = TestDatabase::create(&fingerprint, |_| async { Err("no such file") }).await.unwrap_err();
    assert!(matches!(&failed, TestDatabaseError::Migrate(reason) if reason == "no such file"), "{failed}");
    let database = TestDatabase::create(&fingerprint, migrate).await.unwrap();
    assert_eq!(count(&database).await, 0);
    let again = TestDatabase::create(&fingerprint, |_| async { Ok::<(), Infallible>(()) }).await.unwrap();
    assert_eq!(count(&again).await, 0, "the second copy comes from the template");
}
