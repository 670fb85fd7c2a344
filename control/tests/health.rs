//! Each kind of check against a real peer on the loopback: one that answers well, one that answers
//! wrongly, nobody, one that hangs, one that floods.

use core::net::SocketAddr;
use core::time::Duration;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use shunt_control::config::{self, Machine};
use shunt_control::health::{Check, Outcome, Probe, Prober, Reason, Target};
use shunt_service::{Protocol, ServiceKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/health");

/// The check of a server with these words in its table.
fn check(protocol: &str, words: &str) -> Arc<Check> {
    let text = format!(
        "[[port]]\nname='p'\ndevice='net_null0'\n[[service]]\nprotocol='{protocol}'\n\
         vip='10.0.0.1:80'\ncheck={{{words}}}\n[[service.server]]\naddress='10.1.0.1'\n"
    );
    let config = config::parse("shunt.toml", &text, &Machine::default()).expect("a good file");
    config.services[0].servers[0]
        .check
        .clone()
        .expect("it is checked")
}

async fn ask(check: &Check, asked: SocketAddr) -> Outcome {
    let target = Target {
        service: ServiceKey::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80),
        server: "10.1.0.1:8080".parse().unwrap(),
        asked,
        by_vip: false,
    };
    let begin = Instant::now();
    let outcome = Prober::new().probe(check, &target).await;
    // Long after the timeout of any check here.
    assert!(begin.elapsed() < Duration::from_secs(20), "an attempt ends");
    outcome
}

fn reason(outcome: Outcome) -> Option<Reason> {
    outcome.err().map(|failure| failure.reason)
}

/// Serves every connection; returns where.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Answers every request with these bytes.
async fn says(answer: &'static [u8]) -> SocketAddr {
    server(move |mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await?;
        stream.write_all(answer).await
    })
    .await
}

/// Where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Accepts, and says nothing.
async fn silent() -> SocketAddr {
    server(|mut stream| async move {
        let mut request = [0; 4096];
        while stream.read(&mut request).await? > 0 {}
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tcp() {
    let check = check("tcp", "type='tcp'");
    assert_eq!(ask(&check, silent().await).await, Ok(()));
    assert_eq!(
        reason(ask(&check, nobody().await).await),
        Some(Reason::Refused)
    );
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    for words in ["type='http'", "type='grpc'", "type='https', verify=false"] {
        let check = check("tcp", &format!("{words}, timeout='200ms'"));
        assert_eq!(
            reason(ask(&check, silent().await).await),
            Some(Reason::Timeout),
            "{words}"
        );
    }
    let check = check("tcp", "type='dns', query='.', timeout='200ms'");
    assert_eq!(
        reason(ask(&check, silent().await).await),
        Some(Reason::Timeout)
    );
}

#[tokio::test]
async fn http_status_and_body() {
    let ok = says(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    let moved = says(b"HTTP/1.1 301 Moved\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await;
    let broken = says(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let plain = check("tcp", "type='http'");
    assert_eq!(ask(&plain, ok).await, Ok(()));
    assert_eq!(ask(&plain, moved).await, Ok(()));
    let failure = ask(&plain, broken).await.expect_err("a bad status");
    assert_eq!(failure.reason, Reason::Status);
    assert_eq!(failure.text, "status 503 Service Unavailable");
    assert_eq!(
        ask(&check("tcp", "type='http', status=['500-599']"), broken).await,
        Ok(())
    );
    let strict = check("tcp", "type='http', status=[200]");
    assert_eq!(reason(ask(&strict, moved).await), Some(Reason::Status));
    assert_eq!(
        ask(&check("tcp", "type='http', body='ell'"), ok).await,
        Ok(())
    );
    assert_eq!(
        ask(&check("tcp", "type='http', body_regex='^h.*o$'"), ok).await,
        Ok(())
    );
    let wrong = check("tcp", "type='http', body='elll'");
    assert_eq!(reason(ask(&wrong, ok).await), Some(Reason::Content));
    assert_eq!(
        reason(ask(&plain, nobody().await).await),
        Some(Reason::Refused)
    );
}

#[tokio::test]
async fn what_is_asked_by_http() {
    let (seen, mut asked) = tokio::sync::mpsc::channel(1);
    let address = server(move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await?;
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            let _ = seen.send(request).await;
            stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").await
        }
    })
    .await;
    let words = "type='http', method='HEAD', path='/a?b=c', host='www.example.com'";
    assert_eq!(ask(&check("tcp", words), address).await, Ok(()));
    let request = asked.recv().await.unwrap();
    assert!(request.starts_with("head /a?b=c http/1.1\r\n"), "{request}");
    assert!(
        request.contains("\r\nhost: www.example.com\r\n"),
        "{request}"
    );
    assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
    assert_eq!(ask(&check("tcp", "type='http'"), address).await, Ok(()));
    let request = asked.recv().await.unwrap();
    assert!(
        request.contains(&format!("\r\nhost: {address}\r\n")),
        "{request}"
    );
}

#[tokio::test]
async fn http_answers_that_are_none() {
    let plain = check("tcp", "type='http', timeout='2s'");
    let garbage = says(b"SSH-2.0-OpenSSH_9\r\n").await;
    assert_eq!(reason(ask(&plain, garbage).await), Some(Reason::Protocol));
    let hangs_up = says(b"").await;
    assert_eq!(reason(ask(&plain, hangs_up).await), Some(Reason::Broken));
    let cut = says(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello").await;
    assert_eq!(ask(&plain, cut).await, Ok(()), "its status is good");
    let body = check("tcp", "type='http', body='world'");
    assert_eq!(reason(ask(&body, cut).await), Some(Reason::Broken));
    // Headers and bodies without end.
    for head in [&b"HTTP/1.1 200 OK\r\nx: "[..], b"HTTP/1.1 200 OK\r\n\r\n"] {
        let flood = server(move |mut stream| async move {
            stream.write_all(head).await?;
            loop {
                stream.write_all(&[b'a'; 65536]).await?;
            }
        })
        .await;
        let failure = ask(&body, flood).await.expect_err("it has no world");
        let bounded = [Reason::Protocol, Reason::Content];
        assert!(bounded.contains(&failure.reason), "{failure}");
    }
}

fn acceptor(alpn: &[u8]) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(format!("{FOLDER}/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{FOLDER}/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn https_verifies_unless_told_not_to() {
    let acceptor = acceptor(b"http/1.1");
    let address = server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let name = stream
                .get_ref()
                .1
                .server_name()
                .unwrap_or("nobody")
                .to_owned();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await?;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                name.len()
            );
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
    })
    .await;
    let ca = format!("ca_file='{FOLDER}/ca.pem'");
    let good = format!("type='https', {ca}, host='www.example.com:8443', body='www.example.com'");
    assert_eq!(ask(&check("tcp", &good), address).await, Ok(()));
    let other_name = format!("type='https', {ca}, sni='other.example.com'");
    let failure = ask(&check("tcp", &other_name), address)
        .await
        .expect_err("another's");
    assert_eq!(failure.reason, Reason::Tls);
    let unknown = check("tcp", "type='https', sni='www.example.com'");
    let found = reason(ask(&unknown, address).await);
    // A machine may have no authorities at all.
    assert!(
        matches!(found, Some(Reason::Tls | Reason::Local)),
        "{found:?}"
    );
    let anyone = check("tcp", "type='https', verify=false, body='nobody'");
    assert_eq!(ask(&anyone, address).await, Ok(()));
    let plain = says(b"HTTP/1.1 200 OK\r\n\r\n").await;
    assert_eq!(reason(ask(&anyone, plain).await), Some(Reason::Tls));
    let no_file = check("tcp", "type='https', sni='a.b', ca_file='/no/such/file'");
    assert_eq!(reason(ask(&no_file, address).await), Some(Reason::Local));
}

/// Answers datagrams: nothing where it returns nothing.
async fn datagrams(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut request = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut request).await {
            if let Some(answer) = answer(&request[..length]) {
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn udp() {
    let echo = datagrams(|data| Some([b"you said ", data].concat())).await;
    let mute = datagrams(|_| None).await;
    let nobody = {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.local_addr().unwrap()
    };
    let any = check("udp", "type='udp', payload='ping', timeout='200ms'");
    assert_eq!(ask(&any, echo).await, Ok(()));
    assert_eq!(ask(&any, mute).await, Ok(()), "nobody refused it");
    assert_eq!(reason(ask(&any, nobody).await), Some(Reason::Refused));
    let words = "type='udp', payload_hex='70 69', expect='said pi', timeout='200ms'";
    let expect = check("udp", words);
    assert_eq!(ask(&expect, echo).await, Ok(()));
    assert_eq!(reason(ask(&expect, mute).await), Some(Reason::Timeout));
    let wrong = check("udp", "type='udp', expect='pong'");
    assert_eq!(reason(ask(&wrong, echo).await), Some(Reason::Content));
    let required = check("udp", "type='udp', require_reply=true, timeout='200ms'");
    assert_eq!(reason(ask(&required, mute).await), Some(Reason::Timeout));
}

/// What a name server says: 192.0.2.7 for every name but those with "no" in them.
fn resolve(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let asked = query.queries.first()?.clone();
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.add_query(asked.clone());
    if asked.name().to_string().contains("no") {
        answer.metadata.response_code = ResponseCode::NXDomain;
    } else {
        let data = RData::A(A::new(192, 0, 2, 7));
        answer.add_answer(Record::from_rdata(asked.name().clone(), 60, data));
    }
    answer.to_vec().ok()
}

#[tokio::test]
async fn dns_over_udp_and_tcp() {
    let udp = datagrams(resolve).await;
    let tcp = server(|mut stream| async move {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let answer = resolve(&query).unwrap_or_default();
        stream.write_u16(answer.len() as u16).await?;
        stream.write_all(&answer).await
    })
    .await;
    for (protocol, address) in [("udp", udp), ("tcp", tcp)] {
        let asked = |words: &str| {
            let check = check(protocol, &format!("type='dns', timeout='5s', {words}"));
            async move { ask(&check, address).await }
        };
        assert_eq!(asked("query='www.example.com'").await, Ok(()));
        assert_eq!(
            asked("query='www.example.com', answer='192.0.2.7'").await,
            Ok(())
        );
        let other = asked("query='www.example.com', answer='192.0.2.8'").await;
        assert_eq!(reason(other), Some(Reason::Content));
        assert_eq!(
            reason(asked("query='no.example.com'").await),
            Some(Reason::Status)
        );
        assert_eq!(
            asked("query='no.example.com', rcode='NXDOMAIN'").await,
            Ok(())
        );
    }
}

#[tokio::test]
async fn dns_answers_that_are_none() {
    let query = "type='dns', query='www.example.com', timeout='300ms'";
    let query = check("udp", query);
    // Of another query: it is not heard.
    let other = datagrams(|query| {
        let mut answer = resolve(query)?;
        answer[0] ^= 1;
        Some(answer)
    })
    .await;
    assert_eq!(reason(ask(&query, other).await), Some(Reason::Timeout));
    let echo = datagrams(|query| Some(query.to_vec())).await;
    assert_eq!(reason(ask(&query, echo).await), Some(Reason::Protocol));
    for cut in [3, 12, 20, 40] {
        let cut = datagrams(move |query| Some(resolve(query)?.get(..cut)?.to_vec())).await;
        assert_eq!(reason(ask(&query, cut).await), Some(Reason::Protocol));
    }
}

#[tokio::test]
async fn grpc_health() {
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status("good", serving).await;
    let not = tonic_health::ServingStatus::NotServing;
    reporter.set_service_status("bad", not).await;
    let (plain, acceptor) = (health.clone(), acceptor(b"h2"));
    let serve = |health| TowerToHyperService::new(health);
    let address = server(move |stream| {
        let service = serve(plain.clone());
        async move {
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let served = http2.serve_connection(TokioIo::new(stream), service).await;
            served.map_err(io::Error::other)
        }
    })
    .await;
    let serve = |health| TowerToHyperService::new(health);
    let secure = server(move |stream| {
        let (service, acceptor) = (serve(health.clone()), acceptor.clone());
        async move {
            let stream = acceptor.accept(stream).await?;
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let served = http2.serve_connection(TokioIo::new(stream), service).await;
            served.map_err(io::Error::other)
        }
    })
    .await;
    let with = |words: &str| check("tcp", &format!("type='grpc', {words}"));
    assert_eq!(ask(&with("grpc_service='good'"), address).await, Ok(()));
    assert_eq!(ask(&with("host='a.example'"), address).await, Ok(()));
    let bad = ask(&with("grpc_service='bad'"), address)
        .await
        .expect_err("it says so");
    assert_eq!(
        (bad.reason, &*bad.text),
        (Reason::Status, "it says NOT_SERVING")
    );
    let unknown = ask(&with("grpc_service='unknown'"), address).await;
    assert_eq!(reason(unknown), Some(Reason::Status));
    let tls = format!("tls=true, sni='www.example.com', ca_file='{FOLDER}/ca.pem'");
    assert_eq!(ask(&with(&tls), secure).await, Ok(()));
    assert_eq!(reason(ask(&with(&tls), address).await), Some(Reason::Tls));
    let http1 = says(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let found = reason(ask(&with("timeout='2s'"), http1).await);
    assert!(
        matches!(found, Some(Reason::Protocol | Reason::Broken)),
        "{found:?}"
    );
}

#[tokio::test]
async fn ping() {
    let check = check("tcp", "type='icmp', timeout='500ms'");
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let outcome = ask(&check, address.parse().unwrap()).await;
        if reason(outcome.clone()) == Some(Reason::Local) {
            eprintln!("skipped: {outcome:?}");
            continue;
        }
        assert_eq!(outcome, Ok(()), "{address}");
    }
}

fn program(words: &[&str], timeout: &str) -> Arc<Check> {
    check(
        "tcp",
        &format!("type='exec', command={words:?}, timeout='{timeout}'"),
    )
}

const NOWHERE: &str = "0.0.0.0:0";

#[tokio::test]
async fn programs() {
    let nowhere = NOWHERE.parse().unwrap();
    assert_eq!(ask(&program(&["/bin/true"], "5s"), nowhere).await, Ok(()));
    let script = "echo first; echo $SHUNT_PROTOCOL $SHUNT_VIP:$SHUNT_VIP_PORT \
                  $SHUNT_SERVER:$SHUNT_SERVER_PORT $1 $HOME >&2; exit 3";
    let failed = ask(
        &program(&["/bin/sh", "-c", script, "sh", "a b"], "5s"),
        nowhere,
    )
    .await;
    let failure = failed.expect_err("status 3");
    assert_eq!(failure.reason, Reason::Exit);
    assert_eq!(
        failure.text,
        "exit status: 3: tcp 10.0.0.1:80 10.1.0.1:8080 a b"
    );
    let killed = ask(&program(&["/bin/sh", "-c", "kill -9 $$"], "5s"), nowhere).await;
    assert_eq!(killed.expect_err("a signal").text, "signal: 9 (SIGKILL)");
    let missing = ask(&program(&["/no/such/program"], "5s"), nowhere).await;
    assert_eq!(reason(missing), Some(Reason::Local));
}

/// Whether a process lives, zombies aside.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = format!(
        "sleep 1000 & echo $! > {0}; echo $$ >> {0}; wait",
        file.display()
    );
    let check = program(&["/bin/sh", "-c", &script], "500ms");
    assert_eq!(
        reason(ask(&check, NOWHERE.parse().unwrap()).await),
        Some(Reason::Timeout)
    );
    let pids = std::fs::read_to_string(file).unwrap();
    assert_eq!(pids.lines().count(), 2);
    let gone = async {
        while pids.lines().any(lives) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("they are killed");
}

#[tokio::test]
async fn a_program_that_floods_costs_little_and_one_that_leaves_somebody_behind_does_not_hang() {
    let nowhere = NOWHERE.parse().unwrap();
    let flood = program(&["/bin/sh", "-c", "exec yes"], "500ms");
    let before = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    assert_eq!(reason(ask(&flood, nowhere).await), Some(Reason::Timeout));
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let spent = Duration::try_from(after - before).unwrap();
    assert!(spent < Duration::from_millis(250), "{spent:?} of 500 ms");
    // Its child holds the pipe open.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!(
        "sleep 1000 & echo $! > {}; echo done; exit 0",
        file.display()
    );
    assert_eq!(
        ask(&program(&["/bin/sh", "-c", &script], "10s"), nowhere).await,
        Ok(())
    );
    let left: i32 = std::fs::read_to_string(file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(left).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
