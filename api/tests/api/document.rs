//! The OpenAPI document against the server: every route is there, and asks for what it says.

use serde_json::{Value, json};

use crate::client::{get, get_with, send};
use crate::stage::{Stage, token};

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    operations
}

fn filled(path: &str) -> String {
    let path = path
        .replace("{run}", "1")
        .replace("{id}", "0")
        .replace("{customer}", "acme")
        .replace("{key}", "0000000000000000");
    path.replace("{invoice}", "INV-2026-11-9999")
}

#[tokio::test]
async fn every_private_route_refuses_who_shows_nothing_and_who_may_not() {
    let stage = Stage::new().await;
    let powerless = token(Some("acme"), 2);
    stage.add_key(&powerless, &["write:config"]).await;
    let document = get_with(stage.address, "/v1/openapi.json", &[]).await.json();
    let mut private = 0;
    for (method, path, operation) in operations(&document) {
        let scopes = &operation["security"][0]["key"];
        let ask = async |authorization: &str| {
            let request = format!(
                "{method} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{authorization}content-length: 0\r\n\r\n",
                filled(&path)
            );
            send(stage.address, request.as_bytes()).await
        };
        if *scopes == Value::Null {
            assert_eq!(ask("").await.status, 200, "{method} {path} needs no key");
            continue;
        }
        private += 1;
        ask("").await.problem(401, "not-authenticated");
        ask("authorization: Bearer sk_live_acme_x\r\n").await.problem(401, "not-authenticated");
        let powerless = format!("authorization: Bearer {}\r\n", powerless.reveal());
        if *scopes == json!([]) {
            assert_eq!(ask(&powerless).await.status, 201, "{method} {path} takes any key");
        } else {
            ask(&powerless).await.problem(403, "not-allowed");
        }
    }
    assert!(private >= 15, "{private}");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let stage = Stage::new().await;
    let page = get_with(stage.address, "/v1/docs", &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    for outside in ["http://", "https://", "<script", "src=", "@import", "url("] {
        assert!(!page.body.contains(outside), "{outside}");
    }
    assert!(page.body.contains("/v1/usage/stream"));
}

#[tokio::test]
async fn operators_see_all_customers_and_customers_are_no_operators() {
    let stage = Stage::new().await;
    let admin = token(None, 3);
    stage.add_key(&admin, &["admin"]).await;
    let admin = admin.reveal();
    let customers = get(stage.address, "/v1/admin/customers?limit=2", &admin).await.json();
    assert_eq!((&customers["customers"][0]["id"], &customers["next_cursor"]), (&json!("acme"), &json!("globex")));
    let rest = get(stage.address, "/v1/admin/customers?limit=2&cursor=globex", &admin).await.json();
    assert_eq!((&rest["customers"][0]["id"], &rest["next_cursor"]), (&json!("nobody"), &json!(null)));
    let cards = get(stage.address, "/v1/admin/rate-cards", &admin).await.json();
    assert_eq!(cards["rate_cards"].as_array().unwrap().len(), 4);
    sqlx::query("insert into accounts (account_id, first_seen_at) values ('000000000009', now())")
        .execute(&mut stage.superuser().await)
        .await
        .unwrap();
    let accounts = get(stage.address, "/v1/admin/accounts?owner=none", &admin).await.json();
    assert_eq!(accounts["accounts"][0]["account"], "000000000009");

    for path in ["/v1/admin/customers", "/v1/admin/accounts", "/v1/admin/rate-cards", "/v1/admin/api-keys"] {
        get(stage.address, path, &stage.key("acme")).await.problem(403, "not-allowed");
        assert_eq!(get(stage.address, path, &admin).await.status, 200, "{path}");
    }
    for path in ["/v1/usage?meter=cloudtrail_events", "/v1/invoices", "/v1/api-keys", "/v1/audit-events", "/v1/metrics"]
    {
        get(stage.address, path, &admin).await.problem(403, "not-allowed");
    }
    let make = async |body: Value, key: &str| {
        let body = body.to_string();
        let request = format!(
            "POST /v1/admin/api-keys HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {admin}\r\n\
             content-type: application/json\r\nidempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        send(stage.address, request.as_bytes()).await
    };
    let asked = json!({"customer": "globex", "name": "made", "scopes": ["read:usage"]});
    let (made, again) = (make(asked.clone(), "a").await, make(asked, "a").await);
    assert_eq!((made.status, again.status), (201, 201), "{made:?}");
    assert_eq!(made.json()["key_id"], again.json()["key_id"]);
    let key = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(get(stage.address, "/v1/usage?meter=cloudtrail_events", &key).await.status, 200);
    for wrong in [
        json!({"customer": "globex", "name": "x", "scopes": ["admin"]}),
        json!({"customer": null, "name": "x", "scopes": ["read:usage"]}),
        json!({"customer": "never-was", "name": "x", "scopes": ["read:usage"]}),
    ] {
        make(wrong, "b").await.problem(400, "invalid-body");
    }
    assert_eq!(make(json!({"customer": null, "name": "x", "scopes": ["admin"]}), "c").await.status, 201);
    let revoke = format!(
        "DELETE /v1/admin/api-keys/{}?customer=globex HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {admin}\r\n\r\n",
        made.json()["key_id"].as_str().unwrap()
    );
    assert_eq!(send(stage.address, revoke.as_bytes()).await.status, 200);
    get(stage.address, "/v1/usage?meter=cloudtrail_events", &key).await.problem(401, "not-authenticated");
}

/// Holds a value to a schema of the document, member by member: what the schema requires is there, what it does not name is
/// not, and every value has one of its types.
#[track_caller]
pub(crate) fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{at}: {name}"));
        return conforms(document, schema, value, at);
    }
    for several in ["oneOf", "anyOf"] {
        if let Some(schemas) = schema[several].as_array() {
            // Either nothing, or the one that is something.
            let of_null = |schema: &&Value| schema["type"] == "null";
            let schema = schemas.iter().find(|schema| of_null(schema) == value.is_null());
            return conforms(document, schema.unwrap_or_else(|| panic!("{at}: {value} fits none")), value, at);
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    assert!(kinds.iter().any(|one| one == kind), "{at}: {value} is none of {kinds:?}");
    match value {
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                conforms(document, &schema["items"], item, &format!("{at}[{place}]"));
            }
        }
        // An object without properties may hold anything.
        Value::Object(members) if schema["properties"].is_object() => {
            let properties = schema["properties"].as_object().unwrap();
            for (name, member) in members {
                let schema = properties.get(name).unwrap_or_else(|| panic!("{at}.{name} is not in the document"));
                conforms(document, schema, member, &format!("{at}.{name}"));
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(members.contains_key(name.as_str().unwrap()), "{at}.{name} is missing");
            }
        }
        _ => {}
    }
}

/// The schema of what a path answers with.
pub(crate) fn schema_of<'a>(document: &'a Value, path: &str, media_type: &str) -> &'a Value {
    let escaped = |text: &str| text.replace('~', "~0").replace('/', "~1");
    let pointer = format!("/paths/{}/get/responses/200/content/{}/schema", escaped(path), escaped(media_type));
    document.pointer(&pointer).unwrap_or_else(|| panic!("{pointer}"))
}
