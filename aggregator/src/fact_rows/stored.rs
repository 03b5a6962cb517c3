//! Facts as PostgreSQL keeps them.

use chrono::{DateTime, Utc};
use ingest::{
    AccountId, Bucket, ContentHash, Dimensions, ExportGeneration, FactKey, FactValue, Identity, Meter, Quantity,
    Timestamp, UsageFact,
};
use sqlx::{FromRow, PgConnection};
use thiserror::Error;

use crate::facts::FactVersion;

/// A stored fact is not one that this program wrote. Stop.
#[derive(Debug, Error)]
#[error("a stored fact of account {account} has no usable {column}")]
pub struct StoredError {
    /// Whose.
    pub account: String,
    /// Which column.
    pub column: &'static str,
}

/// A fact as it is read; every column is optional, as an outer join has none of them for a resource without facts.
#[derive(FromRow)]
pub(super) struct FactRow {
    pub(super) account_id: Option<String>,
    pub(super) meter: Option<String>,
    pub(super) resource: Option<String>,
    pub(super) time: Option<DateTime<Utc>>,
    pub(super) end_at: Option<DateTime<Utc>>,
    pub(super) revision: Option<i64>,
    pub(super) kind: Option<String>,
    pub(super) value: Option<String>,
    pub(super) region: Option<String>,
    pub(super) category: Option<String>,
    pub(super) export: Option<String>,
}

impl FactRow {
    /// The fact; `None` where the join found none.
    pub(super) fn fact(self) -> Result<Option<UsageFact<'static>>, StoredError> {
        let Some(account) = self.account_id else { return Ok(None) };
        let broken = |column| StoredError { account: account.clone(), column };
        let revision = self.revision.and_then(|revision| u64::try_from(revision).ok()).ok_or(broken("revision"))?;
        let number = self.value.map(|number| number.parse::<Quantity>()).transpose().map_err(|_| broken("value"))?;
        Ok(Some(UsageFact {
            key: FactKey {
                meter: self.meter.and_then(|name| Meter::parse_stored(&name).ok()).ok_or(broken("meter"))?,
                account: AccountId::parse(&account).map_err(|_| broken("account_id"))?,
                resource: self.resource.ok_or(broken("resource"))?.into(),
                time: self.time.map(Timestamp::from).ok_or(broken("time"))?,
                export: self.export.map(|scope| ExportGeneration { scope: scope.into(), number: revision }),
            },
            revision,
            dimensions: Dimensions {
                region: self.region.ok_or(broken("region"))?.into(),
                category: self.category.ok_or(broken("category"))?.into(),
            },
            end: self.end_at.map(Timestamp::from),
            value: FactValue::read(&self.kind.unwrap_or_default(), number).ok_or(broken("kind"))?,
        }))
    }
}

/// The key and version of a stored fact.
pub(super) fn version(key: &[u8], revision: i64, hash: &[u8]) -> Result<(Identity, FactVersion), StoredError> {
    let broken = |column| StoredError { account: "unknown".to_owned(), column };
    let key = Identity::from_bytes(key.try_into().map_err(|_| broken("key"))?);
    let hash = ContentHash::from_bytes(hash.try_into().map_err(|_| broken("content_hash"))?);
    Ok((key, FactVersion { revision: u64::try_from(revision).map_err(|_| broken("revision"))?, hash }))
}

/// Facts column by column: one statement writes them all.
#[derive(Default)]
pub(super) struct FactColumns<'a> {
    keys: Vec<Vec<u8>>,
    accounts: Vec<&'a str>,
    meters: Vec<&'static str>,
    resources: Vec<&'a str>,
    times: Vec<DateTime<Utc>>,
    ends: Vec<Option<DateTime<Utc>>>,
    revisions: Vec<i64>,
    hashes: Vec<Vec<u8>>,
    kinds: Vec<&'static str>,
    values: Vec<Option<String>>,
    regions: Vec<&'a str>,
    categories: Vec<&'a str>,
    exports: Vec<Option<&'a str>>,
    in_force: Vec<bool>,
}

impl<'a> FactColumns<'a> {
    /// These facts, and whether each is in force.
    pub(super) fn of(facts: impl Iterator<Item = (&'a UsageFact<'static>, bool)>) -> Self {
        let mut columns = Self::default();
        for (fact, in_force) in facts {
            columns.keys.push(fact.key.identity().as_bytes().to_vec());
            columns.accounts.push(fact.key.account.as_str());
            columns.meters.push(fact.key.meter.as_str());
            columns.resources.push(&fact.key.resource);
            columns.times.push(fact.key.time.into());
            columns.ends.push(fact.end.map(DateTime::from));
            columns.revisions.push(fact.revision.cast_signed());
            columns.hashes.push(fact.content_hash().as_bytes().to_vec());
            columns.kinds.push(fact.value.kind());
            columns.values.push(fact.value.number().map(|number| number.to_string()));
            columns.regions.push(&fact.dimensions.region);
            columns.categories.push(&fact.dimensions.category);
            columns.exports.push(fact.key.export.as_ref().map(|export| &*export.scope));
            columns.in_force.push(in_force);
        }
        columns
    }

    /// Writes them all.
    pub(super) async fn write(&self, bucket: Bucket, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let statement = sqlx::query(super::statements::WRITE_FACTS)
            .bind(bucket.number().cast_signed())
            .bind(&self.keys)
            .bind(&self.accounts)
            .bind(&self.meters)
            .bind(&self.resources)
            .bind(&self.times)
            .bind(&self.ends)
            .bind(&self.revisions)
            .bind(&self.hashes)
            .bind(&self.kinds)
            .bind(&self.values)
            .bind(&self.regions)
            .bind(&self.categories)
            .bind(&self.exports)
            .bind(&self.in_force);
        statement.execute(connection).await.map(drop)
    }
}
