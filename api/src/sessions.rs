//! `POST /v1/auth/authenticate`: a session for a key.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use uuid::Uuid;

use crate::caller::Anyone;
use crate::edge::now;
use crate::problem::Problem;
use crate::state::ApiState;

/// The answer: a token to be sent as `Authorization: Bearer <token>`.
#[derive(Debug, Serialize)]
pub(crate) struct SessionDocument {
    token: String,
    token_type: &'static str,
    expires_at: String,
    /// Null for an operator.
    customer: Option<String>,
    scopes: Vec<String>,
}

pub(crate) async fn begin(
    Anyone(caller): Anyone,
    State(state): State<ApiState>,
) -> Result<(StatusCode, Json<SessionDocument>), Problem> {
    let session = state.authenticator.begin_session(&caller, Uuid::new_v4().to_string(), now());
    let Some(session) = session else {
        return Err(Problem::not_allowed("the key itself, for a session begins no other"));
    };
    let document = SessionDocument {
        token: session.token,
        token_type: "Bearer",
        expires_at: session.expires_at.to_string(),
        customer: caller.customer.as_ref().map(ToString::to_string),
        scopes: caller.scopes.names(),
    };
    Ok((StatusCode::CREATED, Json(document)))
}
