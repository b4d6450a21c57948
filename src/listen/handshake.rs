//! What a connection begins with, in its own task and under one deadline: the PROXY protocol header where one
//! is due, then TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::proxy_protocol::{self, HeaderError};
use super::stream::Stream;
use super::{Settings, TlsSettings};
use crate::metrics::Handshake;

/// How long a connection is read from after it was told that this port speaks TLS, without a byte.
const LINGER_QUIET: Duration = Duration::from_secs(1);

/// What a client gets that speaks plain HTTP to the TLS listener.
const SPEAKS_HTTPS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 74\r\nConnection: close\r\n\r\nThis port speaks https. Begin the address with https:// in place of http.\n";

/// A connection on which HTTP can begin.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// The client's address.
    pub(super) addr: SocketAddr,
}

/// Opens a connection from `addr`. What goes wrong is counted and logged here.
pub(super) async fn open(mut tcp: TcpStream, mut addr: SocketAddr, settings: &Settings) -> Option<Opened> {
    let deadline = Instant::now() + settings.handshake_timeout;
    if settings.proxies.lists(addr) {
        let header = tokio::time::timeout_at(deadline, proxy_protocol::read(&mut tcp));
        match header.await.unwrap_or_else(|_| Err(HeaderError::Io(io::ErrorKind::TimedOut.into()))) {
            Ok(client) => addr = client.unwrap_or(addr),
            Err(why) => {
                refuse_header(addr, &why, settings);
                return None;
            }
        }
    }
    let Some(tls) = &settings.tls else { return Some(Opened { stream: Stream::Plain(tcp), addr }) };
    let (outcome, stream) = match tokio::time::timeout_at(deadline, shake_hands(tcp, tls)).await {
        Ok(Ok(stream)) => (Handshake::Done, Some(stream)),
        Ok(Err((outcome, error))) => {
            tracing::debug!(peer = %addr, outcome = outcome.as_str(), %error, "TLS handshake failed");
            (outcome, None)
        }
        Err(_) => {
            tracing::debug!(peer = %addr, "TLS handshake took too long");
            (Handshake::Timeout, None)
        }
    };
    settings.shard.handshake(outcome);
    Some(Opened { stream: stream?, addr })
}

fn refuse_header(addr: SocketAddr, why: &HeaderError, settings: &Settings) {
    settings.shard.proxy_header_refused();
    if settings.proxies.first_complaint() {
        let hint = "server.proxy_protocol lists this peer: have it send the header, or take it off the list";
        tracing::warn!(peer = %addr, %why, hint, "connection refused; further ones are logged at debug only");
    } else {
        tracing::debug!(peer = %addr, %why, "connection refused");
    }
}

async fn shake_hands(mut tcp: TcpStream, tls: &TlsSettings) -> Result<Stream, (Handshake, io::Error)> {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        // A TLS record of a handshake begins with 22, every method of HTTP with a letter.
        Ok(1..) if first[0].is_ascii_uppercase() => {
            // Apart: its buffer is not to be part of every connection.
            Box::pin(say_https(&mut tcp)).await;
            return Err((Handshake::PlainHttp, io::Error::other("the client speaks plain HTTP")));
        }
        Ok(1..) => {}
        Ok(0) => return Err((Handshake::Aborted, io::ErrorKind::UnexpectedEof.into())),
        Err(error) => return Err((Handshake::Aborted, error)),
    }
    let stream = TlsAcceptor::from(tls.certificates.server_config()).accept(tcp).await.map_err(|error| (reason(&error), error))?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Answers in plain HTTP and reads what the client has sent, so that closing does not take the answer away.
async fn say_https(tcp: &mut TcpStream) {
    if tcp.write_all(SPEAKS_HTTPS.as_bytes()).await.is_err() || tcp.shutdown().await.is_err() {
        return;
    }
    let mut scratch = [0; 4096];
    while let Ok(Ok(1..)) = tokio::time::timeout(LINGER_QUIET, tcp.read(&mut scratch)).await {}
}

/// The reason of a failed handshake.
fn reason(error: &io::Error) -> Handshake {
    use rustls::Error;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Handshake::Incompatible,
        Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Handshake::ClientCertificate,
        Some(Error::AlertReceived(_)) => Handshake::Alert,
        Some(_) => Handshake::Malformed,
        None => Handshake::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

    use super::*;

    #[test]
    fn the_words_for_plain_http_have_their_length() {
        let (head, body) = SPEAKS_HTTPS.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), body.len());
    }

    #[test]
    fn reasons() {
        for (error, expected) in [
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), Handshake::Incompatible),
            (Error::NoApplicationProtocol, Handshake::Incompatible),
            (Error::NoCertificatesPresented, Handshake::ClientCertificate),
            (Error::InvalidCertificate(CertificateError::Expired), Handshake::ClientCertificate),
            (Error::AlertReceived(AlertDescription::UnknownCA), Handshake::Alert),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), Handshake::Malformed),
        ] {
            let said = error.to_string();
            assert_eq!(reason(&io::Error::new(io::ErrorKind::InvalidData, error)), expected, "{said}");
        }
        assert_eq!(reason(&io::ErrorKind::UnexpectedEof.into()), Handshake::Aborted);
    }
}
