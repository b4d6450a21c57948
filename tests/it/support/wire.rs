//! A client that sends exactly the bytes it is told to.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// A connection to the proxy.
pub struct Client {
    pub tcp: TcpStream,
    buffer: Vec<u8>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// False when the connection ended before the body did.
    pub whole: bool,
}

impl Answer {
    /// All values of a header, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The only value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Client {
    pub async fn to(addr: SocketAddr) -> Self {
        Self { tcp: TcpStream::connect(addr).await.unwrap(), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.tcp.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends nothing more, and goes on listening.
    pub async fn finish(&mut self) {
        self.tcp.shutdown().await.unwrap();
    }

    /// Sends as much as the proxy takes.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.tcp.write_all(bytes.as_ref()).await.is_ok()
    }

    async fn more(&mut self) -> bool {
        matches!(self.tcp.read_buf(&mut self.buffer).await, Ok(n) if n > 0)
    }

    /// The head of the next answer; nothing at the end of the connection.
    pub async fn try_head(&mut self) -> Option<String> {
        within("an answer's head", async {
            loop {
                if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                    self.buffer.drain(..end + 4);
                    return Some(head);
                }
                if !self.more().await {
                    return None;
                }
            }
        })
        .await
    }

    /// The next whole answer, to a request that was not HEAD; 1xx heads are skipped except 101.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await.expect("the proxy answers")
    }

    /// The next whole answer to a request of this method, if there is one.
    pub async fn answer_to(&mut self, method: &str) -> Option<Answer> {
        let (head, status) = loop {
            let head = self.try_head().await?;
            let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
            if status >= 200 || status == 101 {
                break (head, status);
            }
        };
        let mut answer = Answer { status, head, body: Vec::new(), whole: true };
        if method == "HEAD" || status == 101 || status == 204 || status == 304 {
            return Some(answer);
        }
        within("an answer's body", async {
            if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
                answer.whole = self.chunked(&mut answer.body).await;
            } else if let Ok(length) = answer.header("content-length").parse::<usize>() {
                while self.buffer.len() < length && self.more().await {}
                let have = length.min(self.buffer.len());
                answer.body = self.buffer.drain(..have).collect();
                answer.whole = have == length;
            } else {
                // A reset tells that it is not all.
                (answer.body, answer.whole) = self.rest().await;
            }
        })
        .await;
        Some(answer)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads chunks and trailers (which are appended to the body as text); false when they break off.
    async fn chunked(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(line) = self.line().await else { return false };
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
            if size == 0 {
                while let Some(line) = self.line().await {
                    if line.is_empty() {
                        return true;
                    }
                    body.extend_from_slice(format!("[{line}]").as_bytes());
                }
                return false;
            }
            while self.buffer.len() < size + 2 {
                if !self.more().await {
                    body.append(&mut self.buffer);
                    return false;
                }
            }
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    /// Bytes until there are `count`.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        within("bytes from the proxy", async {
            while self.buffer.len() < count {
                assert!(self.more().await, "ended after {} of {count} bytes", self.buffer.len());
            }
            self.buffer.drain(..count).collect()
        })
        .await
    }

    /// What is left until the proxy ends the connection, and whether it ended in order.
    pub async fn rest(&mut self) -> (Vec<u8>, bool) {
        within("the proxy ends the connection", async {
            loop {
                match self.tcp.read_buf(&mut self.buffer).await {
                    Ok(0) => return (std::mem::take(&mut self.buffer), true),
                    Ok(_) => {}
                    Err(_) => return (std::mem::take(&mut self.buffer), false),
                }
            }
        })
        .await
    }
}

/// Sends one request on a connection of its own and returns the answer.
pub async fn ask(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let method = String::from_utf8_lossy(bytes.as_ref()).split(' ').next().unwrap_or_default().to_owned();
    let mut client = Client::to(addr).await;
    client.send(bytes).await;
    client.answer_to(&method).await.expect("the proxy answers")
}

/// A GET with these extra header lines.
pub async fn get(addr: SocketAddr, path: &str, headers: &str) -> Answer {
    ask(addr, format!("GET {path} HTTP/1.1\r\nHost: chat.test\r\n{headers}\r\n")).await
}
