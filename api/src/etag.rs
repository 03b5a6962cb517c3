//! `ETag` on what was read, and 304 for who has it already (RFC 9110 sections 8.8.3 and 13.1.2).
//!
//! Weak tags: the same answer may travel compressed or not. An answer is named by its content, so it has to be made before
//! it can be compared; what a 304 saves is its way.

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// Answers above this are sent without a tag.
const TAGGED_BYTES_MAX: u64 = 8 * 1024 * 1024;

pub(crate) async fn etag(request: Request, next: Next) -> Result<Response, Problem> {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    let known = request.headers().clone();
    let response = next.run(request).await;
    // A stream has no size, and is never named.
    let size = response.body().size_hint().exact();
    if !is_read || response.status() != StatusCode::OK || size.is_none_or(|size| size > TAGGED_BYTES_MAX) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "an answer was not made to its end");
        Problem::internal()
    })?;
    let tag = format!("W/\"{}\"", hex::encode(&Sha256::digest(&bytes)[..16]));
    let is_known = is_named(&known, &tag);
    parts.headers.insert(header::ETAG, HeaderValue::from_str(&tag).expect("hexadecimal digits are visible ASCII"));
    if is_known {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// Whether the caller has what has this tag. `*` is any.
fn is_named(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let strong = tag.trim_start_matches("W/");
    given
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.trim_start_matches("W/") == strong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_any_list_weak_or_strong() {
        let check = |values: &[&str], expected: bool| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(is_named(&headers, "W/\"ab\""), expected, "{values:?}");
        };
        check(&[], false);
        check(&["W/\"ab\""], true);
        check(&["\"ab\""], true);
        check(&["\"x\", W/\"ab\""], true);
        check(&["\"x\"", "\"ab\""], true);
        check(&["*"], true);
        check(&["ab", "\"abc\""], false);
    }
}
