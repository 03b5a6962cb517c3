//! The ledger: entries of postings, never changed.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sqlx::PgConnection;

use crate::postings::{Account, Postings};
use crate::statements::{BILLING, PREVIEWERS, Statement};

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion<'a> {
    /// An invoice is issued.
    Issue,
    /// A credit note of this id is issued.
    CreditNote(&'a str),
    /// A payment of this number came in.
    Payment(i64),
    /// A grant of this number is given.
    Grant(i64),
}

impl Occasion<'_> {
    fn kind(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::CreditNote(_) => "credit_note",
            Self::Payment(_) => "payment",
            Self::Grant(_) => "grant",
        }
    }
}

/// Posts an entry, all its lines at once. `invoice_id` is the invoice whose receivable moves; none of a grant.
pub(crate) async fn post(
    connection: &mut PgConnection,
    customer_id: &str,
    currency: crate::currency::Currency,
    invoice_id: Option<&str>,
    occasion: Occasion<'_>,
    postings: &Postings,
    posted_at: Timestamp,
) -> Result<(), sqlx::Error> {
    let (mut accounts, mut details, mut amounts) = (Vec::new(), Vec::new(), Vec::new());
    for posting in postings.iter() {
        let name = posting.account.to_string();
        let (account, detail) = name.split_once(':').unwrap_or((&name, ""));
        accounts.push(account.to_owned());
        details.push(detail.to_owned());
        amounts.push(posting.amount.minor());
    }
    let (credit_note_id, payment_id, grant_id) = match occasion {
        Occasion::Issue => (None, None, None),
        Occasion::CreditNote(id) => (Some(id), None, None),
        Occasion::Payment(id) => (None, Some(id), None),
        Occasion::Grant(id) => (None, None, Some(id)),
    };
    sqlx::query(POST)
        .bind(customer_id)
        .bind(occasion.kind())
        .bind(invoice_id)
        .bind(credit_note_id)
        .bind(payment_id)
        .bind(grant_id)
        .bind(currency.as_str())
        .bind(i32::try_from(amounts.len()).unwrap_or(i32::MAX))
        .bind(DateTime::<Utc>::from(posted_at))
        .bind(accounts)
        .bind(details)
        .bind(amounts)
        .execute(connection)
        .await
        .map(drop)
}

/// What an account changes by in an entry, in minor units.
pub(crate) fn change_of(postings: &Postings, account: &Account) -> i64 {
    postings.iter().filter(|posting| posting.account == *account).map(|posting| posting.amount.minor()).sum()
}

/// What is open of an invoice, in minor units.
pub(crate) async fn open_minor(connection: &mut PgConnection, invoice_id: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(OPEN_MINOR).bind(invoice_id).fetch_one(connection).await
}

const POST: &str = "
    with entry as (
        insert into ledger_entries (
            customer_id, kind, invoice_id, credit_note_id, payment_id, grant_id, currency, line_count, posted_at)
        values (
            $1::text, $2::text, $3::text::uuid, $4::text::uuid, $5::bigint, $6::bigint, $7::text, $8::int, $9::timestamptz)
        returning entry_id
    )
    insert into ledger_lines (entry_id, position, customer_id, account, detail, invoice_id, currency, amount_minor)
    select e.entry_id, l.position, $1::text, l.account, l.detail,
        case when l.account = 'receivable' then $3::text::uuid end, $7::text, l.amount_minor
    from entry e
    cross join unnest($10::text[], $11::text[], $12::bigint[]) with ordinality
        as l (account, detail, amount_minor, position)";

const OPEN_MINOR: &str = "select invoice_open_minor($1::text::uuid)";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "post", sql: POST, roles: BILLING },
    Statement { name: "open of an invoice", sql: OPEN_MINOR, roles: PREVIEWERS },
];
