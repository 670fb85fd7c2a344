//! One attempt of a check: opens what it needs, asks, judges the answer, within the check's
//! timeout. Whatever a server does, an attempt ends then and takes all it had with it: nothing of
//! it is spawned, so that to drop it is to end it.
//!
//! The sockets are ordinary ones of the director's host: packets go by the kernel's routes
//! through the mirror, and their source is what the kernel chooses.

use core::future::Future;
use core::net::SocketAddr;
use core::pin::Pin;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ClientConfig;
use shunt_service::ServiceKey;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::check::{Check, Kind, Tls};
use super::failure::{Failure, Reason};
use super::{dns, exec, grpc, http, icmp, tls, udp};

/// Where a connection goes, and whether it is to have a port of the host for itself.
pub(super) type Asked = (SocketAddr, bool);

/// What an attempt found.
pub type Outcome = Result<(), Failure>;

/// Whom a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The service.
    pub service: ServiceKey,
    /// The server as configured; port 0 where it has the client's.
    pub server: SocketAddr,
    /// Where the check goes; without meaning for a program.
    pub asked: SocketAddr,
    /// That is a probe address: by its port the host's end of the connection must be told from others.
    pub by_vip: bool,
}

/// Makes attempts. The real one is [`Prober`]; tests have their own.
pub trait Probe: Send + Sync {
    /// Makes one attempt, within the check's timeout.
    fn probe<'a>(
        &'a self,
        check: &'a Check,
        target: &'a Target,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

    /// Files that attempts need are read again when they are needed next.
    fn forget(&self) {}
}

/// Most programs that run at a time.
const PROGRAMS: usize = 128;
/// Descriptors that are left to others: API, netlink, devices.
const OTHERS: u64 = 256;

/// What all attempts share.
pub struct Prober {
    /// Room for attempts with a socket, by descriptors.
    sockets: Semaphore,
    /// Room for programs.
    programs: Semaphore,
    tls: Mutex<HashMap<TlsKey, Arc<ClientConfig>>>,
}

/// Whether the certificate is verified, by whom, and whether it is HTTP/2.
type TlsKey = (bool, Option<PathBuf>, bool);

impl Prober {
    /// Takes as many descriptors as the process may have: the soft limit becomes the hard one.
    pub fn new() -> Self {
        Self {
            sockets: Semaphore::new(descriptors()),
            programs: Semaphore::new(PROGRAMS),
            tls: Mutex::new(HashMap::new()),
        }
    }

    /// A place for an attempt. It is waited for only where there are more attempts at a time than
    /// descriptors.
    async fn place(&self, kind: &Kind) -> Option<SemaphorePermit<'_>> {
        let room = match kind {
            Kind::Exec(_) => &self.programs,
            _ => &self.sockets,
        };
        // Never closed.
        room.acquire().await.ok()
    }

    fn tls(&self, tls: &Tls, http2: bool) -> Result<Arc<ClientConfig>, Failure> {
        let key = (tls.verify, tls.ca_file.clone(), http2);
        if let Some(known) = self.tls.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let alpn: &[&[u8]] = if http2 { &[b"h2"] } else { &[b"http/1.1"] };
        let made = Arc::new(tls::config(tls, alpn)?);
        self.tls.lock().insert(key, Arc::clone(&made));
        Ok(made)
    }

    async fn attempt(&self, check: &Check, target: &Target) -> Outcome {
        let asked = (target.asked, target.by_vip);
        match &check.kind {
            Kind::Tcp => connect(asked).await.map(drop),
            Kind::Http(http) => {
                let config = http.tls.as_ref().map(|tls| self.tls(tls, false));
                http::ask(http, asked, config.transpose()?).await
            }
            Kind::Grpc(grpc) => {
                let config = grpc.tls.as_ref().map(|tls| self.tls(tls, true));
                grpc::ask(grpc, asked, config.transpose()?).await
            }
            Kind::Dns(dns) => dns::ask(dns, asked).await,
            Kind::Udp(udp) => udp::ask(udp, target.asked).await,
            Kind::Icmp => icmp::ask(target.asked.ip()).await,
            Kind::Exec(exec) => exec::run(exec, target).await,
        }
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe for Prober {
    fn forget(&self) {
        self.tls.lock().clear();
    }

    fn probe<'a>(
        &'a self,
        check: &'a Check,
        target: &'a Target,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let _place = self.place(&check.kind).await;
            match timeout(check.timeout, self.attempt(check, target)).await {
                Ok(outcome) => outcome,
                // Nobody refused the datagram, and no more was asked for.
                Err(_) if matches!(&check.kind, Kind::Udp(udp) if !udp.require_reply) => Ok(()),
                Err(_) => {
                    let text = format_args!("no answer within {:?}", check.timeout);
                    Err(Failure::new(Reason::Timeout, text))
                }
            }
        })
    }
}

/// How many attempts may have a socket at a time.
fn descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let most = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    let most = most.unwrap_or(1 << 16).saturating_sub(OTHERS);
    usize::try_from(most)
        .unwrap_or(usize::MAX)
        .clamp(16, 1 << 16)
}

/// A connection, which has a port of the host for itself if `alone`. It is closed as usual when it is
/// dropped.
pub(super) async fn connect((to, alone): Asked) -> Result<TcpStream, Failure> {
    let failed = |error: std::io::Error| Failure::io("connect", &error);
    if !alone {
        return TcpStream::connect(to).await.map_err(failed);
    }
    // The kernel gives one port to connections to different addresses, unless they are bound before.
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(failed)?;
    socket.bind(any(to)).map_err(failed)?;
    socket.connect(to).await.map_err(failed)
}

/// Whatever address and port of the host.
fn any(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (core::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (core::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// A UDP socket that hears of errors from `to` and of nobody else.
pub(super) async fn datagrams(to: SocketAddr) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind(any(to))
        .await
        .map_err(|error| Failure::io("bind", &error))?;
    let connected = socket.connect(to).await;
    connected.map_err(|error| Failure::io("connect", &error))?;
    Ok(socket)
}
