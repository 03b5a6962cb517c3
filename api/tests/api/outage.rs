//! PostgreSQL away: a problem in bounded time, and recovery without a restart.

use std::net::SocketAddr;
use std::time::Duration;

use api::{ApiParts, ApiState, pool};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::client::{get, get_with};
use crate::stage::Stage;

/// What the wire to PostgreSQL does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Carries,
    /// Connections break and new ones are closed at once.
    Cut,
    /// Bytes get lost: connections stay open and nothing answers.
    Silent,
}

/// A wire to PostgreSQL that a test can cut.
async fn wire_to(postgres: SocketAddr) -> (SocketAddr, watch::Sender<Wire>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (switch, state) = watch::channel(Wire::Carries);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut state = state.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(postgres).await.unwrap();
                loop {
                    let now = *state.borrow_and_update();
                    match now {
                        Wire::Cut => return,
                        Wire::Silent => drop(state.changed().await),
                        Wire::Carries => tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                            _ = state.changed() => {}
                        },
                    }
                }
            });
        }
    });
    (address, switch)
}

async fn check_away(address: SocketAddr, key: &str, what: &str) {
    let started_at = Instant::now();
    for path in ["/v1/ready", "/v1/usage?meter=cloudtrail_events", "/v1/invoices", "/v1/invoices/INV-2026-11-0001"] {
        let answer = timeout(Duration::from_secs(8), get(address, path, key)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{what}: {path} did not answer in bounded time"));
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"), "{what}: {path}");
    }
    assert!(started_at.elapsed() < Duration::from_secs(20), "{what}: {:?}", started_at.elapsed());
    assert_eq!(get_with(address, "/v1/health", &[]).await.status, 200, "{what}: the process itself is well");
}

#[tokio::test]
async fn a_lost_database_is_a_503_in_bounded_time_and_comes_back_by_itself() {
    let stage = Stage::new().await;
    let (wire, switch) = wire_to(stage.postgres_address()).await;
    let options = stage.options("securebase_app").host("127.0.0.1").port(wire.port());
    let state = ApiState::new(ApiParts { pool: pool(options), ..stage.parts() });
    let address = stage.serve(state).await;
    let key = stage.key("acme");
    let question = "/v1/usage?meter=cloudtrail_events";
    assert_eq!(get(address, question, &key).await.status, 200);

    for away in [Wire::Cut, Wire::Silent] {
        switch.send_replace(away);
        check_away(address, &key, &format!("{away:?}")).await;
        switch.send_replace(Wire::Carries);
        let recovered = async {
            while get(address, "/v1/ready", &key).await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), recovered).await.expect("the next connection finds PostgreSQL");
        assert_eq!(get(address, question, &key).await.status, 200);
    }
}

#[tokio::test]
async fn a_server_starts_without_its_database() {
    let stage = Stage::new().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = stage.options("securebase_app").host("127.0.0.1").port(unused.port());
    let address = stage.serve(ApiState::new(ApiParts { pool: pool(options), ..stage.parts() })).await;
    check_away(address, &stage.key("acme"), "nothing listens").await;
}
