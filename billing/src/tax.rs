//! Which tax rate holds for a line: by jurisdiction, category, exemption and day.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::share::Share;

/// A rate that a jurisdiction sets for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JurisdictionRate {
    /// Where: `CH`, `US-CA`.
    pub jurisdiction: String,
    /// For what; `None` for everything without a rate of its own.
    pub category: Option<String>,
    /// The tax's name there: `MWST`, `Sales tax`.
    pub name: String,
    /// The rate.
    pub rate: Share,
    /// The first day on which it holds.
    pub valid_from: NaiveDate,
    /// The first day on which it no longer does.
    pub valid_to: Option<NaiveDate>,
}

/// What a customer pays no tax for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemption {
    /// For what; `None` for everything.
    pub category: Option<String>,
    /// Why, as the invoice must say: `Reverse charge`, `Exempt under certificate 12-34`.
    pub reason: String,
    /// The first day on which it holds.
    pub valid_from: NaiveDate,
    /// The first day on which it no longer does.
    pub valid_to: Option<NaiveDate>,
}

/// A tax rate that holds for a customer's invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaxRate {
    /// For what; `None` for everything without a rate of its own.
    pub category: Option<String>,
    /// Where; empty where the rate is the customer's own.
    pub jurisdiction: String,
    /// The tax's name.
    pub name: String,
    /// The rate; nothing where the customer is exempt.
    pub rate: Share,
    /// Why no tax is charged.
    pub exemption: Option<String>,
}

impl TaxRate {
    /// The rate that a customer has in no jurisdiction in particular, for everything.
    pub fn of_customer(rate: Share) -> Self {
        Self { category: None, jurisdiction: String::new(), name: "Tax".to_owned(), rate, exemption: None }
    }
}

/// The rates of a jurisdiction on a day, with the customer's exemptions of that day. The day is the tax point's: the last day
/// of the period.
///
/// An exemption from one category adds a rate of nothing for it; the others keep theirs.
pub fn rates_on(
    day: NaiveDate,
    jurisdiction: &str,
    rates: &[JurisdictionRate],
    exemptions: &[Exemption],
) -> Vec<TaxRate> {
    let holds = |from: NaiveDate, to: Option<NaiveDate>| from <= day && to.is_none_or(|to| day < to);
    let mut found: Vec<TaxRate> = rates
        .iter()
        .filter(|rate| rate.jurisdiction == jurisdiction && holds(rate.valid_from, rate.valid_to))
        .map(|rate| TaxRate {
            category: rate.category.clone(),
            jurisdiction: rate.jurisdiction.clone(),
            name: rate.name.clone(),
            rate: rate.rate,
            exemption: None,
        })
        .collect();
    for exemption in exemptions.iter().filter(|exemption| holds(exemption.valid_from, exemption.valid_to)) {
        match &exemption.category {
            None => {
                for rate in &mut found {
                    exempt(rate, &exemption.reason);
                }
            }
            Some(category) => match found.iter_mut().find(|rate| rate.category.as_ref() == Some(category)) {
                Some(rate) => exempt(rate, &exemption.reason),
                None => {
                    let general = found.iter().find(|rate| rate.category.is_none()).cloned();
                    if let Some(mut rate) = general {
                        rate.category = Some(category.clone());
                        exempt(&mut rate, &exemption.reason);
                        found.push(rate);
                    }
                }
            },
        }
    }
    found
}

fn exempt(rate: &mut TaxRate, reason: &str) {
    rate.rate = Share::default();
    rate.exemption = Some(reason.to_owned());
}

/// The rate for a category: its own, else the general one.
pub(crate) fn rate_for<'a>(rates: &'a [TaxRate], category: &str) -> Option<&'a TaxRate> {
    rates
        .iter()
        .find(|rate| rate.category.as_deref() == Some(category))
        .or_else(|| rates.iter().find(|rate| rate.category.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn rate(category: Option<&str>, rate: &str, from: &str, to: Option<&str>) -> JurisdictionRate {
        JurisdictionRate {
            jurisdiction: "CH".into(),
            category: category.map(str::to_owned),
            name: "MWST".into(),
            rate: Share::new(rate.parse().unwrap()).unwrap(),
            valid_from: day(from),
            valid_to: to.map(day),
        }
    }

    fn exemption(category: Option<&str>, from: &str, to: Option<&str>) -> Exemption {
        Exemption {
            category: category.map(str::to_owned),
            reason: "Reverse charge".into(),
            valid_from: day(from),
            valid_to: to.map(day),
        }
    }

    /// The rate of a category on a day: `8 %`, or the reason for none.
    fn found(on: &str, category: &str, exemptions: &[Exemption]) -> String {
        let rates = [
            rate(None, "0.077", "2018-01-01", Some("2024-01-01")),
            rate(None, "0.081", "2024-01-01", None),
            rate(Some("training"), "0.026", "2024-01-01", None),
        ];
        let on_day = rates_on(day(on), "CH", &rates, exemptions);
        let rate = rate_for(&on_day, category).unwrap();
        rate.exemption.clone().unwrap_or_else(|| rate.rate.to_percent_text())
    }

    #[test]
    fn the_rate_of_the_day_holds_and_a_category_has_its_own() {
        assert_eq!(found("2023-12-31", "standard", &[]), "7.7 %");
        assert_eq!(found("2024-01-01", "standard", &[]), "8.1 %");
        assert_eq!(found("2024-01-01", "training", &[]), "2.6 %");
        assert_eq!(rates_on(day("2017-12-31"), "CH", &[rate(None, "0.077", "2018-01-01", None)], &[]), []);
        assert_eq!(rates_on(day("2020-01-01"), "DE", &[rate(None, "0.077", "2018-01-01", None)], &[]), []);
    }

    #[test]
    fn an_exemption_holds_for_its_days_and_its_category_and_gives_its_reason() {
        let all = [exemption(None, "2026-01-01", Some("2026-07-01"))];
        assert_eq!(found("2026-06-30", "standard", &all), "Reverse charge");
        assert_eq!(found("2026-06-30", "training", &all), "Reverse charge");
        assert_eq!(found("2026-07-01", "standard", &all), "8.1 %");
        let training = [exemption(Some("training"), "2026-01-01", None)];
        assert_eq!(found("2026-06-30", "training", &training), "Reverse charge");
        assert_eq!(found("2026-06-30", "standard", &training), "8.1 %");
        // A category without a rate of its own gets one, of nothing.
        let hardware = [exemption(Some("hardware"), "2026-01-01", None)];
        assert_eq!(found("2026-06-30", "hardware", &hardware), "Reverse charge");
        assert_eq!(found("2026-06-30", "standard", &hardware), "8.1 %");
    }
}
