//! A static answer: the bound of what a server on this machine can do.

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

/// As long as a typical answer of the API.
const ANSWER: &str = r#"{"complete_through":null,"rows":[{"account":"000000000001","quantity":"123456"},{"account":"000000000002","quantity":"123456"}]}"#;

/// Serves until its parent ends it; the first line it prints names its address.
pub(crate) async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{{\"api\":\"http://{}\"}}", listener.local_addr().unwrap());
    axum::serve(listener, Router::new().route("/", get(async || ANSWER))).await.unwrap();
}
