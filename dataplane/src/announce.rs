//! Unasked announcements of the addresses that workers answer for: gratuitous ARP and unsolicited
//! neighbour advertisements, so that switches and routers learn a VIP that has just come here.
//! Worker 0 sends them, once for each address that is new.

use core::net::IpAddr;
use std::collections::VecDeque;

use hashbrown::HashSet;
use shunt_service::{InterfaceId, WorkerId};
use shunt_wire::{arp, eth, nd};

use crate::answer::compose;
use crate::egress::{Account, Egress};
use crate::frame;
use crate::io::{PacketBuf, Port};
use crate::worker::Context;

/// Announcements of one iteration, at most.
const MOST: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Announcer {
    /// Generation of the configuration that was looked at last.
    seen: Option<u64>,
    announced: HashSet<(InterfaceId, IpAddr)>,
    due: VecDeque<(InterfaceId, IpAddr)>,
}

impl Announcer {
    /// Notices new addresses and announces some of those that are due.
    pub(crate) fn step<P: Port>(&mut self, egress: &mut Egress<P>, cx: &Context<'_>, id: WorkerId) {
        if id != WorkerId(0) {
            return;
        }
        if self.seen != Some(cx.config.generation) {
            self.seen = Some(cx.config.generation);
            self.look(cx);
        }
        for _ in 0..MOST.min(self.due.len()) {
            let Some((interface, address)) = self.due.pop_front() else {
                return;
            };
            let _ = announce(egress, cx, interface, address);
        }
    }

    fn look(&mut self, cx: &Context<'_>) {
        let fib = &cx.config.fib;
        let mut now = HashSet::new();
        for (address, role) in cx.config.services.addresses() {
            if !role.announced {
                continue;
            }
            // On the link it belongs to; a VIP of no link of ours on all of them.
            match fib.route(address).filter(|r| r.via.is_none()) {
                Some(route) => drop(now.insert((route.interface, address))),
                None => {
                    now.extend((0..fib.interfaces.len()).map(|n| (InterfaceId(n as u16), address)))
                }
            }
        }
        self.due.retain(|a| now.contains(a));
        self.due.extend(now.difference(&self.announced).copied());
        self.announced = now;
    }
}

fn announce<P: Port>(
    egress: &mut Egress<P>,
    cx: &Context<'_>,
    interface: InterfaceId,
    address: IpAddr,
) -> Option<()> {
    let interface = cx.config.fib.interfaces.get(usize::from(interface.0))?;
    let (port, mac) = (interface.port, interface.mac);
    let vlan = interface.vlan.unwrap_or(0);
    let header = frame::header_len(vlan);
    let (buf, dst, kind) = match address {
        IpAddr::V4(a) => {
            let write = |out: &mut [u8]| arp::write_announcement(out, a, mac);
            (
                compose(egress, port, header, arp::LEN, write)?,
                [0xff; 6],
                eth::ARP,
            )
        }
        IpAddr::V6(a) => {
            let write = |out: &mut [u8]| nd::write_announcement(out, a, mac);
            let dst = nd::multicast_mac(nd::ALL_NODES);
            (
                compose(egress, port, header, nd::ADVERTISEMENT_LEN, write)?,
                dst,
                eth::IPV6,
            )
        }
    };
    let mut buf = buf;
    eth::write_header(buf.data_mut(), dst, mac, vlan, kind)?;
    egress.send(port, buf, Account::Originated);
    Some(())
}
