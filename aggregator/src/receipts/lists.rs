//! From lists of an organization's accounts to proofs: what makes the meter `accounts` reconciled.
//!
//! A list says which accounts are members when it is made. Where what was told before comes to the same (an account is listed, or
//! was seen to be gone), the list speaks for the account up to then, from the list before it on. Where it does not, because an
//! account left and nobody said so, there is no proof: the account's hours stay incomplete, and a close says since when, until
//! the event that is missing was read.
//!
//! The first list of an organization speaks for all that was before, since it says of each account when it joined.

use chrono::{DateTime, Utc};
use ingest::{AccountId, Meter, Timestamp};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use sqlx::prelude::FromRow;

use super::proof::Proof;
use super::proofs::{Proofs, RecordError};

/// The one lane of an account: lists of whichever organization it is in.
const LANE: &str = "organizations/list-accounts";
/// Proofs recorded in one transaction.
const TOGETHER: usize = 64;

#[derive(FromRow)]
struct Agreeing {
    organization_id: String,
    account_id: String,
    listed_at: DateTime<Utc>,
    listed_before: Option<DateTime<Utc>>,
}

/// Records what lists that are rolled up prove and was not recorded yet; returns how many proofs are new.
pub async fn import_lists(pool: &PgPool, proofs: &Proofs, now: Timestamp) -> Result<usize, RecordError> {
    let agreeing: Vec<Agreeing> =
        sqlx::query_as(AGREEING).bind(ingest::LISTED).bind(LANE).persistent(false).fetch_all(pool).await?;
    let mut new = 0;
    for together in agreeing.chunks(TOGETHER) {
        let together: Vec<Proof> = together.iter().map(proof).collect();
        new += proofs.record(&together, now).await?;
    }
    Ok(new)
}

fn proof(agreeing: &Agreeing) -> Proof {
    let Agreeing { organization_id, account_id, listed_at, listed_before } = agreeing;
    // As AGREEING builds it, to find what is recorded.
    let name = format!("{organization_id}@{}", listed_at.timestamp_micros());
    let beginning = Timestamp::from_micros(0).expect("1970 is a time");
    Proof {
        meter: Meter::Accounts,
        account: AccountId::parse(account_id).expect("only account ids are stored"),
        lane: LANE.to_owned(),
        // A page of a list that comes later changes nothing of what the others say.
        content_sha256: Sha256::digest(name.as_bytes()).into(),
        name,
        covers: (listed_before.map_or(beginning, Timestamp::from), (*listed_at).into()),
        is_backfill: false,
        previous: None,
        is_signature_checked: false,
        objects: Vec::new(),
        usage: Vec::new(),
    }
}

// Of each list and each account that was last seen live in its organization by then: those of which the last word until then is
// the list's own, or that they are gone.
const AGREEING: &str = "
    with lists as (
        select organization_id, listed_at,
            lag(listed_at) over (partition by organization_id order by listed_at) as listed_before
        from (
            select distinct category as organization_id, time as listed_at from usage_facts
            where meter = 'accounts' and region = $1 and category like 'o-%' and in_force
        ) as made
    ), members as (
        select distinct category as organization_id, account_id from usage_facts
        where meter = 'accounts' and kind = 'live' and category like 'o-%' and in_force
    )
    select l.organization_id, m.account_id, l.listed_at, l.listed_before
    from lists l
    join members m using (organization_id)
    cross join lateral (
        select f.kind, f.time from usage_facts f
        where f.account_id = m.account_id and f.meter = 'accounts' and f.resource = m.account_id and f.in_force
            and f.time <= l.listed_at
        order by f.time desc limit 1
    ) as word
    cross join lateral (
        select f.category from usage_facts f
        where f.account_id = m.account_id and f.meter = 'accounts' and f.kind = 'live' and f.category like 'o-%'
            and f.in_force and f.time <= l.listed_at
        order by f.time desc limit 1
    ) as member
    where member.category = l.organization_id and (word.time = l.listed_at or word.kind = 'gone')
        and not exists (
            select from source_proofs p
            where p.meter = 'accounts' and p.account_id = m.account_id and p.lane = $2
                and p.file_name
                    = l.organization_id || '@' || (extract(epoch from l.listed_at) * 1000000)::bigint::text)
    order by l.listed_at, l.organization_id, m.account_id";

pub(super) const STATEMENTS: &[&str] = &[AGREEING];
