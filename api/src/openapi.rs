//! The OpenAPI 3.1 document, made from the routes' own annotations.
//!
//! What every route shares is added here and nowhere else: how a caller shows itself, the problems it may get, and the
//! headers of every answer.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

/// Every route that a customer may ask.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "SecureBase Metering",
        description = "Live usage, invoices, keys and the audit trail of a customer. Amounts and quantities are decimal strings."
    ),
    paths(
        crate::server::health,
        crate::server::ready,
        crate::sessions::begin,
        crate::sessions::begin_by_alias,
        crate::server::read_usage,
        crate::usage_stream::watch,
        crate::metrics::month,
        crate::metrics::history,
        crate::server::list_invoices,
        crate::invoice_preview::preview,
        crate::server::read_invoice,
        crate::invoice_documents::download,
        crate::invoice_documents::evidence,
        crate::customer::find,
        crate::customer::accounts,
        crate::api_keys::wire::list,
        crate::api_keys::wire::create,
        crate::api_keys::wire::revoke,
        crate::api_keys::wire::rotate,
        crate::audit::wire::list,
        crate::admin::customers,
        crate::admin::accounts,
        crate::admin_directory::add_customer,
        crate::admin_directory::register,
        crate::admin_records::closes,
        crate::admin_records::receipts,
        crate::admin_records::runs,
        crate::admin_records::run,
        crate::admin_dead_letters::list,
        crate::admin_dead_letters::find,
        crate::admin_dead_letters::dismiss,
        crate::admin::rate_cards,
        crate::admin_rate_cards::load,
        crate::admin_sources::declare,
        crate::admin_operations::close,
        crate::admin_operations::run,
        crate::admin_operations::replay,
        crate::admin_operations::list,
        crate::admin_operations::find,
        crate::admin::keys,
        crate::admin::create_key,
        crate::admin::revoke_key,
        crate::samples::take,
        show,
        crate::docs_page::show,
    ),
    tags(
        (name = "usage", description = "What was used"),
        (name = "invoices", description = "What was issued"),
        (name = "customer", description = "Who asks"),
        (name = "keys", description = "Who may ask what"),
        (name = "sessions", description = "A key for a day"),
        (name = "audit", description = "What was done"),
        (name = "operators", description = "Of all customers at once"),
        (name = "server", description = "The server itself"),
    )
)]
struct Document;

/// The problems that a route may answer with: status, and when.
const OF_ANYONE: [(&str, &str); 4] = [
    ("400", "The path, a parameter or the body is wrong"),
    ("413", "The request is too large"),
    ("500", "A fault of the server"),
    ("503", "The service is not available; see `Retry-After`"),
];
const OF_CALLERS: [(&str, &str); 3] = [
    ("401", "No valid key or session"),
    ("403", "The key may not do this"),
    ("429", "Too many requests or wrong secrets; see `Retry-After`"),
];
const OF_PATHS: [(&str, &str); 1] = [("404", "There is no such resource of this customer")];
const OF_OPERATORS: [(&str, &str); 1] = [("404", "There is no such resource, or this server does not open it")];
const OF_WRITES: [(&str, &str); 3] = [
    ("409", "The state of the resource forbids this"),
    ("415", "The body is not of a type that this resource takes"),
    ("422", "What the body says is refused, or the idempotency key came with another request before"),
];

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::to_value(Document::openapi()).expect("the document is made of strings and maps");
    complete(&mut document);
    document
});

/// The document.
pub fn openapi() -> &'static Value {
    &DOCUMENT
}

fn complete(document: &mut Value) {
    document["components"]["securitySchemes"] = json!({
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`sk_live_...`) or a session of one, in the header `Authorization: Bearer ...`"
        }
    });
    document["components"]["schemas"]["Problem"] = json!({
        "type": "object",
        "description": "What went wrong and what to do about it (RFC 9457)",
        "required": ["type", "title", "status", "detail", "request_id"],
        "properties": {
            "type": {"type": "string", "description": "`urn:securebase:problem:` and the kind"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "One sentence: what to change, or when to come back"},
            "parameter": {"type": "string", "description": "The query parameter at fault"},
            "request_id": {"type": "string", "format": "uuid"}
        }
    });
    document["components"]["headers"] = json!({
        "RequestId": {"description": "The request's id, made by the server", "schema": {"type": "string", "format": "uuid"}},
        "Location": {"description": "Where to look how far it is", "schema": {"type": "string"}},
        "RateLimit": {"description": "What is left of the customer's requests", "schema": {"type": "string"}},
        "RetryAfter": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}
    });
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    for (path, methods) in paths {
        for (method, operation) in methods.as_object_mut().expect("a path has methods") {
            complete_operation(path, method, operation);
        }
    }
}

fn complete_operation(path: &str, method: &str, operation: &mut Value) {
    let is_private = operation["security"].as_array().is_some_and(|all| all.iter().any(|one| one.get("key").is_some()));
    let responses = operation["responses"].as_object_mut().expect("an operation has responses");
    for (status, response) in responses.iter_mut() {
        if let Some(pdf) = response.pointer_mut("/content/application~1pdf") {
            *pdf = json!({"schema": {"type": "string", "format": "binary"}});
        }
        // Where to look for what was begun.
        let location = (status == "202" && path.starts_with("/v1/admin/"))
            .then(|| ("location".to_owned(), json!({"$ref": "#/components/headers/Location"})));
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
        if is_private {
            headers["ratelimit"] = json!({"$ref": "#/components/headers/RateLimit"});
        }
        headers.as_object_mut().expect("it was made as an object").extend(location);
        response["headers"] = headers;
    }
    let mut add = |problems: &[(&str, &str)]| {
        for (status, description) in problems {
            responses.insert((*status).to_owned(), problem(status, description));
        }
    };
    add(&OF_ANYONE);
    if is_private {
        add(&OF_CALLERS);
    }
    if path.starts_with("/v1/admin/") {
        add(&OF_OPERATORS);
    } else if path.contains('{') {
        add(&OF_PATHS);
    }
    if is_private && method != "get" {
        add(&OF_WRITES);
    }
    if method == "get" && is_private {
        responses
            .insert("304".to_owned(), json!({"description": "The caller has this answer already (`If-None-Match`)"}));
    }
}

fn problem(status: &str, description: &str) -> Value {
    let mut headers = Map::new();
    headers.insert("x-request-id".to_owned(), json!({"$ref": "#/components/headers/RequestId"}));
    if ["429", "503"].contains(&status) {
        headers.insert("retry-after".to_owned(), json!({"$ref": "#/components/headers/RetryAfter"}));
    }
    json!({
        "description": description,
        "headers": headers,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    })
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "get_openapi", tag = "server", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(crate) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_document_is_the_golden_file() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let mut now = serde_json::to_string_pretty(openapi()).unwrap();
        now.push('\n');
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            golden == now,
            "api/openapi.json is not what the code says: run the test with UPDATE=1 and look at the difference"
        );
    }

    #[test]
    fn every_operation_has_a_name_a_summary_and_its_problems() {
        assert_eq!(openapi()["openapi"], "3.1.0");
        let mut names = std::collections::BTreeSet::new();
        for (path, methods) in openapi()["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
                assert!(names.insert(name), "{name} is there twice");
                assert!(operation["summary"].is_string(), "{method} {path} has no summary");
                assert!(operation["responses"]["503"].is_object(), "{method} {path}");
                assert!(operation["security"].is_array(), "{method} {path} says who may ask");
            }
        }
        assert!(names.len() >= 19, "{names:?}");
    }
}
