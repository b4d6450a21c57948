//! A raw HTTP/1.1 client on one connection: cheap enough to ask more than it is answered.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A keep-alive connection.
#[derive(Debug)]
pub struct Client {
    tcp: TcpStream,
    buffer: BytesMut,
}

/// One answer with a length.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, without the empty line.
    pub head: String,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header, whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn to(addr: SocketAddr) -> io::Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, buffer: BytesMut::with_capacity(16 * 1024) })
    }

    /// Sends a whole request and waits for the whole answer, which has to tell its length.
    ///
    /// # Errors
    /// The connection ended, or the answer cannot be understood.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.tcp.write_all(request).await?;
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let head = self.buffer.split_to(end + 4);
        let head = String::from_utf8_lossy(&head[..end]).into_owned();
        let status = head.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(|| io::Error::other(format!("no status: {head}")))?;
        let mut answer = Answer { status, head, body: Vec::new() };
        let length: usize = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
        while self.buffer.len() < length {
            self.more().await?;
        }
        answer.body = self.buffer.split_to(length).to_vec();
        Ok(answer)
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.tcp.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`Client::ask`].
pub async fn once(addr: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    Client::to(addr).await?.ask(request).await
}

/// A request for a login token, with these lines of headers.
pub fn login(headers: &str) -> Vec<u8> {
    format!("POST /_gantry/token HTTP/1.1\r\nHost: chat.example.test\r\nContent-Length: 0\r\n{headers}\r\n").into_bytes()
}
