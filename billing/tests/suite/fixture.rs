//! A database with customers and usage, and the ways into it.

use std::str::FromStr;

use aggregator::directory::CustomerId;
use billing::{Customers, InvoiceDocument, Month, Outcome, Party, Previewed, RunReport, RunRequest};
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
    database: Database,
    pub(crate) billing: PgPool,
}

/// Where the tables are.
enum Database {
    /// In a database of their own, on the server that all tests share.
    Shared(TestDatabase),
    /// On a server that somebody else keeps, and kills: the URLs of a role, with ROLE in its place.
    Own(String),
}

impl Database {
    fn url(&self, role: &str) -> String {
        match self {
            Self::Shared(database) => database.url(role),
            Self::Own(pattern) => pattern.replace("ROLE", role),
        }
    }

    fn superuser_url(&self) -> String {
        match self {
            Self::Shared(database) => database.superuser_url(),
            Self::Own(_) => self.url("postgres"),
        }
    }
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let database =
            TestDatabase::create(&migrations::fingerprint(), |url| async move { migrations::migrate(&url).await })
                .await
                .unwrap();
        Self::of(Database::Shared(database)).await
    }

    /// The tables on a server without any, which listens on this port.
    pub(crate) async fn on_server(port: u16) -> Self {
        let database = Database::Own(format!("postgres://ROLE@127.0.0.1:{port}/postgres"));
        migrations::migrate(&database.superuser_url()).await.unwrap();
        Self::of(database).await
    }

    async fn of(database: Database) -> Self {
        let billing =
            PgPoolOptions::new().max_connections(16).connect(&database.url("securebase_billing")).await.unwrap();
        let fixture = Self { database, billing };
        migrations::set_tenant_key(&mut fixture.superuser().await, TENANT_KEY).await.unwrap();
        fixture
    }

    pub(crate) async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&self.database.superuser_url()).await.unwrap()
    }

    pub(crate) fn superuser_url(&self) -> String {
        self.database.superuser_url()
    }

    pub(crate) fn url(&self, role: &str) -> String {
        self.database.url(role)
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

    /// Closes a month for a customer as the aggregator does: the totals of its usage rows, and evidence of them. Returns the
    /// close's number.
    pub(crate) async fn close(&self, customer: &str, period: &str, source_class: &str) -> i64 {
        let month = Month::parse(period).unwrap();
        let mut aggregator = self.connect("securebase_aggregator").await;
        let mut transaction = aggregator.begin().await.unwrap();
        let close_id: i64 = sqlx::query_scalar(
            "insert into closes (
                 customer_id, period_start, period_end, cut, source_class, directory_version, cut_at, evidence_sha256)
             select $1, $2, $3, coalesce(max(cut), 0) + 1, $4, 0, $5, sha256(convert_to($1 || coalesce(max(cut), 0), 'UTF8'))
             from closes where customer_id = $1 and period_start = $2
             returning close_id",
        )
        .bind(customer)
        .bind(month.first_day())
        .bind(month.end_day())
        .bind(source_class)
        .bind(chrono::DateTime::<chrono::Utc>::from(month.end()))
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        sqlx::query(
            "insert into closed_totals (
                 close_id, customer_id, account_id, meter, region, category, window_start, total, identities)
             select $1, $2, account_id, meter, region, category, window_start, sum(total), sha256('identities')
             from usage_rows
             where customer_id = $2 and window_start >= $3 and window_start < $4
             group by account_id, meter, region, category, window_start",
        )
        .bind(close_id)
        .bind(customer)
        .bind(chrono::DateTime::<chrono::Utc>::from(month.start()))
        .bind(chrono::DateTime::<chrono::Utc>::from(month.end()))
        .execute(&mut *transaction)
        .await
        .unwrap();
        sqlx::query(
            "insert into evidence_records (close_id, customer_id, sha256, document)
             select close_id, customer_id, evidence_sha256, 'gzip' from closes where close_id = $1",
        )
        .bind(close_id)
        .execute(&mut *transaction)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        close_id
    }

    /// Closes a month, proven, for everyone who has no close of it.
    pub(crate) async fn close_all(&self, period: &str) {
        let first_day = Month::parse(period).unwrap().first_day();
        let open: Vec<String> = sqlx::query_scalar(
            "select customer_id from customers c
             where not exists (select from closes k where k.customer_id = c.customer_id and k.period_start = $1)
             order by customer_id",
        )
        .bind(first_day)
        .fetch_all(&mut self.superuser().await)
        .await
        .unwrap();
        for customer in open {
            self.close(&customer, period, "proven").await;
        }
    }

    /// Closes a month for everyone, proven, and issues it at this time.
    pub(crate) async fn issue(&self, period: &str, now: &str) -> RunReport {
        self.close_all(period).await;
        billing::issue(&self.billing, &request(period), at(now)).await.unwrap()
    }

    /// Issues October 2026 for everyone at the first moment of November.
    pub(crate) async fn issue_october(&self) -> RunReport {
        self.issue("2026-10", "2026-11-01T00:00:00Z").await
    }

    /// The invoice with this number or id, as it is stored.
    pub(crate) async fn invoice(&self, number_or_id: &str) -> InvoiceDocument {
        let mut connection = self.connect("securebase_operator").await;
        billing::load_invoice(&mut connection, number_or_id).await.unwrap().unwrap()
    }

    /// The only invoice of a report, however it got there.
    pub(crate) async fn only_invoice(&self, report: &RunReport) -> InvoiceDocument {
        match report.results.as_slice() {
            [result] => self.invoice(&result.outcome.billed().unwrap().id).await,
            _ => panic!("{:?}", summary(report)),
        }
    }

    /// One text per row of a query's first column.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.superuser().await).await.unwrap()
    }
}

pub(crate) fn seller() -> Party {
    Party {
        name: "SecureBase Inc.".into(),
        address: "2 Vault Road\nDover, DE 19901".into(),
        tax_id: "US 98-7654321".into(),
    }
}

/// A run by one worker, so that numbers follow the order of customers.
pub(crate) fn request(period: &str) -> RunRequest {
    RunRequest { workers: 1, ..RunRequest::new(Month::parse(period).unwrap(), seller()) }
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
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Issued(invoice) => format!("issued {}", invoice.number.clone().unwrap()),
        Outcome::AlreadyIssued(invoice) => format!("already issued {}", invoice.number.clone().unwrap()),
        Outcome::Failed { reason } => format!("failed: {reason}"),
        other => match other.reason() {
            Some(reason) => format!("{}: {reason}", other.as_str()),
            None => other.as_str().replace('_', " "),
        },
    };
    report.results.iter().map(|result| format!("{}: {}", result.customer, outcome(&result.outcome))).collect()
}

/// The document of the only preview.
pub(crate) fn only_preview(previews: Vec<(CustomerId, Previewed)>) -> InvoiceDocument {
    match <[_; 1]>::try_from(previews).unwrap() {
        [(_, Previewed::Document(document) | Previewed::AlreadyIssued(document))] => *document,
        [other] => panic!("{other:?}"),
    }
}
