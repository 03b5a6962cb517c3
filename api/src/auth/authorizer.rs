//! What a gateway's authorizer hands on: who was authenticated, as flat text fields, and nothing about rights.
//!
//! The authorizer authenticates; the router looks the key up again and authorizes. In between the gateway may keep the
//! answer for minutes, which is why the key's generation travels with it.

use std::collections::HashMap;

use aggregator::directory::CustomerId;
use thiserror::Error;

use super::authenticator::Caller;
use super::token::KeyId;

const CUSTOMER: &str = "securebase_customer";
const KEY_ID: &str = "securebase_key_id";
const GENERATION: &str = "securebase_generation";
const SESSION: &str = "securebase_session";

/// Who an authorizer let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizerContext {
    /// The customer; `None` for an operator.
    pub customer: Option<CustomerId>,
    /// The key that was shown, or that the session stands for.
    pub key_id: KeyId,
    /// The key's generation then.
    pub generation: i32,
    /// The session's name, when a session was shown.
    pub session: Option<String>,
}

/// The request's context holds no authorizer's answer of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the request came without an authorizer's answer")]
pub struct NoContext;

impl AuthorizerContext {
    /// What of a caller is handed on.
    pub fn of(caller: &Caller) -> Self {
        Self {
            customer: caller.customer.clone(),
            key_id: caller.key_id.clone(),
            generation: caller.generation,
            session: caller.session.clone(),
        }
    }

    /// The fields of the authorizer's answer.
    pub fn to_fields(&self) -> HashMap<String, String> {
        let customer = self.customer.as_ref().map(|customer| (CUSTOMER, customer.to_string()));
        let session = self.session.clone().map(|session| (SESSION, session));
        let always = [(KEY_ID, self.key_id.to_string()), (GENERATION, self.generation.to_string())];
        let fields = always.into_iter().chain(customer).chain(session);
        fields.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Reads the fields from the context of a request, which only the gateway writes. Never from headers.
    pub fn from_fields<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Result<Self, NoContext> {
        let customer = field(CUSTOMER).map(CustomerId::parse).transpose().map_err(|_| NoContext)?;
        let key_id = field(KEY_ID).and_then(|text| KeyId::parse(text).ok()).ok_or(NoContext)?;
        let generation = field(GENERATION).and_then(|text| text.parse().ok()).ok_or(NoContext)?;
        Ok(Self { customer, key_id, generation, session: field(SESSION).map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_reads_back_and_a_part_of_it_is_none() {
        for (customer, session) in [(Some("acme"), Some("s")), (Some("acme"), None), (None, None)] {
            let context = AuthorizerContext {
                customer: customer.map(|id| CustomerId::parse(id).unwrap()),
                key_id: KeyId::parse("AAAAAAAAAAAAAAAA").unwrap(),
                generation: 4,
                session: session.map(str::to_owned),
            };
            let fields = context.to_fields();
            let read = |name: &str| fields.get(name).map(String::as_str);
            assert_eq!(AuthorizerContext::from_fields(read), Ok(context));
            let without = |missing: &'static str| {
                let fields = fields.clone();
                move |name: &str| (name != missing).then(|| fields.get(name).cloned()).flatten()
            };
            for missing in [KEY_ID, GENERATION] {
                let fields: HashMap<String, String> =
                    fields.keys().filter_map(|name| Some((name.clone(), without(missing)(name)?))).collect();
                let read = |name: &str| fields.get(name).map(String::as_str);
                assert_eq!(AuthorizerContext::from_fields(read), Err(NoContext), "{missing}");
            }
        }
        assert_eq!(AuthorizerContext::from_fields(|_| None), Err(NoContext));
    }
}
