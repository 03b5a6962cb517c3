//! A TCP proxy on loopback that delays, cuts and half-closes, from a seed, until it is told to be calm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::units::{Asked, Requests};

/// What the proxies of a run have done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) connections: AtomicU64,
    pub(crate) delayed: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) half_closed: AtomicU64,
    /// Write units that were asked for by what arrived.
    pub(crate) asked: Arc<Asked>,
    is_calm: AtomicBool,
}

impl Deeds {
    /// Lets new connections through as they are.
    pub(crate) fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy)]
enum Fate {
    Passes,
    /// Each piece waits so many milliseconds.
    Delayed(u64),
    /// Both directions end once so many bytes went by in one of them.
    Cut(usize),
    /// What comes back ends after so many bytes; what goes there goes on.
    HalfClosed(usize),
}

/// What is before a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All that can happen to connections.
    Rough,
    /// The same, and most often answers are lost to what arrived. Before DynamoDB: write units are read off.
    LosesAnswers,
}

/// Listens on a port of its own and passes on to `target` on loopback, wherever that is by then. Returns the port.
pub(crate) async fn start(target: u16, way: Way, seed: u64, deeds: Arc<Deeds>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Arc::new(AtomicU16::new(target));
    tokio::spawn(async move {
        let mut rng = StdRng::seed_from_u64(seed);
        while let Ok((client, _)) = listener.accept().await {
            let fate = if deeds.is_calm.load(Ordering::Relaxed) { Fate::Passes } else { drawn(way, &mut rng) };
            deeds.connections.fetch_add(1, Ordering::Relaxed);
            let (target, deeds) = (Arc::clone(&target), Arc::clone(&deeds));
            tokio::spawn(async move {
                // A server that is down is a connection that ends.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::Relaxed))).await {
                    let requests = (way == Way::LosesAnswers).then(|| Requests::new(Arc::clone(&deeds.asked)));
                    pass(client, server, fate, requests, &deeds).await;
                }
            });
        }
    });
    port
}

fn drawn(way: Way, rng: &mut StdRng) -> Fate {
    if way == Way::LosesAnswers && rng.random_range(0..10) < 6 {
        return Fate::HalfClosed(rng.random_range(0..20_000));
    }
    match rng.random_range(0..10) {
        0..5 => Fate::Passes,
        5..7 => Fate::Delayed(rng.random_range(1..25)),
        7 | 8 => Fate::Cut(rng.random_range(0..6_000)),
        _ => Fate::HalfClosed(rng.random_range(0..4_000)),
    }
}

async fn pass(client: TcpStream, server: TcpStream, fate: Fate, requests: Option<Requests>, deeds: &Deeds) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (there, back) = match fate {
        Fate::Cut(bytes) => (bytes, bytes),
        Fate::HalfClosed(bytes) => (usize::MAX, bytes),
        Fate::Passes | Fate::Delayed(_) => (usize::MAX, usize::MAX),
    };
    let delay = if let Fate::Delayed(millis) = fate { Duration::from_millis(millis) } else { Duration::ZERO };
    let there = copy(from_client, to_server, there, delay, requests);
    let back = copy(from_server, to_client, back, delay, None);
    match fate {
        Fate::Cut(_) => {
            // Whichever ends first ends both.
            let is_over = tokio::select! { is_over = there => is_over, is_over = back => is_over };
            deeds.cut.fetch_add(u64::from(is_over), Ordering::Relaxed);
        }
        Fate::HalfClosed(_) => {
            let (_, is_over) = tokio::join!(there, back);
            deeds.half_closed.fetch_add(u64::from(is_over), Ordering::Relaxed);
        }
        Fate::Passes | Fate::Delayed(_) => {
            deeds.delayed.fetch_add(u64::from(!delay.is_zero()), Ordering::Relaxed);
            tokio::join!(there, back);
        }
    }
}

/// Passes bytes on; says whether it ended because there were too many.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    bytes_max: usize,
    delay: Duration,
    mut requests: Option<Requests>,
) -> bool {
    let mut left = bytes_max;
    let mut piece = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let passed = read.min(left);
        left -= passed;
        if to.write_all(&piece[..passed]).await.is_err() {
            break;
        }
        if let Some(requests) = &mut requests {
            requests.take(&piece[..passed]);
        }
        if left == 0 {
            // Dropping the writing half closes this direction alone.
            let _ = to.shutdown().await;
            return true;
        }
    }
    let _ = to.shutdown().await;
    false
}
