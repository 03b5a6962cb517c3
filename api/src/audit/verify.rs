//! Every chain followed from its first event to its head, in one consistent picture.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};
use thiserror::Error;

use super::chain::{Break, ChainedEvent, Followed, shown};
use super::months::ArchivedMonths;

/// One picture for events and heads.
const BEGIN: &str = "begin isolation level repeatable read read only";

pub(crate) const HEADS: &str = "select chain, sequence, hash from audit_heads order by chain collate \"C\"";

/// Where a chain begins in the database.
pub(crate) const FIRST_OF_CHAIN: &str = "select min(sequence) from audit_events where chain = $1";

pub(crate) const CHAINS_WITHOUT_HEAD: &str = "select distinct e.chain from audit_events e \
     where not exists (select from audit_heads h where h.chain = e.chain) order by 1";

/// Events of a chain after one, in order.
pub(crate) const EVENTS: &str = "select chain, sequence, (extract(epoch from occurred_at) * 1000000)::bigint as micros, \
     recorded_by, actor, action, subject, details::text as details, encode(previous_hash, 'hex') as previous_hash, \
     encode(hash, 'hex') as hash from audit_events where chain = $1 and sequence > $2 order by sequence limit $3";

/// Events read at once.
const PAGE: i64 = 5_000;

/// The end of a chain at some time: what was written down elsewhere to witness it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The customer, or '' for the platform.
    pub chain: String,
    /// The last event.
    pub sequence: i64,
    /// Its hash, 64 hexadecimal digits.
    pub hash: String,
}

/// Heads that a witness wrote down, such as those of a day in object storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its name in messages.
    pub name: String,
    /// What it knows.
    pub heads: Vec<Head>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Chains followed.
    pub chains: u64,
    /// Events followed.
    pub events: u64,
    /// Heads of witnesses that were compared.
    pub witnessed: u64,
    /// The first break of each chain that has one, and what witnesses miss.
    pub breaks: Vec<Break>,
}

/// What witnesses know of a chain: by event, who remembers which hash.
type Witnessed<'a> = BTreeMap<i64, Vec<(&'a str, &'a str)>>;

/// Why nothing was found out.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// PostgreSQL failed. Retry when it was away.
    #[error("the audit trail cannot be read")]
    Database(#[from] sqlx::Error),
}

/// Follows every chain. The connection is the operator's, who sees all of them.
pub async fn verify(connection: &mut PgConnection, witnesses: &[Witness]) -> Result<Verification, VerifyError> {
    verify_after(connection, witnesses, &ArchivedMonths::default()).await
}

/// Follows every chain, from where archived months end if the database begins later; these months are witnesses as well.
pub async fn verify_after(
    connection: &mut PgConnection,
    witnesses: &[Witness],
    months: &ArchivedMonths,
) -> Result<Verification, VerifyError> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    let mut verification = Verification { breaks: months.breaks.clone(), ..Verification::default() };
    let of_months = months.witnesses();
    let witnesses: Vec<&Witness> = witnesses.iter().chain(&of_months).collect();
    let mut known: BTreeMap<String, Witnessed<'_>> = BTreeMap::new();
    for witness in witnesses {
        for head in &witness.heads {
            let of_chain = known.entry(head.chain.clone()).or_default();
            of_chain.entry(head.sequence).or_default().push((&witness.name, &head.hash));
        }
    }

    let heads = sqlx::query(HEADS).persistent(false).fetch_all(&mut *transaction).await?;
    let mut ends: BTreeMap<String, Option<(i64, Vec<u8>)>> = BTreeMap::new();
    for head in heads {
        ends.insert(head.try_get(0)?, Some((head.try_get(1)?, head.try_get(2)?)));
    }
    let headless = sqlx::query_scalar(CHAINS_WITHOUT_HEAD).persistent(false).fetch_all(&mut *transaction).await?;
    // A chain that only a witness knows has lost everything.
    ends.extend(headless.into_iter().map(|chain: String| (chain, None)));
    for chain in known.keys() {
        ends.entry(chain.clone()).or_insert(None);
    }

    for (chain, end) in ends {
        verification.chains += 1;
        let none = BTreeMap::new();
        let known = known.get(&chain).unwrap_or(&none);
        let first: Option<i64> =
            sqlx::query_scalar(FIRST_OF_CHAIN).bind(&chain).persistent(false).fetch_one(&mut *transaction).await?;
        let mut followed = months.before(&chain, first);
        // What came before was compared where it is: in the archive.
        let known: Witnessed<'_> = known.range(followed.sequence..).map(|(at, who)| (*at, who.clone())).collect();
        let known = &known;
        match follow(&mut transaction, &mut followed, known, months.border(&chain), &mut verification).await? {
            Err(broken) => verification.breaks.push(broken),
            Ok(()) => {
                let (sequence, hash) = end.unwrap_or_default();
                let hash = if sequence == 0 { super::chain::FIRST_HASH.to_vec() } else { hash };
                if let Err(broken) = followed.ends_at(sequence, &hash, "the chain's head") {
                    verification.breaks.push(broken);
                }
            }
        }
        // What witnesses know beyond the last event that is there.
        for (sequence, who) in known.range(followed.sequence + 1..) {
            for (witness, hash) in who {
                verification.witnessed += 1;
                let hash = hex::decode(hash).unwrap_or_default();
                if let Err(broken) = followed.ends_at(*sequence, &hash, witness) {
                    verification.breaks.push(broken);
                }
            }
        }
    }
    transaction.rollback().await?;
    Ok(verification)
}

async fn follow(
    connection: &mut PgConnection,
    followed: &mut Followed,
    known: &Witnessed<'_>,
    border: Option<(i64, i64)>,
    verification: &mut Verification,
) -> Result<Result<(), Break>, sqlx::Error> {
    loop {
        let rows = page(connection, &followed.chain, followed.sequence).await?;
        let is_last = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        for event in &rows {
            if let Err(broken) = followed.follow(event) {
                return Ok(Err(broken));
            }
            verification.events += 1;
            if border.is_some_and(|(last, end_at)| last < event.sequence && event.occurred_at < end_at) {
                let object = format!("event {} of chain {}", event.sequence, shown(&followed.chain));
                return Ok(Err(Break::Archive { object, what: "is missing in its month".to_owned() }));
            }
            for (witness, hash) in known.get(&followed.sequence).into_iter().flatten() {
                verification.witnessed += 1;
                let hash = hex::decode(hash).unwrap_or_default();
                if let Err(broken) = followed.ends_at(followed.sequence, &hash, witness) {
                    return Ok(Err(broken));
                }
            }
        }
        if is_last {
            return Ok(Ok(()));
        }
    }
}

/// The events of a chain after one, at most a page of them.
pub(crate) async fn page(
    connection: &mut PgConnection,
    chain: &str,
    after: i64,
) -> Result<Vec<ChainedEvent>, sqlx::Error> {
    sqlx::query(EVENTS)
        .bind(chain)
        .bind(after)
        .bind(PAGE)
        .persistent(false)
        .try_map(|row: PgRow| event(&row))
        .fetch_all(connection)
        .await
}

pub(crate) fn event(row: &PgRow) -> Result<ChainedEvent, sqlx::Error> {
    Ok(ChainedEvent {
        chain: row.try_get("chain")?,
        sequence: row.try_get("sequence")?,
        occurred_at: row.try_get("micros")?,
        recorded_by: row.try_get("recorded_by")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        details: row.try_get("details")?,
        previous_hash: row.try_get("previous_hash")?,
        hash: row.try_get("hash")?,
    })
}

/// The heads as they are now, to be written down elsewhere.
pub async fn heads(connection: &mut PgConnection) -> Result<Vec<Head>, VerifyError> {
    let rows = sqlx::query(HEADS).persistent(false).fetch_all(connection).await?;
    let read = |row: &PgRow| {
        let hash: Vec<u8> = row.try_get(2)?;
        Ok(Head { chain: row.try_get(0)?, sequence: row.try_get(1)?, hash: hex::encode(hash) })
    };
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}
