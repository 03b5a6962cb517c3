//! Requests that API Gateway passes on, answered by the router of the API; and the authorizer in front of it.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::IpAddr;

use api::auth::{AuthenticationError, AuthorizerContext, SigningKeys};
use api::{ApiParts, ApiState, CallerAddress, Identity, Statements, TenantMac};
use aws_config::SdkConfig;
use axum::Router;
use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use billing::Party;
use ingest::Timestamp;
use lambda_http::RequestExt;
use lambda_http::request::RequestContext;
use lambda_runtime::Diagnostic;
use lambda_runtime::tower::ServiceExt;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::answer::diagnostic;
use crate::clients;
use crate::secret::read_secret;
use crate::settings::{DatabaseSettings, Settings, SettingsError, StoreSettings};
use crate::start::StartError;

/// Threads for bcrypt: a function of 1,769 MB has one processor, one of twice as much two.
const HASHING_THREADS: usize = 2;

/// The settings of the API and of its authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// The table of accepted secrets.
    pub stores: StoreSettings,
    /// PostgreSQL, as `securebase_app`.
    pub database: DatabaseSettings,
    /// The secret that holds the key which vouches for tenants: 64 hexadecimal digits.
    pub tenant_key_secret: String,
    /// The secret that holds the keys of sessions.
    pub session_secret: String,
    /// Who lets callers in.
    pub identity: Identity,
    /// Who bills, as previews of invoices name it.
    pub seller: Party,
}

impl ApiSettings {
    /// Reads them.
    pub fn read(read: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(read);
        let stores = settings.stores();
        let database = settings.database("securebase_app");
        let what = "name the secret of AWS Secrets Manager that holds";
        let tenant_key_secret =
            settings.required("SECUREBASE_TENANT_KEY_SECRET", &format!("{what} the tenant key, 64 hexadecimal digits"));
        let session_secret =
            settings.required("SECUREBASE_SESSION_SECRET", &format!("{what} the keys that sign sessions"));
        let identity = match settings.optional("SECUREBASE_IDENTITY").as_deref() {
            None | Some("header") => Identity::OfHeader,
            Some("authorizer") => Identity::OfAuthorizer,
            Some(other) => {
                settings.problem(format!("SECUREBASE_IDENTITY is {other:?}: give header or authorizer"));
                Identity::OfHeader
            }
        };
        let party = |name: &str| settings.optional(name).unwrap_or_default();
        let seller = Party {
            name: party("SECUREBASE_SELLER_NAME"),
            address: party("SECUREBASE_SELLER_ADDRESS"),
            tax_id: party("SECUREBASE_SELLER_TAX_ID"),
        };
        settings.finish(Self { stores, database, tenant_key_secret, session_secret, identity, seller })
    }
}

/// The API in one execution environment.
#[derive(Debug)]
pub struct Api {
    state: ApiState,
    router: Router,
}

impl Api {
    /// Reads the secrets and puts the API together.
    pub async fn new(config: &SdkConfig, settings: ApiSettings, now: Timestamp) -> Result<Self, StartError> {
        let options = clients::database_options(config, &settings.database).await?;
        let tenant_key = read_secret(config, &settings.tenant_key_secret, "key").await?;
        let tenant_key = tenant_key_of(&tenant_key, &settings.tenant_key_secret)?;
        let secrets = aws_sdk_secretsmanager::Client::new(config);
        let signing_keys =
            SigningKeys::from_secrets_manager(&secrets, &settings.session_secret).await.map_err(StartError::store)?;
        let table = format!("{}-auth-cache", settings.stores.name);
        let state = ApiState::new(ApiParts {
            pool: api::pool(options),
            // Operators' routes are for the operator's own server.
            operator_pool: None,
            operations: None,
            seller: settings.seller,
            // A proxy may stand between, and a function asks too little of one connection for names to pay.
            statements: Statements::Unnamed,
            mac_key: TenantMac::new(tenant_key).map_err(StartError::store)?,
            signing_keys,
            shared_table: Some((aws_sdk_dynamodb::Client::new(config), table)),
            serves_alone: false,
            hashing_threads: HASHING_THREADS,
            identity: settings.identity,
            // The gateway answers for origins.
            cors_origins: Vec::new(),
        });
        let router = api::router(state.clone());
        state.authenticator().sessions().keep_fresh_from(secrets, settings.session_secret, now);
        Ok(Self { state, router })
    }

    /// Answers a request. The caller is known by the request's context alone: who it says it is in a header does not count.
    pub async fn answer(&self, request: lambda_http::Request, now: Timestamp) -> Result<Response<Body>, Infallible> {
        let response = match inward(request) {
            Some(request) => self.router.clone().oneshot(request).await?,
            None => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
        };
        // Lambda freezes the process once it has answered. What is not recorded is not answered.
        let response = match self.state.recorder().flush().await {
            Ok(()) => response,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(alarm = "audit", error, "the call is not in the audit trail");
                api::not_recorded(&response)
            }
        };
        self.emit_metrics(now);
        Ok(response)
    }

    /// Tells a gateway whether to let a caller in. The gateway may keep the answer; the API looks the key up again.
    pub async fn authorize(&self, event: &str, now: Timestamp) -> Result<AuthorizerAnswer, AuthorizerError> {
        let event: AuthorizerEvent =
            serde_json::from_str(event).map_err(|error| AuthorizerError::NotRecognized(error.to_string()))?;
        let address = event.request_context.http.source_ip;
        // One header, as the gateway read it: two are joined by a comma and then no key.
        let shown = event.identity_source.unwrap_or_default();
        let [header] = &shown[..] else { return Ok(AuthorizerAnswer::refused()) };
        match self.state.authenticator().authenticate(header.as_bytes(), address, now).await {
            Ok(caller) => {
                Ok(AuthorizerAnswer { is_authorized: true, context: AuthorizerContext::of(&caller).to_fields() })
            }
            Err(AuthenticationError::NotAuthenticated | AuthenticationError::TooManyAttempts { .. }) => {
                Ok(AuthorizerAnswer::refused())
            }
            Err(error) => Err(AuthorizerError::Unavailable(error.to_string())),
        }
    }

    /// With each answer, as the environment may end before the next one.
    fn emit_metrics(&self, now: Timestamp) {
        for line in self.state.telemetry().embedded_metrics(self.state.authenticator().cache_counts(), now) {
            // Nobody reading the log is no reason to fail a request.
            let _ = writeln!(io::stdout().lock(), "{line}");
        }
    }
}

fn tenant_key_of(text: &str, secret: &str) -> Result<Vec<u8>, StartError> {
    let wrong = || StartError::store(format!("the secret {secret} is not 64 hexadecimal digits"));
    let digits = text.trim().as_bytes();
    if digits.len() != 64 {
        return Err(wrong());
    }
    let pair = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok().filter(|_| pair.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>().ok_or_else(wrong)
}

/// The request as the router takes it: the path without the gateway's stage, the caller's address and authorizer from the
/// gateway's own context, the body's true length. `None` for a path that is none.
fn inward(request: lambda_http::Request) -> Option<Request<Body>> {
    let context = request.request_context_ref();
    let (address, stage) = match context {
        Some(RequestContext::ApiGatewayV2(context)) => (context.http.source_ip.as_deref(), context.stage.as_deref()),
        Some(RequestContext::ApiGatewayV1(context)) => (context.identity.source_ip.as_deref(), None),
        _ => (None, None),
    };
    let address: Option<IpAddr> = address.and_then(|address| address.parse().ok());
    let authorizer = match context {
        Some(RequestContext::ApiGatewayV2(context)) => context.authorizer.as_ref(),
        _ => None,
    };
    let authorized = authorizer.and_then(|authorizer| {
        let field = |name: &str| authorizer.fields.get(name).and_then(serde_json::Value::as_str);
        AuthorizerContext::from_fields(field).ok()
    });
    let path = without_stage(request.raw_http_path(), stage);
    let path_and_query: PathAndQuery = match request.uri().query() {
        Some(query) => format!("{path}?{query}").parse().ok()?,
        None => path.parse().ok()?,
    };
    let (parts, body) = request.into_parts();
    let body = body.to_vec();
    let mut inward = Request::builder().method(parts.method).uri(Uri::from(path_and_query)).body(()).ok()?;
    *inward.headers_mut() = parts.headers;
    // What a header says of the body's length is the caller's word; the gateway has passed on the body itself.
    inward.headers_mut().remove(header::TRANSFER_ENCODING);
    inward.headers_mut().remove(header::CONTENT_LENGTH);
    if !body.is_empty() {
        inward.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if let Some(address) = address {
        inward.extensions_mut().insert(CallerAddress(address));
    }
    if let Some(authorized) = authorized {
        inward.extensions_mut().insert(authorized);
    }
    Some(inward.map(|()| Body::from(body)))
}

/// A stage with a name of its own stands before the path in an HTTP API's events.
fn without_stage<'a>(path: &'a str, stage: Option<&str>) -> &'a str {
    let rest = stage.and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage));
    match rest {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// What a gateway asks of an authorizer: payload format 2.0.
///
/// Source: Amazon API Gateway Developer Guide, "Control access to HTTP APIs with AWS Lambda authorizers".
#[derive(Deserialize)]
struct AuthorizerEvent {
    #[serde(rename = "identitySource")]
    identity_source: Option<Vec<String>>,
    #[serde(rename = "requestContext")]
    request_context: AuthorizerRequestContext,
}

#[derive(Deserialize)]
struct AuthorizerRequestContext {
    http: AuthorizerHttp,
}

#[derive(Deserialize)]
struct AuthorizerHttp {
    #[serde(rename = "sourceIp")]
    source_ip: IpAddr,
}

/// The answer in the simple form of payload format 2.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorizerAnswer {
    /// Whether the caller is let in.
    #[serde(rename = "isAuthorized")]
    pub is_authorized: bool,
    /// Who it is; handed to the API by the gateway.
    pub context: std::collections::HashMap<String, String>,
}

impl AuthorizerAnswer {
    fn refused() -> Self {
        Self { is_authorized: false, context: std::collections::HashMap::new() }
    }
}

/// Why a gateway has no answer: it answers 500, and the caller may try again.
#[derive(Debug, Error)]
pub enum AuthorizerError {
    /// Stop: something else invokes the function, or another payload format is set.
    #[error("not a request of payload format 2.0: {0}")]
    NotRecognized(String),
    /// Retry: keys cannot be looked up.
    #[error("{0}")]
    Unavailable(String),
}

impl From<AuthorizerError> for Diagnostic {
    fn from(error: AuthorizerError) -> Self {
        let kind = match &error {
            AuthorizerError::NotRecognized(_) => "Delivery.NotRecognized",
            AuthorizerError::Unavailable(_) => "Store.Failed",
        };
        diagnostic(kind, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_taken_off_the_path_and_nothing_else() {
        for (path, stage, expected) in [
            ("/v1/usage", None, "/v1/usage"),
            ("/v1/usage", Some("$default"), "/v1/usage"),
            ("/prod/v1/usage", Some("prod"), "/v1/usage"),
            ("/prod", Some("prod"), "/"),
            ("/production/v1", Some("prod"), "/production/v1"),
            ("/v1/usage", Some("prod"), "/v1/usage"),
        ] {
            assert_eq!(without_stage(path, stage), expected, "{path} {stage:?}");
        }
    }

    #[test]
    fn a_tenant_key_is_64_hexadecimal_digits() {
        assert_eq!(tenant_key_of(&"0aF".repeat(22)[..64], "s").unwrap().len(), 32);
        for wrong in ["", "0a", &"0g".repeat(32), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(tenant_key_of(wrong, "s").is_err(), "{wrong}");
        }
    }
}
