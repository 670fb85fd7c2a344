//! What a TAP needs of link configuration, over netlink: find by name, set MAC, MTU and state,
//! delete. Takes microseconds; called at start and stop only.

use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rustix::io::{Errno, Result};

use crate::kernel::socket::Socket;

// include/uapi/linux/if_link.h, attributes of a "tun" link.
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
/// `IFLA_TUN_TYPE` of a TAP: `IFF_TAP` of linux/if_tun.h.
const TYPE_TAP: u8 = 2;

/// What is known of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// The kernel's number.
    pub(super) index: u32,
    /// MAC address.
    pub(super) mac: Option<[u8; 6]>,
    /// Largest IP packet, bytes.
    pub(super) mtu: Option<u32>,
    /// The driver's word: "tun", "veth"...; empty for a hardware device.
    kind: String,
    /// Whether it is a TAP with several queues allowed.
    multi_queue_tap: bool,
    /// Queues of a TAP that processes have open and in service.
    pub(super) queues: u32,
}

impl Link {
    /// Whether [`super::Tap`] can serve it.
    pub(super) fn is_our_kind(&self) -> bool {
        self.multi_queue_tap
    }

    /// What it is, for a message.
    pub(super) fn describe(&self) -> String {
        match self.kind.as_str() {
            "" => "a device with a driver of its own".to_owned(),
            "tun" => "a TUN or TAP device without multi_queue".to_owned(),
            kind => format!("a {kind} device"),
        }
    }
}

/// Finds the interface `name`; `None` if there is none.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    match socket.ask(RouteNetlinkMessage::GetLink(request), 0) {
        Ok(Some(RouteNetlinkMessage::NewLink(answer))) => Ok(Some(read(&answer))),
        Ok(_) => Err(Errno::BADMSG),
        Err(Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sets the MAC address.
pub(super) fn set_mac(socket: &mut Socket, index: u32, mac: [u8; 6]) -> Result<()> {
    change(socket, index, |m| {
        m.attributes.push(LinkAttribute::Address(mac.to_vec()))
    })
}

/// Sets the MTU, bytes.
pub(super) fn set_mtu(socket: &mut Socket, index: u32, mtu: u16) -> Result<()> {
    change(socket, index, |m| {
        m.attributes.push(LinkAttribute::Mtu(mtu.into()))
    })
}

/// Brings the interface up.
pub(super) fn set_up(socket: &mut Socket, index: u32) -> Result<()> {
    change(socket, index, |m| {
        m.header.flags = LinkFlags::Up;
        m.header.change_mask = LinkFlags::Up;
    })
}

/// Deletes the interface, whoever has it open.
pub(super) fn delete(socket: &mut Socket, index: u32) -> Result<()> {
    socket.execute(RouteNetlinkMessage::DelLink(message(index)), 0)
}

fn message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn change(socket: &mut Socket, index: u32, set: impl FnOnce(&mut LinkMessage)) -> Result<()> {
    let mut message = message(index);
    set(&mut message);
    socket.execute(RouteNetlinkMessage::SetLink(message), 0)
}

fn read(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|i| read_info(i, &mut link)),
            _ => {}
        }
    }
    link
}

fn read_info(info: &LinkInfo, link: &mut Link) {
    match info {
        LinkInfo::Kind(kind) => link.kind = kind_word(kind),
        LinkInfo::Data(InfoData::Tun(attributes)) => {
            link.queues = attributes
                .iter()
                .find_map(|a| number(a, IFLA_TUN_NUM_QUEUES))
                .unwrap_or(0);
            let is = |kind, value: u8| {
                attributes
                    .iter()
                    .any(|a| a.kind() == kind && bytes(a).first() == Some(&value))
            };
            link.multi_queue_tap = is(IFLA_TUN_TYPE, TYPE_TAP) && is(IFLA_TUN_MULTI_QUEUE, 1);
        }
        _ => {}
    }
}

fn kind_word(kind: &InfoKind) -> String {
    kind.to_string()
}

fn bytes(attribute: &InfoTun) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

fn number(attribute: &InfoTun, kind: u16) -> Option<u32> {
    (attribute.kind() == kind)
        .then(|| bytes(attribute).try_into().ok().map(u32::from_ne_bytes))
        .flatten()
}
