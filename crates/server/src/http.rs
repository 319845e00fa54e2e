//! Connections: accepting, limiting, draining.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::App;
use crate::access::Access;
use crate::routes::{Shared, router};

/// How long a request's head may take to arrive, and a connection stay open without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request, in bytes.
const HEAD_MAX: usize = 64 << 10;

/// Answers connections until `stop` is ready; then takes no more, and lets those under way end within the config's
/// `drain_timeout`.
pub async fn serve(app: Arc<App>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let on_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let access = Arc::new(Access::new(&app.config.api_keys, &app.config.cors, on_loopback));
    let router = router(Shared { app: app.clone(), access });
    let connections = Arc::new(Semaphore::new(app.config.connections_max));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accept = async {
            // Who comes too many waits in the system's queue.
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, usually: a moment later there may be some.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let connection = graceful.watch(connection(stream, router.clone()));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                report(peer, &error);
            }
            drop(permit);
        });
    }
    drop(listener);
    tracing::info!("stopping: answers under way may end");
    if tokio::time::timeout(app.config.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("some answers were cut off");
    }
}

fn connection(
    stream: TcpStream,
    router: axum::Router,
) -> http1::Connection<
    TokioIo<TcpStream>,
    impl hyper::service::HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send>,
> {
    // Tokens are small, and each is awaited by somebody.
    let _ = stream.set_nodelay(true);
    let service =
        service_fn(move |request: Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
}

/// Clients leave all the time: no news.
fn report(peer: SocketAddr, error: &dyn std::error::Error) {
    tracing::debug!(%peer, "connection ended: {error}");
}
