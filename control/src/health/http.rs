//! HTTP and HTTPS: one HTTP/1.1 request on a connection of its own; status and body are judged.

use core::net::SocketAddr;
use core::pin::pin;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use super::check::Http;
use super::failure::{Failure, Reason};
use super::probe::{Asked, Outcome, connect};
use super::tls;

/// Most of a body that is read, and most that the headers may be, bytes.
const BODY: usize = 64 << 10;

pub(super) async fn ask(http: &Http, asked: Asked, config: Option<Arc<ClientConfig>>) -> Outcome {
    let stream = connect(asked).await?;
    let (to, _) = asked;
    match http.tls.as_ref().zip(config) {
        Some((tls, config)) => {
            let stream = tls::handshake(stream, tls, config).await?;
            exchange(http, to, stream).await
        }
        None => exchange(http, to, stream).await,
    }
}

async fn exchange<S>(http: &Http, to: SocketAddr, stream: S) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = http.host.clone().unwrap_or_else(|| to.to_string());
    let request = Request::builder()
        .method(http.method)
        .uri(&http.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("shunt/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::new(Reason::Local, error))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(BODY)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let mut connection = pin!(connection);
    let mut judged = pin!(async {
        let response = sender.send_request(request).await;
        judge(http, response.map_err(|error| broken(&error))?).await
    });
    tokio::select! {
        outcome = &mut judged => return outcome,
        // What it had is handed over, its error as well.
        _ = &mut connection => {}
    }
    judged.await
}

async fn judge(http: &Http, response: Response<Incoming>) -> Outcome {
    let status = response.status();
    if !http
        .status
        .iter()
        .any(|good| good.contains(&status.as_u16()))
    {
        return Err(Failure::new(
            Reason::Status,
            format_args!("status {status}"),
        ));
    }
    let Some(wanted) = &http.body else {
        return Ok(());
    };
    let mut body = response.into_body();
    let mut read = Vec::new();
    while read.len() < BODY {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(|error| broken(&error))?;
        if let Some(data) = frame.data_ref() {
            let room = BODY - read.len();
            read.extend_from_slice(data.get(..room).unwrap_or(data));
        }
    }
    if wanted.is_in(&read) {
        return Ok(());
    }
    let begin = String::from_utf8_lossy(read.get(..100).unwrap_or(&read));
    let text = format_args!("the body does not have what it should; it begins \"{begin}\"");
    Err(Failure::new(Reason::Content, text))
}

/// From an error of a connection.
pub(super) fn broken(error: &hyper::Error) -> Failure {
    use core::error::Error;
    // A request that was never sent has the connection's error within its own.
    let mut last = error;
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return tls::broken("HTTP", io);
        }
        last = inner.downcast_ref().unwrap_or(last);
        cause = inner.source();
    }
    let reason = if last.is_incomplete_message() || last.is_closed() || last.is_canceled() {
        Reason::Broken
    } else {
        Reason::Protocol
    };
    Failure::new(reason, format_args!("HTTP: {last}"))
}
