//! Sessions: a signed token (JWT, RFC 7519) that stands for a key for a day.
//!
//! One algorithm, HMAC-SHA256, whatever a token's header says. A token names the key it stands for and that key's
//! generation; what it may do is read from the key at each request, so a session ends with its key.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use aggregator::directory::CustomerId;
use aws_sdk_secretsmanager::Client;
use ingest::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::MutexGuard;

use super::token::KeyId;

/// How long a session lasts.
pub const SESSION_SECS: i64 = 24 * 3_600;

/// Longer texts are refused before they are read.
const TOKEN_BYTES_MAX: usize = 1_024;

/// Keys that are in force at once: the one that signs, and the one before or after it.
const SIGNING_KEYS_MAX: usize = 2;

/// A secret that was rotated is in force everywhere after this long; the key before stays in the secret for a session's length.
pub const KEYS_READ_SECS: i64 = 300;

/// For a session that names an unknown key the secret is read again, this often at most: anybody can send such a thing.
pub const UNKNOWN_KEY_SECS: i64 = 30;

/// The secret is waited for this long; then the keys stay as they are.
const SECRET_WAIT_MS_MAX: u64 = 3_000;

const ISSUER: &str = "securebase";
const AUDIENCE: &str = "securebase-api";
/// The subject of an operator's session. No customer has this id: it has an underscore.
const OPERATOR: &str = "_operator";

/// A key that signs sessions. It never prints.
#[derive(Clone)]
struct SigningKey {
    id: String,
    secret: Vec<u8>,
}

/// The keys in force: the first signs, all verify. They never print.
#[derive(Clone)]
pub struct SigningKeys(Vec<SigningKey>);

/// The text is no set of signing keys; nothing of it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadSigningKeys {
    /// Not the JSON we read.
    #[error(r#"session keys are {{"keys":[{{"id":"2026-11","secret":"<64 or more hexadecimal digits>"}}]}}, the one that signs first"#)]
    Malformed,
    /// None, or too many.
    #[error("one or {SIGNING_KEYS_MAX} session keys are in force at a time")]
    Number,
    /// A secret below the hash's length (RFC 7518 section 3.2).
    #[error("a session key has at least 32 bytes")]
    TooShort,
    /// Two keys of one id: which of them verifies must be plain.
    #[error("two session keys have the same id")]
    SameId,
}

impl SigningKeys {
    /// Reads `{"keys":[{"id":"..","secret":"<hex>"}, ..]}`, as it stands in Secrets Manager.
    pub fn parse(json: &str) -> Result<Self, BadSigningKeys> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Document {
            keys: Vec<One>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct One {
            id: String,
            secret: String,
        }
        let document: Document = serde_json::from_str(json).map_err(|_| BadSigningKeys::Malformed)?;
        let decoded = document
            .keys
            .into_iter()
            .map(|one| Ok((one.id, hex::decode(&one.secret).map_err(|_| BadSigningKeys::Malformed)?)));
        Self::new(decoded.collect::<Result<_, _>>()?)
    }

    /// Takes ids and secrets, the one that signs first.
    pub fn new(keys: Vec<(String, Vec<u8>)>) -> Result<Self, BadSigningKeys> {
        if keys.is_empty() || keys.len() > SIGNING_KEYS_MAX {
            return Err(BadSigningKeys::Number);
        }
        if keys.iter().any(|(id, _)| id.is_empty() || id.len() > 64) {
            return Err(BadSigningKeys::Malformed);
        }
        if keys.iter().any(|(_, secret)| secret.len() < 32) {
            return Err(BadSigningKeys::TooShort);
        }
        if keys.len() == 2 && keys[0].0 == keys[1].0 {
            return Err(BadSigningKeys::SameId);
        }
        Ok(Self(keys.into_iter().map(|(id, secret)| SigningKey { id, secret }).collect()))
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    /// The customer.
    sub: String,
    /// The API key it stands for.
    key: String,
    /// That key's generation.
    generation: i32,
    /// This session's own name.
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// A session whose signature, audience and times are right; its key is still to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose session; `None` for an operator's.
    pub customer: Option<CustomerId>,
    /// The key it stands for.
    pub key_id: KeyId,
    /// The generation that key had.
    pub generation: i32,
    /// The session's own name.
    pub id: String,
}

/// A new session, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// The signed token.
    pub token: String,
    /// From here on it is refused.
    pub expires_at: Timestamp,
}

/// No session of ours, or one that has ended. Deliberately one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no valid session")]
pub struct NotASession;

/// Why a token is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It names a key that we do not have: a new one, perhaps, that we have not read yet.
    UnknownKey,
    /// Anything else.
    Other,
}

/// Signs and verifies sessions. The keys can be replaced while it is in use, and follow a secret that is rotated.
#[derive(Clone, Debug)]
pub struct Sessions {
    keys: Arc<RwLock<SigningKeys>>,
    source: Arc<OnceLock<Source>>,
}

/// The secret that holds the keys.
#[derive(Debug)]
struct Source {
    client: Client,
    id: String,
    /// When it was last asked. Locked while it is being asked.
    read_at: tokio::sync::Mutex<Timestamp>,
}

impl Sessions {
    /// Sessions under these keys.
    pub fn new(keys: SigningKeys) -> Self {
        Self { keys: Arc::new(RwLock::new(keys)), source: Arc::default() }
    }

    /// Takes other keys from now on: sessions of a key that is no more among them have ended.
    pub fn replace(&self, keys: SigningKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Reads the keys again from this secret: by the first session that is begun or shown [`KEYS_READ_SECS`] after the last
    /// time, and at once for one that names an unknown key, at most every [`UNKNOWN_KEY_SECS`].
    ///
    /// So a key that was added is known with its first session, and one that was taken out of the secret is refused after
    /// [`KEYS_READ_SECS`]. While the secret cannot be read, the keys stay as they are. Said twice, the first holds.
    pub fn keep_fresh_from(&self, client: Client, id: String, read_at: Timestamp) {
        let _ = self.source.set(Source { client, id, read_at: tokio::sync::Mutex::new(read_at) });
    }

    /// [`Sessions::sign`], under the keys of the secret.
    pub async fn sign_fresh(&self, session: &Session, now: Timestamp) -> NewSession {
        self.read_when_due(now).await;
        self.sign(session, now)
    }

    /// [`Sessions::verify`], under the keys of the secret.
    pub async fn verify_fresh(&self, token: &str, now: Timestamp) -> Result<Session, NotASession> {
        self.read_when_due(now).await;
        match (self.judge(token, now), self.source.get()) {
            (Err(Refusal::UnknownKey), Some(source)) => {
                // Whoever else comes with a new key waits for what is read; the wait is bounded.
                let read_at = source.read_at.lock().await;
                self.read_after(UNKNOWN_KEY_SECS, source, read_at, now).await;
                self.verify(token, now)
            }
            (judged, _) => judged.map_err(|_| NotASession),
        }
    }

    /// Nobody waits for another's reading: the keys that are there still hold.
    async fn read_when_due(&self, now: Timestamp) {
        let Some(source) = self.source.get() else { return };
        if let Ok(read_at) = source.read_at.try_lock() {
            self.read_after(KEYS_READ_SECS, source, read_at, now).await;
        }
    }

    /// Reads the secret again unless that was done so lately.
    async fn read_after(&self, seconds: i64, source: &Source, mut read_at: MutexGuard<'_, Timestamp>, now: Timestamp) {
        if now < read_at.saturating_add_secs(seconds) {
            return;
        }
        *read_at = now;
        let reading = SigningKeys::from_secrets_manager(&source.client, &source.id);
        match tokio::time::timeout(Duration::from_millis(SECRET_WAIT_MS_MAX), reading).await {
            Ok(Ok(keys)) => self.replace(keys),
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the keys of sessions stay as they are");
            }
            Err(_) => tracing::error!("Secrets Manager does not answer; the keys of sessions stay as they are"),
        }
    }

    /// Signs a session that begins now.
    pub fn sign(&self, session: &Session, now: Timestamp) -> NewSession {
        let issued_at = now.micros().div_euclid(1_000_000);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: session.customer.as_ref().map_or(OPERATOR, CustomerId::as_str).to_owned(),
            key: session.key_id.to_string(),
            generation: session.generation,
            jti: session.id.clone(),
            iat: issued_at,
            nbf: issued_at,
            exp: issued_at + SESSION_SECS,
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.0.first().expect("a set of signing keys has one");
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
        let token = encode(&header, &claims, &EncodingKey::from_secret(&key.secret))
            .expect("claims of strings and numbers are JSON, and HMAC takes keys of any length");
        let expires_at = Timestamp::from_micros(claims.exp * 1_000_000).unwrap_or(Timestamp::MAX);
        NewSession { token, expires_at }
    }

    /// Verifies a token: signature by a key in force, algorithm, issuer, audience and times.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Session, NotASession> {
        self.judge(token, now).map_err(|_| NotASession)
    }

    fn judge(&self, token: &str, now: Timestamp) -> Result<Session, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Other);
        }
        let id = decode_header(token).ok().and_then(|header| header.kid).ok_or(Refusal::Other)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // Below, by the clock we are given.
        validation.validate_exp = false;
        let decoded = {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            let key = keys.0.iter().find(|key| key.id == id).ok_or(Refusal::UnknownKey)?;
            decode::<Claims>(token, &DecodingKey::from_secret(&key.secret), &validation)
        };
        let claims = decoded.map_err(|_| Refusal::Other)?.claims;
        let seconds = now.micros().div_euclid(1_000_000);
        // Another server's clock may be ahead of ours a little.
        const AHEAD_SECS_MAX: i64 = 60;
        let lasts = claims.exp.checked_sub(claims.iat).is_some_and(|lasts| (0..=SESSION_SECS).contains(&lasts));
        if !lasts || seconds >= claims.exp || claims.nbf.saturating_sub(AHEAD_SECS_MAX) > seconds {
            return Err(Refusal::Other);
        }
        let customer = match claims.sub.as_str() {
            OPERATOR => None,
            id => Some(CustomerId::parse(id).map_err(|_| Refusal::Other)?),
        };
        let key_id = KeyId::parse(&claims.key).map_err(|_| Refusal::Other)?;
        Ok(Session { customer, key_id, generation: claims.generation, id: claims.jti })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    fn keys(ids: &[(&str, u8)]) -> SigningKeys {
        SigningKeys::new(ids.iter().map(|(id, byte)| ((*id).to_owned(), vec![*byte; 32])).collect()).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000 + seconds * 1_000_000).unwrap()
    }

    fn session(customer: Option<&str>) -> Session {
        Session {
            customer: customer.map(|id| CustomerId::parse(id).unwrap()),
            key_id: KeyId::parse("AAAAAAAAAAAAAAAA").unwrap(),
            generation: 3,
            id: "a session".to_owned(),
        }
    }

    /// Signs any claims with any header, as an attacker who knows the secret would.
    fn forged(header: Value, claims: &Value, secret: &[u8]) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let key = crate::key::Key::new(secret).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(&signed)))
    }

    fn claims() -> Value {
        let issued_at = at(0).micros() / 1_000_000;
        json!({
            "iss": "securebase", "aud": "securebase-api", "sub": "acme", "key": "AAAAAAAAAAAAAAAA", "generation": 1,
            "jti": "x", "iat": issued_at, "nbf": issued_at, "exp": issued_at + SESSION_SECS,
        })
    }

    #[test]
    fn a_session_reads_back_for_a_day() {
        let sessions = Sessions::new(keys(&[("a", 1)]));
        for customer in [Some("acme"), None] {
            let made = session(customer);
            let signed = sessions.sign(&made, at(0));
            assert_eq!(signed.expires_at, at(SESSION_SECS));
            assert_eq!(sessions.verify(&signed.token, at(0)), Ok(made.clone()));
            assert_eq!(sessions.verify(&signed.token, at(SESSION_SECS - 1)), Ok(made));
            assert_eq!(sessions.verify(&signed.token, at(SESSION_SECS)), Err(NotASession));
            assert_eq!(sessions.verify(&signed.token, at(-61)), Err(NotASession));
        }
    }

    #[test]
    fn the_key_before_verifies_until_it_is_taken_out_of_force() {
        let sessions = Sessions::new(keys(&[("a", 1)]));
        let old = sessions.sign(&session(Some("acme")), at(0)).token;
        sessions.replace(keys(&[("b", 2), ("a", 1)]));
        let new = sessions.sign(&session(Some("acme")), at(0)).token;
        assert!(sessions.verify(&old, at(1)).is_ok() && sessions.verify(&new, at(1)).is_ok());
        sessions.replace(keys(&[("b", 2)]));
        assert!(sessions.verify(&old, at(1)).is_err() && sessions.verify(&new, at(1)).is_ok());
        sessions.replace(keys(&[("a", 9)]));
        assert!(sessions.verify(&old, at(1)).is_err(), "the same id with another secret");
    }

    #[test]
    fn forged_tokens_are_refused() {
        let sessions = Sessions::new(keys(&[("a", 1)]));
        let secret = [1; 32];
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": "a"});
        assert!(sessions.verify(&forged(header.clone(), &claims(), &secret), at(1)).is_ok(), "the forger can forge");
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            forged(header.clone(), &claims, &secret)
        };
        let without = |name: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            forged(header.clone(), &claims, &secret)
        };
        let good = forged(header.clone(), &claims(), &secret);
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let none = |name: &str| {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": name, "kid": "a"}).to_string());
            format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims().to_string()))
        };
        for (what, token) in [
            ("no signature", format!("{signed}.")),
            ("no signature at all", signed.to_owned()),
            ("half a signature", format!("{signed}.{}", &signature[..20])),
            ("another secret", forged(header.clone(), &claims(), &[2; 32])),
            ("alg none", none("none")),
            ("alg None", none("None")),
            ("alg NONE, signed", forged(json!({"alg": "NONE", "kid": "a"}), &claims(), &secret)),
            ("another algorithm", forged(json!({"alg": "HS512", "kid": "a"}), &claims(), &secret)),
            ("algorithm confusion", forged(json!({"alg": "RS256", "kid": "a"}), &claims(), &secret)),
            ("ES256", forged(json!({"alg": "ES256", "kid": "a"}), &claims(), &secret)),
            ("no key id", forged(json!({"alg": "HS256"}), &claims(), &secret)),
            ("another key id", forged(json!({"alg": "HS256", "kid": "b"}), &claims(), &secret)),
            ("a path as key id", forged(json!({"alg": "HS256", "kid": "../../dev/null"}), &claims(), &secret)),
            (
                "a key in the header",
                forged(json!({"alg": "HS256", "kid": "b", "jwk": {"kty": "oct", "k": "AQ"}}), &claims(), &secret),
            ),
            ("another audience", with("aud", json!("portal"))),
            ("no audience", without("aud")),
            ("another issuer", with("iss", json!("securebase2"))),
            ("no end", without("exp")),
            ("an end that is text", with("exp", json!("never"))),
            ("an end in a year", with("exp", json!(1_831_536_000))),
            ("the largest end", with("exp", json!(i64::MAX))),
            ("issued never", with("iat", json!(i64::MIN))),
            ("not a customer", with("sub", json!("Acme"))),
            ("not a key", with("key", json!("' or 1=1"))),
            ("no generation", without("generation")),
            ("nothing", String::new()),
            ("dots", "..".to_owned()),
            ("too long", format!("{good}{}", "A".repeat(TOKEN_BYTES_MAX))),
        ] {
            assert_eq!(sessions.verify(&token, at(1)), Err(NotASession), "{what}");
        }
        assert_eq!(sessions.verify(&with("sub", json!("_operator")), at(1)).unwrap().customer, None);
    }

    #[test]
    fn signing_keys_are_read_from_json_and_never_print() {
        let secret = "ab".repeat(32);
        let one = format!(r#"{{"id":"a","secret":"{secret}"}}"#);
        let two = format!(r#"{{"id":"b","secret":"{secret}"}}"#);
        assert_eq!(
            format!("{:?}", SigningKeys::parse(&format!(r#"{{"keys":[{one},{two}]}}"#)).unwrap()),
            r#"["a", "b"]"#
        );
        for (text, error) in [
            (String::new(), BadSigningKeys::Malformed),
            (format!(r#"{{"keys":[{one}],"x":1}}"#), BadSigningKeys::Malformed),
            (r#"{"keys":[]}"#.to_owned(), BadSigningKeys::Number),
            (format!(r#"{{"keys":[{one},{two},{one}]}}"#), BadSigningKeys::Number),
            (format!(r#"{{"keys":[{one},{one}]}}"#), BadSigningKeys::SameId),
            (r#"{"keys":[{"id":"a","secret":"abcd"}]}"#.to_owned(), BadSigningKeys::TooShort),
            (r#"{"keys":[{"id":"a","secret":"xyz"}]}"#.to_owned(), BadSigningKeys::Malformed),
        ] {
            assert_eq!(SigningKeys::parse(&text).unwrap_err(), error, "{text}");
        }
    }
}
