//! Commands about prices and what is agreed on with customers.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum RateCards {
    /// Read rate card files and name every broken rule; stores nothing
    Check {
        /// TOML files, checked each and together
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Store rate card files, all or none; a file that is stored already changes nothing
    Load {
        /// TOML files; without any, the four tiers that come with the program
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Let a card be in force on days that are invoiced already; credit and reissue those invoices
        #[arg(long)]
        retroactive: bool,
    },
    /// The stored cards and the days they are in force
    List,
    /// Show a stored card as TOML
    Show {
        /// standard, fintech, healthcare or gov-federal
        #[arg(value_name = "TIER")]
        tier: String,
        /// The card of this customer's contract
        #[arg(long, value_name = "ID")]
        customer: Option<String>,
        /// Which version; the newest without
        #[arg(long, value_name = "NUMBER")]
        version: Option<i32>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// Rate card to try out, whatever days it says it is in force on
    #[arg(long = "rate-card", required = true, value_name = "FILE")]
    pub(crate) rate_cards: Vec<PathBuf>,
    /// Month of past usage to rate again; the last one that has ended without
    #[arg(long = "period", value_name = "MONTH")]
    pub(crate) periods: Vec<String>,
    /// Only this customer, and show its invoice at these prices
    #[arg(long, value_name = "ID")]
    pub(crate) customer: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaxRates {
    /// The tax rates of all jurisdictions
    List,
    /// A jurisdiction has a rate from a day on; the one before ends
    Add(TaxRateAdd),
}

#[derive(Debug, Args)]
pub(crate) struct TaxRateAdd {
    /// Country of ISO 3166-1, with a part of it where it has rates of its own: CH, US-CA
    #[arg(value_name = "JURISDICTION")]
    pub(crate) jurisdiction: String,
    /// Fraction of the net amount: 0.081
    #[arg(long)]
    pub(crate) rate: String,
    /// The tax's name on invoices
    #[arg(long = "tax", value_name = "NAME")]
    pub(crate) tax_name: String,
    /// First day
    #[arg(long, value_name = "DAY")]
    pub(crate) from: String,
    /// First day no longer
    #[arg(long, value_name = "DAY")]
    pub(crate) to: Option<String>,
    /// The tax category it is for; without, everything that has no rate of its own
    #[arg(long)]
    pub(crate) category: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Coupons {
    /// Add a coupon; it never changes
    Add(CouponAdd),
    /// A customer redeems a coupon: it is taken off from the invoice of that month on
    Redeem {
        /// The coupon
        #[arg(value_name = "CODE")]
        code: String,
        /// Who
        #[arg(long, value_name = "ID")]
        customer: String,
        /// When; today without
        #[arg(long, value_name = "DAY")]
        on: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CouponAdd {
    /// Capital letters, digits, hyphens and underscores; kept for ever
    #[arg(value_name = "CODE")]
    pub(crate) code: String,
    /// Its words on invoices
    #[arg(long)]
    pub(crate) description: String,
    #[command(flatten)]
    pub(crate) value: CouponAmount,
    /// First day on which it can be redeemed
    #[arg(long, value_name = "DAY")]
    pub(crate) from: String,
    /// First day on which it no longer can be
    #[arg(long, value_name = "DAY")]
    pub(crate) to: Option<String>,
    /// How many customers can redeem it
    #[arg(long, value_name = "NUMBER")]
    pub(crate) redemptions: Option<u32>,
    /// How many invoices of a customer it is taken off
    #[arg(long, value_name = "NUMBER")]
    pub(crate) invoices: Option<u32>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct CouponAmount {
    /// Fraction that is taken off: 0.1
    #[arg(long, value_name = "FRACTION")]
    pub(crate) percent: Option<String>,
    /// Amount that is taken off each invoice: "50.00 USD"
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) amount: Option<String>,
    /// Amount that is taken off altogether, a promotional credit: "1000.00 USD"
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) credit: Option<String>,
}

/// A change of what is agreed on with a customer.
#[derive(Debug, Subcommand)]
pub(crate) enum Agree {
    /// Be in another tier from 00:00 UTC of a day on
    Tier {
        /// Who
        #[arg(value_name = "ID")]
        customer: String,
        /// standard, fintech, healthcare or gov-federal
        #[arg(long)]
        tier: String,
        /// The day
        #[arg(long, value_name = "DAY")]
        from: String,
        #[command(flatten)]
        retroactive: RetroactiveArgument,
    },
    /// End the contract
    End {
        /// Who
        #[arg(value_name = "ID")]
        customer: String,
        /// First day after the contract; without, it goes on after all
        #[arg(long, value_name = "DAY")]
        on: Option<String>,
        #[command(flatten)]
        retroactive: RetroactiveArgument,
    },
    /// Pay less for a time
    Promotion(PromotionAdd),
    /// Be taxed by a jurisdiction's rates
    Jurisdiction {
        /// Who
        #[arg(value_name = "ID")]
        customer: String,
        /// Where, as in `tax-rates`; without, the rate the customer was added with
        #[arg(long, value_name = "JURISDICTION")]
        jurisdiction: Option<String>,
        /// The day
        #[arg(long, value_name = "DAY")]
        from: String,
        #[command(flatten)]
        retroactive: RetroactiveArgument,
    },
    /// Pay no tax
    Exemption {
        /// Who
        #[arg(value_name = "ID")]
        customer: String,
        /// Why, as the invoice must say: "Reverse charge"
        #[arg(long)]
        reason: String,
        /// The tax category it is for; without, everything
        #[arg(long)]
        category: Option<String>,
        /// First day
        #[arg(long, value_name = "DAY")]
        from: String,
        /// First day no longer
        #[arg(long, value_name = "DAY")]
        to: Option<String>,
        #[command(flatten)]
        retroactive: RetroactiveArgument,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PromotionAdd {
    /// Who
    #[arg(value_name = "ID")]
    pub(crate) customer: String,
    /// Its words on invoices
    #[arg(long)]
    pub(crate) description: String,
    /// Fraction that is taken off: 0.5
    #[arg(long, value_name = "FRACTION")]
    pub(crate) off: String,
    /// fees, usage, or names of fees and meters on the rate card
    #[arg(long, value_name = "LINES", value_delimiter = ',', default_value = "fees")]
    pub(crate) applies_to: Vec<String>,
    /// For so many months from the first day of the contract on
    #[arg(long, value_name = "MONTHS", conflicts_with_all = ["from", "to"])]
    pub(crate) first_months: Option<u32>,
    /// First day
    #[arg(long, value_name = "DAY", requires = "to", required_unless_present = "first_months")]
    pub(crate) from: Option<String>,
    /// First day no longer
    #[arg(long, value_name = "DAY", requires = "from")]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) retroactive: RetroactiveArgument,
}

#[derive(Debug, Args)]
pub(crate) struct RetroactiveArgument {
    /// Allow days that are invoiced already; credit and reissue those invoices
    #[arg(long)]
    pub(crate) retroactive: bool,
}
