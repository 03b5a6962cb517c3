//! Drafts: written, written again with newer figures, discarded. A draft has no number and the customer does not see it.

use chrono::{DateTime, NaiveDate, Utc};
use ingest::{Meter, Timestamp};
use sqlx::PgConnection;

use crate::correction::Correction;
use crate::document::SourceClass;
use crate::fraction::Fraction;
use crate::invoice::{Invoice, InvoiceKind};
use crate::lifecycle::{Discarded, Drafted, Stored};
use crate::money::AmountError;
use crate::share::Share;
use crate::snapshot::Snapshot;
use crate::statements::{BILLING, Statement};
use crate::usage::USAGE_PLACES_MAX;

/// Everything a draft is made of.
#[derive(Clone, Debug)]
pub(crate) struct DraftContent {
    /// The first day, and the first day no longer billed, as the invoice is filed under.
    pub(crate) period: (NaiveDate, NaiveDate),
    /// Counts the invoices of the kind and period.
    pub(crate) revision: i32,
    /// The close it is rated from, and its evidence; none while there is none, and of kinds without usage.
    pub(crate) close: Option<(i64, Vec<u8>)>,
    /// How far the usage is proven.
    pub(crate) source_class: SourceClass,
    /// The parties, terms and figures.
    pub(crate) snapshot: Snapshot,
}

/// An adjustment that a draft carries.
#[derive(Clone, Debug)]
pub(crate) struct CarriedAdjustment {
    /// The invoice whose period was counted again.
    pub(crate) adjusted_invoice_id: String,
    /// The cut it was counted on, and how far that is proven.
    pub(crate) close_id: i64,
    pub(crate) source_class: SourceClass,
    /// The difference.
    pub(crate) correction: Correction,
}

/// Inserts a draft, or writes an earlier one again; `None` where another transaction has this invoice.
pub(crate) async fn write(
    connection: &mut PgConnection,
    content: &DraftContent,
    earlier: Option<Stored<Drafted>>,
    created_at: Timestamp,
) -> Result<Option<Stored<Drafted>>, WriteError> {
    let Snapshot { invoice, terms, .. } = &content.snapshot;
    let totals = &invoice.totals;
    let discounts = totals.volume_discount.checked_add(totals.coupons)?;
    let tax_rate = invoice.taxes.first().map_or_else(Share::default, |tax| tax.rate.rate);
    let card = terms.as_ref().and_then(|terms| terms.stretches.last()).and_then(|stretch| stretch.rate_card_id);
    let carried = invoice.settlement.payable.checked_sub(totals.total)?;
    let snapshot = serde_json::to_string(&content.snapshot).expect("a snapshot is text, numbers and lists of them");
    let (close_id, evidence) = content.close.clone().unzip();
    let sql = if earlier.is_some() { REWRITE } else { INSERT };
    let mut query = sqlx::query_scalar::<_, String>(sql)
        .bind(&invoice.customer)
        .bind(invoice.kind.as_str())
        .bind(content.revision)
        .bind(content.period.0)
        .bind(content.period.1)
        .bind(invoice.currency.as_str())
        .bind(totals.subtotal.minor())
        .bind(discounts.minor())
        .bind(totals.net.minor())
        .bind(tax_rate.decimal())
        .bind(totals.tax.minor())
        .bind(totals.total.minor())
        .bind(content.source_class.as_str())
        .bind(card)
        .bind(snapshot)
        .bind(close_id)
        .bind(evidence)
        .bind(carried.minor())
        .bind(invoice.settlement.credit.minor());
    query = match &earlier {
        Some(earlier) => query.bind(earlier.id().to_owned()),
        None => query.bind(DateTime::<Utc>::from(created_at)),
    };
    let id = query.fetch_optional(&mut *connection).await?;
    if earlier.is_some() {
        // What it had before.
        let id = id.as_deref().ok_or(sqlx::Error::RowNotFound)?;
        sqlx::query(DROP_LINES).bind(id).execute(&mut *connection).await?;
        sqlx::query(DROP_ADJUSTMENTS).bind(id).execute(&mut *connection).await?;
    }
    Ok(id.map(|id| Stored::inserted(id, invoice.customer.clone())))
}

/// A draft was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Stop: an amount is out of range.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// Retry: the database did not answer, or refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Inserts the lines of a draft that has none.
pub(crate) async fn write_lines(
    connection: &mut PgConnection,
    draft: &Stored<Drafted>,
    invoice: &Invoice,
) -> Result<(), sqlx::Error> {
    let lines = &invoice.lines;
    let positions: Vec<i32> = (1..).take(lines.len()).collect();
    sqlx::query(INSERT_LINES)
        .bind(draft.id())
        .bind(draft.customer_id())
        .bind(positions)
        .bind(lines.iter().map(|line| line.kind.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.meter().map(Meter::as_str)).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.description.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| decimal_text(line.quantity.raw())).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| decimal_text(line.quantity.raw_per_unit())).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.unit.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.pricing.marginal.price.decimal()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.exact_minor.numerator().to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.exact_minor.denominator().to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.amount.minor()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.item.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
}

/// Inserts the adjustments that a draft carries.
pub(crate) async fn write_adjustments(
    connection: &mut PgConnection,
    draft: &Stored<Drafted>,
    adjustments: &[CarriedAdjustment],
) -> Result<(), WriteError> {
    for (position, adjustment) in (1_i32..).zip(adjustments) {
        let totals = &adjustment.correction.totals;
        let discount = totals.volume_discount.checked_add(totals.coupons)?;
        let correction = serde_json::to_string(&adjustment.correction).expect("a correction is text and lists of it");
        sqlx::query(INSERT_ADJUSTMENT)
            .bind(draft.id())
            .bind(position)
            .bind(draft.customer_id())
            .bind(&adjustment.adjusted_invoice_id)
            .bind(adjustment.close_id)
            .bind(totals.subtotal.minor())
            .bind(discount.minor())
            .bind(totals.net.minor())
            .bind(totals.tax.minor())
            .bind(totals.total.minor())
            .bind(&adjustment.correction.cause)
            .bind(correction)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Discards a draft: it stays, shown as cancelled, and is never issued.
pub(crate) async fn discard(
    connection: &mut PgConnection,
    draft: Stored<Drafted>,
) -> Result<Stored<Discarded>, sqlx::Error> {
    let done = sqlx::query(DISCARD).bind(draft.id()).execute(connection).await?;
    if done.rows_affected() == 1 { Ok(draft.discarded()) } else { Err(sqlx::Error::RowNotFound) }
}

/// The next revision of the invoices of a kind and period.
pub(crate) async fn next_revision(
    connection: &mut PgConnection,
    customer_id: &str,
    kind: InvoiceKind,
    period_start: NaiveDate,
) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(NEXT_REVISION)
        .bind(customer_id)
        .bind(kind.as_str())
        .bind(period_start)
        .fetch_one(connection)
        .await
}

/// A total or a divisor: neither has more places than usage has.
fn decimal_text(number: &Fraction) -> String {
    number.to_decimal_text(USAGE_PLACES_MAX)
}

/// Waits for another transaction that drafts the same invoice; no row when that one commits.
const INSERT: &str = "
    insert into invoices (
        customer_id, kind, revision, period_start, period_end, status, currency, subtotal_minor, discount_minor, net_minor,
        tax_rate, tax_minor, total_minor, source_class, rate_card_id, snapshot, close_id, evidence_sha256,
        adjustments_minor, credit_applied_minor, created_at)
    values (
        $1::text, $2::text, $3::int, $4::date, $5::date, 'draft', $6::text, $7::bigint, $8::bigint, $9::bigint,
        $10::numeric, $11::bigint, $12::bigint, $13::text, $14::bigint, $15::text::jsonb, $16::bigint, $17::bytea,
        $18::bigint, $19::bigint, $20::timestamptz)
    on conflict (customer_id, period_start, kind, revision) do nothing
    returning invoice_id::text";

const REWRITE: &str = "
    update invoices
    set period_end = $5::date, currency = $6::text, subtotal_minor = $7::bigint, discount_minor = $8::bigint,
        net_minor = $9::bigint, tax_rate = $10::numeric, tax_minor = $11::bigint, total_minor = $12::bigint,
        source_class = $13::text, rate_card_id = $14::bigint, snapshot = $15::text::jsonb, close_id = $16::bigint,
        evidence_sha256 = $17::bytea, adjustments_minor = $18::bigint, credit_applied_minor = $19::bigint
    where invoice_id = $20::text::uuid and status = 'draft' and customer_id = $1::text and kind = $2::text
        and revision = $3::int and period_start = $4::date
    returning invoice_id::text";

const DROP_LINES: &str = "delete from invoice_lines where invoice_id = $1::text::uuid";

const DROP_ADJUSTMENTS: &str = "delete from invoice_adjustments where invoice_id = $1::text::uuid";

const INSERT_LINES: &str = "
    insert into invoice_lines (
        invoice_id, position, customer_id, kind, meter, description, quantity_raw, quantity_raw_per_unit, unit, unit_price,
        exact_numerator, exact_denominator, amount_minor, item)
    select $1::text::uuid, l.position, $2::text, l.kind, l.meter, l.description, l.quantity_raw::numeric,
        l.quantity_raw_per_unit::numeric, l.unit, l.unit_price, l.exact_numerator::numeric, l.exact_denominator::numeric,
        l.amount_minor, l.item
    from unnest(
        $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::numeric[], $11::text[],
        $12::text[], $13::bigint[], $14::text[]
    ) as l (
        position, kind, meter, description, quantity_raw, quantity_raw_per_unit, unit, unit_price, exact_numerator,
        exact_denominator, amount_minor, item)";

const INSERT_ADJUSTMENT: &str = "
    insert into invoice_adjustments (
        invoice_id, position, customer_id, adjusted_invoice_id, close_id, gross_minor, discount_minor, net_minor,
        tax_minor, total_minor, cause, correction)
    values (
        $1::text::uuid, $2::int, $3::text, $4::text::uuid, $5::bigint, $6::bigint, $7::bigint, $8::bigint, $9::bigint,
        $10::bigint, $11::text, $12::text::jsonb)";

const DISCARD: &str = "update invoices set status = 'cancelled' where invoice_id = $1::text::uuid and status = 'draft'";

const NEXT_REVISION: &str = "
    select coalesce(max(revision), 0) + 1 from invoices
    where customer_id = $1::text and kind = $2::text and period_start = $3::date";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "insert draft", sql: INSERT, roles: BILLING },
    Statement { name: "rewrite draft", sql: REWRITE, roles: BILLING },
    Statement { name: "drop lines", sql: DROP_LINES, roles: BILLING },
    Statement { name: "drop adjustments", sql: DROP_ADJUSTMENTS, roles: BILLING },
    Statement { name: "insert lines", sql: INSERT_LINES, roles: BILLING },
    Statement { name: "insert adjustment", sql: INSERT_ADJUSTMENT, roles: BILLING },
    Statement { name: "discard draft", sql: DISCARD, roles: BILLING },
    Statement { name: "next revision", sql: NEXT_REVISION, roles: BILLING },
];
