//! The schema on a real server: who sees what, what the catalogue promises, and how a database is brought up to date.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, also in a helper")]

mod audit;
mod isolation;

use embedded::PostgreSql;
use embedded::testing::TestDatabase;
use hmac::{Hmac, Mac as _};
use migrations::{MIGRATOR, MigrateError, SetTenantKeyError, fingerprint, migrate, set_tenant_key};
use sha2::Sha256;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const KEY: [u8; 32] = [7; 32];
const LOGINS: [&str; 5] =
    ["securebase_app", "securebase_aggregator", "securebase_billing", "securebase_operator", "securebase_analytics"];

/// The tables a tenant reads, each with one row of `anna` and one of `berta` on the stage.
const TENANT_TABLES: [&str; 9] = [
    "customers",
    "account_ownership",
    "usage_rows",
    "usage_days",
    "usage_metrics",
    "closes",
    "closed_totals",
    "evidence_records",
    "organization_ownership",
];

/// A migrated database with two customers and the tenant key.
async fn stage() -> TestDatabase {
    let migrated = async |url: String| migrate(&url).await;
    let database = TestDatabase::create(&fingerprint(), migrated).await.unwrap();
    let mut superuser = connect(&database.superuser_url()).await;
    set_tenant_key(&mut superuser, &KEY).await.unwrap();
    run(
        &mut superuser,
        "insert into customers (customer_id, name, tier, contract_start) values
            ('anna', 'Anna', 'standard', '2026-01-01'), ('berta', 'Berta', 'fintech', '2026-01-01');
        insert into accounts (account_id, first_seen_at) values ('000000000001', now()), ('000000000002', now());
        insert into account_ownership values
            ('000000000001', 'anna', '[2026-01-01,)'), ('000000000002', 'berta', '[2026-01-01,)');
        insert into organization_ownership values
            ('o-aaaaaaaaaa', 'anna', '[2026-01-01,)'), ('o-bbbbbbbbbb', 'berta', '[2026-01-01,)');
        insert into usage_rows values
            ('000000000001', 'cloudtrail_events', 'r', 'c', '2026-10-01', 'p', 1, 1, 'anna'),
            ('000000000002', 'cloudtrail_events', 'r', 'c', '2026-10-01', 'p', 1, 1, 'berta'),
            ('000000000003', 'cloudtrail_events', 'r', 'c', '2026-10-01', 'p', 1, 1, null);
        insert into usage_days values
            ('000000000001', 'cloudtrail_events', 'r', 'c', '2026-10-01', 'anna', 1, 1),
            ('000000000002', 'cloudtrail_events', 'r', 'c', '2026-10-01', 'berta', 1, 1),
            ('000000000003', 'cloudtrail_events', 'r', 'c', '2026-10-01', null, 1, 1);
        insert into usage_metrics (customer_id, month, updated_at) values
            ('anna', '2026-10-01', now()), ('berta', '2026-10-01', now());
        with closed as (
            insert into closes
                (customer_id, period_start, period_end, cut, source_class, directory_version, cut_at, evidence_sha256)
            select customer_id, '2026-10-01', '2026-11-01', 1, 'best effort', 0, now(), sha256('evidence')
            from customers
            returning *
        ), totals as (
            insert into closed_totals
            select close_id, customer_id, '000000000001', 'cloudtrail_events', 'r', 'c', '2026-10-01', 1, sha256('i')
            from closed
        )
        insert into evidence_records select close_id, customer_id, evidence_sha256, '' from closed;",
    )
    .await
    .unwrap();
    database
}

/// A database without any schema on the server of the tests.
async fn empty_database() -> TestDatabase {
    TestDatabase::create("empty", async |_| Ok::<(), String>(())).await.unwrap()
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}

async fn texts(connection: &mut PgConnection, sql: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await
}

async fn set_tenant(connection: &mut PgConnection, customer: &str, mac: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query("select set_tenant($1, $2)").bind(customer).bind(mac).execute(connection).await.map(|_| ())
}

fn mac_of(customer: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    mac.update(customer.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

async fn owners_seen(connection: &mut PgConnection, table: &str) -> Result<Vec<String>, sqlx::Error> {
    texts(connection, &format!("select coalesce(customer_id, 'nobody') from {table} order by 1")).await
}

#[track_caller]
fn assert_denied<T: std::fmt::Debug>(outcome: Result<T, sqlx::Error>, what: &str) {
    let code = outcome.as_ref().err().and_then(|error| Some(error.as_database_error()?.code()?.into_owned()));
    assert_eq!(code.as_deref(), Some("42501"), "{what}: {outcome:?}");
}

#[tokio::test]
async fn without_a_tenant_the_application_sees_no_rows_and_no_error() {
    let database = stage().await;
    let mut app = connect(&database.url("securebase_app")).await;
    for table in TENANT_TABLES {
        assert!(owners_seen(&mut app, table).await.unwrap().is_empty(), "{table}");
    }
}

#[tokio::test]
async fn a_proven_tenant_sees_its_own_rows_until_the_transaction_ends() {
    let database = stage().await;
    let mut app = connect(&database.url("securebase_app")).await;
    for tenant in ["anna", "berta"] {
        let mut transaction = app.begin().await.unwrap();
        set_tenant(&mut transaction, tenant, &mac_of(tenant)).await.unwrap();
        for table in TENANT_TABLES {
            assert_eq!(owners_seen(&mut transaction, table).await.unwrap(), [tenant], "{table}");
        }
        // Whose client is gone without a word holds no customer's chain for long.
        let idle = "select current_setting('idle_in_transaction_session_timeout')";
        assert_eq!(texts(&mut transaction, idle).await.unwrap(), ["15s"]);
        transaction.commit().await.unwrap();
        assert_eq!(texts(&mut app, idle).await.unwrap(), ["0"]);
        assert!(owners_seen(&mut app, "usage_rows").await.unwrap().is_empty(), "the tenant lasts for the transaction");
    }
}

#[tokio::test]
async fn a_tenant_without_its_proof_is_denied() {
    let database = stage().await;
    let mut app = connect(&database.url("securebase_app")).await;
    for (mac, what) in [
        (mac_of("anna"), "another tenant's proof"),
        (Vec::new(), "an empty proof"),
        (vec![0; 32], "a made-up proof"),
        (mac_of("berta")[..31].to_vec(), "half a proof"),
    ] {
        assert_denied(set_tenant(&mut app, "berta", &mac).await, what);
    }
    assert_denied(set_tenant(&mut app, "", &mac_of("")).await, "an empty tenant");
    assert_denied(run(&mut app, "select set_tenant(null, null)").await, "no tenant");
}

#[tokio::test]
async fn injected_sql_cannot_switch_the_tenant() {
    let database = stage().await;
    let own = hex::encode(mac_of("anna"));
    for (injected, sees) in [
        ("select set_config('securebase.tenant', 'berta', false)".to_owned(), None),
        ("set securebase.tenant = 'berta'; set local securebase.tenant_mac = ''".to_owned(), None),
        (format!("set securebase.tenant = 'berta'; set securebase.tenant_mac = '{own}'"), None),
        ("reset securebase.tenant_mac".to_owned(), None),
        ("set securebase.tenant = ''".to_owned(), Some(Vec::<String>::new())),
        ("set search_path = pg_temp, public".to_owned(), Some(vec!["anna".to_owned()])),
        ("set row_security = on".to_owned(), Some(vec!["anna".to_owned()])),
    ] {
        let mut app = connect(&database.url("securebase_app")).await;
        let mut transaction = app.begin().await.unwrap();
        set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
        run(&mut transaction, &injected).await.unwrap();
        let seen = owners_seen(&mut transaction, "usage_rows").await;
        match sees {
            None => assert_denied(seen, &injected),
            Some(owners) => assert_eq!(seen.unwrap(), owners, "{injected}"),
        }
    }
    let mut app = connect(&database.url("securebase_app")).await;
    for injected in [
        "set role securebase_owner",
        "set role securebase_operator",
        "set session authorization postgres",
        "alter table usage_rows disable row level security",
        "create function public.current_tenant2() returns text language sql as 'select ''berta'''",
        "select * from tenant_keys",
        "copy usage_rows to program 'true'",
    ] {
        assert!(run(&mut app, injected).await.is_err(), "{injected}");
    }
    // Turning policies off means failing instead of filtering.
    assert_denied(run(&mut app, "set row_security = off; select * from usage_rows").await, "row_security off");
}

#[tokio::test]
async fn the_application_writes_nothing_about_customers_or_usage() {
    let database = stage().await;
    let mut app = connect(&database.url("securebase_app")).await;
    for table in TENANT_TABLES {
        for statement in
            ["insert into T default values", "update T set customer_id = 'anna'", "delete from T", "truncate T"]
        {
            assert_denied(run(&mut app, &statement.replace('T', table)).await, &format!("{statement} {table}"));
        }
    }
    assert_denied(run(&mut app, "create table public.t (a int)").await, "create a table");
}

#[tokio::test]
async fn each_room_reads_every_customer_and_none_reads_the_key() {
    let database = stage().await;
    for login in LOGINS {
        let mut connection = connect(&database.url(login)).await;
        assert_denied(run(&mut connection, "select * from tenant_keys").await, login);
        assert_denied(run(&mut connection, "update tenant_keys set key = ''").await, login);
        if login != "securebase_app" {
            let owners = owners_seen(&mut connection, "usage_rows").await.unwrap();
            assert_eq!(owners, ["anna", "berta", "nobody"], "{login}");
            assert_denied(run(&mut connection, "select set_tenant('anna', '')").await, login);
        }
        if login != "securebase_aggregator" {
            assert_denied(run(&mut connection, "insert into usage_rows default values").await, login);
            assert_denied(run(&mut connection, "update rollup_cursors set version = 0").await, login);
        }
    }
}

#[tokio::test]
async fn changing_the_key_refuses_what_the_former_key_proved() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let mut app = connect(&database.url("securebase_app")).await;
    assert!(matches!(set_tenant_key(&mut superuser, &KEY[..31]).await, Err(SetTenantKeyError::TooShort)));
    set_tenant(&mut app, "anna", &mac_of("anna")).await.unwrap();
    set_tenant_key(&mut superuser, &[8; 32]).await.unwrap();
    assert_denied(set_tenant(&mut app, "anna", &mac_of("anna")).await, "the former key");
    run(&mut superuser, "delete from tenant_keys").await.unwrap();
    assert_denied(set_tenant(&mut app, "anna", &mac_of("anna")).await, "no key at all");
    assert!(matches!(set_tenant_key(&mut app, &KEY).await, Err(SetTenantKeyError::Database(_))), "not as the app");
}

#[tokio::test]
async fn the_catalogue_keeps_the_rules_of_the_schema() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let own_relations = "from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'public' and c.relname not like '\\_sqlx%'
            and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')";
    let own_functions = "from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname = 'public' and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')";
    for (rule, violations) in [
        (
            "a table with a customer has row-level security, forced, and a policy",
            format!(
                "select c.relname::text {own_relations} and c.relkind in ('r', 'p')
                    and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'customer_id')
                    and not (c.relrowsecurity and c.relforcerowsecurity
                        and (c.relispartition or exists (select from pg_policy p where p.polrelid = c.oid)))"
            ),
        ),
        (
            "a partition is nobody's but its owner's",
            format!(
                "select c.relname::text {own_relations} and c.relispartition
                    and exists (select from aclexplode(c.relacl) granted where granted.grantee <> c.relowner)"
            ),
        ),
        (
            "a policy of the application compares with the proven tenant",
            "select polrelid::regclass::text || ' ' || polname from pg_policy
                where polroles @> array['securebase_app'::regrole::oid]
                    and coalesce(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
                        not like '%customer_id = ( SELECT current_tenant() AS current_tenant)%'"
                .to_owned(),
        ),
        ("no policy is for everyone", "select polname::text from pg_policy where polroles @> array[0::oid]".to_owned()),
        (
            "the owner owns everything",
            format!("select c.relname::text {own_relations} and c.relowner <> 'securebase_owner'::regrole"),
        ),
        (
            "the owner owns every function",
            format!(
                "select p.proname::text {own_functions} and p.proowner <> case p.proname
                    when 'look_up_api_key' then 'securebase_auth_reader' else 'securebase_owner' end::regrole"
            ),
        ),
        (
            "a view runs as its caller",
            format!(
                "select c.relname::text {own_relations} and c.relkind = 'v'
                    and not coalesce(c.reloptions, '{{}}') && array['security_invoker=true', 'security_invoker=on']"
            ),
        ),
        (
            "nothing is granted to everyone",
            format!(
                "select c.relname::text {own_relations}
                    and exists (select from aclexplode(c.relacl) where grantee = 0)"
            ),
        ),
        (
            "no function is for everyone",
            format!(
                "select p.proname::text {own_functions} and exists (
                    select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) where grantee = 0)"
            ),
        ),
        (
            "a function pins its search path",
            format!(
                "select p.proname::text {own_functions} and not exists (
                    select from unnest(p.proconfig) setting where setting like 'search\\_path=%pg\\_temp')"
            ),
        ),
        (
            "nobody but the owner may truncate, refer to or put a trigger on a table",
            format!(
                "select c.relname::text {own_relations}
                    and exists (select from aclexplode(c.relacl) granted where granted.grantee <> c.relowner
                        and granted.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER'))"
            ),
        ),
        (
            "no role of ours has superuser powers or bypasses row-level security",
            "select rolname::text from pg_roles where rolname like 'securebase\\_%'
                and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)"
                .to_owned(),
        ),
        (
            // The owner gives the look-up of keys away to a role that can do nothing else.
            "no role of ours is a member of another, but for the owner of the reader of keys",
            "select m.member::regrole::text from pg_auth_members m join pg_roles r on r.oid = m.member
                where r.rolname like 'securebase\\_%'
                    and (r.rolname, m.roleid) <> ('securebase_owner', 'securebase_auth_reader'::regrole)"
                .to_owned(),
        ),
        (
            "only the owner makes things in the schema",
            "select rolname::text from pg_roles where rolname like 'securebase\\_%' and rolname <> 'securebase_owner'
                and has_schema_privilege(oid, 'public', 'create')"
                .to_owned(),
        ),
    ] {
        assert_eq!(texts(&mut superuser, &violations).await.unwrap(), Vec::<String>::new(), "{rule}");
    }
    let walked = format!("select c.relname::text {own_relations} and c.relkind = 'r'");
    assert!(TENANT_TABLES.len() < texts(&mut superuser, &walked).await.unwrap().len(), "the walk finds tables");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_a_named_constraint() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let customer = |values: &str| {
        format!("insert into customers (customer_id, name, tier, tax_rate, contract_start) values ({values})")
    };
    let usage = |window: &str, total: i32, version: i32| {
        format!(
            "insert into usage_rows values ('000000000001', 'm', 'r', 'c', '{window}', 'q', {total}, {version}, null)"
        )
    };
    let fact = |total: &str, parts: &str| {
        format!(
            "insert into usage_rows values ('000000000001', 'm', 'r', 'c', '2026-10-01', 'q', {total}, 1, null, {parts})"
        )
    };
    let meter = |name: &str, aggregation: &str, gap: &str| {
        format!("insert into sample_meters values ('{name}', '{aggregation}', {gap}, '', now())")
    };
    let organization =
        |id: &str, valid: &str| format!("insert into organization_ownership values ('{id}', 'berta', '{valid}')");
    let close = |values: &str| {
        format!(
            "insert into closes (customer_id, period_start, period_end, cut, source_class, overridden_by,
                override_reason, directory_version, cut_at, evidence_sha256)
            values ('anna', '2026-10-01', '2026-11-01', {values})"
        )
    };
    let owned = |valid: &str| format!("insert into account_ownership values ('000000000001', 'berta', '{valid}')");
    for (statement, constraint) in [
        (customer("'A', 'A', 'standard', 0, '2026-01-01'"), "customers_id_is_a_slug"),
        (customer("'carla', '', 'standard', 0, '2026-01-01'"), "customers_name_is_given"),
        (customer("'carla', 'C', 'standard', 1, '2026-01-01'"), "customers_tax_rate_is_a_fraction"),
        (customer("'carla', 'C', 'standard', 0, '2026-01-01 00:30'"), "customers_contract_starts_on_the_hour"),
        (customer("'carla', 'C', 'standard', 0, '-infinity'"), "customers_contract_starts_on_the_hour"),
        ("insert into accounts values ('12345678901', '', now())".into(), "accounts_id_has_12_digits"),
        ("insert into accounts values ('12345678901x', '', now())".into(), "accounts_id_has_12_digits"),
        (owned("[2026-02-01,)"), "account_ownership_has_one_owner_at_a_time"),
        (owned("[2025-02-01 00:30,2025-03-01)"), "account_ownership_is_half_open_on_whole_hours"),
        (owned("[2025-02-01,2025-03-01 00:00:01)"), "account_ownership_is_half_open_on_whole_hours"),
        (owned("(2025-02-01,2025-03-01)"), "account_ownership_is_half_open_on_whole_hours"),
        (owned("[2025-02-01,2025-03-01]"), "account_ownership_is_half_open_on_whole_hours"),
        (owned("(,2025-03-01)"), "account_ownership_is_half_open_on_whole_hours"),
        (owned("[-infinity,2025-03-01)"), "account_ownership_is_half_open_on_whole_hours"),
        (owned("empty"), "account_ownership_is_half_open_on_whole_hours"),
        (usage("2026-10-01 00:00:01", 1, 1), "usage_rows_window_starts_on_the_hour"),
        (usage("2026-10-01", -1, 1), "usage_rows_counts_are_not_negative"),
        (fact("'NaN'", "1"), "usage_rows_total_is_finite"),
        (fact("'Infinity'", "1"), "usage_rows_total_is_finite"),
        (fact("1e-19", "1"), "usage_rows_total_is_exact"),
        (fact("-1", "0"), "usage_rows_parts_are_positive"),
        (meter("Queue", "sum", "null"), "sample_meters_name_has_its_form"),
        (meter("queue", "average", "null"), "sample_meters_aggregation_is_known"),
        (meter("queue", "time_weighted", "null"), "sample_meters_gap_is_for_levels_over_time"),
        (meter("queue", "max", "60"), "sample_meters_gap_is_for_levels_over_time"),
        (organization("o-aaaaaaaaaa", "[2026-02-01,)"), "organization_ownership_has_one_owner_at_a_time"),
        (organization("o-cccccccccc", "[2026-02-01 00:30,)"), "organization_ownership_is_half_open_on_whole_hours"),
        (organization("none", "[2026-02-01,)"), "organization_ownership_id_has_its_form"),
        (usage("2026-10-01", 1, 0), "usage_rows_version_is_positive"),
        ("insert into rollup_cursors values ('p', -1, now())".into(), "rollup_cursors_version_is_not_negative"),
        (
            "insert into usage_metrics (customer_id, month, updated_at) values ('anna', '2026-10-02', now())".into(),
            "usage_metrics_month_is_a_first_day",
        ),
        ("insert into tenant_keys values (2, '\\x00')".into(), "tenant_keys_key_is_long_enough"),
        (close("1, 'proven', null, null, 0, now(), sha256('')"), "closes_number_their_cuts"),
        (close("0, 'proven', null, null, 0, now(), sha256('')"), "closes_cut_is_positive"),
        (close("2, 'sure', null, null, 0, now(), sha256('')"), "closes_source_class_is_known"),
        (close("2, 'proven', 'eve', null, 0, now(), sha256('')"), "closes_override_has_a_reason"),
        (close("2, 'proven', 'eve', '', 0, now(), sha256('')"), "closes_override_has_a_reason"),
        (close("2, 'proven', null, null, 0, now(), ''"), "closes_evidence_is_a_sha256"),
    ] {
        let refused = run(&mut superuser, &statement).await.unwrap_err();
        let named = refused.as_database_error().and_then(|error| error.constraint());
        assert_eq!(named, Some(constraint), "{statement}: {refused}");
    }
    run(&mut superuser, &owned("[2025-02-01,2026-01-01)")).await.unwrap();
}

#[tokio::test]
async fn a_close_is_whole_or_not_there_and_never_changes() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let mut aggregator = connect(&database.url("securebase_aggregator")).await;
    let close = "insert into closes (customer_id, period_start, period_end, cut, source_class, directory_version,
        cut_at, evidence_sha256) values ('anna', '2026-10-01', '2026-11-01', 2, 'proven', 1, now(), sha256('e'))";
    let total = |total: &str| {
        format!(
            "insert into closed_totals select max(close_id), 'anna', '000000000001', 'm', 'r', 'c', '2026-10-01',
            {total}, sha256('i') from closes where customer_id = 'anna'"
        )
    };
    let evidence = |bytes: &str| {
        format!(
            "insert into evidence_records select max(close_id), 'anna', sha256('{bytes}'), '' from closes
            where customer_id = 'anna'"
        )
    };
    for (statements, refusal) in [
        (close.to_owned(), "has no evidence of that hash"),
        (format!("{close}; {}", evidence("another")), "has no evidence of that hash"),
        (total("1"), "closed_totals are written in the transaction of their close"),
        (format!("{close}; {}", total("'NaN'")), "closed_totals_total_is_exact"),
        (format!("{close}; {}", total("1e-19")), "closed_totals_total_is_exact"),
        (format!("{close}; {}", total("'-Infinity'")), "closed_totals_total_is_exact"),
        (
            format!("{close}; {}; commit; {}", evidence("e"), total("1")),
            "are written in the transaction of their close",
        ),
    ] {
        let mut transaction = aggregator.begin().await.unwrap();
        let written = run(&mut transaction, &statements.replace(", 2, ", ", 3, ")).await;
        let refused = match written {
            Ok(()) => transaction.commit().await,
            Err(error) => Err(error),
        };
        assert!(refused.as_ref().is_err_and(|error| error.to_string().contains(refusal)), "{statements}: {refused:?}");
    }
    let whole = format!("{close}; {}; {}", total("1.000000000000000001"), evidence("e"));
    run(&mut aggregator, &whole).await.unwrap();
    for table in ["closes", "closed_totals", "evidence_records"] {
        for statement in ["update T set customer_id = 'berta'", "delete from T", "truncate T cascade"] {
            let statement = statement.replace('T', table);
            assert_denied(run(&mut aggregator, &statement).await, &statement);
            let refused = run(&mut superuser, &statement).await.unwrap_err();
            assert!(refused.to_string().contains("is only ever added to"), "{statement}: {refused}");
        }
    }
    let version = async |connection: &mut PgConnection| {
        texts(connection, "select version::text from directory_version").await.unwrap().remove(0)
    };
    let before: i64 = version(&mut superuser).await.parse().unwrap();
    run(&mut superuser, "update account_ownership set valid = '[2026-01-01,2026-12-01)'").await.unwrap();
    assert_eq!(version(&mut superuser).await, (before + 1).to_string(), "each change of the directory is counted");
    assert_denied(run(&mut aggregator, "update directory_version set version = 0").await, "its version");
}

#[tokio::test]
async fn migrating_again_changes_nothing_and_temporary_tables_are_gone() {
    // Not a copy of the template: the privileges of a database are not copied with it.
    let database = empty_database().await;
    migrate(&database.superuser_url()).await.unwrap();
    migrate(&database.superuser_url()).await.unwrap();
    let mut app = connect(&database.url("securebase_app")).await;
    assert_denied(run(&mut app, "create temporary table usage_rows (a int)").await, "a table that hides a real one");
    assert_eq!(fingerprint().len(), 32);
}

#[tokio::test]
async fn a_schema_newer_or_other_than_the_program_is_refused() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let add = "insert into _sqlx_migrations values (9001, 'later', now(), true, '\\x00', 1)";
    run(&mut superuser, add).await.unwrap();
    let refused = migrate(&database.superuser_url()).await.unwrap_err();
    assert!(matches!(refused, MigrateError::NewerSchema { version: 9001 }));
    assert_eq!(
        refused.to_string(),
        "the database has migration 9001 that this program does not know: install a newer securebase"
    );

    run(&mut superuser, "update _sqlx_migrations set checksum = '\\x00' where version = 1").await.unwrap();
    run(&mut superuser, "delete from _sqlx_migrations where version = 9001").await.unwrap();
    let refused = migrate(&database.superuser_url()).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Edited { version: 1 }), "{refused}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_or_refuses_is_named() {
    let refused = migrate("postgres://postgres@127.0.0.1:1/securebase").await.unwrap_err();
    assert!(matches!(refused, MigrateError::Unreachable { .. }));
    assert!(refused.to_string().starts_with("cannot reach PostgreSQL at 127.0.0.1:1/securebase: "), "{refused}");

    let database = empty_database().await;
    let missing = format!("{}_missing", database.superuser_url());
    let refused = migrate(&missing).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Refused { .. }), "{refused}");

    let refused = migrate("mysql://root:hunter2@127.0.0.1/x").await.unwrap_err();
    assert!(matches!(refused, MigrateError::NotAnAddress), "{refused}");
    assert!(!refused.to_string().contains("hunter2"));
}

/// On a cluster of its own: the roles must not exist yet.
#[tokio::test(flavor = "multi_thread")]
async fn many_databases_of_a_new_cluster_migrate_at_once() {
    let cluster = PostgreSql::throwaway().await.unwrap();
    let mut superuser = connect(&cluster.url("postgres", "postgres")).await;
    let mut migrations = tokio::task::JoinSet::new();
    for number in 0..6 {
        run(&mut superuser, &format!("create database d{number}")).await.unwrap();
        for _ in 0..2 {
            let url = cluster.url(&format!("d{number}"), "postgres");
            migrations.spawn(async move { migrate(&url).await });
        }
    }
    while let Some(migrated) = migrations.join_next().await {
        migrated.unwrap().unwrap();
    }
    for number in 0..6 {
        let mut connection = connect(&cluster.url(&format!("d{number}"), "postgres")).await;
        let applied = texts(&mut connection, "select version::text from _sqlx_migrations").await.unwrap();
        assert_eq!(applied.len(), MIGRATOR.iter().count());
    }
    cluster.stop().await;
}

/// On a cluster of its own: logins belong to the cluster.
#[tokio::test]
async fn a_login_without_superuser_migrates_what_it_owns_and_another_is_told_what_it_lacks() {
    let cluster = PostgreSql::throwaway().await.unwrap();
    let mut superuser = connect(&cluster.url("postgres", "postgres")).await;
    for statement in [
        "create role weak login",
        "create role maker login createrole",
        "create role member login",
        "create database of_weak owner weak",
        "create database of_maker owner maker",
        "create database of_member owner member",
    ] {
        run(&mut superuser, statement).await.unwrap();
    }

    let refused = migrate(&cluster.url("of_maker", "weak")).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Privilege { version: 0, .. }), "not even the schema: {refused}");
    let refused = migrate(&cluster.url("of_weak", "weak")).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Privilege { version: 1, .. }), "no roles: {refused}");
    migrate(&cluster.url("of_maker", "maker")).await.unwrap();
    let refused = migrate(&cluster.url("of_weak", "weak")).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Privilege { version: 1, .. }), "roles, but no member: {refused}");

    run(&mut superuser, "grant securebase_owner to member").await.unwrap();
    migrate(&cluster.url("of_member", "member")).await.unwrap();
    let mut member = connect(&cluster.url("of_member", "member")).await;
    set_tenant_key(&mut member, &KEY).await.unwrap();
    assert_denied(
        run(&mut connect(&cluster.url("of_member", "weak")).await, "select * from public.customers").await,
        "a login without a role of ours",
    );
    cluster.stop().await;
}
