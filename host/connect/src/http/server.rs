//! Listens, and serves each connection within bounds.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::answer::Intake;
use crate::ConnectorError;

/// How many connections may be open.
const CONNECTIONS_MAX: usize = 1024;
/// How long a request's head may take, or a connection may be idle.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How much of a head is held.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long requests may go on when the source is closed.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken, as where there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long an address may still be an earlier server's of this process.
const BIND_MAX: Duration = Duration::from_secs(2);

/// A server, running. Dropped, it is cut off.
#[derive(Debug)]
pub(super) struct Server {
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens at an address.
    pub async fn start(listen: &str, intake: Arc<Intake>) -> Result<Self, ConnectorError> {
        let refused = |e: std::io::Error| {
            let todo = match e.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another process or pipeline has it: set `listen` to another address, or stop the other"
                }
                std::io::ErrorKind::PermissionDenied => "set `listen` to a port above 1023, or grant it",
                _ => "set `listen` to an address of this machine, as 127.0.0.1:8088",
            };
            ConnectorError::Fatal(format!("can't listen on {listen} for messages: {e}; {todo}"))
        };
        let since = tokio::time::Instant::now();
        let listener = loop {
            match TcpListener::bind(listen).await {
                Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && since.elapsed() < BIND_MAX => {
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
                bound => break bound.map_err(refused)?,
            }
        };
        let address = listener.local_addr().map_err(refused)?;
        tracing::info!(%address, path = %intake.path, "messages are taken by HTTP POST");
        if intake.token.is_none() && !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "anyone who reaches this address can send messages: set `token_file`, and put a proxy with TLS before it"
            );
        }
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, intake, stopped));
        Ok(Self { address, stop, task })
    }

    /// Takes no more connections, and lets requests finish within a bound.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        // It ends of itself; a panic was told.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, intake: Arc<Intake>, stopped: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = stopped.clone();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept(&listener, &slots) => {
                if let Some((stream, slot)) = accepted {
                    let (intake, stopped) = (Arc::clone(&intake), stopped.clone());
                    connections.spawn(async move {
                        connection(stream, intake, stopped).await;
                        drop(slot);
                    });
                }
            }
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_MAX, finish).await.is_err() {
        tracing::warn!("requests that did not finish are cut off: nobody was told that they are taken");
        connections.shutdown().await;
    }
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be taken");
            tokio::time::sleep(ACCEPT_AGAIN).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, intake: Arc<Intake>, mut stopped: watch::Receiver<bool>) {
    // Answers are short; what the option's failure would cost is time only.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let intake = Arc::clone(&intake);
        async move { Ok::<_, Infallible>(intake.answer(request.map(Body::new)).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // The sender may be gone: then this ends as well.
    let stop = async { stopped.wait_for(|stop| *stop).await.map_or((), drop) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
