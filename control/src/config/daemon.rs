//! `[daemon]`: the name of the instance, and how its API is reached.

use core::net::SocketAddr;
use std::path::PathBuf;

use super::mistake::Mistake;
use super::model::{Daemon, Listen};
use super::node::Node;
use super::read::{Table, Wrong};
use super::words;

pub(super) fn daemon(table: Option<Table<'_>>) -> Daemon {
    let mut daemon = Daemon {
        socket: "/run/shunt/shunt.sock".into(),
        socket_mode: 0o660,
        socket_owner: None,
        socket_group: None,
        listen: None,
        name: "shunt".to_owned(),
    };
    let Some(mut table) = table else {
        return daemon;
    };
    if let Some(socket) = table.get("socket", socket_path) {
        daemon.socket = socket;
    }
    if let Some(mode) = table.get("socket_mode", socket_mode) {
        daemon.socket_mode = mode;
    }
    daemon.socket_owner = table.get("socket_owner", words::plain);
    daemon.socket_group = table.get("socket_group", words::plain);
    if let Some(name) = table.get("name", instance_name) {
        daemon.name = name;
    }
    daemon.listen = listen(&mut table);
    table.finish();
    daemon
}

/// `listen` and `token_file`, which need one another.
fn listen(table: &mut Table<'_>) -> Option<Listen> {
    let listen = table.placed("listen", loopback);
    let token = table.placed("token_file", absolute_path);
    let (what, help, place) = match (&listen, &token) {
        (Some((_, place)), None) if !table.has("token_file") => (
            "`listen` without `token_file`: every user of this machine could reach the API",
            "token_file = \"/etc/shunt/token\", a file with a secret of 16 characters or more",
            *place,
        ),
        (None, Some((_, place))) if !table.has("listen") => (
            "`token_file` without `listen`: the UNIX socket needs no token",
            "listen = \"127.0.0.1:9790\", or leave it out",
            *place,
        ),
        _ => {
            let ((address, _), (token_file, _)) = (listen?, token?);
            return Some(Listen {
                address,
                token_file,
            });
        }
    };
    table.mistakes().add(Mistake::new(place, what).help(help));
    None
}

/// A loopback address and a port.
fn loopback(node: &Node) -> Result<SocketAddr, Wrong> {
    const HELP: &str = "an address of this machine alone and a port: \"127.0.0.1:9790\"; for others put a \
                        proxy with TLS before it";
    let typed = words::plain(node)?;
    let address: SocketAddr = typed
        .parse()
        .map_err(|_| Wrong::new(format!("\"{}\"", words::shown(&typed)), HELP))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(Wrong::new(format!("{address} is not loopback"), HELP))
    }
}

/// Mode bits in octal, as `chmod` takes them.
fn socket_mode(node: &Node) -> Result<u32, Wrong> {
    let typed = words::plain(node)?;
    match u32::from_str_radix(&typed, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(Wrong::new(
            format!("\"{}\" is no mode", words::shown(&typed)),
            "three octal digits: \"0660\"",
        )),
    }
}

fn absolute_path(node: &Node) -> Result<PathBuf, Wrong> {
    let path = words::plain(node)?;
    if path.starts_with('/') {
        Ok(path.into())
    } else {
        Err(Wrong::new("a relative path", "an absolute one"))
    }
}

/// An absolute path that fits into `sockaddr_un`.
fn socket_path(node: &Node) -> Result<PathBuf, Wrong> {
    let path = words::plain(node)?;
    if !path.starts_with('/') {
        return Err(Wrong::new(
            "a relative path",
            "an absolute one: \"/run/shunt/shunt.sock\"",
        ));
    }
    if path.len() > 100 {
        return Err(Wrong::new(
            "too long for a socket's path",
            "at most 100 bytes",
        ));
    }
    Ok(path.into())
}

/// The name goes into file names and interface names.
fn instance_name(node: &Node) -> Result<String, Wrong> {
    let name = words::plain(node)?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.len() > 12 || !name.chars().all(good) {
        let what = format!("\"{}\" cannot name an instance", words::shown(&name));
        return Err(Wrong::new(what, "1 to 12 letters, digits, - or _"));
    }
    Ok(name)
}
