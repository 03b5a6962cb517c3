//! What PostgreSQL's failures mean for the caller.

use thiserror::Error;

/// The database did not do it.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// Retry: not reachable, too busy, shutting down, or this transaction was sacrificed to another.
    #[error("PostgreSQL is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Stop: the same statement would fail again.
    #[error("PostgreSQL refused: {0}")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        let passes = match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(database) => database.code().is_some_and(|code| passes(&code)),
            _ => false,
        };
        if passes { Self::Unavailable(error) } else { Self::Refused(error) }
    }
}

/// Whether a SQLSTATE names a condition that passes by itself (PostgreSQL documentation, appendix A).
fn passes(code: &str) -> bool {
    // Connection exceptions, transaction rollback (serialization, deadlock), insufficient resources, operator intervention;
    // and a lock that was not available.
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_is_tried_again() {
        for (code, again) in
            [("40P01", true), ("40001", true), ("57P01", true), ("53300", true), ("55P03", true), ("08006", true)]
                .into_iter()
                .chain([("42501", false), ("23514", false), ("22021", false), ("42P01", false)])
        {
            assert_eq!(passes(code), again, "{code}");
        }
        assert!(matches!(DatabaseError::from(sqlx::Error::PoolTimedOut), DatabaseError::Unavailable(_)));
        assert!(matches!(DatabaseError::from(sqlx::Error::RowNotFound), DatabaseError::Refused(_)));
    }
}
