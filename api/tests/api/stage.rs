//! A fresh database, a running server, and rows put straight into the tables.

use std::net::SocketAddr;

use aggregator::directory::CustomerId;
use api::auth::{HashingPool, KeyToken, SigningKeys};
use api::{ApiParts, ApiState, Identity, Statements, TenantMac, pool, serve};
use billing::Party;
use chrono::{DateTime, Utc};
use embedded::PostgreSql;
use embedded::testing::TestDatabase;
use ingest::{Meter, Timestamp};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;

const MAC_KEY: [u8; 32] = [42; 32];
const SIGNING_KEY: [u8; 32] = [43; 32];

/// The customers of a stage, each with a key that may do everything a customer's key may.
const CUSTOMERS: [&str; 3] = ["acme", "globex", "nobody"];

/// bcrypt takes long enough to do it once a process: every key of a stage has the same secret.
static HASH: OnceCell<String> = OnceCell::const_new();
const SECRET: [u8; 32] = [7; 32];

/// One test's database and the server on it.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) database: TestDatabase,
}

/// A key of a customer, or of an operator. Those of one customer differ by number.
pub(crate) fn token(customer: Option<&str>, number: u8) -> KeyToken {
    let mut id = [number; 16];
    let name = customer.unwrap_or_default().as_bytes();
    id[..name.len().min(12)].copy_from_slice(&name[..name.len().min(12)]);
    // The largest digits come first, and some of them are cut off.
    id.reverse();
    KeyToken::mint(customer.map(|customer| CustomerId::parse(customer).unwrap()), id, SECRET)
}

/// A row of `usage_rows`.
#[derive(Clone, Debug)]
pub(crate) struct UsageSeed {
    pub(crate) customer: Option<String>,
    pub(crate) account: String,
    pub(crate) meter: Meter,
    pub(crate) region: String,
    pub(crate) category: String,
    pub(crate) window_start: DateTime<Utc>,
    pub(crate) partition: String,
    pub(crate) total: u128,
}

impl UsageSeed {
    /// The table's primary key.
    pub(crate) fn key(&self) -> impl Ord + use<> {
        let row = self.clone();
        (row.account, row.meter, row.window_start, row.region, row.category, row.partition)
    }
}

/// One row in October 2026.
pub(crate) fn one_row(customer: Option<&str>, account: &str, total: u128) -> UsageSeed {
    UsageSeed {
        customer: customer.map(str::to_owned),
        account: account.to_owned(),
        meter: Meter::CloudTrailEvents,
        region: "us-east-1".to_owned(),
        category: "Management".to_owned(),
        window_start: Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap().into(),
        partition: "p".to_owned(),
        total,
    }
}

impl Stage {
    /// A migrated database with the tenant key, and a server on it as `securebase_app`.
    pub(crate) async fn new() -> Self {
        let migrate = async |url: String| migrations::migrate(&url).await;
        Self::over(TestDatabase::create(&migrations::fingerprint(), migrate).await.unwrap()).await
    }

    /// The same on a server of the test's own.
    pub(crate) async fn on(server: &PostgreSql) -> Self {
        let migrate = async |url: String| migrations::migrate(&url).await;
        Self::over(TestDatabase::create_on(server, &migrations::fingerprint(), migrate).await.unwrap()).await
    }

    async fn over(database: TestDatabase) -> Self {
        let mut owner = PgConnection::connect(&database.superuser_url()).await.unwrap();
        migrations::set_tenant_key(&mut owner, &MAC_KEY).await.unwrap();
        let unserved = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut stage = Self { address: unserved, database };
        stage.add_customers(&mut owner).await;
        stage.address = stage.serve(stage.state()).await;
        stage
    }

    async fn add_customers(&self, owner: &mut PgConnection) {
        for customer in CUSTOMERS {
            sqlx::query(
                "insert into customers (customer_id, name, tier, contract_start)
                 values ($1, initcap($1), case $1 when 'globex' then 'fintech' else 'standard' end::customer_tier,
                     '2026-01-01Z')",
            )
            .bind(customer)
            .execute(&mut *owner)
            .await
            .unwrap();
            self.add_key(&token(Some(customer), 1), &["read:usage", "read:invoices", "read:audit", "write:keys"]).await;
        }
    }

    /// Stores a key with the secret that all keys of a stage have.
    pub(crate) async fn add_key(&self, token: &KeyToken, scopes: &[&str]) {
        let hash =
            HASH.get_or_init(|| async { HashingPool::new(1).hash(token.secret_digest(), [9; 16]).await.unwrap() });
        sqlx::query(
            "insert into api_keys (key_id, customer_id, name, scopes, secret_hash, created_at, created_by)
             values ($1, $2, 'a test', $3, $4, '2026-01-01Z', 'test')",
        )
        .bind(token.key_id.as_str())
        .bind(token.customer.as_ref().map(CustomerId::as_str))
        .bind(scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>())
        .bind(hash.await)
        .execute(&mut self.superuser().await)
        .await
        .unwrap();
    }

    pub(crate) fn url(&self, role: &str) -> String {
        self.database.url(role)
    }

    pub(crate) fn options(&self, role: &str) -> PgConnectOptions {
        self.url(role).parse().unwrap()
    }

    pub(crate) fn postgres_address(&self) -> SocketAddr {
        let options = self.options("securebase_app");
        SocketAddr::new(options.get_host().parse().unwrap(), options.get_port())
    }

    /// A connection above row-level security.
    pub(crate) async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&self.database.superuser_url()).await.unwrap()
    }

    pub(crate) fn pool(&self) -> PgPool {
        pool(self.options("securebase_app"))
    }

    pub(crate) fn mac_key(&self) -> TenantMac {
        TenantMac::new(MAC_KEY).unwrap()
    }

    pub(crate) fn parts(&self) -> ApiParts {
        ApiParts {
            pool: self.pool(),
            operator_pool: Some(PgPool::connect_lazy_with(self.options("securebase_operator"))),
            operations: None,
            seller: Party { name: "SecureBase".to_owned(), ..Party::default() },
            statements: Statements::Prepared,
            mac_key: self.mac_key(),
            signing_keys: SigningKeys::new(vec![("test".to_owned(), SIGNING_KEY.to_vec())]).unwrap(),
            shared_table: None,
            serves_alone: false,
            hashing_threads: 2,
            identity: Identity::OfHeader,
            cors_origins: vec![],
        }
    }

    pub(crate) fn state(&self) -> ApiState {
        ApiState::new(self.parts())
    }

    /// The key of a customer of the stage.
    pub(crate) fn key(&self, customer: &str) -> String {
        token(Some(customer), 1).reveal()
    }

    /// Another server in this process; it ends with the test.
    pub(crate) async fn serve(&self, state: ApiState) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, state, std::future::pending()));
        address
    }

    /// A server whose connections have another role or key.
    pub(crate) async fn serve_as(&self, role: &str, mac_key: TenantMac) -> SocketAddr {
        self.serve(ApiState::new(ApiParts { pool: pool(self.options(role)), mac_key, ..self.parts() })).await
    }

    /// A server that ends when told to.
    pub(crate) async fn stoppable(&self) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<std::io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        (address, stop, tokio::spawn(serve(listener, self.state(), shutdown)))
    }

    /// Puts rows into the table as they are, and the days they come to.
    pub(crate) async fn seed(&self, rows: &[UsageSeed]) {
        let column = |text: fn(&UsageSeed) -> String| rows.iter().map(text).collect::<Vec<_>>();
        sqlx::query(
            "insert into usage_rows
                 (account_id, meter, region, category, window_start, partition, total, version, customer_id)
             select account_id, meter, region, category, window_start, partition, total::numeric, 1, customer_id
             from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[],
                 $8::text[])
                 as r (account_id, meter, region, category, window_start, partition, total, customer_id)",
        )
        .bind(column(|row| row.account.clone()))
        .bind(column(|row| row.meter.to_string()))
        .bind(column(|row| row.region.clone()))
        .bind(column(|row| row.category.clone()))
        .bind(rows.iter().map(|row| row.window_start).collect::<Vec<_>>())
        .bind(column(|row| row.partition.clone()))
        .bind(column(|row| row.total.to_string()))
        .bind(rows.iter().map(|row| row.customer.clone()).collect::<Vec<_>>())
        .execute(&mut self.superuser().await)
        .await
        .unwrap();
        // What the roll-up does in the same transaction.
        sqlx::raw_sql(
            "delete from usage_days;
             insert into usage_days
                 (account_id, meter, region, category, window_start, customer_id, total, hourly_rows)
             select account_id, meter, region, category, date_trunc('day', window_start, 'UTC'), customer_id,
                 sum(total), count(*)
             from usage_rows group by 1, 2, 3, 4, 5, 6",
        )
        .execute(&mut self.superuser().await)
        .await
        .unwrap();
    }
}
