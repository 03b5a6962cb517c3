//! One tenant cannot reach another: not through the server, not with SQL that slips in, not through a pooler.

use aggregator::directory::CustomerId;
use api::{ApiParts, ApiState, Statements, TenantMac, TenantTransaction, pool};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use crate::client::get;
use crate::pooler::Pooler;
use crate::stage::{Stage, one_row, token};

const RANGE: &str = "from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z";

/// What a careless programmer might write: the text goes into the SQL as it is.
async fn injectable(pool: &PgPool, mac_key: &TenantMac, tenant: &str, text: &str) -> Result<Vec<String>, String> {
    let customer = CustomerId::parse(tenant).unwrap();
    let mut transaction = TenantTransaction::begin_writing(pool, mac_key, &customer).await.unwrap();
    let sql = format!("select customer_id || ' ' || account_id from usage_rows where region = '{text}'");
    let rows = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).fetch_all(&mut *transaction).await;
    rows.map_err(|error| error.to_string())
}

/// The same over the simple protocol, which takes many statements at once.
async fn injectable_script(
    pool: &PgPool,
    mac_key: &TenantMac,
    tenant: &str,
    text: &str,
) -> Result<Vec<String>, String> {
    let customer = CustomerId::parse(tenant).unwrap();
    let mut transaction = TenantTransaction::begin_writing(pool, mac_key, &customer).await.unwrap();
    let sql = format!("select customer_id || ' ' || account_id from usage_rows where region = '{text}'");
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await;
    let read = |row: &sqlx::postgres::PgRow| sqlx::Row::try_get::<Option<String>, _>(row, 0).ok().flatten();
    rows.map(|rows| rows.iter().filter_map(read).collect()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_query_that_can_be_injected_cannot_switch_tenants() {
    let stage = Stage::new().await;
    stage.seed(&[one_row(Some("acme"), "000000000001", 11), one_row(Some("globex"), "000000000002", 22)]).await;
    stage.seed(&[one_row(None, "000000000003", 33)]).await;
    let pool = stage.pool();
    let see_all = "' or true --";
    let seen = injectable(&pool, &stage.mac_key(), "acme", see_all).await.unwrap();
    assert_eq!(seen, ["acme 000000000001"], "the injection works, and sees what the tenant may see");

    let all = "select customer_id || ' ' || account_id from usage_rows --";
    for attack in [
        format!("'; select set_config('securebase.tenant', 'globex', true); {all}"),
        format!("'; set local securebase.tenant = 'globex'; {all}"),
        format!("'; select set_tenant('globex', decode(current_setting('securebase.tenant_mac'), 'hex')); {all}"),
        format!("'; select set_tenant('globex', hmac('globex', (select key from tenant_keys), 'sha256')); {all}"),
        format!("'; reset role; {all}"),
        format!("'; set role securebase_operator; {all}"),
        format!("'; set role securebase_owner; {all}"),
        format!("'; set session authorization securebase_operator; {all}"),
        format!("'; set local row_security = off; {all}"),
        format!("'; alter table usage_rows disable row level security; {all}"),
        format!("'; commit; begin; {all}"),
        format!("'; rollback; {all}"),
        format!("'; discard all; {all}"),
        "'; copy usage_rows to stdout; --".to_owned(),
        "'; select secret_hash from api_keys --".to_owned(),
        "'; select customer_id from look_up_api_key((select key_id from api_keys where customer_id = 'globex')) --"
            .to_owned(),
        "'; select name from customers where customer_id = 'globex' --".to_owned(),
        "'; select customer_id from customer_billing_summary where customer_id <> 'acme' --".to_owned(),
        "' union all select table_name from information_schema.tables where table_name like 'usage%rows' and false --"
            .to_owned(),
    ] {
        let seen = injectable_script(&pool, &stage.mac_key(), "acme", &attack).await;
        let foreign = seen
            .as_ref()
            .is_ok_and(|rows| rows.iter().any(|row| row.contains("globex") || row.contains("000000000002")));
        assert!(!foreign, "{attack}: {seen:?}");
        assert!(!seen.is_ok_and(|rows| rows.iter().any(|row| row.contains("$2b$"))), "{attack}");
    }
    let globex = injectable(&pool, &stage.mac_key(), "globex", see_all).await.unwrap();
    assert_eq!(globex, ["globex 000000000002"], "nothing was changed");
}

#[tokio::test]
async fn another_tenants_ids_in_every_path_are_not_there() {
    let stage = Stage::new().await;
    let foreign_key = token(Some("globex"), 1).key_id;
    for path in [
        "/v1/customers/globex".to_owned(),
        "/v1/customers/nobody".to_owned(),
        "/v1/customers/never-was".to_owned(),
        "/v1/customers/Globex".to_owned(),
        "/v1/customers/acme%2f..%2fglobex".to_owned(),
        "/v1/invoices/INV-2026-11-0001".to_owned(),
    ] {
        get(stage.address, &path, &stage.key("acme")).await.problem(404, "not-found");
    }
    get(stage.address, &format!("/v1/api-keys/{foreign_key}"), &stage.key("acme"))
        .await
        .problem(405, "method-not-allowed");
    let own = get(stage.address, "/v1/customers/acme", &stage.key("acme")).await;
    assert_eq!((own.status, &own.json()["id"]), (200, &Value::from("acme")), "{own:?}");
    assert_eq!(own.json()["accounts"], serde_json::json!({"used": 0, "allowed": 5}));

    // What the tier of today allows, not that of the first day.
    sqlx::raw_sql(
        "insert into customer_tiers (customer_id, valid_from, tier, recorded_at)
             values ('acme', '2026-02-01', 'gov-federal', now()), ('acme', '9000-01-01', 'standard', now()),
                 ('globex', '2026-02-01', 'healthcare', now())",
    )
    .execute(&mut stage.superuser().await)
    .await
    .unwrap();
    let changed = get(stage.address, "/v1/customers/acme", &stage.key("acme")).await.json();
    assert_eq!((&changed["tier"], &changed["accounts"]["allowed"]), (&Value::from("gov-federal"), &Value::from(50)));
}

#[tokio::test]
async fn two_tenants_that_share_one_server_connection_see_their_own_rows() {
    let stage = Stage::new().await;
    stage.seed(&[one_row(Some("acme"), "000000000001", 11), one_row(Some("globex"), "000000000002", 22)]).await;
    let pooler = Pooler::start(&stage).await;
    let options = stage.options("securebase_app").host("127.0.0.1").port(pooler.port());
    let state = ApiState::new(ApiParts { pool: pool(options), statements: Statements::Unnamed, ..stage.parts() });
    let recorder = state.recorder().clone();
    let address = stage.serve(state).await;
    let question = format!("/v1/usage?meter=cloudtrail_events&{RANGE}&group_by=account");
    let questions = (0..60).map(|number| {
        let (customer, account, quantity) =
            if number % 2 == 0 { ("acme", "000000000001", "11") } else { ("globex", "000000000002", "22") };
        let (question, key) = (question.clone(), stage.key(customer));
        async move {
            let answer = get(address, &question, &key).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.json()["rows"], serde_json::json!([{"account": account, "quantity": quantity}]));
        }
    });
    futures_of(questions).await;
    recorder.flush().await.unwrap();
    // The pooler has one connection, so all of this went over one.
    let count = "select count(*) from audit_events where customer_id in ('acme', 'globex')";
    let recorded: i64 = sqlx::query_scalar(count).fetch_one(&mut stage.superuser().await).await.unwrap();
    assert_eq!(recorded, 60);

    // Two transactions of two tenants whose statements alternate: the second waits until the connection is free.
    let mac_key = stage.mac_key();
    let through =
        PgPool::connect_with(stage.options("securebase_app").host("127.0.0.1").port(pooler.port())).await.unwrap();
    for (tenant, account) in [("acme", "000000000001"), ("globex", "000000000002"), ("acme", "000000000001")] {
        let customer = CustomerId::parse(tenant).unwrap();
        let mut transaction = TenantTransaction::begin(&through, &mac_key, &customer).await.unwrap();
        let seen: Vec<String> = sqlx::query_scalar("select account_id from usage_rows")
            .persistent(false)
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
        assert_eq!(seen, [account]);
        transaction.end().await.unwrap();
        let nobody = sqlx::raw_sql("select account_id from usage_rows").fetch_all(&through).await.unwrap();
        assert!(nobody.is_empty(), "the next one on this connection is nobody");
    }
}

/// Runs all at once.
async fn futures_of(tasks: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let mut running = tokio::task::JoinSet::new();
    tasks.for_each(|task| drop(running.spawn(task)));
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}
