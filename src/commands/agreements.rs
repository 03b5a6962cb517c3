//! `securebase agree`, `coupons` and `tax-rates`: what is agreed on with customers beside their rate cards.

use std::process::ExitCode;

use aggregator::directory::CustomerId;
use anyhow::{Context, anyhow};
use billing::{
    Catalogue, Change, Coupon, CouponValue, Currency, Days, Exemption, JurisdictionRate, Money, Phase, Retroactive,
    Share, Span, Tier, change, day_of,
};
use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde_json::json;

use crate::cli::{self, Global, RetroactiveArgument};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn agree(global: &Global, command: cli::Agree) -> anyhow::Result<ExitCode> {
    let (what, retroactive) = match command {
        cli::Agree::Tier { customer, tier, from, retroactive } => (
            Change::Tier { customer: id(&customer)?, tier: Tier::parse(&tier)?, from: day(&from, "--from")? },
            retroactive,
        ),
        cli::Agree::End { customer, on, retroactive } => {
            let on = on.as_deref().map(|on| day(on, "--on")).transpose()?;
            (Change::ContractEnd { customer: id(&customer)?, on }, retroactive)
        }
        cli::Agree::Promotion(arguments) => promotion(arguments)?,
        cli::Agree::Jurisdiction { customer, jurisdiction, from, retroactive } => {
            (Change::Jurisdiction { customer: id(&customer)?, jurisdiction, from: day(&from, "--from")? }, retroactive)
        }
        cli::Agree::Exemption { customer, reason, category, from, to, retroactive } => {
            let valid_to = to.as_deref().map(|to| day(to, "--to")).transpose()?;
            let exemption = Exemption { category, reason, valid_from: day(&from, "--from")?, valid_to };
            (Change::Exemption { customer: id(&customer)?, exemption }, retroactive)
        }
    };
    make(global, what, &retroactive).await
}

fn promotion(arguments: cli::PromotionAdd) -> anyhow::Result<(Change, RetroactiveArgument)> {
    let span = match (arguments.first_months, &arguments.from, &arguments.to) {
        (Some(months), _, _) => Span::FirstMonths(months),
        (None, Some(from), Some(to)) => {
            let days = Days::new(day(from, "--from")?, day(to, "--to")?);
            Span::Days(days.ok_or_else(|| anyhow!("--to must lie after --from"))?)
        }
        _ => anyhow::bail!("give --first-months, or --from and --to"),
    };
    let phase = Phase {
        description: arguments.description,
        off: share(&arguments.off, "--off")?,
        applies_to: arguments.applies_to.into_iter().map(Into::into).collect(),
        span,
    };
    Ok((Change::Promotion { customer: id(&arguments.customer)?, phase }, arguments.retroactive))
}

pub(super) async fn coupons(global: &Global, command: cli::Coupons) -> anyhow::Result<ExitCode> {
    let what = match command {
        cli::Coupons::Redeem { code, customer, on } => {
            let on = on.as_deref().map_or_else(|| Ok(day_of(edge::now())), |on| day(on, "--on"))?;
            Change::Redemption { customer: id(&customer)?, code, on }
        }
        cli::Coupons::Add(arguments) => Change::Coupon(coupon(arguments)?),
    };
    make(global, what, &RetroactiveArgument { retroactive: false }).await
}

fn coupon(arguments: cli::CouponAdd) -> anyhow::Result<Coupon> {
    let value = match (&arguments.value.percent, &arguments.value.amount, &arguments.value.credit) {
        (Some(rate), _, _) => CouponValue::Percent(share(rate, "--percent")?),
        (_, Some(amount), _) => CouponValue::Fixed(money(amount, "--amount")?),
        (_, _, Some(amount)) => CouponValue::Balance(money(amount, "--credit")?),
        (None, None, None) => anyhow::bail!("give one of --percent, --amount and --credit"),
    };
    Ok(Coupon {
        code: arguments.code,
        description: arguments.description,
        value,
        valid_from: day(&arguments.from, "--from")?,
        valid_to: arguments.to.as_deref().map(|to| day(to, "--to")).transpose()?,
        redemptions_max: arguments.redemptions,
        invoices_max: arguments.invoices,
    })
}

pub(super) async fn tax_rates(global: &Global, command: cli::TaxRates) -> anyhow::Result<ExitCode> {
    let arguments = match command {
        cli::TaxRates::List => return list_tax_rates(global).await,
        cli::TaxRates::Add(arguments) => arguments,
    };
    let rate = JurisdictionRate {
        jurisdiction: arguments.jurisdiction,
        category: arguments.category,
        name: arguments.tax_name,
        rate: share(&arguments.rate, "--rate")?,
        valid_from: day(&arguments.from, "--from")?,
        valid_to: arguments.to.as_deref().map(|to| day(to, "--to")).transpose()?,
    };
    make(global, Change::TaxRate(rate), &RetroactiveArgument { retroactive: false }).await
}

async fn list_tax_rates(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let catalogue = super::with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        Ok(Catalogue::load(&mut connection).await?)
    })
    .await?;
    if global.json {
        let rates = catalogue.tax_rates().iter().map(|rate| {
            json!({
                "jurisdiction": rate.jurisdiction,
                "category": rate.category,
                "tax": rate.name,
                "rate": rate.rate,
                "valid_from": rate.valid_from.to_string(),
                "valid_to": rate.valid_to.map(|day| day.to_string()),
            })
        });
        print::json(&json!({ "tax_rates": rates.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let row = |rate: &JurisdictionRate| {
        vec![
            rate.jurisdiction.clone(),
            rate.category.clone().unwrap_or_else(|| "all others".to_owned()),
            rate.name.clone(),
            rate.rate.to_percent_text(),
            rate.valid_from.to_string(),
            rate.valid_to.map_or_else(|| "open".to_owned(), |day| day.to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = catalogue.tax_rates().iter().map(row).collect();
    print::table(&["jurisdiction", "category", "tax", "rate", "from", "until"], &rows);
    Ok(ExitCode::SUCCESS)
}

async fn make(global: &Global, what: Change, retroactive: &RetroactiveArgument) -> anyhow::Result<ExitCode> {
    let retroactive = if retroactive.retroactive { Retroactive::Allowed } else { Retroactive::Refused };
    let platform = Platform::open(global, Work::Database).await?;
    let is_new = super::with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        Ok(change(&mut connection, &what, retroactive, &edge::operator(), edge::now()).await?)
    })
    .await?;
    let outcome = if is_new { "recorded" } else { "unchanged" };
    if global.json {
        print::json(&json!({ "outcome": outcome }));
    } else {
        print::line(outcome);
    }
    Ok(ExitCode::SUCCESS)
}

fn id(text: &str) -> anyhow::Result<CustomerId> {
    CustomerId::parse(text).with_context(|| format!("customer {text:?}"))
}

fn day(text: &str, option: &str) -> anyhow::Result<NaiveDate> {
    text.parse().map_err(|_| anyhow!("{option} {text}: expected a day such as 2026-10-01"))
}

fn share(text: &str, option: &str) -> anyhow::Result<Share> {
    let rate =
        Decimal::from_str_exact(text).map_err(|_| anyhow!("{option} {text}: expected a fraction such as 0.1"))?;
    Ok(Share::new(rate)?)
}

fn money(text: &str, option: &str) -> anyhow::Result<Money> {
    let expected = || anyhow!("{option} {text}: expected an amount with its currency, such as \"50.00 USD\"");
    let (amount, code) = text.split_once(' ').ok_or_else(expected)?;
    Money::parse(amount, Currency::parse(code)?).ok_or_else(expected)
}
