//! PostgreSQL away: a problem in bounded time, and recovery without a restart.

use std::net::SocketAddr;
use std::time::Duration;

use api::{ApiParts, ApiState, pool};
use sqlx::{Connection, PgConnection};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::client::{get, get_with};
use crate::stage::Stage;

/// What the wire to a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Carries,
    /// Connections break and new ones are closed at once.
    Cut,
    /// Bytes get lost: connections stay open and nothing answers.
    Silent,
    /// As after a failover: what was connected before is silent for good, what connects now is carried.
    Moved,
}

/// A wire to a store that a test can cut.
pub(crate) async fn wire_to(store: SocketAddr) -> (SocketAddr, watch::Sender<Wire>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (switch, state) = watch::channel(Wire::Carries);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut state = state.clone();
            let at_first = *state.borrow();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(store).await.unwrap();
                loop {
                    let now = *state.borrow_and_update();
                    match now {
                        Wire::Cut => return,
                        Wire::Silent => drop(state.changed().await),
                        Wire::Moved if at_first != Wire::Moved => return std::future::pending().await,
                        Wire::Carries | Wire::Moved => tokio::select! {
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

/// Waits until so many statements wait for locks.
async fn until_waiting(gate: &mut PgConnection, count: i64) {
    let waiting = async {
        while sqlx::query_scalar::<_, i64>("select count(*) from pg_locks where not granted")
            .fetch_one(&mut *gate)
            .await
            .unwrap()
            < count
        {}
    };
    timeout(Duration::from_secs(20), waiting).await.expect("the requests come to their stop");
}

#[tokio::test]
async fn connections_that_a_failover_left_silent_are_replaced_and_the_trail_has_every_call_once() {
    let stage = Stage::new().await;
    let (wire, switch) = wire_to(stage.postgres_address()).await;
    let options = stage.options("securebase_app").host("127.0.0.1").port(wire.port());
    let state = ApiState::new(ApiParts { pool: pool(options), ..stage.parts() });
    let recorder = state.recorder().clone();
    let address = stage.serve(state).await;
    let key = stage.key("acme");
    let question = "/v1/usage?meter=cloudtrail_events&from=2026-10-01T00:00:00Z&to=2026-10-02T00:00:00Z";
    let ask = || {
        let key = key.clone();
        tokio::spawn(async move { timeout(Duration::from_secs(15), get(address, question, &key)).await })
    };

    // Everything is in the middle of a statement: the recorder, and more requests than there are connections.
    let mut gate = stage.superuser().await;
    let mut gate = gate.begin().await.unwrap();
    sqlx::raw_sql("lock table audit_heads in exclusive mode").execute(&mut *gate).await.unwrap();
    let mut answers = vec![get(address, question, &key).await];
    until_waiting(&mut gate, 1).await;
    sqlx::raw_sql("lock table usage_rows, usage_days in access exclusive mode").execute(&mut *gate).await.unwrap();
    let asked: Vec<_> = (0..20).map(|_| ask()).collect();
    until_waiting(&mut gate, 16).await;
    switch.send_replace(Wire::Moved);
    gate.rollback().await.unwrap();

    for asked in asked {
        let answer = asked.await.unwrap().expect("a request whose connection is silent ends in bounded time");
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
        answers.push(answer);
    }
    let recovered = async { while get(address, question, &key).await.status != 200 {} };
    timeout(Duration::from_secs(20), recovered).await.expect("new connections take the place of the silent ones");
    let asked: Vec<_> = (0..20).map(|_| ask()).collect();
    for asked in asked {
        let answer = asked.await.unwrap().expect("an answer in bounded time");
        assert_eq!(answer.status, 200, "{answer:?}");
        answers.push(answer);
    }

    let flushing = async { while recorder.flush().await.is_err() {} };
    timeout(Duration::from_secs(60), flushing).await.expect("the recorder goes on over another connection");
    let recorded: Vec<String> =
        sqlx::query_scalar("select details ->> 'request_id' from audit_events where action = 'request.get'")
            .fetch_all(&mut stage.superuser().await)
            .await
            .unwrap();
    let times = |id: &str| recorded.iter().filter(|recorded| *recorded == id).count();
    for answer in &answers {
        let id = answer.header("x-request-id").unwrap();
        // A 503 of somebody whose key could not be looked up any more is nobody's call.
        let times_min = usize::from(answer.status == 200 || answer.body.contains("took too long"));
        assert!((times_min..=1).contains(&times(id)), "{} times: {answer:?}", times(id));
    }
    assert!(recorded.len() >= 21 + 15, "{} calls", recorded.len());
}

#[tokio::test]
async fn a_server_starts_without_its_database() {
    let stage = Stage::new().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = stage.options("securebase_app").host("127.0.0.1").port(unused.port());
    let address = stage.serve(ApiState::new(ApiParts { pool: pool(options), ..stage.parts() })).await;
    check_away(address, &stage.key("acme"), "nothing listens").await;
}
