//! A datagram: sent once; an answer is judged, a refusal (ICMP port unreachable) is failure. Where
//! no answer is asked for, silence is success; [`super::probe`] says so when the time is over.

use core::net::SocketAddr;

use super::check::Udp;
use super::failure::{Failure, Reason};
use super::probe::{Outcome, datagrams};

pub(super) async fn ask(udp: &Udp, to: SocketAddr) -> Outcome {
    let socket = datagrams(to).await?;
    let sent = socket.send(&udp.payload).await;
    sent.map_err(|error| Failure::io("send", &error))?;
    let mut answer = vec![0; 1 << 16];
    let received = socket.recv(&mut answer).await;
    let length = received.map_err(|error| Failure::io("receive", &error))?;
    answer.truncate(length);
    match &udp.expect {
        Some(expected) if !expected.is_in(&answer) => {
            let begin = String::from_utf8_lossy(answer.get(..100).unwrap_or(&answer));
            let text = format_args!("the answer does not have what it should: \"{begin}\"");
            Err(Failure::new(Reason::Content, text))
        }
        _ => Ok(()),
    }
}
