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

pub(crate) const BILLING: &[&str] = &["securebase_billing"];
/// Invoices are read by the run, by the operator's command line, and by the application within a proven tenant.
pub(crate) const READERS: &[&str] = &["securebase_billing", "securebase_operator", "securebase_app"];
/// What a month would come to is worked out by the run, and by the application within a proven tenant.
pub(crate) const PREVIEWERS: &[&str] = &["securebase_billing", "securebase_app"];

/// Every statement of this room, for a test that prepares each as its roles. Each stands beside its use.
pub fn statements() -> Vec<Statement> {
    let core = [
        crate::agreement::STATEMENTS,
        crate::agreement::changes::STATEMENTS,
        crate::catalogue::STATEMENTS,
        crate::rate_card::loading::STATEMENTS,
        crate::simulation::STATEMENTS,
    ];
    let own = [
        crate::audit::STATEMENTS,
        crate::durability::STATEMENTS,
        crate::read::STATEMENTS,
        crate::stored_document::STATEMENTS,
    ];
    let rooms = [crate::run::STATEMENTS, crate::books::STATEMENTS, crate::outbox::STATEMENTS].concat();
    rooms.into_iter().chain(core).chain(own).flatten().copied().collect()
}
