//! The way to the API: one HTTP request at a time over the UNIX socket, bounded in time and size.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shunt_control::api::VERSION_HEADER;
use shunt_control::api::types::Problem;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::failure::Failure;

/// Longest time for an answer; the director bounds its own below that.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer, bytes: a listing of some hundred thousand servers.
const ANSWER: usize = 256 << 20;

/// Version of this command.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// A client of one director.
pub(crate) struct Client {
    socket: PathBuf,
    runtime: Runtime,
    /// Version of the director, as its last answer said.
    theirs: RefCell<Option<String>>,
}

impl Client {
    /// For the director behind `socket`. Does not connect yet.
    pub(crate) fn new(socket: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Other(format!("cannot start: {error}")))?;
        Ok(Self {
            socket: socket.to_owned(),
            runtime,
            theirs: RefCell::default(),
        })
    }

    /// `GET`.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.decode(&self.send(Method::GET, path, Bytes::new())?)
    }

    /// Another method, with a body.
    pub(crate) fn put<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::Other(format!("cannot write the request: {error}")))?;
        self.decode(&self.send(method, path, body.into())?)
    }

    /// `POST` without a body, to which nothing is answered.
    pub(crate) fn post(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::POST, path, Bytes::new()).map(|_| ())
    }

    /// `POST` of a text.
    pub(crate) fn post_text<T: DeserializeOwned>(
        &self,
        path: &str,
        text: Vec<u8>,
    ) -> Result<T, Failure> {
        self.decode(&self.send(Method::POST, path, text.into())?)
    }

    /// `GET` of a text.
    pub(crate) fn text(&self, path: &str) -> Result<String, Failure> {
        self.send(Method::GET, path, Bytes::new())
    }

    /// `DELETE`.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, Bytes::new()).map(|_| ())
    }

    fn send(&self, method: Method, path: &str, body: Bytes) -> Result<String, Failure> {
        let exchange = self.exchange(method, path, body);
        self.runtime.block_on(async {
            timeout(PATIENCE, exchange).await.unwrap_or_else(|_| {
                Err(self.silent(format!("no answer within {} seconds", PATIENCE.as_secs())))
            })
        })
    }

    /// Follows a stream of server-sent events until the director ends it, as it does after some minutes.
    pub(crate) fn follow(
        &self,
        path: &str,
        each: &mut dyn FnMut(&str, &str),
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let ask = self.ask(Method::GET, path, Bytes::new());
            let response = timeout(PATIENCE, ask)
                .await
                .unwrap_or_else(|_| Err(self.silent("no answer".to_owned())))?;
            let mut body = response.into_body();
            let (mut text, mut event, mut data) = (Vec::new(), String::new(), String::new());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| self.silent(format!("the stream broke: {e}")))?;
                text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                if text.len() > ANSWER {
                    return Err(self.silent("an event without end".to_owned()));
                }
                while let Some(end) = text.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    match line.trim_end().split_once(": ") {
                        Some(("event", name)) => name.clone_into(&mut event),
                        Some(("data", value)) => data.push_str(value),
                        None if line.trim_end().is_empty() && !data.is_empty() => {
                            each(&event, &data);
                            data.clear();
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<String, Failure> {
        let response = self.ask(method, path, body).await?;
        self.whole(response).await
    }

    /// The text of an answer. Put together as it comes: a listing may have a hundred megabytes.
    async fn whole(&self, response: Response<Incoming>) -> Result<String, Failure> {
        let mut body = Limited::new(response.into_body(), ANSWER);
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.silent(format!("the answer broke off: {e}")))?;
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        String::from_utf8(text)
            .map_err(|_| Failure::Other("the director's answer is no text".to_owned()))
    }

    /// Sends a request; what is answered is a success.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.unreachable(&error))?;
        let broken = |error: hyper::Error| self.silent(format!("the connection broke: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "shunt")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::Other(format!("cannot ask for {path}: {error}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let version = response.headers().get(VERSION_HEADER);
        let version = version.and_then(|version| version.to_str().ok());
        *self.theirs.borrow_mut() = version.map(str::to_owned);
        if version.is_none() {
            return Err(self.silent("what answers there is no director".to_owned()));
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.whole(response).await?;
        Err(match serde_json::from_str::<Problem>(&body) {
            Ok(problem) if problem.code == "no-such-path" || problem.code == "method" => {
                self.other_version().unwrap_or(Failure::Refused(problem))
            }
            Ok(problem) => Failure::Refused(problem),
            Err(_) => (self.other_version())
                .unwrap_or_else(|| Failure::Other(format!("the director answered {status}"))),
        })
    }

    fn decode<T: DeserializeOwned>(&self, body: &str) -> Result<T, Failure> {
        serde_json::from_str(body).map_err(|error| {
            self.other_version().unwrap_or_else(|| {
                Failure::Other(format!("the director's answer is not understood: {error}"))
            })
        })
    }

    /// What to say of a director that does not understand, or is not understood, if it is of another version.
    fn other_version(&self) -> Option<Failure> {
        let theirs = self.theirs.borrow();
        let other = theirs.as_deref().filter(|version| *version != OWN)?;
        Some(Failure::Other(format!(
            "the director at {} is version {other}, and this shunt is {OWN}: use the one that came with it",
            self.socket.display()
        )))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let (what, help) = match error.kind() {
            io::ErrorKind::NotFound => (
                "there is no such socket".to_owned(),
                "Is shuntd running? Another socket is named with --socket or SHUNT_SOCKET.",
            ),
            io::ErrorKind::ConnectionRefused => (
                "the socket is dead, its shuntd has gone".to_owned(),
                "Start shuntd; it replaces the dead socket.",
            ),
            io::ErrorKind::PermissionDenied => (
                "permission denied".to_owned(),
                "Run as root, or as a member of the socket's group.",
            ),
            _ => (error.to_string(), "Is it the API socket of shuntd?"),
        };
        Failure::NoDirector {
            socket: self.socket.clone(),
            what,
            help,
        }
    }

    fn silent(&self, what: String) -> Failure {
        let help = "Is it the API socket of shuntd? Its log may say more.";
        Failure::NoDirector {
            socket: self.socket.clone(),
            what,
            help,
        }
    }
}

/// A name as part of a path or query (RFC 3986, section 2): what is neither unreserved nor one of
/// the characters of addresses is escaped.
pub(crate) fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
