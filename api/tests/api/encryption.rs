//! PostgreSQL that takes encrypted connections alone, as Aurora does with `rds.force_ssl`.

use std::path::Path;

use api::pool;
use embedded::PostgreSql;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

/// A server with a certificate of its own that refuses whoever does not encrypt, and a file of that certificate.
async fn encrypting() -> (PostgreSql, TempDir) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let server = PostgreSql::throwaway().await.unwrap();
    let mut superuser = PgConnection::connect(&server.url("postgres", "postgres")).await.unwrap();
    // The server writes the files itself: its user has to own the key, and nobody else may read it.
    let files = [
        ("server.crt", cert.pem()),
        ("server.key", signing_key.serialize_pem()),
        ("pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n".to_owned()),
    ];
    for (name, text) in files {
        for line in text.lines() {
            assert!(!line.contains(['\'', '\\']), "{line} needs no quoting");
        }
        let rows: Vec<String> = text.lines().map(|line| format!("('{line}')")).collect();
        let copy = format!("copy (values {}) to program 'umask 077; rm -f {name}; cat > {name}'", rows.join(", "));
        sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut superuser).await.unwrap();
    }
    sqlx::raw_sql("alter system set ssl = on").execute(&mut superuser).await.unwrap();
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut superuser).await.unwrap();
    let certificates = TempDir::new().unwrap();
    std::fs::write(certificates.path().join("server.crt"), cert.pem()).unwrap();
    let other = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(certificates.path().join("other.crt"), other.cert.pem()).unwrap();
    // The reload is asynchronous: the server is ready when it refuses what is not encrypted.
    while is_encrypted(&server, "sslmode=disable").await.is_ok() {
        tokio::task::yield_now().await;
    }
    (server, certificates)
}

/// Connects as the API does, and asks the server whether it is encrypted.
async fn is_encrypted(server: &PostgreSql, parameters: &str) -> Result<bool, sqlx::Error> {
    let options: PgConnectOptions = format!("{}?{parameters}", server.url("postgres", "postgres")).parse()?;
    let pool = pool(options);
    let asked = sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetch_one(&pool).await;
    pool.close().await;
    asked
}

fn trusting(certificate: &Path) -> String {
    format!("sslmode=verify-full&sslrootcert={}", certificate.display())
}

#[tokio::test]
async fn connections_are_encrypted_where_the_server_can_and_checked_where_the_address_says_so() {
    let (server, certificates) = encrypting().await;
    for parameters in ["", "sslmode=prefer", "sslmode=require", &trusting(&certificates.path().join("server.crt"))] {
        assert!(is_encrypted(&server, parameters).await.unwrap(), "{parameters}");
    }
    for parameters in ["sslmode=verify-full", &trusting(&certificates.path().join("other.crt"))] {
        let refused = is_encrypted(&server, parameters).await.unwrap_err().to_string();
        assert!(refused.contains("invalid peer certificate"), "{parameters}: {refused}");
    }
    let plain = is_encrypted(&server, "sslmode=disable").await.unwrap_err();
    assert!(matches!(plain, sqlx::Error::Database(_)), "{plain}");
}
