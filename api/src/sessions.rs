//! `POST /v1/auth/authenticate`: a session for a key.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::caller::Anyone;
use crate::edge::now;
use crate::problem::Problem;
use crate::state::ApiState;

/// The answer: a token to be sent as `Authorization: Bearer <token>`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionDocument {
    token: String,
    #[schema(value_type = String)]
    token_type: &'static str,
    expires_at: String,
    /// Null for an operator.
    customer: Option<String>,
    scopes: Vec<String>,
}

/// Begins a session of the key that is shown; it lasts 24 hours and ends with its key.
#[utoipa::path(post, path = "/v1/auth/authenticate", operation_id = "authenticate", tag = "sessions", security(("key" = [])),
    responses((status = 201, description = "The session", body = SessionDocument)))]
pub(crate) async fn begin(
    Anyone(caller): Anyone,
    State(state): State<ApiState>,
) -> Result<(StatusCode, Json<SessionDocument>), Problem> {
    let session = state.authenticator.begin_session(&caller, Uuid::new_v4().to_string(), now()).await;
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

/// The same under its other name.
#[utoipa::path(post, path = "/v1/auth/session", operation_id = "begin_session", tag = "sessions", security(("key" = [])),
    responses((status = 201, description = "The session", body = SessionDocument)))]
pub(crate) async fn begin_by_alias(
    caller: Anyone,
    state: State<ApiState>,
) -> Result<(StatusCode, Json<SessionDocument>), Problem> {
    begin(caller, state).await
}
