//! gRPC health: one call of `grpc.health.v1.Health/Check` over HTTP/2, by tonic's client on a
//! connection of its own.

use core::future::Future;
use core::net::SocketAddr;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::check::Grpc;
use super::failure::{Failure, Reason};
use super::http::broken;
use super::probe::{Asked, Outcome, connect};
use super::tls;

/// Longest answer, bytes: it has one number in it.
const ANSWER: usize = 4096;

pub(super) async fn ask(grpc: &Grpc, asked: Asked, config: Option<Arc<ClientConfig>>) -> Outcome {
    let stream = connect(asked).await?;
    let (to, _) = asked;
    match grpc.tls.as_ref().zip(config) {
        Some((tls, config)) => {
            let stream = tls::handshake(stream, tls, config).await?;
            exchange(grpc, to, stream).await
        }
        None => exchange(grpc, to, stream).await,
    }
}

async fn exchange<S>(grpc: &Grpc, to: SocketAddr, stream: S) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let host = grpc.host.clone().unwrap_or_else(|| to.to_string());
    let origin = http::Uri::builder()
        .scheme(if grpc.tls.is_some() { "https" } else { "http" })
        .authority(host)
        .path_and_query("/")
        .build()
        .map_err(|error| Failure::new(Reason::Local, error))?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let mut client =
        HealthClient::with_origin(Connection(sender), origin).max_decoding_message_size(ANSWER);
    let request = HealthCheckRequest {
        service: grpc.service.clone(),
    };
    let mut connection = pin!(connection);
    let mut asked = pin!(async move { client.check(request).await });
    let answer = tokio::select! {
        answer = &mut asked => answer,
        ended = &mut connection => {
            ended.map_err(|error| broken(&error))?;
            asked.await
        }
    };
    match answer {
        Ok(answer) => match answer.get_ref().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(Failure::new(
                Reason::Status,
                format_args!("it says {}", other.as_str_name()),
            )),
        },
        Err(status) => {
            use core::error::Error;
            let lost = status.source().is_some();
            let reason = if lost { Reason::Broken } else { Reason::Status };
            let text = format_args!("gRPC {:?}: {}", status.code(), status.message());
            Err(Failure::new(reason, text))
        }
    }
}

/// A connection as tonic calls it.
struct Connection(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
