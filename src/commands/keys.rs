//! `securebase keys`.

use std::future::Future;
use std::process::ExitCode;

use aggregator::directory::CustomerId;
use anyhow::Context;
use api::api_keys::{KeyActor, KeyError, KeyRecord, MintedSecret, NewKey};
use api::auth::{HashingPool, KeyId, KeyToken, Scope, Scopes};
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

/// Keys that `list` shows at most.
const LISTED_MAX: u32 = 10_000;

const HOUR_SECS: i64 = 3_600;

pub(super) async fn run(global: &Global, command: cli::Keys) -> anyhow::Result<ExitCode> {
    match command {
        cli::Keys::Create(arguments) => {
            let new = read(&arguments)?;
            let made = with_stores(global, async move |stores: Stores| create(&stores, new).await).await?;
            show(global, &made);
        }
        cli::Keys::List { customer } => {
            let customer = customer.map(|id| CustomerId::parse(&id)).transpose().context("--customer")?;
            let records = with_stores(global, async move |stores: Stores| {
                let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
                Ok(api::api_keys::list(&mut connection, customer.as_ref(), None, LISTED_MAX).await?)
            })
            .await?;
            list(global, &records);
        }
        cli::Keys::Revoke { key } => {
            let key_id = KeyId::parse(&key).with_context(|| format!("key {key:?}"))?;
            let record = with_stores(global, async move |stores: Stores| {
                let owner = owner_of(&stores, &key_id).await?;
                let mut transaction = stores.database.pool(Role::Operator)?.begin().await?;
                let actor = operator();
                let revoked =
                    api::api_keys::revoke(&mut transaction, owner.as_ref(), &key_id, &actor, edge::now()).await?;
                transaction.commit().await?;
                Ok(revoked)
            })
            .await?;
            if global.json {
                print::json(&document(&record));
            } else {
                print::line(&format!("key {} is refused from now on", record.key_id));
            }
        }
        cli::Keys::Rotate { key, overlap } => {
            let key_id = KeyId::parse(&key).with_context(|| format!("key {key:?}"))?;
            let overlap_secs = i64::from(overlap) * HOUR_SECS;
            anyhow::ensure!(overlap_secs <= api::api_keys::OVERLAP_SECS_MAX, "--overlap is at most 168 hours");
            let made = with_stores(global, async move |stores: Stores| {
                let owner = owner_of(&stores, &key_id).await?;
                let minted = mint(owner.as_ref()).await?;
                let mut transaction = stores.database.pool(Role::Operator)?.begin().await?;
                let (actor, now) = (operator(), edge::now());
                let owner = owner.as_ref();
                let record =
                    api::api_keys::rotate(&mut transaction, owner, &key_id, &minted, overlap_secs, &actor, now).await?;
                transaction.commit().await?;
                Ok((record, minted.token.reveal()))
            })
            .await?;
            show(global, &made);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn with_stores<T, F>(global: &Global, work: impl FnOnce(Stores) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let platform = Platform::open(global, Work::Database).await?;
    super::with_platform(platform, work).await
}

/// Makes a key; returns it with its whole text.
pub(super) async fn create(stores: &Stores, new: NewKey) -> anyhow::Result<(KeyRecord, String)> {
    let minted = mint(new.customer.as_ref()).await?;
    let mut transaction = stores.database.pool(Role::Operator)?.begin().await?;
    let created = api::api_keys::create(&mut transaction, &new, &minted, &operator(), edge::now()).await;
    let record = created.map_err(|error| match (&error, &new.customer) {
        (KeyError::NoCustomer, Some(customer)) => anyhow::anyhow!("there is no customer {customer}: add it first"),
        _ => error.into(),
    })?;
    transaction.commit().await?;
    Ok((record, minted.token.reveal()))
}

async fn mint(customer: Option<&CustomerId>) -> anyhow::Result<MintedSecret> {
    let token = KeyToken::mint(customer.cloned(), edge::secret_bytes()?, edge::secret_bytes()?);
    let hash = HashingPool::new(1).hash(token.secret_digest(), edge::secret_bytes()?).await?;
    Ok(MintedSecret { token, hash })
}

fn read(arguments: &cli::KeyCreate) -> anyhow::Result<NewKey> {
    let customer = arguments.customer.as_deref().map(CustomerId::parse).transpose().context("--customer")?;
    let scopes = if arguments.admin {
        [Scope::Admin].into_iter().collect()
    } else {
        Scopes::parse(arguments.scopes.split(',').map(str::trim)).context("--scopes")?
    };
    let expires_at = arguments.expires.as_deref().map(|text| super::instant(text, "--expires")).transpose()?;
    Ok(NewKey { customer, name: arguments.name.clone(), scopes, expires_at })
}

/// Whose key it is; `None` for an operator's.
async fn owner_of(stores: &Stores, key_id: &KeyId) -> anyhow::Result<Option<CustomerId>> {
    let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
    let records = api::api_keys::list(&mut connection, None, None, LISTED_MAX).await?;
    let record = records.into_iter().find(|record| record.key_id == *key_id);
    Ok(record.with_context(|| format!("there is no key {key_id}: `securebase keys list` shows them"))?.customer)
}

fn operator() -> KeyActor {
    KeyActor { name: "operator".to_owned(), scopes: None }
}

fn show(global: &Global, (record, key): &(KeyRecord, String)) {
    if global.json {
        let mut shown = document(record);
        shown["key"] = json!(key);
        print::json(&shown);
    } else {
        let owner = record.customer.as_ref().map_or("an operator", CustomerId::as_str);
        print::line(&format!("key {} of {owner}: {}", record.key_id, record.scopes.names().join(", ")));
        print::line(&format!("It is shown this once, and stored nowhere:\n  {key}"));
    }
}

fn list(global: &Global, records: &[KeyRecord]) {
    if global.json {
        print::json(&json!({ "keys": records.iter().map(document).collect::<Vec<_>>() }));
        return;
    }
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let state = match (record.revoked_at, record.expires_at) {
                (Some(at), _) => format!("revoked {at}"),
                (None, Some(at)) if at <= edge::now() => format!("expired {at}"),
                (None, Some(at)) => format!("until {at}"),
                (None, None) => "in force".to_owned(),
            };
            vec![
                record.key_id.to_string(),
                record.customer.as_ref().map_or("operator", CustomerId::as_str).to_owned(),
                record.name.clone(),
                record.scopes.names().join(","),
                state,
                record.last_used_at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            ]
        })
        .collect();
    print::table(&["key", "owner", "name", "scopes", "state", "last used"], &rows);
}

fn document(record: &KeyRecord) -> Value {
    let text = |at: Option<ingest::Timestamp>| at.map(|at| at.to_string());
    json!({
        "key_id": record.key_id.as_str(),
        "customer": record.customer.as_ref().map(CustomerId::as_str),
        "name": record.name,
        "scopes": record.scopes.names(),
        "created_at": record.created_at.to_string(),
        "created_by": record.created_by,
        "expires_at": text(record.expires_at),
        "revoked_at": text(record.revoked_at),
        "rotated_to": record.rotated_to.as_ref().map(KeyId::as_str),
        "last_used_at": text(record.last_used_at),
    })
}
