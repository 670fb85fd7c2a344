//! Recorded frames: read, made comparable, shown.

use shunt_wire::checksum::sum_reference;

const ETHERNET: usize = 14;

/// The bytes of a hex string.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|n| u8::from_str_radix(&hex[n..n + 2], 16).expect("hex"))
        .collect()
}

/// The beginning of a frame, for messages.
pub(crate) fn shown(frame: &[u8]) -> String {
    let shown: String = frame.iter().take(110).map(|b| format!("{b:02x}")).collect();
    format!("{shown} ({} bytes)", frame.len())
}

/// Protocol of an untagged IP frame; 0 for others.
fn protocol(frame: &[u8]) -> u8 {
    let at = match frame.get(12..15) {
        Some(&[0x08, 0x00, v]) if v >> 4 == 4 => ETHERNET + 9,
        Some(&[0x86, 0xdd, _]) => ETHERNET + 6,
        _ => return 0,
    };
    frame.get(at).copied().unwrap_or_default()
}

/// Whether the IPv4 header checksum, which is not compared everywhere, is right.
pub(crate) fn is_intact(frame: &[u8]) -> Result<(), String> {
    let ip = &frame[ETHERNET..];
    if frame[12..14] == [8, 0] && sum_reference(&ip[..usize::from(ip[0] & 15) * 4]) != 0xffff {
        return Err("IPv4 header checksum is wrong".to_owned());
    }
    Ok(())
}

/// `sent` without what differs between any two directors, if the director made it (or its outer
/// header) in answer to `received`.
pub(crate) fn comparable(received: &[u8], sent: &[u8]) -> Vec<u8> {
    let mut sent = sent.to_vec();
    let (asked, answered) = (protocol(received), protocol(&sent));
    let echo = |kinds: [u8; 2], at: usize| sent.get(at).is_some_and(|k| kinds.contains(k));
    let made = asked != answered
        || (answered == 1 && echo([0, 0], ETHERNET + 20))
        || (answered == 58 && echo([129, 129], ETHERNET + 40));
    match sent.get_mut(ETHERNET..) {
        Some(ip) if made && answered != 0 => match ip[0] >> 4 {
            4 if ip[6] & 0x40 == 0 => {
                ip[4..6].fill(0);
                ip[10..12].fill(0);
            }
            6 => {
                ip[1] &= 0xf0;
                ip[2..4].fill(0);
            }
            _ => {}
        },
        _ => {}
    }
    sent
}
