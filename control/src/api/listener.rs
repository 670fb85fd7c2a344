//! The API by TCP on loopback: for programs that cannot use a UNIX socket, such as Prometheus. Every user of
//! the machine can connect, so every request has to show a token.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

use crate::config::Listen;

use super::problem::Problem;

/// Characters of a token, at least and at most.
const LENGTH: core::ops::RangeInclusive<usize> = 16..=4096;

/// Why the API cannot be served by TCP.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ListenError {
    /// The token's file cannot be read.
    #[error("[daemon] token_file {0}: {1}")]
    #[diagnostic(help("make it: openssl rand -hex 32 > FILE; chmod 600 FILE"))]
    Token(PathBuf, io::Error),
    /// Others may read it.
    #[error("[daemon] token_file {0} may be read by every user of the machine")]
    #[diagnostic(help("chmod o= FILE"))]
    Open(PathBuf),
    /// It is none.
    #[error(
        "[daemon] token_file {0} has no token: one line of 16 to 4096 printable characters without spaces"
    )]
    #[diagnostic(help("make one: openssl rand -hex 32 > FILE"))]
    NoToken(PathBuf),
    /// The system refused the address.
    #[error("[daemon] listen = \"{0}\": {1}")]
    #[diagnostic(help("choose another port, or stop who uses this one"))]
    Bind(SocketAddr, io::Error),
}

/// A listening TCP socket, and the token that it takes.
#[derive(Debug)]
pub struct Listener {
    listener: std::net::TcpListener,
    token: Arc<str>,
}

impl Listener {
    /// Reads the token and listens.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let token = token(&listen.token_file)?;
        let bind = || {
            let listener = std::net::TcpListener::bind(listen.address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| ListenError::Bind(listen.address, error))?;
        Ok(Self { listener, token })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// From the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The listener for tokio, and the router that asks for the token.
    pub(super) fn listener(self, router: Router) -> io::Result<(tokio::net::TcpListener, Router)> {
        let guard = middleware::from_fn_with_state(self.token, authorised);
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        Ok((listener, router.layer(guard)))
    }
}

fn token(file: &PathBuf) -> Result<Arc<str>, ListenError> {
    let unreadable = |error| ListenError::Token(file.clone(), error);
    let meta = fs::metadata(file).map_err(unreadable)?;
    if meta.mode() & 0o007 != 0 {
        return Err(ListenError::Open(file.clone()));
    }
    if !meta.is_file() || meta.len() > 2 * *LENGTH.end() as u64 {
        return Err(ListenError::NoToken(file.clone()));
    }
    let text = fs::read_to_string(file).map_err(unreadable)?;
    let token = text.trim();
    if !LENGTH.contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ListenError::NoToken(file.clone()));
    }
    Ok(token.into())
}

/// Lets a request pass that shows the token (RFC 6750, section 2.1).
async fn authorised(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    if shows(request.headers(), &token) {
        return next.run(request).await;
    }
    let detail = "this port takes requests with `Authorization: Bearer TOKEN`, and the token of [daemon] token_file";
    let mut answer = Problem::new(StatusCode::UNAUTHORIZED, "token", detail).into_response();
    let realm = HeaderValue::from_static("Bearer realm=\"shunt\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, realm);
    answer
}

fn shows(headers: &HeaderMap, token: &str) -> bool {
    let Some(shown) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else {
        return false;
    };
    let Some((scheme, shown)) = shown.split_at_checked(7) else {
        return false;
    };
    // The time it takes must not tell how much of the token was right.
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(shown.ct_eq(token.as_bytes()))
}
