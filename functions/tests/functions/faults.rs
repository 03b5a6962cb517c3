//! A proxy before a store that lets requests go wrong where it is told to: refused, their answers lost, or the function
//! killed around them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The service is down: HTTP 500 without an effect.
    Down,
    /// The service says that it is too much.
    Throttled,
    /// The request takes effect and its answer is lost.
    AnswerLost,
    /// The request gets no answer, and has no effect.
    Hangs,
    /// The function is killed before the request takes effect.
    KilledBefore,
    /// The function is killed when the request has taken effect.
    KilledAfter,
}

/// The proxy of one execution environment.
pub(crate) struct Proxy {
    /// Where it listens: `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    plan: Arc<Mutex<Plan>>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Plan {
    requests: u32,
    /// By the number of the request, from 1.
    faults: BTreeMap<u32, Fault>,
    victim: Option<i32>,
}

impl Proxy {
    /// A proxy before the store at this endpoint.
    pub(crate) async fn before(endpoint: &str) -> Self {
        let upstream = endpoint.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let plan = Arc::new(Mutex::new(Plan::default()));
        let planned = plan.clone();
        let server = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (upstream, plan) = (upstream.clone(), planned.clone());
                // A connection that breaks is what this is for.
                tokio::spawn(async move { serve(client, &upstream, &plan).await });
            }
        });
        Self { endpoint, plan, server }
    }

    /// What happens to the next requests, the first being number 1, and whom a kill is for.
    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = (u32, Fault)>, victim: i32) {
        let faults = faults.into_iter().collect();
        *self.plan.lock().unwrap() = Plan { requests: 0, faults, victim: Some(victim) };
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut client: TcpStream, upstream: &str, plan: &Mutex<Plan>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    let mut from_client = Vec::new();
    let mut from_server = Vec::new();
    loop {
        let request = message(&mut client, &mut from_client).await?;
        let (fault, victim) = {
            let mut plan = plan.lock().unwrap();
            plan.requests += 1;
            (plan.faults.get(&plan.requests).copied(), plan.victim)
        };
        let json = "content-type: application/x-amz-json-1.0\r\n";
        match fault {
            Some(Fault::Down) => {
                let answer = format!("HTTP/1.1 500 Internal Server Error\r\n{json}content-length: 2\r\n\r\n{{}}");
                client.write_all(answer.as_bytes()).await?;
                continue;
            }
            Some(Fault::Throttled) => {
                let body = r#"{"__type":"com.amazonaws#ProvisionedThroughputExceededException","message":"too fast"}"#;
                let answer = format!("HTTP/1.1 400 Bad Request\r\n{json}content-length: {}\r\n\r\n{body}", body.len());
                client.write_all(answer.as_bytes()).await?;
                continue;
            }
            Some(Fault::Hangs) => return std::future::pending().await,
            Some(Fault::KilledBefore) => {
                end(victim);
                return Ok(());
            }
            Some(Fault::AnswerLost | Fault::KilledAfter) | None => {}
        }
        server.write_all(&request).await?;
        let answer = message(&mut server, &mut from_server).await?;
        match fault {
            Some(Fault::AnswerLost) => return Ok(()),
            Some(Fault::KilledAfter) => {
                end(victim);
                return Ok(());
            }
            _ => client.write_all(&answer).await?,
        }
    }
}

fn end(victim: Option<i32>) {
    // One that has ended by itself needs no killing.
    let _ = kill(Pid::from_raw(victim.expect("a plan with a kill names whom")), Signal::SIGKILL);
}

/// One HTTP message with its body, as bytes. `buffer` keeps what came behind it.
async fn message(connection: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        if let Some(length) = whole(buffer) {
            let rest = buffer.split_off(length);
            return Ok(std::mem::replace(buffer, rest));
        }
        if connection.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// How many bytes the first message has, once it is all there. The SDK and the stores give every body a length.
fn whole(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    assert!(!text.contains("transfer-encoding"), "a body without a length: {text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    (head + length <= buffer.len()).then_some(head + length)
}
