//! Who may speak to the API: the socket's mode and owner, the token of TCP.

use core::net::SocketAddr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use shunt_control::api::{Access, ListenError, Listener, Socket, SocketError, types};
use shunt_control::config::{Daemon, Listen};

use crate::lab::{Lab, TOKEN};

#[test]
fn the_socket_is_private_and_never_taken_from_a_living_daemon() {
    let lab = Lab::start();
    let mode = std::fs::metadata(lab.socket())
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(
        Socket::bind(&lab.socket()),
        Err(SocketError::InUse(_))
    ));
    assert_eq!(lab.get::<types::Status>("/v1/status").services, 1);
}

#[test]
fn a_dead_socket_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("the folder is ours"));
    assert!(dead.exists());
    let socket = Socket::bind(&dead).expect("nobody listens");
    // Somebody else's by now: it is not removed.
    std::fs::remove_file(&dead).expect("it is ours");
    std::fs::write(&dead, "precious").expect("the folder is ours");
    drop(socket);
    assert!(dead.exists());
    assert!(matches!(Socket::bind(&dead), Err(SocketError::NoSocket(_))));

    let made = folder.path().join("run/shunt.sock");
    drop(Socket::bind(&made).expect("the folder is made"));
    assert!(
        !Path::new(made.parent().expect("it has one")).exists(),
        "and goes again"
    );
}

#[test]
fn the_socket_gets_its_mode_and_owner_before_anyone_can_connect() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s.sock");
    let access = |mode, group: Option<&str>| {
        let daemon = Daemon {
            socket: path.clone(),
            socket_mode: mode,
            socket_owner: None,
            socket_group: group.map(str::to_owned),
            listen: None,
            name: "shunt".to_owned(),
        };
        Access::of(&daemon)
    };
    let socket =
        Socket::bind_for(&path, access(0o666, None).expect("no name")).expect("it is ours");
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
    };
    assert_eq!(mode(&path) & 0o777, 0o666);
    drop(socket);
    let group = access(0o660, Some("daemon")).expect("Debian has it");
    assert!(group.group.is_some());
    match Socket::bind_for(&path, group) {
        Ok(_socket) => {
            use std::os::unix::fs::MetadataExt;
            let meta = std::fs::metadata(&path).expect("it is there");
            assert_eq!(
                (Some(meta.gid()), meta.mode() & 0o777),
                (group.group, 0o660)
            );
        }
        // Only root can give a socket away; nothing is left behind.
        Err(SocketError::System { .. }) => assert!(!path.exists()),
        Err(error) => panic!("{error}"),
    }
    let unknown = access(0o660, Some("no-such-group"));
    assert!(matches!(unknown, Err(SocketError::NoSuch { .. })));
    assert_eq!(
        access(0o660, Some("4711")).expect("a number").group,
        Some(4711)
    );
}

/// Status of a request by TCP with this `authorization`.
fn by_tcp(lab: &Lab, authorization: &str) -> u16 {
    let mut stream = std::net::TcpStream::connect(lab.tcp).expect("it listens");
    let request = format!(
        "GET /v1/status HTTP/1.1\r\nhost: shunt\r\nconnection: close\r\n{authorization}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.expect("a status");
    assert_eq!(status == 200, answer.contains("\"workers\""), "{answer}");
    assert_eq!(
        status == 401,
        answer.to_lowercase().contains("www-authenticate")
    );
    status
}

#[test]
fn tcp_wants_the_token_and_nothing_less() {
    let lab = Lab::start();
    for good in ["Authorization: Bearer", "authorization: bearer"] {
        assert_eq!(by_tcp(&lab, &format!("{good} {TOKEN}\r\n")), 200);
    }
    let less = &TOKEN[..TOKEN.len() - 1];
    for bad in [
        String::new(),
        "authorization: Bearer\r\n".to_owned(),
        "authorization: Bearer \r\n".to_owned(),
        format!("authorization: Bearer {less}\r\n"),
        format!("authorization: Bearer {TOKEN}x\r\n"),
        format!("authorization: Basic {TOKEN}\r\n"),
        format!("authorization: {TOKEN}\r\n"),
        format!("x-token: Bearer {TOKEN}\r\n"),
    ] {
        assert_eq!(by_tcp(&lab, &bad), 401, "{bad}");
    }
    // The UNIX socket is guarded by its mode alone.
    assert_eq!(lab.ask("GET", "/v1/status", None).0, 200);
}

#[test]
fn a_token_that_guards_nothing_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let bind = |text: &str, mode: u32| {
        std::fs::write(&file, text).expect("it can be written");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&file, mode).expect("it is ours");
        Listener::bind(&Listen {
            address,
            token_file: file.clone(),
        })
    };
    assert!(bind("0123456789abcdef\n", 0o640).is_ok());
    for short in ["", "\n", "0123456789abcde", "two words of some length"] {
        assert!(
            matches!(bind(short, 0o600), Err(ListenError::NoToken(_))),
            "{short:?}"
        );
    }
    let open = bind("0123456789abcdef", 0o644);
    assert!(matches!(open, Err(ListenError::Open(_))));
    let missing = Listener::bind(&Listen {
        address,
        token_file: folder.path().join("no"),
    });
    assert!(matches!(missing, Err(ListenError::Token(..))));
}
