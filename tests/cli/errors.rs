//! A command that cannot do what it is asked says so in one line, changes nothing, and exits non-zero.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use sqlx::{Connection, PgConnection};

use crate::events::{gzip, object};
use crate::support::{Site, block_on, clean, run};

/// The refusal of a command says all of these.
fn check(site: &Site, arguments: &[&str], says: &[&str]) {
    let ran = site.run(arguments);
    let message = ran.refusal();
    for word in says {
        assert!(message.contains(word), "{arguments:?}: {message:?} does not say {word:?}");
    }
    assert_eq!(ran.out, "", "{arguments:?}");
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_started() {
    let site = Site::without_database();
    check(&site, &["replay", "missing.json"], &["missing.json", "no such file"]);
    check(&site, &["replay", "missing/*.json.gz"], &["missing/*.json.gz", "match"]);
    check(&site, &["replay", "[a"], &["[a", "glob"]);
    check(&site, &["replay", ""], &["no such file"]);
    check(&site, &["usage"], &["--all", "--customer"]);
    check(&site, &["usage", "--all", "--group-by", "account,colour"], &["--group-by", "colour", "category"]);
    check(&site, &["usage", "--all", "--group-by", "day,hour"], &["--group-by", "day", "hour"]);
    check(&site, &["usage", "--all", "--from", "yesterday"], &["--from yesterday", "RFC 3339"]);
    check(&site, &["usage", "--all", "--from", "2024-01-01T00:30:00Z"], &["from", "whole", "hour"]);
    check(&site, &["usage", "--customer", "No Such"], &["--customer", "lower-case"]);
    for period in ["2024-13", "2024", "March", "2024-3", ""] {
        check(&site, &["invoice", "run", "--period", period], &["--period", "2026-10"]);
    }
    let register = |account, from| ["accounts", "register", account, "--customer", "acme", "--from", from];
    check(&site, &register("12345678901", "2024-01-01T00:00:00Z"), &["12345678901", "12 digits"]);
    check(&site, &register("1234567890123", "2024-01-01T00:00:00Z"), &["1234567890123", "12 digits"]);
    check(&site, &register("123456789012", "2024-01-01T00:30:00Z"), &["--from", "whole hour"]);
    let add = |id, start, tax| {
        let named = ["--name", "A", "--tier", "standard", "--contract-start", start, "--tax-rate", tax];
        [["customers", "add", id].as_slice(), &named].concat()
    };
    check(&site, &add("Acme Inc", "2024-01-01T00:00:00Z", "0.08"), &["Acme Inc", "lower-case"]);
    check(&site, &add("acme", "2024-01-01T00:00:01Z", "0.08"), &["--contract-start", "whole hour"]);
    check(&site, &add("acme", "2024-01-01T00:00:00Z", "much"), &["--tax-rate", "0.08"]);
    check(&site, &["--stores", "aws", "demo"], &["demo", "local"]);
    assert!(!site.home().exists(), "a command that cannot work makes no home");
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let site = Site::new();
    check(&site, &["usage", "--customer", "nobody"], &["no customer nobody", "customers add"]);
    check(&site, &["usage", "--all", "--meter", "coffee"], &["--meter coffee", "unknown meter"]);
    let register = ["accounts", "register", "123456789012", "--customer", "nobody", "--from", "2024-01-01T00:00:00Z"];
    check(&site, &register, &["nobody", "does not exist"]);
    check(&site, &["invoice", "show", "INV-2024-03-0001"], &["no invoice or credit note INV-2024-03-0001"]);
    check(&site, &["dead-letters", "replay", "0123"], &["no open dead letter 0123", "dead-letters list"]);
    let add = |tier, tax| {
        [
            "customers",
            "add",
            "acme",
            "--name",
            "A",
            "--tier",
            tier,
            "--contract-start",
            "2024-01-01T00:00:00Z",
            "--tax-rate",
            tax,
        ]
    };
    check(&site, &add("golden", "0.08"), &["golden"]);
    check(&site, &add("standard", "1.5"), &["tax"]);
    check(&site, &["invoice", "run", "--period", "2024-03", "--customer", "nobody"], &["there is no customer nobody"]);
    assert_eq!(site.json(["accounts", "list"])["accounts"].as_array().unwrap().len(), 0);
}

#[test]
fn a_month_that_has_not_ended_is_not_invoiced() {
    let site = Site::new();
    site.add_customer("acme", "standard");
    let month = this_month();
    check(&site, &["invoice", "run", "--period", &month], &[&month, "has not ended", "dry run"]);
    let preview = site.json(["invoice", "run", "--period", &month, "--dry-run"]);
    assert_eq!(preview["results"][0]["outcome"], "previewed");
    check(&site, &["invoice", "run", "--period", "2999-01"], &["2999-01", "has not ended"]);
}

#[expect(clippy::disallowed_methods, reason = "which month is running only the calendar knows")]
fn this_month() -> String {
    chrono::Utc::now().format("%Y-%m").to_string()
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_what_was_read_before_counts_once() {
    let site = Site::new();
    site.write("logs/a.json", &object(0..10));
    // Readable by nobody, root included.
    std::os::unix::fs::symlink("/proc/self/mem", site.path("logs/b.json")).unwrap();
    let ran = site.run(["replay", "logs", "--json"]);
    assert!(ran.refusal().contains("cannot read") && ran.refusal().contains("mem"), "{ran:?}");
    assert_eq!(ran.out, "", "no balance of half a replay");
    fs::remove_file(site.path("logs/b.json")).unwrap();
    site.write("logs/b.json", &object(10..20));
    assert_eq!(site.json(["replay", "logs"])["read"], 20);
    assert_eq!(site.counted(), 20);
}

#[test]
fn a_home_that_cannot_be_one_is_refused() {
    let site = Site::without_database();
    let file = site.write("file", b"");
    check(&site, &["status", "--home", &file], &["not a directory", "--home"]);
    check(&site, &["status", "--home", &format!("{file}/below")], &["not a directory", "--home"]);
    // Root may write anywhere but here.
    check(&site, &["status", "--home", "/proc/securebase"], &["/proc/securebase", "--home"]);
    check(&site, &["status", "--home", "/proc/self/fdinfo"], &["/proc", "--home"]);
}

/// The program in a shell that lets no file grow beyond this many blocks of 512 bytes, as a full disk would not.
fn with_room(site: &Site, blocks: u32, arguments: &[&str]) -> Command {
    let mut command = clean("sh");
    command.arg("-c").arg(format!("ulimit -c 0; ulimit -f {blocks}; exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_securebase")).args(arguments);
    site.surround(&mut command);
    command
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half_done() {
    let site = Site::new();
    let log = site.write("log.json.gz", &gzip(&object(0..500)));
    // Too full for the home's own files, for the first table, for the last one.
    for blocks in [0, 1, 30, 70] {
        let ran = run(&mut with_room(&site, blocks, &["replay", &log]));
        assert!(ran.refusal().contains("space") || ran.refusal().contains("make room"), "{blocks} blocks: {ran:?}");
    }
    let balance = site.json(["replay", &log]);
    assert_eq!((&balance["counted"], &balance["duplicates"]), (&500.into(), &0.into()));
    // Full in the middle of counting: as much room as there is now.
    let used = fs::metadata(site.home().join("dynamodb.sqlite")).unwrap().len();
    let more = site.write("more.json.gz", &gzip(&object(500..9_500)));
    let ran = run(&mut with_room(&site, u32::try_from(used / 512).unwrap(), &["replay", &more]));
    assert!(ran.refusal().contains("make room"), "{ran:?}");
    let balance = site.json(["replay", &more]);
    assert_eq!(balance["read"], 9_000);
    assert_eq!(site.counted(), 9_500);
}

#[test]
fn a_private_postgresql_without_room_is_said() {
    let site = Site::without_database();
    let ran = run(&mut with_room(&site, 100, &["status"]));
    assert!(ran.refusal().contains("PostgreSQL"), "{ran:?}");
    assert!(site.run(["status"]).code == Some(0), "and with room it starts");
}

#[test]
fn a_port_in_use_is_said_before_the_stores_are_started() {
    let site = Site::without_database();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check(&site, &["serve", "--listen", &address], &[&address, "--listen"]);
    assert!(!site.home().exists());
}

#[test]
fn a_database_that_cannot_be_used_is_named_without_its_password() {
    let site = Site::without_database();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://someone:s3cret@{unused}/metering");
    let ran = site.run(["status", "--database-url", &url]);
    assert!(ran.refusal().contains(&format!("{unused}/metering")), "{ran:?}");
    assert!(!ran.err.contains("s3cret"), "{ran:?}");
    for wrong in ["metering", "mysql://someone:s3cret@localhost/x", "postgres://someone:s3cret@:::/x", ""] {
        let ran = site.run(["status", "--database-url", wrong]);
        assert!(ran.refusal().contains("postgresql://USER:PASSWORD@HOST:PORT/DATABASE"), "{wrong}: {ran:?}");
        assert!(!ran.err.contains("s3cret"), "{ran:?}");
    }
    let given = Site::new();
    let url = given.database.as_ref().unwrap().superuser_url();
    let missing = format!("{}/not_there", url.rsplit_once('/').unwrap().0);
    check(&site, &["status", "--database-url", &missing], &["not_there"]);
}

#[test]
fn a_database_that_a_newer_program_has_migrated_is_left_alone() {
    let site = Site::new();
    let url = site.database.as_ref().unwrap().superuser_url();
    block_on(async {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                     values (999999, 'newer', true, '', 0)";
        sqlx::query(newer).execute(&mut connection).await.unwrap();
    });
    check(&site, &["status"], &["migration 999999", "newer securebase"]);
    check(&site, &["replay", "/proc/version"], &["migration 999999"]);
}

#[test]
fn every_shell_is_given_a_script_that_names_the_commands_and_no_store_is_started() {
    let site = Site::without_database();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = site.run(["completions", shell]);
        ran.succeeded();
        for word in ["securebase", "dead-letters", "completions", "--json"] {
            // fish names long options without their dashes.
            assert!(ran.out.contains(word.trim_start_matches('-')), "{shell} does not complete {word}");
        }
    }
    assert!(!site.home().exists(), "completing needs no home");
}
