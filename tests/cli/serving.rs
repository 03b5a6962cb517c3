//! One process owns a home's stores and serves; others join it, and one takes over when it dies.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::events::{ACCOUNT, object, object_of};
use crate::support::{Serving, Site, block_on, ended, pid_of, text, until};

const OTHER: &str = "999999999999";

#[test]
fn the_api_answers_each_customer_while_others_replay_and_ends_cleanly() {
    let site = Site::without_database();
    let serving = site.serve();
    assert_eq!(serving.get("/v1/health", None).0, 200);
    for (customer, account) in [("acme", ACCOUNT), ("bert", OTHER)] {
        site.add_customer(customer, "standard");
        site.register(account, customer, "2024-01-01T00:00:00Z");
    }
    site.write("logs/a.json", &object(0..40));
    site.write("logs/b.json", &object_of(OTHER, 0..7, "2024-03-05T10:00:00Z"));
    let balance = site.json(["replay", "logs"]);
    assert_eq!(balance["counted"], 47);
    // Rolled up when the replay returns: nothing to wait for.
    assert_eq!(serving.quantity(&site.api_key("acme")), 40);
    assert_eq!(serving.quantity(&site.api_key("bert")), 7);
    let mut wrong = site.api_key("acme");
    wrong.replace_range(wrong.len() - 4.., "0000");
    for key in [None, Some("sk_boot_acme_00"), Some(wrong.as_str())] {
        assert_eq!(serving.get("/v1/usage?meter=cloudtrail_events", key).0, 401);
    }
    let home = site.home();
    assert!(home.join("endpoints.json").exists());
    let ran = serving.end_by(Signal::SIGINT);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(!home.join("endpoints.json").exists(), "nobody is told of stores that are gone");
    assert_eq!(site.counted(), 47, "the next command finds it all");
}

#[test]
fn a_client_takes_over_from_an_owner_that_was_killed_and_counts_nothing_twice() {
    let site = Site::without_database();
    let serving = site.serve();
    let (client, mut half) = client_at_a_pipe(&site, &serving);
    let (log, pipe) = (site.path("a.json"), site.path("b.json"));
    let log = text(&log);
    half.write_all(&object(60..100)[..4_000]).unwrap();
    // What the client opens next under this name is the whole file.
    site.write("whole", &object(60..100));
    fs::rename(site.path("whole"), &pipe).unwrap();
    let killed = serving.end_by(Signal::SIGKILL);
    assert_eq!(killed.code, None);
    drop(half);
    let ran = ended(client);
    let balance = ran.json();
    assert_eq!((&balance["read"], &balance["files"]), (&json!(100), &json!(2)), "{ran:?}");
    assert_eq!(balance["counted"].as_u64().unwrap() + balance["duplicates"].as_u64().unwrap(), 100);
    assert!(ran.err.contains("starting again"), "{ran:?}");
    assert_eq!(site.counted(), 100);
    let again = site.json(["replay", log, text(&pipe)]);
    assert_eq!((&again["counted"], &again["duplicates"]), (&json!(0), &json!(100)));
}

/// A client that has counted one file and stops at a pipe, and the end of the pipe that it waits for.
fn client_at_a_pipe(site: &Site, serving: &Serving) -> (Child, File) {
    site.add_customer("acme", "standard");
    site.register(ACCOUNT, "acme", "2024-01-01T00:00:00Z");
    let key = site.api_key("acme");
    let log = site.write("a.json", &object(0..60));
    let pipe = site.path("b.json");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let mut command = site.command(["replay", &log, text(&pipe), "--json"]);
    let client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = OpenOptions::new().write(true).open(&pipe).unwrap();
    until("the first file is counted", || serving.quantity(&key) == 60);
    (client, pipe)
}

#[test]
fn an_owner_that_is_asked_to_end_lets_its_clients_finish() {
    let site = Site::without_database();
    let serving = site.serve();
    let (client, mut pipe) = client_at_a_pipe(&site, &serving);
    serving.signal(Signal::SIGTERM);
    pipe.write_all(&object(60..100)).unwrap();
    drop(pipe);
    assert_eq!(ended(client).json()["counted"], 100);
    assert_eq!(serving.end().code, Some(0));
    assert_eq!(site.counted(), 100);
}

#[test]
fn an_interrupted_replay_ends_with_its_own_code_and_can_be_run_again() {
    let site = Site::without_database();
    let serving = site.serve();
    let (client, pipe) = client_at_a_pipe(&site, &serving);
    kill(pid_of(&client), Signal::SIGINT).unwrap();
    let ran = ended(client);
    assert_eq!((ran.code, ran.out.as_str()), (Some(130), ""), "{ran:?}");
    drop(pipe);
    site.write("whole", &object(60..100));
    fs::rename(site.path("whole"), site.path("b.json")).unwrap();
    let again = site.json(["replay", "a.json", "b.json", "--resume"]);
    assert_eq!(again["counted"], 40);
    assert_eq!(site.counted(), 100);
}

#[test]
fn four_commands_at_once_on_a_new_home_count_everything_once() {
    let site = Site::without_database();
    let logs: Vec<String> =
        (0..4).map(|number| site.write(&format!("{number}.json"), &object(number * 50..number * 50 + 100))).collect();
    let replays: Vec<_> = logs
        .iter()
        .map(|log| {
            let mut command = site.command(["replay", log, "--json"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let balances: Vec<_> = replays.into_iter().map(|replay| ended(replay).json()).collect();
    let sum = |name: &str| balances.iter().map(|balance| balance[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("read"), sum("counted"), sum("duplicates")), (400, 250, 150));
    assert_eq!(site.counted(), 250);
}

#[test]
fn a_given_database_is_used_by_all_and_shows_the_api_only_what_a_customer_may_see() {
    let site = Site::new();
    let serving = site.serve();
    for (customer, account) in [("acme", ACCOUNT), ("bert", OTHER)] {
        site.add_customer(customer, "standard");
        site.register(account, customer, "2024-01-01T00:00:00Z");
    }
    site.write("logs/a.json", &object(0..40));
    site.write("logs/b.json", &object_of(OTHER, 0..7, "2024-03-05T10:00:00Z"));
    site.json(["replay", "logs"]);
    site.json(["close", "--period", "2024-03"]);
    assert_eq!(site.json(["invoice", "run", "--period", "2024-03"])["issued"], 2);
    assert_eq!(serving.quantity(&site.api_key("acme")), 40);
    assert_eq!(serving.quantity(&site.api_key("bert")), 7);
    let (status, invoices) = serving.get("/v1/invoices", Some(&site.api_key("bert")));
    assert_eq!(status, 200);
    assert_eq!(invoices["invoices"].as_array().map(Vec::len), Some(1), "{invoices}");
    assert!(!site.home().join("postgres").exists(), "no private PostgreSQL beside a given one");

    // What the API's role could do if somebody made it run statements of their own.
    let url = site.database.as_ref().unwrap().url("securebase_app");
    block_on(async {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let (is_super, bypasses): (bool, bool) =
            sqlx::query_as("select rolsuper, rolbypassrls from pg_roles where rolname = current_user")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert!(!is_super && !bypasses);
        for table in ["usage_rows", "usage_metrics", "invoices", "invoice_lines", "customers", "account_ownership"] {
            let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
            // Seen without a tenant: nothing, or not even the table.
            let seen: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap_or_default();
            assert_eq!(seen, 0, "{table}");
            let delete = sqlx::AssertSqlSafe(format!("delete from {table}"));
            assert!(sqlx::query(delete).execute(&mut connection).await.is_err(), "{table}");
        }
        assert!(sqlx::query("select key from tenant_keys").execute(&mut connection).await.is_err());
    });
    assert_eq!(serving.end_by(Signal::SIGTERM).code, Some(0));
}

#[test]
fn a_log_of_everything_holds_nothing_that_callers_or_stores_sent() {
    let site = Site::new();
    site.add_customer("acme", "standard");
    let scopes = "read:usage,read:invoices,read:audit,write:keys";
    let key = site.json(["keys", "create", "--customer", "acme", "--name", "a test", "--scopes", scopes]);
    let key = key["key"].as_str().unwrap().to_owned();
    let admin = site.json(["keys", "create", "--admin", "--name", "an operator"])["key"].as_str().unwrap().to_owned();
    let url = site.database.as_ref().unwrap().superuser_url().replacen('@', ":secret-in-the-database-url@", 1);
    for format in ["json", "text"] {
        let path = site.path(&format!("{format}.log"));
        let mut command = site.command(["serve", "--listen", "127.0.0.1:0", "--json"]);
        command.env("SECUREBASE_LOG", "trace").env("SECUREBASE_LOG_FORMAT", format).env("DATABASE_URL", &url);
        let serving = Serving::start_logging(command, File::create(&path).unwrap().into());

        let headers = [
            ("Content-Type", "application/json"),
            ("Cookie", "secret-in-a-cookie"),
            ("User-Agent", "secret-in-a-user-agent"),
            ("X-Forwarded-For", "secret-in-a-forwarded-header"),
            ("Idempotency-Key", &format!("secret-in-an-idempotency-key-{format}")),
        ];
        let (status, session) = serving.post("/v1/auth/authenticate", Some(&key), &headers[..4], "");
        assert_eq!(status, 201, "{session}");
        let session = session["token"].as_str().unwrap().to_owned();
        let wrong = format!("{}{}", &key[..key.len() - 43], "W".repeat(43));
        for (path, shown) in [
            ("/v1/usage?meter=cloudtrail_events", session.as_str()),
            ("/v1/usage?meter=secret-in-a-query", &key),
            ("/v1/invoices/secret-in-a-path", &key),
            ("/v1/customers/secret-in-a-customers-path", &key),
            ("/v1/audit-events?actor=secret-in-an-actor", &wrong),
            ("/secret-in-a-path-of-nothing", &key),
            (&format!("/v1/api-keys/{key}"), &key),
            (&format!("/v1/invoices/{session}"), &session),
        ] {
            serving.get(path, Some(shown));
        }
        let body = json!({"name": "secret-in-a-body", "scopes": ["read:usage"]}).to_string();
        let (status, made) = serving.post("/v1/api-keys", Some(&key), &headers, &body);
        assert_eq!(status, 201, "{made}");
        let made = made["key"].as_str().unwrap();
        serving.post("/v1/api-keys", Some(&key), &headers[..4], r#"{"secret-in-a-broken-body"#);
        let customer = json!({"id": format!("{format}er"), "name": "secret-in-a-name", "tier": "standard",
            "contract_start": "2026-01-01T00:00:00Z", "billing_address": "secret-in-an-address"});
        let (status, added) = serving.post("/v1/admin/customers", Some(&admin), &headers[..4], &customer.to_string());
        assert_eq!(status, 201, "{added}");
        let sample = json!({"specversion": "1.0", "id": "secret-in-an-id", "source": "/secret-in-a-source",
            "type": "nat_gateway_bytes", "subject": ACCOUNT, "time": "2026-10-01T00:00:00Z",
            "data": {"resource": "secret-in-a-resource", "value": "1", "unit": "bytes"}});
        let cloud_event = [("Content-Type", "application/cloudevents+json")];
        serving.post("/v1/samples", Some(&admin), &cloud_event, &sample.to_string());
        assert_eq!(serving.end_by(Signal::SIGTERM).code, Some(0));

        let log = fs::read_to_string(&path).unwrap();
        assert!(log.matches("answered").count() >= 12, "each call has its line: {log}");
        let secrets =
            [key.as_str(), made, &admin, &session, &wrong, &key[key.len() - 43..], &admin[admin.len() - 43..]];
        for secret in secrets.into_iter().chain(["secret-in-", "secret_in_"]) {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is in the log");
        }
    }
}

#[test]
fn a_client_that_is_told_another_database_than_the_owner_uses_is_refused() {
    let site = Site::without_database();
    let other = Site::new();
    let url = other.database.as_ref().unwrap().superuser_url();
    let serving = site.serve();
    let refusal = site.run(["status", "--database-url", &url]);
    assert!(refusal.refusal().contains("unset DATABASE_URL"), "{refusal:?}");
    assert_eq!(serving.end_by(Signal::SIGINT).code, Some(0));

    let serving = other.serve();
    let mut command = other.command(["status"]);
    let refusal = crate::support::run(command.env_remove("DATABASE_URL"));
    assert!(refusal.refusal().contains("set DATABASE_URL"), "{refusal:?}");
    other.run(["status"]).succeeded();
    drop(serving);
}
