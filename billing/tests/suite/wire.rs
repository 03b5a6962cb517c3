//! HTTP on loopback, one request at a time: enough to see what an SDK client sends.

use std::time::Duration;

use aws_sdk_sesv2::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_smithy_http_client::Builder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A client for a server on loopback that is not tried again.
pub(crate) fn ses(endpoint: &str) -> aws_sdk_sesv2::Client {
    let config = aws_sdk_sesv2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(Builder::new().build_http())
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            aws_sdk_sesv2::config::timeout::TimeoutConfig::builder().operation_timeout(Duration::from_secs(20)).build(),
        )
        .endpoint_url(endpoint)
        .build();
    aws_sdk_sesv2::Client::from_conf(config)
}

/// Reads one request and answers it; returns its head and body.
pub(crate) async fn answer(mut stream: TcpStream, status: &str, body: &str, error: &str) -> (String, Vec<u8>) {
    let mut read = Vec::new();
    let (head_length, body_length) = loop {
        let mut chunk = [0; 16_384];
        let length = stream.read(&mut chunk).await.unwrap();
        assert_ne!(length, 0, "the request ended early");
        read.extend_from_slice(&chunk[..length]);
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        break (end + 4, announced.trim().parse::<usize>().unwrap());
    };
    while read.len() < head_length + body_length {
        let mut chunk = [0; 16_384];
        let length = stream.read(&mut chunk).await.unwrap();
        assert_ne!(length, 0, "the body ended early");
        read.extend_from_slice(&chunk[..length]);
    }
    let kind = if error.is_empty() { String::new() } else { format!("x-amzn-errortype: {error}\r\n") };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{kind}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let rest = read.split_off(head_length);
    (String::from_utf8_lossy(&read).into_owned(), rest)
}
