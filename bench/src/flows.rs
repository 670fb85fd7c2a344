//! Sessions by the number: handshakes through the director for as many clients as asked for, and
//! the packets that follow. Who is client number n is worked out, not kept; what servers know of
//! their clients is learned from the SYN that reached them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt_service::{Mode, Protocol, Settings};
use shunt_session::Shards;

use crate::director::{MAC, ROUTER_MAC, Scene};
use crate::template::Template;
use crate::template::flags::{ACK, FIN, PSH, SYN};

/// Most frames that are sent at once.
pub const MOST: usize = 32;
/// Bytes of a frame, at most.
const ROOM: usize = 256;

/// Data of a segment, bytes: with IPv4 the frame has 64 bytes and the checksum that a NIC adds.
const DATA: [u8; 6] = *b"shunt!";
/// Initial sequence numbers of client and server.
const CLIENT_FIRST: u32 = 1_000;
const SERVER_FIRST: u32 = 90_000;
/// Options of a SYN: MSS 1460, window scale 7.
const SYN_OPTIONS: [u8; 8] = [2, 4, 5, 0xb4, 1, 3, 3, 7];
/// Source of servers' frames.
const SERVER_MAC: [u8; 6] = [2, 0, 1, 0, 0, 0];

/// A burst of frames, in memory that is used again.
#[derive(Debug)]
pub struct Frames {
    bytes: Box<[[u8; ROOM]; MOST]>,
    lengths: [u16; MOST],
    n: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            bytes: Box::new([[0; ROOM]; MOST]),
            lengths: [0; MOST],
            n: 0,
        }
    }
}

impl Frames {
    /// No frames.
    pub fn clear(&mut self) {
        self.n = 0;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Adds a frame that `write` writes; it returns the length.
    ///
    /// # Panics
    /// If there are [`MOST`] frames.
    pub fn push(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        self.lengths[self.n] = write(&mut self.bytes[self.n]) as u16;
        self.n += 1;
    }

    /// The frames.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let frames = self.bytes.iter().zip(&self.lengths).take(self.n);
        frames.map(|(bytes, len)| &bytes[..usize::from(*len)])
    }
}

/// A packet of a client or a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYN of the client, SYN and ACK of the server.
    Open = 0,
    /// The ACK that ends a handshake.
    Ack = 1,
    /// Data, the first of its side.
    First = 2,
    /// Data that follows.
    Data = 3,
    /// FIN of a connection without data.
    Fin = 4,
    /// The last ACK of such a connection.
    Last = 5,
}

/// What a server knows of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Number of the server.
    server: u32,
    /// FULLNAT: number of the local address.
    local: u32,
    /// FULLNAT: local port.
    port: u16,
    /// First sequence number that the server expects.
    ack: u32,
}

/// Writes the packets of a scene.
#[derive(Debug)]
pub struct Traffic {
    scene: Scene,
    vip: SocketAddr,
    /// By [`Kind`], of clients and of servers.
    requests: [Template; 6],
    replies: [Template; 6],
}

/// The n-th client. No two have the same address and port.
#[inline]
pub fn client(n: u32, ipv6: bool) -> SocketAddr {
    let port = 1024 + (n % 50_000) as u16;
    let ip: IpAddr = if ipv6 {
        Ipv6Addr::from_bits(0x2001_0db8_0099u128 << 80 | u128::from(n)).into()
    } else {
        Ipv4Addr::from_bits(u32::from_be_bytes([100, 64, 1, 0]) + ((n / 50_000) << 8) + (n & 0xff))
            .into()
    };
    SocketAddr::new(ip, port)
}

/// The first `each` clients whose sessions belong to each of `workers` workers: nothing of theirs is
/// handed over where each worker gets its own.
pub fn clients(workers: u16, each: u32, ipv6: bool) -> Vec<Vec<u32>> {
    let (shards, settings) = (Shards::default(), Settings::for_workers(workers));
    let mut all: Vec<Vec<u32>> = vec![Vec::new(); workers.into()];
    let mut full = 0;
    for n in 0.. {
        if full == all.len() {
            break;
        }
        let client = client(n, ipv6);
        let shard = shards.shard(client.ip(), client.port());
        let mine = &mut all[usize::from(settings.shard_map[usize::from(shard)])];
        if mine.len() < each as usize {
            mine.push(n);
            full += usize::from(mine.len() == each as usize);
        }
    }
    all
}

impl Traffic {
    /// The packets of a scene.
    pub fn new(scene: &Scene) -> Self {
        let kinds = |open: u8| match scene.protocol {
            Protocol::Tcp => [
                Template::tcp(scene.ipv6, open, &SYN_OPTIONS, &[]),
                Template::tcp(scene.ipv6, ACK, &[], &[]),
                Template::tcp(scene.ipv6, ACK | PSH, &[], &DATA),
                Template::tcp(scene.ipv6, ACK | PSH, &[], &DATA),
                Template::tcp(scene.ipv6, ACK | FIN, &[], &[]),
                Template::tcp(scene.ipv6, ACK, &[], &[]),
            ],
            // 18 bytes: the shortest frame there may be.
            Protocol::Udp => core::array::from_fn(|_| Template::udp(scene.ipv6, &[0; 18])),
        };
        Self {
            vip: scene.vip(),
            scene: scene.clone(),
            requests: kinds(SYN),
            replies: kinds(SYN | ACK),
        }
    }

    /// Writes a packet of a client.
    #[inline]
    pub fn request(&self, kind: Kind, n: u32, to: &mut [u8]) -> usize {
        let seq = CLIENT_FIRST + ahead(kind);
        let ack = if kind == Kind::Open {
            0
        } else {
            // The last packet acknowledges the FIN, too.
            SERVER_FIRST + 1 + u32::from(kind == Kind::Last)
        };
        let client = client(n, self.scene.ipv6);
        self.requests[kind as usize].write(to, (MAC, ROUTER_MAC), client, self.vip, (seq, ack))
    }

    /// Writes a packet of the server of client `n`.
    #[inline]
    pub fn reply(&self, kind: Kind, n: u32, known: Known, to: &mut [u8]) -> usize {
        let seq = SERVER_FIRST + ahead(kind);
        // Data acknowledges the client's data, a FIN the client's.
        let heard = match kind {
            Kind::First | Kind::Data => DATA.len() as u32,
            Kind::Fin | Kind::Last => 1,
            Kind::Open | Kind::Ack => 0,
        };
        let peer = match self.scene.mode {
            Mode::FullNat => SocketAddr::new(self.scene.local(known.local), known.port),
            _ => client(n, self.scene.ipv6),
        };
        let numbers = (seq, known.ack.wrapping_add(heard));
        let server = self.scene.server(known.server);
        self.replies[kind as usize].write(to, (MAC, SERVER_MAC), server, peer, numbers)
    }

    /// What a server learns from a client's first packet, as it was sent to it; `None` for a frame
    /// that is no such packet. For modes whose replies pass the director.
    pub fn learn(&self, frame: &[u8]) -> Option<Known> {
        let parsed = shunt_wire::parse(frame, frame.len(), false).ok()?;
        let (src, dst) = parsed.addresses(frame)?;
        let l4 = usize::from(parsed.l4);
        let seq = u32::from_be_bytes(*frame.get(l4 + 4..)?.first_chunk()?);
        let full = self.scene.mode == Mode::FullNat;
        Some(Known {
            server: self.scene.server_number(dst)?,
            local: if full {
                self.scene.local_number(src)?
            } else {
                0
            },
            port: parsed.src_port,
            ack: match self.scene.protocol {
                Protocol::Tcp => seq.wrapping_add(1),
                Protocol::Udp => 0,
            },
        })
    }
}

/// How far a packet's sequence number is beyond the SYN's.
fn ahead(kind: Kind) -> u32 {
    match kind {
        Kind::Open => 0,
        Kind::Ack | Kind::First | Kind::Fin => 1,
        Kind::Data => 1 + DATA.len() as u32,
        Kind::Last => 2,
    }
}

/// Something that takes frames through a director.
pub trait Rig {
    /// Sends `frames` through, and fills `out` with what came out, in order.
    fn pass(&mut self, frames: &Frames, out: &mut Frames);
    /// What was dropped so far and why, in words.
    fn drops(&self) -> String;
}

/// Takes one packet of each of `clients` through.
///
/// # Panics
/// If not every frame came through.
fn all(rig: &mut impl Rig, frames: &mut Frames, out: &mut Frames) {
    rig.pass(frames, out);
    assert_eq!(
        out.len(),
        frames.len(),
        "packets of a handshake, {}",
        rig.drops()
    );
    frames.clear();
}

/// Brings sessions to ESTABLISHED (UDP: to a packet of each side), for FULLNAT so far that the
/// server knows the client. `kept` gets what servers know, where replies pass the director.
///
/// # Panics
/// If the director does not let a packet of a handshake through.
pub fn establish(
    rig: &mut impl Rig,
    traffic: &Traffic,
    clients: impl Iterator<Item = u32>,
    mut kept: Option<&mut Vec<Known>>,
) {
    let (mode, protocol) = (traffic.scene.mode, traffic.scene.protocol);
    let (mut frames, mut out) = (Frames::default(), Frames::default());
    let mut some: Vec<u32> = Vec::with_capacity(MOST);
    let mut known: Vec<Known> = Vec::with_capacity(MOST);
    let mut clients = clients.peekable();
    while clients.peek().is_some() {
        some.clear();
        some.extend(clients.by_ref().take(MOST));
        let requests = |kind: Kind, frames: &mut Frames| {
            some.iter()
                .for_each(|n| frames.push(|to| traffic.request(kind, *n, to)));
        };
        requests(Kind::Open, &mut frames);
        all(rig, &mut frames, &mut out);
        known.clear();
        let replies = |kind: Kind, known: &[Known], frames: &mut Frames| {
            for (n, k) in some.iter().zip(known) {
                frames.push(|to| traffic.reply(kind, *n, *k, to));
            }
        };
        if mode.sees_replies() {
            let learned = out
                .iter()
                .map(|f| traffic.learn(f).expect("a first packet"));
            known.extend(learned);
            replies(Kind::Open, &known, &mut frames);
            all(rig, &mut frames, &mut out);
        }
        if protocol == Protocol::Tcp {
            requests(Kind::Ack, &mut frames);
            all(rig, &mut frames, &mut out);
            if mode.sees_replies() {
                requests(Kind::First, &mut frames);
                all(rig, &mut frames, &mut out);
                // The server acknowledges data: from now on it need not be told who the client is.
                replies(Kind::First, &known, &mut frames);
                all(rig, &mut frames, &mut out);
            }
        }
        if let Some(kept) = kept.as_deref_mut() {
            kept.extend_from_slice(&known);
        }
    }
}
