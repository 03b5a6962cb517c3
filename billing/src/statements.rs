//! Every SQL statement of this room, beside the role that runs it.

/// The roles that run a statement of this room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The statement's name in errors and tests.
    pub name: &'static str,
    /// The text.
    pub sql: &'static str,
    /// The roles that run it.
    pub roles: &'static [&'static str],
}

/// The statements that stand beside their use: prices, agreements and their changes.
pub fn core_statements() -> Vec<Statement> {
    let parts = [
        crate::agreement::STATEMENTS,
        crate::agreement::changes::STATEMENTS,
        crate::catalogue::STATEMENTS,
        crate::rate_card::loading::STATEMENTS,
        crate::simulation::STATEMENTS,
    ];
    parts.concat()
}

const BILLING: &[&str] = &["securebase_billing"];
/// Invoices are read by the run, by the operator's command line, and by the application within a proven tenant.
const READERS: &[&str] = &["securebase_billing", "securebase_operator", "securebase_app"];

/// Every statement, for a test that prepares each as its roles.
pub const STATEMENTS: [Statement; 10] = [
    Statement { name: "customers", sql: CUSTOMERS, roles: BILLING },
    Statement { name: "usage", sql: USAGE, roles: BILLING },
    Statement { name: "existing", sql: EXISTING, roles: BILLING },
    Statement { name: "insert draft", sql: INSERT_DRAFT, roles: BILLING },
    Statement { name: "insert lines", sql: INSERT_LINES, roles: BILLING },
    Statement { name: "take number", sql: TAKE_NUMBER, roles: BILLING },
    Statement { name: "issue", sql: ISSUE, roles: BILLING },
    Statement { name: "invoice by id", sql: INVOICE_BY_ID, roles: READERS },
    Statement { name: "invoice by number", sql: INVOICE_BY_NUMBER, roles: READERS },
    Statement { name: "list", sql: LIST, roles: READERS },
];

pub(crate) const CUSTOMERS: &str = "
    select customer_id, name, billing_address, tax_id
    from customers
    where $1::text[] is null or customer_id = any($1::text[])
    order by customer_id";

/// The usage of a month by meter and day: the sum, the highest window over all accounts and regions, and the windows. Totals as
/// text, because a sum can have more digits than a decimal of 96 bits.
pub(crate) const USAGE: &str = "
    select meter, (window_start at time zone 'utc')::date as day, sum(total)::text, max(total)::text,
        count(*), min(window_start), max(window_start)
    from (
        select meter, window_start, sum(total) as total
        from usage_rows
        where customer_id = $1::text and window_start >= $2::timestamptz and window_start < $3::timestamptz
        group by meter, window_start
    ) as windows
    group by meter, day
    order by meter, day";

pub(crate) const EXISTING: &str = "
    select invoice_id::text, status::text
    from invoices
    where customer_id = $1::text and period_start = $2::date and kind = $3::text
    order by revision desc
    limit 1";

/// Waits for another transaction that is issuing the same invoice; no row when that one commits.
pub(crate) const INSERT_DRAFT: &str = "
    insert into invoices (
        customer_id, kind, revision, period_start, period_end, status, currency, subtotal_minor, discount_minor, net_minor,
        tax_rate, tax_minor, total_minor, source_class, rate_card_id, snapshot, created_at)
    values (
        $1::text, $2::text, $3::int, $4::date, $5::date, 'draft', $6::text, $7::bigint, $8::bigint, $9::bigint,
        $10::numeric, $11::bigint, $12::bigint, $13::text, $14::bigint, $15::text::jsonb, $16::timestamptz)
    on conflict (customer_id, period_start, kind, revision) do nothing
    returning invoice_id::text";

pub(crate) const INSERT_LINES: &str = "
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

pub(crate) const TAKE_NUMBER: &str = "
    insert into invoice_number_counters as c (series, month, last_number)
    values ($1::text, $2::date, 1)
    on conflict (series, month) do update set last_number = c.last_number + 1
    returning last_number";

pub(crate) const ISSUE: &str = "
    update invoices
    set status = 'issued', invoice_number = $2::text, issued_at = $3::timestamptz, due_at = $4::timestamptz
    where invoice_id = $1::text::uuid and status = 'draft'";

macro_rules! invoice_where {
    ($condition:literal) => {
        concat!(
            "
    select invoice_id::text, invoice_number, revision, status::text, total_minor, source_class, snapshot::text, issued_at,
        due_at, paid_at
    from invoices
    where ",
            $condition
        )
    };
}

pub(crate) const INVOICE_BY_ID: &str = invoice_where!("invoice_id = $1::text::uuid");

pub(crate) const INVOICE_BY_NUMBER: &str = invoice_where!("invoice_number = $1::text");

/// Newest first; a page goes on after an invoice's number, and is empty after a number that the reader cannot see.
pub(crate) const LIST: &str = "
    select invoice_id::text, invoice_number, kind, revision, status::text, customer_id, period_start, period_end,
        currency::text, total_minor, issued_at, due_at
    from invoices
    where status not in ('draft', 'cancelled')
        and ($2::text is null or (issued_at, invoice_id) < (
            select b.issued_at, b.invoice_id from invoices b where b.invoice_number = $2::text))
    order by issued_at desc, invoice_id desc
    limit $1::bigint";
