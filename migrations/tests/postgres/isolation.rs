//! A walk of the catalogue: every table, view and partition with a customer, tried by a tenant that has no business there.
//!
//! Every table gets a row of each tenant, whatever it is for: on a throwaway database its constraints are dropped first,
//! which policies and grants do not notice. A table made later is walked without a line here.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{LOGINS, assert_denied, connect, mac_of, run, set_tenant, stage, texts};

/// Relations of ours with a column `customer_id`, of these kinds, partitions aside or alone.
fn with_customer(kinds: &str, partitions: bool) -> String {
    format!(
        "select c.oid::regclass::text from pg_class c
         where c.relnamespace = 'public'::regnamespace and c.relkind::text = any (string_to_array('{kinds}', ','))
             and c.relispartition = {partitions}
             and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'customer_id' and not a.attisdropped)
         order by 1"
    )
}

/// Drops what would refuse a row that holds a customer and nothing else.
const UNCONSTRAIN: &str = "do $$
declare
    found record;
begin
    for found in
        select con.conrelid::regclass as relation, con.conname from pg_constraint con join pg_class c on c.oid = con.conrelid
        where c.relnamespace = 'public'::regnamespace and not c.relispartition and con.contype in ('f', 'c', 'u', 'x', 'p')
        order by con.contype = 'f' desc
    loop
        begin
            execute format('alter table %s drop constraint if exists %I cascade', found.relation, found.conname);
        exception when others then
            null; -- Went with another.
        end;
    end loop;
    for found in
        select c.oid::regclass as relation, a.attname, a.attidentity, a.attgenerated
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and a.attnum > 0 and not a.attisdropped and a.attnotnull
    loop
        if found.attidentity <> '' then
            execute format('alter table %s alter column %I drop identity', found.relation, found.attname);
        end if;
        execute format('alter table %s alter column %I drop not null', found.relation, found.attname);
    end loop;
end
$$";

#[tokio::test]
async fn a_tenant_reaches_no_row_of_another_in_any_table_view_or_partition() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let tables = texts(&mut superuser, &with_customer("r,p", false)).await.unwrap();
    let views = texts(&mut superuser, &with_customer("v,m", false)).await.unwrap();
    let partitions = texts(&mut superuser, &with_customer("r,p", true)).await.unwrap();
    assert!(tables.len() >= 9 && !views.is_empty() && partitions.len() >= 5, "{tables:?} {views:?} {partitions:?}");

    run(&mut superuser, UNCONSTRAIN).await.unwrap();
    run(&mut superuser, "set session_replication_role = replica").await.unwrap();
    for table in &tables {
        let seed = format!("insert into {table} (customer_id) values ('anna'), ('berta'), (null)");
        run(&mut superuser, &seed).await.unwrap_or_else(|error| panic!("{table} takes no row: {error}"));
    }

    for table in &tables {
        let mut app = connect(&database.url("securebase_app")).await;
        // Without a tenant: nothing at all.
        let all = format!("select coalesce(customer_id, 'nobody') from {table}");
        nothing(texts(&mut app, &all).await, &all);
        // Prices of the tiers are of no customer, and every one reads them.
        let others = if table == "rate_cards" { "<> 'anna'" } else { "is distinct from 'anna'" };
        for attack in [
            format!("select coalesce(customer_id, 'nobody') from {table} where customer_id {others}"),
            format!("update {table} set customer_id = customer_id where customer_id = 'berta' returning 'changed'"),
            format!("update {table} set customer_id = 'anna' where customer_id = 'berta' returning 'taken'"),
            format!("delete from {table} where customer_id is distinct from 'anna' returning 'deleted'"),
            format!("select 'locked' from {table} where customer_id = 'berta' for update"),
            format!("with x as (select * from {table}) select 'seen' from x where customer_id = 'berta'"),
            format!("select 'copied' from {table} a join {table} b on a.customer_id <> b.customer_id"),
        ] {
            let mut transaction = app.begin().await.unwrap();
            set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
            nothing(texts(&mut transaction, &attack).await, &attack);
            transaction.rollback().await.unwrap();
        }
        for attack in [
            format!("insert into {table} (customer_id) values ('berta')"),
            format!("insert into {table} (customer_id) values (null)"),
            format!("insert into {table} (customer_id) select 'berta'"),
            format!("truncate {table}"),
            format!("truncate {table} cascade"),
            format!("alter table {table} no force row level security"),
            format!("drop table {table}"),
            format!("copy {table} from stdin"),
            format!("create trigger t after insert on {table} for each row execute function refuse_truncate()"),
            format!("create policy p on {table} using (true)"),
        ] {
            let mut transaction = app.begin().await.unwrap();
            set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
            assert_denied(run(&mut transaction, &attack).await, &attack);
            transaction.rollback().await.unwrap();
        }
        // Giving one's own row to another.
        let mut transaction = app.begin().await.unwrap();
        set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
        let give = format!("update {table} set customer_id = 'berta' where customer_id = 'anna'");
        assert_denied(run(&mut transaction, &give).await, &give);
        transaction.rollback().await.unwrap();
        let kept = format!("select coalesce(customer_id, 'nobody') from {table} order by 1");
        let kept = texts(&mut superuser, &kept).await.unwrap();
        for owner in ["anna", "berta", "nobody"] {
            assert!(kept.iter().any(|seen| seen == owner), "{table} lost a row of {owner}");
        }
    }
    for view in &views {
        let mut app = connect(&database.url("securebase_app")).await;
        let mut transaction = app.begin().await.unwrap();
        set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
        let foreign =
            format!("select coalesce(customer_id, 'nobody') from {view} where customer_id is distinct from 'anna'");
        nothing(texts(&mut transaction, &foreign).await, &foreign);
        transaction.rollback().await.unwrap();
        // What PostgreSQL could write through to the table below.
        for attack in [
            format!("insert into {view} (customer_id) values ('berta')"),
            format!("update {view} set customer_id = 'berta'"),
            format!("delete from {view}"),
        ] {
            let mut transaction = app.begin().await.unwrap();
            set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
            let refused = run(&mut transaction, &attack).await.unwrap_err();
            let code = refused.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
            // No right, or a view that takes no writes (object_not_in_prerequisite_state, feature_not_supported).
            let code = code.unwrap_or_default();
            assert!(["42501", "55000", "0A000"].contains(&code.as_str()), "{attack}: {refused}");
            transaction.rollback().await.unwrap();
        }
    }
    for login in LOGINS {
        let mut connection = connect(&database.url(login)).await;
        for table in &tables {
            for attack in [
                format!("truncate {table}"),
                format!("truncate {table} cascade"),
                format!("alter table {table} disable row level security"),
                format!("alter table {table} disable trigger all"),
                format!("lock table {table} in access exclusive mode"),
                format!("set local session_replication_role = replica; delete from {table}"),
                format!("set local role securebase_owner; delete from {table}"),
                format!("set session authorization securebase_owner; delete from {table}"),
            ] {
                // A right to write is a right to some locks.
                let may_lock = attack.starts_with("lock") && writes(&mut superuser, login, table).await;
                if !may_lock {
                    let mut transaction = connection.begin().await.unwrap();
                    assert_denied(run(&mut transaction, &attack).await, &format!("{login}: {attack}"));
                    transaction.rollback().await.unwrap();
                }
            }
        }
        for partition in &partitions {
            for attack in [
                format!("select 1 from {partition}"),
                format!("insert into {partition} (customer_id) values ('anna')"),
                format!("update {partition} set customer_id = 'anna'"),
                format!("delete from {partition}"),
                format!("truncate {partition}"),
            ] {
                assert_denied(run(&mut connection, &attack).await, &format!("{login}: {attack}"));
            }
        }
    }
}

/// Whether a role may change or delete rows of a table.
async fn writes(superuser: &mut PgConnection, role: &str, table: &str) -> bool {
    let sql = format!("select has_table_privilege('{role}', '{table}', 'update, delete')::text");
    texts(superuser, &sql).await.unwrap() == ["true"]
}

/// Relations without a customer that the application may read: a coupon once its tenant has redeemed it, the prices of the
/// tiers, the definitions of meters, the tax rates of countries, what tiers allow.
const OF_NOBODY: [&str; 5] = ["coupons", "rate_card_prices", "sample_meters", "tax_rates", "tier_features"];

#[tokio::test]
async fn what_the_application_can_touch_is_a_customers_own_or_listed_as_nobodys() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let touched = "(has_table_privilege('securebase_app', c.oid, 'select, insert, update, delete')
        or has_any_column_privilege('securebase_app', c.oid, 'select, insert, update'))";
    for (rule, sql, expected) in [
        (
            "a table, view or sequence without a customer shows nothing of one",
            format!(
                "select c.relname::text from pg_class c where c.relnamespace = 'public'::regnamespace
                     and c.relkind in ('r', 'p', 'v', 'm', 'f') and {touched}
                     and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'customer_id')
                 order by 1"
            ),
            OF_NOBODY.map(str::to_owned).to_vec(),
        ),
        (
            "a materialized or foreign table has no row-level security",
            format!(
                "select c.relname::text from pg_class c where c.relnamespace = 'public'::regnamespace
                     and c.relkind in ('m', 'f') and {touched}"
            ),
            Vec::new(),
        ),
        (
            // Inserting what is taken by another tenant tells that it is there.
            "what has to be unique over all customers is random or made by the database",
            "select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indrelid
                 where c.relnamespace = 'public'::regnamespace and i.indisunique and not c.relispartition
                     and (has_table_privilege('securebase_app', c.oid, 'insert')
                         or has_any_column_privilege('securebase_app', c.oid, 'insert'))
                     and not exists (select from pg_attribute a where a.attrelid = c.oid
                         and a.attname in ('customer_id', 'owner', 'chain') and a.attnum = any (i.indkey))
                 order by 1"
                .to_owned(),
            ["api_keys_pkey", "notifications_pkey", "notifications_tag_is_unique"].map(str::to_owned).to_vec(),
        ),
    ] {
        assert_eq!(texts(&mut superuser, &sql).await.unwrap(), expected, "{rule}");
    }
    run(&mut superuser, UNCONSTRAIN).await.unwrap();
    run(
        &mut superuser,
        "set session_replication_role = replica; insert into coupons (code) values ('BERTAS'), ('NOBODYS');
         insert into coupon_redemptions (code, customer_id) values ('BERTAS', 'berta')",
    )
    .await
    .unwrap();
    for (tenant, seen) in [("anna", vec![]), ("berta", vec!["BERTAS"])] {
        let mut app = connect(&database.url("securebase_app")).await;
        let mut transaction = app.begin().await.unwrap();
        set_tenant(&mut transaction, tenant, &mac_of(tenant)).await.unwrap();
        assert_eq!(texts(&mut transaction, "select code from coupons").await.unwrap(), seen, "{tenant}");
    }
}

/// Denied, or no rows.
#[track_caller]
fn nothing(outcome: Result<Vec<String>, sqlx::Error>, attack: &str) {
    match outcome {
        Ok(rows) => assert!(rows.is_empty(), "{attack}: {rows:?}"),
        Err(error) => assert_denied::<()>(Err(error), attack),
    }
}

#[tokio::test]
async fn naming_another_tenants_row_by_a_foreign_key_is_no_way_to_find_it() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    // A key that a tenant may write refers to the customers, to what is nobody's, or carries the customer with it.
    let loose = texts(
        &mut superuser,
        "select con.conrelid::regclass || ' ' || con.conname from pg_constraint con
         where con.contype = 'f' and con.confrelid <> 'customers'::regclass
             and (has_table_privilege('securebase_app', con.conrelid, 'insert, update')
                 or has_any_column_privilege('securebase_app', con.conrelid, 'insert, update'))
             and exists (select from pg_attribute a where a.attrelid = con.confrelid and a.attname = 'customer_id')
             and not exists (
                 select from unnest(con.conkey, con.confkey) as pair (near, far)
                 join pg_attribute a on a.attrelid = con.conrelid and a.attnum = pair.near and a.attname = 'customer_id'
                 join pg_attribute b on b.attrelid = con.confrelid and b.attnum = pair.far and b.attname = 'customer_id')",
    )
    .await
    .unwrap();
    assert_eq!(loose, Vec::<String>::new());

    let hash = format!("$2b$10${}", "a".repeat(53));
    let key = |id: &str, customer: &str| {
        format!(
            "insert into api_keys (key_id, customer_id, name, scopes, secret_hash, created_at, created_by)
             values ('{id}', '{customer}', 'n', '{{read:usage}}', '{hash}', now(), 't')"
        )
    };
    run(&mut superuser, &key("AAAAAAAAAAAAAAAA", "anna")).await.unwrap();
    run(&mut superuser, &key("BBBBBBBBBBBBBBBB", "berta")).await.unwrap();
    let mut app = connect(&database.url("securebase_app")).await;
    for (successor, says) in [("BBBBBBBBBBBBBBBB", "23503"), ("CCCCCCCCCCCCCCCC", "23503")] {
        let mut transaction = app.begin().await.unwrap();
        set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
        let name = format!("update api_keys set rotated_to = '{successor}' where key_id = 'AAAAAAAAAAAAAAAA'");
        let refused = run(&mut transaction, &name).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some(says), "there or not, the same answer: {refused}");
    }
    let mut transaction = app.begin().await.unwrap();
    set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
    assert_denied(run(&mut transaction, &key("DDDDDDDDDDDDDDDD", "berta")).await, "a key for another");
}

#[tokio::test]
async fn what_runs_with_more_rights_than_its_caller_is_listed_here() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    let callable = |role: &str| {
        format!(
            "select p.proname::text from pg_proc p
             where p.pronamespace = 'public'::regnamespace and p.prosecdef and has_function_privilege('{role}', p.oid, 'execute')
             order by 1"
        )
    };
    let of_app = [
        "append_audit_calls",
        "current_tenant",
        "look_up_api_key",
        "names_invoice_of_another",
        "record_audit_call",
        "record_audit_event",
    ];
    assert_eq!(
        texts(&mut superuser, &callable("securebase_app")).await.unwrap(),
        of_app,
        "a function that runs as its owner for the application needs a look at what it lets through; then list it"
    );
    assert_eq!(
        texts(&mut superuser, &callable("securebase_analytics")).await.unwrap(),
        Vec::<String>::new(),
        "who only reads runs nothing with more rights"
    );
    for (role, relations) in [("securebase_analytics", vec![]), ("securebase_auth_reader", vec!["api_keys"])] {
        let secret = texts(
            &mut superuser,
            &format!(
                "select c.relname::text from pg_class c where c.relname in ('api_keys', 'idempotent_answers', 'tenant_keys')
                 and has_any_column_privilege('{role}', c.oid, 'select') order by 1"
            ),
        )
        .await
        .unwrap();
        assert_eq!(secret, relations, "{role}");
        let writes = texts(
            &mut superuser,
            &format!(
                "select c.relname::text from pg_class c
                 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')
                     and (has_table_privilege('{role}', c.oid, 'insert, update, delete')
                         or has_any_column_privilege('{role}', c.oid, 'insert, update'))"
            ),
        )
        .await
        .unwrap();
        assert_eq!(writes, Vec::<String>::new(), "{role} writes nothing");
    }
    for login in LOGINS {
        let mut connection: PgConnection = connect(&database.url(login)).await;
        let hashes = sqlx::raw_sql(AssertSqlSafe("select secret_hash from api_keys")).execute(&mut connection).await;
        assert_denied(hashes, &format!("{login} reads no stored hash"));
        let call = "select append_audit_event('anna', 'x', now(), 'x', 'x', 'x', '{}')";
        assert_denied(run(&mut connection, call).await, &format!("{login} writes no event past the functions"));
    }
}

#[tokio::test]
async fn whether_an_invoice_is_anothers_is_told_for_a_whole_number_or_id_and_to_a_proven_tenant_alone() {
    let database = stage().await;
    let mut superuser = connect(&database.superuser_url()).await;
    run(
        &mut superuser,
        "set session_replication_role = replica;
         insert into invoices
             (invoice_id, customer_id, kind, revision, period_start, period_end, status, invoice_number, currency,
              subtotal_minor, discount_minor, net_minor, tax_rate, tax_minor, total_minor, source_class,
              snapshot, issued_at, due_at, created_at)
         select i.id::uuid, i.customer, 'monthly', 1, '2026-10-01', '2026-11-01', 'issued', i.number, 'USD', 0, 0, 0, 0, 0, 0,
             'best effort', '{}', now(), now(), now()
         from (values
             ('00000000-0000-4000-8000-00000000000a', 'anna', 'INV-2026-11-0001'),
             ('00000000-0000-4000-8000-00000000000b', 'berta', 'INV-2026-11-0002')) as i (id, customer, number)",
    )
    .await
    .unwrap();
    let mut app = connect(&database.url("securebase_app")).await;
    let ask = |wanted: &str| format!("select names_invoice_of_another('{wanted}')::text");
    let berta = ["INV-2026-11-0002", "00000000-0000-4000-8000-00000000000b", "00000000-0000-4000-8000-00000000000B"];
    for wanted in berta {
        assert_eq!(texts(&mut app, &ask(wanted)).await.unwrap(), ["false"], "without a tenant: {wanted}");
    }
    let mut transaction = app.begin().await.unwrap();
    set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
    for wanted in berta {
        assert_eq!(texts(&mut transaction, &ask(wanted)).await.unwrap(), ["true"], "{wanted}");
    }
    for wanted in [
        "INV-2026-11-0001",
        "00000000-0000-4000-8000-00000000000a",
        "INV-2026-11-0003",
        "INV-2026-11-000",
        "INV-2026-11-%",
        "INV-2026-11-000_",
        "^INV-2026-11-0002$",
        "INV-2026-11-0002\n",
        " INV-2026-11-0002",
        "inv-2026-11-0002",
        "00000000-0000-4000-8000-0000000000",
        "{00000000-0000-4000-8000-00000000000b}",
        "'' or = --",
        "",
    ] {
        assert_eq!(texts(&mut transaction, &ask(wanted)).await.unwrap(), ["false"], "{wanted:?}");
    }
    assert_eq!(
        texts(&mut transaction, "select coalesce(names_invoice_of_another(null), false)::text").await.unwrap(),
        ["false"]
    );
    let seen = "select invoice_number from invoices";
    assert_eq!(
        texts(&mut transaction, seen).await.unwrap(),
        ["INV-2026-11-0001"],
        "and the invoice itself stays unseen"
    );
    drop(transaction);

    // A tenant that proves itself wrongly, a setting of its own, and a table in the way of the function's.
    let mut transaction = app.begin().await.unwrap();
    assert_denied(set_tenant(&mut transaction, "anna", &mac_of("berta")).await, "another's proof");
    drop(transaction);
    let mut transaction = app.begin().await.unwrap();
    set_tenant(&mut transaction, "anna", &mac_of("anna")).await.unwrap();
    run(&mut transaction, "select set_config('securebase.tenant', 'nobody', true)").await.unwrap();
    assert_denied(texts(&mut transaction, &ask("INV-2026-11-0001")).await, "a tenant without its proof");
    drop(transaction);
    for login in LOGINS.into_iter().filter(|login| *login != "securebase_app") {
        let mut connection = connect(&database.url(login)).await;
        assert_denied(texts(&mut connection, &ask("INV-2026-11-0002")).await, login);
    }
}
