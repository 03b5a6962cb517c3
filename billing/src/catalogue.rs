//! Every price and tax rate there is, from the tables: read once, then asked for any customer and month.

use chrono::NaiveDate;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use thiserror::Error;

use crate::days::Days;
use crate::rate_card::rows::{PriceRow, RateCardRow};
use crate::rate_card::{RateCard, RateCardError, RateCardFault};
use crate::share::Share;
use crate::statements::{READERS, Statement};
use crate::tax::JurisdictionRate;
use crate::tier::{Tier, UnknownTier};

/// The rate cards and tax rates of a database.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    pub(crate) cards: Vec<StoredCard>,
    pub(crate) tax_rates: Vec<JurisdictionRate>,
}

/// A card that is stored.
#[derive(Clone, Debug)]
pub struct StoredCard {
    /// Its number; `None` of one that is only tried out.
    pub id: Option<i64>,
    /// The tier.
    pub tier: Tier,
    /// Whose contract it is.
    pub customer: Option<String>,
    /// Its version within the tier or contract.
    pub version: i32,
    /// The first day it is in force.
    pub valid_from: NaiveDate,
    /// The first day it no longer is.
    pub valid_to: Option<NaiveDate>,
    /// Its file's name; `None` of a card in rows, which came with the schema.
    pub source_name: Option<String>,
    /// Its file, as it was loaded.
    pub source_text: Option<String>,
    /// The card; or why this program cannot use it, which fails its customers and nobody else.
    pub card: Result<RateCard, RateCardError>,
}

/// The prices cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// Retry: the database did not answer, or refused.
    #[error("cannot read prices: {0}")]
    Database(#[from] sqlx::Error),
    /// Stop: a stored tier is none.
    #[error(transparent)]
    Tier(#[from] UnknownTier),
    /// Stop: a stored tax rate is none.
    #[error("the tax rate of {jurisdiction} from {valid_from} on is no rate")]
    TaxRate {
        /// Where.
        jurisdiction: String,
        /// From when on.
        valid_from: NaiveDate,
    },
}

#[derive(sqlx::FromRow)]
struct CardRow {
    rate_card_id: i64,
    tier: String,
    customer_id: Option<String>,
    version: i32,
    valid_from: NaiveDate,
    valid_to: Option<NaiveDate>,
    currency: String,
    base_fee_minor: i64,
    discount_threshold_minor: i64,
    discount_rate: Decimal,
    document: Option<String>,
    source_name: Option<String>,
    source_text: Option<String>,
}

#[derive(sqlx::FromRow)]
struct TaxRow {
    jurisdiction: String,
    category: Option<String>,
    name: String,
    rate: Decimal,
    valid_from: NaiveDate,
    valid_to: Option<NaiveDate>,
}

impl Catalogue {
    /// Reads all of it.
    pub async fn load(connection: &mut PgConnection) -> Result<Self, CatalogueError> {
        let rows: Vec<CardRow> = sqlx::query_as(CARDS).fetch_all(&mut *connection).await?;
        let prices: Vec<(i64, String, String, Decimal, Decimal)> =
            sqlx::query_as(PRICES).fetch_all(&mut *connection).await?;
        let mut cards = Vec::with_capacity(rows.len());
        for row in rows {
            let of_card = prices.iter().filter(|price| price.0 == row.rate_card_id);
            let price =
                |(_, meter, unit, raw_units_per_unit, unit_price): &(i64, String, String, Decimal, Decimal)| PriceRow {
                    meter: meter.clone(),
                    unit: unit.clone(),
                    raw_units_per_unit: *raw_units_per_unit,
                    unit_price: *unit_price,
                };
            let of_card: Vec<PriceRow> = of_card.map(price).collect();
            cards.push(row.card(of_card)?);
        }
        let rows: Vec<TaxRow> = sqlx::query_as(TAX_RATES).fetch_all(connection).await?;
        let rate = |row: TaxRow| match Share::new(row.rate) {
            Ok(rate) => Ok(JurisdictionRate {
                jurisdiction: row.jurisdiction,
                category: row.category,
                name: row.name,
                rate,
                valid_from: row.valid_from,
                valid_to: row.valid_to,
            }),
            Err(_) => Err(CatalogueError::TaxRate { jurisdiction: row.jurisdiction, valid_from: row.valid_from }),
        };
        Ok(Self { cards, tax_rates: rows.into_iter().map(rate).collect::<Result<_, _>>()? })
    }

    /// The cards, by tier, contract and first day.
    pub fn cards(&self) -> &[StoredCard] {
        &self.cards
    }

    /// The tax rates, by jurisdiction, category and first day.
    pub fn tax_rates(&self) -> &[JurisdictionRate] {
        &self.tax_rates
    }

    /// The same prices with these cards in force, each on all of its days, instead of what is stored for its tier or contract.
    pub fn with_cards(&self, trial: &[RateCard]) -> Self {
        let mut cards = Vec::new();
        for stored in &self.cards {
            let of_key = trial.iter().filter(|card| is_of(card, stored.tier, stored.customer.as_deref()));
            let taken = of_key.map(|card| (card.valid_from(), card.valid_to()));
            cards.extend(without(stored, taken));
        }
        cards.extend(trial.iter().map(|card| StoredCard {
            id: None,
            tier: card.tier(),
            customer: card.customer().map(str::to_owned),
            version: card.version(),
            valid_from: card.valid_from(),
            valid_to: card.valid_to(),
            source_name: None,
            source_text: None,
            card: Ok(card.clone()),
        }));
        Self { cards, tax_rates: self.tax_rates.clone() }
    }

    /// The card in force for a customer in a tier on a day: its contract's, else the tier's.
    pub(crate) fn in_force(&self, tier: Tier, customer: &str, day: NaiveDate) -> Option<&StoredCard> {
        let in_force = |of: Option<&str>| {
            self.cards.iter().find(|card| card.tier == tier && card.customer.as_deref() == of && card.covers(day))
        };
        in_force(Some(customer)).or_else(|| in_force(None))
    }

    /// The days on which some card of a tier begins or ends.
    pub(crate) fn changes(&self, tier: Tier, customer: &str) -> impl Iterator<Item = NaiveDate> {
        let concerns =
            move |card: &&StoredCard| card.tier == tier && card.customer.as_deref().is_none_or(|of| of == customer);
        self.cards.iter().filter(concerns).flat_map(|card| [Some(card.valid_from), card.valid_to]).flatten()
    }
}

impl StoredCard {
    fn covers(&self, day: NaiveDate) -> bool {
        self.valid_from <= day && self.valid_to.is_none_or(|end| day < end)
    }
}

fn is_of(card: &RateCard, tier: Tier, customer: Option<&str>) -> bool {
    card.tier() == tier && card.customer() == customer
}

/// What is left of a card's days without others.
fn without(stored: &StoredCard, taken: impl Iterator<Item = (NaiveDate, Option<NaiveDate>)>) -> Vec<StoredCard> {
    let mut left = vec![(stored.valid_from, stored.valid_to)];
    for (from, to) in taken {
        left = left
            .into_iter()
            .flat_map(|(start, end)| {
                let before = (start, Some(end.map_or(from, |end| end.min(from))));
                let after = to.map(|to| (start.max(to), end));
                [Some(before), after]
            })
            .flatten()
            .filter(|(start, end)| end.is_none_or(|end| *start < end))
            .collect();
    }
    let part = |(valid_from, valid_to)| StoredCard { valid_from, valid_to, ..stored.clone() };
    left.into_iter().map(part).collect()
}

impl CardRow {
    fn card(self, prices: Vec<PriceRow>) -> Result<StoredCard, UnknownTier> {
        let tier = Tier::parse(&self.tier)?;
        let card = match &self.document {
            Some(document) => serde_json::from_str::<RateCard>(document).map_err(|error| {
                RateCardError(vec![RateCardFault {
                    source_name: self.source_name.clone().unwrap_or_default(),
                    row: format!("rate card {tier} version {}", self.version),
                    rule: error.to_string(),
                }])
            }),
            None => RateCard::of_rows(
                RateCardRow {
                    tier: self.tier,
                    version: self.version,
                    valid_from: self.valid_from,
                    valid_to: self.valid_to,
                    currency: self.currency,
                    base_fee_minor: self.base_fee_minor,
                    discount_threshold_minor: self.discount_threshold_minor,
                    discount_rate: self.discount_rate,
                },
                prices,
            ),
        };
        Ok(StoredCard {
            id: Some(self.rate_card_id),
            tier,
            customer: self.customer_id,
            version: self.version,
            valid_from: self.valid_from,
            valid_to: self.valid_to,
            source_name: self.source_name,
            source_text: self.source_text,
            // A successor ends a card after it was written.
            card: card.map(|card| RateCard { valid_to: self.valid_to, ..card }),
        })
    }
}

/// The part of some days that a card covers.
pub(crate) fn covered(days: Days, card: &StoredCard) -> Option<Days> {
    days.meet_open(card.valid_from, card.valid_to)
}

const CARDS: &str = "
    select rate_card_id, tier::text, customer_id, version, valid_from, valid_to, currency::text, base_fee_minor,
        discount_threshold_minor, discount_rate, document::text, source_name, source_text
    from rate_cards
    order by tier, customer_id nulls first, valid_from";

const PRICES: &str = "
    select rate_card_id, meter, unit, raw_units_per_unit, unit_price
    from rate_card_prices
    order by rate_card_id, meter";

const TAX_RATES: &str = "
    select jurisdiction, category, name, rate, valid_from, valid_to
    from tax_rates
    order by jurisdiction, category nulls first, valid_from";

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement { name: "all rate cards", sql: CARDS, roles: READERS },
    Statement { name: "all prices", sql: PRICES, roles: READERS },
    Statement { name: "all tax rates", sql: TAX_RATES, roles: READERS },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_card::seeded;
    use crate::terms::tests::day;

    fn stored(from: &str, to: Option<&str>) -> StoredCard {
        StoredCard {
            id: Some(1),
            tier: Tier::Standard,
            customer: None,
            version: 1,
            valid_from: day(from),
            valid_to: to.map(day),
            source_name: None,
            source_text: None,
            card: Ok(seeded(Tier::Standard)),
        }
    }

    #[test]
    fn a_card_that_is_tried_out_stands_on_its_days_and_leaves_the_others() {
        let stored = Catalogue { cards: vec![stored("2020-01-01", None)], tax_rates: Vec::new() };
        let trial = |from: &str, to: Option<&str>| {
            let card = RateCard { version: 9, valid_from: day(from), valid_to: to.map(day), ..seeded(Tier::Standard) };
            stored.with_cards(&[card])
        };
        let on = |catalogue: &Catalogue, on: &str| {
            catalogue.in_force(Tier::Standard, "anna", day(on)).map(|card| card.version)
        };
        let bounded = trial("2026-10-01", Some("2026-11-01"));
        assert_eq!(
            ["2026-09-30", "2026-10-01", "2026-10-31", "2026-11-01"].map(|at| on(&bounded, at)),
            [Some(1), Some(9), Some(9), Some(1)]
        );
        let open = trial("2026-10-01", None);
        assert_eq!(["2026-09-30", "2030-01-01"].map(|at| on(&open, at)), [Some(1), Some(9)]);
        assert_eq!(on(&trial("2010-01-01", None), "2026-10-01"), Some(9));
        let other = RateCard { valid_from: day("2020-01-01"), ..seeded(Tier::Fintech) };
        assert_eq!(on(&stored.with_cards(&[other]), "2026-10-01"), Some(1), "another tier's card");
    }

    #[test]
    fn a_contract_comes_before_the_tier_for_its_customer_only() {
        let contract =
            StoredCard { customer: Some("anna".into()), version: 7, ..stored("2026-10-10", Some("2026-10-20")) };
        let catalogue = Catalogue { cards: vec![stored("2020-01-01", None), contract], tax_rates: Vec::new() };
        let on = |customer: &str, on: &str| catalogue.in_force(Tier::Standard, customer, day(on)).unwrap().version;
        assert_eq!(on("anna", "2026-10-09"), 1);
        assert_eq!(on("anna", "2026-10-10"), 7);
        assert_eq!(on("anna", "2026-10-20"), 1);
        assert_eq!(on("bert", "2026-10-10"), 1);
    }
}
