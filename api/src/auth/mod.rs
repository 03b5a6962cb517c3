//! Who a caller is and what it may do.
//!
//! A key is looked up by its id, which is public; its secret is checked by bcrypt once and remembered for a while. What
//! every request reads anew is whether the key is in force, whose it is, and what it may do. So a key that is revoked is
//! out with the next request, and so are the sessions that stand for it.

mod attempts;
mod authenticator;
mod authorizer;
mod base62;
mod hashing;
mod key_look_ups;
mod scope;
mod session;
mod signing_secret;
pub(crate) mod stored_key;
mod token;
mod verified;

pub use authenticator::{AuthenticationError, Authenticator, Caller};
pub use authorizer::{AuthorizerContext, NoContext};
pub use hashing::{HashingError, HashingPool};
pub use scope::{Scope, Scopes, UnknownScope};
pub use session::{
    BadSigningKeys, KEYS_READ_SECS, NewSession, NotASession, SESSION_SECS, Session, Sessions, SigningKeys,
    UNKNOWN_KEY_SECS,
};
pub use signing_secret::SigningSecretError;
pub use stored_key::LookUpError;
pub use token::{KeyId, KeyToken, NotAKey, NotAKeyId};
pub use verified::{CacheCounts, VERIFIED_SECS_MAX, Verified, create_verified_table};
