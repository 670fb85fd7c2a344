//! One worker's queue pair of a port.

use shunt_dataplane::io::{Burst, Port, PortCaps};

use crate::Mbuf;

/// A queue pair, for one worker.
#[derive(Debug)]
pub struct PortQueue {}

impl PortQueue {
    /// Its number.
    pub fn index(&self) -> u16 {
        unimplemented!()
    }
    /// Whether it receives.
    pub fn receives(&self) -> bool {
        unimplemented!()
    }
    /// Whether it sends.
    pub fn sends(&self) -> bool {
        unimplemented!()
    }
}

impl Port for PortQueue {
    type Buf = Mbuf;
    fn rx_burst(&mut self, _out: &mut Burst<Mbuf>) -> usize {
        unimplemented!()
    }
    fn tx_burst(&mut self, _pkts: &mut Burst<Mbuf>) -> usize {
        unimplemented!()
    }
    fn alloc(&mut self) -> Option<Mbuf> {
        unimplemented!()
    }
    fn caps(&self) -> PortCaps {
        unimplemented!()
    }
    fn kernel_sees_rx(&self) -> bool {
        unimplemented!()
    }
}
