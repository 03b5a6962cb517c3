//! Requests that API Gateway passes on, answered by the real functions.

use aggregator::directory::CustomerId;
use api::auth::{HashingPool, KeyToken};
use serde_json::{Value, json};

use crate::runtime_api::{Environment, Function, NotStarted, Outcome};
use crate::secrets::Secrets;
use crate::stage::{NAME, Program, Stage, sdk};

const TENANT_KEY: [u8; 32] = [42; 32];

/// A deployed API with a customer that has usage, its key, and the secrets.
struct Deployed {
    stage: Stage,
    secrets: Secrets,
    key: String,
}

impl Deployed {
    async fn set() -> Self {
        let stage = Stage::set().await;
        let mut owner = stage.pool.acquire().await.unwrap();
        migrations::set_tenant_key(&mut owner, &TENANT_KEY).await.unwrap();
        let token = KeyToken::mint(Some(CustomerId::parse("acme").unwrap()), [3; 16], [7; 32]);
        let hash = HashingPool::new(1).hash(token.secret_digest(), [9; 16]).await.unwrap();
        sqlx::query(
            "insert into customers (customer_id, name, tier, contract_start)
             values ('acme', 'Acme', 'standard', '2026-01-01Z')",
        )
        .execute(&mut *owner)
        .await
        .unwrap();
        sqlx::query(
            "insert into api_keys (key_id, customer_id, name, scopes, secret_hash, created_at, created_by)
             values ($1, 'acme', 'a test', '{read:usage}', $2, '2026-01-01Z', 'test')",
        )
        .bind(token.key_id.as_str())
        .bind(hash)
        .execute(&mut *owner)
        .await
        .unwrap();
        drop(owner);
        let tables = aws_sdk_dynamodb::Client::new(&sdk(stage.dynamodb.endpoint()));
        api::auth::create_verified_table(&tables, &format!("{NAME}-auth-cache")).await.unwrap();
        let tenant_key = "2a".repeat(32);
        let session_keys = json!({ "keys": [{ "id": "1", "secret": "2b".repeat(32) }] }).to_string();
        let secrets = Secrets::with(&[("tenant", &tenant_key), ("session", &session_keys)]).await;
        Self { stage, secrets, key: token.reveal() }
    }

    fn function(&self, program: Program) -> Function {
        let mut function = self.stage.function(program);
        for (name, value) in [
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.secrets.endpoint.as_str()),
            ("SECUREBASE_TENANT_KEY_SECRET", "tenant"),
            ("SECUREBASE_SESSION_SECRET", "session"),
        ] {
            function.variables.insert(name.to_owned(), value.to_owned());
        }
        function
    }
}

const USAGE: &str =
    "group_by=account&from=2026-10-01T00%3A00%3A00Z&to=2026-11-01T00%3A00%3A00Z&meter=cloudtrail_events";

/// Amazon API Gateway Developer Guide, "Create AWS Lambda proxy integrations for HTTP APIs", payload format 2.0.
fn http_api(path: &str, query: &str, headers: Value, authorizer: Value) -> String {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api-id",
            "authorizer": authorizer,
            "domainName": "id.execute-api.eu-central-1.amazonaws.com",
            "domainPrefix": "id",
            "http": {
                "method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "agent",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": "prod",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1_773_342_238_000_i64,
        },
        "isBase64Encoded": false,
    })
    .to_string()
}

/// Amazon API Gateway Developer Guide, "Lambda proxy integrations in API Gateway": REST APIs, and payload format 1.0.
fn rest_api(path: &str, headers: Value) -> String {
    json!({
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": "GET",
        "headers": headers,
        "multiValueHeaders": {},
        "queryStringParameters": {
            "group_by": "account", "from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z",
            "meter": "cloudtrail_events",
        },
        "multiValueQueryStringParameters": null,
        "pathParameters": { "proxy": "v1/usage" },
        "stageVariables": null,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "1234567890",
            "authorizer": null,
            "domainName": "id.execute-api.eu-central-1.amazonaws.com",
            "extendedRequestId": "request-id",
            "httpMethod": "GET",
            "identity": { "sourceIp": "192.0.2.1", "userAgent": "agent" },
            "path": "/prod/v1/usage",
            "protocol": "HTTP/1.1",
            "requestId": "id=",
            "requestTimeEpoch": 1_583_349_317_135_i64,
            "resourceId": null,
            "resourcePath": "/{proxy+}",
            "stage": "prod",
        },
        "body": null,
        "isBase64Encoded": false,
    })
    .to_string()
}

async fn ask(environment: &mut Environment, event: &str) -> (u64, Value) {
    let answer = environment.invoke(event).await.answer();
    let body = answer["body"].as_str().unwrap_or_default();
    (answer["statusCode"].as_u64().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn both_kinds_of_gateways_are_answered_and_headers_that_claim_things_change_nothing() {
    let deployed = Deployed::set().await;
    let mut environment = Environment::start(&deployed.function(Program::Api)).await.unwrap();
    let bearer = format!("Bearer {}", deployed.key);
    let health = http_api("/prod/v1/health", "", json!({}), Value::Null);
    assert_eq!(ask(&mut environment, &health).await.0, 200, "{}", environment.log());

    let plain = json!({ "authorization": bearer });
    let claims = json!({
        "authorization": bearer,
        "x-forwarded-for": "203.0.113.9, not an address",
        "content-length": "99999999",
        "transfer-encoding": "chunked",
        "securebase_customer": "globex",
    });
    let mut answers = Vec::new();
    for headers in [&plain, &claims] {
        answers.push(ask(&mut environment, &http_api("/prod/v1/usage", USAGE, headers.clone(), Value::Null)).await);
        answers.push(ask(&mut environment, &rest_api("/v1/usage", headers.clone())).await);
    }
    for (status, body) in &answers {
        assert_eq!(*status, 200, "{body} {}", environment.log());
        assert_eq!(body, &answers[0].1);
    }
    for headers in [json!({}), json!({ "authorization": "Bearer sk_live_wrong" })] {
        assert_eq!(
            ask(&mut environment, &http_api("/prod/v1/usage", USAGE, headers.clone(), Value::Null)).await.0,
            401
        );
        assert_eq!(ask(&mut environment, &rest_api("/v1/usage", headers)).await.0, 401);
    }
    deployed.stage.close().await;
}

#[tokio::test]
async fn an_authorizer_lets_callers_in_and_the_api_believes_only_the_gateways_context() {
    let deployed = Deployed::set().await;
    let mut authorizer = Environment::start(&deployed.function(Program::Authorizer)).await.unwrap();
    let asked = |source: Value| {
        json!({
            "version": "2.0",
            "type": "REQUEST",
            "routeArn": "arn:aws:execute-api:eu-central-1:123456789012:abcdef123/prod/GET/v1/usage",
            "identitySource": source,
            "routeKey": "GET /v1/usage",
            "rawPath": "/prod/v1/usage",
            "requestContext": { "http": { "method": "GET", "sourceIp": "192.0.2.1" }, "stage": "prod" },
        })
        .to_string()
    };
    let bearer = format!("Bearer {}", deployed.key);
    let let_in = authorizer.invoke(&asked(json!([bearer]))).await.answer();
    assert_eq!(let_in["isAuthorized"], true, "{}", authorizer.log());
    for source in [json!([]), Value::Null, json!(["Bearer x"]), json!([format!("{bearer},{bearer}")])] {
        assert_eq!(authorizer.invoke(&asked(source)).await.answer()["isAuthorized"], false);
    }
    assert!(matches!(authorizer.invoke("{}").await, Outcome::Error { .. }));

    let mut function = deployed.function(Program::Api);
    function.variables.insert("SECUREBASE_IDENTITY".into(), "authorizer".into());
    let mut api = Environment::start(&function).await.unwrap();
    let context = json!({ "lambda": let_in["context"] });
    let usage = |headers, authorizer| http_api("/prod/v1/usage", USAGE, headers, authorizer);
    assert_eq!(ask(&mut api, &usage(json!({}), context)).await.0, 200, "{}", api.log());
    // A key in a header is none here, and neither are headers that look like the context.
    let mut headers = let_in["context"].clone();
    headers["authorization"] = json!(bearer);
    assert_eq!(ask(&mut api, &usage(headers, Value::Null)).await.0, 401);
    deployed.stage.close().await;
}

#[tokio::test]
async fn an_api_without_its_secrets_does_not_start() {
    let deployed = Deployed::set().await;
    let mut function = deployed.function(Program::Api);
    function.variables.insert("SECUREBASE_TENANT_KEY_SECRET".into(), "session".into());
    let NotStarted { told, .. } = Environment::start(&function).await.map(drop).unwrap_err();
    assert_eq!(told.unwrap().0, "Runtime.SecretUnavailable");
    for name in ["SECUREBASE_TENANT_KEY_SECRET", "SECUREBASE_SESSION_SECRET"] {
        function.variables.remove(name);
    }
    function.variables.insert("SECUREBASE_IDENTITY".into(), "anyone".into());
    let NotStarted { told, .. } = Environment::start(&function).await.map(drop).unwrap_err();
    let (kind, message) = told.unwrap();
    assert_eq!(kind, "Runtime.SettingsInvalid");
    for name in ["SECUREBASE_TENANT_KEY_SECRET", "SECUREBASE_SESSION_SECRET", "SECUREBASE_IDENTITY"] {
        assert!(message.contains(name), "{message}");
    }
    deployed.stage.close().await;
}
