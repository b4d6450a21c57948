//! Clients that speak HTTP/2: a proper one, and one that sends whatever frames it is told to.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::tls::TlsProxy;
use super::within;

/// A connection of a client that keeps the rules.
#[derive(Clone)]
pub struct Http2 {
    pub send: SendRequest<Bytes>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A GET of `path`.
pub fn get(path: &str) -> Request<()> {
    Request::get(format!("https://chat.test{path}")).body(()).unwrap()
}

impl Http2 {
    /// A connection, and the task that drives it: it ends as the connection does.
    pub async fn with_end(proxy: &TlsProxy) -> (Self, JoinHandle<Result<(), h2::Error>>) {
        let tls = proxy.connect(&["h2"]).await;
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, connection) = within("a handshake of HTTP/2", h2::client::handshake(tls)).await.unwrap();
        (Self { send }, tokio::spawn(connection))
    }

    pub async fn to(proxy: &TlsProxy) -> Self {
        Self::with_end(proxy).await.0
    }

    /// Begins a request: its answer, and where its body goes.
    pub async fn begin(&self, request: Request<()>, ends: bool) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut send = within("room for a stream", self.send.clone().ready()).await.unwrap();
        send.send_request(request, ends).unwrap()
    }

    /// Sends a request without a body and reads the answer.
    pub async fn ask(&self, request: Request<()>) -> Result<Answer, h2::Error> {
        let (answer, _) = self.begin(request, true).await;
        whole(within("an answer", answer).await?).await
    }

    /// Sends a request with this body.
    pub async fn post(&self, request: Request<()>, body: impl Into<Bytes>) -> Result<Answer, h2::Error> {
        let (answer, mut stream) = self.begin(request, false).await;
        stream.send_data(body.into(), true)?;
        whole(within("an answer", answer).await?).await
    }
}

/// Reads an answer to its end.
pub async fn whole(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = within("an answer's body", stream.data()).await {
        let data = data?;
        stream.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let trailers = within("an answer's end", stream.trailers()).await?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}

/// The code of the reset that ended a stream.
pub fn reset(outcome: Result<impl std::fmt::Debug, h2::Error>) -> Reason {
    outcome.expect_err("the stream was reset").reason().expect("by a reset")
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Bytes,
}

impl Frame {
    /// The code of a reset or, with its last stream, of a farewell.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        (&self.payload[at..]).get_u32()
    }

    /// The status of a head, where the static table has it (RFC 7541, appendix A) or it stands in plain or
    /// Huffman-coded digits.
    pub fn status(&self) -> u16 {
        // Behind the new size of the table, where that is told first.
        let block = &self.payload[self.payload.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
        match block[0] {
            0x88 => 200,
            0x89 => 204,
            0x8a => 206,
            0x8b => 304,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            // `:status` by index, the value as a string of at most 127 bytes.
            0x08 | 0x18 | 0x48 if block[1] & 0x80 == 0 => std::str::from_utf8(&block[2..5]).unwrap().parse().unwrap(),
            0x08 | 0x18 | 0x48 => huffman_digits(&block[2..2 + usize::from(block[1] & 0x7f)]),
            other => panic!("a head that begins with {other:#x}"),
        }
    }
}

/// Three digits in HPACK's Huffman code: 0, 1 and 2 take five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |number, bit| number * 2 + bit);
    (0..3).fold(0, |number, _| {
        let five = take(5);
        number * 10 + if five < 3 { five } else { five * 2 + take(1) - 0x19 + 3 }
    })
}

/// A connection on which a test sends frames of its own making.
pub struct Raw {
    tls: TlsStream<TcpStream>,
    buffer: BytesMut,
}

impl Raw {
    /// A connection on which the client has said its preface and settings.
    pub async fn plain(proxy: &TlsProxy) -> Self {
        let mut raw = Self { tls: proxy.connect(&["h2"]).await, buffer: BytesMut::new() };
        raw.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        // SETTINGS_HEADER_TABLE_SIZE 0, so that each head can be read by itself.
        raw.frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]).await.unwrap();
        raw
    }

    /// A connection on which both sides have.
    pub async fn to(proxy: &TlsProxy) -> Self {
        let mut raw = Self::plain(proxy).await;
        raw.until(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0).await;
        raw.frame(SETTINGS, ACK, 0, b"").await.unwrap();
        raw
    }

    pub async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("the proxy takes frames", async {
            self.tls.write_all(bytes).await?;
            self.tls.flush().await
        })
        .await
    }

    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.bytes(&frame(kind, flags, stream, payload)).await
    }

    /// A whole head.
    pub async fn head(&mut self, stream: u32, ends: bool, fields: &[(&str, &str)]) {
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.frame(HEADERS, flags, stream, &block(fields)).await.unwrap();
    }

    /// The next frame; nothing at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame", async {
            loop {
                if self.buffer.len() >= 9 {
                    let length = usize::from(self.buffer[0]) << 16 | usize::from(self.buffer[1]) << 8 | usize::from(self.buffer[2]);
                    if self.buffer.len() >= 9 + length {
                        let mut head = self.buffer.split_to(9);
                        head.advance(3);
                        let (kind, flags) = (head.get_u8(), head.get_u8());
                        let stream = head.get_u32() & 0x7fff_ffff;
                        return Some(Frame { kind, flags, stream, payload: self.buffer.split_to(length).freeze() });
                    }
                }
                match self.tls.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
    }

    /// The next frame for which this holds.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        self.find(wanted).await.expect("the connection lives on")
    }

    /// The same; nothing if the connection ends without it.
    pub async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// How a stream ends: with this status, or reset with this code.
    pub async fn fate(&mut self, stream: u32) -> Result<u16, u32> {
        let of_it = |frame: &Frame| frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM);
        let frame = self.until(|frame| of_it(frame) || frame.kind == GOAWAY).await;
        assert_ne!(frame.kind, GOAWAY, "stream {stream} has ended the connection: {frame:?}");
        if frame.kind == HEADERS { Ok(frame.status()) } else { Err(frame.code()) }
    }
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.put_slice(payload);
    frame.to_vec()
}

/// Fields as literals that are not indexed and not compressed (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

fn string(block: &mut Vec<u8>, text: &str) {
    // An integer with a prefix of 7 bits (RFC 7541 §5.1).
    let mut length = text.len();
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(u8::try_from(length % 128 + 128).unwrap());
            length /= 128;
        }
        block.push(u8::try_from(length).unwrap());
    }
    block.extend_from_slice(text.as_bytes());
}
