//! A customer's requests over several servers, which share one bucket in DynamoDB.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use api::auth::create_verified_table;
use api::{ApiParts, ApiState, REQUESTS_PER_MINUTE};
use embedded::DynamoDb;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use crate::client::{Answer, get, get_with};
use crate::stage::Stage;
use crate::stores::dynamodb;

const TABLE: &str = "test-auth-cache";
/// An answer that costs PostgreSQL nothing but the key's look-up.
const ASKED: &str = "/v1/metrics?month=broken";

/// A server that waits for its shared buckets until they answer: what is counted must not depend on this machine.
async fn patient(stage: &Stage, client: &aws_sdk_dynamodb::Client) -> SocketAddr {
    let state = ApiState::new(ApiParts { shared_table: Some((client.clone(), TABLE.to_owned())), ..stage.parts() });
    stage.serve(state.with_lease_wait(Duration::from_secs(60))).await
}

/// Answers to so many requests, ten at a time, to each of the servers in turn.
async fn ask(servers: &[SocketAddr], requests: usize, key: &str) -> Vec<Answer> {
    let asking = servers.iter().cycle().take(requests).map(|server| get(*server, ASKED, key));
    stream::iter(asking).buffer_unordered(10).collect().await
}

fn passed(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status != 429).count()
}

async fn counter(server: SocketAddr, name: &str) -> u64 {
    let text = get_with(server, "/metrics", &[]).await.body;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn two_servers_together_let_no_more_through_than_one() {
    let stage = Stage::new().await;
    let server = DynamoDb::in_memory().await.unwrap();
    let client = dynamodb(server.endpoint());
    create_verified_table(&client, TABLE).await.unwrap();
    let servers = [patient(&stage, &client).await, patient(&stage, &client).await];
    let (key, started_at) = (stage.key("acme"), Instant::now());
    let answers = ask(&servers, 1_500, &key).await;
    // What comes in while we ask. What a lease adds needs a minute before; here is none.
    let refilled = usize::try_from(started_at.elapsed().as_millis() / 60).unwrap() + 1;
    let burst = usize::try_from(REQUESTS_PER_MINUTE).unwrap();
    let passed = passed(&answers);
    assert!(passed <= burst + refilled, "{passed} of 1,500 passed, {burst} and {refilled} may");
    // What a server holds and cannot use any more because the other was asked: a lot and a quarter at most.
    assert!(passed >= burst - 2 * 63, "{passed} of 1,500 passed");
    for answer in answers {
        let left = answer.header("ratelimit").unwrap().to_owned();
        if answer.status == 429 {
            answer.problem(429, "too-many-requests");
            let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=3).contains(&seconds), "the next lot is there in three seconds");
            assert!(left.starts_with("\"customer\";r=0;t="), "{left}");
        } else {
            assert_eq!(answer.status, 400, "{answer:?}");
        }
    }
    for server in servers {
        assert_eq!(counter(server, "securebase_api_unshared_requests_total").await, 0);
        let writes = counter(server, "securebase_api_lease_writes_total").await;
        assert!((1..=60).contains(&writes), "{writes} writes for some 500 requests");
    }
    assert_ne!(get(servers[0], ASKED, &stage.key("globex")).await.status, 429, "others are not concerned");

    // The table names nobody, and a bucket is forgotten in time.
    let items = client.scan().table_name(TABLE).send().await.unwrap().items.unwrap();
    let buckets: Vec<_> = items.iter().filter(|item| item.contains_key("full_at")).collect();
    assert_eq!(buckets.len(), 2);
    assert!(buckets.iter().all(|item| item["ends_at"].as_n().is_ok()), "{buckets:?}");
    assert!(!format!("{items:?}").contains("acme"));
    server.shutdown().await;
}

#[tokio::test]
async fn without_its_shared_bucket_a_server_goes_on_with_its_own_and_says_so() {
    let stage = Stage::new().await;
    let key = stage.key("acme");
    let server = DynamoDb::in_memory().await.unwrap();
    let away = dynamodb(server.endpoint());
    server.shutdown().await;
    // A socket that takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = dynamodb(&format!("http://{}", silent.local_addr().unwrap()));
    for (client, what) in [(away, "nothing listens"), (mute, "nothing answers")] {
        let parts = ApiParts { shared_table: Some((client, TABLE.to_owned())), ..stage.parts() };
        let server = stage.serve(ApiState::new(parts)).await;
        let answers = ask(&[server], 50, &key).await;
        assert_eq!(passed(&answers), 50, "{what}");
        assert_eq!(counter(server, "securebase_api_unshared_requests_total").await, 50, "{what}");
        for answer in &answers {
            assert!(answer.header("ratelimit").unwrap().starts_with("\"customer\";r=9"), "{what}: {answer:?}");
        }
    }
}
