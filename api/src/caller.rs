//! The caller of a request: taken from the peer and the `Authorization` header, or from the gateway's context.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use aggregator::directory::CustomerId;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header;
use axum::http::request::Parts;
use sqlx::PgPool;

use crate::auth::{AuthenticationError, AuthorizerContext, Caller, LookUpError, Scope};
use crate::connections::Peer;
use crate::edge::now;
use crate::problem::Problem;
use crate::rate::{Left, REQUESTS_PER_MINUTE, Refused};
use crate::state::ApiState;

/// The caller's address where there is no peer: what the request's context says. The host puts it into the request's
/// extensions; it is never read from a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerAddress(pub IpAddr);

/// Who lets callers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// This router, from the header `Authorization`.
    OfHeader,
    /// A gateway's authorizer: the host puts its [`AuthorizerContext`] into the request's extensions. Headers are not read.
    OfAuthorizer,
}

/// Where the edge finds out afterwards who called.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerSlot(Arc<OnceLock<Caller>>, Arc<OnceLock<Left>>);

impl CallerSlot {
    pub(crate) fn get(&self) -> Option<&Caller> {
        self.0.get()
    }

    /// What is left of the caller's requests.
    pub(crate) fn left(&self) -> Option<Left> {
        self.1.get().copied()
    }
}

/// The address a request came from.
pub(crate) fn address_of(extensions: &axum::http::Extensions) -> Option<IpAddr> {
    let given = extensions.get::<CallerAddress>().map(|address| address.0);
    given.or_else(|| extensions.get::<ConnectInfo<Peer>>().map(|peer| peer.0.0.ip()))
}

/// Authenticates the request, once.
async fn authenticate(parts: &Parts, state: &ApiState) -> Result<Caller, Problem> {
    let slot = parts.extensions.get::<CallerSlot>().cloned().unwrap_or_default();
    if let Some(caller) = slot.get() {
        return Ok(caller.clone());
    }
    let caller = match state.identity {
        Identity::OfHeader => {
            let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
            // Two headers are no key: which one counts must not depend on who reads them.
            let (Some(header), None) = (given.next(), given.next()) else {
                return Err(Problem::not_authenticated());
            };
            let Some(address) = address_of(&parts.extensions) else {
                tracing::error!("a request came without its address; the host must name it");
                return Err(Problem::internal());
            };
            state.authenticator.authenticate(header.as_bytes(), address, now()).await?
        }
        Identity::OfAuthorizer => {
            let context = parts.extensions.get::<AuthorizerContext>().ok_or_else(Problem::not_authenticated)?;
            state.authenticator.recheck(context, now()).await?
        }
    };
    let caller = slot.0.get_or_init(|| caller).clone();
    let owner = caller.customer.as_ref().map_or("", CustomerId::as_str);
    match state.rates.take(owner, now()).await {
        Ok(left) => {
            slot.1.get_or_init(|| left);
        }
        Err(Refused { retry_after_secs, full_in_secs }) => {
            // Named as empty in the answer's headers as well.
            slot.1.get_or_init(|| Left { remaining: 0, full_in_secs });
            let detail = format!("at most {REQUESTS_PER_MINUTE} requests a minute; wait as `Retry-After` says");
            return Err(Problem::too_many("too-many-requests", &detail, retry_after_secs));
        }
    }
    Ok(caller)
}

impl From<AuthenticationError> for Problem {
    fn from(error: AuthenticationError) -> Self {
        match error {
            AuthenticationError::NotAuthenticated => Self::not_authenticated(),
            AuthenticationError::TooManyAttempts { retry_after_secs } => Self::too_many(
                "too-many-attempts",
                "too many wrong secrets for this key from this address; wait, and check the key",
                retry_after_secs,
            ),
            AuthenticationError::Busy => {
                Self::unavailable("too many keys are being checked at the moment; send the same request again")
            }
            AuthenticationError::LookUp(LookUpError::Database(error)) => Self::from(&*error),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "a key cannot be checked");
                Self::internal()
            }
        }
    }
}

/// A scope that a route demands, as a type: the route's arguments name it, so no route can forget to ask.
pub(crate) trait Demand: Send + Sync {
    const SCOPE: Scope;
}

macro_rules! demands {
    ($($name:ident),*) => {$(
        #[doc = concat!("Demands [`Scope::", stringify!($name), "`].")]
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name;
        impl Demand for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )*};
}
demands!(ReadUsage, ReadInvoices, ReadAudit, WriteKeys);

/// A customer's caller that may do what the route demands; extracting it is what makes a route private.
#[derive(Clone, Debug)]
pub(crate) struct Tenant<D> {
    pub(crate) customer: CustomerId,
    pub(crate) caller: Caller,
    demand: PhantomData<D>,
}

impl<D: Demand> FromRequestParts<ApiState> for Tenant<D> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let caller = authenticate(parts, state).await?;
        // An operator is no customer: its key opens the operator's routes.
        let customer = caller.customer.clone().ok_or_else(|| Problem::not_allowed("a customer's key"))?;
        if !caller.scopes.allows(D::SCOPE) {
            return Err(Problem::not_allowed(&format!("a key with the scope `{}`", D::SCOPE)));
        }
        Ok(Self { customer, caller, demand: PhantomData })
    }
}

/// Anyone who has shown a key or a session, whatever it may do.
#[derive(Clone, Debug)]
pub(crate) struct Anyone(pub(crate) Caller);

impl FromRequestParts<ApiState> for Anyone {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        authenticate(parts, state).await.map(Self)
    }
}

/// An operator's caller, with the connections of the operator's role.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    pub(crate) caller: Caller,
    pub(crate) pool: PgPool,
}

impl FromRequestParts<ApiState> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let caller = authenticate(parts, state).await?;
        // Only an operator's key has the scope; a customer's cannot be given it, and is no operator's if it were.
        if caller.customer.is_some() || !caller.scopes.allows(Scope::Admin) {
            return Err(Problem::not_allowed("an operator's key"));
        }
        let pool = state
            .operator_pool
            .clone()
            .ok_or_else(|| Problem::not_found("this server has no routes for operators; ask the operator's own"))?;
        Ok(Self { caller, pool })
    }
}
