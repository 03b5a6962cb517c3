//! `GET /v1/docs`: the OpenAPI document as a page to read, without scripts and without anything from elsewhere.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::openapi::openapi;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
h2{margin-top:2.5rem;border-bottom:1px solid #d0d7de}h3{margin-bottom:0}code{font:14px ui-monospace,monospace;background:#f3f4f6;\
padding:.1em .3em;border-radius:3px}table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem}td,th{text-align:left;\
vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #eaeef2}.m{text-transform:uppercase;font-weight:600}";

/// The page and the policy that lets its style, and nothing else, take effect.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    (
        page(openapi()),
        format!("default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'; base-uri 'none'"),
    )
});

/// The API as a page to read.
#[utoipa::path(get, path = "/v1/docs", operation_id = "get_docs", tag = "server", security(()),
    responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
pub(crate) async fn show() -> Response {
    let (page, policy) = &*PAGE;
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy.as_str())];
    (headers, page.as_str()).into_response()
}

/// Writing to a text cannot fail.
const WRITES: &str = "memory takes what is written";

fn page(document: &Value) -> String {
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    let info = &document["info"];
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}</style><h1>{0}</h1><p>{1}</p><p>Every path below <code>/v1</code> needs \
         <code>Authorization: Bearer KEY</code> unless it says otherwise. Errors are problem documents (RFC 9457). The same as \
         OpenAPI 3.1: <a href=\"/v1/openapi.json\">openapi.json</a>.</p>",
        text(&info["title"]),
        text(&info["description"]),
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        write!(html, "<h2>{}: {}</h2>", text(&tag["name"]), text(&tag["description"])).expect(WRITES);
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation["tags"][0] == tag["name"] {
                    operation_of(&mut html, path, method, operation);
                }
            }
        }
    }
    html.push_str("</html>");
    html
}

fn operation_of(html: &mut String, path: &str, method: &str, operation: &Value) {
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    write!(html, "<h3><span class=\"m\">{}</span> <code>{}</code></h3>", escaped(method), escaped(path)).expect(WRITES);
    let long = &operation["description"];
    write!(html, "<p>{} {}", text(&operation["summary"]), text(long)).expect(WRITES);
    let scopes: Vec<&str> =
        operation["security"][0]["key"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match (operation["security"][0].get("key"), scopes.is_empty()) {
        (None, _) => html.push_str(" Needs no key."),
        (Some(_), true) => html.push_str(" Any key."),
        (Some(_), false) => write!(html, " Scope <code>{}</code>.", escaped(&scopes.join(", "))).expect(WRITES),
    }
    html.push_str("</p><table>");
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let needed = if parameter["required"] == true { ", required" } else { "" };
        write!(
            html,
            "<tr><td><code>{}</code></td><td>{}{needed}</td><td>{}</td></tr>",
            text(&parameter["name"]),
            text(&parameter["in"]),
            text(&parameter["description"]),
        )
        .expect(WRITES);
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        write!(html, "<tr><td>{}</td><td>answer</td><td>{}</td></tr>", escaped(status), text(&response["description"]))
            .expect(WRITES);
    }
    html.push_str("</table>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
