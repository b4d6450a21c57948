//! Answers that a listener gives by itself, where no request has come about that anybody could handle: too many
//! connections, and heads that are malformed, too large, or do not end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode};
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::admission::Admission;
use crate::error::Failure;
use crate::metrics::Shard;

/// How long somebody who was turned away is listened to, so that he gets to see why.
const LINGER: Duration = Duration::from_secs(1);
/// When to come again.
const RETRY_AFTER: &str = "Retry-After: 5\r\n";

/// An answer, after which the connection ends.
pub(super) fn answer(status: StatusCode, words: &str, more: &str, hsts: Option<&HeaderValue>) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n{more}",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        httpdate::fmt_http_date(SystemTime::now()),
        words.len() + 1,
    )
    .into_bytes();
    if let Some(hsts) = hsts {
        answer.extend_from_slice(b"Strict-Transport-Security: ");
        answer.extend_from_slice(hsts.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(format!("\r\n{words}\n").as_bytes());
    answer
}

/// What a parser's bare answer becomes, if `head` is one: ours, with the failure that is counted.
pub(super) fn of_parser(head: &[u8], hsts: Option<&HeaderValue>, shard: &Shard) -> Option<Vec<u8>> {
    let failure = match head.get(..12)? {
        b"HTTP/1.1 400" => Failure::BadRequest("The request is malformed."),
        b"HTTP/1.1 414" => Failure::TargetTooLong(0),
        b"HTTP/1.1 431" => Failure::HeadTooLarge,
        _ => return None,
    };
    shard.failed(&failure);
    Some(answer(failure.status(), failure.public(), "", hsts))
}

/// What somebody is told whose request does not end.
pub(super) fn too_slow(hsts: Option<&HeaderValue>) -> Vec<u8> {
    answer(StatusCode::REQUEST_TIMEOUT, "The request did not arrive in time.", "", hsts)
}

/// Tells a client of plain HTTP that there are too many, as long as not too many are told.
pub(super) fn turn_away(tcp: TcpStream, admission: &Arc<Admission>) {
    let Some(counted) = admission.farewell() else { return };
    let words = answer(StatusCode::SERVICE_UNAVAILABLE, "Too many connections are open. Try again in a moment.", RETRY_AFTER, None);
    // The buffer of a new connection is empty, so that this takes all of it and waits for nobody.
    let socket = SockRef::from(&tcp);
    if !socket.send(&words).is_ok_and(|sent| sent == words.len()) || socket.shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    tokio::task::spawn_local(async move {
        let _counted = counted;
        let mut tcp = tcp;
        // Closing with unread bytes would take the answer away.
        let _ = tokio::time::timeout(LINGER, async {
            let mut scratch = [0; 1024];
            while matches!(tcp.read(&mut scratch).await, Ok(1..)) {}
        })
        .await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn an_answer_has_everything() {
        let hsts = HeaderValue::from_static("max-age=1");
        let said = String::from_utf8(answer(StatusCode::REQUEST_TIMEOUT, "Too slow.", RETRY_AFTER, Some(&hsts))).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "Too slow.\n");
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\nDate: "), "{head}");
        for line in ["Content-Length: 10", "Connection: close", "Retry-After: 5", "Strict-Transport-Security: max-age=1"] {
            assert!(head.lines().any(|known| known == line), "{line} in {head}");
        }
    }

    #[test]
    fn only_what_a_parser_says_is_put_in_other_words() {
        let metrics = Metrics::new(1);
        let shard = metrics.shard(0);
        for (head, status) in [
            (&b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"[..], Some("400")),
            (b"HTTP/1.1 414 URI Too Long\r\n", Some("414")),
            (b"HTTP/1.1 431 Request Header Fields Too Large\r\n", Some("431")),
            (b"HTTP/1.1 200 OK\r\n", None),
            (b"HTTP/1.1 100 Continue\r\n\r\n", None),
            (b"HTTP/1.1 4", None),
            (b"", None),
        ] {
            let said = of_parser(head, None, &shard).map(|said| String::from_utf8(said[9..12].to_vec()).unwrap());
            assert_eq!(said.as_deref(), status);
        }
        let text = metrics.exposition();
        for reason in ["bad_request", "target_too_long", "head_too_large"] {
            assert!(text.contains(&format!("gantry_http_failures_total{{reason=\"{reason}\"}} 1\n")), "{text}");
        }
    }
}
