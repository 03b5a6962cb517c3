//! Connections of clients: so many, and none that keeps the server waiting.
//!
//! A request has to be whole, and its answer begun, within [`STALL_MS_MAX`] of its first byte; a client that does not
//! read what it asked for loses its connection after the same time, and one that says nothing after [`IDLE_MS_MAX`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Open connections of one server; more wait in the system's queue.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Open connections from one address; more are closed as they come. A gateway in front counts as one address.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 1_024;

/// From a request's first byte to the first byte of its answer, and between two steps of a client that reads.
pub const STALL_MS_MAX: u64 = 20_000;

/// Between an answer and the next request on the same connection.
pub const IDLE_MS_MAX: u64 = 75_000;

const _: () = assert!(crate::edge::REQUEST_MS_MAX < STALL_MS_MAX, "an answer is begun before its connection is closed");

/// The address of a connection's other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// How long clients may keep a server waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    stall: Duration,
    idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: Duration::from_millis(STALL_MS_MAX), idle: Duration::from_millis(IDLE_MS_MAX) }
    }
}

/// Accepts connections within the limits.
#[derive(Debug)]
pub(crate) struct GuardedListener {
    listener: TcpListener,
    patience: Patience,
    seats: Arc<Semaphore>,
    of_addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl GuardedListener {
    pub(crate) fn new(listener: TcpListener, patience: Patience) -> Self {
        Self { listener, patience, seats: Arc::new(Semaphore::new(CONNECTIONS_MAX)), of_addresses: Arc::default() }
    }

    /// One more from this address, unless it has as many as it may.
    fn admit(&self, address: IpAddr) -> Option<OfAddress> {
        let mut open = self.of_addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(OfAddress { open: Arc::clone(&self.of_addresses), address })
    }
}

/// A connection in its address's count.
#[derive(Debug)]
struct OfAddress {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

impl Listener for GuardedListener {
    type Io = GuardedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (GuardedStream, SocketAddr) {
        let seat = Arc::clone(&self.seats).acquire_owned().await.expect("the seats are never closed");
        loop {
            // The listener's own accept waits out errors such as too many open files.
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let Some(of_address) = self.admit(address.ip().to_canonical()) else {
                tracing::warn!(%address, "too many connections from one address");
                continue;
            };
            // Answers are small and written whole: waiting for more only delays them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot turn off delays");
            }
            return (GuardedStream::new(stream, self.patience, seat, of_address), address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, GuardedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, GuardedListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    /// The first byte of a request.
    Request,
    /// The rest of a request, or the begin of its answer.
    Answer,
}

/// A connection that ends when its client keeps it waiting.
#[derive(Debug)]
pub(crate) struct GuardedStream {
    stream: TcpStream,
    patience: Patience,
    awaiting: Awaiting,
    /// When the wait has been too long.
    deadline: Pin<Box<Sleep>>,
    _seat: OwnedSemaphorePermit,
    _of_address: OfAddress,
}

impl GuardedStream {
    fn new(stream: TcpStream, patience: Patience, seat: OwnedSemaphorePermit, of_address: OfAddress) -> Self {
        // A client that connects has something to say.
        let deadline = Box::pin(tokio::time::sleep(patience.stall));
        Self { stream, patience, awaiting: Awaiting::Request, deadline, _seat: seat, _of_address: of_address }
    }

    fn wait(&mut self, patience: Duration) {
        self.deadline.as_mut().reset(Instant::now() + patience);
    }

    /// Out of time?
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client kept its connection waiting"))
    }

    /// Something was written: the client reads, and its next request may take its time.
    fn wrote(&mut self) {
        self.awaiting = Awaiting::Request;
        self.wait(self.patience.idle);
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(outcome) => {
                // Only the first byte begins the wait: a client that sends one now and then does not prolong it.
                if buffer.filled().len() > before && this.awaiting == Awaiting::Request {
                    this.awaiting = Awaiting::Answer;
                    this.wait(this.patience.stall);
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => this.poll_deadline(context).map(Err),
        }
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write(context, bytes) {
            Poll::Ready(outcome) => {
                this.wrote();
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                if this.awaiting == Awaiting::Request {
                    // What is written piles up: from here on the client has so long to read.
                    this.awaiting = Awaiting::Answer;
                    this.wait(this.patience.stall);
                }
                this.poll_deadline(context).map(Err)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write_vectored(context, parts) {
            Poll::Ready(outcome) => {
                this.wrote();
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                if this.awaiting == Awaiting::Request {
                    this.awaiting = Awaiting::Answer;
                    this.wait(this.patience.stall);
                }
                this.poll_deadline(context).map(Err)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Short, so that running out of it takes no time worth speaking of.
    const SHORT: Patience = Patience { stall: Duration::from_millis(50), idle: Duration::from_millis(50) };

    async fn connected(patience: Patience) -> (GuardedListener, GuardedStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut guarded = GuardedListener::new(listener, patience);
        let address = guarded.local_addr().unwrap();
        let (client, (server, _)) = tokio::join!(TcpStream::connect(address), guarded.accept());
        (guarded, server, client.unwrap())
    }

    #[tokio::test]
    async fn more_bytes_of_a_request_are_no_more_time() {
        let (_listener, mut server, mut client) = connected(Patience::default()).await;
        let mut buffer = [0; 16];
        client.write_all(b"G").await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), 1);
        assert_eq!(server.awaiting, Awaiting::Answer);
        let deadline = server.deadline.deadline();
        client.write_all(b"E").await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), 1);
        assert_eq!(server.deadline.deadline(), deadline);
        server.write_all(b"x").await.unwrap();
        assert!(server.deadline.deadline() > deadline, "an answer is the end of the wait");
    }

    #[tokio::test]
    async fn a_request_that_does_not_go_on_and_an_answer_that_nobody_reads_run_out_of_time() {
        let (_listener, mut server, mut client) = connected(SHORT).await;
        client.write_all(b"G").await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 1);
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (_listener, mut server, _client) = connected(SHORT).await;
        let much = vec![0; 64 * 1024 * 1024];
        assert_eq!(server.write_all(&much).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_address_has_so_many_connections_and_gets_them_back() {
        let (listener, server, _client) = connected(SHORT).await;
        let address = server._of_address.address;
        let others: Vec<_> = (1..CONNECTIONS_PER_ADDRESS_MAX).map(|_| listener.admit(address).unwrap()).collect();
        assert!(listener.admit(address).is_none());
        assert!(listener.admit("192.0.2.1".parse().unwrap()).is_some(), "other addresses are not concerned");
        drop(others);
        drop(server);
        assert!(listener.of_addresses.lock().unwrap().is_empty(), "nothing is left of connections that are gone");
    }
}
