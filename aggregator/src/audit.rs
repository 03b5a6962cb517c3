//! What this room writes to the audit trail: who owns what, and what is measured how.
//!
//! In the transaction of the change and last in it, as the trail's head stays locked until the end.

use std::collections::BTreeMap;

use sqlx::PgConnection;

/// Who changed it: a person at the command line, or the program by its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    Operator,
    System,
}

/// Records an action on a subject in the trails of these customers, or the platform's (`None`). Details are names and texts.
pub(crate) async fn record(
    customers: &[Option<&str>],
    actor: Actor,
    action: &str,
    subject: &str,
    details: &[(&str, &str)],
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let actor = match actor {
        Actor::Operator => "operator",
        Actor::System => "system",
    };
    // In the order of their ids: the order in which everyone locks the heads of several trails.
    let mut customers = customers.to_vec();
    customers.sort_unstable();
    customers.dedup();
    let details: BTreeMap<&str, &str> = details.iter().copied().collect();
    let (names, texts): (Vec<&str>, Vec<&str>) = details.into_iter().unzip();
    for customer in customers {
        let statement = sqlx::query(RECORD).bind(customer).bind(actor).bind(action).bind(subject);
        statement.bind(&names).bind(&texts).execute(&mut *connection).await?;
    }
    Ok(())
}

const RECORD: &str = "select record_audit_event($1, $2, $3, $4, jsonb_object($5::text[], $6::text[]))";

/// Every statement of this module, for the test that prepares them against the schema.
#[doc(hidden)]
pub const STATEMENTS: &[&str] = &[RECORD];
