//! DNS: one query; the answer's code, and on request one of its records, are judged.

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::check::Dns;
use super::failure::{Failure, Reason};
use super::probe::{Asked, Outcome, connect, datagrams};
use super::tls;

/// Longest answer over UDP without EDNS is 512 bytes (RFC 1035 section 4.2.1); servers that send
/// more are not the matter of this check.
const DATAGRAM: usize = 4096;

pub(super) async fn ask(dns: &Dns, asked: Asked) -> Outcome {
    let mut query = Message::query();
    query.metadata.id = rand::random();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(dns.name.clone(), dns.query_type));
    let bytes = query.to_vec();
    let bytes = bytes.map_err(|error| Failure::new(Reason::Local, error))?;
    if dns.tcp {
        return judge(dns, &query, &over_tcp(&bytes, asked).await?);
    }
    let socket = datagrams(asked.0).await?;
    let sent = socket.send(&bytes).await;
    sent.map_err(|error| Failure::io("send", &error))?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let received = socket.recv(&mut answer).await;
        let length = received.map_err(|error| Failure::io("receive", &error))?;
        let answer = answer.get(..length).unwrap_or_default();
        // A late answer to an earlier check from the same port is none to this.
        if answer.get(..2) == bytes.get(..2) {
            return judge(dns, &query, answer);
        }
    }
}

/// A query and its answer, each with its length before it (RFC 1035 section 4.2.2).
async fn over_tcp(query: &[u8], asked: Asked) -> Result<Vec<u8>, Failure> {
    let broken = |error: std::io::Error| tls::broken("DNS", &error);
    let mut stream = connect(asked).await?;
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    let framed = [&length.to_be_bytes()[..], query].concat();
    stream.write_all(&framed).await.map_err(broken)?;
    let length = stream.read_u16().await.map_err(broken)?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(broken)?;
    Ok(answer)
}

fn judge(dns: &Dns, query: &Message, answer: &[u8]) -> Outcome {
    let answer = Message::from_vec(answer)
        .map_err(|error| Failure::new(Reason::Protocol, format_args!("DNS: {error}")))?;
    let about = &answer.metadata;
    if about.id != query.metadata.id
        || about.message_type != MessageType::Response
        || answer.queries != query.queries
    {
        let text = "DNS: the answer is not to the query";
        return Err(Failure::new(Reason::Protocol, text));
    }
    let code = about.response_code;
    if u16::from(code) != dns.rcode {
        let wanted = ResponseCode::from_low(dns.rcode as u8);
        let text = format_args!("DNS: \"{code}\" where \"{wanted}\" is good");
        return Err(Failure::new(Reason::Status, text));
    }
    let Some(wanted) = &dns.answer else {
        return Ok(());
    };
    let plain = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
    let given: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    if given.iter().any(|data| plain(data) == plain(wanted)) {
        return Ok(());
    }
    let given = given.join(", ");
    let text = format_args!("DNS: no answer is \"{wanted}\"; there are: {given}");
    Err(Failure::new(Reason::Content, text))
}
