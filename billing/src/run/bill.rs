//! One customer: late usage of earlier periods, then the invoice of this one, in the caller's transaction.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use serde_json::json;
use sqlx::PgConnection;

use super::agreement::{Catalog, CustomerRow};
use super::interruption::{Interruptions, Point, pass};
use super::late::{self, Carried, Invoiced, Recounted};
use super::readiness::{Closed, Readiness, readiness};
use super::report::{BilledInvoice, Outcome};
use super::{BillingError, DeskError, Discarded, usage_reading};
use crate::audit::{Recorded, record};
use crate::books::credit_note::{self, NoteContent, WrittenNote};
use crate::books::draft::{self, CarriedAdjustment, DraftContent};
use crate::books::{issue, ledger, lock_customer};
use crate::correction::{Correction, add_coupons};
use crate::days::Days;
use crate::document::{Evidence, FIRST_REVISION, Party, SourceClass, instant_text};
use crate::invoice::{self, Invoice, InvoiceKind};
use crate::late_usage::{Step, joined, negated};
use crate::lifecycle::{AnyStored, CreditNoteKind, Drafted, Status, Stored};
use crate::money::Money;
use crate::outbox::{Notification, Template, enqueue};
use crate::period::Month;
use crate::postings::Postings;
use crate::prepayment::annual_prepayment;
use crate::snapshot::Snapshot;
use crate::statements::{BILLING, PREVIEWERS, Statement};
use crate::terms::{PrepaidFee, Terms, TermsError};
use crate::usage::Usage;

/// What is the same for every customer of a run.
pub(super) struct Billing<'a> {
    pub(super) period: Month,
    pub(super) seller: &'a Party,
    pub(super) grace_hours: u32,
    pub(super) discarded: Discarded,
    pub(super) actor: &'a str,
    pub(super) catalog: &'a Catalog,
    pub(super) now: Timestamp,
    pub(super) interruptions: &'a dyn Interruptions,
}

/// What is to be done about a period.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan<'a> {
    /// Bill it, unless it is billed.
    Bill,
    /// Credit its invoice whole, and bill it again as a new revision.
    Replace {
        /// The invoice.
        invoice: &'a Invoiced,
        /// Why.
        cause: &'a str,
    },
}

/// What was written for a customer, before its numbers are taken.
pub(super) struct Written {
    pub(super) outcome: Outcome,
    pub(super) notes: Vec<WrittenNote>,
    to_issue: Option<(Stored<Drafted>, Snapshot)>,
}

/// What stands about a customer and a period.
#[derive(sqlx::FromRow)]
struct StandingRow {
    #[sqlx(flatten)]
    customer: CustomerRow,
    credit_minor: i64,
    invoice_id: Option<String>,
    status: Option<String>,
    invoice_number: Option<String>,
    revision: Option<i32>,
    invoice_kind: Option<String>,
    invoice_currency: Option<String>,
    total_minor: Option<i64>,
    is_cancelled: bool,
    close_id: Option<i64>,
    source_class: Option<String>,
    evidence_sha256: Option<Vec<u8>>,
    cut: Option<i32>,
    cut_at: Option<DateTime<Utc>>,
    is_overridden: bool,
}

/// The newest close of the period.
#[derive(Clone, Debug)]
struct Close {
    id: i64,
    sha256: Vec<u8>,
    source_class: SourceClass,
    is_overridden: bool,
    evidence: Evidence,
}

impl StandingRow {
    fn close(&self) -> Result<Option<Close>, BillingError> {
        let (Some(id), Some(class), Some(sha256), Some(cut), Some(cut_at)) =
            (self.close_id, &self.source_class, &self.evidence_sha256, self.cut, self.cut_at)
        else {
            return Ok(None);
        };
        let source_class = SourceClass::parse(class).ok_or_else(|| BillingError::BrokenClose { close_id: id })?;
        let evidence = Evidence {
            cut,
            cut_at: instant_text(cut_at),
            sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        Ok(Some(Close { id, sha256: sha256.clone(), source_class, is_overridden: self.is_overridden, evidence }))
    }

    /// The invoice of the period, whatever its state.
    fn existing(&self) -> Result<Option<(AnyStored, BilledInvoice)>, BillingError> {
        let (Some(id), Some(status), Some(currency), Some(total_minor)) =
            (&self.invoice_id, &self.status, &self.invoice_currency, self.total_minor)
        else {
            return Ok(None);
        };
        let status = Status::parse(status).map_err(|_| late::broken(id, "status"))?;
        let stored = AnyStored::from_row(id.clone(), self.customer.customer_id.clone(), status);
        let total = Money::from_minor(total_minor, crate::currency::Currency::parse(currency)?);
        Ok(Some((stored, BilledInvoice { id: id.clone(), number: self.invoice_number.clone(), total })))
    }
}

/// What a period comes to for a customer, without anything written for it.
pub(super) struct Assembled {
    snapshot: Snapshot,
    close: Option<Close>,
}

impl Written {
    /// Credit notes and nothing else.
    pub(super) fn of_notes(notes: Vec<WrittenNote>) -> Self {
        Self { outcome: Outcome::Credited, notes, to_issue: None }
    }
}

impl Billing<'_> {
    /// Writes everything for one customer but the numbers.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
        plan: Plan<'_>,
    ) -> Result<Written, BillingError> {
        lock_customer(connection, customer_id).await?;
        self.pass(connection, customer_id, Point::Claimed).await?;
        let standing = standing(connection, self.period, customer_id).await?;
        let mut written = Written { outcome: Outcome::NotUnderContract, notes: Vec::new(), to_issue: None };
        if let Plan::Replace { invoice, cause } = plan {
            // First, because what this releases is billed again by what follows.
            written.notes = self.take_back(connection, invoice, cause).await?;
        }
        let recounted = late::recount(connection, customer_id).await?;
        let (notes, charges) = self.correct(connection, customer_id, recounted).await?;
        written.notes.extend(notes);
        self.pass(connection, customer_id, Point::Credited).await?;
        let existing = standing.existing()?;
        let mut earlier = None;
        let mut revision = standing.revision.unwrap_or(FIRST_REVISION);
        match existing {
            Some((AnyStored::Issued(_) | AnyStored::Paid(_), _)) if matches!(plan, Plan::Replace { .. }) => {
                revision += 1
            }
            Some((AnyStored::Issued(_) | AnyStored::Paid(_), billed)) => {
                written.outcome =
                    if standing.is_cancelled { Outcome::Credited } else { Outcome::AlreadyIssued(billed) };
                return Ok(written);
            }
            Some((AnyStored::Cancelled(_), _)) if self.discarded == Discarded::Stay => {
                written.outcome = Outcome::Voided;
                return Ok(written);
            }
            Some((AnyStored::Cancelled(_), _)) => revision += 1,
            Some((AnyStored::Draft(draft), _)) => earlier = Some(draft),
            None => {}
        }
        let Some(terms) = self.terms(connection, &standing).await? else { return Ok(written) };
        // Credit notes are among what the balances of coupons have given; what is to be charged is not yet.
        let terms = with_balances_used(terms, charges.iter().map(|charge| &charge.correction))?;
        let close = standing.close()?;
        let closed =
            close.as_ref().map(|close| Closed { source_class: close.source_class, is_overridden: close.is_overridden });
        let ready = readiness(self.period, closed, self.grace_hours, self.now);
        let to_credit = written.notes.iter().map(|note| note.to_credit.minor()).sum::<i64>();
        let available = Money::from_minor(standing.credit_minor.saturating_add(to_credit), terms.currency);
        let is_ready = ready == Readiness::Ready;
        let settlement = if is_ready { (charges, available) } else { (Vec::new(), Money::zero(terms.currency)) };
        let usage = self.usage(connection, &standing, close.as_ref()).await?;
        let assembled = self.assemble(&standing, close, terms, &usage, &settlement.0, settlement.1)?;
        // The kind can change while it is a draft, when the contract's end becomes known: then it is another draft.
        let kind = assembled.snapshot.invoice.kind;
        if let Some(draft) = earlier.take_if(|_| standing.invoice_kind.as_deref() != Some(kind.as_str())) {
            draft::discard(connection, draft).await?;
            revision = draft::next_revision(connection, customer_id, kind, self.period.first_day()).await?;
        }
        let is_new = earlier.is_none();
        let content = DraftContent {
            period: (self.period.first_day(), self.period.end_day()),
            revision,
            source_class: assembled.close.as_ref().map_or(SourceClass::BestEffort, |close| close.source_class),
            close: assembled.close.as_ref().map(|close| (close.id, close.sha256.clone())),
            snapshot: assembled.snapshot,
        };
        let written_draft = draft::write(connection, &content, earlier, self.now).await?;
        // The customer is locked, so nobody else can have written it.
        let draft = written_draft.ok_or(sqlx::Error::RowNotFound)?;
        self.pass(connection, customer_id, Point::Drafted).await?;
        draft::write_lines(connection, &draft, &content.snapshot.invoice).await?;
        self.pass(connection, customer_id, Point::Lined).await?;
        let billed =
            BilledInvoice { id: draft.id().to_owned(), number: None, total: content.snapshot.invoice.totals.total };
        if !is_ready {
            written.outcome = waiting(ready, billed);
            if is_new {
                self.record_draft(connection, &draft, &content.snapshot.invoice).await?;
            }
            return Ok(written);
        }
        self.complete(connection, &draft, &content.snapshot.invoice, &settlement.0).await?;
        written.outcome = Outcome::Issued(billed);
        written.to_issue = Some((draft, content.snapshot));
        Ok(written)
    }

    /// Takes the numbers of what was written: credit notes first, then the invoice, and nothing after them but the commit.
    /// Returns those of the notes.
    pub(super) async fn number(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
        written: &mut Written,
    ) -> Result<Vec<String>, BillingError> {
        let mut numbers = Vec::with_capacity(written.notes.len());
        for note in &written.notes {
            numbers.push(credit_note::number(connection, note, self.actor, self.now).await?);
        }
        if let Some((draft, snapshot)) = written.to_issue.take() {
            let (issued, number) = issue::issue(connection, draft, &snapshot, self.actor, self.now).await?;
            if snapshot.invoice.settlement.due.is_zero() {
                let because = if snapshot.invoice.settlement.credit.is_zero() { "nothing is due" } else { "credit" };
                issue::settle(connection, issued, &number, because, self.actor, self.now).await?;
            }
            if let Outcome::Issued(billed) = &mut written.outcome {
                billed.number = Some(number);
            }
        }
        self.pass(connection, customer_id, Point::Issued).await?;
        Ok(numbers)
    }

    /// The id of the period's issued invoice, unless that was credited whole.
    pub(super) async fn issued(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
    ) -> Result<Option<String>, BillingError> {
        let standing = standing(connection, self.period, customer_id).await?;
        let is_issued = matches!(standing.existing()?, Some((AnyStored::Issued(_) | AnyStored::Paid(_), _)));
        Ok(standing.invoice_id.filter(|_| is_issued && !standing.is_cancelled))
    }

    /// What the period would come to with what there is now. Writes nothing.
    pub(super) async fn preview(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
    ) -> Result<Option<(Snapshot, SourceClass)>, BillingError> {
        let previewed = self.preview_with(connection, customer_id, |_, usage| Some(usage)).await?;
        Ok(previewed.map(|(_, snapshot, class)| (snapshot, class)))
    }

    /// The same with other usage, which is made of the usage there is and of the days under contract; `None` where it makes
    /// none, or no day is under contract.
    pub(super) async fn preview_with(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
        other: impl FnOnce(Days, Usage) -> Option<Usage>,
    ) -> Result<Option<(Days, Snapshot, SourceClass)>, BillingError> {
        let standing = standing(connection, self.period, customer_id).await?;
        let Some(terms) = self.terms(connection, &standing).await? else { return Ok(None) };
        let days = terms.days().map_err(|error| BillingError::Draft(error.into()))?;
        let close = standing.close()?;
        let mut available = Money::from_minor(standing.credit_minor, terms.currency);
        let mut charges = Vec::new();
        let recounted = late::recount(connection, customer_id).await?;
        let corrections = recounted.iter().flat_map(|recounted| &recounted.steps).map(Step::correction);
        let terms = with_balances_used(terms, corrections)?;
        let mut open_of = BTreeMap::<String, i64>::new();
        for Recounted { invoice, close_id, source_class, steps, .. } in recounted {
            for step in steps {
                let (credited, credit) = match step {
                    Step::Charge(correction) => {
                        let adjusted_invoice_id = invoice.id.clone();
                        charges.push(CarriedAdjustment { adjusted_invoice_id, close_id, source_class, correction });
                        continue;
                    }
                    Step::Credit(credit) => (invoice.id.clone(), credit),
                    Step::TakeBack(Carried { carrier, .. }, credit) => (carrier.id, credit),
                };
                // What is open of the credited invoice goes first; only the rest could be used here.
                let open = match open_of.get(&credited) {
                    Some(open) => *open,
                    None => ledger::open_minor(connection, &credited).await?.max(0),
                };
                let credit = credit.totals.total.checked_neg()?.minor();
                let off_open = credit.min(open);
                open_of.insert(credited, open - off_open);
                available = available.checked_add(Money::from_minor(credit - off_open, available.currency()))?;
            }
        }
        let usage = self.usage(connection, &standing, close.as_ref()).await?;
        let Some(usage) = other(days, usage) else { return Ok(None) };
        let assembled = self.assemble(&standing, close, terms, &usage, &charges, available)?;
        let class = assembled.close.map_or(SourceClass::BestEffort, |close| close.source_class);
        Ok(Some((days, assembled.snapshot, class)))
    }

    /// What the newest close says, or, where there is none, the usage so far.
    async fn usage(
        &self,
        connection: &mut PgConnection,
        standing: &StandingRow,
        close: Option<&Close>,
    ) -> Result<Usage, BillingError> {
        match close {
            Some(close) => usage_reading::closed(connection, close.id).await,
            None => usage_reading::so_far(connection, self.period, &standing.customer.customer_id).await,
        }
    }

    /// Rates and adds up.
    fn assemble(
        &self,
        standing: &StandingRow,
        close: Option<Close>,
        terms: Terms,
        usage: &Usage,
        charges: &[CarriedAdjustment],
        available: Money,
    ) -> Result<Assembled, BillingError> {
        let carried = charges.iter().map(|charge| charge.correction.clone()).collect();
        let invoice = invoice::draft(&terms, usage)?.settled(carried, available)?;
        let snapshot = Snapshot {
            seller: self.seller.clone(),
            buyer: standing.customer.buyer(),
            terms: Some(terms),
            invoice,
            evidence: close.as_ref().map(|close| close.evidence.clone()),
            covers: None,
        };
        Ok(Assembled { snapshot, close })
    }

    /// Writes the late usage of a customer's invoiced periods as an invoice of its own, and credit notes that are due as well;
    /// `None` where there is nothing to charge.
    pub(super) async fn write_late_usage(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
    ) -> Result<Option<Written>, BillingError> {
        lock_customer(connection, customer_id).await?;
        let standing = standing(connection, self.period, customer_id).await?;
        let recounted = late::recount(connection, customer_id).await?;
        let (notes, charges) = self.correct(connection, customer_id, recounted).await?;
        let (Some(first), Some(last)) = (charges.first(), charges.last()) else { return Ok(None) };
        let currency = first.correction.totals.total.currency();
        let (first, last) = (first.correction.period, last.correction.period);
        let period = Days::new(first.start(), last.end().max(first.end())).unwrap_or(first);
        let invoice = Invoice::of_adjustments(customer_id, period, currency);
        self.write_other(connection, &standing, notes, charges, invoice, None).await.map(Some)
    }

    /// Writes the invoice of twelve months of a fee in advance.
    pub(super) async fn write_prepayment(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
        from: NaiveDate,
    ) -> Result<Written, DeskError> {
        lock_customer(connection, customer_id).await.map_err(BillingError::from)?;
        let standing = standing(connection, self.period, customer_id).await?;
        let terms = self.terms(connection, &standing).await?;
        let terms =
            terms.ok_or_else(|| DeskError::NotIssuable(format!("no day of {} is under contract", self.period)))?;
        let card = terms.stretches.iter().find(|stretch| stretch.days.contains(from));
        let card = card.ok_or_else(|| DeskError::NotIssuable(format!("{from} is not under contract")))?;
        let (invoice, covers) = annual_prepayment(&card.card, customer_id, from, &terms.taxes)?;
        // No day of a fee is paid twice, whether by another year in advance or by a month.
        let same = |paid: &&PrepaidFee| paid.fee == covers.fee && paid.tier == covers.tier;
        let mut overlapping = terms.prepaid.iter().filter(same);
        if let Some((days, paid)) = overlapping.find_map(|paid| Some((paid.days.meet(covers.days)?, paid))) {
            let reason = format!("{days} is covered by {}, which was paid in advance", paid.invoice);
            return Err(DeskError::NotIssuable(reason));
        }
        let billed: Option<String> = sqlx::query_scalar(BILLED_SINCE)
            .bind(customer_id)
            .bind(from)
            .fetch_optional(&mut *connection)
            .await
            .map_err(BillingError::from)?;
        if let Some(number) = billed {
            let reason =
                format!("days from {from} on are billed by {number}: begin after its month, or credit it first");
            return Err(DeskError::NotIssuable(reason));
        }
        Ok(self.write_other(connection, &standing, Vec::new(), Vec::new(), invoice, Some(covers)).await?)
    }

    /// Writes an invoice that is no month's.
    async fn write_other(
        &self,
        connection: &mut PgConnection,
        standing: &StandingRow,
        notes: Vec<WrittenNote>,
        charges: Vec<CarriedAdjustment>,
        invoice: Invoice,
        covers: Option<PrepaidFee>,
    ) -> Result<Written, BillingError> {
        let customer_id = &standing.customer.customer_id;
        let to_credit = notes.iter().map(|note| note.to_credit.minor()).sum::<i64>();
        let credit = standing.credit_minor.saturating_add(to_credit);
        let available = match invoice.kind {
            // Money for a year ahead is not paid with money paid ahead.
            InvoiceKind::Prepayment => Money::zero(invoice.currency),
            _ => Money::from_minor(credit, invoice.currency),
        };
        let carried = charges.iter().map(|charge| charge.correction.clone()).collect();
        let invoice = invoice.settled(carried, available)?;
        let period = (invoice.period.start(), invoice.period.end());
        let content = DraftContent {
            period,
            revision: draft::next_revision(connection, customer_id, invoice.kind, period.0).await?,
            close: None,
            source_class: weakest(&charges),
            snapshot: Snapshot {
                seller: self.seller.clone(),
                buyer: standing.customer.buyer(),
                terms: None,
                invoice,
                evidence: None,
                covers,
            },
        };
        let draft = draft::write(connection, &content, None, self.now).await?.ok_or(sqlx::Error::RowNotFound)?;
        let invoice = &content.snapshot.invoice;
        draft::write_lines(connection, &draft, invoice).await?;
        self.complete(connection, &draft, invoice, &charges).await?;
        let billed = BilledInvoice { id: draft.id().to_owned(), number: None, total: invoice.settlement.payable };
        Ok(Written { outcome: Outcome::Issued(billed), notes, to_issue: Some((draft, content.snapshot)) })
    }

    async fn terms(
        &self,
        connection: &mut PgConnection,
        standing: &StandingRow,
    ) -> Result<Option<Terms>, BillingError> {
        let terms = self.catalog.terms(connection, &standing.customer).await?;
        match terms.days() {
            Ok(_) => Ok(Some(terms)),
            Err(TermsError::NotUnderContract(_)) => Ok(None),
            Err(error) => Err(BillingError::Draft(error.into())),
        }
    }

    /// Writes the credit notes of recounted periods; returns them and what is to be charged.
    async fn correct(
        &self,
        connection: &mut PgConnection,
        customer_id: &str,
        recounted: Vec<Recounted>,
    ) -> Result<(Vec<WrittenNote>, Vec<CarriedAdjustment>), BillingError> {
        let (mut notes, mut charges) = (Vec::new(), Vec::new());
        let mut settled = BTreeSet::new();
        for Recounted { invoice, close_id, evidence, source_class, steps } in recounted {
            let mut is_charged = false;
            for step in steps {
                match step {
                    Step::Credit(correction) => {
                        let close = Some((close_id, evidence.clone(), source_class));
                        let kind = CreditNoteKind::LateUsage;
                        let note = self.credit(connection, &invoice, kind, None, close, correction).await?;
                        self.settle_credited(connection, &invoice, &note, &mut settled).await?;
                        notes.push(note);
                    }
                    Step::TakeBack(Carried { adjustment_id, carrier }, mut correction) => {
                        correction.cause =
                            format!("{}: adjustment for {} taken back", correction.cause, invoice.number);
                        correction.invoice.clone_from(&carrier.number);
                        let kind = CreditNoteKind::Adjustment;
                        let id = Some(adjustment_id.as_str());
                        let note = self.credit(connection, &carrier, kind, id, None, correction).await?;
                        self.settle_credited(connection, &carrier, &note, &mut settled).await?;
                        notes.push(note);
                    }
                    Step::Charge(correction) => {
                        is_charged = true;
                        let adjusted_invoice_id = invoice.id.clone();
                        charges.push(CarriedAdjustment { adjusted_invoice_id, close_id, source_class, correction });
                    }
                }
            }
            // What is to be charged waits for an invoice that carries it; until then it is looked at again.
            if !is_charged {
                late::advance(connection, &invoice.id, customer_id, close_id).await?;
            }
        }
        Ok((notes, charges))
    }

    async fn credit(
        &self,
        connection: &mut PgConnection,
        invoice: &Invoiced,
        kind: CreditNoteKind,
        adjustment_id: Option<&str>,
        close: Option<(i64, Evidence, SourceClass)>,
        correction: Correction,
    ) -> Result<WrittenNote, BillingError> {
        let (close, source_class) = match close {
            Some((close_id, evidence, source_class)) => (Some((close_id, evidence)), source_class),
            None => (None, invoice.source_class),
        };
        let content = NoteContent {
            invoice_id: &invoice.id,
            customer_id: &invoice.snapshot.invoice.customer,
            snapshot: &invoice.snapshot,
            kind,
            adjustment_id,
            close,
            source_class,
            correction,
        };
        Ok(credit_note::write(connection, content, self.now).await?)
    }

    /// An invoice of which a credit note leaves nothing open is paid.
    async fn settle_credited(
        &self,
        connection: &mut PgConnection,
        invoice: &Invoiced,
        note: &WrittenNote,
        settled: &mut BTreeSet<String>,
    ) -> Result<(), BillingError> {
        if let AnyStored::Issued(open) = &invoice.stored
            && note.left_open_minor == 0
            && settled.insert(invoice.id.clone())
        {
            issue::settle(connection, open.clone(), &invoice.number, "credit note", self.actor, self.now).await?;
        }
        Ok(())
    }

    /// Credits an invoice whole, and takes back what was charged elsewhere for its period. What the invoice carried for other
    /// periods is free to be billed again.
    pub(super) async fn take_back(
        &self,
        connection: &mut PgConnection,
        invoice: &Invoiced,
        cause: &str,
    ) -> Result<Vec<WrittenNote>, BillingError> {
        let billed = late::billed(connection, invoice, &invoice.snapshot.invoice.customer).await?;
        let mut notes = Vec::new();
        let mut settled = BTreeSet::new();
        for (Carried { adjustment_id, carrier }, charged) in billed.adjustments {
            let mut correction = negated(&charged, &format!("{cause}: adjustment for {} taken back", invoice.number))?;
            correction.invoice.clone_from(&carrier.number);
            let kind = CreditNoteKind::Adjustment;
            let note = self.credit(connection, &carrier, kind, Some(&adjustment_id), None, correction).await?;
            self.settle_credited(connection, &carrier, &note, &mut settled).await?;
            notes.push(note);
        }
        let mut correction = billed.own.cancellation(&invoice.number, cause)?;
        for carried in late::carried_by(connection, &invoice.id).await? {
            correction = joined(correction, &negated(&carried, cause)?)?;
        }
        let kind = CreditNoteKind::Cancellation;
        notes.push(self.credit(connection, invoice, kind, None, None, correction).await?);
        late::release(connection, &invoice.id).await?;
        Ok(notes)
    }

    /// Writes what an invoice has beside its lines: adjustments, ledger entry, notification.
    async fn complete(
        &self,
        connection: &mut PgConnection,
        draft: &Stored<Drafted>,
        invoice: &Invoice,
        charges: &[CarriedAdjustment],
    ) -> Result<(), BillingError> {
        draft::write_adjustments(connection, draft, charges).await?;
        for charge in charges {
            late::advance(connection, &charge.adjusted_invoice_id, draft.customer_id(), charge.close_id).await?;
        }
        self.pass(connection, draft.customer_id(), Point::Adjusted).await?;
        let postings = Postings::of_invoice(invoice)?;
        let occasion = ledger::Occasion::Issue;
        let (customer, currency, id) = (draft.customer_id(), invoice.currency, Some(draft.id()));
        ledger::post(connection, customer, currency, id, occasion, &postings, self.now).await?;
        self.pass(connection, customer, Point::Posted).await?;
        let notification = Notification::of_invoice(customer, Template::InvoiceIssued, draft.id(), None);
        enqueue(connection, &notification, self.now).await?;
        self.pass(connection, customer, Point::Announced).await
    }

    async fn record_draft(
        &self,
        connection: &mut PgConnection,
        draft: &Stored<Drafted>,
        invoice: &Invoice,
    ) -> Result<(), BillingError> {
        let event = Recorded {
            customer: Some(draft.customer_id()),
            actor: self.actor,
            action: "invoice.drafted",
            subject: draft.id(),
            details: json!({ "kind": invoice.kind.as_str(), "period": invoice.period.to_string() }),
        };
        Ok(record(connection, event).await?)
    }

    async fn pass(&self, connection: &mut PgConnection, customer: &str, point: Point) -> Result<(), BillingError> {
        Ok(pass(connection, self.interruptions, customer, point).await?)
    }
}

/// The terms of a month whose balances corrections of other months use as well.
fn with_balances_used<'a>(
    terms: Terms,
    corrections: impl IntoIterator<Item = &'a Correction>,
) -> Result<Terms, BillingError> {
    let mut taken = terms.coupons_taken();
    for correction in corrections {
        add_coupons(&mut taken, &correction.coupons)?;
    }
    Ok(terms.with_balances_taken(&taken))
}

/// How far all of what is charged is proven; where nothing is, nothing is unproven.
fn weakest(charges: &[CarriedAdjustment]) -> SourceClass {
    let classes = [SourceClass::BestEffort, SourceClass::Reconciled];
    let found = classes.into_iter().find(|class| charges.iter().any(|charge| charge.source_class == *class));
    found.unwrap_or(SourceClass::Proven)
}

fn waiting(ready: Readiness, draft: BilledInvoice) -> Outcome {
    match ready {
        Readiness::WaitsForGrace { until } => Outcome::Waiting {
            reason: format!("the sources are best effort, so late usage is waited for until {until}"),
            draft,
        },
        Readiness::WaitsForClose { until } => {
            Outcome::Waiting { reason: format!("the period is not closed; the grace ends at {until}"), draft }
        }
        Readiness::Unproven { since } => Outcome::Unproven {
            reason: format!(
                "the grace ended at {since} and the period is not closed: look at what `securebase close` says is missing"
            ),
            draft,
        },
        Readiness::Ready => unreachable!("what is ready is issued"),
    }
}

async fn standing(
    connection: &mut PgConnection,
    period: Month,
    customer_id: &str,
) -> Result<StandingRow, BillingError> {
    let row = sqlx::query_as(STANDING).bind(customer_id).bind(period.first_day()).fetch_optional(connection).await?;
    row.ok_or(BillingError::UnknownCustomer)
}

const STANDING: &str = "
    select c.customer_id, c.name, c.billing_address, c.tax_id,
        coalesce(b.credit_minor, 0) as credit_minor,
        i.invoice_id::text, i.status::text, i.invoice_number, i.revision, i.kind as invoice_kind,
        i.currency::text as invoice_currency, i.total_minor,
        exists (
            select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation') as is_cancelled,
        k.close_id, k.source_class, k.evidence_sha256, k.cut, k.cut_at, k.overridden_by is not null as is_overridden
    from customers c
    left join customer_balances b on b.customer_id = c.customer_id and b.currency = c.currency
    left join lateral (
        select * from invoices i
        where i.customer_id = c.customer_id and i.period_start = $2::date and i.kind in ('monthly', 'final')
        order by i.created_at desc, i.revision desc
        limit 1
    ) i on true
    left join lateral (
        select * from closes k
        where k.customer_id = c.customer_id and k.period_start = $2::date
        order by k.cut desc
        limit 1
    ) k on true
    where c.customer_id = $1::text";

/// The first invoice of a month that stands and bills days from one on.
const BILLED_SINCE: &str = "
    select i.invoice_number from invoices i
    where i.customer_id = $1::text and i.kind in ('monthly', 'final') and i.status in ('issued', 'paid')
        and i.period_end > $2::date
        and not exists (select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation')
    order by i.period_start
    limit 1";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "standing of a customer", sql: STANDING, roles: PREVIEWERS },
    Statement { name: "billed since", sql: BILLED_SINCE, roles: BILLING },
];
