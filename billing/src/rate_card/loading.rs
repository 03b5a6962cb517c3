//! Putting rate cards from files into the database: all of them or none, and nothing that a stored card contradicts.

use chrono::{DateTime, Utc};
use ingest::{Meters, Timestamp};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use thiserror::Error;

use crate::catalogue::{Catalogue, CatalogueError};
use crate::money::Money;
use crate::rate_card::file::CardFile;
use crate::rate_card::set::{NamedCard, check_set};
use crate::rate_card::{RateCard, RateCardError, RateCardFault};
use crate::share::Share;
use crate::statements::Statement;

/// A rate card file.
#[derive(Clone, Debug)]
pub struct CardSource {
    /// Its name.
    pub name: String,
    /// Its content.
    pub text: String,
}

impl CardSource {
    /// A card in the JSON form that snapshots of invoices and `rate-cards show --json` have, as the TOML that is stored. A fault
    /// names the line of the JSON text.
    pub fn from_json(name: &str, text: &str) -> Result<Self, RateCardError> {
        let fault =
            |row: String, rule: String| RateCardError(vec![RateCardFault { source_name: name.to_owned(), row, rule }]);
        // An array would be read as the members of a card in their order.
        if !text.trim_start().starts_with('{') {
            return Err(fault("line 1".to_owned(), "expected a JSON object".to_owned()));
        }
        let file: CardFile =
            serde_json::from_str(text).map_err(|error| fault(format!("line {}", error.line()), error.to_string()))?;
        let text = toml::to_string(&file).map_err(|error| fault("card".to_owned(), error.to_string()))?;
        Ok(Self { name: name.to_owned(), text })
    }
}

/// Whether cards may be in force on days that are billed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retroactive {
    /// No: prices of issued invoices stand.
    Refused,
    /// Yes: invoices of those days are to be credited and issued again.
    Allowed,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedCard {
    /// The file.
    pub source_name: String,
    /// The card's name: `rate card standard version 2`.
    pub card: String,
    /// Whether it is new; otherwise exactly this card was stored before.
    pub is_new: bool,
}

/// No card was loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Stop: rules are broken, all of which are named.
    #[error(transparent)]
    Rules(#[from] RateCardError),
    /// Stop: invoices of days on which a card would be in force are issued.
    #[error(
        "{card} begins on {from}, but {invoices} invoices of later days are issued: give it a later day, or allow it and \
         credit and reissue those invoices"
    )]
    Invoiced {
        /// The card.
        card: String,
        /// Its first day.
        from: chrono::NaiveDate,
        /// How many invoices.
        invoices: i64,
    },
    /// Stop or retry, as it says.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Retry: the transaction was rolled back.
    #[error("cannot load rate cards: {0}")]
    Database(#[from] sqlx::Error),
}

/// Reads and checks rate card files, each and together; nothing is stored. `meters` as for [`RateCard::parse`].
pub fn check_files(sources: &[CardSource], meters: Option<&Meters>) -> Result<Vec<NamedCard>, RateCardError> {
    let mut cards = Vec::new();
    let mut faults = Vec::new();
    for source in sources {
        match RateCard::parse(&source.text, &source.name, meters) {
            Ok(card) => cards.push(NamedCard { source_name: source.name.clone(), card }),
            Err(error) => faults.extend(error.0),
        }
    }
    faults.extend(check_set(&cards));
    if faults.is_empty() { Ok(cards) } else { Err(RateCardError(faults)) }
}

/// Loads rate card files as the operator: checks them, each, together and beside what is stored; ends what they follow; records
/// each new one in the audit trail. A file that is stored already changes nothing.
pub async fn load_files(
    connection: &mut PgConnection,
    sources: &[CardSource],
    meters: &Meters,
    retroactive: Retroactive,
    actor: &str,
    now: Timestamp,
) -> Result<Vec<LoadedCard>, LoadError> {
    let cards = check_files(sources, Some(meters))?;
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *transaction).await?;
    let stored = Catalogue::load(&mut transaction).await?;
    let mut known = Vec::new();
    for stored in stored.cards() {
        // A card that this program cannot read cannot be compared; the table itself keeps versions and days apart.
        let Ok(card) = &stored.card else { continue };
        let source_name = stored.source_name.clone().unwrap_or_else(|| "database".to_owned());
        known.push(NamedCard { source_name, card: card.clone() });
    }
    let (new, mut loaded) = new_cards(&cards, &known)?;
    check_customers(&mut transaction, &new).await?;

    let mut all = known.clone();
    all.extend(new.iter().map(|card| (*card).clone()));
    let faults = check_set(&all);
    if !faults.is_empty() {
        return Err(RateCardError(faults).into());
    }
    for named in &new {
        let card = &named.card;
        if retroactive == Retroactive::Refused {
            let invoices: i64 = sqlx::query_scalar(INVOICED)
                .bind(card.valid_from())
                .bind(card.tier().as_str())
                .bind(card.customer())
                .fetch_one(&mut *transaction)
                .await?;
            if 0 < invoices {
                return Err(LoadError::Invoiced { card: card.to_string(), from: card.valid_from(), invoices });
            }
        }
        let source = sources.iter().find(|source| source.name == named.source_name);
        let text = source.map(|source| source.text.as_str()).unwrap_or_default();
        store(&mut transaction, named, text, &all, now).await?;
    }
    // The audit chain stays locked until the end of the transaction, so it comes last.
    for named in &new {
        let details = json!({
            "file": named.source_name,
            "valid_from": named.card.valid_from(),
            "customer": named.card.customer(),
        });
        sqlx::query(RECORD)
            .bind(None::<&str>)
            .bind(actor)
            .bind("rate_card.loaded")
            .bind(named.card.to_string())
            .bind(details.to_string())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    loaded.extend(new.iter().map(|named| LoadedCard {
        source_name: named.source_name.clone(),
        card: named.card.to_string(),
        is_new: true,
    }));
    loaded.sort_by(|a, b| a.source_name.cmp(&b.source_name));
    Ok(loaded)
}

/// The cards that are not stored yet, and word of those that are.
fn new_cards<'a>(
    cards: &'a [NamedCard],
    known: &[NamedCard],
) -> Result<(Vec<&'a NamedCard>, Vec<LoadedCard>), RateCardError> {
    let (mut new, mut loaded, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for named in cards {
        let card = &named.card;
        let same = known.iter().find(|known| {
            (known.card.tier(), known.card.customer(), known.card.version())
                == (card.tier(), card.customer(), card.version())
        });
        // A successor may have ended the stored one since.
        let ended = |known: &NamedCard| card.valid_to().is_none() && known.card.valid_to().is_some();
        match same {
            None => new.push(named),
            Some(known) if known.card == *card => loaded.push(unchanged(named)),
            Some(known) if ended(known) && RateCard { valid_to: None, ..known.card.clone() } == *card => {
                loaded.push(unchanged(named));
            }
            Some(_) => faults.push(RateCardFault {
                source_name: named.source_name.clone(),
                row: card.to_string(),
                rule: "is stored with other content: give changed prices a new version and a later `valid_from`"
                    .to_owned(),
            }),
        }
    }
    new.sort_by_key(|named| named.card.valid_from());
    if faults.is_empty() { Ok((new, loaded)) } else { Err(RateCardError(faults)) }
}

fn unchanged(named: &NamedCard) -> LoadedCard {
    LoadedCard { source_name: named.source_name.clone(), card: named.card.to_string(), is_new: false }
}

/// A contract's customer is there and is billed in its currency.
async fn check_customers(connection: &mut PgConnection, new: &[&NamedCard]) -> Result<(), LoadError> {
    let mut faults = Vec::new();
    for named in new {
        let Some(customer) = named.card.customer() else { continue };
        let currency: Option<String> =
            sqlx::query_scalar(CUSTOMER).bind(customer).fetch_optional(&mut *connection).await?;
        let rule = match currency {
            None => Some(format!("there is no customer {customer}")),
            Some(currency) if currency != named.card.currency().as_str() => {
                Some(format!("is in {} but {customer} is billed in {currency}", named.card.currency()))
            }
            Some(_) => None,
        };
        faults.extend(rule.map(|rule| RateCardFault {
            source_name: named.source_name.clone(),
            row: named.card.to_string(),
            rule,
        }));
    }
    if faults.is_empty() { Ok(()) } else { Err(RateCardError(faults).into()) }
}

async fn store(
    connection: &mut PgConnection,
    named: &NamedCard,
    text: &str,
    all: &[NamedCard],
    now: Timestamp,
) -> Result<(), LoadError> {
    let card = &named.card;
    sqlx::query(END_PREDECESSOR)
        .bind(card.tier().as_str())
        .bind(card.customer())
        .bind(card.valid_from())
        .execute(&mut *connection)
        .await?;
    let of_key = |other: &&NamedCard| (other.card.tier(), other.card.customer()) == (card.tier(), card.customer());
    let next =
        all.iter().filter(of_key).map(|other| other.card.valid_from()).filter(|from| card.valid_from() < *from).min();
    let discount = card.volume_discount();
    let threshold = discount.map_or(Money::zero(card.currency()), |discount| discount.threshold);
    let rate = discount.map_or(Share::default(), |discount| discount.rate);
    let document = serde_json::to_string(card).expect("a card is text and lists of text");
    sqlx::query(INSERT)
        .bind(card.tier().as_str())
        .bind(card.customer())
        .bind(card.version())
        .bind(card.valid_from())
        .bind(card.valid_to().or(next))
        .bind(card.currency().as_str())
        .bind(card.base_fee().minor())
        .bind(threshold.minor())
        .bind(rate.decimal())
        .bind(document)
        .bind(&named.source_name)
        .bind(text)
        .bind(Sha256::digest(text.as_bytes()).to_vec())
        .bind(DateTime::<Utc>::from(now))
        .execute(connection)
        .await?;
    Ok(())
}

/// One loader at a time: what is checked beside what is stored stays true until it is stored itself.
const LOCK: &str = "select pg_advisory_xact_lock(hashtext('rate_cards'))";

const CUSTOMER: &str = "select currency::text from customers where customer_id = $1::text";

/// Issued invoices of days from the card's first on, of those whom it would concern.
const INVOICED: &str = "
    select count(*)
    from invoices i
    left join rate_cards c on c.rate_card_id = i.rate_card_id
    where i.status in ('issued', 'paid') and i.kind in ('monthly', 'final') and i.period_end > $1::date
        and c.tier = $2::text::customer_tier
        and ($3::text is null and c.customer_id is null or i.customer_id = $3::text)";

const END_PREDECESSOR: &str = "
    update rate_cards set valid_to = $3::date
    where tier = $1::text::customer_tier and customer_id is not distinct from $2::text
        and valid_to is null and valid_from < $3::date";

const INSERT: &str = "
    insert into rate_cards (
        tier, customer_id, version, valid_from, valid_to, currency, base_fee_minor, discount_threshold_minor, discount_rate,
        document, source_name, source_text, source_sha256, loaded_at)
    values (
        $1::text::customer_tier, $2::text, $3::int, $4::date, $5::date, $6::text, $7::bigint, $8::bigint, $9::numeric,
        $10::text::jsonb, $11::text, $12::text, $13::bytea, $14::timestamptz)";

const RECORD: &str = "select record_audit_event($1::text, $2::text, $3::text, $4::text, $5::text::jsonb)";

const OPERATOR: &[&str] = &["securebase_operator"];

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement { name: "lock rate cards", sql: LOCK, roles: OPERATOR },
    Statement { name: "customer of a contract", sql: CUSTOMER, roles: OPERATOR },
    Statement { name: "invoiced days of a card", sql: INVOICED, roles: OPERATOR },
    Statement { name: "end predecessor", sql: END_PREDECESSOR, roles: OPERATOR },
    Statement { name: "insert rate card", sql: INSERT, roles: OPERATOR },
    Statement { name: "record by operator", sql: RECORD, roles: OPERATOR },
];
