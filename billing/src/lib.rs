//! From usage rows to an issued invoice.
//!
//! **Owns** `Money`, rate cards, rating, the arithmetic of an invoice, invoice numbers, the monthly run, and the tables
//! `rate_cards`, `rate_card_prices`, `invoices`, `invoice_lines` and `invoice_number_counters`.
//!
//! **Does not own** event ids, the stream, how usage is counted, who owns an account, who may see what over HTTP.
//!
//! **Promises** that quantities are exact until an amount is rounded once, half-even; that a customer has at most one issued
//! invoice of a kind and month, with a number from a series without gaps; and that what was issued never changes.

#![deny(clippy::float_arithmetic)]

mod document;
mod fraction;
mod invoice;
mod money;
mod period;
mod proration;
mod quantity;
mod rate_card;
mod rating;
mod read;
mod render;
mod run;
mod statements;
mod tier;

pub use document::{
    InvoiceDocument, InvoiceSummary, LineDocument, ORDER, Party, PeriodDocument, PriceDocument, Rates, SourceClass,
    UsageSource,
};
pub use fraction::Fraction;
pub use invoice::{Draft, DraftError, Totals, VolumeDiscount, draft};
pub use money::{AmountError, Currency, Money, NotAShare, Share, UnknownCurrency};
pub use period::{Month, NotAMonth, end_of_day_after};
pub use proration::part;
pub use quantity::{Quantity, RawUnit, Usage, UsageError};
pub use rate_card::{Price, PriceRow, RateCard, RateCardError, RateCardRow, UnitPrice};
pub use rating::{Line, LineKind, RatingError, describe, rate};
pub use read::{LIST_LIMIT_MAX, ReadError, list_invoices, load_invoice};
pub use render::render_text;
pub use run::{
    BillingError, CustomerResult, Customers, DUE_DAYS, Outcome, RunError, RunReport, RunRequest, issue, preview,
};
pub use statements::{STATEMENTS, Statement};
pub use tier::{Tier, UnknownTier};
