//! A database with customers and usage, and the ways into it.

use std::str::FromStr;

use aggregator::directory::CustomerId;
use billing::{Customers, InvoiceDocument, Month, Outcome, Party, RunReport, RunRequest};
use embedded::testing::TestDatabase;
use hmac::{Hmac, Mac};
use ingest::{Meter, Timestamp};
use sha2::Sha256;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};

const TENANT_KEY: &[u8] = b"a tenant key of thirty-two bytes";

pub(crate) const GIB: i128 = 1 << 30;
pub(crate) const OCTOBER_SECONDS: i128 = 31 * 86_400;

/// The usage of the worked example: 100 GB-months, 1,000 GiB, 1,000,000 events, 5,000 evaluations, 20 findings.
pub(crate) const WORKED_EXAMPLE: [(Meter, i128); 5] = [
    (Meter::LogStorageGb, 100 * GIB * OCTOBER_SECONDS),
    (Meter::NatGatewayBytes, 1_000 * GIB),
    (Meter::CloudTrailEvents, 1_000_000),
    (Meter::ConfigRuleEvaluations, 5_000),
    (Meter::GuardDutyFindings, 20),
];

pub(crate) struct Fixture {
    database: TestDatabase,
    pub(crate) billing: PgPool,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let database =
            TestDatabase::create(&migrations::fingerprint(), |url| async move { migrations::migrate(&url).await })
                .await
                .unwrap();
        let billing =
            PgPoolOptions::new().max_connections(16).connect(&database.url("securebase_billing")).await.unwrap();
        let fixture = Self { database, billing };
        migrations::set_tenant_key(&mut fixture.superuser().await, TENANT_KEY).await.unwrap();
        fixture
    }

    pub(crate) async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&self.database.superuser_url()).await.unwrap()
    }

    pub(crate) async fn connect(&self, role: &str) -> PgConnection {
        PgConnection::connect(&self.database.url(role)).await.unwrap()
    }

    /// Runs statements as the superuser, past every policy but not past triggers and constraints.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.superuser().await).await.map(drop)
    }

    pub(crate) async fn operator(&self) -> PgConnection {
        self.connect("securebase_operator").await
    }

    /// The events of the audit trail as `action subject`, in order, of a customer or the platform.
    pub(crate) async fn audited(&self, customer: Option<&str>) -> Vec<String> {
        let events = "select action || ' ' || subject from audit_events where customer_id is not distinct from $1 order by sequence";
        sqlx::query_scalar(events).bind(customer).fetch_all(&mut self.superuser().await).await.unwrap()
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        let count = format!("select count(*) from {table}");
        sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut self.superuser().await).await.unwrap()
    }

    /// A customer in dollars with 8 % tax.
    pub(crate) async fn customer(&self, id: &str, tier: &str, contract_start: &str) {
        self.execute(&format!(
            "insert into customers (customer_id, name, tier, contract_start, billing_address, tax_id)
             values ('{id}', 'Zoë''s {id} Ltd', '{tier}', '{contract_start}', E'1 High Street\\nLondon', 'GB 123')"
        ))
        .await
        .unwrap();
    }

    /// Usage of one hour, in one partition.
    pub(crate) async fn usage(&self, customer: &str, window_start: &str, partition: &str, meter: Meter, total: i128) {
        self.execute(&format!(
            "insert into usage_rows
                (account_id, meter, region, category, window_start, partition, total, version, customer_id)
             values ('123837392027', '{meter}', 'eu-west-1', 'none', '{window_start}', '{partition}', {total}, 1, '{customer}')"
        ))
        .await
        .unwrap();
    }

    /// The usage of the worked example, over two hours and two partitions.
    pub(crate) async fn worked_example(&self, customer: &str) {
        for (meter, total) in WORKED_EXAMPLE {
            let part = total / 3;
            self.usage(customer, "2026-10-01T00:00:00Z", &format!("{customer}-a"), meter, part).await;
            self.usage(customer, "2026-10-01T00:00:00Z", &format!("{customer}-b"), meter, part).await;
            self.usage(customer, "2026-10-31T23:00:00Z", &format!("{customer}-a"), meter, total - 2 * part).await;
        }
    }

    /// A transaction of the application, with this customer as its proven tenant.
    pub(crate) async fn tenant<'c>(connection: &'c mut PgConnection, customer: &str) -> Transaction<'c, Postgres> {
        let mut mac = Hmac::<Sha256>::new_from_slice(TENANT_KEY).unwrap();
        mac.update(customer.as_bytes());
        let mut transaction = connection.begin().await.unwrap();
        sqlx::query("select set_tenant($1, $2)")
            .bind(customer)
            .bind(mac.finalize().into_bytes().to_vec())
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction
    }

    /// Issues October 2026 for everyone at the first moment of November.
    pub(crate) async fn issue_october(&self) -> RunReport {
        billing::issue(&self.billing, &request("2026-10"), at("2026-11-01T00:00:00Z")).await.unwrap()
    }
}

pub(crate) fn request(period: &str) -> RunRequest {
    RunRequest {
        period: Month::parse(period).unwrap(),
        customers: Customers::All,
        seller: Party {
            name: "SecureBase Inc.".into(),
            address: "2 Vault Road\nDover, DE 19901".into(),
            tax_id: "US 98-7654321".into(),
        },
    }
}

pub(crate) fn only(period: &str, customers: &[&str]) -> RunRequest {
    let ids = customers.iter().map(|id| CustomerId::from_str(id).unwrap()).collect();
    RunRequest { customers: Customers::Only(ids), ..request(period) }
}

pub(crate) fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

/// One short text per customer: `anna: issued INV-2026-11-0001`.
pub(crate) fn summary(report: &RunReport) -> Vec<String> {
    let number = |invoice: &InvoiceDocument| invoice.number.clone().unwrap_or_else(|| "without number".into());
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Issued(invoice) => format!("issued {}", number(invoice)),
        Outcome::AlreadyIssued(invoice) => format!("already issued {}", number(invoice)),
        Outcome::Previewed(invoice) => format!("previewed {}", number(invoice)),
        Outcome::NotUnderContract => "not under contract".into(),
        Outcome::Failed(error) => format!("failed: {error}"),
    };
    report.results.iter().map(|result| format!("{}: {}", result.customer, outcome(&result.outcome))).collect()
}

/// The only invoice of a report, however it got there.
pub(crate) fn only_invoice(report: &RunReport) -> &InvoiceDocument {
    match report.results.as_slice() {
        [result] => match &result.outcome {
            Outcome::Issued(invoice) | Outcome::AlreadyIssued(invoice) | Outcome::Previewed(invoice) => invoice,
            _ => panic!("{:?}", summary(report)),
        },
        _ => panic!("{:?}", summary(report)),
    }
}
