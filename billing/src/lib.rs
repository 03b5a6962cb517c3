//! From usage rows to an issued invoice.
//!
//! **Owns** `Money`, rate cards, price models, rating, discounts, coupons, taxes, the arithmetic of an invoice and of its
//! corrections, the double entry, the document model, invoice numbers, the monthly run, and the tables `rate_cards`,
//! `rate_card_prices`, `invoices`, `invoice_lines` and `invoice_number_counters`.
//!
//! **Does not own** event ids, the stream, how usage is counted, who owns an account, who may see what over HTTP.
//!
//! **Promises** that quantities are exact until an amount is rounded once, half-even; that a customer has at most one issued
//! invoice of a kind and month, with a number from a series without gaps; and that what was issued never changes.

#![deny(clippy::float_arithmetic)]

mod agreement;
mod allocation;
mod audit;
mod books;
mod catalogue;
mod correction;
mod coupon;
mod currency;
mod days;
mod document;
mod durability;
mod fraction;
mod invoice;
mod late_usage;
mod lifecycle;
mod money;
pub mod outbox;
mod period;
mod postings;
mod prepayment;
mod presentation;
mod price;
mod proration;
mod quantity;
mod rate_card;
mod rating;
mod read;
mod render;
mod render_csv;
mod render_html;
mod run;
mod share;
mod simulation;
mod snapshot;
mod statements;
mod stored_document;
mod tax;
mod terms;
mod tier;
mod usage;

pub use agreement::changes::{Change, ChangeError, change};
pub use agreement::{Agreement, AgreementError, AgreementsError, load_agreements};
pub use catalogue::{Catalogue, CatalogueError, StoredCard};
pub use correction::{Correction, CorrectionError, LineCorrection, Standing};
pub use coupon::{Coupon, CouponValue, RedeemError, RedeemedCoupon};
pub use currency::{Currency, UnknownCurrency};
pub use days::{Days, day_of};
pub use document::{
    AdjustmentDocument, CorrectedDocument, DeductionDocument, Evidence, Head, InvoiceDocument, InvoiceSummary,
    LineDocument, Party, PeriodDocument, RatesDocument, ReductionDocument, SourceClass, StepDocument, TaxDocument,
    UsageSource, WindowsDocument,
};
pub use durability::{wait_for_disk, wait_for_invoices};
pub use fraction::{FRACTION_BITS_MAX, Fraction, NotAFraction};
pub use invoice::{DraftError, Invoice, InvoiceKind, Settlement, Taken, TaxLine, Totals, draft};
pub use late_usage::{Billed, Step as CorrectionStep};
pub use lifecycle::{
    AnyStored, CreditNoteKind, Discarded as DiscardedInvoice, Drafted, Open, Settled, Status, Stored, UnknownName,
};
pub use money::{AmountError, Money};
pub use period::{Month, NotAMonth, end_of_day_after};
pub use postings::{Account, Posting, Postings};
pub use prepayment::{PrepaymentError, annual_prepayment};
pub use presentation::{
    Presentation, PresentedAdjustment, PresentedDetail, PresentedLine, PresentedNote, PresentedSum, PresentedTax,
};
pub use price::tiers::PriceTier;
pub use price::{Charge, Marginal, PriceModel, Step, UnitPrice};
pub use proration::part;
pub use quantity::{Aggregation, Quantity};
pub use rate_card::loading::{CardSource, LoadError, LoadedCard, Retroactive, check_files, load_files};
pub use rate_card::set::{NamedCard, check_set};
pub use rate_card::{
    AnnualPrepayment, Commitment, Deduction, Fee, FeeKind, MeterPrice, Order, Phase, RateCard, RateCardError,
    RateCardFault, SEEDED_CARDS, STANDARD_TAX_CATEGORY, Selector, Span, VolumeDiscount, seeded,
};
pub use rating::{Line, LineKind, Pricing, Rated, RatingError, describe, rate};
pub use read::{
    FoundInvoice, InvoiceAccount, InvoiceFilter, IssuedFilter, LIST_LIMIT_MAX, ReadError, find_invoices, list_invoices,
    list_issued, load_account, load_credit_note, load_invoice,
};
pub use render::render_text;
pub use render_csv::{CsvError, render_csv};
pub use render_html::{HtmlError, render_html};
pub use run::{
    BilledInvoice, BillingError, Credited, CustomerResult, Customers, DUE_DAYS, DeskError, Discarded, GRACE_HOURS,
    GrantKind, GrantRequest, Granted, Interruptions, MonthPreview, Outcome, Paid, PayRequest, Point, Previewed,
    Projection, RunError, RunReport, RunRequest, Uninterrupted, WORKERS, bill_late_usage, credit, grant, issue,
    issue_with, pay, prepay, preview, preview_customer, preview_month, reissue, void,
};
pub use share::{NotAShare, Share};
pub use simulation::{CompareError, Comparison, Simulated, SimulationError, UsageState, simulate};
pub use statements::{Statement, statements};
pub use stored_document::{
    DocumentError, RenderError, RenderReport, Renderer, StoredDocument, TextRenderer, load_document, render_due,
    stored_or_rendered,
};
pub use tax::{Exemption, JurisdictionRate, TaxRate, rates_on};
pub use terms::{PrepaidFee, Reduction, Stretch, Terms, TermsError};
pub use tier::{Tier, UnknownTier};
pub use usage::{Measured, USAGE_PLACES_MAX, Usage, UsageError, UsagePart, Windows};
