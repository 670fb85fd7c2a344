//! net_pcap: what is sent is in the file, and a file is received from as it was written.

mod common;

use common::{eal, frame, pool, port, receive, send};
use shunt_dataplane::io::PacketBuf;
use shunt_dpdk::DeviceError;

#[test]
fn writes_and_reads_a_capture() {
    let eal = eal("pcap");
    let packets = pool(&eal, "packets", 1023);
    let dir = tempfile::tempdir().unwrap();
    let written = dir.path().join("written.pcap");
    let frames: Vec<Vec<u8>> = (0..100)
        .map(|n| frame(n, 60 + 14 * usize::from(n)))
        .collect();

    let device = format!("net_pcap0,tx_pcap={0},rx_pcap=/dev/null", written.display());
    let error = eal.attach(&device).unwrap_err();
    assert!(
        matches!(error, DeviceError::Probe { .. }),
        "no capture file: {error}"
    );
    let (control, mut queue) = port(
        &eal,
        &format!("net_pcap1,tx_pcap={}", written.display()),
        &packets,
    );
    send(&mut queue, &frames);
    assert_eq!(control.stats().unwrap().tx_packets, 100);
    drop((control, queue));
    assert_eq!(packets.available(), 1023);

    // pcap file format: 24 bytes of header, 16 before each frame.
    let bytes = std::fs::read(&written).unwrap();
    assert_eq!(
        bytes.len(),
        24 + frames.iter().map(|f| 16 + f.len()).sum::<usize>()
    );
    assert_eq!(bytes[24 + 16..24 + 16 + 60], frames[0]);

    let echo = dir.path().join("echo.pcap");
    let device = format!(
        "net_pcap2,rx_pcap={},tx_pcap={}",
        written.display(),
        echo.display()
    );
    let (control, mut queue) = port(&eal, &device, &packets);
    assert_eq!(control.info().max_rx_queues, 1);
    let got = receive(&mut queue, 100, |_| true);
    assert!(
        got.iter()
            .zip(&frames)
            .all(|(got, sent)| got.data() == sent)
    );
    assert_eq!(packets.available(), 1023 - 100);
    drop((got, queue, control));
    assert_eq!(packets.available(), 1023);
}
