//! Listening on 127.0.0.1.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a server may finish the requests under way before it is cut off.
const SHUTDOWN_SECONDS_MAX: u64 = 5;

/// A listener on a free port of 127.0.0.1.
pub(crate) async fn listen() -> io::Result<(TcpListener, String)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    Ok((listener, endpoint))
}

/// A server's task with the switch that ends it. Dropped, it ends at once, in the middle of a request if need be.
#[derive(Debug)]
pub(crate) struct Serving {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Spawns the server that `serve` makes of the signal to stop.
    pub(crate) fn spawn<F, S>(serve: F) -> Self
    where
        F: FnOnce(oneshot::Receiver<()>) -> S,
        S: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        Self { stop: Some(stop), task: tokio::spawn(serve(stopped)) }
    }

    /// Lets the requests under way finish, for a bounded time, and ends the server.
    pub(crate) async fn shutdown(mut self) {
        if let Some(stop) = self.stop.take() {
            // The server that has already ended has nobody to tell.
            let _ = stop.send(());
        }
        let _ = tokio::time::timeout(Duration::from_secs(SHUTDOWN_SECONDS_MAX), &mut self.task).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}
