//! The mirror's TAP in real network namespaces.

mod namespace;

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use namespace::inside;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::CapabilitySet;
use shunt_control::tap::holder::{self, Holder};
use shunt_control::tap::{Error, Tap, TapConfig};

const MAC: [u8; 6] = [2, 0, 0, 0, 0x10, 1];

fn config(name: &str) -> TapConfig {
    TapConfig {
        name: name.to_owned(),
        mac: MAC,
        mtu: 1400,
    }
}

/// The next frame that the kernel sends and `want` accepts.
fn read(tap: &Tap, want: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut frame = vec![0; 2000];
    for _ in 0..100 {
        match rustix::io::read(tap, &mut frame[..]) {
            Ok(length) if want(&frame[..length]) => {
                frame.truncate(length);
                return frame;
            }
            Ok(_) => {}
            Err(_) => {
                let mut fds = [PollFd::new(tap, PollFlags::IN)];
                let patience = Timespec {
                    tv_sec: 5,
                    tv_nsec: 0,
                };
                assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "no frame");
            }
        }
    }
    panic!("not the frame that was looked for");
}

#[test]
fn is_made_as_asked_and_removed_with_its_value() {
    inside(|ns| {
        let tap = Tap::open(&config("smt0")).unwrap();
        assert!(tap.created());
        assert_eq!(tap.name(), "smt0");
        let link = ns.ip("-d -o link show smt0");
        for word in [
            "UP",
            "LOWER_UP",
            "mtu 1400",
            "02:00:00:00:10:01",
            "persist on",
            "multi_queue",
            "vnet_hdr off",
        ] {
            assert!(link.contains(word), "{word}: {link}");
        }
        assert!(link.starts_with(&format!("{}:", tap.index())));
        drop(tap);
        assert!(!ns.ip("-o link show").contains("smt0"));
    });
}

#[test]
fn one_that_was_left_is_taken_over_with_its_addresses() {
    inside(|ns| {
        let mut tap = Tap::open(&config("smt0")).unwrap();
        tap.remove_on_drop(false);
        let index = tap.index();
        drop(tap);
        ns.ip("addr add 10.1.1.1/24 dev smt0");
        let other = TapConfig {
            mtu: 9000,
            ..config("smt0")
        };
        let mut tap = Tap::open(&other).unwrap();
        assert!(!tap.created());
        assert_eq!(tap.index(), index);
        assert!(ns.ip("addr show smt0").contains("10.1.1.1/24"));
        assert!(ns.ip("link show smt0").contains("mtu 9000"));
        // A start that fails now leaves it as it was found; a clean stop removes it.
        drop(tap);
        tap = Tap::open(&other).unwrap();
        tap.remove_on_drop(true);
        drop(tap);
        assert!(!ns.ip("-o link show").contains("smt0"));
    });
}

#[test]
fn a_holder_keeps_the_carrier_and_gets_no_frames() {
    inside(|ns| {
        let mut tap = Tap::open(&config("smt0")).unwrap();
        ns.ip("addr add 10.1.1.1/24 dev smt0");
        let holder = tap.holder().unwrap();
        tap.remove_on_drop(false);
        drop(tap);
        assert!(ns.ip("link show smt0").contains("LOWER_UP"));
        let tap = Tap::open(&config("smt0")).unwrap();
        for host in 2..30 {
            ns.exec(&format!("ping -c1 -W0.01 10.1.1.{host}"));
            read(&tap, |f| f[12..14] == [8, 6] && f[41] == host);
        }
        assert!(rustix::io::read(&holder, &mut [0; 2000][..]).is_err());
        tap.remove().unwrap();
        assert!(
            !ns.ip("-o link show").contains("smt0"),
            "removed although it is held"
        );
    });
}

#[test]
fn frames_come_with_their_checksums() {
    inside(|ns| {
        let tap = Tap::open(&config("smt0")).unwrap();
        ns.ip("addr add 10.1.1.1/24 dev smt0");
        ns.ip("neigh add 10.1.1.2 lladdr 02:00:00:00:00:02 dev smt0");
        let socket = std::net::UdpSocket::bind("10.1.1.1:0").unwrap();
        let data = [0x5a; 3000];
        for length in [1, 100, 1372, 3000] {
            socket.send_to(&data[..length], "10.1.1.2:53").unwrap();
        }
        for length in [1, 100, 1372] {
            let frame = read(&tap, |f| f[12..14] == [8, 0] && f[23] == 17);
            assert_eq!(frame.len(), 14 + 20 + 8 + length);
            shunt_sim::frame::ip_of_frame(&frame)
                .unwrap()
                .verify()
                .unwrap();
        }
        let first = read(&tap, |f| f[12..14] == [8, 0]);
        assert!(first.len() <= 1414, "fragmented, not left to be segmented");
        let stream = std::thread::spawn(|| {
            let address = "10.1.1.2:80".parse().unwrap();
            let _ =
                std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(1));
        });
        let syn = read(&tap, |f| f[12..14] == [8, 0] && f[23] == 6);
        shunt_sim::frame::ip_of_frame(&syn)
            .unwrap()
            .verify()
            .unwrap();
        stream.join().unwrap();
    });
}

#[test]
fn two_directors_do_not_share_one() {
    inside(|_| {
        let first = Tap::open(&config("smt0")).unwrap();
        let error = Tap::open(&config("smt0")).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("smt0 is in use by another process"),
            "{error}"
        );
        // The first still has it for itself.
        drop(first);
        drop(Tap::open(&config("smt0")).unwrap());
    });
}

#[test]
fn another_kind_of_interface_is_left_alone() {
    inside(|ns| {
        ns.ip("link add smt0 type veth peer name smt1");
        ns.ip("tuntap add smt2 mode tap");
        ns.ip("tuntap add smt3 mode tun multi_queue");
        for (name, kind) in [
            ("smt0", "a veth device"),
            ("smt2", "a TUN or TAP device"),
            ("smt3", "a TUN or TAP device"),
        ] {
            let error = Tap::open(&config(name)).unwrap_err();
            assert!(matches!(error, Error::AnotherKind { .. }), "{error}");
            let message = error.to_string();
            assert!(
                message.contains(name) && message.contains(kind),
                "{message}"
            );
            assert!(ns.ip("-o link show").contains(name));
        }
    });
}

#[test]
fn says_what_is_missing() {
    inside(|ns| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let error = Tap::open(&config("smt0")).unwrap_err();
        assert!(matches!(error, Error::Permission { .. }), "{error}");
        assert!(error.to_string().contains("smt0") && error.to_string().contains("CAP_NET_ADMIN"));
        let links = ns.exec("ip -o link show").1;
        assert!(!links.contains("smt0"), "{links}");
    });
}

#[test]
fn odd_names_are_refused() {
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "a:b",
        "shunt%d",
        "sixteen-bytes-xx",
        "nul\0l",
    ] {
        let error = Tap::open(&config(name)).unwrap_err();
        assert!(matches!(error, Error::Name(_)), "{name:?}: {error}");
    }
}

#[test]
fn is_something_to_wait_for() {
    inside(|_| {
        let tap = Tap::open(&config("smt0")).unwrap();
        let _: rustix::fd::BorrowedFd<'_> = tap.as_fd();
        // The kernel sends something of its own soon: multicast listener reports, solicitations.
        read(&tap, |_| true);
    });
}

/// What [`Holder::reach`] starts.
#[test]
#[ignore = "a part of another"]
fn holds() {
    if std::env::var_os("SHUNT_HOLD").is_some() {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        holder::hold(socket.into()).unwrap();
    }
}

/// Over the death of a director and the next one's start the carrier stays, and so do sockets until
/// then.
#[test]
fn a_holder_keeps_carrier_and_sockets() {
    inside(|ns| {
        let folder = tempfile::tempdir().unwrap();
        let path = holder::path(&folder.path().join("socket"));
        let reach = || {
            let mut program = Command::new(std::env::current_exe().unwrap());
            program
                .args(["--exact", "holds", "--ignored"])
                .env("SHUNT_HOLD", "1");
            Holder::reach(&path, program).unwrap()
        };
        let up = || ns.ip("-o link show smt9").contains("LOWER_UP");
        let mut tap = Tap::open(&config("smt9")).unwrap();
        tap.remove_on_drop(false);
        let mut first = reach();
        assert!(!first.found());
        let (socket, mut other) = UnixStream::pair().unwrap();
        first.keep([&tap], &[socket.into()]).unwrap();
        // A director that is killed says nothing.
        drop((tap, first));
        assert!(up());
        other.set_nonblocking(true).unwrap();
        let read = other.read(&mut [0]).map_err(|e| e.kind());
        assert_eq!(read, Err(ErrorKind::WouldBlock), "it is open");

        let mut tap = Tap::open(&config("smt9")).unwrap();
        assert!(!tap.created() && up());
        let mut second = reach();
        assert!(second.found());
        second.keep([&tap], &[]).unwrap();
        other.set_nonblocking(false).unwrap();
        other
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        assert_eq!(other.read(&mut [0]).unwrap(), 0, "it is closed");
        second.release().unwrap();
        assert!(up(), "it is the director's");
        tap.remove_on_drop(false);
        drop(tap);
        assert!(!up(), "nobody holds it");
        Tap::open(&config("smt9")).unwrap().remove().unwrap();
    });
}
