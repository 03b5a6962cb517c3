//! Sample meters that are data: defined once, known to everyone who reads samples or rolls them up.
//!
//! A definition never changes. What was measured under a name was measured by its rules; other rules are another name.

use chrono::{DateTime, Utc};
use ingest::{Aggregation, DefinitionError, MeterDefinition, Meters, NotAMeterName, SampleMeter, Timestamp};
use sqlx::{FromRow, PgConnection, PgPool};
use thiserror::Error;

use crate::audit::{self, Actor};
use crate::usage_rows::DatabaseError;

/// A sample meter to be defined, as a file or a person says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMeter {
    /// Its name.
    pub name: String,
    /// `sum`, `max` or `time_weighted`.
    pub aggregation: String,
    /// The longest gap between two samples, in seconds; for `time_weighted` only.
    pub gap_seconds_max: Option<u32>,
    /// What it is, for people.
    pub description: String,
}

/// What defining a meter changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterDefined {
    /// It is new.
    New,
    /// It was defined so already.
    Unchanged,
}

/// Why a meter was not defined. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DefineError {
    /// Stop: choose another name.
    #[error("meter {name:?}: {source}")]
    Name {
        /// The name asked for.
        name: String,
        /// What is wrong with it.
        source: NotAMeterName,
    },
    /// Stop: there is no such aggregation.
    #[error("meter {name}: {aggregation:?} is none of sum, max, time_weighted")]
    Aggregation {
        /// The meter.
        name: String,
        /// What it says.
        aggregation: String,
    },
    /// Stop: say what is missing, or leave out what has no use.
    #[error("meter {name}: {source}")]
    Definition {
        /// The meter.
        name: String,
        /// What is wrong.
        source: DefinitionError,
    },
    /// Stop: a definition never changes; other rules need another name.
    #[error("meter {name} is defined already, as {stored}; a definition never changes, so use another name")]
    Differs {
        /// The meter.
        name: String,
        /// How it is defined.
        stored: String,
    },
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl NewMeter {
    /// The definition it stands for, checked.
    pub fn definition(&self) -> Result<MeterDefinition, DefineError> {
        let name = || self.name.clone();
        let meter = SampleMeter::parse(&self.name).map_err(|source| DefineError::Name { name: name(), source })?;
        let aggregation = Aggregation::parse_of_samples(&self.aggregation)
            .ok_or_else(|| DefineError::Aggregation { name: name(), aggregation: self.aggregation.clone() })?;
        MeterDefinition::of_samples(meter, aggregation, self.gap_seconds_max, self.description.clone())
            .map_err(|source| DefineError::Definition { name: name(), source })
    }
}

/// The meters of a database.
#[derive(Clone, Debug)]
pub struct MeterBook {
    pool: PgPool,
}

impl MeterBook {
    /// The meters behind a pool of connections; defining takes `securebase_aggregator`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Every meter: the built-in ones and those defined.
    pub async fn read(&self) -> Result<Meters, DatabaseError> {
        let mut connection = self.pool.acquire().await?;
        Ok(read(&mut connection).await?)
    }

    /// Defines a sample meter; saying the same again changes nothing.
    pub async fn define(&self, meter: &NewMeter, now: Timestamp) -> Result<MeterDefined, DefineError> {
        let definition = meter.definition()?;
        let gap = definition.gap_seconds_max.map(|gap| i32::try_from(gap).unwrap_or(i32::MAX));
        let mut transaction = self.pool.begin().await.map_err(DatabaseError::from)?;
        let added = sqlx::query(ADD_METER)
            .bind(definition.meter.as_str())
            .bind(definition.aggregation.as_str())
            .bind(gap)
            .bind(&definition.description)
            .bind(DateTime::<Utc>::from(now))
            .execute(&mut *transaction)
            .await
            .map_err(DatabaseError::from)?;
        if added.rows_affected() == 1 {
            let gap = gap.map_or_else(String::new, |gap| gap.to_string());
            let details = [("aggregation", definition.aggregation.as_str()), ("gap_seconds_max", &gap)];
            let subject = definition.meter.as_str();
            audit::record(&[None], Actor::Operator, "meter.defined", subject, &details, &mut transaction)
                .await
                .map_err(DatabaseError::from)?;
            transaction.commit().await.map_err(DatabaseError::from)?;
            return Ok(MeterDefined::New);
        }
        drop(transaction);
        let stored = self.read().await?;
        let stored = stored.get(definition.meter).expect("what conflicts is there, and never goes");
        let rules = |one: &MeterDefinition| (one.aggregation, one.gap_seconds_max);
        if rules(stored) == rules(&definition) {
            return Ok(MeterDefined::Unchanged);
        }
        let gap = stored.gap_seconds_max.map(|gap| format!(" with gaps of at most {gap} s")).unwrap_or_default();
        let stored = format!("{}{gap}", stored.aggregation.as_str());
        Err(DefineError::Differs { name: meter.name.clone(), stored })
    }
}

#[derive(FromRow)]
struct MeterRow {
    meter: String,
    aggregation: String,
    gap_seconds_max: Option<i32>,
    description: String,
}

/// Every meter, in the transaction of this connection. A stored definition that this program cannot read is left out, so
/// that its facts are refused and not guessed at.
pub(crate) async fn read(connection: &mut PgConnection) -> Result<Meters, sqlx::Error> {
    let rows: Vec<MeterRow> = sqlx::query_as(READ_METERS).fetch_all(connection).await?;
    Ok(Meters::with_samples(rows.into_iter().filter_map(|row| {
        let gap_seconds_max = row.gap_seconds_max.map(|gap| gap.unsigned_abs());
        let MeterRow { meter: name, aggregation, description, .. } = row;
        NewMeter { name, aggregation, gap_seconds_max, description }.definition().ok()
    })))
}

const READ_METERS: &str = "select meter, aggregation, gap_seconds_max, description from sample_meters order by meter";

const ADD_METER: &str = "
    insert into sample_meters (meter, aggregation, gap_seconds_max, description, defined_at) values ($1, $2, $3, $4, $5)
    on conflict do nothing";

/// Every statement of this module, for the test that prepares them against the schema.
#[doc(hidden)]
pub const STATEMENTS: &[&str] = &[READ_METERS, ADD_METER];
