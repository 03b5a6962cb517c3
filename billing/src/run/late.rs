//! Invoiced periods that have a newer cut: what each is to be corrected by.

use std::collections::BTreeMap;

use aggregator::directory::CustomerId;
use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::{BillingError, usage_reading};
use crate::agreement::load_agreements;
use crate::correction::{Correction, Standing, add_coupons};
use crate::coupon::CouponValue;
use crate::document::{Evidence, SourceClass, instant_text};
use crate::invoice::draft;
use crate::late_usage::{Billed, Step};
use crate::lifecycle::{AnyStored, Status};
use crate::money::Money;
use crate::read::ReadError;
use crate::snapshot::{CreditSnapshot, Snapshot};
use crate::statements::{BILLING, PREVIEWERS, Statement};
use crate::terms::Terms;

/// An adjustment that was charged for a period, and the invoice that carries it.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub(super) adjustment_id: String,
    pub(super) carrier: Invoiced,
}

/// An issued invoice as corrections refer to it.
#[derive(Clone, Debug)]
pub(super) struct Invoiced {
    pub(super) stored: AnyStored,
    pub(super) id: String,
    pub(super) number: String,
    pub(super) snapshot: Snapshot,
    /// How far its usage is proven.
    pub(super) source_class: SourceClass,
}

/// An invoiced period that was counted again.
#[derive(Debug)]
pub(super) struct Recounted {
    pub(super) invoice: Invoiced,
    /// The newest cut, and its evidence.
    pub(super) close_id: i64,
    pub(super) evidence: Evidence,
    pub(super) source_class: SourceClass,
    /// What brings the bill to it.
    pub(super) steps: Vec<Step<Carried>>,
}

#[derive(sqlx::FromRow)]
struct NewerRow {
    invoice_id: String,
    invoice_number: String,
    status: String,
    snapshot: String,
    source_class: String,
    close_id: i64,
    cut_class: String,
    cut: i32,
    cut_at: DateTime<Utc>,
    evidence: String,
    is_directory_same: bool,
}

#[derive(sqlx::FromRow)]
struct AdjustmentRow {
    adjustment_id: String,
    correction: String,
    invoice_id: String,
    invoice_number: String,
    status: String,
    snapshot: String,
    source_class: String,
}

/// The customer's invoiced periods whose newest cut is not billed yet, the earliest first, each with its corrections.
pub(super) async fn recount(connection: &mut PgConnection, customer_id: &str) -> Result<Vec<Recounted>, BillingError> {
    let rows: Vec<NewerRow> = sqlx::query_as(NEWER).bind(customer_id).fetch_all(&mut *connection).await?;
    let mut recounted = Vec::with_capacity(rows.len());
    // What the corrections so far use of balances, which nothing that is stored says yet.
    let mut taken = BTreeMap::new();
    for row in rows {
        let cause = format!(
            "{}, counted again on {} (cut {})",
            if row.is_directory_same { "Late usage" } else { "Late usage or changed ownership of accounts" },
            row.cut_at.date_naive(),
            row.cut
        );
        let evidence = Evidence { cut: row.cut, cut_at: instant_text(row.cut_at), sha256: row.evidence };
        let source_class = class(&row.cut_class, &row.invoice_id)?;
        let kept = (row.snapshot.as_str(), row.source_class.as_str());
        let invoice = invoiced(row.invoice_id, row.invoice_number, customer_id, &row.status, kept)?;
        let terms = invoice.snapshot.terms.clone().ok_or_else(|| broken(&invoice.id, "terms"))?;
        let terms = with_balances_of_now(connection, customer_id, terms, &taken).await?;
        let usage = usage_reading::closed(connection, row.close_id).await?;
        let count = draft(&terms, &usage)?;
        let steps = billed(connection, &invoice, customer_id).await?.steps_to(&count, &cause)?;
        for step in &steps {
            add_coupons(&mut taken, &step.correction().coupons)?;
        }
        recounted.push(Recounted { invoice, close_id: row.close_id, evidence, source_class, steps });
    }
    Ok(recounted)
}

/// An invoice's own terms, but for its balances: what other months have used of them since is gone, with what `more` adds to it.
async fn with_balances_of_now(
    connection: &mut PgConnection,
    customer_id: &str,
    terms: Terms,
    more: &BTreeMap<String, Money>,
) -> Result<Terms, BillingError> {
    if !terms.coupons.iter().any(|redeemed| matches!(redeemed.coupon.value, CouponValue::Balance(_))) {
        return Ok(terms);
    }
    let id = CustomerId::parse(customer_id).map_err(|_| BillingError::UnknownCustomer)?;
    let agreements = load_agreements(connection, Some(&[id]), terms.month).await?;
    let (_, agreement) = agreements.into_iter().next().ok_or(BillingError::UnknownCustomer)?;
    let coupons = agreement?.coupons;
    let mut taken = coupons.into_iter().map(|redeemed| (redeemed.coupon.code, redeemed.taken)).collect();
    add_coupons(&mut taken, more)?;
    // What was given back since stays with later invoices: this one is counted with what it could have, and never with more.
    for (code, before) in terms.coupons_taken() {
        let now = taken.entry(code).or_insert(before);
        if now.minor() < before.minor() {
            *now = before;
        }
    }
    Ok(terms.with_balances_taken(&taken))
}

/// Everything that is billed for an invoice's period now.
pub(super) async fn billed(
    connection: &mut PgConnection,
    invoice: &Invoiced,
    customer_id: &str,
) -> Result<Billed<Carried>, BillingError> {
    let notes: Vec<String> = sqlx::query_scalar(NOTES).bind(&invoice.id).fetch_all(&mut *connection).await?;
    let mut own = Standing::of(&invoice.snapshot.invoice)?;
    for note in notes {
        let note: CreditSnapshot = serde_json::from_str(&note).map_err(|_| broken(&invoice.id, "credit notes"))?;
        own = own.corrected(&note.correction)?;
    }
    let rows: Vec<AdjustmentRow> = sqlx::query_as(ADJUSTMENTS).bind(&invoice.id).fetch_all(connection).await?;
    let mut adjustments = Vec::with_capacity(rows.len());
    for row in rows {
        let correction: Correction =
            serde_json::from_str(&row.correction).map_err(|_| broken(&invoice.id, "adjustments"))?;
        let kept = (row.snapshot.as_str(), row.source_class.as_str());
        let carrier = invoiced(row.invoice_id, row.invoice_number, customer_id, &row.status, kept)?;
        adjustments.push((Carried { adjustment_id: row.adjustment_id, carrier }, correction));
    }
    Ok(Billed { number: invoice.number.clone(), own, adjustments })
}

/// The adjustments that an invoice carries and no note took back.
pub(super) async fn carried_by(
    connection: &mut PgConnection,
    carrier_id: &str,
) -> Result<Vec<Correction>, BillingError> {
    let rows: Vec<String> = sqlx::query_scalar(CARRIED).bind(carrier_id).fetch_all(connection).await?;
    rows.iter().map(|row| serde_json::from_str(row).map_err(|_| broken(carrier_id, "adjustments"))).collect()
}

/// The issued invoice with this number or id, and when its period begins; `None` where there is none.
pub(super) async fn find(
    connection: &mut PgConnection,
    number_or_id: &str,
) -> Result<Option<(Invoiced, NaiveDate, bool)>, BillingError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        invoice_id: String,
        invoice_number: Option<String>,
        customer_id: String,
        status: String,
        snapshot: String,
        source_class: String,
        period_start: NaiveDate,
        is_cancelled: bool,
    }
    if number_or_id.contains('\0') {
        return Ok(None);
    }
    let row: Option<Row> = sqlx::query_as(FIND).bind(number_or_id).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(None) };
    let number = row.invoice_number.unwrap_or_default();
    let kept = (row.snapshot.as_str(), row.source_class.as_str());
    let invoice = invoiced(row.invoice_id, number, &row.customer_id, &row.status, kept)?;
    Ok(Some((invoice, row.period_start, row.is_cancelled)))
}

fn invoiced(
    id: String,
    number: String,
    customer_id: &str,
    status: &str,
    (snapshot, source_class): (&str, &str),
) -> Result<Invoiced, BillingError> {
    let status = Status::parse(status).map_err(|_| broken(&id, "status"))?;
    let snapshot = serde_json::from_str(snapshot).map_err(|_| broken(&id, "snapshot"))?;
    let source_class = class(source_class, &id)?;
    let stored = AnyStored::from_row(id.clone(), customer_id.to_owned(), status);
    Ok(Invoiced { stored, id, number, snapshot, source_class })
}

fn class(name: &str, invoice: &str) -> Result<SourceClass, BillingError> {
    SourceClass::parse(name).ok_or_else(|| broken(invoice, "source class"))
}

pub(super) fn broken(invoice: &str, field: &'static str) -> BillingError {
    ReadError::Broken { invoice: invoice.to_owned(), field }.into()
}

/// Notes that an invoice's period is billed through this cut.
pub(super) async fn advance(
    connection: &mut PgConnection,
    invoice_id: &str,
    customer_id: &str,
    close_id: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(ADVANCE).bind(invoice_id).bind(customer_id).bind(close_id).execute(connection).await.map(drop)
}

/// Makes the periods that a credited invoice carried adjustments for be looked at again.
pub(super) async fn release(connection: &mut PgConnection, carrier_id: &str) -> Result<(), sqlx::Error> {
    sqlx::query(RELEASE).bind(carrier_id).execute(connection).await.map(drop)
}

const NEWER: &str = "
    select i.invoice_id::text, i.invoice_number, i.status::text, i.snapshot::text, i.source_class, k.close_id,
        k.source_class as cut_class, k.cut, k.cut_at, encode(k.evidence_sha256, 'hex') as evidence, b.directory_version = k.directory_version as is_directory_same
    from invoices i
    left join invoice_cuts p on p.invoice_id = i.invoice_id
    join closes b on b.close_id = coalesce(p.close_id, i.close_id)
    cross join lateral (
        select c.close_id, c.cut, c.cut_at, c.evidence_sha256, c.directory_version, c.source_class
        from closes c
        where c.customer_id = i.customer_id and c.period_start = i.period_start
        order by c.cut desc
        limit 1
    ) k
    where i.customer_id = $1::text and i.kind in ('monthly', 'final') and i.status in ('issued', 'paid')
        and k.cut > b.cut
        and not exists (
            select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation')
    order by i.period_start, i.invoice_number";

const NOTES: &str = "
    select snapshot::text from credit_notes
    where invoice_id = $1::text::uuid and kind = 'late_usage'
    order by issued_at, credit_note_number";

/// Those that no note took back, alone or with their carrier, the newest first.
const ADJUSTMENTS: &str = "
    select a.adjustment_id::text, a.correction::text, c.invoice_id::text, c.invoice_number, c.status::text,
        c.snapshot::text, c.source_class
    from invoice_adjustments a
    join invoices c on c.invoice_id = a.invoice_id
    where a.adjusted_invoice_id = $1::text::uuid and c.status in ('issued', 'paid')
        and not exists (
            select from credit_notes n
            where n.adjustment_id = a.adjustment_id or (n.invoice_id = a.invoice_id and n.kind = 'cancellation'))
    order by c.issued_at desc, c.invoice_number desc";

const CARRIED: &str = "
    select a.correction::text from invoice_adjustments a
    where a.invoice_id = $1::text::uuid
        and not exists (select from credit_notes n where n.adjustment_id = a.adjustment_id)
    order by a.position";

const FIND: &str = "
    select i.invoice_id::text, i.invoice_number, i.customer_id, i.status::text, i.snapshot::text, i.source_class, i.period_start,
        exists (
            select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation') as is_cancelled
    from invoices i
    where i.invoice_number = $1::text or i.invoice_id::text = $1::text";

const ADVANCE: &str = "
    insert into invoice_cuts (invoice_id, customer_id, close_id) values ($1::text::uuid, $2::text, $3::bigint)
    on conflict (invoice_id) do update set close_id = excluded.close_id";

const RELEASE: &str = "
    delete from invoice_cuts
    where invoice_id in (select adjusted_invoice_id from invoice_adjustments where invoice_id = $1::text::uuid)";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "newer cuts", sql: NEWER, roles: PREVIEWERS },
    Statement { name: "notes of late usage", sql: NOTES, roles: PREVIEWERS },
    Statement { name: "adjustments of a period", sql: ADJUSTMENTS, roles: PREVIEWERS },
    Statement { name: "carried adjustments", sql: CARRIED, roles: BILLING },
    Statement { name: "find invoice", sql: FIND, roles: BILLING },
    Statement { name: "advance cut", sql: ADVANCE, roles: BILLING },
    Statement { name: "release adjustments", sql: RELEASE, roles: BILLING },
];
