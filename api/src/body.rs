//! Request bodies: JSON of a known form, of bounded size, or a problem that says what is wrong.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::edge::BODY_BYTES_MAX;
use crate::problem::{Problem, shortened};

/// The bytes of a body; the edge has checked their declared number.
#[derive(Clone, Debug)]
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
            let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/json")
        });
        let bytes = axum::body::to_bytes(request.into_body(), usize::try_from(BODY_BYTES_MAX).unwrap_or(usize::MAX))
            .await
            .map_err(|_| Problem::of_status(StatusCode::BAD_REQUEST))?;
        if !is_json && !bytes.is_empty() {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body is not JSON",
                "send the body as JSON with the header `Content-Type: application/json`",
            ));
        }
        Ok(Self(bytes))
    }
}

impl Body {
    /// Reads the body; an empty one as `{}`.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let bytes: &[u8] = if self.0.is_empty() { b"{}" } else { &self.0 };
        // An array would be read as a structure's members in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::invalid("the body cannot be read: expected a JSON object"));
        }
        serde_json::from_slice(bytes).map_err(|error| {
            // The message may repeat a name of the caller's; it is shortened like all that is repeated.
            let detail = format!("the body cannot be read: {}", shortened(&error.to_string()));
            Problem::new(StatusCode::BAD_REQUEST, "invalid-body", "The body is wrong", detail)
        })
    }
}
