//! `gantry healthcheck`, without a runtime: it is run every few seconds.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::fail;
use crate::config::Config;

/// Asks the admin listener that this configuration names.
pub(super) fn run(config: &Config, ready: bool) -> ExitCode {
    let Some(addr) = config.server.admin_listen else {
        return fail("server.admin_listen is off, so there is nobody to ask");
    };
    match ask(reachable(addr), if ready { "/readyz" } else { "/livez" }) {
        Ok((200, _)) => ExitCode::SUCCESS,
        Ok((status, body)) => fail(&format!("{addr} answered {status}: {}", body.trim())),
        Err(error) => fail(&format!("{addr} cannot be asked: {error}")),
    }
}

/// A listener on every address is asked on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), addr.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), addr.port()),
        _ => addr,
    }
}

fn ask(addr: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let patience = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&addr, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    status.map(|status| (status, body)).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}
