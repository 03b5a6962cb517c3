//! The points between two writes at which an issuing transaction can be cut off: for tests, which cut at each of them.

use sqlx::PgConnection;

/// What was just done for a customer when the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The claim is locked; nothing is written.
    Claimed,
    /// Credit notes for late usage are written, without their numbers.
    Credited,
    /// The draft is written.
    Drafted,
    /// Its lines are written.
    Lined,
    /// The adjustments it carries are written.
    Adjusted,
    /// The ledger entry is written.
    Posted,
    /// The notification is in the outbox.
    Announced,
    /// The numbers are taken, the invoice is issued and audited.
    Issued,
    /// The claim is done; only the commit is missing.
    Done,
    /// The transaction is committed.
    Committed,
}

impl Point {
    /// Every point, in the order in which they are passed.
    pub const ALL: [Self; 10] = [
        Self::Claimed,
        Self::Credited,
        Self::Drafted,
        Self::Lined,
        Self::Adjusted,
        Self::Posted,
        Self::Announced,
        Self::Issued,
        Self::Done,
        Self::Committed,
    ];
}

/// Decides at which points connections are cut.
pub trait Interruptions: Send + Sync {
    /// Whether the connection is cut here.
    fn is_cut(&self, customer: &str, point: Point) -> bool;
}

/// Nothing is cut: what runs outside of tests.
#[derive(Clone, Copy, Debug)]
pub struct Uninterrupted;

impl Interruptions for Uninterrupted {
    fn is_cut(&self, _: &str, _: Point) -> bool {
        false
    }
}

/// Passes a point: ends the connection's own server process where it is to be cut, as a crash would.
pub(crate) async fn pass(
    connection: &mut PgConnection,
    interruptions: &dyn Interruptions,
    customer: &str,
    point: Point,
) -> Result<(), sqlx::Error> {
    if interruptions.is_cut(customer, point) {
        sqlx::raw_sql("select pg_terminate_backend(pg_backend_pid())").execute(connection).await?;
    }
    Ok(())
}
